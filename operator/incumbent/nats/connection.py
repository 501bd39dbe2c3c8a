"""Buckets on a real NATS server: the only module that imports `nats`.

nats-py's own `KeyValue` is not used: its `create` and `get` do not know the markers that a server
leaves when a record expires (nats-py 2.16: `create` stays refused until the marker has expired,
too), its writes ignore a JetStream domain, and its reads go to any replica.

Neither is its reconnect: publishes made in the meantime would be kept and sent later, after their
callers have given up, and a renewal that comes out of such a buffer holds a key with nobody
leading. Here a connection that is lost is replaced by a new client, and every watch starts again
with what the server then has. A server that announces its end (lame duck) is left before that: the
next connection is up before the old one is given up, and no request is lost.

=========  =============================================================
servers    the servers' URLs, and which server is next
access     where NATS is, how to log in, and why that failed
jetstream  the JSON of JetStream's API
stream     a bucket, behind any connection
=========  =============================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, Self
from urllib.parse import ParseResult
from weakref import WeakValueDictionary

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import WebSocketTransport

from incumbent import clock
from incumbent.errors import BucketDenied, BucketError, BucketUnreachable, NotSent
from incumbent.nats.bucket import NatsBucket
from incumbent.nats.login import NatsAccess, said, words
from incumbent.nats.lookups import BACKOFF, LONGEST_PAUSE, Throttle
from incumbent.nats.ports import Take
from incumbent.nats.servers import Server, ServerPool

__all__ = ["NatsAccess", "NatsBucket", "NatsConnection"]

PING_EVERY = 1
"""Seconds between the pings by which a black-holed connection is noticed."""
MOST_PINGS = 2
"""Pings without an answer before the connection counts as lost. They are counted, not timed: an
event loop that was busy for long has to read first what has arrived."""

MOST_SHOWN = 3
"""Servers of which a problem says why each of them cannot be used."""
CLOSED = "the connection to NATS was closed"

_PERMISSION = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

_GRANT = "grant it to our user, as docs/nats.md says"

log = structlog.get_logger(__name__)

Json = Any
"""Whatever a server says in JSON."""


class NatsConnection:
    """One connection to NATS for the whole process, kept up for as long as this runs.

    `start` returns at once, whether a server answers or not; `connected` and `problem` tell.
    """

    def __init__(self, access: NatsAccess) -> None:
        self.access = access
        self.domain = access.domain
        self.problem = "not connected to NATS yet"
        """Why there is no connection, in words for a person; empty while there is one."""
        first = random.randrange(len(access.servers))  # noqa: S311
        self._pool = ServerPool([*access.servers[first:], *access.servers[:first]])
        self._failures: dict[Server, BucketError] = {}
        """Why each server could not be used since there is no connection."""
        self._client: _Client | None = None
        self._up = asyncio.Event()
        self._closed = False
        self._complained: set[str] = set()
        self._lookups = Throttle()
        self._buckets: WeakValueDictionary[str, NatsBucket] = WeakValueDictionary()
        """Those that somebody uses: any election may name any bucket."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether a server answered lately."""
        return self._up.is_set()

    async def start(self) -> None:
        """Begin to connect, and to keep the connection.

        Raises:
            RuntimeError: it was started or closed before.
        """
        if self._tasks:
            msg = "this connection to NATS was started before"
            raise RuntimeError(msg)
        self.spawn(self._keep_connected(), name="nats connection")

    async def aclose(self) -> None:
        """End everything, the watches too. Nothing is released here."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # Perhaps more than once: in Python 3.11 `wait_for` can lose a cancellation.
            await asyncio.wait(self._tasks, timeout=0.1)
        self._down(BucketUnreachable(CLOSED), news=CLOSED)

    async def __aenter__(self) -> Self:
        """Start it."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.aclose()

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        await self._up.wait()

    def bucket(self, name: str) -> NatsBucket:
        """Return the bucket of that name, whether it exists or not.

        It is one object for each name, for as long as anybody has it.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = NatsBucket(self, name, self._lookups)
        return bucket

    async def create_bucket(
        self, name: str, *, ttl: float, replicas: int, max_bytes: int | None = None
    ) -> None:
        """Create a bucket with markers and history 1, unless there is one of that name.

        Without `max_bytes` it has no limit, or 64 MiB if the account requires one.

        Raises:
            BucketError: the server refuses or does not answer.
        """
        await self.bucket(name).create(ttl=ttl, replicas=replicas, max_bytes=max_bytes)

    # For the buckets

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run something until it ends, or until `aclose`.

        Raises:
            RuntimeError: this was closed.
        """
        if self._closed:
            work.close()
            msg = "this connection to NATS was closed"
            raise RuntimeError(msg)
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the answer, which is a JSON object.

        nats-py's own `request` waits for its whole timeout when the connection is lost or the
        server refuses the permission; this one ends at once.

        Raises:
            NotSent: there is no connection.
            BucketUnreachable: no answer; the request may have been carried out.
            BucketDenied: the server said that we may not publish to this subject.
        """
        result = await self._connected_client().ask(subject, payload, headers, timeout)
        try:
            decoded = json.loads(result)
        except ValueError as error:
            msg = f"an answer on {subject} is not JSON"
            raise BucketUnreachable(msg) from error
        return decoded if isinstance(decoded, dict) else {}

    @contextlib.asynccontextmanager
    async def subscribe(self, take: Take) -> AsyncIterator[str]:
        """Subscribe to a new inbox, whose name is the value of the context.

        Raises:
            BucketUnreachable: there is no connection.
        """

        async def taken(message: Msg) -> None:
            take(message.subject, message.reply, message.data, message.headers or {})

        client = self._connected_client()
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox, cb=taken)
        try:
            yield inbox
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

    def _connected_client(self) -> _Client:
        if self._client is None:
            raise NotSent(self.problem)
        return self._client

    # The connection

    async def _keep_connected(self) -> None:
        tries = 0
        while True:
            servers = self._pool.round()
            for server in servers:
                began = clock.now()
                worked = await self._use(server)
                # The pauses grow from one round to the next, not from one server to the next.
                tries = 0 if clock.now() - began > LONGEST_PAUSE else tries + 1
                await asyncio.sleep(BACKOFF.pause(tries // len(servers)))
                if worked:
                    break

    async def _use(self, server: Server) -> bool:
        """Connect to a server, and stay connected to it and to those that succeed it.

        Returns when there is no connection any more: false if there was none.
        """
        self._pool.tried(server)
        client = await self._open(server)
        if isinstance(client, BucketError):
            self._failed(server, client)
            return False
        try:
            while True:
                self._connected_by(client)
                await client.wait_leaving()
                successor = await self._successor_of(client)
                if successor is None:
                    return True
                retiring, client = client, successor
                try:
                    self.spawn(_retire(retiring), name="nats connection that is given up")
                except RuntimeError:  # closed meanwhile
                    await retiring.abandon()
        finally:
            await client.abandon()

    async def _open(self, server: Server, *, other_than: str = "") -> _Client | BucketError:
        """Connect to a server, unless it has a certain id; or return why there is no connection."""
        client = _Client(self.access, server, named=self._named)
        try:
            await client.open()
            if not other_than or client.server_id != other_than:
                return client
            failure: BucketError = BucketUnreachable(f"{server.address} leads to the same server")
        except BucketDenied as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the next try may do better
            failure = BucketUnreachable(words(error, server))
        except BaseException:
            await client.abandon()
            raise
        await client.abandon()
        return failure

    async def _successor_of(self, client: _Client) -> _Client | None:
        """Connect to another server while this one still works; None if it is lost before."""
        if client.lost.done():
            self._lost(client)
            return None
        log.info("nats.leaving", server=client.server.address)
        search = asyncio.create_task(self._search(client), name="search for another NATS server")
        try:
            ends: set[asyncio.Future[Any]] = {search, client.lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if search.done():
                return search.result()
            self._lost(client)
            return None
        finally:
            if not search.done():
                search.cancel()
                await asyncio.wait({search})

    async def _search(self, leaving: _Client) -> _Client:
        tries = 0
        while True:
            servers = self._pool.round()
            for server in servers:
                self._pool.tried(server)
                found = await self._open(server, other_than=leaving.server_id)
                if isinstance(found, _Client):
                    return found
                tries += 1
                await asyncio.sleep(BACKOFF.pause(tries // len(servers)))

    def _named(self, client: _Client, addresses: Json, trusted: bool) -> None:  # noqa: FBT001
        """Take in which servers there are besides those that are configured."""
        listed = addresses if isinstance(addresses, list) else []
        named = [each for each in listed if isinstance(each, str)]
        if self._pool.learn(named, by=client.server, trusted=trusted):
            known = self._pool.round()
            self._failures = {one: why for one, why in self._failures.items() if one in known}
            log.info("nats.servers", servers=[server.address for server in known])

    def _connected_by(self, client: _Client) -> None:
        """Take in that there is a connection, perhaps instead of another one."""
        moved = self._client is not None
        self._client, self.problem = client, ""
        self._up.set()
        self._complained.clear()
        self._failures.clear()
        log.info("nats.connected", server=client.server.address, version=client.version)
        if moved:
            for bucket in tuple(self._buckets.values()):
                bucket.moved()

    def _failed(self, server: Server, error: BucketError) -> None:
        """Take in that a server cannot be used; the problem is that of all that were tried."""
        self._failures[server] = error
        failures = self._failures.values()
        denied = [why for why in failures if isinstance(why, BucketDenied)]
        sentences = list(dict.fromkeys(str(why) for why in denied or failures))
        text = "; ".join(sentences[:MOST_SHOWN])
        if len(sentences) > MOST_SHOWN:
            text += f"; and {len(sentences) - MOST_SHOWN} more servers"
        self._down(BucketDenied(text) if denied else BucketUnreachable(text), news=str(error))

    def _lost(self, client: _Client) -> None:
        """Take in that the connection is lost."""
        problem = client.problem
        client.give_up(BucketUnreachable(str(problem)))
        self._down(problem, news=str(problem))

    def _down(self, problem: BucketError, *, news: str) -> None:
        """Take in that there is no connection."""
        self._client, self.problem = None, str(problem)
        self._up.clear()
        for bucket in tuple(self._buckets.values()):
            bucket.disconnected(problem)
        if news not in self._complained and not self._closed:
            self._complained.add(news)
            log.warning("nats.unreachable", problem=news)


async def _retire(client: _Client) -> None:
    """Let what is under way on a connection that has a successor come to its end."""
    try:
        await client.wait_idle()
        if client.lost.done():
            client.give_up(BucketUnreachable(str(client.problem)))
    finally:
        await client.abandon()


class _Client(Client):
    """nats-py's client, which here neither reconnects nor closes by itself.

    Its own way to close a broken connection leaves tasks behind and does not always tell. Here
    `wait_lost` tells, and whoever owns the client calls `abandon`.
    """

    def __init__(
        self, access: NatsAccess, server: Server, *, named: Callable[[_Client, Json, bool], None]
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.server = server
        self.lost: asyncio.Future[Exception] = loop.create_future()
        """Done when the connection is lost, with the reason."""
        self.leaving: asyncio.Future[None] = loop.create_future()
        """Done when the server said that it is about to shut down."""
        self.version = ""
        self.server_id = ""
        self._access = access
        self._named = named
        self._opening = True
        self._inbox = ""
        self._tokens = itertools.count(1)
        self._requests: dict[str, tuple[str, asyncio.Future[bytes | BucketError]]] = {}
        if server.websocket:
            self._transport = _WebSocket(server.certificate_name)

    async def open(self) -> None:
        """Connect and log in; raises whatever went wrong."""
        limit: Any = self._access.connect_timeout  # nats-py's types want whole seconds
        async with asyncio.timeout(2 * limit):
            await self.connect(
                servers=[self.server.url],
                name=self._access.name,
                allow_reconnect=False,
                connect_timeout=limit,
                inbox_prefix=self._access.inbox_prefix,
                tls_hostname=self.server.certificate_name or None,
                pending_size=0,
                ping_interval=PING_EVERY,
                max_outstanding_pings=MOST_PINGS,
                error_cb=self._error,
                **self._access.login(),
            )
        self._opening = False
        if not self.is_connected or self._reading_task is None:
            raise nats.errors.UnexpectedEOF
        self._reading_task.add_done_callback(self._no_longer_read)
        self._inbox = self.new_inbox()
        await self.subscribe(f"{self._inbox}.*", cb=self._answered)
        async with asyncio.timeout(limit):
            # Twice: nats-py's ping overtakes what is still in its buffer, and so the refusal of a
            # subscription would come after the first one's answer.
            await self.flush()
            await self.flush()
        if self.lost.done():
            raise self.lost.result()

    @property
    def problem(self) -> BucketError:
        """Why there is no connection any more, when it is lost."""
        lost = self.lost.result()
        if isinstance(lost, BucketDenied):
            return lost
        address = self.server.address
        return BucketUnreachable(f"the connection to NATS at {address} was lost: {said(lost)}")

    async def wait_leaving(self) -> None:
        """Return when the connection is lost, or about to be."""
        ends: set[asyncio.Future[Any]] = {self.lost, self.leaving}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def wait_idle(self) -> None:
        """Return when no request waits for its answer any more, or the connection is lost."""
        while self._requests and not self.lost.done():
            waiting: set[asyncio.Future[Any]] = {self.lost}
            waiting |= {answer for _, answer in self._requests.values()}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    async def ask(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, timeout: float
    ) -> bytes:
        """Send a request and return the data of the answer; see `NatsConnection.request`."""
        loop = asyncio.get_running_loop()
        token, answer = str(next(self._tokens)), loop.create_future()
        self._requests[token] = (subject, answer)
        timer = loop.call_later(timeout, self._too_late, token, timeout)
        try:
            reply = f"{self._inbox}.{token}"
            await self.publish(subject, payload, reply, None if headers is None else {**headers})
            result: bytes | BucketError = await answer
        except (nats.errors.Error, OSError) as error:
            msg = f"a request on {subject} cannot be sent: {said(error)}"
            raise BucketUnreachable(msg) from error
        finally:
            timer.cancel()
            del self._requests[token]
        if isinstance(result, BucketError):
            raise result
        return result

    def give_up(self, error: BucketError) -> None:
        """End all requests: nobody waits for an answer any more."""
        for _, answer in self._requests.values():
            _resolve(answer, error)

    async def abandon(self) -> None:
        """Close without farewell, for the other end may not listen, and leave nothing behind."""
        self._opening = False
        self.give_up(BucketUnreachable(CLOSED))
        tasks = [self._reading_task, self._flusher_task, self._ping_interval_task]
        tasks += [subscription._wait_for_msgs_task for subscription in self._subs.values()]  # noqa: SLF001
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        self._pending_data_size = 0  # or `close` would wait until it is sent
        with contextlib.suppress(nats.errors.Error, OSError, AssertionError):
            async with asyncio.timeout(1):
                await self.close()
        if running:
            await asyncio.wait(running, timeout=1)

    async def _answered(self, message: Msg) -> None:
        _, _, token = message.subject.rpartition(".")
        subject, answer = self._requests.get(token, ("", None))
        if answer is None:
            return
        if message.headers and message.headers.get("Status") == "503":
            what = "no such bucket" if "$KV." in subject else "JetStream is off on the server"
            msg = f"nothing answers on {subject}: {what}, or there is no leader now"
            _resolve(answer, BucketUnreachable(msg))
        else:
            _resolve(answer, message.data)

    def _too_late(self, token: str, timeout: float) -> None:
        subject, answer = self._requests[token]
        msg = f"no answer from NATS on {subject} within {timeout:.3g} s"
        _resolve(answer, BucketUnreachable(msg))

    def _denied(self, subject: str) -> None:
        """Take in that we may not publish to a subject; it was turned into lower case."""
        for asked, answer in self._requests.values():
            if asked.lower() == subject:
                msg = f"NATS refuses us the subject {asked}: {_GRANT}"
                _resolve(answer, BucketDenied(msg))

    def _no_longer_read(self, _: asyncio.Task[None]) -> None:
        if not self.lost.done():
            self.lost.set_result(nats.errors.ProtocolError())

    async def _error(self, error: Exception) -> None:
        if self._opening:
            raise error  # or nats-py would go round with its own pauses
        if not isinstance(error, nats.errors.Error | OSError):
            log.error("nats.error", exc_info=error)

    # nats-py's own methods, with other manners

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        """Take in what the server says about itself and its cluster, at first and later.

        nats-py itself would only add the other servers to a list of its own, which is not used.
        """
        trusted = True
        if initial_connection:
            self.version = self._access.check(info, self.server)
            self.server_id = str(info.get("server_id", ""))
            # TLS begins behind this message, unless it came first or below.
            below = self.server.websocket or self._access.tls_first
            trusted = below or not info.get("tls_required")
        elif info.get("ldm") and not self.leaving.done():
            self.leaving.set_result(None)
        self._named(self, info.get("connect_urls"), trusted)

    async def _process_err(self, err_msg: str) -> None:
        permission = _PERMISSION.search(err_msg)
        if permission is None:
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))
        elif permission[1] == "publish":
            self._denied(permission[2])
        else:
            subject = f"{self._access.inbox_prefix}.>"
            way = f"give another --nats-inbox-prefix, or {_GRANT}"
            msg = f"NATS refuses us to subscribe to {subject}: {way}"
            await self._process_op_err(BucketDenied(msg))

    async def _process_op_err(self, e: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(e)


class _WebSocket(WebSocketTransport):
    """nats-py's websocket, which here checks the certificate for a given name.

    nats-py's own way to open it passes aiohttp a kind of time limit that it is about to drop, and
    its way to close it waits for the other end, which may not listen.
    """

    def __init__(self, certificate_name: str) -> None:
        super().__init__()
        self._certificate_name = certificate_name

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:  # noqa: ARG002
        """Open it without TLS."""
        self._ws = await self._client.ws_connect(uri.geturl(), max_msg_size=0)

    async def connect_tls(
        self,
        uri: ParseResult | str,
        ssl_context: ssl.SSLContext,
        buffer_size: int,  # noqa: ARG002
        connect_timeout: int,  # noqa: ARG002
    ) -> None:
        """Open it with TLS; it is asked for that again when it is open."""
        if self._ws is None and not isinstance(uri, str):
            name = self._certificate_name or None
            self._ws = await self._client.ws_connect(
                uri.geturl(), max_msg_size=0, ssl=ssl_context, server_hostname=name
            )

    def close(self) -> None:
        """Leave it to `wait_closed`."""

    async def wait_closed(self) -> None:
        """Close it without farewell."""
        if self._ws is not None:
            self._ws._response.close()  # noqa: SLF001  # its `close` waits for an answer
        await self._client.close()


def _resolve(answer: asyncio.Future[bytes | BucketError], result: bytes | BucketError) -> None:
    if not answer.done():
        answer.set_result(result)
