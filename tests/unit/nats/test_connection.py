"""The connection to NATS with a socket in the place of NATS, which says what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from incumbent.campaign.ports import Answer, Outcome
from incumbent.errors import BucketDenied, BucketUnreachable
from incumbent.nats.client import NatsClient
from incumbent.nats.connection import NatsAccess, NatsConnection
from waiting import PATIENCE, until

SECRET = "s3cr3t-of-the-test"


@dataclass
class Scripted:
    """A server that says what a test wants."""

    url: str = ""
    accepted: int = 0
    open: int = 0
    heard: bytes = b""
    requests: list[str] = field(default_factory=list)
    """The subjects of what was published."""
    answer: Callable[[str], bytes] = lambda _: b""
    """Returns what to say to a request with this reply subject."""
    say: Callable[[bytes], None] = lambda _: None
    """Says something out of turn."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer pings and requests."""
        self.say = writer.write
        while line := await reader.readline():
            self.heard += line
            words = line.split()
            if words[0] == b"PING":
                writer.write(b"PONG\r\n")
            elif words[0] in {b"PUB", b"HPUB"}:
                await reader.readexactly(int(words[-1]) + 2)
                self.requests.append(words[1].decode())
                writer.write(self.answer(words[2].decode()))


def message(reply: str, data: bytes) -> bytes:
    """Return an answer; `_INBOX.` subscriptions of a client are numbered from 1."""
    return b"MSG %s 1 %d\r\n%s\r\n" % (reply.encode(), len(data), data)


@asynccontextmanager
async def scripted(*, version: str = "2.12.0", silent: bool = False) -> AsyncIterator[Scripted]:
    """Say hello, unless it is to be silent, and then what the script says."""
    server = Scripted()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.accepted += 1
        server.open += 1
        try:
            if not silent:
                hello = {"server_id": f"S{id(server)}", "version": version, "headers": True}
                writer.write(f"INFO {json.dumps(hello)}\r\n".encode())
            await server.serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            server.open -= 1
            writer.transport.abort()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        await until(lambda: not server.open)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Scripted, NatsConnection]]:
    """A connection that is up, and the server behind it."""
    async with scripted() as server, NatsConnection(NatsAccess([server.url])) as connection:
        async with asyncio.timeout(PATIENCE):
            await connection.wait_connected()
        yield server, connection


# What a server says about itself


@pytest.mark.parametrize("version", ("2.10.29", "1.4.1", "2.9.0-beta.1", "unknown"))
async def test_an_old_server_is_refused_in_one_sentence(version: str) -> None:
    """Nothing is told to it, no login either."""
    async with scripted(version=version) as server:
        url = server.url.replace("//", f"//user:{SECRET}@")
        async with NatsConnection(NatsAccess([url])) as connection:
            name = server.url.removeprefix("nats://")
            sentence = f"NATS at {name} has version {version}: upgrade it to 2.11 or newer"
            await until(lambda: connection.problem == sentence)
            assert not connection.connected
        assert server.heard == b""


@pytest.mark.parametrize("version", ("2.11.0", "2.15.1", "2.12.0-RC.2", "3.0.0", "2.100.0"))
async def test_a_new_server_is_accepted(version: str) -> None:
    """From 2.11 on, preliminary versions included."""
    async with (
        scripted(version=version) as server,
        NatsConnection(NatsAccess([server.url])) as connection,
    ):
        async with asyncio.timeout(PATIENCE):
            await connection.wait_connected()
        assert b"CONNECT" in server.heard


async def test_a_server_without_tls_is_told_no_secret(tmp_path: Path) -> None:
    """Who asked for TLS does not get less, and sends no login in the clear."""
    password = tmp_path / "password"
    password.write_text(SECRET)
    async with scripted() as server:
        url = server.url.replace("nats://", "tls://")
        async with NatsConnection(
            NatsAccess([url], user="op", password_file=password)
        ) as connection:
            await until(lambda: "offers no TLS" in connection.problem)
        assert server.heard == b""


