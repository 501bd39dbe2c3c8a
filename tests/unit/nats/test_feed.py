"""What a feed makes of what a server delivers: nothing is left out in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Nothing
from incumbent.errors import (
    BucketUnreachable,
)
from incumbent.nats.bucket import NatsBucket
from scriptednats import Server, facts, watched

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


# What was left out


async def test_what_follows_without_a_gap_is_live(server: Server, bucket: NatsBucket) -> None:
    """On whatever key."""
    async with watched(bucket) as shown:
        for key in "aabca":
            server.store(key)
        assert facts(shown["a"]) == [(1, True), (2, True), (5, True)]
        assert facts(shown["b"]) == [(3, True)]


async def test_after_a_gap_no_key_is_live_before_it_was_seen_again(
    server: Server, bucket: NatsBucket
) -> None:
    """What was replaced before it was delivered may have been on any key."""
    async with watched(bucket) as shown:
        server.store("a")
        server.store("b", deliver=False)
        server.store("a")
        server.store("a")
        server.store("b")
        server.store("b")
        server.store("c")
        server.store("c")

        assert facts(shown["a"]) == [(1, True), (3, False), (4, True)]
        assert facts(shown["b"]) == [(5, False), (6, True)]
        assert facts(shown["c"]) == [(7, False), (8, True)]


async def test_a_snapshot_has_no_gaps(server: Server, bucket: NatsBucket) -> None:
    """What it leaves out was replaced before the watch began."""
    for key in "ababba":
        server.store(key, deliver=False)
    seen: list[Sighting] = []
    end = bucket.watch("a", seen.append)
    await asyncio.sleep(0.5)
    server.store("a")

    assert facts(seen) == [(6, False), (7, True)]
    end()


async def test_a_gap_on_one_key_concerns_the_others_since_it_began(
    server: Server, bucket: NatsBucket
) -> None:
    """Nothing was left out of what was stored before the last message that came without a gap."""
    async with watched(bucket) as shown:
        server.store("a")
        await asyncio.sleep(6)
        server.store("b")
        await asyncio.sleep(1)
        server.store("c", deliver=False)
        server.store("c")
        await asyncio.sleep(2)
        server.store("a")

        assert not shown["a"][-1].live
        assert shown["a"][-1].unseen_for == pytest.approx(3, abs=0.1)


async def test_a_new_watch_with_no_revision_missing_has_left_out_nothing(
    server: Server, bucket: NatsBucket
) -> None:
    """As after an outage in which nothing happened but what time alone brings."""
    async with watched(bucket) as shown:
        for key in "ab":
            server.store(key)
        bucket.disconnected(BucketUnreachable("gone"))
        for key in "ab":
            server.store(key, deliver=False)
        await asyncio.sleep(60)

        assert facts(shown["a"]) == [(1, True), (3, False)]
        assert [seen.unseen_for for seen in (shown["a"][-1], shown["c"][-1])] == [0, 0]


@pytest.mark.parametrize("when", ("before it begins", "while it begins"))
async def test_a_new_watch_with_a_revision_missing_tells_since_when(
    server: Server, bucket: NatsBucket, when: str
) -> None:
    """It may have been of any key; also if it was delivered, but shown to nobody."""
    async with watched(bucket) as shown:
        for key in "ab":
            server.store(key)
        await asyncio.sleep(6)
        server.store("c")
        bucket.disconnected(BucketUnreachable("gone"))
        if when == "before it begins":
            server.store("b", deliver=False)
            server.store("b", deliver=False)
        else:

            def deliver_twice(call: str) -> None:
                if call == "STREAM.INFO" and server.consumers == 2 and server.revision == 3:
                    server.store("b")
                    server.store("b")

            server.on_call = deliver_twice
        await asyncio.sleep(1)

        assert facts(shown["b"])[-1] == (5, False)
        assert all(1 >= shown[key][-1].unseen_for > 0 for key in "ab")


async def test_what_a_watch_saw_that_ended_before_it_showed_it_is_missing(
    server: Server, bucket: NatsBucket
) -> None:
    """Nobody was told of it."""
    async with watched(bucket) as shown:
        server.store("a")
        bucket.disconnected(BucketUnreachable("gone"))
        server.store("a", deliver=False)

        def lose(call: str) -> None:
            looks.append(call == "STREAM.INFO" and server.consumers == 2)
            if sum(looks) == 2 and server.revision == 2:  # the first one was delivered by now
                server.store("a", deliver=False)
                server.beat(7)

        looks: list[bool] = []

        server.on_call = lose
        await asyncio.sleep(3)

        assert server.consumers > 2
        assert facts(shown["a"])[-1] == (3, False)
        assert shown["a"][-1].unseen_for > 0


async def test_a_read_tells_whether_the_watch_has_left_something_out(
    server: Server, bucket: NatsBucket
) -> None:
    """It has not if the revision is the next one."""
    async with watched(bucket):
        server.store("a")
        await asyncio.sleep(2)
        server.store("a", deliver=False)
        assert (await bucket.read("a", timeout=1)).unseen_for == 0
        server.store("a", deliver=False)
        assert (await bucket.read("a", timeout=1)).unseen_for == pytest.approx(2, abs=0.1)


# What was lost


@pytest.mark.parametrize(
    "lose",
    (
        lambda server: (server.deliver("a", 1, lost=True), server.store("b")),
        lambda server: (server.deliver("a", 1, lost=True), server.beat()),
        lambda server: server.beat(5),
    ),
)
async def test_a_loss_begins_the_watch_anew(
    server: Server, bucket: NatsBucket, lose: Callable[[Server], object]
) -> None:
    """A message that should have come before this one, or before a heartbeat."""
    async with watched(bucket) as shown:
        lose(server)
        server.messages["a"] = server.revision = 9
        await asyncio.sleep(0.5)

        assert server.consumers == 2
        assert facts(shown["a"]) == [(9, False)]
        assert shown["c"] == [Sighting(Nothing())]


async def test_what_comes_after_a_loss_is_not_shown(server: Server, bucket: NatsBucket) -> None:
    """It may be the second of two messages."""
    async with watched(bucket) as shown:
        server.deliver("a", 1, lost=True)
        server.deliver("a", 2)
        server.deliver("a", 3)

        assert shown["a"] == []


async def test_heartbeats_keep_a_watch(server: Server, bucket: NatsBucket) -> None:
    """However long nothing happens."""
    async with watched(bucket) as shown:
        await asyncio.sleep(100)
        assert server.consumers == 1
        assert not any(shown.values())


async def test_silence_begins_the_watch_anew(server: Server, bucket: NatsBucket) -> None:
    """After three heartbeats that did not come, not after one."""
    async with watched(bucket):
        await asyncio.sleep(1)
        server.beating = False
        await asyncio.sleep(2)
        assert server.consumers == 1
        await asyncio.sleep(2.5)
        assert server.consumers == 2


# What is complete


async def test_no_key_is_shown_as_empty_while_it_is_renewed(
    server: Server, bucket: NatsBucket
) -> None:
    """A record that is replaced before its delivery is missing until the new one comes."""
    for key in "abc":
        server.store(key, deliver=False)

    def renew(call: str) -> None:
        if call == "STREAM.INFO" and server.consumers and server.revision == 3:
            server.store("c", deliver=False)
            asyncio.get_running_loop().call_later(0.3, server.deliver, "c", 4)

    server.on_call = renew
    seen: list[Sighting] = []
    end = bucket.watch("c", seen.append)
    await asyncio.sleep(1)

    assert facts(seen) == [(4, False)]
    end()


async def test_a_key_that_is_renewed_while_others_are_delivered_is_waited_for(
    server: Server, bucket: NatsBucket
) -> None:
    """All that there was at the first look was delivered or replaced; the second finds the rest."""
    for key in "cab":
        server.store(key, deliver=False)

    def renew(call: str) -> None:
        if call == "STREAM.INFO" and server.consumers == 1 and server.revision == 3:
            asyncio.get_running_loop().call_soon(partial(server.store, "c", deliver=False))
            asyncio.get_running_loop().call_later(0.05, server.deliver, "c", 4)

    server.on_call = renew
    seen: list[Sighting] = []
    end = bucket.watch("c", seen.append)
    await asyncio.sleep(1)

    assert facts(seen) == [(4, False)]
    end()


async def test_a_stream_whose_latest_message_is_gone_is_complete(
    server: Server, bucket: NatsBucket
) -> None:
    """Without markers the last revision may belong to a record that has expired."""
    server.store("a", deliver=False)
    server.store("b", deliver=False)
    del server.messages["b"]
    seen: dict[str, list[Sighting]] = {"a": [], "b": []}
    ends = [bucket.watch(key, seen[key].append) for key in seen]
    await asyncio.sleep(0.5)

    assert facts(seen["a"]) == [(1, False)]
    assert seen["b"] == [Sighting(Nothing())]
    for end in ends:
        end()


async def test_messages_that_stop_to_come_end_the_watch(server: Server, bucket: NatsBucket) -> None:
    """A server that dies while it delivers is not waited for."""
    server.store("a", deliver=False)
    server.beating = server.delivering = False
    seen: list[Sighting] = []
    end = bucket.watch("a", seen.append)
    await asyncio.sleep(2.5)
    assert server.consumers == 1
    server.beating = server.delivering = True
    await asyncio.sleep(2.5)
    assert server.consumers == 2
    assert facts(seen) == [(1, False)]
    end()


# Ages


async def test_an_age_is_never_said_too_great(server: Server, bucket: NatsBucket) -> None:
    """A slow answer makes a record seem younger: who waits for its end waits long enough."""
    server.store("a", deliver=False)  # at 0 by the server's clock, which the answer says it is
    feed: list[Sighting] = []
    end = bucket.watch("a", feed.append)
    await asyncio.sleep(0.5)
    assert 0 <= feed[0].age < 0.1
    late: list[Sighting] = []
    await asyncio.sleep(5)
    end_late = bucket.watch("a", late.append)
    assert 5 <= late[0].age < 5.6
    end()
    end_late()
