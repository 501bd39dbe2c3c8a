"""An election for any program on a real NATS server, with everything that may happen to both."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import signal
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest

import incumbent
from controlplane.natsserver import NatsCluster
from controlplane.proxy import Towards
from incumbent import Election, Lost, NatsAccess, Profile, State, clock
from incumbent.campaign.events import Loss
from incumbent.errors import BucketNotFound
from incumbent.nats import watch as nats_watch
from incumbent.nats.connection import NatsConnection
from waiting import PATIENCE, until

KEY = "jobs"
TTL = 3.0
NAMES = (f"MEMBERS_{number}" for number in itertools.count())
SOURCES = Path(incumbent.__file__).parents[1]
GUIDE = SOURCES.parent / "docs" / "library.md"


@pytest.fixture
def soon(monkeypatch):
    """Look at the settings more often than every 10 s."""
    monkeypatch.setattr(nats_watch, "INFO_EVERY", 0.3)
    monkeypatch.setattr(nats_watch, "HEARTBEAT_EVERY", 0.2)


@asynccontextmanager
async def bucket_on(server, *, ttl=TTL, name=None):
    """A new bucket on a server."""
    name = name or next(NAMES)
    async with NatsConnection(NatsAccess([server.url])) as connection:
        await connection.wait_connected()
        await connection.create_bucket(name, ttl=ttl, replicas=1)
        yield connection.bucket(name)


@asynccontextmanager
async def stranger_on(server):
    """Any other NATS client."""
    client = await nats.connect(server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def won(election):
    async with asyncio.timeout(PATIENCE):
        return await election.won()


async def lost(election):
    async with asyncio.timeout(PATIENCE):
        await election.lost()


def listening(election):
    """Return what the callbacks of an election were called for."""
    calls = []
    election._on_won = lambda: calls.append("won")
    election._on_lost = lambda: calls.append("lost")
    return calls


async def test_a_planned_stop_hands_the_key_to_whoever_waits(nats_server):
    """Within moments, and with a greater token."""
    async with bucket_on(nats_server) as bucket:
        first = Election(nats_server.url, bucket.name, KEY, "a")
        second = Election(nats_server.url, bucket.name, KEY, "b")
        async with first:
            token = await won(first)
            await second.start()
            await until(lambda: second.leader == "a")
            began = time.monotonic()
            await asyncio.gather(first.stop(), won(second))
            assert time.monotonic() - began < TTL / 3
            assert second.token > token
            await second.stop()


async def test_a_connection_may_be_shared_and_is_not_closed(nats_server):
    """Several elections, one connection, which the program closes."""
    async with bucket_on(nats_server) as bucket:
        connection = bucket._connection
        async with (
            Election(connection, bucket.name, "one", "a") as one,
            Election(connection, bucket.name, "two", "a") as two,
        ):
            await asyncio.gather(won(one), won(two))
        assert connection.connected
        assert (await bucket.read("one", timeout=2)).entry.cause.value == "released"


async def test_it_waits_for_a_bucket_that_is_not_there_yet(nats_server):
    """`problem` says so, and when somebody makes it, it goes on."""
    name = next(NAMES)
    election = Election(nats_server.url, name, KEY, "a")
    starting = asyncio.create_task(election.start())
    await until(lambda: isinstance(election.problem, BucketNotFound))
    async with bucket_on(nats_server, name=name):
        await starting
        assert await won(election)
        assert election.problem is None
        await election.stop()


@pytest.mark.parametrize("evict", ("delete", "purge", "foreign put", "empty put"))
async def test_whoever_takes_the_record_ends_the_leadership(nats_server, evict):
    """Within moments: the watch tells, not the next renewal."""
    async with (
        bucket_on(nats_server, ttl=9) as bucket,
        stranger_on(nats_server) as stranger,
        Election(nats_server.url, bucket.name, KEY, "a") as election,
    ):
        await won(election)
        events = aiter(election)
        values = await stranger.key_value(bucket.name)
        began = time.monotonic()
        match evict:
            case "delete":
                await values.delete(KEY)
            case "purge":
                await values.purge(KEY)
            case "foreign put":
                await values.put(KEY, b"stranger")
            case "empty put":
                await values.put(KEY, b"")
        await lost(election)
        assert time.monotonic() - began < 1.5
        loss = Loss.OVERTAKEN if "put" in evict else Loss.EVICTED
        told = [await anext(events), await anext(events)]
        assert loss in {event.loss for event in told if isinstance(event, Lost)}


@pytest.mark.usefixtures("soon")
async def test_a_bucket_that_is_deleted_and_made_anew(nats_server):
    """Leadership ends with the bucket, `problem` says so, and in the new one it leads again."""
    async with (
        bucket_on(nats_server) as bucket,
        stranger_on(nats_server) as stranger,
    ):
        election = Election(nats_server.url, bucket.name, KEY, "a")
        calls = listening(election)
        async with election:
            await won(election)
            await stranger.delete_key_value(bucket.name)
            await lost(election)
            async with asyncio.timeout(PATIENCE):
                while not isinstance(election.problem, BucketNotFound):
                    await election.changed()
            await bucket.create(ttl=TTL, replicas=1)
            await until(lambda: election.problem is None)
            await won(election)
        # It may win before the watch has told it that this is another bucket, which is a loss.
        assert calls[:3] == ["won", "lost", "won"]
        assert calls == ["won", "lost"] * (len(calls) // 2)


@pytest.mark.parametrize("keep_store", (True, False))
async def test_a_server_that_restarts(private_nats, keep_store):
    """With its store a restart changes no leader; without, there is an end and a beginning."""
    async with bucket_on(private_nats, ttl=4) as bucket:
        election = Election(private_nats.url, bucket.name, KEY, "a")
        calls = listening(election)
        async with election:
            token = await won(election)
            await private_nats.restart(keep_store=keep_store)
            if keep_store:
                await asyncio.sleep(4)
                assert election.is_leader
                assert election.token == token
            else:
                await lost(election)
                async with bucket_on(private_nats, ttl=4, name=bucket.name):
                    await won(election)
    assert calls == (["won", "lost"] if keep_store else ["won", "lost", "won", "lost"])


async def test_a_black_hole_ends_the_leadership_before_the_ttl(nats_server, proxy):
    """By the own deadline, counted from the last renewal that the server stored."""
    link = await proxy(nats_server.port)
    async with (
        bucket_on(nats_server) as bucket,
        Election(f"nats://{link.address}", bucket.name, KEY, "a") as election,
    ):
        await won(election)
        other = Election(nats_server.url, bucket.name, KEY, "b")
        await other.start()
        await asyncio.sleep(TTL / 2)
        link.black_hole()
        await lost(election)
        ended = clock.now()
        assert other.leader == "a"
        assert not other.is_leader
        stored_at = ended - (await bucket.read(KEY, timeout=2)).age
        assert ended - stored_at < TTL
        assert await won(other)
        assert clock.now() > ended
        await link.resume()
        await other.stop()


async def test_an_answer_that_was_lost_is_no_loss(nats_server, proxy):
    """The renewal was stored: a look after the reconnect says so."""
    link = await proxy(nats_server.port)
    async with bucket_on(nats_server, ttl=6) as bucket:
        election = Election(f"nats://{link.address}", bucket.name, KEY, "a")
        calls = listening(election)
        async with election:
            token = await won(election)
            first = (await bucket.read(KEY, timeout=2)).entry.revision
            await asyncio.sleep(1.5)  # the renewal is due after 2 s
            link.black_hole(Towards.CLIENT)
            async with asyncio.timeout(PATIENCE):
                while (  # noqa: ASYNC110
                    renewed := (await bucket.read(KEY, timeout=2)).entry
                ).revision == first:
                    await asyncio.sleep(0.02)
            assert renewed.holder == "a"
            await link.resume()
            await asyncio.sleep(6)
            assert election.token == token
        assert calls == ["won", "lost"]


@pytest.mark.usefixtures("soon")
async def test_a_ttl_that_becomes_invalid_ends_the_leadership_until_it_is_mended(nats_server):
    """The bucket's configuration is read again while the election runs."""
    async with (
        bucket_on(nats_server) as bucket,
        stranger_on(nats_server) as stranger,
        Election(nats_server.url, bucket.name, KEY, "a") as election,
    ):
        await won(election)
        config = (await stranger.stream_info(f"KV_{bucket.name}")).config
        config.max_age = 1.2
        config.duplicate_window = 1.2
        await stranger.update_stream(config)
        await lost(election)
        assert "is too close to the bucket TTL of 1.2 s" in str(election.problem)
        config.max_age = TTL
        await stranger.update_stream(config)
        await won(election)
        assert election.problem is None


