"""While this replica cannot see the key: ask the replicas that can, and strip without an answer.

`replicas.confirmation` says when; this does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from incumbent import clock
from incumbent.campaign.machine import NEVER
from incumbent.campaign.timing import Timing
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.turns import urgent
from incumbent.pods.eligibility import labelled
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.leader_label import LeaderLabel
from incumbent.reconciler.standing import Standing
from incumbent.replicas.confirmation import Act, Confirmation, Inquiry, Later

log = structlog.get_logger(__name__)


class UnseenKey:
    """Answers for the label of a record that this replica cannot see.

    Args:
        adapters: of the election.
        standing: whether this replica answers for a label itself.
        leader_label: of the election.
        confirmation: what is known about renewals.
        inquiry: where replicas ask each other.
        timing: returns the durations, perhaps by what an earlier process knew; None: not known.
    """

    def __init__(
        self,
        adapters: Adapters,
        standing: Standing,
        leader_label: LeaderLabel,
        confirmation: Confirmation,
        inquiry: Inquiry,
        timing: Callable[[], Timing | None],
    ) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels, self._routing = adapters.labels, adapters.routing
        self._standing = standing
        self._leader_label = leader_label
        self._confirmation = confirmation
        self._inquiry = inquiry
        self._timing = timing

    async def keep_or_strip(self, *, withdrawn: bool) -> None:
        """Leave the label alone before the key was seen, because perhaps it is right.

        If this replica led, or if nobody may lead, it strips instead.

        Raises:
            ClusterError: a strip was not confirmed.
        """
        if withdrawn or (not self._adapters.resource.holds and self._because_of_us):
            await self._leader_label.withdraw()

    async def seek_confirmation(self, *, withdrawn: bool) -> None:
        """Ask who sees the key, and strip if nobody answers.

        The question is not about a label that this replica wrote as the steward. The replica strips
        that label at its own deadline.

        Raises:
            ClusterError: the question was perhaps not written, or a strip was not confirmed.
        """
        standing = self._standing
        answers = self._driver.lease is not None or (standing.answers and not standing.relieved)
        if withdrawn or answers or self._adapters.resource.holds:
            return
        if self._adapters.pods.all is not None and not await self._leader_label.may_be_shown():
            return
        renewed_at = self._renewed_at
        match self._next_act(renewed_at):
            case Later(at):
                self._adapters.look_again_at(at)
            case Act.ASK:
                await self._ask_others(renewed_at)
                self._adapters.wake(0)
            case Act.STRIP:
                await self._strip()

    @property
    def _renewed_at(self) -> float | None:
        """When the record was renewed, if it was one of this site when the key was last seen."""
        campaign, record = self._driver.campaign, self._driver.record
        if campaign is None or record is None:
            return None
        ours = self._adapters.resource.observed or campaign.ours(record)
        return campaign.latest_at if ours else None

    @property
    def _because_of_us(self) -> bool:
        """Whether a pod may carry the label, or be reached, because of us."""
        return bool(self._standing.answers or self._labels.doubtful or self._routing.doubtful)

    async def _strip(self) -> None:
        """Strip every pod, because no other replica has shown that its record is renewed."""
        with urgent(Rank.STRIP):
            carriers = [*await self._labels.carriers(), *self._labels.suspects]
            await self._leader_label.strip(carriers)
        self._confirmation.strip(clock.now())
        key = self._adapters.resource.key
        log.warning(
            "leader.unconfirmed",
            namespace=key.namespace,
            election=key.name,
            stripped=sorted({pod.name for pod in labelled(carriers, self._adapters.resource)}),
        )

    def _next_act(self, renewed_at: float | None) -> Act | Later:
        return self._confirmation.act(
            clock.now(),
            self._timing(),
            question=self._inquiry.question(),
            renewed_at=renewed_at,
            steward=self._inquiry.steward(),
        )

    async def _ask_others(self, renewed_at: float | None) -> None:
        """Write the question when it has its turn, if it is still needed then.

        A slow API server must not delay the strip of a label whose steward is known to be silent.
        """
        confirmation, known = self._confirmation, self._confirmation.renewal(renewed_at)
        steward, timing, asked = self._inquiry.steward(), self._timing(), False
        turn_by = confirmation.turn_by(clock.now(), known, timing, steward)
        try:
            async with asyncio.timeout(_left(turn_by)) as limit, confirmation.stewards.asking():
                if self._next_act(renewed_at) is not Act.ASK:
                    return
                known, steward = confirmation.renewal(renewed_at), self._inquiry.steward()
                left = _left(confirmation.strips_unasked_at(known, timing, steward))
                now = asyncio.get_running_loop().time()
                limit.reschedule(None if left is None else now + left)
                sent_at = clock.now()
                kept = await self._inquiry.ask(known)
            confirmation.ask(sent_at, clock.now(), kept=kept, steward=steward, known=known)
            asked = True
        except TimeoutError:
            pass  # the next pass strips, or sees that an answer has come
        finally:
            if not asked:
                confirmation.give_up_asking()


def _left(until: float) -> float | None:
    """Return the seconds until a time, as `asyncio.timeout` takes them."""
    return None if until == NEVER else max(0.0, until - clock.now())
