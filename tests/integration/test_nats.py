"""The connection to NATS and its buckets, with everything that servers and networks do to them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import nats
import pytest
from structlog.typing import EventDict

from controlplane.natsserver import NatsCluster, NatsServer
from controlplane.processes import free_port
from controlplane.proxy import Proxy, Towards
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import Entry, Nothing, Record
from incumbent.errors import BucketDenied, BucketInvalid, BucketNotFound, BucketUnreachable
from incumbent.nats import client as nats_client
from incumbent.nats import connection as nats_connection
from incumbent.nats import watch as nats_watch
from incumbent.nats.connection import NatsAccess, NatsBucket, NatsConnection
from natsconnection import connected
from natslogins import GENERATIONS, LOGINS, login
from waiting import PATIENCE, until

NAME = "ELECTIONS"
NAMES = (f"ELECTIONS_{number}" for number in itertools.count())
KEY = "shop.billing"

StartProxy = Callable[[int], Awaitable[Proxy]]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notice in half a second what otherwise takes three."""
    monkeypatch.setattr(nats_client, "PING_EVERY", 0.2)
    monkeypatch.setattr(nats_watch, "HEARTBEAT_EVERY", 0.2)


async def write(bucket: NatsBucket, expected: int = 0, *, key: str = KEY) -> Answer:
    return await bucket.write(key, "a/b/c", expected=expected, headers={}, timeout=2)


@asynccontextmanager
async def watched(connection: NatsConnection, name: str = "") -> AsyncIterator[Watched]:
    """A new bucket with a watch that is up."""
    name = name or next(NAMES)
    await connection.wait_connected()
    await connection.create_bucket(name, ttl=60, replicas=1)
    watch = Watched(connection.bucket(name))
    ends = [watch.bucket.watch(KEY, watch.seen.append), watch.bucket.listen(watch.take_note)]
    await until(lambda: watch.seen)
    yield watch
    for end in ends:
        end()


@dataclass
class Watched:
    """A bucket, and what its watch has shown."""

    bucket: NatsBucket
    seen: list[Sighting] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def take_note(self) -> None:
        """Write down what the problem is now."""
        self.problems.append(str(self.bucket.problem or ""))

    @property
    def entries(self) -> list[Entry]:
        """What was shown."""
        return [sighting.entry for sighting in self.seen]


# The connection


async def test_it_waits_for_a_server_and_says_for_which(
    tmp_path: Path, logs: list[EventDict]
) -> None:
    """Before a server runs there is a sentence, once in the log for every outage."""
    server = NatsServer(tmp_path)
    async with NatsConnection(NatsAccess([server.url])) as connection:
        assert connection.problem == "not connected to NATS yet"
        problem = f"NATS at 127.0.0.1:{server.port} cannot be reached: connection refused"
        await until(lambda: connection.problem == problem)
        assert not connection.connected
        with pytest.raises(BucketUnreachable, match="connection refused"):
            await connection.bucket(NAME).info()
        await asyncio.sleep(0.3)
        async with server:
            await until(lambda: connection.connected)
            assert connection.problem == ""

            server.kill()
            await until(lambda: connection.problem == problem)
            await asyncio.sleep(0.3)

    lost = f"the connection to NATS at 127.0.0.1:{server.port} was lost: the server closed it"
    told = [(entry["event"], entry.get("problem", "")) for entry in logs]
    assert told == [
        ("nats.unreachable", problem),
        ("nats.connected", ""),
        ("nats.unreachable", lost),
        ("nats.unreachable", problem),
    ]