@pytest.mark.parametrize(
    "greeting", (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"INFO {\r\n", b"INFO []\r\n", b"\r\n", b"")
)
async def test_a_strange_greeting_is_survived(greeting: bytes) -> None:
    """The connection is closed, and tried again."""
    accepted = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.write(greeting)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        async with NatsConnection(NatsAccess([f"nats://127.0.0.1:{port}"])) as connection:
            await until(lambda: accepted >= 2)
            assert f"NATS at 127.0.0.1:{port} cannot be reached: " in connection.problem


@pytest.mark.parametrize(
    "named",
    (5, "a:1", {"a:1": 1}, [None, 5, ["a:1"], "", "nonsense", ":1", "a:0", "u@a:1", "a b:1"]),
)
async def test_nonsense_about_other_servers_is_survived(named: object) -> None:
    """Nobody is named then who could be connected to, and the connection goes on."""
    async with connected() as (server, connection):
        server.say(f"INFO {json.dumps({'connect_urls': named})}\r\n".encode())
        server.answer = lambda reply: message(reply, b"{}")
        assert await connection.request("a", b"", timeout=9) == {}
        known = [each.address for each in connection._pool.round()]
        assert known in ([server.url.removeprefix("nats://")], [*known[:1], "nonsense:4222"])


async def test_a_server_that_shuts_down_is_left_for_one_that_it_names() -> None:
    """What is under way is still answered by the old one, and nothing new is sent there."""
    async with scripted() as other, connected() as (server, connection):
        asking = asyncio.create_task(connection.request("under.way", b"", timeout=9))
        await until(lambda: server.requests)
        replies: list[str] = []
        server.answer = lambda reply: replies.append(reply) or b""
        late = asyncio.create_task(connection.request("late", b"", timeout=9))
        await until(lambda: replies)
        named, say = [other.url.removeprefix("nats://")], server.say
        say(f"INFO {json.dumps({'ldm': True, 'connect_urls': named})}\r\n".encode())
        await until(lambda: other.accepted)
        other.answer = lambda reply: message(reply, b'{"by": "other"}')
        await until(lambda: connection._client.server.url == other.url)
        assert await connection.request("new", b"", timeout=9) == {"by": "other"}
        assert server.open == 1, "it still waits for answers"
        say(message(replies[0], b'{"by": "old"}'))
        assert await late == {"by": "old"}
        # The other request is given up when the old server closes.
        say(b"-ERR 'Server Shutdown'\r\n")
        with pytest.raises(BucketUnreachable, match="was lost: server shutdown"):
            await asking
        await until(lambda: not server.open)
        assert connection.connected


async def test_a_server_that_shuts_down_may_be_the_only_one() -> None:
    """It is tried in vain to find another, and the connection is used as long as it lasts."""
    async with connected() as (server, connection):
        server.answer = lambda reply: message(reply, b"{}")
        server.say(b'INFO {"ldm": true}\r\n')
        await until(lambda: server.accepted >= 3)
        assert await connection.request("a", b"", timeout=9) == {}
        assert connection.connected
        assert connection.problem == ""


# How a connection ends


@pytest.mark.parametrize("after", (0.0, 0.001, 0.01, 0.3))
async def test_the_end_may_come_while_it_connects(after: float) -> None:
    """Also when the other end accepts and says nothing."""
    async with scripted(silent=True) as server:
        connection = NatsConnection(NatsAccess([server.url]))
        await connection.start()
        await asyncio.sleep(after)
        started = time.monotonic()
        await connection.aclose()

        assert time.monotonic() - started < 1
        await until(lambda: not server.open)


@asynccontextmanager
async def leaving() -> AsyncIterator[tuple[Scripted, Scripted, NatsConnection]]:
    """A server that has said that it shuts down, another one that it names, and a connection."""
    async with scripted() as other, connected() as (server, connection):
        named = [other.url.removeprefix("nats://")]
        server.say(f"INFO {json.dumps({'ldm': True, 'connect_urls': named})}\r\n".encode())
        yield server, other, connection


