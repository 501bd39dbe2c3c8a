"""One member's campaign for one key: the state machine.

It has no I/O, no tasks and no clock. Every method that needs the time is told it; `poll` says
what to do next; the driver does it and tells the machine how it went. The order of a write::

    write = campaign.begin_renewal(now)       # counts as open from here on
    answer = await bucket.write(...)
    campaign.answered(write, answer, now)     # stored, refused or unknown

Rules that everything here follows:

* Leadership is a deadline, counted from the moment *before* the write was sent. It is moved only
  by a stored write of this process.
* A write without an answer is neither taken for stored nor for refused: the next step is to look.
  A record tells its writer which write it comes from, and counts from the sending of that one. It
  is not adopted when the lease under which it was begun has ended.
* A record of somebody else is never written over. A record of another replica of the same site
  is that site's: it may be renewed (*relayed*) when its steward is silent. A replica of the site is
  who is known to use the same API server (`site`), not who claims it.
* A record is *promoted* once nobody who held the key before can act any more, and only then may
  its own holder act. Whoever takes over from a record that was not promoted waits anew.

What it does not promise: that a holder knows that it lost while its process stands still; for
this there is the token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from incumbent.campaign.events import CampaignEvent, Loss, Lost, Relieved, Won
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import (
    Cause,
    Entry,
    Marker,
    Nominee,
    Nothing,
    Profile,
    Promotion,
    Record,
    State,
)
from incumbent.campaign.steps import NEVER, Create, Lease, Look, Member, Renew, Step, Wait, Write
from incumbent.campaign.succession import Awaited, Settlement, Succession
from incumbent.campaign.timing import STAND_DOWN, Timing, retry_pause
from incumbent.campaign.wire import RELEASE, headers_of, release_headers

__all__ = ["NEVER", "Campaign", "Create", "Lease", "Look", "Member", "Renew", "Wait", "Write"]


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
        self.latest: Entry | None = None
        """The latest entry known; None until the first is seen."""
        self.latest_at = now
        """When it was stored, by what the server says of its age. Good enough to say when to try
        something; who may act depends on `seen_at`."""
        self.seen_at = now
        """When it was first seen, on our own clock; it was stored before."""
        self.stored = (0, 0.0, now)
        """The latest revision that was shown, when the server stored it (seconds since 1970 by its
        clock), and the same moment by ours, however long ago."""
        self.lease: Lease | None = None
        self.tenure = 0
        """How often we got a lease. What was begun under an earlier one may not go on: meanwhile
        another replica of our site may have been the steward, in the same term."""
        self.nominee: Nominee | None = None
        self.evicted: Nominee | None = None
        """Who was evicted, until somebody holds the record again: not to be nominated while there
        is somebody else."""
        self.tries = 0
        """Attempts at the present vacancy, or in the Choria profile since the last success."""
        self._timing = timing
        self._random = random
        self._ended: Lease | None = None
        """The one before, for it knows whom its term has to wait for."""
        self._open: list[Write] = []
        self._events: list[CampaignEvent] = []
        self._announced = False
        self._past = Succession(self.ours)
        self._settlement = Settlement(now)
        """What the term waits for that we began last, or took over from another replica."""
        self._urged = False
        self._look_at = NEVER
        self._looks = 0
        self._confirmed = 0
        """The latest revision that a look has shown."""
        self._next_at = now
        self._out_until = now + timing.splay * random()

    # What is known

    @property
    def timing(self) -> Timing:
        """The durations. A lower TTL shortens the lease at once; a higher one has it renewed."""
        return self._timing

    @timing.setter
    def timing(self, timing: Timing) -> None:
        self._timing = timing
        if self.lease is not None:
            deadline = min(self.lease.deadline, self.lease.sent_at + timing.lease)
            self.lease = replace(self.lease, deadline=deadline)

    def state(self, now: float) -> State:
        """Return unknown before the first sight of the key, leader while the own record counts."""
        if self.lease is not None and now < self.lease.deadline:
            return State.LEADER
        return State.UNKNOWN if self.latest is None else State.CANDIDATE

    def leads(self, now: float) -> bool:
        """Whether the holder of our record may act at this moment."""
        return self.lease is not None and self.lease.acts_from <= now < self.lease.deadline

    def waits(self, now: float) -> Settlement | None:
        """Return what our holder, or the next candidate, waits for; None if for nothing."""
        if self.lease is not None:
            waiting = self.lease.acts_from == NEVER and now < self.lease.promotable_at
            return replace(self._settlement, at=self.lease.promotable_at) if waiting else None
        if self.record is None and self.nominee is not None and now < self._out_until:
            return Settlement(self._out_until, Awaited.OTHERS) if self.evicted else None
        return None

    @property
    def unanswered(self) -> bool:
        """Whether a write that may change the latest entry is open: its outcome is not known."""
        return bool(self._undecided)

    @property
    def sure(self) -> bool:
        """Whether the latest entry is known for certain, so that nothing has to be read first."""
        return self._look_at == NEVER

    @property
    def doubtful_until(self) -> float:
        """When a lease would end that a write without an answer may have brought; NEVER if none.

        Perhaps we are the steward, and do not know it.
        """
        if self.lease is not None:
            return NEVER
        begun = (write.sent_at for write in self._undecided if write.record is not None)
        return min(begun, default=NEVER) + self.timing.lease

    @property
    def record(self) -> Record | None:
        """The live record as far as known, whoever wrote it."""
        return self.latest if isinstance(self.latest, Record) else None

    @property
    def lapse_at(self) -> float:
        """When the latest record expires, if nobody renews it, as far as was seen."""
        return self.latest_at + self.timing.ttl

    @property
    def stands_by(self) -> bool:
        """Whether the record is this site's, and another replica answers for it."""
        return self.lease is None and self.record is not None and self.ours(self.record)

    def ours(self, record: Record) -> bool:
        """Whether a record was written by this process or by a replica of its site.

        Two operators of one site may serve different namespaces. Then they are no replicas of each
        other, for neither reaches the pods of the other.
        """
        if record.replica == self.member.replica:
            return True
        if self.member.kin is not None:
            return bool(self.member.site) and self.member.kin.ours(record)
        same_site = bool(self.member.site) and record.site == self.member.site
        return same_site and record.holder.startswith(self.member.holders)

    @property
    def ended_at(self) -> float:
        """The deadline of the lease that we lost last; NEVER before the first."""
        return NEVER if self._ended is None else self._ended.deadline

    @property
    def has_events(self) -> bool:
        """Whether `events` would return any."""
        return bool(self._events)

    def events(self) -> list[CampaignEvent]:
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
                return Look(self.latest.revision, self._timeout(now))
            return self._until(self._look_at)
        if self.lease is not None:
            due = max(self._renewal_due(self.lease), self._next_at)
            return Renew() if now >= due else self._until(due)
        record = self.record
        relays = record is not None and (self.ours(record) or self._inherited(record))
        if record is not None and relays and (self.member.site or self.nominee):
            due = max(self._relay_due(record), self._next_at)
            if now < due:
                return Wait(due)
            if self._hears_nothing(record) and self._confirmed != record.revision:
                return Look(record.revision, self._timeout(now))
            return Renew()
        if self.nominee is None:
            return Wait(NEVER)
        due = max(self._next_at, self._out_until)
        if record is not None and self.timing.profile is Profile.PROMPT:
            # Without markers the server says nothing when a record expires.
            due = max(due, self.lapse_at)
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
        self.tries += 1
        latest = self.latest or Nothing()
        expected = 0 if isinstance(latest, Record) else latest.revision
        self._settlement = self._past.settled(latest, self.latest_at, self.seen_at, self.timing)
        next_campaign = now + self.timing.interval
        late = self.timing.promotion is Promotion.NEXT_CAMPAIGN
        if late and next_campaign > self._settlement.at:
            self._settlement = Settlement(next_campaign, Awaited.CAMPAIGN)
        record = self._new_term(self.nominee)
        return self._begin(record, expected, now, self._settlement.at)

    def begin_renewal(self, now: float, *, leaving: bool = False) -> Write | None:
        """Begin to renew the record, as its steward or, as a standby, to become that.

        Returns None when there is no record that we may renew. May be called before it is due.
        """
        self._let_time_act(now)
        held = self.lease.record if self.lease else self.record
        if held is None or self._look_at < NEVER or not self._may_renew(held, now):
            return None
        known = self.lease or self._ended
        if known is not None and known.record.term == held.term:
            promotable_at = known.promotable_at
        else:
            promotable_at = self._told_by(held, now)
            self._settlement = Settlement(promotable_at, Awaited.EARLIER)
        # A member that gave up at its deadline and finds its own record still there begins anew.
        term = held.term if self.lease or self.member.site else 0
        record = replace(held, revision=0, term=term, replica=self.member.replica, leaving=leaving)
        return self._begin(record, held.revision, now, promotable_at)

    def begin_transfer(
        self, nominee: Nominee, now: float, *, tenure: int | None = None
    ) -> Write | None:
        """Begin to hand the record to another nominee of this site: a new term.

        Whoever calls this has made sure that the old holder acts no more, in this tenure if it took
        any time. None if there is no lease that counts, or it is of another tenure.
        """
        self._let_time_act(now)
        if self.lease is None or self._look_at < NEVER or tenure not in {None, self.tenure}:
            return None
        lease = self.lease
        return self._begin(self._new_term(nominee), lease.record.revision, now, lease.promotable_at)

    def begin_release(self, now: float, *, tenure: int | None = None) -> Write | None:
        """Begin to give the record up; from here on nobody leads for us.

        Whoever calls this has made sure that the holder acts no more, in this tenure if it took any
        time, and does not nominate. None if the record is not ours, or of another tenure.
        """
        self._let_time_act(now)
        if tenure not in {None, self.tenure}:
            return None
        held = self.lease.record if self.lease else self.record
        if held is None or held.replica != self.member.replica:
            return None
        self._step_down(Loss.RELEASED)
        headers = release_headers(self.member.replica, promoted=held.promoted)
        write = Write(None, held.revision, self._timeout(now), now, headers)
        self._open = [write]  # what was open before may be stored, but brings no lease
        return write

    def answered(self, write: Write, answer: Answer, now: float) -> None:
        """Take in how a write ended; also after everybody has stopped waiting for it."""
        if write not in self._open:
            return  # what it was begun for has ended
        if answer.outcome is not Outcome.UNKNOWN:
            self._open.remove(write)
        known = self.latest or Nothing()
        if answer.outcome is not Outcome.STORED:
            self._failed(write, known, now)
        elif answer.revision > known.revision:
            self._stored(write, answer.revision, now)

    # Observations

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        """Take in an entry that the watch showed, or that a `look` read from the leader."""
        entry, at = sighting.entry, now - min(max(sighting.age, 0.0), self.timing.ttl)
        self.stored = entry.revision, sighting.stored_at, now - max(sighting.age, 0.0)
        if look is None:
            self._past.watched(sighting, now, self.timing)
        else:
            self._past.looked(sighting, now, self.timing)
            self._look_at, self._looks, self._confirmed = NEVER, 0, entry.revision
        if self._is_old(entry, look):
            if look is None and self._contradicts(entry):
                self._look_at = min(self._look_at, now)
        elif isinstance(entry, Record):
            self._found(entry, at, now)
        else:
            self._vacated(entry, at, now)
            if look is not None:
                # The watch, which alone knows who held the key, gets a moment to catch up.
                self._next_at = max(self._next_at, now + retry_pause(0, self._random()))

    def unreadable(self, now: float) -> None:
        """Take in that a look failed: look again after a pause."""
        self._look_at = now + retry_pause(self._looks, self._random())
        self._looks += 1

    def forget(self, now: float) -> None:
        """Take in that the bucket was deleted or made anew: nothing known of it counts."""
        self._step_down(Loss.EXPIRED)
        self._open.clear()
        self._past.forget(now)
        self.latest = self._ended = None

    # Inside, about time

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

    def _timeout(self, now: float) -> float:
        timeout = self.timing.write_timeout
        return timeout if self.lease is None else min(timeout, self.lease.deadline - now)

    def _renewal_due(self, lease: Lease) -> float:
        # The deadline is another one than of this timing if the TTL was raised in the meantime.
        latest = lease.deadline - (self.timing.lease - self.timing.interval)
        due = min(self.timing.renewal_after(lease.sent_at), latest)
        return min(due, lease.promotable_at) if lease.acts_from == NEVER else due

    def _hears_nothing(self, record: Record) -> bool:
        """Whether silence alone calls for a relay: the cause may be our own link.

        A write over that link would have no answer, and we would have to strip for fear that it
        was stored. Of a record that we only inherited silence alone counts: who announces its end
        there may be relieved by a replica that we do not know, because we are in a copy.
        """
        if not self.ours(record):
            return True
        return not (record.replica == self.member.replica or record.leaving or self._urged)

    def _may_be_ours(self, record: Record) -> bool:
        kin = self.member.kin
        return self.ours(record) or (kin is not None and kin.doubtful(record))

    def _inherited(self, record: Record) -> bool:
        kin = self.member.kin
        return kin is not None and bool(self.member.site) and kin.inherited(record)

    def _may_renew(self, record: Record, now: float) -> bool:
        """Whether a record may be written over: one that we only inherit not while it is alive."""
        if self.ours(record):
            return True
        return self._inherited(record) and now >= self._relay_due(record)

    def _relay_due(self, record: Record) -> float:
        return self.latest_at + (self.timing.relay_after if self._hears_nothing(record) else 0)

    # Inside, about writes

    @property
    def _undecided(self) -> list[Write]:
        """The open writes that may still change the latest entry."""
        known = self.latest
        return [w for w in self._open if known is not None and w.expected == known.revision]

    def _new_term(self, nominee: Nominee) -> Record:
        return Record(
            revision=0,
            holder=nominee.identity,
            term=0,
            replica=self.member.replica,
            site=self.member.site,
            pod_uid=nominee.pod_uid,
        )

    def _begin(self, record: Record, expected: int, now: float, promotable_at: float) -> Write:
        acts = self.lease is not None and self.lease.acts_from < NEVER
        wait = 0.0 if acts else max(0.0, promotable_at - now)
        record = replace(record, promoted=not wait, sent_at=now, wait=wait)
        timeout = self._timeout(now)
        write = Write(record, expected, timeout, now, headers_of(record), promotable_at)
        # To adopt an older one would be worth nothing.
        self._open = [w for w in self._open if now < w.sent_at + self.timing.lease] + [write]
        self._next_at = now + self.timing.pause(self.tries, self._random())
        return write

    def _told_by(self, record: Record, now: float) -> float:
        """From when on the holder of another replica's record may act.

        It was first seen after it was sent, so this is late rather than early. If the record does
        not tell, a TTL is enough for everybody.
        """
        if record.promoted:
            return now
        latest = now + self.timing.ttl
        return min(latest, self.seen_at + record.wait) if record.wait else latest

    def _failed(self, write: Write, known: Entry, now: float) -> None:
        """Look, unless what is known by now explains the failure.

        A refusal alone explains nothing: it can hit the rightful holder (nats-server#7281).
        """
        lapsed = isinstance(known, Record) and now >= self.lapse_at
        if lapsed or known.revision == write.expected:
            self._look_at = now

    def _stored(self, write: Write, revision: int, now: float) -> None:
        record = write.stored_as(revision)
        if record is not None:
            self._hold(record, write, now)
            return
        cause = Cause.RELEASED if RELEASE in write.headers else Cause.EVICTED
        self._vacated(Marker(revision, cause), now, now)

    def _hold(self, record: Record, write: Write, now: float) -> None:
        """Take the record that a write of ours stored as our lease."""
        acts_from = self._acts_from(record, now)
        if self.lease is not None and self.lease.record.term != record.term:
            self._step_down(Loss.HANDED_OVER)
        self.tenure += self.lease is None
        deadline = write.sent_at + self.timing.lease
        self.lease = Lease(record, write.sent_at, deadline, write.promotable_at, acts_from)
        self._took(record, now, now)
        if self.timing.profile is Profile.CHORIA:
            self._next_at = write.sent_at + self.timing.interval
        self._let_time_act(now)

    def _acts_from(self, record: Record, now: float) -> float:
        """From when on the holder of a record that we stored may act."""
        if not record.promoted:
            return NEVER
        if self.lease is not None and self.lease.acts_from < NEVER:
            return self.lease.acts_from
        relay = self.record is not None and self.record.promoted
        late = self.timing.promotion is Promotion.NEXT_CAMPAIGN and not relay
        return now + STAND_DOWN if late else now

    # Inside, about news

    def _is_old(self, entry: Entry, look: Look | None) -> bool:
        """Whether an entry tells nothing new."""
        known = self.latest
        if known is None or entry.revision > known.revision:
            return False
        if entry.revision == known.revision and _same(entry, known):
            return True
        # A read that was overtaken by the watch, or a watch overtaken by an answer.
        return look is None or known.revision > look.known

    def _contradicts(self, entry: Entry) -> bool:
        """Whether the watch shows what cannot be, unless its server lags or the bucket is new."""
        if isinstance(entry, Nothing):
            return self.record is not None
        known = self.latest or entry
        return entry.revision == known.revision and not _same(entry, known)

    def _found(self, record: Record, at: float, now: float) -> None:
        """See a record that is news: our own write, our site's, or somebody else's."""
        for write in self._open:
            if write.stored_as(record.revision) == record:
                self._hold(record, write, now)
                return
        if self._announced and self.member.site and self.ours(record):
            self._announced = False
            self._events.append(Relieved(record))
        self._step_down(Loss.OVERTAKEN)
        self._took(record, at, now)

    def _took(self, record: Record, at: float, now: float) -> None:
        """Whoever it is, somebody holds the record."""
        self._past.held(record, now)
        self.evicted = None
        if self.timing.profile is Profile.PROMPT or self.lease is not None:
            self.tries = 0
        self._know(record, at, now)

    def _vacated(self, entry: Marker | Nothing, at: float, now: float) -> None:
        """See that the key holds no record."""
        cause = entry.cause if isinstance(entry, Marker) else Cause.EXPIRED
        held = self.lease.record if self.lease is not None else self.record
        if cause is Cause.EVICTED and held is not None and self._may_be_ours(held):
            # Give others the chance that whoever evicted us wanted them to have.
            self._out_until = now + self.timing.interval
            self.evicted = Nominee(held.holder, held.pod_uid)
        self._step_down(Loss(cause.value))
        self._know(entry, at, now)

    def _know(self, entry: Entry, at: float, now: float) -> None:
        self.latest, self.latest_at, self.seen_at = entry, at, now
        self._urged = False
        self._look_at = NEVER
        if self.timing.profile is Profile.PROMPT:
            self._next_at = now

    def _step_down(self, loss: Loss) -> None:
        """End our lease, if there is one, and all that was begun under it."""
        if self.lease is None:
            return
        if self._announced:
            self._events.append(Lost(self.lease.record, loss))
        self.lease, self._ended, self._announced = None, self.lease, False
        self._open.clear()


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries of one revision are one: in a bucket made anew they need not be."""
    if isinstance(one, Record) and isinstance(other, Record):
        return (one.replica, one.holder, one.sent_at) == (
            other.replica,
            other.holder,
            other.sent_at,
        )
    return type(one) is type(other)