SCRIPT = """
import asyncio, sys
from incumbent import Election, Won, Lost

async def main():
    url, bucket, key = sys.argv[1:]
    election = Election(url, bucket, key, "paused")
    events = aiter(election)
    await election.start()
    driver = election._driver
    original = driver._bucket.write
    async def told(*args, **kwargs):
        print("write", flush=True)
        return await original(*args, **kwargs)
    driver._bucket.write = told
    async for event in events:
        print(type(event).__name__.lower(), flush=True)

asyncio.run(main())
"""


async def test_a_process_that_was_stopped_first_finds_out_that_it_lost(nats_server):
    """After a SIGSTOP for longer than the TTL: no write before it has told of the loss."""
    async with bucket_on(nats_server) as bucket:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SCRIPT, nats_server.url, bucket.name, KEY),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        try:
            await until_line(process, "won")
            await until_line(process, "write")
            os.kill(process.pid, signal.SIGSTOP)
            async with Election(nats_server.url, bucket.name, KEY, "next") as successor:
                await won(successor)
                os.kill(process.pid, signal.SIGCONT)
                lines = await until_line(process, "lost")
                assert "write" not in lines
                assert successor.is_leader
                assert (await bucket.read(KEY, timeout=2)).entry.holder == "next"
                await asyncio.sleep(TTL / 2)
                assert successor.is_leader
        finally:
            process.kill()
            await process.wait()


