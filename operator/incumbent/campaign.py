"""One member's campaign for one key: the state machine.

It has no I/O, no tasks and no clock. Every method that needs the time is told it; `poll` says
what to do next; the driver does it and tells the machine how it went. The order of a write::

    write = campaign.begin_renewal(now)       # counts as open from here on
    answer = await bucket.write(...)
    campaign.answered(write, answer, now)     # stored, refused or unknown

Rules that everything here follows:

* Leadership is a deadline, counted from the moment *before* the write was sent. It is moved only
  by a stored write of this process.
* A write without an answer stays open until the key shows a newer revision. It is neither taken
  for stored nor for refused: the next step is to look.
* A record of somebody else is never written over. A record of another replica of the same site
  is that site's: it may be renewed (*relayed*) when its steward is silent.

What it does not promise: that a holder knows that it lost while its process stands still; for
this there is the token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from incumbent.events import Event, Loss, Lost, Relieved, Won
from incumbent.model import (
    Cause,
    Entry,
    Marker,
    Nominee,
    Nothing,
    Profile,
    Record,
    State,
)
from incumbent.ports import Answer, Outcome, Sighting
from incumbent.timing import STAND_DOWN, Timing, retry_pause

NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Member:
    """Who campaigns: one process, and the site for which it does so."""

    replica: str
    """A name and a nonce; no two processes share it."""
    site: str = ""
    """The site as in the header of a record; empty for a member outside Kubernetes."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before `until`, unless something is observed."""

    until: float


@dataclass(frozen=True, slots=True)
class Look:
    """Read the latest entry from the stream's leader and `observe` it with this step."""

    known: int
    """The latest revision known when the read is sent; what it shows may be older than that
    only if the bucket went back."""


@dataclass(frozen=True, slots=True)
class Renew:
    """A renewal is due: `begin_renewal`."""


@dataclass(frozen=True, slots=True)
class Create:
    """The key is vacant and a nominee waits: `begin_create`."""


Step = Wait | Look | Renew | Create


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One conditional write that was begun."""

    record: Record | None
    """What is to be stored, with revision 0 (and term 0 if it begins one); None: a release."""
    expected: int
    timeout: float
    sent_at: float
    promotable_at: float = NEVER
    """Before then the holder of the record may not act."""
    acts_from: float = NEVER
    """From then on it may, if this write is stored; NEVER: a later write has to decide that."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Our own record, and until when it counts."""

    record: Record
    sent_at: float
    deadline: float
    promotable_at: float
    acts_from: float


@dataclass(frozen=True, slots=True)
class _Vacancy:
    at: float
    cause: Cause
    previous: Record | None
    """Who held the key before, if every message in between was seen."""
    previous_at: float


