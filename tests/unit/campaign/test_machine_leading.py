"""How a member starts, becomes leader, and renews."""

from dataclasses import replace

import pytest

from incumbent.campaign.events import Loss, Lost, Won
from incumbent.campaign.machine import NEVER, Create, Look, Wait
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaign.records import (
    Profile,
    Record,
    State,
)
from machinescene import (
    CHORIA_INTERVAL,
    DEADLINE,
    EVICTED,
    EXPIRED,
    INTERVAL,
    MEMBER,
    NOTHING,
    OTHER_POD,
    POD,
    RELEASED,
    STRANGER,
    TTL,
    Scene,
    choria,
    library,
    prompt,
)

EMPTY_PUT = Record(0, "", term=0)


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
