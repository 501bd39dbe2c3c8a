"""When leadership ends, and when it does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from electionmembers import INTERVAL, KEY, LEASE, TTL, errors, settle
from incumbent import (
    ConfigurationError,
    Lost,
    StoppedError,
    clock,
)
from incumbent.campaign.events import Loss
from incumbent.errors import BucketInvalid

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


async def test_leadership_ends_by_itself_at_the_deadline(member, bucket, calls):
    """Without any answer, before the server could give the key away."""
    async with member() as election:
        await election.won()
        with bucket.dropping_requests():
            before = clock.now()
            await asyncio.sleep(LEASE - 0.1)
            assert election.is_leader
            await election.lost()
            assert clock.now() - before == pytest.approx(LEASE, abs=0.01)
            await settle()
            assert calls == ["a won", "a lost"]
        await election.won()


async def test_a_process_that_stood_still_does_not_lead_whatever_has_run_since(member, monkeypatch):
    """`is_leader` asks the clock, not a flag that a task would have to clear."""
    async with member() as election:
        await election.won()
        await settle()
        now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: now + LEASE)
        assert not election.is_leader
        assert election.token is None
        assert election.remaining == 0
        monkeypatch.undo()
        monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


@pytest.mark.parametrize(
    ("evict", "loss"),
    (
        (lambda bucket: bucket.delete(KEY), Loss.EVICTED),
        (lambda bucket: bucket.purge(KEY), Loss.EVICTED),
        (
            lambda bucket: bucket._store(KEY, "", {"Nats-Marker-Reason": "MaxAge"}),
            Loss.EXPIRED,
        ),
        (lambda bucket: bucket.put(KEY, "stranger"), Loss.OVERTAKEN),
        (lambda bucket: bucket.put(KEY, ""), Loss.OVERTAKEN),
        (lambda bucket: bucket.recreate(), Loss.EXPIRED),
    ),
    ids=("delete", "purge", "marker", "foreign put", "empty put", "bucket made anew"),
)
async def test_whoever_takes_the_record_ends_the_leadership_at_once(
    member, bucket, calls, evict, loss
):
    """It is told once, nothing foreign is written over, and later it leads anew."""
    async with member() as election:
        token = await election.won()
        events = aiter(election)
        before = clock.now()
        evict(bucket)
        await settle()
        event = await anext(events)
        assert isinstance(event, Lost)
        assert event.record.term == token
        assert event.loss is loss
        await election.won()
        assert clock.now() - before < 2.2 * TTL
        await settle()
        assert calls == ["a won", "a lost", "a won"]


async def test_a_foreign_record_is_left_alone_while_it_lives(member, bucket):
    """The next write comes when it has expired."""
    async with member() as election:
        await election.won()
        bucket.put(KEY, "stranger")
        await settle()
        writes = len(bucket.operations)
        await asyncio.sleep(TTL - 0.2)
        assert bucket._latest(KEY).entry.holder == "stranger"
        assert bucket.operations[writes:] == []


async def test_an_eviction_keeps_it_out_for_one_interval(member, bucket):
    """Whoever waits gets the chance."""
    async with member("a") as first, member("b") as second:
        await first.won()
        bucket.delete(KEY)
        await asyncio.sleep(INTERVAL - 0.1)
        assert first.leader == "b"
        await second.won()


async def test_an_update_that_was_stored_without_an_answer_is_no_loss(member, bucket, calls):
    """A look at the key tells that it was ours."""
    async with member() as election:
        token = await election.won()
        with bucket.dropping_answers():
            await asyncio.sleep(INTERVAL + 0.5)
        await asyncio.sleep(2 * TTL)
        assert election.token == token
        assert calls == ["a won"]


async def test_a_store_that_breaks_its_word_does_not_end_the_campaign(
    member, bucket, logs, monkeypatch
):
    """An error that must not come is logged, and the next try does better."""
    async with member() as election:
        token = await election.won()

        async def breaks(*args, **kwargs):
            raise ZeroDivisionError

        monkeypatch.setattr(bucket, "write", breaks)
        await asyncio.sleep(INTERVAL + 0.1)
        monkeypatch.undo()
        monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())
        await asyncio.sleep(2 * TTL)
        assert election.token == token
    assert errors(logs) == ["campaign.broke"]


async def test_a_ttl_that_becomes_invalid_ends_the_leadership_until_it_is_mended(
    member, bucket, calls
):
    """The problem says why, the loss is told before the release, and then it leads again."""
    async with member(on_lost=lambda: calls.append(bucket.operations[-1])) as election:
        token = await election.won()
        await settle()
        bucket.configure(ttl=1)
        await asyncio.sleep(TTL)
        assert not election.is_leader
        assert isinstance(election.problem, ConfigurationError)
        assert "is too close to the bucket TTL of 1 s" in str(election.problem)
        assert bucket.operations == ["create", "release"]
        assert calls == ["a won", "create"]
        bucket.configure(ttl=3)
        assert await election.won() > token
        assert election.problem is None
        assert election.interval == 1
        await asyncio.sleep(3 * TTL)
        assert election.is_leader


async def test_a_lower_ttl_shortens_the_lease_at_once(member, bucket):
    """Whoever reads the deadline is not promised what does not hold any more."""
    async with member() as election:
        await election.won()
        bucket.configure(ttl=3)
        assert election.remaining <= 3
        await asyncio.sleep(3 * TTL)
        assert election.is_leader


async def test_after_a_lower_ttl_a_follower_waits_for_the_old_one(member, bucket):
    """A leader that cannot reach NATS counts on the TTL with which it wrote."""
    revision = bucket.put(KEY, "stranger")
    async with member() as election:
        await settle()
        bucket.configure(ttl=3)
        bucket._expire(KEY, revision, bucket._generation)  # the server applies the TTL at once
        await asyncio.sleep(TTL - 0.1)
        assert not election.is_leader
        assert "was lowered to 3 s" in str(election.problem)
        await asyncio.sleep(4)
        assert election.is_leader
        assert election.problem is None


async def test_a_mirror_is_refused(member, bucket, monkeypatch):
    """It waits, and says why: somebody may replace the bucket."""
    info = bucket._info
    monkeypatch.setattr(bucket, "_info", lambda: replace(info(), mirror=True))
    election = member()
    starting = asyncio.create_task(election.start())
    await asyncio.sleep(10)
    assert isinstance(election.problem, BucketInvalid)
    await election.stop()
    with pytest.raises(StoppedError):
        await starting
