"""What a replica that cannot see the key knows, and when it asks and strips."""

from __future__ import annotations

from functools import partial

import pytest

from incumbent.campaign.timing import timing_for
from incumbent.replicas.confirmation import (
    ANSWER_WITHIN,
    ASK_AFTER,
    LATE_AFTER,
    LOOK_AGAIN,
    SECOND_CHANCE,
    Act,
    Confirmation,
    Later,
    Steward,
    Stewards,
)

TIMING = timing_for(30.0)
START = 1000.0


def step(confirmation, now, *, question=None, renewed_at=None, timing=TIMING):
    return confirmation.act(now, timing, question=question, renewed_at=renewed_at)


def test_a_replica_that_starts_presumes_a_killed_steward_and_a_restart_of_a_third_of_the_ttl():
    """The last renewal may be an interval older than the end of the process before."""
    confirmation = Confirmation(START)
    assert step(confirmation, START) == Later(START + ASK_AFTER)
    assert step(confirmation, START + ASK_AFTER) is Act.ASK
    presumed = START - TIMING.interval - TIMING.ttl / 3
    assert confirmation.renewal(None) == presumed
    confirmation.ask(START + 1, START + 1.1, kept=True)
    assert step(confirmation, START + 2, question=presumed) == Later(presumed + TIMING.lease)
    assert step(confirmation, presumed + TIMING.lease, question=presumed) is Act.STRIP


def test_an_answer_proves_a_renewal_since_the_question_was_sent():
    """Later than that it may have been, but that is not known."""
    confirmation = Confirmation(START)
    step(confirmation, START)
    confirmation.ask(START + 1, START + 1.5, kept=True)
    assert step(confirmation, START + 1.6) == Later(START + 1 + TIMING.relay_after)
    assert confirmation.answered
    assert confirmation.renewal(None) == START + 1


def test_the_others_have_time_for_an_answer_however_late_the_question_was_written():
    """An API server that was slow is no reason to strip."""
    confirmation = Confirmation(START)
    step(confirmation, START)
    confirmation.ask(START + 1, START + 60, kept=True)
    now = START + 60
    assert step(confirmation, now, question=START) == Later(now + ANSWER_WITHIN)


@pytest.mark.parametrize("age", (5.0, 25.0, 300.0))
def test_a_question_from_before_the_start_goes_on(age):
    """So restarts in a row do not postpone anything."""
    confirmation = Confirmation(START)
    asked = START - age
    presumed = min(asked, START - TIMING.interval - TIMING.ttl / 3)
    over = presumed + TIMING.lease <= START
    patience = SECOND_CHANCE if over else ANSWER_WITHIN
    strip_at = max(presumed + TIMING.lease, START + patience)
    assert step(confirmation, START, question=asked) == Later(strip_at)


def test_a_question_of_the_future_postpones_nothing():
    """The clock of the replica that asked may be wrong."""
    confirmation = Confirmation(START)
    step(confirmation, START, question=START + 3600)
    assert confirmation.renewal(None) == START - TIMING.interval - TIMING.ttl / 3


def test_a_replica_that_saw_a_renewal_counts_from_that():
    """It is exact."""
    confirmation = Confirmation(START)
    confirmation.see(START + 5)
    renewed_at = START + 50
    assert step(confirmation, START + 60, renewed_at=renewed_at) == Later(
        renewed_at + TIMING.relay_after
    )
    confirmation.ask(START + 65, START + 65, kept=True)
    assert step(confirmation, START + 66, renewed_at=renewed_at, question=renewed_at) == Later(
        renewed_at + TIMING.lease
    )


def test_a_question_of_another_replica_is_joined():
    """There is one question at a time; its answer proves what the asker knew before."""
    confirmation = Confirmation(START)
    confirmation.see(START)
    step(confirmation, START + 20, question=START + 3, renewed_at=START)
    step(confirmation, START + 21, renewed_at=START)
    assert confirmation.answered
    assert confirmation.renewal(START) == START + 3


