"""What the pure machine decides, told as scenes: a clock, a key, and what happens to it."""

import itertools
from dataclasses import replace

import pytest

from incumbent.campaign.events import Loss, Lost, Relieved, Won
from incumbent.campaign.machine import NEVER, Campaign, Create, Look, Member, Renew, Wait
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import (
    Cause,
    Marker,
    Nominee,
    Nothing,
    Profile,
    Promotion,
    Record,
    State,
)
from incumbent.campaign.succession import Awaited
from incumbent.campaign.timing import timing_for
from incumbent.campaign.wire import entry_from

TTL = 30.0
INTERVAL = TTL / 3
CHORIA_INTERVAL = 0.75 * TTL
DEADLINE = 27.0
"""Seconds from sending a write until it no longer counts."""
STRANGER_AFTER = 0.75 * TTL + 0.2

POD = Nominee("site/shop/a", "uid-a")
OTHER_POD = Nominee("site/shop/b", "uid-b")

# What others write. The scene gives each its revision.
STRANGER = Record(0, "choria.example.net", term=0)
EMPTY_PUT = Record(0, "", term=0)
MEMBER = Record(0, "other/shop/x", term=0, replica="other-1", site="other")
UNPROMOTED = replace(MEMBER, promoted=False)
SIBLING = Record(0, POD.identity, 0, replica="sibling-1", site="site", pod_uid=POD.pod_uid)
EVICTED = Marker(0, Cause.EVICTED)
EXPIRED = Marker(0, Cause.EXPIRED)
RELEASED = Marker(0, Cause.RELEASED)
NOTHING = Nothing()


class Scene:
    """One member, the clock, and the key as the server has it."""

    def __init__(
        self,
        key=NOTHING,
        *,
        site="site",
        nominee=POD,
        profile=Profile.PROMPT,
        jitter=0.0,
        revision=100,
        **settings,
    ):
        self.now = 1000.0
        self.revision = revision
        timing = timing_for(settings.pop("ttl", TTL), profile=profile, **settings)
        member = Member("me-1", site)
        self.campaign = Campaign(member, timing, self.now, random=lambda: jitter)
        self.campaign.nominate(nominee)
        if key is not None:
            self.watch(key, live=False)

    # Time

    @property
    def step(self):
        """What the machine wants now."""
        return self.campaign.poll(self.now)

    def after(self, seconds):
        """Let time pass."""
        self.now += seconds
        return self

    def until_due(self):
        """Let time pass until the machine wants something; return that."""
        while isinstance(step := self.step, Wait):
            assert self.now < step.until < NEVER
            self.now = step.until
        return step

    # The bucket

    def watch(self, entry, *, age=0.0, live=True, unseen_for=NEVER):
        """Let the watch show an entry; without a revision it is a new one."""
        entry = self._numbered(entry)
        self.campaign.observe(Sighting(entry, age, live, unseen_for), self.now)
        return entry

    def look(self, entry, *, age=0.0, unseen_for=NEVER):
        """Answer the look that the machine wants."""
        look = self.until_due()
        assert isinstance(look, Look)
        entry = self._numbered(entry)
        self.campaign.observe(Sighting(entry, age, unseen_for=unseen_for), self.now, look=look)
        return entry

    def begin(self):
        """Begin the write that the machine wants; a look before it shows nothing new."""
        step = self.until_due()
        if isinstance(step, Look) and step.known == self.campaign.latest.revision:
            self.look(self.campaign.latest)
        match self.until_due():
            case Create():
                return self.campaign.begin_create(self.now)
            case Renew():
                return self.campaign.begin_renewal(self.now)
            case step:
                pytest.fail(f"it wants to {step}")

    def store(self, write):
        """Let a write be stored and answered."""
        self.revision += 1
        self.campaign.answered(write, Answer(Outcome.STORED, self.revision), self.now)
        return self.entry_of(write)

    def store_unanswered(self, write):
        """Let a write be stored, and its answer be lost; return what the key shows now."""
        self.revision += 1
        self.lose(write)
        return self.entry_of(write)

    def refuse(self, write):
        """Let a write be refused."""
        self.campaign.answered(write, Answer(Outcome.REFUSED), self.now)

    def lose(self, write):
        """Let there be no answer to a write."""
        self.campaign.answered(write, Answer(Outcome.UNKNOWN), self.now)

    def entry_of(self, write, revision=None):
        """Return what the key shows after a write."""
        value = write.record.holder.encode() if write.record else b""
        return entry_from(value, write.headers, revision or self.revision)

    def _numbered(self, entry):
        if entry.revision or isinstance(entry, Nothing):
            self.revision = max(self.revision, entry.revision)
            return entry
        self.revision += 1
        if isinstance(entry, Record) and not entry.term:
            return replace(entry, revision=self.revision, term=self.revision)
        return replace(entry, revision=self.revision)

    # Short cuts

    def lead(self):
        """Come to lead; return our record."""
        record = self.store(self.begin())
        while not self.leads:
            record = self.store(self.begin())
        self.events()
        return record

    @property
    def leads(self):
        """Whether the holder may act now."""
        return self.campaign.leads(self.now)

    @property
    def state(self):
        """What the member is."""
        return self.campaign.state(self.now)

    def events(self):
        """Return what happened since the last call, time included."""
        self.campaign.poll(self.now)
        assert self.campaign.has_events == bool(self.campaign._events)
        return self.campaign.events()

    def lost(self):
        """Return why leadership was lost since the last call, oldest first."""
        return [event.loss for event in self.events() if isinstance(event, Lost)]


def prompt(key=NOTHING, **settings):
    return Scene(key, **settings)


def choria(key=NOTHING, **settings):
    return Scene(key, profile=Profile.CHORIA, site="", **{"splay": 0.0, **settings})


def library(key=NOTHING, **settings):
    return Scene(key, site="", nominee=Nominee("me"), **settings)


# The start


def test_nothing_is_known_and_nothing_is_done_before_the_key_is_seen():
    """A member without a sight of the key is unknown, and waits."""
    scene = Scene(key=None)

    assert scene.state is State.UNKNOWN == 0
    assert scene.step == Wait(NEVER)
    assert scene.campaign.begin_create(scene.now) is None
    assert scene.campaign.begin_renewal(scene.now) is None
    assert scene.campaign.begin_release(scene.now) is None


def test_a_member_that_saw_the_key_is_a_candidate():
    """A vacant key makes a candidate, which creates at once."""
    scene = prompt()

    assert scene.state is State.CANDIDATE == 1
    assert scene.step == Create()


def test_nobody_is_elected_without_a_nominee():
    """Without a nominee a vacant key stays vacant."""
    scene = prompt(nominee=None)

    assert scene.step == Wait(NEVER)
    assert scene.campaign.begin_create(scene.now) is None


@pytest.mark.parametrize(
    ("profile", "splay", "jitter", "starts_after"),
    (
        (Profile.PROMPT, None, 0.5, 0),
        (Profile.PROMPT, 4.0, 0.5, 2),
        (Profile.CHORIA, None, 0.0, 0),
        (Profile.CHORIA, None, 0.5, 2.5),
        (Profile.CHORIA, None, 0.99, 4.95),
    ),
)
def test_the_first_campaign_comes_at_a_random_moment(profile, splay, jitter, starts_after):
    """The first attempt comes within the splay, also when the watch shows a vacancy before."""
    scene = Scene(profile=profile, splay=splay, jitter=jitter)

    assert scene.campaign.begin_create(scene.now + starts_after - 0.01) is None or not starts_after
    assert scene.after(starts_after).step == Create()


# The candidate


@pytest.mark.parametrize("marker", (EVICTED, EXPIRED, RELEASED))
def test_a_create_expects_the_marker_that_was_seen(marker):
    """A create replaces the marker that was seen and no other."""
    scene = prompt(marker)

    assert scene.begin().expected == scene.campaign.latest.revision > 0


def test_a_create_at_an_empty_key_expects_no_message():
    """The record of a new term says who wrote it for whom, and names no term yet."""
    scene = prompt()

    write = scene.begin()

    assert write.expected == 0
    assert write.timeout == 2
    assert write.record.holder == POD.identity
    assert write.headers == {
        "Incumbent-Replica": "me-1",
        "Incumbent-Site": "site",
        "Incumbent-Pod-UID": "uid-a",
        "Incumbent-Promoted": "true",
        "Incumbent-Sent-At": "1000.0",
    }


def test_a_refused_create_counts_a_try_and_a_stored_one_none():
    """Tries count the attempts that did not succeed."""
    scene = prompt()

    scene.refuse(scene.begin())
    scene.look(NOTHING)
    assert scene.campaign.tries == 1

    scene.store(scene.begin())
    assert scene.campaign.tries == 0
    assert scene.state is State.LEADER == 2


def test_a_refusal_that_reveals_an_unseen_marker_is_looked_into():
    """A marker that the watch did not show yet is read before it is replaced."""
    scene = prompt()

    scene.refuse(scene.begin())
    marker = scene.look(EXPIRED)

    assert scene.begin().expected == marker.revision


