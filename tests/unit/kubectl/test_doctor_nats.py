"""What `kubectl incumbent doctor` asks NATS."""

from __future__ import annotations

import itertools
import time

import pytest

from incumbent.errors import BucketDenied
from incumbent.kubectl.doctor import nats

NAMES = ["a", "b", "c"]


class Clocks:
    """A bucket on servers whose clocks are ahead by so many seconds; they answer in turn."""

    def __init__(self, **aheads: float | None) -> None:
        self.asked = 0
        self._aheads = itertools.cycle(aheads.items())

    async def clock_of_a_server(self) -> tuple[str, float]:
        """Answer for the next of them, or refuse if that one has no clock."""
        self.asked += 1
        name, ahead = next(self._aheads)
        if ahead is None:
            msg = "refused"
            raise BucketDenied(msg)
        return name, time.time() + ahead


async def test_each_server_is_asked_until_all_have_answered() -> None:
    """And not longer."""
    bucket = Clocks(a=0, b=7, c=-3)
    found = await nats._clocks(bucket, NAMES)
    assert [(clock.name, round(clock.ahead)) for clock in found] == [("a", 0), ("b", 7), ("c", -3)]
    assert bucket.asked == 3


async def test_a_server_that_does_not_answer_is_not_asked_for_ever() -> None:
    """It is left out, and so is one that does not hold the bucket."""
    bucket = Clocks(a=0, x=5)
    found = await nats._clocks(bucket, NAMES)
    assert [clock.name for clock in found] == ["a"]
    assert bucket.asked == nats.ASKED_FOR_CLOCKS * len(NAMES)


async def test_who_may_not_ask_sees_what_came_before() -> None:
    """The refusal is told by whatever else is asked."""
    assert [clock.name for clock in await nats._clocks(Clocks(b=0, a=None), NAMES)] == ["b"]


async def test_a_step_of_our_own_clock_is_no_difference_of_a_servers(monkeypatch) -> None:
    """It may have come before the server looked at its clock, or after: so much is uncertain."""
    now = time.time()
    walls = itertools.chain([now], itertools.repeat(now + 3600))
    monkeypatch.setattr(nats.time, "time", lambda: next(walls))
    question = nats.Question()
    question.answered()
    assert abs(question.ahead(now)) < 1
    assert abs(question.uncertain - 3600) < 1


async def test_before_the_answer_nothing_is_certain() -> None:
    """A question without an answer compares nothing."""
    assert nats.Question().uncertain == float("inf")


@pytest.mark.parametrize(
    ("reason", "looked_at"),
    (("NotStalled", True), ("KeyInUse", True), ("LockNotAllowed", False), ("QuotaExceeded", False)),
)
def test_lock_that_an_election_may_not_use_is_not_looked_at(reason, looked_at):
    """Whose login it is does not matter: a tenant chose the bucket and the key."""
    status = {"conditions": [{"type": "Stalled", "reason": reason, "message": "", "status": "x"}]}
    assert nats._served({"status": status}) is looked_at
