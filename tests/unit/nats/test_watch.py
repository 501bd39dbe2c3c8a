"""The watch of a bucket: its problems, its losses, and those who are shown what it finds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Nothing
from incumbent.errors import (
    BucketDenied,
    BucketInvalid,
    BucketSilent,
    BucketUnreachable,
)
from incumbent.nats import watch as nats_watch
from incumbent.nats.bucket import NatsBucket
from scriptednats import DENIED, Server, refusing, watched

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


# Another bucket


async def test_a_bucket_made_anew_while_a_watch_begins_is_told_first(
    server: Server, bucket: NatsBucket
) -> None:
    """The consumer may belong to the old one, so it is not used."""
    server.store("a", deliver=False)
    happened: list[object] = []

    def replace(call: str) -> None:
        if call == "CONSUMER.CREATE" and server.consumers == 0:
            server.created = "2026-02-02T00:00:00Z"

    server.on_call = replace
    ends = [
        bucket.listen(lambda: happened.append(bucket.settings and bucket.settings.created)),
        bucket.watch("a", lambda sighting: happened.append(sighting.entry.revision)),
    ]
    await asyncio.sleep(0.5)

    assert happened == ["2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z", 1]
    assert server.consumers == 2
    for end in ends:
        end()


async def test_who_begins_to_watch_when_told_is_not_shown_the_old_bucket(
    server: Server, bucket: NatsBucket
) -> None:
    """Nothing that is known belongs to the new one."""
    async with watched(bucket):
        server.store("a")
        later: list[Sighting] = []
        ends: list[Callable[[], None]] = []

        def changed() -> None:
            if bucket.settings and bucket.settings.created.startswith("2026-02") and not ends:
                ends.append(bucket.watch("a", later.append))

        ends_listening = bucket.listen(changed)
        server.created = "2026-02-02T00:00:00Z"
        server.messages.clear()
        server.revision = 0
        await asyncio.sleep(nats_watch.INFO_EVERY + 2)

        assert later == [Sighting(Nothing())]
        for end in (ends_listening, *ends):
            end()


# Problems


async def test_a_problem_is_told_once_and_its_end(server: Server, bucket: NatsBucket) -> None:
    """However often it is met; the attempts go on with growing pauses."""
    told: list[str] = []
    server.failure = BucketInvalid("no")
    end = bucket.listen(lambda: told.append(str(bucket.problem)))
    await asyncio.sleep(10)
    assert told == ["no"]
    assert 10 < len(server.calls) < 30

    server.failure = None
    await asyncio.sleep(2)
    assert told == ["no", "no", "None"]  # the second is for the settings
    end()


async def test_an_error_that_nobody_expected_does_not_end_the_watch(
    server: Server, bucket: NatsBucket
) -> None:
    """It is logged, and the watch tried again."""
    server.failure = KeyError("config")
    seen: list[Sighting] = []
    end = bucket.watch("a", seen.append)
    with capture_logs() as logs:
        await asyncio.sleep(1)
    server.failure = None
    await asyncio.sleep(2)
    assert seen == [Sighting(Nothing())]
    assert {entry["event"] for entry in logs} == {"bucket.watch_failed"}
    end()


async def test_a_look_without_an_answer_does_not_end_a_watch(
    server: Server, bucket: NatsBucket
) -> None:
    """Heartbeats tell better whether it is alive."""
    async with watched(bucket):
        server.failure = BucketUnreachable("no answer")
        await asyncio.sleep(3 * nats_watch.INFO_EVERY)
        assert server.consumers == 1
        assert bucket.problem is None


async def test_a_lost_connection_is_a_problem_of_the_bucket(
    server: Server, bucket: NatsBucket
) -> None:
    """Until there is one again, and the watch has shown what there is."""
    async with watched(bucket) as shown:
        server.up.clear()
        bucket.disconnected(BucketUnreachable("gone"))
        assert isinstance(bucket.problem, BucketUnreachable)
        late: list[Sighting] = []
        end = bucket.watch("a", late.append)
        await asyncio.sleep(5)
        assert late == []
        assert str(bucket.problem) == "gone"

        server.up.set()
        await asyncio.sleep(1)
        assert bucket.problem is None
        assert late == shown["a"] == [Sighting(Nothing())]
        end()


async def test_a_bucket_that_nobody_watches_has_no_problem(
    server: Server, bucket: NatsBucket
) -> None:
    """It does nothing, and cannot know."""
    bucket.disconnected(BucketUnreachable("gone"))
    assert bucket.problem is None
    end = bucket.watch("a", lambda _: None)
    end()
    await asyncio.sleep(1)
    assert server.calls == []


async def test_a_bucket_whose_keys_may_not_be_read_is_not_usable(
    server: Server, bucket: NatsBucket
) -> None:
    """That is found out at the beginning, or with the first read, and heals by itself."""
    with refusing(server, {"STREAM.MSG.GET": DENIED}):
        end = bucket.watch("a", lambda _: None)
        await asyncio.sleep(1)
        assert bucket.problem is DENIED
    await asyncio.sleep(2)
    assert bucket.problem is None

    with refusing(server, {"STREAM.MSG.GET": DENIED}):
        with pytest.raises(BucketDenied):
            await bucket.read("a", timeout=1)
        await asyncio.sleep(1)
        assert bucket.problem is DENIED
    await asyncio.sleep(2)
    assert bucket.problem is None
    end()


# All keys


async def test_who_follows_is_shown_every_key_and_then_each_change(
    server: Server, bucket: NatsBucket
) -> None:
    """An empty key tells that all were shown; that comes again after a loss of the watch."""
    for key in "ba":
        server.store(key, deliver=False)
    shown: list[tuple[str, int]] = []

    def seen(key: str, sighting: Sighting) -> None:
        shown.append((key, sighting.entry.revision))

    ends = [bucket.follow(seen)]
    await asyncio.sleep(0.5)
    server.store("c")
    assert shown == [("b", 1), ("a", 2), ("", 0), ("c", 3)]

    shown.clear()
    ends.append(bucket.follow(seen))
    assert shown == [("b", 1), ("a", 2), ("c", 3), ("", 0)]
    ends.pop()()

    shown.clear()
    server.beat(9)
    await asyncio.sleep(0.5)
    assert shown == [("b", 1), ("a", 2), ("c", 3), ("", 0)]
    ends.pop()()
    shown.clear()
    server.store("a")
    assert shown == []


async def test_who_follows_all_keys_needs_no_right_to_read_one(
    server: Server, bucket: NatsBucket
) -> None:
    """The list of who holds what comes from the watch alone."""
    seen: list[str] = []
    with refusing(server, {"STREAM.MSG.GET": DENIED}):
        end = bucket.follow(lambda key, _: seen.append(key))
        await asyncio.sleep(1)
    assert seen == [""]
    assert bucket.problem is None
    end()


# What answers, and does nothing


async def test_a_watch_that_delivers_nothing_is_a_problem(
    server: Server, bucket: NatsBucket
) -> None:
    """So it is with a bucket of another account. It heals by itself."""
    server.store("a")
    server.delivering = False
    end = bucket.watch("a", lambda _: None)
    await asyncio.sleep(15)
    assert isinstance(bucket.problem, BucketSilent)
    assert "account" in str(bucket.problem)
    server.delivering = True
    await asyncio.sleep(5)
    assert bucket.problem is None
    assert bucket.delivers
    end()


async def test_the_watch_of_an_empty_bucket_has_to_prove_itself_only_after_a_silent_one(
    server: Server, bucket: NatsBucket
) -> None:
    """The first begins at once. Those after a silent one show nothing before they were heard."""
    server.delivering = False
    shown: list[Sighting] = []
    end = bucket.watch("a", shown.append)
    await asyncio.sleep(0.5)
    assert len(shown) == 1
    await asyncio.sleep(30)
    assert isinstance(bucket.problem, BucketSilent)
    assert len(shown) == 1
    end()


async def test_a_lost_connection_is_no_silence(server: Server, bucket: NatsBucket) -> None:
    """However often it is lost before anything was delivered."""
    server.store("a")
    server.delivering = False
    end = bucket.watch("a", lambda _: None)
    for _ in range(5):
        await asyncio.sleep(2)
        bucket.disconnected(BucketUnreachable("gone"))
    await asyncio.sleep(2)
    assert isinstance(bucket.problem, BucketUnreachable)
    end()
