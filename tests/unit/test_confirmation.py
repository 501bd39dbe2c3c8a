"""What a replica that cannot see the key knows, and when it asks and strips."""

from __future__ import annotations

import pytest

from incumbent.confirmation import ANSWER_WITHIN, ASK_AFTER, SECOND_CHANCE, Act, Confirmation, Later
from incumbent.timing import timing_for

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
