"""What a feed keeps of the keys that nobody watches."""

from __future__ import annotations

import asyncio
import math

import pytest

from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Nothing
from incumbent.errors import (
    BucketUnreachable,
)
from incumbent.nats import feed as nats_feed
from incumbent.nats import watch as nats_watch
from incumbent.nats.bucket import NatsBucket
from scriptednats import DENIED, Server, facts, refusing, watched

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


def kept(bucket: NatsBucket) -> int:
    """Return of how many keys anything is remembered."""
    watch, problems = bucket._watch, bucket._write_problems
    feeds = {id(feed): feed for feed in (watch._feed, watch._shown) if feed is not None}
    rooms = [
        *(room for feed in feeds.values() for room in (feed.entries, feed.spare)),
        *(room for feed in feeds.values() for room in (feed._certain, feed._unshown)),
        *(feed.continuity._gaps for feed in feeds.values()),
        *(bucket._subscribers._watchers, watch._reading),
        *(problems._answered_at, problems.denied),
    ]
    return sum(map(len, rooms))


@pytest.fixture
def few_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember only ten keys that nobody watches."""
    monkeypatch.setattr(nats_feed, "MOST_SPARE", 10)


def crowd_out(server: Server) -> None:
    """Store so many other keys that the bucket forgets most of them, with `few_spare`."""
    for number in range(50):
        server.store(f"foreign-{number}")


@pytest.mark.usefixtures("few_spare")
async def test_of_the_keys_of_others_few_are_remembered(server: Server, bucket: NatsBucket) -> None:
    """However many there are, at the start and later."""
    for number in range(100):
        server.store(f"foreign-{number}", deliver=False)
    async with watched(bucket) as shown:
        assert kept(bucket) < 40
        for number in range(1000):
            server.store(f"later-{number}")
        assert kept(bucket) < 40
        server.store("a")
        assert facts(shown["a"]) == [(1101, True)]


@pytest.mark.usefixtures("few_spare")
async def test_a_key_that_was_forgotten_is_read_for_who_begins_to_watch_it(
    server: Server, bucket: NatsBucket
) -> None:
    """Nothing is known of what was on it before, as for every watch that begins."""
    async with watched(bucket):
        crowd_out(server)
        shown: list[Sighting] = []
        end = bucket.watch("foreign-7", shown.append)
        assert not shown
        await asyncio.sleep(0.1)
        assert facts(shown) == [(8, False)]
        assert shown[0].unseen_for == math.inf
        server.store("foreign-7")
        assert facts(shown) == [(8, False), (51, True)]
        again: list[Sighting] = []
        end_again = bucket.watch("foreign-7", again.append)
        assert facts(again) == [(51, False)]
        end()
        end_again()


@pytest.mark.usefixtures("few_spare")
async def test_that_a_key_holds_nothing_is_read_where_some_were_forgotten(
    server: Server, bucket: NatsBucket
) -> None:
    """It may be one of them. A key that was watched all the time is none of them."""
    async with watched(bucket):
        crowd_out(server)
        before = server.calls.count("STREAM.MSG.GET")
        shown: list[Sighting] = []
        end = bucket.watch("new", shown.append)
        assert not shown
        await asyncio.sleep(0.1)
        assert shown == [Sighting(Nothing())]
        again: list[Sighting] = []
        end_again = bucket.watch("a", again.append)
        assert again == [Sighting(Nothing())]
        assert server.calls.count("STREAM.MSG.GET") == before + 1
        end()
        end_again()


@pytest.mark.usefixtures("few_spare")
async def test_a_key_that_was_watched_from_the_beginning_can_be_forgotten_once_it_is_not(
    server: Server, bucket: NatsBucket
) -> None:
    """It would look as if it held nothing, and as if nobody had ever led."""
    end = bucket.watch("a", lambda _: None)
    end_other = bucket.watch("b", lambda _: None)
    await asyncio.sleep(0.5)
    server.store("a")
    end()
    crowd_out(server)
    shown: list[Sighting] = []
    end = bucket.watch("a", shown.append)
    await asyncio.sleep(0.1)
    assert facts(shown) == [(1, False)]
    end()
    end_other()


@pytest.mark.usefixtures("few_spare")
async def test_what_comes_while_a_key_is_read_first_is_not_live(
    server: Server, bucket: NatsBucket
) -> None:
    """Nobody was shown what was there before. What is read then is old, and not shown any more."""
    async with watched(bucket):
        crowd_out(server)
        shown: list[Sighting] = []
        end = bucket.watch("foreign-7", shown.append)
        server.store("foreign-7")
        await asyncio.sleep(0.1)
        assert facts(shown) == [(51, False)]
        assert shown[0].unseen_for == math.inf
        server.store("foreign-7")
        assert facts(shown)[1:] == [(52, True)]
        end()


@pytest.mark.usefixtures("few_spare")
async def test_a_first_read_that_fails_is_tried_again_also_after_the_watch_was_lost(
    server: Server, bucket: NatsBucket
) -> None:
    """Otherwise the election would never begin."""
    async with watched(bucket):
        crowd_out(server)
        shown: list[Sighting] = []
        with refusing(server, {"STREAM.MSG.GET": BucketUnreachable("no answer")}):
            end = bucket.watch("foreign-7", shown.append)
            await asyncio.sleep(1)
            assert not shown
        await asyncio.sleep(2)
        assert facts(shown) == [(8, False)]
        end()
        shown.clear()
        for number in range(50):
            server.store(f"more-{number}")
        end = bucket.watch("gone", shown.append)
        bucket.disconnected(BucketUnreachable("gone"))
        await asyncio.sleep(5)
        assert shown
        assert shown[-1].entry == Nothing()
        end()


async def test_the_few_keys_of_others_are_known_without_a_request(
    server: Server, bucket: NatsBucket
) -> None:
    """After a start thousands of elections begin while the bucket is watched already."""
    for number in range(100):
        server.store(f"foreign-{number}", deliver=False)
    async with watched(bucket):
        before = list(server.calls)
        for number in range(100):
            shown: list[Sighting] = []
            end = bucket.watch(f"foreign-{number}", shown.append)
            assert facts(shown) == [(number + 1, False)]
            end()
        assert server.calls == before


async def test_a_long_value_of_somebody_else_is_not_kept(
    server: Server, bucket: NatsBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket may hold other things than elections."""
    monkeypatch.setattr(nats_feed, "LONGEST_SPARE", 3)
    async with watched(bucket):
        before = kept(bucket)
        for number in range(100):
            server.store(f"foreign-{number}")
        assert kept(bucket) == before