async def test_the_end_may_come_at_any_step_of_a_move_to_another_server() -> None:
    """No connection is left open, neither the new one nor the one that is about to retire."""
    for steps in range(60):
        async with leaving() as (server, other, connection):
            for _ in range(steps):
                await asyncio.sleep(0)
            await connection.aclose()
            await until(lambda: not server.open and not other.open)


async def test_a_search_that_ends_well_though_it_was_cancelled_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In Python 3.11 `wait_for` can lose a cancellation, and nobody needs the client then."""
    opening, real, slow = asyncio.Event(), NatsClient.open, True

    async def stubborn(client: NatsClient) -> None:
        nonlocal slow
        if slow:
            slow = False
            opening.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await real(client)

    async with leaving() as (server, other, connection):
        monkeypatch.setattr(NatsClient, "open", stubborn)
        await opening.wait()
        server.say(b"-ERR 'Server Shutdown'\r\n")
        await until(lambda: other.accepted >= 1 and connection.connected)
        await until(lambda: other.open + server.open == 1)


async def test_a_search_does_not_outlive_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the end comes while it is cancelled already, because the old server is gone."""
    opening, real = asyncio.Event(), NatsClient.open

    async def stubborn(client: NatsClient) -> None:
        opening.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0.01)
        await real(client)

    async with leaving() as (server, other, connection):
        monkeypatch.setattr(NatsClient, "open", stubborn)
        await opening.wait()
        server.say(b"-ERR 'Server Shutdown'\r\n")
        await until(lambda: not connection.connected)
        await connection.aclose()
        assert not [task for task in asyncio.all_tasks() if "search" in task.get_name()]
        await until(lambda: not server.open and not other.open)


