"""Several members on one key, and how often they try."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from electionmembers import KEY, TTL, settle
from incumbent import (
    Profile,
    State,
    clock,
)

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


@pytest.mark.parametrize("markers", (True, False))
async def test_one_vacancy_is_no_stampede(bucket, calls, member, markers):
    """Of candidates of both profiles one leads, and none tries more than ten times."""
    bucket.markers = markers
    bucket.put(KEY, "stranger")
    profiles = [Profile.PROMPT] * 5 + [Profile.CHORIA] * 5
    async with contextlib.AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(member(str(number), profile=profile))
            for number, profile in enumerate(profiles)
        ]
        await asyncio.sleep(TTL - 0.1)
        before = [dict(election.campaigns) for election in members]
        waiting = [asyncio.create_task(election.won()) for election in members]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for turn in range(50):
            await asyncio.sleep(TTL / 10)
            assert sum(election.is_leader for election in members) == 1
            if turn == 20:
                tries = [
                    election.campaigns[State.CANDIDATE] - known.get(State.CANDIDATE, 0)
                    for election, known in zip(members, before, strict=True)
                ]
                assert max(tries) <= 10
        assert [call for call in calls if call.endswith("won")] == calls[:1]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_choria_member_acts_only_after_its_second_campaign(member):
    """Its record stands at once, its leadership one interval and 200 ms later."""
    async with member(profile=Profile.CHORIA, splay=0) as election:
        await settle()
        assert election.leader == "a"
        assert election.state is State.LEADER
        assert not election.is_leader
        before = clock.now()
        await election.won()
        assert clock.now() - before == pytest.approx(0.75 * TTL + 0.2, abs=0.1)


async def test_a_backoff_of_ones_own_spaces_the_tries(member, bucket):
    """The function is asked with the number of tries that failed."""
    asked = []

    def backoff(tries):
        asked.append(tries)
        return 1.0 * tries

    bucket.put(KEY, "stranger")
    async with member(profile=Profile.CHORIA, splay=0, backoff=backoff) as election:
        await asyncio.sleep(TTL - 0.1)
        assert asked[:3] == [1, 2, 3]
        assert not election.is_leader