async def test_ten_thousand_keys_that_were_watched_and_released_leave_nothing(
    server: Server, bucket: NatsBucket
) -> None:
    """Elections come and go, with writes that were answered, denied, or not answered."""
    async with watched(bucket):
        before = kept(bucket)
        for number in range(10_000):
            key = f"key-{number}"
            end = bucket.watch(key, lambda _: None)
            server.store(key)
            with refusing(server, {f"$KV.B.{key}": DENIED} if number % 100 == 0 else {}):
                if number % 50 == 0:
                    await bucket.write(key, "x", expected=0, headers={}, timeout=1)
            end()
            server.store(key)  # the marker
            if number % 50 == 0:
                await bucket.write(key, "x", expected=0, headers={}, timeout=1)  # too late
        assert kept(bucket) <= before + nats_feed.MOST_SPARE
        await asyncio.sleep(nats_feed.SPARE_FOR + 2 * nats_watch.INFO_EVERY)
        assert kept(bucket) <= before + 1


async def test_a_bucket_that_no_election_can_use_is_not_watched(
    server: Server, bucket: NatsBucket
) -> None:
    """It may hold anything. Its settings are looked at, for they may be mended."""
    server.ttl = 0
    told: list[float] = []
    end = bucket.listen(lambda: told.append(bucket.settings.ttl if bucket.settings else -1))
    await asyncio.sleep(5)
    assert server.consumers == 0
    assert bucket.problem is None
    server.ttl = 30
    await asyncio.sleep(nats_watch.INFO_EVERY + 1)
    assert told == [0, 30]
    shown: list[Sighting] = []
    end_watch = bucket.watch("a", shown.append)
    await asyncio.sleep(0.5)
    assert server.consumers == 1
    assert shown
    end_watch()
    end()


@pytest.mark.usefixtures("few_spare")
async def test_who_follows_late_is_shown_also_what_was_forgotten(
    server: Server, bucket: NatsBucket
) -> None:
    """The watch begins anew for that."""
    async with watched(bucket):
        crowd_out(server)
        followed: set[str] = set()
        end = bucket.follow(lambda key, _: followed.add(key))
        await asyncio.sleep(2)
        assert len(followed) == 51
        end()
        assert kept(bucket) < 40