def test_a_question_that_the_api_server_drops_is_not_answered_by_its_absence():
    """An older definition of the kind has no such field."""
    confirmation = Confirmation(START)
    step(confirmation, START)
    confirmation.ask(START + 1, START + 1, kept=False)
    step(confirmation, START + 2)
    assert not confirmation.answered
    assert step(confirmation, START + 10) is Act.STRIP


def test_a_label_that_appears_after_the_strip_counts_as_a_renewal():
    """Its writer had a warrant."""
    confirmation = Confirmation(START)
    step(confirmation, START)
    confirmation.strip(START + 7)
    assert confirmation.stripped
    assert step(confirmation, START + 8) == Later(START + 7 + TIMING.relay_after)
    assert not confirmation.stripped


def test_without_a_ttl_the_time_is_over():
    """Only the others get their chance."""
    confirmation = Confirmation(START)
    assert step(confirmation, START + ASK_AFTER, timing=None) is Act.ASK
    confirmation.ask(START + 1, START + 1, kept=True)
    assert step(confirmation, START + 2, timing=None, question=START) is Act.STRIP


STEWARD = Steward("one/nonce", "BUCKET", "2026-01-01T00:00:00Z")


def pair():
    """Return what a replica knows of two elections, whose records were renewed at the start."""
    stewards = Stewards()
    both = Confirmation(START, stewards), Confirmation(START, stewards)
    for confirmation in both:
        confirmation.see(START)
    return both


def shared(confirmation, now, *, question=None, steward=STEWARD):
    return confirmation.act(now, TIMING, question=question, renewed_at=START, steward=steward)


def ask(confirmation, sent_at, now, *, steward=STEWARD):
    confirmation.ask(sent_at, now, kept=True, steward=steward, known=confirmation.renewal(START))


DUE = START + TIMING.relay_after
"""When the first question is due."""


def test_one_election_asks_for_all_of_a_steward():
    """Each of them would cost two writes."""
    asks, waits = pair()
    assert shared(asks, DUE) is Act.ASK
    assert shared(waits, DUE) == Later(DUE + ANSWER_WITHIN)
    ask(asks, DUE, DUE + 0.1)
    shared(asks, DUE + 0.5)  # the answer
    assert asks.renewal(START) == DUE
    assert shared(waits, DUE + 0.6) == Later(DUE - TIMING.interval + TIMING.relay_after)
    assert waits.answered


@pytest.mark.parametrize(
    "other",
    (
        Steward("one/another", "BUCKET", "2026-01-01T00:00:00Z"),
        Steward("two/nonce", "BUCKET", "2026-01-01T00:00:00Z"),
        Steward("one/nonce", "OTHER", "2026-01-01T00:00:00Z"),
        Steward("one/nonce", "BUCKET", "2026-02-02T00:00:00Z"),
        None,
    ),
    ids=("another process", "another replica", "another bucket", "a new bucket", "not known"),
)
def test_an_answer_counts_for_no_other_steward_or_bucket(other):
    """It proves nothing about their records."""
    first, second = pair()
    shared(first, DUE)
    assert shared(second, DUE, steward=other) is Act.ASK
    ask(first, DUE, DUE + 0.1)
    ask(second, DUE, DUE + 0.1, steward=other)
    shared(first, DUE + 0.5)
    shared(second, DUE + 0.5, question=START, steward=other)
    assert second.renewal(START) == START
    assert not second.answered


def test_an_answer_of_another_replica_proves_nothing_about_the_steward_that_was_asked():
    """It took over in that election; perhaps in no other."""
    first, second = pair()
    shared(first, DUE)
    ask(first, DUE, DUE + 0.1)
    shared(first, DUE + 0.5, steward=Steward("two/nonce", STEWARD.bucket, STEWARD.created))
    assert first.renewal(START) == DUE
    assert shared(second, DUE + 0.5) is Act.ASK
    assert second.renewal(START) == START


