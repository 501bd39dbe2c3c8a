"""How the work for an election ends: what is taken back, and what may be left."""

from __future__ import annotations

import enum
from collections.abc import Callable

from incumbent.errors import NotFound
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import Resource, resource_from
from incumbent.pods.election_labels import together
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.candidates import Candidates
from incumbent.reconciler.leader_label import LeaderLabel
from incumbent.reconciler.standing import Standing
from incumbent.reconciler.steward import Steward


class Ending(enum.Enum):
    """How a process stops serving an election."""

    RETIRE = "retire"
    """The resource is gone: labels, annotations and the record are taken back."""
    LEAVE = "leave"
    """This process ends, and another replica takes over."""
    RESIGN = "resign"
    """This process ends, and no replica goes on: the record is released."""


class Remainder(enum.Enum):
    """The rest of an election after an attempt to take it back."""

    NOTHING = "nothing"
    LABELS = "labels"
    RECORD = "record"
    """Only the record, which the server removes at its TTL."""


class Teardown:
    """Takes back what this site did for an election.

    Every method but `successor` raises a `ClusterError` if a strip was not confirmed or something
    could not be taken back; it may be called again.

    Args:
        adapters: of the election.
        standing: whether this replica answers for a label.
        candidates: the pods of the election.
        leader_label: of the election.
        steward: gives the record up.
        leader: returns the pod that carries the leader label by right.
    """

    def __init__(
        self,
        adapters: Adapters,
        standing: Standing,
        candidates: Candidates,
        leader_label: LeaderLabel,
        steward: Steward,
        *,
        leader: Callable[[], Pod | None],
    ) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels, self._routing = adapters.labels, adapters.routing
        self._standing = standing
        self._candidates = candidates
        self._leader_label = leader_label
        self._steward = steward
        self._leader = leader

    async def vacate(self) -> None:
        """Strip the pods that we labelled, because this election may not go on.

        Pods that another election labelled with the same label key keep their label.
        """
        await self._labels.stop_marking()
        answers, held = self._standing.answers, self._standing.last_held
        ours = []
        if answers and held is not None:
            before = self._standing.held_before
            earlier = [pod for pod in self._labels.suspects if pod.uid in before]
            ours = [self._candidates.pod_of(held), *earlier]
        strip = self._labels.strip_all([*ours, *self._labels.doubtful])
        if answers or self._routing.doubtful:
            await together(strip, self._routing.empty())
        else:
            await strip
        self._leader_label.note_withdrawn()

    async def abstain(self) -> None:
        """Take the label from every pod, and see to it that the Service reaches none.

        This is for an election that is not served. Nobody asks the bucket, so a label of a replica
        with other rules goes as well.
        """
        await self._labels.stop_marking()
        if self._standing.answers or await self._leader_label.may_be_shown():
            await self._leader_label.withdraw()
        if self._routing.routed and not self._adapters.resource.service:
            await self._routing.take_back()

    async def successor(self) -> Resource | None:
        """Return the election that has our name now, if it is another one.

        Raises:
            ClusterError: it could not be read.
        """
        resource = self._adapters.resource
        try:
            body = await self._adapters.cluster.get_election(
                resource.key.namespace, resource.key.name
            )
        except NotFound:  # not even the kind is there
            return None
        if body is None or body["metadata"]["uid"] == resource.uid:
            return None
        return resource_from(body, default_bucket=resource.bucket)

    async def make_way(self, successor: Resource) -> None:
        """Of an election that is gone, take back what its successor of the same name does not use.

        The labels of both are the same, mostly, and their records: only what we did is undone.
        """
        resource = self._adapters.resource
        await self._labels.stop_marking()
        # 1. The pods that we labelled, and our record.
        if self._driver.lease is not None:
            await self._steward.give_up()
        else:
            await self.vacate()
        # 2. Labels of another key.
        if successor.label_key != resource.label_key:
            await self._labels.strip_all(self._labels.suspects)
            await self._labels.mark_all(None)
        # 3. The slices of another Service.
        if successor.service != resource.service:
            await self._routing.take_back()

    async def take_back(self) -> Remainder:
        """Of a deleted election, take back everything; return what is left for another try."""
        await self._labels.stop_marking()
        # 1. The record is ours: otherwise its steward could still label.
        if self._standing.rests:
            await self._driver.renew()
        # 2. No pod carries the leader label, and then nobody holds the record.
        if self._driver.lease is not None:
            await self._steward.give_up()
        else:
            await self._labels.strip_all(self._labels.suspects)
        # 3. No pod is marked as a candidate, and the slices are gone.
        await self._labels.mark_all(self._leader())
        await self._routing.take_back()
        # 4. Read the pods that are left, because our watch may lag.
        return await self._remainder()

    async def _remainder(self) -> Remainder:
        """Return what there still is of a deleted election."""
        resource = self._adapters.resource
        if await self._adapters.cluster.list_pods(resource.key.namespace, resource.label_key):
            return Remainder.LABELS
        if any(resource.token_key in pod.annotations for pod in self._labels.known):
            return Remainder.LABELS
        record, campaign = self._driver.record, self._driver.campaign
        ours = campaign is not None and record is not None and campaign.ours(record)
        return Remainder.RECORD if ours else Remainder.NOTHING