@pytest.mark.parametrize("first", (0, 1))
async def test_the_urls_are_tried_in_turn(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """A server that is away costs one attempt, wherever its URL stands."""
    urls = [f"nats://127.0.0.1:{free_port()}", nats_server.url]
    chance = SimpleNamespace(randrange=lambda _: first, uniform=random.uniform)
    monkeypatch.setattr(nats_connection, "random", chance)
    async with connected(*urls) as connection:
        assert connection.connected


async def test_after_a_loss_the_next_url_is_tried(
    nats_server: NatsServer, proxy: StartProxy
) -> None:
    """A server that went away is not the first to be asked again."""
    one, other = await proxy(nats_server.port), await proxy(nats_server.port)
    async with connected(one.address, other.address) as connection:
        for _ in range(2):
            used, free = (one, other) if one.connections else (other, one)
            used.cut()
            await until(lambda used=used: not used.connections)
            await until(lambda: connection.connected)
            assert (used.connections, free.connections) == (0, 1)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("direction", (Towards.SERVER, Towards.CLIENT))
async def test_a_black_hole_is_noticed(
    nats_server: NatsServer, proxy: StartProxy, direction: Towards
) -> None:
    """Pings without an answer end the connection, and every request on it."""
    link = await proxy(nats_server.port)
    async with connected(link.address) as connection, watched(connection) as watch:
        link.black_hole(direction)
        started = time.monotonic()
        answer = await watch.bucket.write(KEY, "a", expected=0, headers={}, timeout=9)

        assert answer.outcome is Outcome.UNKNOWN
        assert time.monotonic() - started < 5
        assert not connection.connected
        lost = f"the connection to NATS at {link.address} was lost: it does not answer pings"
        assert answer.reason == str(watch.bucket.problem) == connection.problem == lost
        await until(lambda: connection.problem == f"NATS at {link.address} does not answer")
        await link.resume()
        await until(lambda: watch.bucket.problem is None)


@pytest.mark.usefixtures("soon")
async def test_a_busy_loop_costs_neither_connection_nor_watch(
    nats_server: NatsServer, logs: list[EventDict]
) -> None:
    """What arrived while the process was busy or stopped counts as heard."""
    async with connected(nats_server.url) as connection, watched(connection) as watch:
        await asyncio.sleep(0.5)
        time.sleep(2)  # noqa: ASYNC251 - that is the point
        await asyncio.sleep(0.5)

        assert connection.connected
        assert len(watch.seen) == 1
    assert [entry["event"] for entry in logs].count("nats.connected") == 1


async def test_a_server_that_stands_still_for_a_moment_is_not_left(
    private_nats: NatsServer,
) -> None:
    """A ping may take longer than the distance between pings."""
    async with connected(private_nats.url) as connection, watched(connection) as watch:
        private_nats.process.pause()
        writing = asyncio.create_task(write(watch.bucket))
        await asyncio.sleep(1.2)
        private_nats.process.resume()

        assert (await writing).outcome is Outcome.STORED
        assert connection.connected


async def test_requests_end_when_the_connection_is_lost(
    nats_server: NatsServer, proxy: StartProxy
) -> None:
    """Nobody waits for an answer that cannot come."""
    link = await proxy(nats_server.port)
    async with connected(link.address) as connection, watched(connection) as watch:
        link.hold()
        writing = asyncio.create_task(write(watch.bucket))
        reading = asyncio.create_task(watch.bucket.read(KEY, timeout=9))
        await asyncio.sleep(0.1)
        assert not writing.done()
        link.cut()

        async with asyncio.timeout(1):
            answer = await writing
            with pytest.raises(BucketUnreachable, match="the connection to NATS at"):
                await reading
        assert answer.outcome is Outcome.UNKNOWN


async def test_nothing_that_was_given_up_is_sent_after_a_reconnect(
    private_nats: NatsServer,
) -> None:
    """A write during an outage is over when its answer says so."""
    async with connected(private_nats.url) as connection, watched(connection) as watch:
        private_nats.kill()
        await until(lambda: not connection.connected)
        answer = await write(watch.bucket)
        assert answer.outcome is Outcome.REFUSED, "it was certainly not sent"
        assert answer.reason
        await private_nats.start()
        await until(lambda: watch.bucket.problem is None)

        assert await watch.bucket.read(KEY, timeout=2) == Sighting(Nothing())


async def test_it_can_be_started_only_once(nats_server: NatsServer) -> None:
    """A second start is a mistake, and so is one after the end."""
    async with connected(nats_server.url) as connection:
        with pytest.raises(RuntimeError, match="was started before"):
            await connection.start()
    with pytest.raises(RuntimeError, match="was closed"):
        await connection.start()
    with pytest.raises(RuntimeError, match="was closed"):
        connection.bucket(NAME).watch(KEY, lambda _: None)


async def test_the_end_leaves_nothing_behind(private_nats: NatsServer) -> None:
    """No connection, no consumer, no request that waits; to end it twice does no harm."""
    async with connected(private_nats.url) as connection, watched(connection) as watch:
        assert (await private_nats.monitor("connz"))["num_connections"] == 1
        private_nats.process.pause()
        writing = asyncio.create_task(write(watch.bucket))
        await asyncio.sleep(0.1)
        await connection.aclose()
        await connection.aclose()

        assert (await writing).reason == "the connection to NATS was closed"
        assert not connection.connected
        private_nats.process.resume()
        await nobody_connected(private_nats)


async def nobody_connected(server: NatsServer) -> None:
    """Wait until the server has no client."""
    async with asyncio.timeout(PATIENCE):
        while True:
            if (await server.monitor("connz"))["num_connections"] == 0:
                return
            await asyncio.sleep(0.01)


# Logins


@pytest.mark.parametrize("kind", LOGINS)
async def test_every_kind_of_login_works(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, logs: list[EventDict]
) -> None:
    """The right one gets a working bucket; a wrong one a sentence without secrets."""
    caplog.set_level(logging.DEBUG)
    right, wrong = (login(kind, tmp_path, generation=number) for number in GENERATIONS)
    access = right.install(tmp_path / "right")
    async with NatsServer(tmp_path, config=right.config) as server:
        async with connected(right.url(server.url), **access) as connection:
            await connection.create_bucket(NAME, ttl=5, replicas=1)
            assert (await write(connection.bucket(NAME))).outcome is Outcome.STORED
        refused = NatsAccess([wrong.url(server.url)], **wrong.install(tmp_path / "wrong"))
        async with NatsConnection(refused) as connection:
            await until(lambda: "NATS at" in connection.problem)
            assert not connection.connected
            assert right.refusal in connection.problem
            said = f"{connection.problem} {refused}"
    said += f"{logs} {caplog.text} {NatsAccess([right.url(server.url)], **access)}"
    assert f"127.0.0.1:{server.port}" in said
    assert not [secret for secret in right.secrets + wrong.secrets if secret in said]


async def test_a_missing_client_certificate_is_asked_for(tmp_path: Path) -> None:
    """In words, for the server's alert would not say which side lacks one."""
    ours = login("client certificate", tmp_path)
    async with NatsServer(tmp_path, config=ours.config) as server:
        access = NatsAccess([server.url], tls_ca=ours.files["tls_ca"])
        async with NatsConnection(access) as connection:
            await until(lambda: "asks for a client certificate: give one" in connection.problem)


async def test_files_are_read_anew_for_every_connection(tmp_path: Path) -> None:
    """A password that was changed is taken up without a restart."""
    old, new = (login("password", tmp_path, generation=number) for number in GENERATIONS)
    port, client = free_port(), tmp_path / "client"
    async with (
        NatsServer(tmp_path, config=old.config, port=port) as server,
        connected(server.url, **old.install(client)) as link,
    ):
        server.kill()
        async with NatsServer(tmp_path, config=new.config, port=port):
            await until(lambda: "refuses the login" in link.problem)
            new.install(client)
            await until(lambda: link.connected)


# What an account may do, and a server


def _permissions(*, publish: str = '">"', subscribe: str = '">"') -> str:
    return (
        "authorization { users: [ { user: op, password: op, permissions: {"
        f" publish: {{ allow: [{publish}] }}, subscribe: {{ allow: [{subscribe}] }} }} }},"
        " { user: admin, password: admin } ] }"
    )


NEEDED = (
    f"$JS.API.STREAM.INFO.KV_{NAME}",
    f"$JS.API.CONSUMER.CREATE.KV_{NAME}",
    f"$JS.API.STREAM.MSG.GET.KV_{NAME}",
    f"$KV.{NAME}.shop.>",
)


def _quoted(subjects: Iterable[str]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)


@asynccontextmanager
async def restricted(folder: Path, config: str) -> AsyncIterator[NatsConnection]:
    """A connection with few rights to a server that has the bucket."""
    async with NatsServer(folder, config=config) as server:
        async with connected(server.url.replace("//", "//admin:admin@")) as admin:
            await admin.create_bucket(NAME, ttl=60, replicas=1)
        async with NatsConnection(NatsAccess([server.url.replace("//", "//op:op@")])) as connection:
            yield connection


async def test_four_subjects_are_all_that_it_needs(tmp_path: Path) -> None:
    """With these rights and no other the bucket can be watched, read and written."""
    config = _permissions(publish=_quoted(NEEDED), subscribe='"_INBOX.>"')
    async with restricted(tmp_path, config) as connection, watched(connection, NAME) as watch:
        answer = await write(watch.bucket)

        assert answer.outcome is Outcome.STORED
        assert (await watch.bucket.read(KEY, timeout=2)).entry.revision == answer.revision
        await until(lambda: len(watch.seen) == 2)


@pytest.mark.parametrize("missing", NEEDED[:3])
async def test_a_watch_without_a_right_names_the_subject(tmp_path: Path, missing: str) -> None:
    """The sentence tells what to grant, as the server spells it, and comes at once."""
    allowed = _quoted(subject for subject in NEEDED if subject != missing)
    async with restricted(tmp_path, _permissions(publish=allowed)) as connection:
        bucket = connection.bucket(NAME)
        end = bucket.watch(KEY, lambda _: None)
        await until(lambda: bucket.problem is not None, within=1.5)

        assert isinstance(bucket.problem, BucketDenied)
        sentence = (
            f"NATS refuses us the subject {missing}: grant it to our user, as docs/nats.md says"
        )
        assert str(bucket.problem) == sentence
        assert connection.connected
        end()


async def test_a_write_without_the_right_is_not_known_to_be_stored(tmp_path: Path) -> None:
    """Its outcome is unknown, for the fault is the permission's; the reason names the subject."""
    async with restricted(tmp_path, _permissions(publish=_quoted(NEEDED[:3]))) as connection:
        await until(lambda: connection.connected)
        started = time.monotonic()
        bucket = connection.bucket(NAME)
        answer = await bucket.write(KEY, "a", expected=0, headers={}, timeout=9)

        assert time.monotonic() - started < 2
        assert answer.outcome is Outcome.UNKNOWN
        assert f"NATS refuses us the subject $KV.{NAME}.{KEY}: grant it" in answer.reason
        with pytest.raises(BucketDenied, match="INFO"):
            await connection.create_bucket("OTHER", ttl=5, replicas=1)


async def test_a_client_that_may_hear_no_answer_is_told_so(tmp_path: Path) -> None:
    """Without the right to subscribe to an inbox there is no use in a connection."""
    config = _permissions(subscribe='"_OTHER.>"')
    async with restricted(tmp_path, config) as connection:
        sentence = (
            "NATS refuses us to subscribe to _INBOX.>: give another --nats-inbox-prefix, or grant"
        )
        end = connection.bucket(NAME).watch(KEY, lambda _: None)
        await until(lambda: connection.problem.startswith(sentence))
        assert not connection.connected
        await until(lambda: isinstance(connection.bucket(NAME).problem, BucketDenied))
        end()


async def test_a_server_without_jetstream_is_told_from_a_missing_bucket(tmp_path: Path) -> None:
    """Nobody answers then, and the sentence says what that may mean."""
    server = NatsServer(tmp_path, config="jetstream: disabled")
    async with server, connected(server.url) as connection:
        with pytest.raises(BucketUnreachable, match="JetStream is off on the server"):
            await connection.bucket(NAME).info()


async def test_an_account_without_jetstream_is_told_so(tmp_path: Path) -> None:
    """The server knows JetStream, and the account may not use it."""
    config = "accounts { A { users: [ { user: op, password: op } ] } }"
    server = NatsServer(tmp_path, config=config)
    async with server, connected(server.url.replace("//", "//op:op@")) as connection:
        with pytest.raises(BucketUnreachable, match="JetStream is not enabled"):
            await connection.bucket(NAME).info()


async def test_a_bucket_that_is_missing_is_told_at_once(nats_server: NatsServer) -> None:
    """Look and read raise; a write is answered, and a watch has a problem until it exists."""
    async with connected(nats_server.url) as connection:
        bucket = connection.bucket("MISSING")
        sentence = "there is no bucket MISSING: correct its name, or create it"
        with pytest.raises(BucketNotFound, match=sentence):
            await bucket.info()
        with pytest.raises(BucketNotFound, match=sentence):
            await bucket.read(KEY, timeout=2)
        answer = await bucket.write(KEY, "a", expected=0, headers={}, timeout=9)
        assert answer.outcome is Outcome.UNKNOWN
        assert "no such bucket" in answer.reason

        seen: list[Sighting] = []
        end = bucket.watch(KEY, seen.append)
        await until(lambda: isinstance(bucket.problem, BucketNotFound))
        await connection.create_bucket("MISSING", ttl=60, replicas=1)
        await until(lambda: seen)
        assert seen == [Sighting(Nothing())]
        assert bucket.problem is None
        end()


async def test_a_bucket_is_created_once(nats_server: NatsServer) -> None:
    """The one that exists stays as it is; what the server cannot do is told in its words."""
    async with connected(nats_server.url) as connection:
        await connection.create_bucket("ONCE", ttl=30, replicas=1)
        await connection.create_bucket("ONCE", ttl=5, replicas=1)
        info = await connection.bucket("ONCE").info()

        assert (info.ttl, info.history, info.replicas, info.markers) == (30, 1, 1, True)
        assert not info.clustered
        assert abs(info.server_time - time.time()) < 5
        with pytest.raises(BucketInvalid, match="asked of bucket THREE: replicas > 1"):
            await connection.create_bucket("THREE", ttl=5, replicas=3)


async def test_every_server_that_holds_a_bucket_tells_its_clock(tmp_path: Path) -> None:
    """With the rights of a watch and no more; what it takes for that is gone soon."""
    rights = _permissions(publish=_quoted(NEEDED[:2]), subscribe='"_INBOX.>"')
    async with NatsCluster(tmp_path, config=rights) as cluster:
        urls = [url.replace("//", "//admin:admin@") for url in cluster.urls]
        async with connected(*urls) as admin:
            await admin.create_bucket(NAME, ttl=60, replicas=3)
        async with connected(cluster.urls[0].replace("//", "//op:op@")) as connection:
            bucket = connection.bucket(NAME)
            names = {peer.name for peer in await bucket.peers()}
            clocks: dict[str, float] = {}
            for _ in range(100):
                name, clock = await bucket.clock_of_a_server()
                clocks[name] = clock - time.time()
            assert clocks.keys() == names
            assert max(map(abs, clocks.values())) < 1
            path = f"$JS.API.STREAM.INFO.KV_{NAME}"
            async with asyncio.timeout(PATIENCE):
                while True:
                    info = await connection.request(path, b"", timeout=2)
                    if info["state"]["consumer_count"] == 0:
                        break
                    await asyncio.sleep(0.1)


async def test_a_domain_is_asked_and_written_to(tmp_path: Path) -> None:
    """Through a leaf node the bucket of the hub is used, not one of the same name beside it."""
    leaves = free_port()
    hub = NatsServer(
        tmp_path / "hub", name="hub", domain="hub",
        config=f"leafnodes {{ listen: 127.0.0.1:{leaves} }}",
    )  # fmt: skip
    leaf = NatsServer(
        tmp_path / "leaf", name="leaf", domain="leaf",
        config=f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{leaves}" }} ] }}',
    )  # fmt: skip
    async with hub, leaf, connected(hub.url) as near, connected(leaf.url, domain="hub") as far:
        for connection in (near, far):
            await eventually_answers(connection)
        async with connected(leaf.url) as beside:
            await beside.create_bucket(NAME, ttl=60, replicas=1)
            async with watched(far, NAME) as watch:
                answer = await write(watch.bucket)
                await until(lambda: len(watch.seen) == 2)

                assert watch.entries[1].revision == answer.revision
                assert (await near.bucket(NAME).read(KEY, timeout=2)).entry == watch.entries[1]
                nothing = await beside.bucket(NAME).read(KEY, timeout=2)
                assert nothing.entry == Nothing()


async def eventually_answers(connection: NatsConnection) -> None:
    """Wait until the leaf node is connected, which its port does not tell."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await connection.bucket("NONE").info()
            except BucketNotFound:
                return
            except BucketUnreachable:
                await asyncio.sleep(0.05)


# Watches


async def test_a_restart_with_the_store_changes_nothing(private_nats: NatsServer) -> None:
    """The watch begins anew, and shows the record again."""
    async with connected(private_nats.url) as connection, watched(connection) as watch:
        answer = await write(watch.bucket)
        await until(lambda: len(watch.seen) == 2)
        await private_nats.restart()
        await until(lambda: len(watch.seen) == 3)

        assert watch.entries[1] == watch.entries[2]
        assert watch.seen[1].live
        assert not watch.seen[2].live
        assert (await write(watch.bucket, answer.revision)).revision == answer.revision + 1
        assert any("was lost: the server closed it" in problem for problem in watch.problems)
        assert watch.problems[-1] == ""


async def test_a_restart_without_the_store_is_a_missing_bucket(private_nats: NatsServer) -> None:
    """Nothing is shown until there is a bucket again, which is another one."""
    async with connected(private_nats.url) as connection, watched(connection) as watch:
        bucket = watch.bucket
        await write(bucket)
        await until(lambda: len(watch.seen) == 2)
        created = bucket.settings and bucket.settings.created
        await private_nats.restart(keep_store=False)
        await until(lambda: isinstance(bucket.problem, BucketNotFound))
        assert len(watch.seen) == 2

        await connection.create_bucket(bucket.name, ttl=60, replicas=1)
        await until(lambda: bucket.problem is None)
        assert watch.entries[2:] == [Nothing()]
        assert bucket.settings
        assert bucket.settings.created != created


@pytest.mark.usefixtures("soon")
async def test_a_bucket_that_is_deleted_is_noticed(nats_server: NatsServer) -> None:
    """The heartbeats end, and the look that follows finds no bucket."""
    async with connected(nats_server.url) as connection, watched(connection) as watch:
        async with stranger(nats_server) as client:
            await client.jetstream().delete_stream(f"KV_{watch.bucket.name}")
        await until(lambda: isinstance(watch.bucket.problem, BucketNotFound))


@pytest.mark.usefixtures("soon")
async def test_a_consumer_that_is_lost_is_replaced(nats_server: NatsServer) -> None:
    """What happened in between is shown then."""
    async with connected(nats_server.url) as connection, watched(connection) as watch:
        async with stranger(nats_server) as client:
            streams, name = client.jetstream(), f"KV_{watch.bucket.name}"
            for consumer in await streams.consumers_info(name):
                await streams.delete_consumer(name, consumer.name)
        answer = await write(watch.bucket)
        await until(lambda: len(watch.seen) == 2)

        assert watch.entries[1].revision == answer.revision
        assert not watch.seen[1].live


async def test_changed_settings_are_told(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may change while elections run; a look now and then finds that."""
    monkeypatch.setattr(nats_watch, "HEARTBEAT_EVERY", 0.1)
    monkeypatch.setattr(nats_watch, "INFO_EVERY", 0.1)
    async with connected(nats_server.url) as connection, watched(connection) as watch:
        told = len(watch.problems)
        async with stranger(nats_server) as client:
            streams = client.jetstream()
            config = (await streams.stream_info(f"KV_{watch.bucket.name}")).config
            await streams.update_stream(config, max_age=30, duplicate_window=30)
        await until(lambda: watch.bucket.settings and watch.bucket.settings.ttl == 30)

        assert len(watch.problems) == told + 1
        assert len(watch.seen) == 1


async def test_who_watches_last_ends_the_consumer(private_nats: NatsServer) -> None:
    """A bucket that nobody watches costs the server nothing, and can be watched again."""
    async with connected(private_nats.url) as connection:
        async with watched(connection) as watch:
            await write(watch.bucket)
            await until(lambda: len(watch.seen) == 2)
        await until(lambda: not watch.bucket._task)

        async def subscriptions() -> int:
            return (await private_nats.monitor("connz?subs=1"))["connections"][0]["subscriptions"]

        async with asyncio.timeout(PATIENCE):
            while True:
                if await subscriptions() == 1:
                    break
                await asyncio.sleep(0.01)
        async with watched(connection, watch.bucket.name) as again:
            assert again.bucket is watch.bucket
            assert again.entries == [watch.entries[1]]


async def test_a_watcher_that_fails_harms_nobody_else(
    nats_server: NatsServer, logs: list[EventDict]
) -> None:
    """Its error is logged, and the others are told."""

    def fail(_: Sighting) -> None:
        msg = "on purpose"
        raise ValueError(msg)

    async with connected(nats_server.url) as connection, watched(connection) as watch:
        end = watch.bucket.watch(KEY, fail)
        await write(watch.bucket)
        await until(lambda: len(watch.seen) == 2)
        end()
    assert [entry["event"] for entry in logs].count("bucket.watcher_failed") == 2


async def test_many_keys_are_shown_before_the_first_change(nats_server: NatsServer) -> None:
    """A snapshot of some size is complete, whatever is written meanwhile."""
    keys = [f"shop.billing-{number}" for number in range(1000)]
    async with connected(nats_server.url) as connection:
        await connection.create_bucket("MANY", ttl=60, replicas=1)
        bucket = connection.bucket("MANY")
        answers = await asyncio.gather(*(write(bucket, key=key) for key in keys))
        shown: dict[str, list[Sighting]] = {key: [] for key in keys}
        ends = [bucket.watch(key, shown[key].append) for key in keys]
        renewals = [
            write(bucket, answer.revision, key=key)
            for key, answer in zip(keys, answers, strict=True)
        ]
        renewed = await asyncio.gather(*renewals)
        await until(
            lambda: all(
                shown[key] and shown[key][-1].entry.revision == answer.revision
                for key, answer in zip(keys, renewed, strict=True)
            )
        )
        assert all(len(sightings) <= 2 for sightings in shown.values())
        assert all(
            isinstance(sighting.entry, Record)
            for sightings in shown.values()
            for sighting in sightings
        )
        for end in ends:
            end()


@asynccontextmanager
async def stranger(server: NatsServer) -> AsyncIterator[nats.NATS]:
    """Another client of the server."""
    client = await nats.connect(server.url)
    try:
        yield client
    finally:
        await client.close()
