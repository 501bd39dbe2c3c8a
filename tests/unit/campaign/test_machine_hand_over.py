"""Terms that a leader ends itself: hand-over and release."""

import pytest

from incumbent.campaign.events import Loss, Lost, Won
from incumbent.campaign.machine import NEVER, Look, Wait
from incumbent.campaign.records import (
    Cause,
    Nominee,
)
from machinescene import EVICTED, OTHER_POD, POD, SIBLING, TTL, choria, library, prompt

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
