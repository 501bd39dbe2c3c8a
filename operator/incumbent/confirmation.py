"""Is the record behind a leader label still renewed? For a replica that cannot see the key.

Such a replica asks the others in the status of the election: `status.unconfirmed` says when the
record was last known to be renewed. A replica that sees the key renews the record, then removes the
question. Without an answer, the replica that asked strips the label before the record can have
expired. The question stays in the status, so the replicas that start later do not begin to count
from their own start.

A replica that starts does not know when the record was renewed. It presumes the latest time at
which a steward that was killed had certainly renewed it: an interval before the end of that
process, which may be a third of the TTL ago. A restart that takes longer counts as an absence of
the operator.

Pure: no I/O, no clock. All times are on one monotonic clock, in seconds.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from incumbent.timing import Timing

LONGEST_RESTART = 1 / 3
"""Part of a TTL that may lie between the end of a process and the start of the next one."""
ASK_AFTER = 1.0
"""Seconds that a replica which has just started has to reach NATS, at most, before it asks."""
ANSWER_WITHIN = 1.0
"""Seconds that other replicas have for an answer, at least."""
SECOND_CHANCE = 0.5
"""Seconds that they have if the question was there before this replica, and its time is over."""


class Act(enum.Enum):
    """What a replica has to do that cannot see the key."""

    ASK = "ask"
    STRIP = "strip"


@dataclass(frozen=True, slots=True)
class Later:
    """There is nothing to do before this time."""

    at: float


class Inquiry(Protocol):
    """Where replicas ask each other: the status of the election."""

    def question(self) -> float | None:
        """Return when the record was last known to be renewed, by the question in the status.

        None if there is no question.
        """
        ...

    def ask(self, renewed_at: float) -> Awaitable[bool]:
        """Write the question; return false if the API server does not keep it.

        Raises:
            ClusterError: it was perhaps not written.
        """
        ...


class Confirmation:
    """What one replica knows about the renewals of a record that it cannot see.

    Args:
        now: the time of the start.
    """

    def __init__(self, now: float) -> None:
        self.answered = False
        """Whether another replica has answered since this one last saw the key."""
        self.stripped = False
        """Whether this replica stripped the label because no answer came."""
        self._began_at = now
        self._seen_at: float | None = None
        """When this process last saw the key; None if it never did."""
        self._presumed: float | None = None
        """A renewal that is presumed, because this process never saw the key."""
        self._proved_at = -math.inf
        """Another replica has proved a renewal that is not older than this."""
        self._asked_at: float | None = None
        """When the question was written, or first seen; None if there is none."""
        self._answer_proves = now
        """What an answer to that question proves: a renewal that is not older than this."""
        self._patience = ANSWER_WITHIN
        self._heard = True
        """Whether the API server keeps the question, so that others can answer it."""

    def see(self, now: float) -> None:
        """Note that this replica sees the key, so that it asks nobody."""
        self._seen_at, self._proved_at, self._asked_at = now, -math.inf, None
        self.answered = self.stripped = False
        self._heard = True

    def act(
        self, now: float, timing: Timing | None, *, question: float | None, renewed_at: float | None
    ) -> Act | Later:
        """Return what to do while a pod may have the leader label.

        Args:
            now: the time.
            timing: the durations; None if the TTL is not known, and then it counts as over.
            question: what `Inquiry.question` returns.
            renewed_at: when the record was renewed, if it was one of this site when this process
                last saw the key.
        """
        self.stripped = False
        if self._seen_at is None and self._presumed is None:
            self._presume(now, timing, question)
        self._listen(now, question)
        known = self.renewal(renewed_at)
        if self._asked_at is None:
            ask_at = known + (timing.relay_after if timing else 0.0)
            if self._seen_at is None:
                ask_at = max(ask_at, self._began_at + _ask_after(timing))
            return Act.ASK if now >= ask_at else Later(ask_at)
        strip_at = max(known + (timing.lease if timing else 0.0), self._asked_at + self._patience)
        return Act.STRIP if now >= strip_at else Later(strip_at)

    def renewal(self, renewed_at: float | None) -> float:
        """Return when the record was last known to be renewed; the argument is that of `act`."""
        if renewed_at is None:
            renewed_at = self._seen_at if self._seen_at is not None else self._presumed
        return max(-math.inf if renewed_at is None else renewed_at, self._proved_at)

    def ask(self, sent_at: float, now: float, *, kept: bool) -> None:
        """Note that the question was written, and whether the API server keeps it."""
        self._asked_at, self._answer_proves = now, sent_at
        self._patience, self._heard = ANSWER_WITHIN, kept

    def strip(self, now: float) -> None:
        """Note that the label was stripped because no answer came."""
        self.stripped, self.answered = True, False
        self._asked_at = None
        self.prove(now)

    def prove(self, now: float) -> None:
        """Note that no pod has the label.

        A replica that sets it later renews the record before it does, see `labels`.
        """
        self._proved_at = now

    def _presume(self, now: float, timing: Timing | None, question: float | None) -> None:
        """Begin with the worst case of what went before this process."""
        unseen = timing.interval + LONGEST_RESTART * timing.ttl if timing else 0.0
        self._presumed = self._began_at - unseen
        if question is None:
            return
        self._presumed = min(self._presumed, question)
        self._asked_at, self._answer_proves = now, self._presumed
        if timing is None or now >= self._presumed + timing.lease:
            self._patience = SECOND_CHANCE

    def _listen(self, now: float, question: float | None) -> None:
        """Note another replica's question, or the answer to one."""
        if question is not None and self._asked_at is None:
            self._asked_at, self._patience = now, ANSWER_WITHIN
            self._answer_proves = min(question, now)
        elif question is None and self._asked_at is not None and self._heard:
            self._asked_at, self.answered = None, True
            self._proved_at = max(self._proved_at, self._answer_proves)


def _ask_after(timing: Timing | None) -> float:
    return min(ASK_AFTER, timing.ttl / 10) if timing else ASK_AFTER
