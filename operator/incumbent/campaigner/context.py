"""The objects that all parts of one election's campaigner use."""

from __future__ import annotations

from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from incumbent.campaign.driver import Driver
from incumbent.campaign.ports import WatchedBucket
from incumbent.campaigner.schedule import Schedule
from incumbent.kubernetes.resource import Resource
from incumbent.pods.cache import ElectionPods
from incumbent.reconciler.reconciler import Reconciler
from incumbent.replicas.site import Replica
from incumbent.status.writer import StatusWriter


@dataclass(frozen=True, slots=True)
class ElectionContext:
    """The objects that every part of one election's service may use.

    Each part is a class with its own state, and gets the other parts that it asks beside this.
    """

    site: str
    """The name of the site."""
    replica: Replica
    """This process."""
    bucket: WatchedBucket
    driver: Driver
    """Of the election's campaign."""
    reconciler: Reconciler
    status_writer: StatusWriter
    pods: ElectionPods
    schedule: Schedule
    """Of the passes."""
    log: FilteringBoundLogger

    @property
    def resource(self) -> Resource:
        """The election as last seen."""
        return self.reconciler.resource
