"""What the fake bucket offers beside the contract: what it records, and its faults."""

from __future__ import annotations

import asyncio

import pytest

from fakes import FakeBucket
from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import Marker, Nothing, Record
from incumbent.errors import BucketUnreachable

pytestmark = pytest.mark.looptime

KEY = "shop.billing"


async def write(bucket: FakeBucket, value: str = "a", expected: int = 0) -> Answer:
    return await bucket.write(KEY, value, expected=expected, headers={}, timeout=1)


async def test_calls_are_recorded_by_what_they_are() -> None:
    """Whatever becomes of them."""
    bucket = FakeBucket()
    await write(bucket)
    await write(bucket, expected=1)
    await write(bucket, "b", expected=2)
    await bucket.remove(KEY, expected=3, headers=wire.release_headers("r"), timeout=1)
    await write(bucket, expected=4)
    await bucket.remove("other", expected=3, headers={wire.OPERATION: "DEL"}, timeout=1)
    await bucket.read(KEY, timeout=1)
    await bucket.info()

    kinds = ["create", "renew", "transfer", "release", "create", "evict", "read", "info"]
    assert bucket.operations == kinds
    assert bucket.operations_on("other") == ["evict"]
    assert (bucket.calls[2].value, bucket.calls[2].expected) == ("b", 2)


@pytest.mark.parametrize(("seconds", "outcome"), ((0.5, Outcome.STORED), (1.5, Outcome.UNKNOWN)))
async def test_a_delayed_write_is_stored_when_it_arrives(
    looptime: float, seconds: float, outcome: Outcome
) -> None:
    """Also when nobody waits for it any more, and on top of what is there by then."""
    bucket = FakeBucket(ttl=60)
    with bucket.delaying(seconds):
        answer = await write(bucket)
        assert looptime == min(seconds, 1)
        assert answer.outcome is outcome
    await asyncio.sleep(1)
    assert (await bucket.read(KEY, timeout=1)).entry == Record(1, "a", term=1)


async def test_a_delayed_write_can_be_overtaken(looptime: float) -> None:
    """Then it is refused."""
    bucket = FakeBucket()
    with bucket.delaying(0.5):
        late = asyncio.create_task(write(bucket, "late"))
        await asyncio.sleep(0)
    assert (await write(bucket, "early")).outcome is Outcome.STORED
    assert looptime < 0.5
    assert await late == Answer(Outcome.REFUSED, reason="wrong last sequence: 1")


@pytest.mark.parametrize("fault", ("dropping_requests", "dropping_answers"))
async def test_what_is_lost_costs_the_whole_timeout(looptime: float, fault: str) -> None:
    """For a write and for a read."""
    bucket = FakeBucket(ttl=60)
    with getattr(bucket, fault)():
        assert (await write(bucket)).outcome is Outcome.UNKNOWN
        assert looptime == 1
        with pytest.raises(BucketUnreachable):
            await bucket.read(KEY, timeout=2)
        assert looptime == 3
        with pytest.raises(BucketUnreachable):
            await bucket.info()
    stored = fault == "dropping_answers"
    assert isinstance((await bucket.read(KEY, timeout=1)).entry, Record if stored else Nothing)


async def test_an_outage_costs_no_time(looptime: float) -> None:
    """Everything fails at once, and a write under way fails when its time has come."""
    bucket = FakeBucket()
    with bucket.delaying(0.5):
        under_way = asyncio.create_task(write(bucket))
        await asyncio.sleep(0)
    with bucket.unreachable("gone"):
        assert await write(bucket) == Answer(Outcome.REFUSED, reason="gone")
        with pytest.raises(BucketUnreachable, match="gone"):
            await bucket.read(KEY, timeout=1)
        assert looptime == 0
        assert (await under_way).outcome is Outcome.UNKNOWN
    assert isinstance((await bucket.read(KEY, timeout=1)).entry, Record)


async def test_a_change_just_before_an_outage_is_not_shown_twice() -> None:
    """The first sighting after it is the latest entry."""
    bucket = FakeBucket()
    seen: list[Sighting] = []
    bucket.watch(KEY, seen.append)
    await asyncio.sleep(0.1)
    bucket.put(KEY, "x")
    with bucket.unreachable():
        pass
    await asyncio.sleep(0.1)
    assert [sighting.entry.revision for sighting in seen] == [0, 1]
    assert not seen[1].live


async def test_settings_can_change_and_buckets_be_made_anew() -> None:
    """Old records do not expire in the new bucket."""
    bucket = FakeBucket(ttl=5)
    told: list[tuple[float, str]] = []
    seen: list[Sighting] = []

    def changed() -> None:
        if bucket.settings is not None:
            told.append((bucket.settings.ttl, bucket.settings.created[-3:]))

    end = bucket.listen(changed)
    bucket.watch(KEY, seen.append)
    await asyncio.sleep(0.1)
    bucket.configure(ttl=9)
    bucket.put(KEY, "old")
    bucket.recreate(ttl=7)
    bucket.put(KEY, "new")
    await asyncio.sleep(5.5)

    assert told == [(5, "01Z"), (9, "01Z"), (7, "02Z")]
    assert [sighting.entry for sighting in seen] == [Nothing(), Nothing(), Record(1, "new", term=1)]
    end()
    bucket.configure(ttl=3)
    assert len(told) == 3


@pytest.mark.parametrize("markers", (True, False))
async def test_a_record_expires_on_the_loops_clock(looptime: float, markers: object) -> None:
    """Exactly when it is due."""
    bucket = FakeBucket(ttl=5, markers=bool(markers))
    bucket.put(KEY, "x")
    await asyncio.sleep(4.9)
    assert isinstance((await bucket.read(KEY, timeout=1)).entry, Record)
    await asyncio.sleep(0.2)
    gone = (await bucket.read(KEY, timeout=1)).entry
    assert isinstance(gone, Marker if markers else Nothing)
