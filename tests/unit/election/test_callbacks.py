"""Callbacks may fail, wait, never end, and call the election."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from electionmembers import INTERVAL, KEY, LEASE, TTL, errors, settle
from incumbent import (
    State,
    StoppedError,
    clock,
)

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]
FOREVER = 1e9


async def test_a_callback_that_fails_is_logged_and_nothing_else(member, logs):
    """Both kinds; the election goes on."""

    def fails():
        raise ValueError

    async with member(on_won=fails, on_campaign=fails) as election:
        await election.won()
        await asyncio.sleep(3 * TTL)
        assert election.is_leader
    assert set(errors(logs)) == {"election.callback_failed"}


async def test_a_slow_callback_holds_up_no_renewal(member, calls):
    """And what came later is told afterwards, in order."""

    async def slow():
        await asyncio.sleep(4 * TTL)
        calls.append("slow")

    async with member(on_won=slow) as election:
        await election.won()
        await asyncio.sleep(3 * TTL)
        assert election.is_leader
        assert calls == []
        await asyncio.sleep(2 * TTL)
    assert calls == ["slow", "a lost"]


async def test_a_callback_that_never_ends_does_not_keep_the_key_for_ever(member, bucket, calls):
    """It is cancelled at the deadline, the loss is told, and only then the key released."""

    async def hangs():
        await asyncio.sleep(FOREVER)

    async with member(on_won=hangs) as election:
        await election.won()
        before = clock.now()
        stopping = asyncio.create_task(election.stop())
        await asyncio.sleep(LEASE - 0.1)
        assert bucket.operations == ["create"]
        await stopping
        assert clock.now() - before == pytest.approx(LEASE, abs=0.1)
    assert calls == ["a lost"]
    assert bucket.operations == ["create", "release"]


async def test_a_loss_is_told_although_the_end_follows_at_once(member, bucket, calls):
    """Also one that was found out right before."""
    async with member() as election:
        await election.won()
        bucket.put(KEY, "stranger")
        await election.lost()
    assert calls == ["a won", "a lost"]


@pytest.mark.parametrize("coroutine", (False, True))
async def test_callbacks_may_ask_who_leads(member, coroutine):
    """They see what they were called for."""
    seen = []

    def look(what):
        def see():
            seen.append((what, election.is_leader, election.leader, election.state))

        async def see_later():
            see()

        return see_later if coroutine else see

    election = member(on_won=look("won"), on_lost=look("lost"))
    async with election:
        await election.won()
        await settle()
    assert seen == [
        ("won", True, "a", State.LEADER),
        ("lost", False, "a", State.CANDIDATE),
    ]


async def test_a_callback_may_stop_the_election(member, bucket, calls):
    """The loss is told before the key is released, and everything ends."""

    async def won():
        await election.stop()
        calls.append("won returns")

    election = member(on_won=won, on_lost=lambda: calls.append(bucket.operations[-1]))
    await election.start()
    async with asyncio.timeout(LEASE):
        while bucket.operations != ["create", "release"]:
            await election.changed()
    await election.stop()
    assert calls == ["won returns", "create"]


async def test_a_callback_may_wait_for_the_stop_in_a_task(member, bucket, calls):
    """That cannot be waited for, but ends, and the key is released."""

    async def won():
        await asyncio.create_task(election.stop())

    election = member(on_won=won)
    await election.start()
    with contextlib.suppress(StoppedError):
        await election.won()
    await asyncio.sleep(2 * TTL)
    assert bucket.operations == ["create", "release"]
    assert calls == ["a lost"]


async def test_every_try_is_told_with_the_state(member, calls, bucket):
    """Candidate before the creation, leader before each renewal."""
    async with member(on_campaign=calls.append) as election:
        await election.won()
        await asyncio.sleep(2 * INTERVAL + 0.1)
        assert calls == [State.CANDIDATE, "a won", State.LEADER, State.LEADER]
        assert election.campaigns == {State.CANDIDATE: 1, State.LEADER: 2}