def test_a_refusal_that_reveals_a_record_makes_no_second_attempt():
    """Who lost the race waits for the next vacancy."""
    scene = prompt()

    scene.refuse(scene.begin())
    scene.look(MEMBER)

    assert scene.step == Wait(scene.now + TTL)


def test_a_create_whose_answer_was_lost_is_found_by_a_look():
    """A create without an answer that was stored makes a leader, counted from its sending."""
    scene = prompt()

    write = scene.begin()
    scene.after(2)
    record = scene.store_unanswered(write)
    assert not scene.leads
    scene.look(record)

    assert scene.leads
    assert scene.campaign.lease.deadline == write.sent_at + DEADLINE
    assert scene.events() == [Won(record)]


def test_a_create_without_an_answer_is_tried_again_only_after_a_look():
    """While it is not known whether a create was stored, none is begun."""
    scene = prompt()

    scene.lose(scene.begin())
    assert scene.step == Look(0, 2)
    assert scene.campaign.begin_create(scene.now) is None
    assert scene.campaign.unanswered

    scene.look(NOTHING)
    assert scene.campaign.unanswered
    assert isinstance(scene.until_due(), Create)


def test_an_earlier_create_that_arrives_late_is_adopted():
    """Of two attempts to create, the one that was stored counts, from its own sending."""
    scene = prompt()

    first = scene.begin()
    scene.after(2).lose(first)
    scene.look(NOTHING)
    second = scene.begin()
    scene.refuse(second)
    record = scene.look(scene.entry_of(first, 200))

    assert scene.campaign.lease.record == record
    assert scene.campaign.lease.sent_at == first.sent_at
    assert not scene.campaign.unanswered


def test_a_stored_create_may_be_answered_after_the_watch_showed_it():
    """An acknowledgement that comes after the watch, or twice, changes nothing."""
    scene = prompt()

    write = scene.begin()
    scene.watch(scene.entry_of(write, 101))
    lease = scene.after(1).campaign.lease
    for _ in range(2):
        scene.campaign.answered(write, Answer(Outcome.STORED, 101), scene.now)

    assert scene.campaign.lease == lease
    assert [type(event) for event in scene.events()] == [Won]


@pytest.mark.parametrize("outcome", (Outcome.REFUSED, Outcome.UNKNOWN))
def test_no_look_is_needed_when_the_watch_has_explained_a_failure(outcome):
    """What the watch shows before the answer is the answer."""
    scene = prompt()

    write = scene.begin()
    scene.watch(MEMBER)
    scene.campaign.answered(write, Answer(outcome), scene.now)

    assert scene.step == Wait(scene.now + TTL)
    assert not scene.campaign.unanswered


def test_news_from_the_watch_makes_a_look_needless():
    """A look that is due is dropped when the watch shows what it was to find out."""
    scene = prompt()

    scene.refuse(scene.begin())
    assert isinstance(scene.step, Look)
    scene.watch(MEMBER)

    assert scene.step == Wait(scene.now + TTL)


# The leader


def test_the_holder_of_an_unused_key_acts_at_once():
    """Nobody is waited for when nobody held the key; the record is won once."""
    scene = prompt()

    record = scene.store(scene.begin())

    assert scene.campaign.events() == [Won(record)], "without another poll"
    assert scene.leads
    assert not scene.campaign.stands_by
    assert record == Record(101, POD.identity, 101, "me-1", "site", POD.pod_uid, sent_at=1000.0)
    assert scene.events() == []


@pytest.mark.parametrize(("member", "interval"), ((prompt, INTERVAL), (choria, CHORIA_INTERVAL)))
def test_a_leader_renews_every_interval(member, interval):
    """A renewal is due an interval after the last one was sent, and keeps the term."""
    scene = member()
    first = scene.lead()
    sent_at = scene.campaign.lease.sent_at

    write = scene.begin()

    assert scene.now == pytest.approx(sent_at + interval)
    assert write.expected == first.revision
    renewed = scene.store(write)
    assert renewed == replace(first, revision=first.revision + 1, sent_at=scene.now)
    assert scene.events() == []


def test_a_renewal_may_come_before_it_is_due():
    """A driver may renew whenever it needs a fresh write."""
    scene = prompt()
    scene.lead()

    scene.store(scene.after(1).campaign.begin_renewal(scene.now))

    assert scene.campaign.lease.deadline == scene.now + DEADLINE


def test_a_prompt_leader_retries_inside_the_interval():
    """After a write without an answer and a look, the next attempt follows at once."""
    scene = prompt()
    record = scene.lead()

    write = scene.begin()
    scene.after(2).lose(write)
    scene.look(record)

    assert scene.begin().expected == record.revision
    assert scene.now == write.sent_at + 2


def test_a_choria_leader_waits_for_its_next_tick():
    """In the Choria profile nothing is retried before the next tick."""
    scene = choria()
    record = scene.lead()

    write = scene.begin()
    scene.after(2).lose(write)
    scene.look(record)

    assert scene.step.until == write.sent_at + scene.campaign.timing.lease - CHORIA_INTERVAL


def test_a_refused_renewal_is_no_loss_while_the_record_is_ours():
    """A server may refuse the rightful holder (nats-server#7281), which then tries again."""
    scene = prompt()
    record = scene.lead()

    scene.refuse(scene.begin())
    scene.look(record)
    assert not scene.campaign.unanswered
    scene.store(scene.begin())

    assert scene.leads
    assert scene.events() == []


@pytest.mark.parametrize("member", (prompt, choria, library))
@pytest.mark.parametrize("theirs", (STRANGER, EMPTY_PUT, MEMBER))
def test_a_leader_whose_renewal_is_refused_for_another_record_has_lost(member, theirs):
    """Somebody else's record ends the leadership once, and is never written over."""
    scene = member()
    record = scene.lead()

    scene.refuse(scene.begin())
    scene.look(theirs)

    assert scene.events() == [Lost(record, Loss.OVERTAKEN)]
    assert scene.state is State.CANDIDATE
    assert scene.campaign.begin_renewal(scene.now) is None
    assert scene.campaign.begin_transfer(OTHER_POD, scene.now) is None
    assert scene.campaign.begin_release(scene.now) is None


def test_a_leader_that_sees_another_record_steps_down_at_once():
    """The watch is enough to lose; the renewal in flight does not bring it back."""
    scene = prompt()
    record = scene.lead()

    write = scene.begin()
    scene.watch(STRANGER)
    scene.refuse(write)

    assert scene.events() == [Lost(record, Loss.OVERTAKEN)]
    assert not scene.leads
    assert scene.step == Wait(scene.now + TTL)


def test_a_renewal_whose_answer_was_lost_is_adopted():
    """A renewal without an answer that was stored counts, from its sending; nothing is lost."""
    scene = prompt()
    scene.lead()

    write = scene.begin()
    scene.after(2)
    scene.look(scene.store_unanswered(write))

    assert scene.campaign.lease.deadline == write.sent_at + DEADLINE
    assert scene.campaign.lease.record.revision == scene.revision
    assert scene.events() == []
    assert not scene.campaign.unanswered


# The deadline


@pytest.mark.parametrize(("member", "renewals"), ((prompt, 1), (choria, 0)))
def test_leadership_ends_by_the_deadline_counted_from_the_sending(member, renewals):
    """However late an answer comes, leadership ends a TTL less a margin after the sending."""
    scene = member()
    record = scene.lead()
    for _ in range(renewals):
        write = scene.begin()
        scene.after(1.5)
        record = scene.store(write)
    deadline = scene.campaign.lease.sent_at + DEADLINE

    assert scene.campaign.leads(deadline - 0.001)
    assert not scene.campaign.leads(deadline)
    scene.now = deadline
    assert scene.state is State.CANDIDATE
    assert scene.events() == [Lost(record, Loss.DEADLINE)]
    assert scene.events() == []


def test_without_answers_leadership_ends_before_the_server_gives_the_key_away():
    """A black-holed link: retries and failing looks go on until the deadline, then it is lost."""
    scene = prompt()
    scene.lead()
    start = scene.campaign.lease.sent_at
    attempts = 0

    while (step := scene.until_due()) and scene.campaign.lease is not None:
        if isinstance(step, Renew):
            write = scene.begin()
            scene.after(write.timeout).lose(write)
            attempts += 1
        else:
            scene.after(step.timeout).campaign.unreadable(scene.now)

    assert attempts == 1, "a write is not repeated before its outcome was looked for"
    assert scene.now == pytest.approx(start + DEADLINE)
    assert scene.lost() == [Loss.DEADLINE]


def test_looks_that_fail_are_repeated_at_growing_distances():
    """A read that fails is tried again after a pause that grows to half a second."""
    scene = library()
    scene.lose(scene.begin())

    pauses = []
    for _ in range(12):
        assert isinstance(scene.step, Look)
        scene.campaign.unreadable(scene.now)
        pauses.append(scene.step.until - scene.now)
        scene.until_due()

    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.1)
    assert pauses[-1] == pytest.approx(0.5)
    scene.look(NOTHING)
    scene.lose(scene.begin())
    scene.campaign.unreadable(scene.now)
    assert scene.step.until - scene.now == pytest.approx(0.1)


