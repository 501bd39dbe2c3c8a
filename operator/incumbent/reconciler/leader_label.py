"""The leader label and the traffic of the pod that our record names: given, and taken away.

This remembers what was sent in the present term, because a pod that may still get a label from a
request on its way must not be passed over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import structlog

from incumbent import clock
from incumbent.campaign.machine import NEVER
from incumbent.campaign.records import Cause, Marker, Record
from incumbent.errors import AdmissionUnavailable, Refused
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.turns import urgent
from incumbent.pods.election_labels import STRIP_WITHIN, together
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.candidates import Candidates
from incumbent.reconciler.standing import Standing
from incumbent.replicas.confirmation import Confirmation

log = structlog.get_logger(__name__)


class LeaderLabel:
    """Labels and routes to the holder of our record, and strips pods.

    Args:
        adapters: of the election.
        standing: whether this replica answers for a label.
        candidates: the pods of the election.
        confirmation: is told when no pod has the label.
        may_label: says whether our record counts for anybody.
    """

    def __init__(
        self,
        adapters: Adapters,
        standing: Standing,
        candidates: Candidates,
        confirmation: Confirmation,
        *,
        may_label: Callable[[], bool],
    ) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels, self._routing = adapters.labels, adapters.routing
        self._standing = standing
        self._candidates = candidates
        self._confirmation = confirmation
        self._may_label = may_label
        self.term = 0
        """The term whose pod was labelled by us, or seen to be; 0: none."""
        self.unswept = False
        """Whether other pods may carry the label, because a label did not go well."""
        self._begun = (0, 0)
        """The tenure and the term that we began last, if no label of it may have been written."""
        self._unshown_since = NEVER
        """Since when the API server does not let us label the pod of that term."""
        self._written = (0, "")
        """The tenure in which we labelled a pod last, and the resourceVersion of that write."""
        self._restores = adapters.pods.restores

    # What was sent in this term

    def heed_restores(self) -> None:
        """Forget slices and versions if the API server was restored: it has others now."""
        if self._restores != self._adapters.pods.restores:
            self._restores, self._written = self._adapters.pods.restores, (0, "")
            self._routing.forget()

    def note_term(self, term: int) -> None:
        """Note that the pod of a term was seen with its label."""
        self.term = term

    def note_beginning(self, *, clean: bool = True) -> None:
        """Note that the present term is one that we began.

        Args:
            clean: whether its pod had no label of an earlier term, nor one on its way.
        """
        lease, self._unshown_since = self._driver.lease, NEVER
        term = lease.record.term if lease is not None else 0
        self._begun = (self._driver.tenure, term) if clean else (0, 0)

    def note_swept(self) -> None:
        """Note that no other pod carries the label."""
        self.unswept = False

    def note_withdrawn(self) -> None:
        """Note that no pod has the label because of us any more."""
        self.term = 0
        self._standing.note_withdrawn()

    @property
    def version(self) -> str:
        """The resourceVersion of our latest label in this tenure; empty if there is none."""
        tenure, version = self._written
        return version if tenure == self._driver.tenure else ""

    def unlabelled(self, record: Record) -> bool:
        """Whether the pod of our record certainly has no leader label, nor one on its way.

        That is so if we began its term, and no label that we sent in it may have been written.
        """
        return (
            self._begun == (self._driver.tenure, record.term)
            and record.term != self.term
            and not self._labels.suspects
            and not self._routing.may_reach
        )

    def fails(self, record: Record, interval: float) -> bool:
        """Note that the pod of our record could not be labelled.

        Returns:
            Whether that has been so for an interval, and the pod certainly has no label. False in
            a term that we did not begin.
        """
        if self._begun != (self._driver.tenure, record.term):
            return False
        if not self.unlabelled(record):
            # For the rest of the term: a label in doubt may be forgotten, and still be there.
            self._begun = (0, 0)
            return False
        self._unshown_since = min(self._unshown_since, clock.now())
        return self._adapters.reached(self._unshown_since + interval)

    def refused_for(self, record: Record, interval: float) -> bool:
        """Whether the pod of our record refused its label for an interval, and has none."""
        if self._unshown_since == NEVER:
            return False
        refused = self._labels.refuses(record.pod_uid) and self.unlabelled(record)
        return refused and self._adapters.reached(self._unshown_since + interval)

    def forgive(self) -> None:
        """Count the interval of `fails` and `refused_for` from the next failure."""
        self._unshown_since = NEVER

    # Giving

    async def give(self, pod: Pod, *, stored: bool = False, clear: bool = False) -> bool:
        """Label the holder of our record; return whether that is done.

        Args:
            pod: the holder, as last seen.
            stored: whether a write was stored after `pod` was read.
            clear: whether it is known that no other pod carries the label.

        Raises:
            ClusterError: the label was not written, or perhaps it was.
        """
        lease, started = self._driver.lease, clock.now()
        if lease is None or not self._driver.leads:
            return False
        term, self.unswept = lease.record.term, True  # until we know that all went well
        first = not clear and term != self.term
        warrant = self._warrant(pod, term, stored=stored)
        tenure, before = self._driver.tenure, self._labels.written
        try:
            done = await self._labels.add(
                pod, warrant=warrant, until=self._adapters.deadline, first=first
            )
        finally:
            if self._labels.doubtful:
                self._begun = (0, 0)
        if done is None:
            return False
        if self._labels.written != before and self._driver.tenure == tenure:
            self._written = tenure, self._labels.written
        self.term, self.unswept = term, False
        self._adapters.observer.label_write(clock.now() - started)
        log.info("leader.labelled", namespace=done.namespace, pod=done.name, token=term)
        return True

    async def route(self, pod: Pod, *, stored: bool = False) -> bool:
        """Let the Service lead to the holder of our record; return whether that is done.

        Args:
            pod: the holder, as last seen.
            stored: whether a write was stored after the slices were read.
        """
        lease = self._driver.lease
        if lease is None or not self._driver.leads:
            return False
        return await self._routing.point(
            pod,
            token=lease.record.term,
            warrant=self._warrant(pod, lease.record.term, stored=stored),
            until=self._adapters.deadline,
        )

    def _warrant(self, pod: Pod, term: int, *, stored: bool) -> Callable[[], Awaitable[int | None]]:
        """Return what stores a write and then says whether a pod leads in a term, with its token.

        If a write is `stored` already, that one counts the first time.
        """
        fresh = stored

        async def warrant() -> int | None:
            nonlocal fresh
            if not (fresh or await self._driver.renew()):
                return None
            fresh = False
            campaign = self._driver.campaign
            if campaign is None or campaign.lease is None or campaign.unanswered:
                return None
            if campaign.lease.record.pod_uid != pod.uid or not self._driver.leads:
                return None
            return term if campaign.lease.record.term == term and self._may_label() else None

        return warrant

    # Taking away

    async def may_be_shown(self) -> bool:
        """Whether a pod may carry the label, or be reached by the Service."""
        return bool(self._labels.suspects) or await self._routing.may_reach_somebody()

    async def strip_former(self, old: Pod, *, until: float | None = None) -> bool:
        """Strip the pod of the last record, unless it refuses and certainly has no label.

        Returns whether it was stripped.

        Raises:
            Refused: it may have the label, so nobody else may get one.
        """
        lease, latest = self._driver.lease, self._driver.latest
        released = isinstance(latest, Marker) and latest.cause is Cause.RELEASED
        unlabelled = released or (lease is not None and self.unlabelled(lease.record))
        unlabelled = unlabelled and not self._labels.suspects
        until = clock.now() + STRIP_WITHIN if until is None else until
        try:
            await self._labels.strip_one(old, until=until, patient=not unlabelled)
        except (AdmissionUnavailable, Refused) as error:
            if not unlabelled or self._labels.suspects:
                raise
            log.warning("strip.left_out", pod=old.name, problem=str(error))
            return False
        return True

    async def withdraw(self) -> None:
        """Strip all pods that have the label as last seen, or may have it because we led."""
        carriers, held = self._labels.suspects, self._standing.last_held
        if self._standing.answers and held is not None:
            carriers.append(self._candidates.pod_of(held))  # our view of the pods may lag
        await self.strip(carriers)
        self.note_withdrawn()
        self._confirmation.prove(clock.now())

    async def strip(self, pods: Iterable[Pod]) -> None:
        """Strip pods and empty the slices at once, because there may be no time left."""
        with urgent(Rank.STRIP):
            # The write of the slices is sent first.
            await together(self._reach_nobody(), self._labels.strip_all(pods))
        self.term = 0

    async def _reach_nobody(self) -> None:
        """Empty the slices, if we answer for them or they lead to somebody."""
        if self._standing.answers or await self._routing.may_reach_somebody():
            await self._routing.empty()