def test_the_answer_to_a_question_of_another_replica_counts_for_one_election():
    """When it was asked is only known by the other replica's clock."""
    first, second = pair()
    shared(first, DUE, question=START + 3)
    shared(first, DUE + 0.5)
    assert first.renewal(START) == START + 3
    shared(second, DUE + 0.5)
    assert second.renewal(START) == START
    assert not second.answered


def test_the_others_ask_for_themselves_when_the_answer_is_overdue():
    """Another replica may be the steward there, and its status may be on its way."""
    first, second = pair()
    shared(first, DUE)
    ask(first, DUE, DUE + 0.1)
    assert shared(second, DUE + 0.1 + ANSWER_WITHIN - 0.01) == Later(DUE + 0.1 + ANSWER_WITHIN)
    assert shared(second, DUE + 0.1 + ANSWER_WITHIN) is Act.ASK


def test_without_an_answer_all_strip_in_time_though_only_one_asked():
    """An API server that is too slow for all questions does not keep their labels."""
    first, second = pair()
    shared(first, DUE)
    ask(first, DUE, DUE + 0.1)
    end = START + TIMING.lease
    assert shared(second, end - 0.01) is Act.ASK
    assert second.strips_unasked_at(START, TIMING, STEWARD) == end
    assert shared(second, end) is Act.STRIP
    assert shared(first, end, question=START) is Act.STRIP


def test_a_question_of_an_earlier_absence_is_no_reason_to_strip_unasked():
    """The steward has a new chance."""
    first, second = pair()
    shared(first, DUE)
    ask(first, DUE, DUE + 0.1)
    for confirmation in (first, second):
        confirmation.see(START + 100)
    again = START + 100 + TIMING.lease
    step = second.act(again, TIMING, question=None, renewed_at=START + 100, steward=STEWARD)
    assert step is Act.ASK


def test_another_election_may_ask_when_a_question_could_not_be_written():
    """One election that the API server refuses does not silence the others."""
    first, second = pair()
    assert shared(first, DUE) is Act.ASK
    first.give_up_asking()
    assert shared(second, DUE) is Act.ASK


def test_a_slow_question_gives_the_answer_more_time_as_far_as_the_record_lives():
    """The answer is a write to the same API server."""
    slow, late = pair()
    sent_at = START + TIMING.lease - 2.5
    ask(slow, sent_at, sent_at + 1.9)
    assert shared(slow, sent_at + 1.9, question=START) == Later(sent_at + 1.9 + 1.9)
    ask(late, sent_at - 8, sent_at)
    expires_soon_at = START + TIMING.ttl - TIMING.margin / 2
    assert shared(late, sent_at, question=START) == Later(expires_soon_at)


def test_a_steward_answers_only_when_all_its_records_are_renewed():
    """If it dies then, none of its labels outlives its record."""
    stewards, dues, late = Stewards(), {"a": START + 5, "b": START - 1}, []

    def due_of(name, _):
        return dues[name]

    for name in dues:
        stewards.serve(partial(due_of, name), lambda: late.append("one"))
    assert not stewards.vouch(STEWARD, START, START)
    dues["b"] = START + 5
    assert not stewards.vouch(STEWARD, START, START)  # it does not look at thousands each time
    assert stewards.vouch(STEWARD, START, START + LOOK_AGAIN)
    assert not late


def test_a_steward_is_told_which_record_keeps_it_from_answering():
    """Then the status of that election stops naming it."""
    stewards, late = Stewards(), []
    stewards.serve(lambda _: START + 5, lambda: late.append("a"))
    end = stewards.serve(lambda _: START - 1, lambda: late.append("b"))
    assert not stewards.vouch(STEWARD, START, START + LATE_AFTER)
    assert late == ["b"]
    end()
    assert stewards.vouch(STEWARD, START, START + LATE_AFTER + LOOK_AGAIN)