def test_nothing_is_waited_for_past_the_deadline():
    """Close to the deadline a write and a look get only the time that is left."""
    scene = prompt()
    record = scene.lead()
    scene.after(DEADLINE - 0.5)

    write = scene.begin()
    assert write.timeout == pytest.approx(0.5)
    scene.after(0.2).lose(write)
    assert scene.step.timeout == pytest.approx(0.3)

    scene.look(record)
    assert scene.step == Renew()
    scene.store(scene.begin())
    assert scene.campaign.begin_renewal(scene.now).timeout == 2


@pytest.mark.parametrize(
    "begin",
    (
        lambda scene: scene.campaign.begin_create(scene.now),
        lambda scene: scene.campaign.begin_renewal(scene.now),
        lambda scene: scene.campaign.begin_transfer(OTHER_POD, scene.now),
    ),
    ids=("create", "renewal", "transfer"),
)
def test_a_process_that_stood_still_looks_before_it_writes(begin):
    """After a pause of a minute the first act is to find out, not to write."""
    scene = prompt()
    record = scene.lead()

    scene.after(60)

    assert begin(scene) is None
    assert not scene.leads
    assert scene.step == Look(record.revision, 2)
    assert scene.events() == [Lost(record, Loss.DEADLINE)]


@pytest.mark.parametrize("lead_first", (True, False))
def test_an_acknowledgement_from_before_a_pause_makes_no_leader(lead_first):
    """A write that was stored before a pause of a minute does not count after it."""
    scene = prompt()
    if lead_first:
        scene.lead()

    write = scene.begin()
    scene.after(60).store(write)

    assert not scene.leads
    assert isinstance(scene.step, Look)
    assert [type(event) for event in scene.events()] == [Lost] * lead_first


@pytest.mark.parametrize("which", (0, 1))
def test_an_adopted_record_counts_from_the_sending_of_the_write_that_stored_it(which):
    """Of two attempts alike, the record itself tells which was stored."""
    scene = prompt()
    record = scene.lead()
    writes = []
    for _ in range(2):
        writes.append(scene.begin())
        scene.after(2).lose(writes[-1])
        scene.look(record)

    scene.watch(scene.entry_of(writes[which], 300))

    assert writes[0].sent_at < writes[1].sent_at
    assert scene.campaign.lease.deadline == writes[which].sent_at + DEADLINE
    assert not scene.campaign.unanswered


def test_a_create_that_a_late_watch_seemed_to_rule_out_still_counts_from_its_own_sending():
    """A marker that the watch shows late may be gone, and expecting no message is right again."""
    scene = prompt()
    early = scene.begin()
    scene.watch(EXPIRED)
    scene.after(4).lose(early)
    record = scene.entry_of(early, 200)

    late = scene.begin()
    scene.watch(record)
    scene.refuse(late)

    assert late.expected == 101
    assert scene.leads
    assert scene.campaign.lease.deadline == early.sent_at + DEADLINE


def test_a_create_that_arrives_when_it_is_worth_nothing_any_more_is_not_adopted():
    """A write older than a lease is forgotten; a later one is not taken for it."""
    scene = prompt()
    ancient = scene.begin()
    scene.lose(ancient)
    scene.look(NOTHING)
    scene.after(DEADLINE)
    scene.lose(scene.begin())

    scene.look(scene.entry_of(ancient, 200))

    assert scene.campaign.lease is None
    assert scene.step == Renew()


def test_a_stored_create_that_was_replaced_before_its_answer_came_is_history():
    """An answer that is older than what the watch showed makes no leader."""
    scene = prompt()

    write = scene.begin()
    scene.watch(replace(MEMBER, revision=150, term=150), live=False)
    scene.campaign.answered(write, Answer(Outcome.STORED, 101), scene.now)

    assert scene.campaign.lease is None
    assert scene.campaign.record.revision == 150


@pytest.mark.parametrize("seen", ("look", "watch"))
def test_the_record_that_is_known_already_moves_no_deadline(seen):
    """To see one's own old record again is no renewal."""
    scene = prompt()
    record = scene.lead()
    deadline = scene.campaign.lease.deadline

    scene.after(2).lose(scene.begin())
    getattr(scene, seen)(record)

    assert scene.campaign.lease.deadline == deadline
    assert scene.campaign.unanswered


def test_an_older_record_of_ours_moves_no_deadline():
    """A bucket that went back to an older record of ours ends the lease, open writes or not."""
    scene = library()
    old = scene.lead()
    scene.store(scene.begin())
    scene.lose(scene.begin())

    scene.look(old)

    assert not scene.leads
    assert scene.lost() == [Loss.OVERTAKEN]


def test_a_write_of_an_ended_lease_brings_no_lease_back():
    """What was begun before the deadline and stored after it is taken up by a new write only."""
    scene = prompt()
    first = scene.lead()
    scene.after(DEADLINE - 1)
    late = scene.begin()
    scene.after(1).lose(late)
    assert scene.lost() == [Loss.DEADLINE]

    scene.look(first)
    renewal = scene.begin()
    scene.refuse(renewal)
    scene.look(scene.entry_of(late, 200))
    assert not scene.leads
    assert scene.events() == []

    record = scene.store(scene.begin())
    assert scene.leads
    assert scene.events() == [Won(record)]


@pytest.mark.parametrize(
    ("member", "same_term"), ((prompt, True), (library, False), (choria, False))
)
def test_a_member_that_finds_its_own_record_after_its_deadline_takes_it_up(member, same_term):
    """A site goes on with its term; a member for itself has lost it and begins a new one."""
    scene = member()
    before = scene.lead()
    scene.now = scene.campaign.lease.deadline
    assert scene.lost() == [Loss.DEADLINE]

    scene.look(before)
    gave_up_at = scene.now
    after = scene.store(scene.begin())

    assert scene.now == gave_up_at or scene.campaign.timing.profile is Profile.CHORIA
    assert (after.term == before.term) == same_term
    assert scene.leads
    assert scene.events() == [Won(after)]


@pytest.mark.parametrize("member", (prompt, library))
def test_a_wait_that_was_inherited_is_not_begun_anew_after_a_deadline(member):
    """A member that takes up its own record still knows whom it had to wait for."""
    scene = member(EVICTED)
    vacant_at = scene.now
    record = scene.store(scene.begin())
    scene.now = scene.campaign.lease.deadline
    scene.look(record)

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + TTL)


def test_a_choria_member_whose_record_expired_unseen_becomes_a_candidate_again():
    """Without markers a refused renewal of one's own old record is looked into."""
    scene = choria()
    record = scene.lead()
    scene.now = scene.campaign.lease.deadline
    scene.look(record)

    scene.refuse(scene.begin())
    scene.look(NOTHING)

    assert isinstance(scene.until_due(), Create)


def test_a_lower_ttl_shortens_the_lease_at_once():
    """The server counts by its new TTL from the moment that it is set."""
    scene = prompt()
    scene.lead()
    sent_at = scene.campaign.lease.sent_at

    scene.campaign.timing = timing_for(60)
    assert scene.campaign.timing.ttl == 60
    assert scene.campaign.lease.deadline == sent_at + DEADLINE
    scene.campaign.timing = timing_for(10)
    assert scene.campaign.lease.deadline == sent_at + 9

    scene.after(9)
    assert scene.lost() == [Loss.DEADLINE]
    scene.campaign.timing = timing_for(30)
    assert scene.campaign.lease is None


def test_a_higher_ttl_loses_no_lease():
    """The lease in hand ends by the old TTL, so it is renewed before the new interval is over."""
    scene = prompt(ttl=6)
    scene.lead()
    scene.after(1)
    deadline = scene.campaign.lease.deadline

    scene.campaign.timing = timing_for(TTL)
    assert scene.campaign.lease.deadline == deadline
    assert scene.step == Renew()
    scene.store(scene.campaign.begin_renewal(scene.now))
    assert scene.campaign.lease.deadline == scene.now + DEADLINE
    assert isinstance(scene.step, Wait)
    assert scene.lost() == []


def test_another_namespace_of_the_site_is_somebody_else():
    """An operator for other namespaces has the same site, and none of our pods."""
    scene = prompt()
    scene.campaign.member = replace(scene.campaign.member, holders="site/shop/")
    scene.watch(replace(SIBLING, holder="site/other/a"))
    assert not scene.campaign.ours(scene.campaign.record)
    assert isinstance(scene.step, Wait)
    scene.watch(SIBLING)
    assert scene.campaign.ours(scene.campaign.record)


# Promotion


def watch_all(scene, *entries):
    """Let the watch show entries, each with the seconds that pass before it."""
    for seconds, entry in entries:
        scene.after(seconds).watch(entry)


