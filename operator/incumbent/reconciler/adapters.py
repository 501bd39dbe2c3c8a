"""The parts of one election that all roles use: the record, the pods, their labels, the slices."""

from __future__ import annotations

from collections.abc import Callable

from incumbent import clock
from incumbent.campaign.driver import Driver
from incumbent.campaign.ports import Observer
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource
from incumbent.kubernetes.turns import Turns
from incumbent.pods.cache import ElectionPods
from incumbent.pods.election_labels import ElectionLabels
from incumbent.routing.writer import SliceWriter


class Adapters:
    """What reads and writes for one election, and asks for its next pass.

    Args:
        site: the name of the site, for identities.
        driver: reads and writes the record of the election.
        cluster: the API server with the pods.
        pods: the pods that the election concerns, as last seen.
        observer: hears how long each step took.
        turns: limit how many changes of leader go on at the same time.
        wake: asks for another pass after so many seconds.
    """

    def __init__(
        self,
        *,
        site: str,
        driver: Driver,
        cluster: Cluster,
        pods: ElectionPods,
        observer: Observer,
        turns: Turns,
        wake: Callable[[float], None],
    ) -> None:
        self.site = site
        self.driver = driver
        self.cluster = cluster
        self.pods = pods
        self.observer = observer
        self.turns = turns
        self.wake = wake
        self.labels = ElectionLabels(cluster, pods.resource, pods, observer, wake)
        self.routing = SliceWriter(cluster, pods.resource, wake, observer)

    @property
    def resource(self) -> Resource:
        """The election as last seen."""
        return self.labels.resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        self.labels.resource = self.pods.resource = self.routing.resource = resource

    def reached(self, when: float) -> bool:
        """Whether this time has come; if not, another pass follows when it comes."""
        left = when - clock.now()
        if left > 0:
            self.wake(left)
        return left <= 0

    def look_again_at(self, when: float) -> None:
        """Have another pass at this time; at once if it came while this pass was deciding."""
        self.wake(max(0.0, when - clock.now()))

    def deadline(self) -> float:
        """Return when our lease ends; now if we have none."""
        lease = self.driver.lease
        return lease.deadline if lease is not None else clock.now()
