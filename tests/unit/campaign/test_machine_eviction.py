"""Records that were deleted or replaced, and buckets that went back, are gone or are new."""

from dataclasses import replace

import pytest

from incumbent.campaign.events import Loss, Lost
from incumbent.campaign.machine import NEVER, Create, Wait
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import (
    State,
)
from machinescene import (
    CHORIA_INTERVAL,
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
    library,
    prompt,
)


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