@pytest.mark.parametrize(
    ("before", "waits"),
    (
        pytest.param([(0, RELEASED)], 0, id="released by somebody unseen"),
        pytest.param([(0, MEMBER), (9, RELEASED)], 0, id="released by a member"),
        pytest.param([(0, MEMBER), (TTL, EXPIRED)], 0, id="expired, of a member"),
        pytest.param([(0, UNPROMOTED), (TTL, EXPIRED)], 0, id="expired, of one not promoted"),
        pytest.param([(0, MEMBER), (24, EXPIRED)], 6, id="expired by a clock that is ahead"),
        pytest.param([(0, UNPROMOTED), (24, EXPIRED)], 6, id="not promoted, expired by that clock"),
        pytest.param([(0, STRANGER), (TTL, EXPIRED)], STRANGER_AFTER, id="expired, of a stranger"),
        pytest.param([(0, EXPIRED)], STRANGER_AFTER, id="expired, of somebody unseen"),
        pytest.param([(0, MEMBER), (9, EVICTED)], TTL - 9, id="evicted, a member"),
        pytest.param([(0, UNPROMOTED), (9, EVICTED)], TTL - 9, id="evicted, one not promoted"),
        pytest.param([(0, STRANGER), (9, EVICTED)], STRANGER_AFTER, id="evicted, a stranger"),
        pytest.param(
            [(0, MEMBER), (1, STRANGER), (1, EVICTED)],
            TTL - 1,
            id="evicted, a stranger that had overtaken a member",
        ),
        pytest.param([(0, EVICTED)], TTL, id="evicted, somebody unseen"),
        pytest.param(
            [(0, MEMBER), (9, RELEASED), (TTL, EXPIRED)], 0, id="a release that itself expired"
        ),
        pytest.param(
            [(0, STRANGER), (9, EVICTED), (TTL, EXPIRED)], 0, id="an eviction that itself expired"
        ),
        pytest.param([(0, MEMBER), (9, EVICTED), (4, EVICTED)], TTL - 13, id="a key deleted twice"),
        pytest.param(
            [(0, MEMBER), (9, RELEASED), (1, STRANGER), (TTL, EXPIRED)],
            STRANGER_AFTER,
            id="a stranger after a release",
        ),
    ),
)
def test_who_takes_over_waits_until_nobody_before_it_can_act(before, waits):
    """The holder acts when whoever held the key before has certainly stopped, and not earlier."""
    scene = prompt(NOTHING)
    watch_all(scene, *before)
    vacant_at = scene.now

    first = scene.store(scene.begin())
    assert first.promoted == scene.leads == (waits == 0)
    while not scene.leads:
        record = scene.store(scene.begin())

    assert scene.now == pytest.approx(vacant_at + waits)
    assert scene.events() == [Won(record if waits else first)]


@pytest.mark.parametrize("age", (9, TTL, 900))
def test_a_renewal_counts_from_its_first_sight_whatever_a_server_says_of_its_age(age):
    """It was stored by a server with one clock, and its age is told by one with another."""
    scene = prompt(None)
    scene.watch(MEMBER, age=age, live=False)
    seen_at = scene.now
    scene.after(9).watch(EVICTED)

    scene.lead()

    assert scene.now == pytest.approx(seen_at + TTL)


def test_a_renewal_that_a_new_watch_shows_again_counts_from_its_first_sight():
    """It is no younger for that."""
    scene = prompt(None)
    record = scene.watch(MEMBER)
    seen_at = scene.now
    scene.after(9).watch(record, live=False)
    scene.after(9).watch(EVICTED)

    scene.lead()

    assert scene.now == pytest.approx(seen_at + TTL)


@pytest.mark.parametrize("shown", ("watched", "read"))
@pytest.mark.parametrize(
    ("holder", "gone", "age", "unseen_for", "waits"),
    (
        pytest.param(MEMBER, EXPIRED, 0, 2, 0, id="a gap too short for another record to expire"),
        pytest.param(MEMBER, EXPIRED, 0, DEADLINE - 0.1, 0, id="the longest gap that is"),
        pytest.param(MEMBER, EXPIRED, 0, DEADLINE, STRANGER_AFTER, id="a gap that is not"),
        pytest.param(MEMBER, EXPIRED, 9, 30, 0, id="one that is, when the record expired"),
        pytest.param(MEMBER, EXPIRED, 9, 40, STRANGER_AFTER - 9, id="one that is not, then"),
        pytest.param(STRANGER, EXPIRED, 0, 2, STRANGER_AFTER, id="a stranger before the gap"),
        pytest.param(SIBLING, EXPIRED, 40, 0, 0, id="an outage in which nothing was stored"),
        pytest.param(MEMBER, EVICTED, 0, 0, 0, id="an eviction with nothing stored before it"),
        pytest.param(MEMBER, EVICTED, 0, 0.1, TTL, id="an eviction after the shortest gap"),
        pytest.param(MEMBER, RELEASED, 0, NEVER, 0, id="a release after any gap"),
    ),
)
def test_a_gap_in_which_nobody_can_have_held_the_key_changes_nothing(
    shown, holder, gone, age, unseen_for, waits
):
    """What expired was stored a TTL before. If that was before the gap, we have seen it."""
    scene = prompt(holder)
    scene.after(2 * TTL)
    if shown == "read":
        if not isinstance(scene.step, Look):
            scene.refuse(scene.begin())
        marker = scene.look(gone, age=age, unseen_for=unseen_for)
        if unseen_for < NEVER:  # what the watch shows later tells the same
            scene.watch(marker, age=age, live=False, unseen_for=unseen_for)
    else:
        scene.watch(gone, age=age, live=False, unseen_for=unseen_for)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + waits, abs=0.2)


def test_without_markers_a_new_watch_that_shows_nothing_after_a_short_gap_tells_who_held_it():
    """Another record cannot have come and expired in the meantime."""
    scene = prompt(MEMBER)
    scene.after(TTL).watch(NOTHING, live=False, unseen_for=5)
    scene.look(NOTHING)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at, abs=0.2)


def test_a_marker_that_a_new_watch_shows_again_makes_nobody_unknown():
    """The vacancy is known already, and who held the key before it."""
    scene = prompt(MEMBER, nominee=None)
    marker = scene.after(TTL).watch(EXPIRED)
    scene.after(5).watch(marker, age=5, live=False)

    scene.campaign.nominate(POD)
    scene.store(scene.begin())

    assert scene.leads


def test_an_expiry_from_before_the_start_is_as_old_as_the_server_says():
    """An operator that starts later waits no longer than one that saw it."""
    scene = prompt(None)
    scene.watch(EXPIRED, age=9, live=False)
    vacant_at = scene.now - 9

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + STRANGER_AFTER)


def test_an_eviction_from_before_the_start_is_as_new_as_its_first_sight():
    """Its holder keeps its deadline by its own clock, and a server's may be another."""
    scene = prompt(None)
    scene.watch(EVICTED, age=9, live=False)
    seen_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(seen_at + TTL)


@pytest.mark.parametrize(
    ("before", "awaited", "holder"),
    (
        ((MEMBER, EVICTED), Awaited.MEMBER, MEMBER.holder),
        ((UNPROMOTED, EVICTED), Awaited.EARLIER, ""),
        ((STRANGER, EXPIRED), Awaited.STRANGER, STRANGER.holder),
        ((EVICTED,), Awaited.UNKNOWN, ""),
    ),
)
def test_a_holder_that_waits_tells_for_whom_and_until_when(before, awaited, holder):
    """From its first write to the moment when it acts, also after renewals."""
    scene = prompt()
    watch_all(scene, *((1, entry) for entry in before))
    scene.store(scene.begin())
    waits = scene.campaign.waits(scene.now)
    scene.store(scene.campaign.begin_renewal(scene.after(1).now))

    assert scene.campaign.waits(scene.now) == waits
    assert (waits.awaited, waits.holder) == (awaited, holder)
    scene.lead()
    assert scene.now == pytest.approx(waits.at)
    assert scene.campaign.waits(scene.now) is None


def test_a_relayed_holder_that_waits_tells_that_the_record_says_so():
    """Who that is, it does not say."""
    scene = prompt(replace(SIBLING, promoted=False, wait=12))
    until = scene.now + 12
    scene.campaign.urge()
    scene.store(scene.begin())

    waits = scene.campaign.waits(scene.now)
    assert (waits.awaited, waits.at) == (Awaited.EARLIER, until)


def test_who_was_evicted_tells_until_when_others_go_first():
    """For an interval, as long as nobody holds the record."""
    scene = prompt()
    scene.lead()
    scene.watch(EVICTED)

    waits = scene.campaign.waits(scene.now)
    assert (waits.awaited, waits.at) == (Awaited.OTHERS, scene.now + INTERVAL)
    scene.watch(MEMBER)
    assert scene.campaign.waits(scene.now) is None


def test_the_promotion_of_the_next_campaign_is_told():
    """It has nobody to wait for."""
    scene = prompt(promotion=Promotion.NEXT_CAMPAIGN)
    scene.store(scene.begin())

    waits = scene.campaign.waits(scene.now)
    assert (waits.awaited, waits.at) == (Awaited.CAMPAIGN, scene.now + INTERVAL)


def test_an_eviction_that_only_a_read_has_shown_is_as_new_as_its_first_sight():
    """The watch may stay behind."""
    scene = prompt(MEMBER)
    scene.after(TTL).refuse(scene.begin())
    scene.look(EVICTED, age=9)
    seen_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(seen_at + TTL)


