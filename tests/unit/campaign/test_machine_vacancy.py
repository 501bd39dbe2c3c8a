"""When a key counts as vacant, and who campaigns for it when."""

import itertools

import pytest

from incumbent.campaign.machine import Create, Look, Wait
from incumbent.campaign.records import (
    Promotion,
)
from machinescene import (
    CHORIA_INTERVAL,
    EXPIRED,
    INTERVAL,
    MEMBER,
    NOTHING,
    RELEASED,
    TTL,
    choria,
    prompt,
)


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