async def until_line(process, expected):
    """Return the lines that come before the expected one."""
    lines = []
    async with asyncio.timeout(PATIENCE):
        while (line := (await process.stdout.readline()).decode().strip()) != expected:
            assert process.returncode is None, lines
            assert line, lines
            lines.append(line)
    return lines


async def test_one_vacancy_is_no_stampede(nats_server):
    """Of candidates of both profiles exactly one leads, after ten tries each at the most."""
    async with (
        bucket_on(nats_server, ttl=4) as bucket,
        stranger_on(nats_server) as stranger,
        AsyncExitStack() as stack,
    ):
        await (await stranger.key_value(bucket.name)).put(KEY, b"stranger")
        members = [
            Election(bucket._connection, bucket.name, KEY, f"{number}", profile=profile)
            for number, profile in enumerate([*Profile] * 4)
        ]
        for member in members:
            await stack.enter_async_context(member)
        await until(lambda: any(member.is_leader for member in members))
        assert sum(member.is_leader for member in members) == 1
        # Choria's members try at each tick, also while somebody holds the key.
        assert max(member.campaigns[State.CANDIDATE] for member in members) <= 10


async def test_a_change_of_the_stream_leader_changes_no_leader(tmp_path):
    """With three servers, each of which leads the stream for a while."""
    async with NatsCluster(tmp_path) as cluster, AsyncExitStack() as stack:
        connection = await stack.enter_async_context(NatsConnection(NatsAccess(cluster.urls)))
        await connection.wait_connected()
        name = next(NAMES)
        await connection.create_bucket(name, ttl=6, replicas=3)
        client = await nats.connect(cluster.urls[0])
        stack.push_async_callback(client.close)

        async def changed():
            info = await client.jetstream().stream_info(f"KV_{name}")
            await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.KV_{name}")
            async with asyncio.timeout(PATIENCE):
                while True:
                    with contextlib.suppress(nats.errors.TimeoutError):
                        now = await client.jetstream().stream_info(f"KV_{name}")
                        if now.cluster.leader not in {info.cluster.leader, None, ""}:
                            return
                    await asyncio.sleep(0.05)

        async def renewed():
            stored = election.campaigns[State.LEADER]
            await until(lambda: election.campaigns[State.LEADER] > stored + 1)

        election = Election(cluster.urls, name, KEY, "a")
        rival = Election(cluster.urls, name, KEY, "b")
        calls = listening(election)
        async with election:
            token = await won(election)
            async with rival:
                for _ in range(2):
                    await changed()
                    await renewed()
                assert election.is_leader
                assert election.token == token
                assert not rival.is_leader
            assert calls == ["won"]


async def test_the_example_of_the_guide_works(nats_server, tmp_path):
    """It is taken from the page and run as it is there, but for the address."""
    [example] = re.findall(r"```python\n(# worker\.py.*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path / "worker.py"
    async with bucket_on(nats_server) as bucket:
        assert "nats://localhost:4222" in example
        assert "LEADER_ELECTION" in example
        text = example.replace("nats://localhost:4222", nats_server.url)
        file.write_text(text.replace("LEADER_ELECTION", bucket.name))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCES)},
        )
        try:
            await until_line(process, "working with token 1")
            async with Election(nats_server.url, bucket.name, "reports", "next") as successor:
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE):
                    _, complaints = await process.communicate()
                assert process.returncode == 0, complaints
                assert complaints == b""
                assert await won(successor)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