@pytest.mark.parametrize(
    ("live", "age", "settled_after"),
    (
        pytest.param(True, 20, TTL, id="a stranger whose age is said too great"),
        pytest.param(False, 5, TTL + 5, id="a stranger, and perhaps another member before it"),
    ),
)
def test_members_before_a_stranger_are_waited_for(live, age, settled_after):
    """By the last sight of their renewals, or that of the stranger if some may be missing."""
    scene = prompt(MEMBER)
    seen_at = scene.now
    scene.after(5).watch(STRANGER, age=age, live=live)
    scene.after(1).watch(EVICTED)

    scene.lead()

    assert scene.now == pytest.approx(seen_at + settled_after)


def test_a_gap_in_the_watch_makes_the_previous_holder_unknown():
    """A marker before which something may be missing tells nothing about the last holder."""
    scene = prompt(MEMBER)
    scene.after(9).watch(EVICTED, live=False)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + TTL)


def test_a_marker_after_a_gap_makes_a_new_vacancy():
    """After a gap, somebody may have held the key between two markers."""
    scene = prompt(RELEASED)
    scene.watch(EXPIRED, live=False)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + STRANGER_AFTER)


def test_a_vacancy_found_by_a_look_leaves_the_watch_a_moment():
    """A look does not tell who held the key; the watch, which does, gets 100 ms to catch up."""
    scene = prompt(MEMBER)
    scene.after(TTL).refuse(scene.begin())
    marker = scene.look(EXPIRED)
    assert scene.step == Wait(pytest.approx(scene.now + 0.1))

    scene.watch(marker)

    scene.store(scene.begin())
    assert scene.leads


def test_a_vacancy_known_from_a_look_only_counts_as_the_worst_case():
    """When the watch stays behind, the previous holder is unknown."""
    scene = prompt(RELEASED)
    scene.watch(MEMBER)
    scene.after(TTL).refuse(scene.begin())
    scene.look(EXPIRED)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + STRANGER_AFTER)


def test_a_watch_that_catches_up_with_a_look_shows_who_held_the_key_in_between():
    """The holder before a marker is the one that the watch shows before it."""
    scene = prompt(MEMBER)
    scene.after(TTL).refuse(scene.begin())
    scene.look(replace(EVICTED, revision=103))
    vacant_at = scene.now

    scene.watch(replace(STRANGER, revision=102, term=102), age=9)
    scene.watch(replace(EVICTED, revision=103))

    scene.lead()
    assert scene.now == pytest.approx(vacant_at + STRANGER_AFTER)


@pytest.mark.parametrize(("holder", "waits"), ((MEMBER, 0), (STRANGER, STRANGER_AFTER)))
@pytest.mark.parametrize("refused", (False, True))
def test_without_markers_the_last_record_watched_tells_who_held_the_key(holder, waits, refused):
    """A record that vanished without a marker has expired."""
    scene = prompt(holder)
    vacant_at = scene.now + TTL
    if refused:  # the server was late, and the record is gone when we look
        scene.refuse(scene.begin())
        scene.look(NOTHING)
        vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + waits, abs=0.2)


def test_a_holder_that_only_a_look_has_shown_is_not_forgotten():
    """When the watch stays behind, the last holder is the one that was read."""
    scene = prompt(MEMBER)
    scene.after(TTL).refuse(scene.begin())
    scene.look(STRANGER)
    scene.after(TTL).refuse(scene.begin())
    scene.look(NOTHING)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + STRANGER_AFTER)


def test_without_markers_a_new_watch_that_shows_nothing_makes_the_holder_unknown():
    """Whoever came and went while there was no watch may have been a stranger."""
    scene = prompt(MEMBER)
    scene.after(5).watch(NOTHING, live=False)
    scene.look(NOTHING)
    vacant_at = scene.now

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + STRANGER_AFTER)


def test_a_site_does_not_wait_for_itself():
    """A site has stripped its own pod before it creates: after its stay-out it acts at once."""
    scene = prompt(SIBLING)
    scene.after(9).watch(EVICTED)
    evicted_at = scene.now

    scene.store(scene.begin())

    assert scene.leads
    assert scene.now == evicted_at + INTERVAL


def test_a_site_inherits_the_wait_of_its_own_record_that_was_not_promoted():
    """Who had to be waited for before the eviction has to be waited for after it."""
    scene = prompt(replace(SIBLING, promoted=False))
    renewed_at = scene.now
    scene.after(1).watch(EVICTED)

    scene.lead()

    assert scene.now == pytest.approx(renewed_at + TTL)


def test_a_choria_member_acts_200_ms_after_its_second_campaign():
    """Won comes with the next successful campaign, an interval later, and 200 ms after it."""
    scene = choria()
    created_at = scene.now

    scene.store(scene.begin())
    assert scene.state is State.LEADER
    assert not scene.leads
    record = scene.store(scene.begin())
    assert scene.now == created_at + CHORIA_INTERVAL
    assert scene.events() == []

    assert scene.step == Wait(pytest.approx(scene.now + 0.2))
    assert scene.after(0.2).events() == [Won(record)]
    assert scene.leads


def test_a_choria_member_waits_longer_if_it_must():
    """The wait for a cut-off holder is not shortened by Choria's manners."""
    scene = choria(MEMBER)
    scene.after(1).watch(EVICTED)

    scene.store(scene.begin())
    scene.store(scene.begin())

    assert scene.now == 1001 + CHORIA_INTERVAL
    assert not scene.after(0.2).leads
    scene.store(scene.begin())
    assert scene.after(0.2).leads


def test_the_write_that_promotes_says_so():
    """Others see from the record whether its holder may act."""
    scene = prompt(EVICTED)

    writes = [scene.begin()]
    while not scene.leads:
        scene.store(writes[-1])
        writes.append(scene.begin())

    promoted = ["Incumbent-Promoted" in write.headers for write in writes]
    assert promoted == [False, False, False, True, True]


def test_a_promotion_whose_answer_was_lost_counts_from_when_it_is_found():
    """The holder acts when the promoting write is seen, not before."""
    scene = prompt(EVICTED)
    scene.store(scene.begin())
    while not (write := scene.begin()).record.promoted:
        scene.store(write)

    scene.after(2)
    record = scene.store_unanswered(write)
    assert not scene.leads
    scene.look(record)

    assert scene.events() == [Won(record)]
    assert scene.campaign.lease.acts_from == scene.now


# Vacancy


def vacancy_tries(scene, seconds):
    """Count the creates within some seconds when all are refused and the key shows no change."""
    known, end, times = scene.campaign.latest, scene.now + seconds, []
    while scene.now < end:
        match scene.until_due():
            case Create():
                times.append(scene.now)
                scene.refuse(scene.campaign.begin_create(scene.now))
            case Look():
                scene.look(known)
    return times


def test_a_record_that_is_not_renewed_is_vacant_a_ttl_after_it_was_seen():
    """Without markers nothing is shown: the own estimate counts from the age of the record."""
    scene = prompt(MEMBER)
    scene.watch(MEMBER, age=4)

    assert scene.step == Wait(pytest.approx(scene.now - 4 + TTL))
    assert scene.begin().expected == 0


@pytest.mark.parametrize(("age", "counted"), ((-3, 0), (999, TTL)))
def test_an_impossible_age_is_not_believed(age, counted):
    """The age of an entry lies between nothing and the TTL."""
    scene = prompt(None)

    scene.watch(MEMBER, age=age)

    assert scene.campaign.latest_at == scene.now - counted


@pytest.mark.parametrize("jitter", (0.0, 0.99))
def test_a_vacancy_makes_no_thundering_herd(jitter):
    """At most 10 quick attempts at growing distances, then one for each interval."""
    scene = prompt(MEMBER, jitter=jitter)

    times = vacancy_tries(scene.after(TTL), 5 * INTERVAL)

    quick = [time for time in times if time < times[0] + 5]
    distances = [after - before for before, after in itertools.pairwise(quick)]
    assert 8 <= len(quick) <= 10
    assert distances == sorted(distances)
    assert all(0.05 <= distance <= 0.5 for distance in distances)
    assert 3 <= len(times) - len(quick) <= 5


def test_the_marker_of_a_vacancy_that_was_expected_starts_no_new_count():
    """Attempts at one vacancy count on when its marker is shown."""
    scene = prompt(MEMBER)
    vacancy_tries(scene.after(TTL), 1)
    tries = scene.campaign.tries
    assert tries > 2

    scene.watch(EXPIRED)
    assert scene.step == Create()
    assert scene.campaign.tries == tries

    scene.watch(MEMBER)
    assert scene.campaign.tries == 0


def test_a_marker_makes_a_prompt_member_campaign_at_once():
    """The watch shows the vacancy, and the create follows."""
    scene = prompt(MEMBER)

    scene.after(3).watch(EXPIRED)

    assert scene.step == Create()


@pytest.mark.parametrize("entry", (MEMBER, EXPIRED, NOTHING))
def test_a_choria_candidate_tries_once_a_tick_and_never_looks_at_a_held_key(entry):
    """A Choria candidate creates at every tick, whatever the watch shows in between."""
    scene = choria(MEMBER)
    start = scene.now

    scene.refuse(scene.begin())
    assert scene.step == Wait(start + CHORIA_INTERVAL)
    scene.after(1).watch(entry)
    scene.until_due()

    if entry is NOTHING:  # of a new watch: the record may be there all the same
        scene.look(MEMBER)
        scene.until_due()
    assert scene.now == start + CHORIA_INTERVAL
    assert scene.step == Create()


