"""Replicas of one site: the steward renews, a standby takes over from it."""

from dataclasses import replace

import pytest

from incumbent.campaign.events import Relieved, Won
from incumbent.campaign.machine import Look, Renew, Wait
from incumbent.campaign.records import (
    Profile,
    State,
)
from machinescene import EVICTED, MEMBER, OTHER_POD, POD, SIBLING, TTL, Scene, library, prompt


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