class Campaign:
    """One member's campaign for one key.

    Args:
        member: who campaigns.
        timing: the durations.
        now: the time of the start.
        random: returns a number in [0, 1) for jitter.
    """

    def __init__(
        self, member: Member, timing: Timing, now: float, *, random: Callable[[], float]
    ) -> None:
        self.member = member
        self.timing = timing
        self.latest: Entry | None = None
        """The latest entry known; None until the first is seen."""
        self.latest_at = now
        """When it was stored, as far as can be told."""
        self.lease: Lease | None = None
        self.nominee: Nominee | None = None
        self.evicted: Nominee | None = None
        """Who was evicted last and should not come back while there is somebody else."""
        self.tries = 0
        """Attempts at the present vacancy that did not succeed."""
        self._random = random
        self._open: list[Write] = []
        self._events: list[Event] = []
        self._announced = False
        self._vacancy: _Vacancy | None = None
        self._watched: tuple[Record, float] | None = None
        self._urged = False
        self._look_at = NEVER
        self._looks = 0
        self._next_at = now + timing.splay * random()
        self._out_until = now

    # What is known

    def state(self, now: float) -> State:
        """Return unknown before the first sight of the key, leader while the own record counts."""
        if self.lease is not None and now < self.lease.deadline:
            return State.LEADER
        return State.UNKNOWN if self.latest is None else State.CANDIDATE

    def leads(self, now: float) -> bool:
        """Whether the holder of our record may act at this moment."""
        return self.lease is not None and self.lease.acts_from <= now < self.lease.deadline

    @property
    def unanswered(self) -> bool:
        """Whether a write is open whose outcome is not known."""
        return bool(self._open)

    @property
    def record(self) -> Record | None:
        """The live record as far as known, whoever wrote it."""
        return self.latest if isinstance(self.latest, Record) else None

    @property
    def stands_by(self) -> bool:
        """Whether the record is this site's, and another replica answers for it."""
        return self.lease is None and self.record is not None and self.ours(self.record)

    def ours(self, record: Record) -> bool:
        """Whether a record was written by this process or by a replica of its site."""
        if record.replica == self.member.replica:
            return True
        return bool(self.member.site) and record.site == self.member.site

    def events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    # What to do

    def poll(self, now: float) -> Step:
        """Let time act, and return what to do next."""
        self._let_time_act(now)
        if self.latest is None:
            return Wait(NEVER)
        if self._look_at < NEVER:
            if now >= self._look_at:
                return Look(self.latest.revision)
            return self._until(self._look_at)
        if self.lease is not None:
            due = max(self._renewal_due(self.lease), self._next_at)
            return Renew() if now >= due else self._until(due)
        if self.stands_by and (self.member.site or self.nominee):
            due = max(self._relay_due(), self._next_at)
            return Renew() if now >= due else Wait(due)
        if self.nominee is None:
            return Wait(NEVER)
        due = max(self._next_at, self._out_until)
        if self.record is not None and self.timing.profile is Profile.PROMPT:
            # Without markers the server says nothing when a record expires.
            due = max(due, self.latest_at + self.timing.ttl)
        return Create() if now >= due else Wait(due)

    def nominate(self, nominee: Nominee | None) -> None:
        """Say for whom a record would be created; None: for nobody, so none is."""
        self.nominee = nominee

    def urge(self) -> None:
        """As a standby, do not wait for the steward's silence: renew at the next chance."""
        self._urged = self.stands_by

    # Writes

    def begin_create(self, now: float) -> Write | None:
        """Begin to create the record for the nominee; None if that is not the step any more."""
        if not isinstance(self.poll(now), Create) or self.nominee is None:
            return None
        expected = self.latest.revision if isinstance(self.latest, Marker) else 0
        return self._begin(self._new_term(self.nominee), expected, now, self._promotable_at(now))

    def begin_renewal(self, now: float, *, leaving: bool = False) -> Write | None:
        """Begin to renew the record, as its steward or, as a standby, to become that.

        Returns None when there is no record that we may renew. May be called before it is due.
        """
        self._let_time_act(now)
        held = self.lease.record if self.lease else self.record
        if held is None or not self.ours(held) or self._look_at < NEVER:
            return None
        if self.lease is not None:
            promotable_at = self.lease.promotable_at
        elif held.promoted:
            promotable_at = now
        else:
            # The record does not tell since when a stranger may think that it leads.
            promotable_at = now + self.timing.stranger_after
        # A member that gave up at its deadline and finds its own record still there begins anew.
        begins = self.lease is None and not self.member.site
        record = replace(
            held,
            revision=0,
            term=0 if begins else held.term,
            replica=self.member.replica,
            leaving=leaving,
        )
        return self._begin(record, held.revision, now, promotable_at)

    def begin_transfer(self, nominee: Nominee, now: float) -> Write | None:
        """Begin to hand the record to another nominee of this site: a new term.

        Whoever calls this has made sure that the old holder acts no more. None if there is no
        lease that counts.
        """
        self._let_time_act(now)
        if self.lease is None or self._look_at < NEVER:
            return None
        lease = self.lease
        return self._begin(self._new_term(nominee), lease.record.revision, now, lease.promotable_at)

    def begin_release(self, now: float) -> Write | None:
        """Begin to give the record up; from here on nobody leads for us. None if it is not ours.

        Whoever calls this has made sure that the holder acts no more.
        """
        self._let_time_act(now)
        held = self.lease.record if self.lease else self.record
        if held is None or held.replica != self.member.replica:
            return None
        self._step_down(Loss.RELEASED)
        write = Write(None, held.revision, self.timing.write_timeout, now)
        self._open.append(write)
        return write

    def answered(self, write: Write, answer: Answer, now: float) -> None:
        """Take in how a write ended."""
        creation = self.lease is None and write.record is not None and write.record.term == 0
        if answer.outcome is Outcome.STORED:
            self._open = [w for w in self._open if w is not write]
            self._stored(write, answer.revision, now)
            return
        if answer.outcome is Outcome.REFUSED:
            self._open = [w for w in self._open if w is not write]
        if creation:
            self.tries += 1
        if self.timing.profile is Profile.CHORIA:
            self._next_at = write.sent_at + self.timing.tick(self.tries)
            if creation and self.record is not None and answer.outcome is Outcome.REFUSED:
                return  # a candidate's tick at a held key: nothing new
        elif creation:
            self._next_at = now + self.timing.vacancy_pause(self.tries, self._random())
        else:
            self._next_at = now + retry_pause(0, self._random())
        # Also after a refusal: it can hit the rightful holder (nats-server#7281).
        self._look_at = now

    # Observations

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        """Take in an entry that the watch showed, or that a `look` read from the leader."""
        entry, at = sighting.entry, now - min(max(sighting.age, 0.0), self.timing.ttl)
        previous = None
        if look is None:
            previous = self._follow(sighting, at)
        else:
            self._look_at, self._looks = NEVER, 0
        if not self._is_old(entry, look):
            self._learn(entry, at, now, previous)
        elif look is None and isinstance(entry, Nothing) and self.record is not None:
            # The first answer of a new watch can come from a server that lags.
            self._look_at = now
        elif previous is not None and entry == self.latest and self._vacancy is not None:
            # A look was faster than the watch, which alone knows who held the key before.
            self._vacancy = replace(self._vacancy, previous=previous[0], previous_at=previous[1])

    def unreadable(self, now: float) -> None:
        """Take in that a look failed: look again after a pause."""
        self._look_at = now + retry_pause(self._looks, self._random())
        self._looks += 1

    def forget(self, now: float) -> None:
        """Take in that the bucket was deleted or made anew: nothing known of it counts."""
        if self.lease is not None:
            self._step_down(Loss.EXPIRED)
        self._open.clear()
        self.latest, self._watched, self._vacancy = None, None, None
        self._look_at = NEVER
        self._next_at = now

    # Inside

    def _until(self, due: float) -> Wait:
        """Wait for something that is due, but not past a change that time alone brings."""
        if self.lease is None:
            return Wait(due)
        acts_from = NEVER if self._announced else self.lease.acts_from
        return Wait(min(due, self.lease.deadline, acts_from))

    def _let_time_act(self, now: float) -> None:
        lease = self.lease
        if lease is None:
            return
        if now >= lease.deadline:
            self._step_down(Loss.DEADLINE)
            self._look_at = min(self._look_at, now)
        elif now >= lease.acts_from and not self._announced:
            self._announced = True
            self._events.append(Won(lease.record))

    def _renewal_due(self, lease: Lease) -> float:
        due = lease.sent_at + self.timing.interval
        if lease.acts_from == NEVER and self.timing.profile is Profile.PROMPT:
            due = min(due, max(lease.promotable_at, lease.sent_at))
        return due

    def _relay_due(self) -> float:
        record = self.record
        own = record is not None and record.replica == self.member.replica
        if record is None or own or record.leaving or self._urged:
            return self.latest_at
        return self.latest_at + self.timing.relay_after

    def _new_term(self, nominee: Nominee) -> Record:
        return Record(
            revision=0,
            holder=nominee.identity,
            term=0,
            replica=self.member.replica,
            site=self.member.site,
            pod_uid=nominee.pod_uid,
        )

    def _promotable_at(self, now: float) -> float:
        """When the holder of a record that is created now may act, at the earliest."""
        if self.timing.profile is Profile.CHORIA:
            return max(self._predecessor_gone_at(now), now + self.timing.interval)
        return self._predecessor_gone_at(now)

    def _predecessor_gone_at(self, now: float) -> float:
        vacancy = self._vacancy
        if self.record is not None:  # presumed to have expired
            at = self.latest_at
            vacancy = _Vacancy(at + self.timing.ttl, Cause.EXPIRED, self.record, at)
        if vacancy is None or vacancy.cause is Cause.RELEASED:
            return now
        previous = vacancy.previous
        if previous is None and vacancy.cause is Cause.EVICTED:
            return vacancy.at + self.timing.ttl
        if previous is None or previous.stranger:
            return vacancy.at + self.timing.stranger_after
        if self.ours(previous):
            return now
        # It keeps its deadline, but news of an eviction may not have reached it.
        return vacancy.previous_at + self.timing.ttl

    def _begin(self, record: Record, expected: int, now: float, promotable_at: float) -> Write:
        acts_from = self.lease.acts_from if self.lease is not None else NEVER
        if acts_from == NEVER and now >= promotable_at:
            relay = self.lease is None and record.term and record.promoted
            choria = self.timing.profile is Profile.CHORIA and not relay
            acts_from = now + (STAND_DOWN if choria else 0.0)
        record = replace(record, promoted=acts_from < NEVER)
        timeout = self.timing.write_timeout
        write = Write(record, expected, timeout, now, promotable_at, acts_from)
        self._open.append(write)
        return write

    def _stored(self, write: Write, revision: int, now: float) -> None:
        if self.latest is not None and revision < self.latest.revision:
            return  # somebody wrote after us, and the watch was faster than the answer
        if write.record is None:
            self._learn(Marker(revision, Cause.RELEASED), now, now, None)
            return
        record = replace(write.record, revision=revision, term=write.record.term or revision)
        self._hold(record, [write], now)

    def _adopt(self, record: Record, now: float) -> bool:
        """Take a record that one of our open writes stored: which one is not known."""
        writes = [w for w in self._open if w.record is not None and w.expected < record.revision]
        if writes:
            self._hold(record, writes, now)
        return bool(writes)

    def _hold(self, record: Record, writes: list[Write], now: float) -> None:
        """Take a stored record as our lease, counted from the earliest of the writes."""
        sent_at = min(write.sent_at for write in writes)
        promotable_at = max(write.promotable_at for write in writes)
        acts_from = max(write.acts_from for write in writes) if record.promoted else NEVER
        if acts_from == NEVER and record.promoted:
            acts_from = now
        lease = self.lease
        if lease is not None and lease.record.term == record.term:
            sent_at = max(sent_at, lease.sent_at)
            acts_from = min(acts_from, lease.acts_from)
        elif lease is not None:
            self._step_down(Loss.RELEASED)  # handed over: the old holder's term has ended
        deadline = sent_at + self.timing.ttl - self.timing.margin
        self.lease = Lease(record, sent_at, deadline, promotable_at, acts_from)
        self.latest, self.latest_at = record, now
        self._watched = (record, now)
        self._vacancy, self.tries = None, 0
        self._urged = False
        self._next_at = now
        if self.timing.profile is Profile.CHORIA:
            self._next_at = sent_at + self.timing.interval
        if self.evicted is not None and self.evicted.identity != record.holder:
            self.evicted = None
        self._close_dead_writes(record)
        if not self._open:
            self._look_at = NEVER
        self._let_time_act(now)

    def _close_dead_writes(self, entry: Entry) -> None:
        """Forget open writes whose expectation cannot come true any more."""
        if isinstance(entry, Nothing):
            self._open = [write for write in self._open if write.expected == 0]
        else:
            self._open = [write for write in self._open if write.expected >= entry.revision]

    def _step_down(self, loss: Loss) -> None:
        lease, self.lease = self.lease, None
        if lease is not None and self._announced:
            self._events.append(Lost(lease.record, loss))
        self._announced = False

    def _is_old(self, entry: Entry, look: Look | None) -> bool:
        """Whether an entry tells nothing new."""
        known = self.latest
        if known is None:
            return False
        if entry.revision == known.revision and type(entry) is type(known):
            return True
        if entry.revision > known.revision:
            return False
        # A read that was overtaken by the watch, or a watch overtaken by an answer.
        return look is None or known.revision > look.known

    def _follow(self, sighting: Sighting, at: float) -> tuple[Record, float] | None:
        """Return who held the key before a vacancy, if the watch shows that.

        Only the watch can: a read does not tell what lay between it and the one before.
        """
        if isinstance(sighting.entry, Record):
            self._watched = (sighting.entry, at)
            return None
        watched, self._watched = self._watched, None
        return watched if sighting.live else None

    def _learn(
        self, entry: Entry, at: float, now: float, previous: tuple[Record, float] | None
    ) -> None:
        """Take in an entry that is news."""
        self._urged = False
        if isinstance(entry, Record):
            if entry.replica == self.member.replica and self._adopt(entry, now):
                return
            self._taken(entry)
            self._vacancy, self.tries = None, 0
        else:
            self._vacated(entry, at, now, previous)
        if self.timing.profile is Profile.PROMPT:
            self._next_at = now
        self.latest, self.latest_at = entry, at
        self._close_dead_writes(entry)

    def _taken(self, record: Record) -> None:
        """See a record that is not our own write."""
        if self.lease is not None and self.member.site and self.ours(record):
            self.lease, self._announced = None, False
            self._events.append(Relieved(record))
        else:
            self._step_down(Loss.OVERTAKEN)

    def _vacated(
        self,
        entry: Marker | Nothing,
        at: float,
        now: float,
        previous: tuple[Record, float] | None,
    ) -> None:
        """See that the key holds no record."""
        cause = entry.cause if isinstance(entry, Marker) else Cause.EXPIRED
        held = self.lease.record if self.lease is not None else self.record
        if cause is Cause.EVICTED and held is not None and self.ours(held):
            # Give others the chance that whoever evicted us wanted them to have.
            self._out_until = now + self.timing.interval
            self.evicted = Nominee(held.holder, held.pod_uid)
        if self.lease is not None:
            self._step_down(_LOSSES[cause])
        if isinstance(entry, Nothing):
            if self.record is None:
                return  # a marker that expired, or a key that was never used
            # Without markers the watch shows no expiry; that it showed nothing else must do.
            if self._watched is not None and self._watched[0].revision == self.record.revision:
                previous = self._watched
        record, record_at = previous or (None, at)
        self._vacancy = _Vacancy(at, cause, record, record_at)
        self.tries = 0


_LOSSES = {
    Cause.EVICTED: Loss.EVICTED,
    Cause.RELEASED: Loss.RELEASED,
    Cause.EXPIRED: Loss.EXPIRED,
}