def test_a_choria_member_that_lost_goes_on_at_its_next_tick():
    """A loss makes no haste."""
    scene = choria()
    scene.lead()
    sent_at = scene.campaign.lease.sent_at

    scene.after(1).watch(MEMBER)

    assert scene.step == Wait(sent_at + CHORIA_INTERVAL)


def test_a_choria_candidate_looks_when_a_refusal_is_not_explained_by_what_it_knows():
    """A record that should have expired, and a create refused all the same, need a look."""
    scene = choria(MEMBER)
    scene.refuse(scene.begin())
    scene.refuse(scene.begin())
    assert isinstance(scene.step, Wait)

    scene.refuse(scene.begin())
    scene.look(EXPIRED)

    assert scene.begin().expected == scene.campaign.latest.revision


def test_a_lost_answer_at_a_held_key_needs_no_look():
    """The watch shows what becomes of a create that was not expected to succeed."""
    scene = choria(MEMBER)

    write = scene.begin()
    scene.lose(write)
    assert isinstance(scene.step, Wait)
    record = scene.watch(scene.entry_of(write, 200))

    assert scene.campaign.lease.record == record


def test_a_prompt_member_can_be_promoted_like_a_choria_member():
    """It campaigns at once, and leads from its second stored write on, 200 ms later."""
    scene = prompt(promotion=Promotion.NEXT_CAMPAIGN)

    first = scene.store(scene.begin())
    won_at = scene.now
    assert not first.promoted
    second = scene.store(scene.begin())

    assert second.promoted
    assert scene.now == won_at + scene.campaign.timing.interval
    assert not scene.leads
    assert scene.campaign.lease.acts_from == pytest.approx(scene.now + 0.2)


def test_a_choria_member_can_be_promoted_at_once():
    """It keeps its tick, and leads from its first stored write on where nobody led before."""
    scene = choria(promotion=Promotion.AUTO)

    record = scene.store(scene.begin())

    assert record.promoted
    assert scene.leads
    assert scene.step == Wait(scene.now + CHORIA_INTERVAL)


def test_a_choria_candidate_backs_off_by_tries_until_it_succeeds():
    """The pause follows the tries, whoever renews meanwhile, and is the interval on success."""
    scene = choria(MEMBER, backoff=lambda tries: 30.0 + tries)
    times = []
    for _ in range(3):
        write = scene.begin()
        times.append(scene.now)
        scene.refuse(write)
        scene.watch(MEMBER)
    scene.watch(RELEASED)
    write = scene.begin()
    times.append(scene.now)

    scene.store(write)

    assert [after - before for before, after in itertools.pairwise(times)] == [31, 32, 33]
    assert scene.step == Wait(scene.now + CHORIA_INTERVAL)
    assert scene.campaign.tries == 0


# Eviction, corruption, a bucket that is gone


@pytest.mark.parametrize(
    ("gone", "loss"),
    ((EVICTED, Loss.EVICTED), (EXPIRED, Loss.EXPIRED), (RELEASED, Loss.RELEASED)),
)
@pytest.mark.parametrize("member", (prompt, choria, library))
def test_a_leader_whose_record_is_gone_steps_down_at_once(member, gone, loss):
    """However the record went, the leadership went with it, once."""
    scene = member()
    record = scene.lead()

    scene.watch(gone)

    assert not scene.leads
    assert scene.events() == [Lost(record, loss)]


@pytest.mark.parametrize(
    ("member", "interval"),
    ((prompt, INTERVAL), (library, INTERVAL), (choria, CHORIA_INTERVAL)),
)
def test_who_was_evicted_stays_out_for_an_interval(member, interval):
    """Whoever evicts a leader wants somebody else; the others have an interval's start."""
    scene = member()
    record = scene.lead()

    scene.after(1).watch(EVICTED)
    evicted_at = scene.now

    assert scene.campaign.evicted.identity == record.holder
    assert scene.campaign.begin_create(scene.now) is None
    scene.begin()
    assert scene.now == evicted_at + interval


def test_a_standby_keeps_out_of_an_eviction_of_its_site_too():
    """All replicas of a site whose leader was evicted stay out."""
    scene = prompt(SIBLING)

    scene.watch(EVICTED)

    assert scene.campaign.evicted == POD
    assert scene.step == Wait(scene.now + INTERVAL)


def test_the_eviction_of_somebody_else_keeps_nobody_out():
    """Others campaign at once when a leader is evicted."""
    scene = prompt(MEMBER)

    scene.watch(EVICTED)

    assert scene.campaign.evicted is None
    assert scene.step == Create()


@pytest.mark.parametrize("next_holder", (MEMBER, STRANGER, SIBLING))
def test_an_eviction_is_over_when_somebody_holds_the_record_again(next_holder):
    """Whoever comes next, the evicted pod may be nominated again after that."""
    scene = prompt()
    scene.lead()
    scene.watch(EVICTED)

    scene.watch(next_holder)

    assert scene.campaign.evicted is None


def test_the_evicted_pod_itself_may_come_back_if_there_is_nobody_else():
    """Its new term ends the eviction."""
    scene = prompt()
    scene.lead()
    scene.watch(EVICTED)

    scene.store(scene.begin())

    assert scene.campaign.evicted is None


@pytest.mark.parametrize("answer", ("stored", "refused", "lost"))
def test_an_eviction_while_a_renewal_is_in_flight_is_an_eviction(answer):
    """Whatever becomes of the renewal, what the watch shows after it counts."""
    scene = prompt()
    record = scene.lead()
    write = scene.begin()

    if answer == "stored":
        scene.watch(scene.entry_of(write, 102))
        scene.watch(EVICTED)
        scene.campaign.answered(write, Answer(Outcome.STORED, 102), scene.now)
        record = replace(record, revision=102, sent_at=write.sent_at)
    else:
        scene.watch(EVICTED)
        (scene.refuse if answer == "refused" else scene.lose)(write)

    assert scene.events() == [Lost(record, Loss.EVICTED)]
    assert not scene.campaign.unanswered
    assert scene.step == Wait(scene.now + INTERVAL)


def test_an_eviction_found_by_a_look_is_an_eviction():
    """The refusal of a renewal can be faster than the watch."""
    scene = prompt()
    scene.lead()

    scene.refuse(scene.begin())
    marker = scene.look(EVICTED)
    scene.watch(marker)

    assert scene.lost() == [Loss.EVICTED]
    assert scene.campaign.evicted == POD


def test_a_stale_watch_takes_nothing_away():
    """Older entries that the watch shows late, of whatever kind, are history."""
    scene = prompt(MEMBER)
    scene.watch(replace(EXPIRED, revision=102))
    record = scene.lead()

    for entry in (
        replace(MEMBER, revision=101),
        replace(EXPIRED, revision=102),
        replace(EVICTED, revision=102),
        record,
    ):
        scene.watch(entry)

    assert scene.leads
    assert scene.campaign.record == record
    assert scene.events() == []
    assert isinstance(scene.step, Wait)


def test_a_snapshot_that_leaves_records_out_is_enough_to_lose():
    """After a reconnect only the latest entry is shown; what it replaced is gone."""
    scene = prompt()
    record = scene.lead()

    scene.watch(replace(MEMBER, revision=190, term=188), live=False)

    assert scene.events() == [Lost(record, Loss.OVERTAKEN)]


def test_a_new_watch_that_shows_nothing_is_checked_before_it_is_believed():
    """The first answer of a new watch can come from a server that lags."""
    scene = prompt()
    record = scene.lead()

    scene.watch(NOTHING, live=False)
    assert scene.leads
    assert scene.campaign.begin_renewal(scene.now) is None
    scene.look(record)

    assert scene.leads
    assert scene.events() == []


def test_a_record_that_a_look_does_not_find_has_expired():
    """Nothing at the key, read from the leader of the stream, is a loss."""
    scene = prompt()
    record = scene.lead()

    scene.watch(NOTHING, live=False)
    scene.look(NOTHING)

    assert scene.events() == [Lost(record, Loss.EXPIRED)]


def test_a_look_that_was_overtaken_by_the_watch_is_history():
    """What the watch showed after the read was sent is newer."""
    scene = prompt()

    scene.refuse(scene.begin())
    look = scene.step
    scene.watch(MEMBER)
    scene.campaign.observe(Sighting(NOTHING), scene.now, look=look)

    assert scene.campaign.record is not None
    assert isinstance(scene.step, Wait)


def test_a_bucket_that_went_back_is_believed():
    """An older revision from the leader of the stream means that the newer one is lost."""
    scene = prompt()
    record = scene.lead()

    scene.refuse(scene.begin())
    scene.look(replace(STRANGER, revision=7, term=7))

    assert scene.events() == [Lost(record, Loss.OVERTAKEN)]
    assert scene.campaign.record.revision == 7


def test_a_record_of_the_revision_of_a_known_marker_is_news():
    """The same holds while the key is vacant."""
    scene = prompt(EXPIRED)

    scene.watch(replace(MEMBER, revision=101, term=101))
    scene.look(replace(MEMBER, revision=101, term=101))

    assert scene.campaign.record is not None