async def test_a_server_that_drops_every_connection_is_not_hammered() -> None:
    """The pauses grow although each attempt gets as far as a login."""
    async with scripted() as server:

        async def drop(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await reader.readline()

        server.serve = drop
        async with NatsConnection(NatsAccess([server.url])) as connection:
            await asyncio.sleep(1.5)
            assert "cannot be reached" in connection.problem
        assert 3 <= server.accepted <= 12


@pytest.mark.parametrize(
    ("said", "reason"),
    (
        (b"-ERR 'User Authentication Expired'\r\n", "user authentication expired"),
        (b"-ERR 'Stale Connection'\r\n", "it does not answer pings"),
        (b"WHAT\r\n", "protocol error"),
        (b"MSG _INBOX.x 1 x\r\n", "protocol error"),
        (b"INFO {\r\n", "protocol error"),
    ),
)
async def test_the_reason_of_a_loss_is_told(said: bytes, reason: str) -> None:
    """Whatever the server says before it goes, or what makes no sense."""
    async with connected() as (server, connection):
        asking = asyncio.create_task(connection.request("a", b"", timeout=9))
        await until(lambda: server.requests)
        server.say(said)
        server.serve = never
        with pytest.raises(BucketUnreachable) as raised:
            await asking

    sentence = f"the connection to NATS at {server.url.removeprefix('nats://')} was lost: {reason}"
    assert str(raised.value) == sentence


async def never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Serve nobody."""


# Requests


async def test_an_answer_that_is_no_json_is_none() -> None:
    """Nobody knows what it says."""
    async with connected() as (server, connection):
        server.answer = lambda reply: message(reply, b"+OK")
        with pytest.raises(BucketUnreachable, match="is not JSON"):
            await connection.request("a.b", b"", timeout=9)


async def test_an_acknowledgement_that_tells_nothing_leaves_the_outcome_open() -> None:
    """It is neither stored nor refused."""
    async with connected() as (server, connection):
        server.answer = lambda reply: message(reply, b"[]")
        bucket = connection.bucket("B")
        answer = await bucket.write("k", "v", expected=0, headers={}, timeout=9)

    assert answer == Answer(Outcome.UNKNOWN, reason="an acknowledgement without a sequence")
    assert server.requests == ["$KV.B.k"]


async def test_an_answer_that_comes_too_late_is_dropped() -> None:
    """Later requests get their own."""
    async with connected() as (server, connection):
        late: list[str] = []
        server.answer = lambda reply: late.append(reply) or b""
        with pytest.raises(BucketUnreachable, match=r"no answer from NATS on a within 0.05 s"):
            await connection.request("a", b"", timeout=0.05)
        server.answer = lambda reply: message(late[0], b'{"n": 1}') + message(reply, b'{"n": 2}')

        assert await connection.request("a", b"", timeout=9) == {"n": 2}


async def test_a_permission_is_refused_for_its_subject_only() -> None:
    """The server tells it apart from the request and in other letters; others go on."""
    async with connected() as (server, connection):
        asked = [
            asyncio.create_task(connection.request(subject, b"", timeout=9))
            for subject in ("$KV.A.Key", "$KV.A.Key", "$KV.A.Other")
        ]
        await until(lambda: len(server.requests) == 3)
        server.say(b"-ERR 'Permissions Violation for Publish to \"$KV.A.Key\"'\r\n")
        for task in asked[:2]:
            with pytest.raises(BucketDenied, match=r"refuses us the subject \$KV.A.Key: grant it"):
                await task
        await asyncio.sleep(0.05)
        assert not asked[2].done()
        assert connection.connected
        asked[2].cancel()
        await asyncio.wait(asked)


async def test_a_request_that_cannot_be_sent_says_why() -> None:
    """A subject with a blank is none."""
    async with connected() as (server, connection):
        with pytest.raises(BucketUnreachable, match="cannot be sent: invalid subject"):
            await connection.request("a b", b"", timeout=9)
        assert server.requests == []


# Files


@pytest.mark.parametrize(
    ("option", "content", "sentence"),
    (
        ("creds", None, "/login cannot be read: no such file or directory"),
        ("creds", "", "/login is not a credentials file"),
        ("creds", "-----BEGIN USER NKEY SEED-----\nSU\n", "/login is not a credentials file"),
        ("nkey", None, "/login cannot be read: no such file or directory"),
        ("nkey", "", "/login holds no nkey seed of a user"),
        ("nkey", "SUA", "NATS at 127.0.0.1:1 cannot be reached: invalid seed"),
        ("password_file", None, "/login cannot be read: no such file or directory"),
        ("token_file", None, "/login cannot be read: no such file or directory"),
        ("tls_ca", None, "/login cannot be read: no such file or directory"),
        ("tls_ca", "no certificate", "the files for TLS cannot be used: "),
        ("tls_cert", None, "/login cannot be read: no such file or directory"),
        ("tls_cert", "no certificate", "the files for TLS cannot be used: "),
    ),
)
async def test_a_file_that_is_of_no_use_is_named(
    tmp_path: Path, option: str, content: str | None, sentence: str
) -> None:
    """It may be mounted later, so the operator goes on trying."""
    file = tmp_path / "login"
    if content is not None:
        file.write_text(content)
    access = NatsAccess(["nats://127.0.0.1:1"], **{option: file})
    async with NatsConnection(access) as connection:
        await until(lambda: sentence in connection.problem)
        assert "\n" not in connection.problem


async def test_buckets_that_nobody_uses_any_more_are_forgotten() -> None:
    """Elections may name any number of them, one after the other."""
    async with scripted() as server, NatsConnection(NatsAccess([server.url])) as connection:
        await until(lambda: connection.connected)
        kept = connection.bucket("KEPT")
        for number in range(100):
            bucket = connection.bucket(f"B-{number}")
            assert connection.bucket(f"B-{number}") is bucket
            end = bucket.listen(lambda: None)
            await asyncio.sleep(0)
            end()
        del bucket, end
        await asyncio.sleep(0.1)
        gc.collect()
        assert list(connection._buckets.values()) == [kept]
