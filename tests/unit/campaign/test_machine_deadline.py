"""Leadership ends by its deadline, whatever was answered, and counts from the sending."""

from dataclasses import replace

import pytest

from incumbent.campaign.events import Loss, Lost, Won
from incumbent.campaign.machine import Create, Look, Renew, Wait
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaign.records import (
    Profile,
    State,
)
from incumbent.campaign.timing import timing_for
from machinescene import (
    DEADLINE,
    EVICTED,
    EXPIRED,
    MEMBER,
    NOTHING,
    OTHER_POD,
    SIBLING,
    TTL,
    choria,
    library,
    prompt,
)


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