@pytest.mark.parametrize("seen", ("look", "watch"))
@pytest.mark.parametrize("theirs", (STRANGER, MEMBER, EVICTED))
def test_another_entry_of_the_known_revision_is_news(seen, theirs):
    """In a bucket made anew a revision that we know can be somebody else's."""
    scene = prompt()
    record = scene.lead()
    theirs = replace(theirs, revision=record.revision)

    if seen == "watch":
        scene.watch(theirs)
    else:
        scene.refuse(scene.begin())
    scene.look(theirs)

    assert not scene.leads
    assert scene.campaign.latest == theirs
    assert len(scene.lost()) == 1


def test_a_bucket_made_anew_ends_the_leadership_and_all_that_was_open():
    """After the bucket is gone nothing known of it counts, nor do late answers to old writes."""
    scene = prompt()
    record = scene.lead()
    write = scene.begin()

    scene.campaign.forget(scene.now)
    assert scene.events() == [Lost(record, Loss.EXPIRED)]
    assert scene.state is State.UNKNOWN
    assert not scene.campaign.unanswered
    scene.store(write)

    assert scene.state is State.UNKNOWN
    assert scene.step == Wait(NEVER)


def test_an_open_create_does_not_outlive_its_bucket():
    """Without a lease, too, open writes are forgotten with the bucket."""
    scene = prompt()
    write = scene.begin()

    scene.campaign.forget(scene.now)
    scene.watch(NOTHING, live=False)
    scene.store(write)

    assert scene.campaign.lease is None
    assert scene.step == Create()


@pytest.mark.parametrize("held", (MEMBER, STRANGER, EVICTED))
def test_after_a_bucket_was_made_anew_nobody_acts_for_a_ttl(held):
    """Whoever held a record of the old bucket may not have heard of its end."""
    scene = prompt(held)
    scene.after(5).campaign.forget(scene.now)
    gone_at = scene.now
    scene.after(1).watch(NOTHING, live=False)

    scene.lead()

    assert scene.now == pytest.approx(gone_at + TTL)


def test_a_bucket_that_never_held_a_record_is_not_waited_for():
    """A first bucket that was made anew before anybody held a record has no past."""
    scene = prompt()
    scene.campaign.forget(scene.now)
    scene.watch(NOTHING, live=False)

    scene.store(scene.begin())

    assert scene.leads


# Stewards and standbys


def test_a_replica_that_starts_stands_by():
    """A record of one's own site gives no authority before one's own stored write."""
    scene = prompt(SIBLING)

    assert scene.campaign.stands_by
    assert scene.state is State.CANDIDATE
    assert not scene.leads
    assert scene.campaign.begin_create(scene.now) is None
    assert scene.campaign.begin_release(scene.now) is None


@pytest.mark.parametrize("nominee", (POD, None))
def test_a_standby_relays_when_the_steward_is_silent(nominee):
    """It renews the same holder's record in the same term, and the holder goes on acting."""
    scene = prompt(SIBLING, nominee=nominee)
    seen = scene.campaign.record
    start = scene.now

    write = scene.begin()
    record = scene.store(write)

    assert scene.now == start + scene.campaign.timing.relay_after
    assert write.expected == seen.revision
    assert record == replace(seen, revision=record.revision, replica="me-1", sent_at=write.sent_at)
    assert scene.leads
    assert scene.events() == [Won(record)]


def test_a_standby_that_hears_nothing_looks_before_it_relays():
    """The silence may be that of its own link; a write over it would leave a doubt."""
    scene = prompt(SIBLING)
    relay_at = scene.now + scene.campaign.timing.relay_after

    revision = scene.campaign.record.revision
    assert scene.until_due() == Look(revision, scene.campaign.timing.write_timeout)
    assert scene.now == relay_at
    scene.campaign.unreadable(scene.now)
    assert isinstance(scene.until_due(), Look)
    assert scene.now > relay_at
    renewed = scene.look(replace(SIBLING, revision=revision + 1, term=revision))
    assert scene.campaign.record == renewed
    assert isinstance(scene.step, Wait)


@pytest.mark.parametrize("leaving", (True, False))
def test_a_relay_that_was_asked_for_needs_no_look(leaving):
    """A steward that leaves, or leaves work undone, was heard of."""
    scene = prompt(replace(SIBLING, leaving=leaving))
    if not leaving:
        scene.campaign.urge()

    assert isinstance(scene.until_due(), Renew)


@pytest.mark.parametrize("name", ("transfer", "release"))
def test_what_was_begun_in_another_tenure_may_not_go_on(name):
    """In between another replica of the site may have labelled a pod, also in the same term."""
    scene = prompt(SIBLING)
    scene.store(scene.begin())
    tenure = scene.campaign.tenure
    relayed = scene.watch(replace(SIBLING, revision=0))
    assert scene.campaign.stands_by
    scene.campaign.urge()
    scene.store(scene.begin())
    assert scene.campaign.lease.record.term == relayed.term

    def begin(tenure):
        if name == "transfer":
            return scene.campaign.begin_transfer(OTHER_POD, scene.now, tenure=tenure)
        return scene.campaign.begin_release(scene.now, tenure=tenure)

    assert begin(tenure) is None
    assert begin(scene.campaign.tenure) is not None


def test_renewals_are_one_tenure():
    """Also those that were adopted."""
    scene = prompt(SIBLING)
    scene.store(scene.begin())
    tenure = scene.campaign.tenure
    scene.store(scene.begin())
    scene.watch(scene.store_unanswered(scene.begin()))
    assert scene.campaign.tenure == tenure


@pytest.mark.parametrize("profile", list(Profile))
def test_a_relay_waits_for_nothing_when_the_record_was_promoted(profile):
    """A steward's replacement is no new leader: the label stays, in both profiles."""
    scene = Scene(SIBLING, profile=profile, splay=0.0)

    scene.store(scene.begin())

    assert scene.leads


@pytest.mark.parametrize(
    "call", (lambda scene: scene.watch(replace(SIBLING, leaving=True)), lambda s: s.campaign.urge())
)
def test_a_standby_takes_over_at_once_from_a_steward_that_leaves_or_does_not_work(call):
    """A last renewal that says so, or work that stands undone, needs no silence."""
    scene = prompt(SIBLING)
    scene.after(1)

    call(scene)

    assert scene.step == Renew()
    assert not scene.store(scene.begin()).leaving


def test_an_urge_is_over_with_the_next_news():
    """A steward that renews is not replaced for what was undone before."""
    scene = prompt(SIBLING)

    scene.campaign.urge()
    scene.watch(SIBLING)

    assert isinstance(scene.step, Wait)


def test_only_a_standby_can_be_urged():
    """To urge a member that has nothing to relay does nothing."""
    scene = prompt(MEMBER)
    scene.campaign.urge()

    scene.watch(SIBLING)

    assert isinstance(scene.step, Wait)


def test_a_steward_that_leaves_says_so_in_its_last_renewal():
    """The mark is on that renewal only."""
    scene = prompt()
    scene.lead()

    leaving = scene.store(scene.campaign.begin_renewal(scene.now, leaving=True))

    assert leaving.leaving
    assert not scene.store(scene.begin()).leaving


def test_a_steward_that_was_relayed_has_lost_nothing():
    """Its next write is refused, it sees its site's record, and stands by."""
    scene = prompt()
    record = scene.lead()
    relayed = replace(record, replica="sibling-1", revision=150)

    scene.refuse(scene.begin())
    scene.look(relayed)

    assert scene.events() == [Relieved(relayed)]
    assert scene.campaign.stands_by
    assert not scene.leads
    assert scene.step == Wait(scene.now + scene.campaign.timing.relay_after)


def test_a_steward_that_did_not_act_yet_is_relieved_of_nothing():
    """Events come in pairs: what was not won is neither lost nor taken over."""
    scene = prompt(EVICTED)
    record = scene.store(scene.begin())
    assert not scene.leads

    scene.watch(replace(record, replica="sibling-1", revision=150))

    assert scene.campaign.lease is None
    assert scene.events() == []


@pytest.mark.parametrize(
    ("told", "waited"), ((0.0, TTL), (0.25 * TTL, 0.25 * TTL), (100 * TTL, TTL))
)
def test_a_relay_of_a_record_that_was_not_promoted_waits_as_the_record_tells(told, waited):
    """Where it does not tell, or tells what cannot be, a whole TTL is waited."""
    scene = prompt(replace(SIBLING, promoted=False, wait=told))
    scene.campaign.urge()
    start = scene.now

    scene.store(scene.begin())
    assert not scene.leads
    scene.lead()

    assert scene.now == pytest.approx(start + waited)


def test_what_a_server_says_of_its_age_shortens_no_wait_of_a_relayed_record():
    """It was first seen after it was sent."""
    scene = prompt(None)
    scene.watch(replace(SIBLING, promoted=False, wait=12), age=9, live=False)
    seen_at = scene.now
    scene.campaign.urge()

    scene.lead()

    assert scene.now == pytest.approx(seen_at + 12)


