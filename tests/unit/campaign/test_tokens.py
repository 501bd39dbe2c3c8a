from __future__ import annotations

import pytest

from incumbent.campaign.records import Record
from incumbent.campaign.steps import Lease
from incumbent.campaign.tokens import TokenGuard


def lease(term, *, revision=None, sent_at=10.0):
    """A lease that a write of ours brought."""
    record = Record(revision or term, "site/shop/a", term, replica="one/nonce")
    return Lease(record, sent_at, sent_at + 5, sent_at, sent_at)


@pytest.fixture
def guard():
    """A guard that knows of token 17 since second 5."""
    guard = TokenGuard()
    guard.learn(17, 5.0)
    return guard


@pytest.mark.parametrize("term", (1, 16, 17))
def test_new_term_at_or_below_the_highest_token_is_refused(guard, term):
    """Also an equal one, for it is another term."""
    assert guard.refuses(lease(term))


def test_higher_token_is_not_refused(guard):
    """However little higher."""
    assert not guard.refuses(lease(18))


def test_renewal_of_the_highest_term_is_not_refused(guard):
    """It is the same term, whoever renews it."""
    assert not guard.refuses(lease(17, revision=20))


def test_renewal_of_an_old_term_is_refused(guard):
    """The bucket came back as it was some time ago."""
    assert guard.refuses(lease(16, revision=17))


def test_what_was_learnt_after_the_write_was_sent_does_not_count(guard):
    """Somebody else's next term can be known before our own is lost."""
    ours = lease(17, revision=20)
    guard.learn(21, 11.0)
    assert guard.highest == 21
    assert not guard.refuses(ours)
    assert guard.refuses(lease(17, revision=22, sent_at=12.0))


def test_lower_token_changes_nothing(guard):
    """An old view of the status, for example."""
    guard.learn(3, 6.0)
    assert guard.highest == 17
    assert guard.refuses(lease(4))


def test_accepted_token_is_the_highest_from_then_on(guard):
    """And what follows has to be greater than that."""
    guard.accept(lease(4))
    assert guard.highest == 4
    assert not guard.refuses(lease(4))
    assert not guard.refuses(lease(5, sent_at=11.0))
    assert guard.refuses(lease(3, sent_at=11.0))


def test_the_highest_token_is_kept_however_many_follow():
    """Only the way of one write has to be looked back on."""
    guard = TokenGuard()
    for number in range(1, 1000):
        guard.learn(number, float(number))
    assert guard.refuses(lease(999, sent_at=1000.0))
    assert not guard.refuses(lease(1000, sent_at=1000.0))
