"""One member's campaign for one key: the state machine.

It has no I/O, no tasks and no clock. The caller passes the time to every method that needs it.
`poll` returns the next step; the driver carries it out and reports the result. The order of a
write::

    write = campaign.begin_renewal(now)       # counts as open from here on
    answer = await bucket.write(...)
    campaign.answered(write, answer, now)     # stored, refused or unknown

Rules that everything here follows:

* Leadership lasts until a deadline, counted from the moment *before* the write was sent. Only a
  stored write of this process moves the deadline.
* A write without an answer counts neither as stored nor as refused. The next step is to read the
  key. If the record there comes from such a write, its lease counts from the sending of that write.
  The record brings no lease if the lease under which the write was begun has ended.
* A member never overwrites a record of another site or of a stranger. Any replica of a site may
  renew (*relay*) a record of the site when its steward is silent. A process counts as a replica of
  the site if it is known to use the same API server (`site`); a claim is not enough.
* A record is *promoted* once nobody who held the key before can act any more. Its own holder may
  act only from then on. A member that takes over from a record that was not promoted waits again.

The machine does not promise that a holder learns of its loss while its process stands still. The
token covers that case.
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
        member: the member that campaigns.
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
        """When the latest entry was stored, by the age that the server reports. Good enough to
        schedule an attempt; the decision who may act uses `seen_at`."""
        self.seen_at = now
        """When we first saw the latest entry, on our own clock. It was stored before."""
        self.stored = (0, 0.0, now)
        """The latest revision that was shown, and when the server stored it: in seconds since 1970
        by the server's clock, and by our own clock. The age is not limited to the TTL."""
        self.lease: Lease | None = None
        self.tenure = 0
        """How often we got a lease. A hand-over or release that was begun in an earlier tenure may
        not continue, because another replica of our site may have been the steward since, even
        within one term."""
        self.nominee: Nominee | None = None
        self.evicted: Nominee | None = None
        """The evicted holder, until somebody holds the record again. It is not to be nominated
        while there is another candidate."""
        self.tries = 0
        """Attempts at the present vacancy, or in the Choria profile since the last success."""
        self._timing = timing
        self._random = random
        self._ended: Lease | None = None
        """The previous lease. It says from when on the holder of its term may be promoted."""
        self._open: list[Write] = []
        self._events: list[CampaignEvent] = []
        self._announced = False
        self._past = Succession(self.ours)
        self._settlement = Settlement(now)
        """What the holder waits for, in the term that we began or took over last."""
        self._urged = False
        self._look_at = NEVER
        self._looks = 0
        self._confirmed = 0
        """The revision of the entry that the last look showed."""
        self._next_at = now
        self._out_until = now + timing.splay * random()

    # What is known

    @property
    def timing(self) -> Timing:
        """The durations.

        A lower TTL shortens the lease at once. A higher TTL counts from the next renewal on.
        """
        return self._timing

    @timing.setter
    def timing(self, timing: Timing) -> None:
        self._timing = timing
        if self.lease is not None:
            deadline = min(self.lease.deadline, self.lease.sent_at + timing.lease)
            self.lease = replace(self.lease, deadline=deadline)

    def state(self, now: float) -> State:
        """Return our state: leader until our deadline, unknown before we have seen the key."""
        if self.lease is not None and now < self.lease.deadline:
            return State.LEADER
        return State.UNKNOWN if self.latest is None else State.CANDIDATE

    def leads(self, now: float) -> bool:
        """Whether the holder of our record may act at this moment."""
        return self.lease is not None and self.lease.acts_from <= now < self.lease.deadline

    def waits(self, now: float) -> Settlement | None:
        """Return what our holder, or the next candidate, waits for; None if it does not wait."""
        if self.lease is not None:
            waiting = self.lease.acts_from == NEVER and now < self.lease.promotable_at
            return replace(self._settlement, at=self.lease.promotable_at) if waiting else None
        if self.record is None and self.nominee is not None and now < self._out_until:
            return Settlement(self._out_until, Awaited.OTHERS) if self.evicted else None
        return None

    @property
    def unanswered(self) -> bool:
        """Whether there is a write of unknown outcome that may still change the latest entry."""
        return bool(self._undecided)

    @property
    def sure(self) -> bool:
        """Whether the latest entry is certain, so that no read of the key is due."""
        return self._look_at == NEVER

    @property
    def doubtful_until(self) -> float:
        """The deadline of the lease that a write without an answer may have brought; NEVER if none.

        Perhaps we are the steward without knowing it.
        """
        if self.lease is not None:
            return NEVER
        begun = (write.sent_at for write in self._undecided if write.record is not None)
        return min(begun, default=NEVER) + self.timing.lease

    @property
    def record(self) -> Record | None:
        """The latest known record, ours or another member's; None if the key holds none."""
        return self.latest if isinstance(self.latest, Record) else None

    @property
    def lapse_at(self) -> float:
        """When the latest known record expires, if nobody renews it."""
        return self.latest_at + self.timing.ttl

    @property
    def stands_by(self) -> bool:
        """Whether this replica is a standby: our site has the record, and we have no lease."""
        return self.lease is None and self.record is not None and self.ours(self.record)

    def ours(self, record: Record) -> bool:
        """Whether a record was written by this process or by a replica of its site.

        Two operators of one site may serve different namespaces. They are not replicas of each
        other then, because neither reaches the pods of the other.
        """
        if record.replica == self.member.replica:
            return True
        if self.member.kin is not None:
            return bool(self.member.site) and self.member.kin.ours(record)
        same_site = bool(self.member.site) and record.site == self.member.site
        return same_site and record.holder.startswith(self.member.holders)

    @property
    def ended_at(self) -> float:
        """The deadline of the lease that we lost last; NEVER if we have not lost any."""
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
        """Apply what time alone changes, and return the next step."""
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
            # In a bucket without markers the server does not tell that a record has expired.
            due = max(due, self.lapse_at)
        return Create() if now >= due else Wait(due)

    def nominate(self, nominee: Nominee | None) -> None:
        """Set the nominee for whom a record would be created; None: create no record."""
        self.nominee = nominee

    def urge(self) -> None:
        """As a standby, renew the record at the next chance, even if the steward is not silent."""
        self._urged = self.stands_by

    # Writes

    def begin_create(self, now: float) -> Write | None:
        """Begin to create the record for the nominee; None if `Create` is not the next step now."""
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
        """Begin to renew the record, as its steward or as a standby that becomes the steward.

        Returns None if there is no record that we may renew. May be called before a renewal is due.
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
        # A member without a site that stopped at its deadline and still finds its own record begins
        # a new term.
        term = held.term if self.lease or self.member.site else 0
        record = replace(held, revision=0, term=term, replica=self.member.replica, leaving=leaving)
        return self._begin(record, held.revision, now, promotable_at)

    def begin_transfer(
        self, nominee: Nominee, now: float, *, tenure: int | None = None
    ) -> Write | None:
        """Begin to hand the record to another nominee of this site, in a new term.

        The caller has stopped the old holder. If that took time, it passes the tenure in which it
        did so. Returns None without a valid lease, or if another tenure has begun.
        """
        self._let_time_act(now)
        if self.lease is None or self._look_at < NEVER or tenure not in {None, self.tenure}:
            return None
        lease = self.lease
        return self._begin(self._new_term(nominee), lease.record.revision, now, lease.promotable_at)

    def begin_release(self, now: float, *, tenure: int | None = None) -> Write | None:
        """Begin to give the record up; our lease ends at once.

        The caller has stopped the holder and nominates nobody. If the stop took time, it passes the
        tenure in which it happened. Returns None if this process did not write the record, or if
        another tenure has begun.
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
        self._open = [write]  # an earlier open write may be stored, but brings no lease any more
        return write

    def answered(self, write: Write, answer: Answer, now: float) -> None:
        """Record how a write ended, even if nobody waits for its answer any more."""
        if write not in self._open:
            return  # the lease under which it was begun has ended
        if answer.outcome is not Outcome.UNKNOWN:
            self._open.remove(write)
        known = self.latest or Nothing()
        if answer.outcome is not Outcome.STORED:
            self._failed(write, known, now)
        elif answer.revision > known.revision:
            self._stored(write, answer.revision, now)

    # Observations

    def observe(self, sighting: Sighting, now: float, *, look: Look | None = None) -> None:
        """Observe an entry that the watch showed, or that the read for a `look` returned."""
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
                # Give the watch a moment to catch up, because only it knows who held the key.
                self._next_at = max(self._next_at, now + retry_pause(0, self._random()))

    def unreadable(self, now: float) -> None:
        """Record that a look failed. The next look comes after a pause."""
        self._look_at = now + retry_pause(self._looks, self._random())
        self._looks += 1

    def forget(self, now: float) -> None:
        """Forget all entries, because the bucket was deleted or created again."""
        self._step_down(Loss.EXPIRED)
        self._open.clear()
        self._past.forget(now)
        self.latest = self._ended = None

    # Inside, about time

    def _until(self, due: float) -> Wait:
        """Return a wait until `due`, or until our lease ends or our holder may act, if sooner."""
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
        # If the TTL was raised since the last renewal, the deadline still follows from the old TTL.
        latest = lease.deadline - (self.timing.lease - self.timing.interval)
        due = min(self.timing.renewal_after(lease.sent_at), latest)
        return min(due, lease.promotable_at) if lease.acts_from == NEVER else due

    def _hears_nothing(self, record: Record) -> bool:
        """Whether only the steward's silence is a reason to relay the record.

        Then we read the key first, because our own link may be the cause of the silence. A write
        over a broken link would get no answer, and we would have to strip the label because the
        write may be stored. For a record that we only inherited, silence is always the only reason.
        If its steward announces that it leaves, another replica may relieve it that we do not know,
        because we may run in a copy of its cluster.
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
        """Whether we may overwrite a record: ours at any time, an inherited one if it is silent."""
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
        # Drop open writes whose lease would have ended already.
        self._open = [w for w in self._open if now < w.sent_at + self.timing.lease] + [write]
        self._next_at = now + self.timing.pause(self.tries, self._random())
        return write

    def _told_by(self, record: Record, now: float) -> float:
        """Return from when on the holder of another replica's record may act.

        We first saw the record after it was sent, so the result is rather late than early. If the
        record does not say how long to wait, a TTL is long enough in every case.
        """
        if record.promoted:
            return now
        latest = now + self.timing.ttl
        return min(latest, self.seen_at + record.wait) if record.wait else latest

    def _failed(self, write: Write, known: Entry, now: float) -> None:
        """After a failed write, plan a look, unless a newer entry explains the failure.

        A refusal explains nothing, because the server can refuse even the rightful holder
        (nats-server#7281).
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
        """Make the record that a write of ours stored our lease."""
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
        """Return from when on the holder of a record that we stored may act."""
        if not record.promoted:
            return NEVER
        if self.lease is not None and self.lease.acts_from < NEVER:
            return self.lease.acts_from
        relay = self.record is not None and self.record.promoted
        late = self.timing.promotion is Promotion.NEXT_CAMPAIGN and not relay
        return now + STAND_DOWN if late else now

    # Inside, about news

    def _is_old(self, entry: Entry, look: Look | None) -> bool:
        """Whether an entry contains nothing new."""
        known = self.latest
        if known is None or entry.revision > known.revision:
            return False
        if entry.revision == known.revision and _same(entry, known):
            return True
        # The watch was faster than a read, or the answer to a write was faster than the watch.
        return look is None or known.revision > look.known

    def _contradicts(self, entry: Entry) -> bool:
        """Whether an entry of the watch contradicts the latest entry.

        That happens if the watch's server lags behind or if the bucket was created again.
        """
        if isinstance(entry, Nothing):
            return self.record is not None
        known = self.latest or entry
        return entry.revision == known.revision and not _same(entry, known)

    def _found(self, record: Record, at: float, now: float) -> None:
        """Observe a new record, which we, another replica of our site or another member wrote."""
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
        """Note that a member holds the record: we or another one."""
        self._past.held(record, now)
        self.evicted = None
        if self.timing.profile is Profile.PROMPT or self.lease is not None:
            self.tries = 0
        self._know(record, at, now)

    def _vacated(self, entry: Marker | Nothing, at: float, now: float) -> None:
        """Observe that the key holds no record."""
        cause = entry.cause if isinstance(entry, Marker) else Cause.EXPIRED
        held = self.lease.record if self.lease is not None else self.record
        if cause is Cause.EVICTED and held is not None and self._may_be_ours(held):
            # Let other members try first, because the person who evicted us wants another leader.
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
        """End our lease, if there is one, and forget all open writes that were begun under it."""
        if self.lease is None:
            return
        if self._announced:
            self._events.append(Lost(self.lease.record, loss))
        self.lease, self._ended, self._announced = None, self.lease, False
        self._open.clear()


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries of one revision are equal. In a bucket created again they may differ."""
    if isinstance(one, Record) and isinstance(other, Record):
        return (one.replica, one.holder, one.sent_at) == (
            other.replica,
            other.holder,
            other.sent_at,
        )
    return type(one) is type(other)