def test_one_relay_after_another_waits_no_longer_than_one():
    """A rolling update of the operator does not put off a leader that has to wait."""
    first = prompt(EVICTED)
    record = first.store(first.begin())
    assert record.wait == pytest.approx(TTL)

    second = prompt(record)
    second.campaign.urge()
    second.after(0.5)
    relayed = second.store(second.begin())

    assert relayed.wait == pytest.approx(record.wait - 0.5)
    assert not relayed.promoted
    assert second.lead().wait == 0


def test_a_steward_that_takes_its_term_back_still_knows_whom_it_waits_for():
    """A term that a replica created and was relieved of needs no new wait."""
    scene = prompt(EVICTED)
    vacant_at = scene.now
    record = scene.store(scene.begin())
    scene.after(5).watch(replace(record, replica="sibling-1", revision=150, leaving=True))

    scene.lead()

    assert scene.now == pytest.approx(vacant_at + TTL)


def test_whom_an_earlier_term_waited_for_says_nothing_about_the_next():
    """A record of another term that was not promoted is waited for anew."""
    scene = prompt(EVICTED)
    scene.lead()
    scene.watch(replace(SIBLING, promoted=False, leaving=True))
    start = scene.now

    scene.lead()

    assert scene.now == pytest.approx(start + TTL)


def test_relays_that_fail_keep_their_distance():
    """A relay that is refused for no reason is tried again after a pause."""
    scene = prompt(SIBLING)
    seen = scene.campaign.record
    scene.campaign.urge()

    scene.refuse(scene.begin())
    scene.look(seen)

    assert scene.step == Wait(pytest.approx(scene.now + 0.1))


def test_a_relay_whose_answer_was_lost_is_adopted():
    """A relay is a write like others: looked for and adopted."""
    scene = prompt(SIBLING)

    write = scene.begin()
    record = scene.look(scene.store_unanswered(write))

    assert scene.leads
    assert scene.events() == [Won(record)]


def test_a_member_without_a_site_relays_nobody():
    """Two members outside Kubernetes with one identity are strangers to each other."""
    scene = library(replace(MEMBER, holder="me", site=""))

    assert not scene.campaign.stands_by
    assert scene.step == Wait(scene.now + TTL)
    assert scene.campaign.begin_renewal(scene.now) is None


# Hand-over


def test_a_hand_over_is_a_new_term_that_acts_at_once():
    """One conditional write ends one term and begins the next."""
    scene = prompt()
    before = scene.lead()

    write = scene.campaign.begin_transfer(OTHER_POD, scene.now)
    assert write.expected == before.revision
    after = scene.store(write)

    assert after.holder == OTHER_POD.identity
    assert after.pod_uid == OTHER_POD.pod_uid
    assert after.term == after.revision > before.term
    assert scene.leads
    assert scene.events() == [Lost(before, Loss.HANDED_OVER), Won(after)]


def test_a_hand_over_before_the_promotion_inherits_the_wait():
    """The new holder waits for whom the old one had to wait for."""
    scene = prompt(EVICTED)
    vacant_at = scene.now
    scene.store(scene.begin())

    scene.store(scene.after(1).campaign.begin_transfer(OTHER_POD, scene.now))
    assert not scene.leads
    record = scene.lead()

    assert record.holder == OTHER_POD.identity
    assert scene.now == pytest.approx(vacant_at + TTL)


def test_nothing_is_handed_over_without_a_lease():
    """A standby renews before it hands over."""
    scene = prompt(SIBLING)

    assert scene.campaign.begin_transfer(OTHER_POD, scene.now) is None


def test_nothing_is_written_while_the_outcome_of_a_hand_over_is_looked_for():
    """After a hand-over without an answer comes a look, and nothing else."""
    scene = prompt()
    scene.lead()

    scene.lose(scene.campaign.begin_transfer(OTHER_POD, scene.now))

    assert isinstance(scene.step, Look)
    assert scene.campaign.unanswered
    assert scene.campaign.begin_transfer(POD, scene.now) is None
    assert scene.campaign.begin_renewal(scene.now) is None


THIRD_POD = Nominee("site/shop/c", "uid-c")


@pytest.mark.parametrize("stored", (OTHER_POD, THIRD_POD))
def test_a_hand_over_without_an_answer_and_then_to_another_nominee_ends_at_one(stored):
    """Of two hand-overs, the bucket says which was stored; the other cannot be any more."""
    scene = prompt()
    before = scene.lead()
    first = scene.campaign.begin_transfer(OTHER_POD, scene.now)
    scene.after(2).lose(first)
    scene.look(before)
    second = scene.campaign.begin_transfer(THIRD_POD, scene.now)

    if stored is THIRD_POD:
        record = scene.store(second)
    else:
        scene.refuse(second)
        record = scene.look(scene.entry_of(first, 200))

    assert record.holder == stored.identity
    assert not scene.campaign.unanswered
    assert scene.events() == [Lost(before, Loss.HANDED_OVER), Won(record)]


def test_a_hand_over_that_is_overtaken_by_a_renewal_never_happens():
    """A renewal stored in the meantime makes the hand-over impossible."""
    scene = prompt()
    before = scene.lead()
    scene.lose(scene.campaign.begin_transfer(OTHER_POD, scene.now))
    scene.look(before)

    scene.store(scene.begin())

    assert not scene.campaign.unanswered
    assert scene.campaign.lease.record.term == before.term


# Release


@pytest.mark.parametrize("member", (prompt, choria, library))
def test_a_release_ends_the_leadership_before_it_is_sent(member):
    """From the beginning of a release nobody leads for us, and it is announced once."""
    scene = member()
    record = scene.lead()
    scene.campaign.nominate(None)

    write = scene.campaign.begin_release(scene.now)
    assert not scene.leads
    assert write.record is None
    assert write.expected == record.revision
    assert "Incumbent-Release" in write.headers
    scene.watch(scene.store(write))

    assert scene.events() == [Lost(record, Loss.RELEASED)]
    assert scene.campaign.evicted is None
    assert scene.step == Wait(NEVER)
    assert scene.campaign.begin_release(scene.now) is None


def test_a_release_of_a_record_that_was_not_promoted_is_none_for_the_others():
    """It leaves a plain delete marker, so that everybody waits on."""
    scene = prompt(EVICTED)
    scene.store(scene.begin())

    marker = scene.store(scene.campaign.begin_release(scene.now))

    assert marker.cause is Cause.EVICTED
    assert scene.events() == []
    assert scene.campaign.latest == marker
    released_at = scene.now
    scene.lead()
    assert scene.now == pytest.approx(released_at + TTL)


def test_a_release_after_the_deadline_releases_what_may_be_left():
    """Leadership was lost by the deadline; the record is given up if it still is ours."""
    scene = prompt()
    record = scene.lead()

    write = scene.after(60).campaign.begin_release(scene.now)

    assert scene.events() == [Lost(record, Loss.DEADLINE)]
    assert write.expected == record.revision


@pytest.mark.parametrize("stored", (True, False))
def test_a_release_without_an_answer_is_looked_for(stored):
    """A release that was not stored can be begun again; one that was is seen."""
    scene = library()
    record = scene.lead()
    scene.campaign.nominate(None)

    write = scene.campaign.begin_release(scene.now)
    scene.lose(write)
    assert scene.campaign.unanswered
    scene.look(scene.entry_of(write, 200) if stored else record)

    assert scene.after(1).step == Wait(NEVER)
    again = scene.campaign.begin_release(scene.now)
    assert (again is None) == stored
    assert scene.campaign.unanswered == (not stored)
    if again:
        scene.store(again)
        assert not scene.campaign.unanswered
    assert scene.lost() == [Loss.RELEASED]


def test_a_renewal_that_was_stored_before_the_release_does_not_bring_leadership_back():
    """What was open when the release began is released, not adopted."""
    scene = prompt()
    scene.lead()
    renewal = scene.begin()
    scene.campaign.nominate(None)

    release = scene.campaign.begin_release(scene.now)
    record = scene.store(renewal)
    scene.refuse(release)
    scene.look(record)

    assert not scene.leads
    assert scene.lost() == [Loss.RELEASED]
    assert scene.campaign.begin_release(scene.now).expected == record.revision


def test_a_relay_that_was_open_when_the_release_began_brings_no_leadership():
    """Without a lease, too, what was open is released, not adopted."""
    scene = prompt()
    record = scene.lead()
    scene.now = scene.campaign.lease.deadline
    scene.look(record)
    renewal = scene.begin()

    release = scene.campaign.begin_release(scene.now)
    scene.refuse(release)
    scene.look(scene.entry_of(renewal, 200))

    assert scene.campaign.lease is None


def test_a_record_of_another_replica_is_renewed_before_it_is_released():
    """A replica releases only what it wrote itself."""
    scene = prompt(SIBLING, nominee=None)
    assert scene.campaign.begin_release(scene.now) is None

    scene.campaign.urge()
    scene.store(scene.begin())

    assert scene.campaign.begin_release(scene.now) is not None


def test_after_its_release_a_member_that_nominates_campaigns_again():
    """A release is no farewell; who was first to come back acts at once."""
    scene = library()
    scene.lead()
    scene.store(scene.campaign.begin_release(scene.now))

    scene.store(scene.begin())

    assert scene.leads
