"""How a replica that cannot see the key learns whether the record is still renewed.

Such a replica asks the others in the status of the election. `status.unconfirmed` says when the
record was last known to be renewed. A replica that sees the key renews the record, then removes the
question. Without an answer, the replica that asked strips the label before the record can have
expired. The question stays in the status, so the replicas that start later do not begin to count
from their own start.

A replica that starts does not know when the record was renewed. It presumes that a steward was
killed up to a third of the TTL ago, and that this steward had renewed the record an interval before
its end. A restart that takes longer counts as an absence of the operator.

One question at a time is enough for all elections of one steward process and bucket (`Stewards`).
The answer proves more than one renewal: the process lived, saw the bucket and reached the API
server after the question was sent. A steward answers only when it has renewed its other records,
too, each within its interval before it saw the question. So each of them was renewed at most an
interval before the question was sent. If the steward cannot renew one of them, the status of that
election stops naming the process before the steward answers. An election asks for itself if its
status does not name a process, or if the shared question stays open for too long.

Pure: no I/O, no clock. All times are on one monotonic clock, in seconds.
"""

from __future__ import annotations

import contextlib
import enum
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from incumbent.campaign.timing import Timing

LONGEST_RESTART = 1 / 3
"""Part of a TTL that may lie between the end of a process and the start of the next one."""
ASK_AFTER = 1.0
"""Longest time in seconds that a replica which has just started tries to reach NATS, before it
asks."""
ANSWER_WITHIN = 1.0
"""Shortest time in seconds that other replicas have for an answer."""
SECOND_CHANCE = 0.5
"""Seconds that the others have for an answer if a replica that starts finds a question whose time
is over."""
LATE_AFTER = 1.0
"""Seconds that a steward has after a question to renew all records that were due before it."""
LOOK_AGAIN = 0.1
"""Seconds between two checks of a steward whether it has renewed all its records."""


class Act(enum.Enum):
    """What a replica that cannot see the key has to do now."""

    ASK = "ask"
    STRIP = "strip"


@dataclass(frozen=True, slots=True)
class Later:
    """There is nothing to do before this time."""

    at: float


class Inquiry(Protocol):
    """Access to the status of the election, in which replicas ask each other."""

    def question(self) -> float | None:
        """Return when the record was last known to be renewed, by the question in the status.

        None if there is no question.
        """
        ...

    def steward(self) -> Steward | None:
        """Return the steward that the status names; None if it cannot answer for this election.

        The steward cannot answer if the status names none, if it is of an earlier version that does
        not name its process, or if the status says that the bucket or the election is not ready.
        """
        ...

    def ask(self, renewed_at: float) -> Awaitable[bool]:
        """Write the question; return false if the API server does not keep it.

        Raises:
            ClusterError: the question was perhaps not written.
        """
        ...


@dataclass(frozen=True, slots=True)
class Steward:
    """A process that renews records in one bucket."""

    process: str
    """The name of the replica and the number that was drawn when the process started."""
    bucket: str
    created: str
    """When the bucket was created; a new bucket of the same name is another bucket."""


