"""A standby: another replica of this site is the steward, or it is not known yet whether it is one.

The steward labels and strips. A standby sees to it that this is done: if the steward leaves work
undone, the standby takes the record, and does it as the next steward.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from incumbent import clock
from incumbent.campaign.machine import NEVER, Campaign
from incumbent.campaign.records import Record
from incumbent.kubernetes.objects import Pod
from incumbent.pods.eligibility import labelled, shows, why_not
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.candidates import Candidates
from incumbent.reconciler.leader_label import LeaderLabel
from incumbent.reconciler.standing import Standing

log = structlog.get_logger(__name__)

UNDONE_AFTER = 1.0
"""Seconds for which a standby sees work undone before it takes the record: the steward may be
blind towards its API server."""
LONGEST_PATIENCE = 30.0
"""The same, at most, after it took the record and could not do the work either."""


class Standby:
    """Watches a steward.

    Args:
        adapters: of the election.
        standing: whether this replica answers for a label.
        candidates: the pods of the election.
        leader_label: of the election.
    """

    def __init__(
        self,
        adapters: Adapters,
        standing: Standing,
        candidates: Candidates,
        leader_label: LeaderLabel,
    ) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels, self._routing = adapters.labels, adapters.routing
        self._standing = standing
        self._candidates = candidates
        self._leader_label = leader_label
        self._undone_since = NEVER
        """Since when the steward leaves work undone."""
        self._patience = UNDONE_AFTER
        """Seconds to give it for that."""
        self._doubted = NEVER
        """Deadline of the lease we may have held and have already stripped pods for."""

    def note_own_work(self) -> None:
        """Note that the work is ours now."""
        self._undone_since = NEVER

    def note_success(self) -> None:
        """Note that we could do the work ourselves."""
        self._patience = UNDONE_AFTER

    async def watch(self, *, withdrawn: bool) -> bool:
        """See whether the steward does its work, and take the record if it does not.

        Returns:
            Whether there is nothing left to try again soon.

        Raises:
            ClusterError: it is not known, or a strip was not confirmed.
        """
        record, now = self._driver.record, clock.now()
        if record is None:
            return False
        # 1. The steward writes the slices.
        self._routing.forget()
        # 2. A lease of ours that may have been stored ends.
        await self._end_doubt()
        # 3. Work that was just left undone is the steward's.
        carriers = labelled(self._labels.known, self._adapters.resource)
        if not (withdrawn or self._undone(record, self._candidates.holder(record), carriers)):
            self._undone_since, self._patience = NEVER, UNDONE_AFTER
            return True
        self._undone_since = min(self._undone_since, now)
        if not self._adapters.reached(self._undone_since + self._patience):
            return True
        self._undone_since = now
        self._adapters.wake(self._patience)
        # 4. Read the pods again, because our watch may lag.
        pod, carriers = await self._candidates.find(record), await self._labels.carriers()
        if pod is not None and not withdrawn and await self._labels.refuses_now(pod):
            return True  # the steward is not blind, and it knows what it wrote
        # 5. Take the record.
        if withdrawn or self._undone(record, pod, carriers):
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
            log.info("work.undone", steward=record.replica)
            self._driver.urge()
        return True

    async def bide(self, campaign: Campaign, *, withdrawn: bool) -> bool:
        """Leave the labels alone while it is not known whether the steward is of this site.

        Not beyond the time of its record, nor beyond that of a lease that we lost to it.

        Returns:
            Whether there is nothing left to try again soon.

        Raises:
            ClusterError: a strip was not confirmed.
        """
        self._routing.forget()  # another replica may write the slices
        standing = self._standing
        until = campaign.latest_at + campaign.timing.lease
        if standing.answers:
            until = min(until, campaign.ended_at)
        late = self._adapters.reached(until) and not self._adapters.resource.holds
        if not ((withdrawn or late) and (standing.answers or self._labels.suspects)):
            return True
        if not withdrawn and standing.answers and await standing.relieved_by_status():
            # The steward answers for the label. The next pass knows it, or asks once more.
            standing.note_withdrawn()
            return True
        await self._leader_label.withdraw()
        return True

    async def _end_doubt(self) -> None:
        """Strip when the lease would end that a relay without an answer may have brought.

        The steward before may be dead, and then nobody else answers for the label.
        """
        campaign = self._driver.campaign
        until = campaign.doubtful_until if campaign is not None else NEVER
        if until in {NEVER, self._doubted} or not self._adapters.reached(until):
            return
        self._doubted = until
        if not (self._adapters.resource.holds or await self._standing.relieved_by_status()):
            await self._leader_label.withdraw()

    def _undone(self, record: Record, pod: Pod | None, carriers: Iterable[Pod]) -> bool:
        """Whether there is something that the steward of a record should do or have done."""
        resource = self._adapters.resource
        if pod is None or not self._candidates.may_stay(pod):
            return True
        if why_not(pod, resource.selector):
            return False
        if record.promoted and not shows(pod, resource, record.term):
            return True
        return any(carrier.uid != pod.uid for carrier in carriers)
