"""How long a new holder waits until nobody before it can act."""

from dataclasses import replace

import pytest

from incumbent.campaign.events import Won
from incumbent.campaign.machine import NEVER, Look, Wait
from incumbent.campaign.records import (
    Promotion,
    State,
)
from incumbent.campaign.succession import Awaited
from machinescene import (
    CHORIA_INTERVAL,
    DEADLINE,
    EVICTED,
    EXPIRED,
    INTERVAL,
    MEMBER,
    NOTHING,
    POD,
    RELEASED,
    SIBLING,
    STRANGER,
    TTL,
    choria,
    prompt,
)

STRANGER_AFTER = 0.75 * TTL + 0.2
UNPROMOTED = replace(MEMBER, promoted=False)


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