class Stewards:
    """What this process knows about the stewards of all its elections.

    Args:
        asking: returns a context that is entered when it is the turn of a question, and left after
            its write. None: all questions may be written at once.
    """

    def __init__(
        self, asking: Callable[[], contextlib.AbstractAsyncContextManager[Any]] | None = None
    ) -> None:
        self.asking = contextlib.nullcontext if asking is None else asking
        self._proved_at: dict[Steward, float] = {}
        """When the latest question that each steward has answered was sent."""
        self._asked_by: dict[Steward, Confirmation] = {}
        """The election that asks the steward now, for all elections of this process."""
        self._unanswered: dict[Steward, tuple[float, tuple[float, float]]] = {}
        """When the first question since the last answer was sent, with the argument `within` of
        `wait`."""
        self._served: set[tuple[Callable[[Steward], float], Callable[[], None]]] = set()
        self._looks: dict[Steward, tuple[float, float]] = {}

    def prove(self, steward: Steward, at: float) -> None:
        """Note that a steward has answered a question that was sent at this time."""
        self._proved_at[steward] = max(at, self.proved_at(steward))
        self._unanswered.pop(steward, None)

    def proved_at(self, steward: Steward) -> float:
        """Return a time after which the steward lived and saw the bucket; -inf: not known."""
        return self._proved_at.get(steward, -math.inf)

    def claim(self, steward: Steward, asker: Confirmation, *, alone: bool) -> bool:
        """Let an election ask the steward; return false if another election already asks it.

        With `alone` the election asks even if another election asks.
        """
        if not alone and self._asked_by.get(steward, asker) is not asker:
            return False
        self._asked_by[steward] = asker
        return True

    def wait(
        self, steward: Steward, sent_at: float, *, within: tuple[float, float], known: float
    ) -> None:
        """Note that a question was written.

        Args:
            steward: the steward that is to answer.
            sent_at: when the question was sent.
            within: the earliest and the latest time until which to wait for the answer.
            known: when the record was last known to be renewed. A question from before that time
                is forgotten, because it belongs to an earlier absence of NATS.
        """
        before = self._unanswered.get(steward)
        if before is None or before[0] <= known:
            self._unanswered[steward] = sent_at, within

    def overdue_at(self, steward: Steward, known: float, *, end: float = math.inf) -> float:
        """Return when a question that was sent after `known` is overdue; inf if there is none.

        `end`: when to stop waiting. The steward still has the least time for its answer, though.
        """
        sent_at, (least, best) = self._unanswered.get(steward, (-math.inf, (math.inf, math.inf)))
        return min(best, max(least, end)) if sent_at > known else math.inf

    def free(self, asker: Confirmation) -> None:
        """Note that an election does not ask any more, so another election may ask."""
        for steward in [one for one, by in self._asked_by.items() if by is asker]:
            del self._asked_by[steward]

    def serve(
        self, due: Callable[[Steward], float], late: Callable[[], None]
    ) -> Callable[[], None]:
        """Add an election of this process; returns a function that removes it.

        Args:
            due: returns when the record must be renewed next; inf if the status of the election
                does not say that the given steward renews it.
            late: is called if the record is not renewed in time. Then the status must stop naming
                the process, so that its answers in other elections do not count for this one.
        """
        election = due, late
        self._served.add(election)
        return lambda: self._served.discard(election)

    def vouch(self, me: Steward, since: float, now: float) -> bool:
        """Whether this process may answer a question that it first saw at `since`.

        To the other replicas the answer counts for all elections whose status names this process.
        Therefore all their records must have been renewed within an interval before `since`.
        """
        looked_at, due = self._looks.get(me, (-math.inf, -math.inf))
        if due >= since or now < looked_at + LOOK_AGAIN:
            return due >= since
        dues = [(due(me), late) for due, late in self._served]
        due = min((due for due, _ in dues), default=math.inf)
        self._looks[me] = now, due
        if now >= since + LATE_AFTER:
            for its_due, late in dues:
                if its_due < since:
                    late()
        return due >= since


