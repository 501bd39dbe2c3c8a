"""What `Election.events` tells its readers."""

from __future__ import annotations

import gc

import pytest

from electionmembers import KEY, settle
from incumbent import (
    HolderChanged,
    Lost,
    Won,
)

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


async def test_events_are_told_in_order_from_the_request_on(member, bucket):
    """Also to a reader that begins to read later."""
    async with member() as election:
        events = aiter(election)
        await election.won()
        await election.stop()
        seen = [event async for event in events]
    assert [type(event) for event in seen] == [Won, HolderChanged, Lost, HolderChanged]
    assert seen[1] == HolderChanged("a")
    assert seen[3] == HolderChanged(None)


async def test_a_reader_that_falls_behind_loses_the_oldest(member, bucket):
    """It holds up nobody, and costs a bounded amount."""
    async with member() as election:
        await settle()
        events = aiter(election)
        for number in range(300):
            bucket.put(KEY, f"stranger {number}")
        await settle()
        await election.stop()
        seen = [event async for event in events]
    assert len(seen) == 256
    assert seen[-1] == HolderChanged("stranger 299")


async def test_a_reader_that_is_forgotten_is_not_kept(member):
    """A loop that was left costs nothing more."""
    async with member() as election:
        async for _ in election:
            break
        gc.collect()
        assert len(election._readers) == 0