class Confirmation:
    """What one replica knows about the renewals of a record that it cannot see.

    Args:
        now: the time of the start.
        stewards: what this process knows about the stewards of all its elections; None: nothing.
    """

    def __init__(self, now: float, stewards: Stewards | None = None) -> None:
        self.stewards = Stewards() if stewards is None else stewards
        self.answered = False
        """Whether another replica has answered since this one last saw the key."""
        self.stripped = False
        """Whether this replica stripped the label because no answer came."""
        self.doubtful_at = -math.inf
        """When it becomes doubtful whether the record is renewed."""
        self._began_at = now
        self._seen_at: float | None = None
        """When this process last saw the key; None if it never did."""
        self._presumed: float | None = None
        """When the record is presumed to have been renewed, if this process never saw the key."""
        self._proved_at = -math.inf
        """The record was certainly renewed at this time or later, or no pod had the label then."""
        self._asked_at: float | None = None
        """When the question was written, or first seen; None if there is no question."""
        self._answer_proves = now
        """An answer to the question proves that the record was renewed at this time or later."""
        self._patience = ANSWER_WITHIN
        """Seconds that the others have for an answer, even if the record may expire before."""
        self._leeway = 0.0
        """Seconds that the others have for an answer while the record cannot have expired."""
        self._own = False
        """Whether this process wrote the question, so it knows when the question was sent."""
        self._heard = True
        """Whether the API server keeps the question, so that others can answer it."""

    def see(self, now: float) -> None:
        """Note that this replica sees the key, so it asks nobody."""
        self._seen_at, self._proved_at, self._asked_at = now, -math.inf, None
        self.answered = self.stripped = False
        self.doubtful_at = -math.inf
        self._heard = True
        self.stewards.free(self)

    def act(
        self,
        now: float,
        timing: Timing | None,
        *,
        question: float | None,
        renewed_at: float | None,
        steward: Steward | None = None,
    ) -> Act | Later:
        """Return what to do while a pod may have the leader label.

        Args:
            now: the time.
            timing: the durations; None if the TTL is not known. Then the TTL counts as over.
            question: what `Inquiry.question` returns.
            renewed_at: when the record was last renewed, if it was a record of this site when this
                process last saw the key.
            steward: what `Inquiry.steward` returns.
        """
        self.stripped = False
        if self._seen_at is None and self._presumed is None:
            self._presume(now, timing, question)
        self._listen(now, question, steward)
        if timing is not None and steward is not None:
            self._share(timing, steward)
        known = self.renewal(renewed_at)
        self.doubtful_at = known + (timing.relay_after if timing else 0.0)
        if self._asked_at is None:
            return self._act_unasked(now, known, timing, steward)
        strip_at = max(known + (timing.lease if timing else 0.0), self._asked_at + self._patience)
        if timing is not None:
            answer_until = min(self._asked_at + self._leeway, _last_moment(timing, known))
            strip_at = max(strip_at, answer_until)
        return Act.STRIP if now >= strip_at else Later(strip_at)

    def strips_unasked_at(
        self, known: float, timing: Timing | None, steward: Steward | None
    ) -> float:
        """Return when to strip the label even if this election has not asked for itself.

        That happens if the steward has not answered the question of another election; else inf.
        """
        if timing is None or steward is None:
            return math.inf
        overdue_at = self.stewards.overdue_at(steward, known, end=_last_moment(timing, known))
        return max(known + timing.lease, overdue_at)

    def turn_by(
        self, now: float, known: float, timing: Timing | None, steward: Steward | None
    ) -> float:
        """Return until when to wait for the turn to ask; inf means as long as necessary.

        After that time the caller calls `act` again, because another election may have asked by
        then.
        """
        if timing is None or steward is None:
            return math.inf
        strip_at = self.strips_unasked_at(known, timing, steward)
        return min(strip_at, max(known + timing.lease, now + ANSWER_WITHIN))

    def _act_unasked(
        self, now: float, known: float, timing: Timing | None, steward: Steward | None
    ) -> Act | Later:
        """Return what to do while there is no question in the status of this election.

        One election asks the steward for all elections. If the answer is overdue, or half of the
        time is over, every other election asks for itself, because it may have another steward.
        """
        ask_at = known + (timing.relay_after if timing else 0.0)
        if self._seen_at is None:
            ask_at = max(ask_at, self._began_at + _ask_after(timing))
        if now < ask_at:
            return Later(ask_at)
        if timing is None or steward is None:
            return Act.ASK
        end = known + timing.lease
        if now >= self.strips_unasked_at(known, timing, steward):
            return Act.STRIP
        overdue_at = self.stewards.overdue_at(steward, known)
        alone_at = min(ask_at + max(0.0, end - ask_at) / 2, overdue_at)
        if self.stewards.claim(steward, self, alone=now >= alone_at):
            return Act.ASK
        return Later(min(alone_at, now + ANSWER_WITHIN))

    def renewal(self, renewed_at: float | None) -> float:
        """Return when the record was last known to be renewed; for the argument see `act`."""
        if renewed_at is None:
            renewed_at = self._seen_at if self._seen_at is not None else self._presumed
        return max(-math.inf if renewed_at is None else renewed_at, self._proved_at)

    def ask(
        self,
        sent_at: float,
        now: float,
        *,
        kept: bool,
        steward: Steward | None = None,
        known: float = -math.inf,
    ) -> None:
        """Note that the question was written, and whether the API server keeps it.

        Args:
            sent_at: the time before the write.
            now: the time after the write.
            kept: what `Inquiry.ask` returned.
            steward: the steward that the status named before the write.
            known: when the record was last known to be renewed.

        The answer needs another write. If our write took long, the answer may take as long.
        """
        self._asked_at, self._answer_proves = now, sent_at
        self._patience, self._heard = ANSWER_WITHIN, kept
        self._leeway, self._own = now - sent_at, True
        if steward is not None:
            within = now + ANSWER_WITHIN, now + max(ANSWER_WITHIN, 2 * self._leeway)
            self.stewards.wait(steward, sent_at, within=within, known=known)

    def give_up_asking(self) -> None:
        """Note that the question was perhaps not written, so another election may ask."""
        self.stewards.free(self)

    def strip(self, now: float) -> None:
        """Note that the label was stripped because no answer came."""
        self.stripped, self.answered = True, False
        self._asked_at = None
        self.stewards.free(self)
        self.prove(now)

    def prove(self, now: float) -> None:
        """Note that no pod has the label.

        A replica that sets the label later renews the record first, see `labels`.
        """
        self._proved_at = now

    def _presume(self, now: float, timing: Timing | None, question: float | None) -> None:
        """Presume the oldest renewal that is possible before the start of this process."""
        unseen = timing.interval + LONGEST_RESTART * timing.ttl if timing else 0.0
        self._presumed = self._began_at - unseen
        if question is None:
            return
        self._presumed = min(self._presumed, question)
        self._asked_at, self._answer_proves = now, self._presumed
        if timing is None or now >= self._presumed + timing.lease:
            self._patience = SECOND_CHANCE

    def _listen(self, now: float, question: float | None, steward: Steward | None) -> None:
        """Note another replica's question, or the answer to one.

        The replica that answers names itself as the steward in the same write.
        """
        if question is not None and self._asked_at is None:
            self._asked_at, self._patience, self._leeway = now, ANSWER_WITHIN, 0.0
            self._answer_proves, self._own = min(question, now), False
        elif question is None and self._asked_at is not None and self._heard:
            self._asked_at, self.answered = None, True
            self._proved_at = max(self._proved_at, self._answer_proves)
            self.stewards.free(self)
            if steward is not None and self._own:
                self.stewards.prove(steward, self._answer_proves)

    def _share(self, timing: Timing, steward: Steward) -> None:
        """Use what the steward has proved in another election.

        It had renewed this record at most an interval before, as `Stewards.vouch` makes sure. That
        stays true if another replica becomes the steward later.
        """
        proved_at = self.stewards.proved_at(steward)
        if proved_at > max(self._began_at, self._seen_at or -math.inf):
            self.answered = True
        self._proved_at = max(self._proved_at, proved_at - timing.interval)


def _last_moment(timing: Timing, known: float) -> float:
    """Return until when to delay a strip for a slow answer: half a margin before the TTL ends."""
    return known + timing.ttl - timing.margin / 2


def _ask_after(timing: Timing | None) -> float:
    return min(ASK_AFTER, timing.ttl / 10) if timing else ASK_AFTER
