"""The connection of one process to NATS, which survives the loss of any server.

A lost connection is replaced with a new `NatsClient`, and every watch starts again with the entries
that the server has then. If a server announces its shutdown (lame duck), the next connection is
opened before the old one is closed, so no request is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self, TypeVar
from weakref import WeakValueDictionary

import structlog

from incumbent import clock
from incumbent.errors import BucketDenied, BucketError, BucketUnreachable, NotSent
from incumbent.nats.bucket import NatsBucket
from incumbent.nats.client import CLOSED, Json, NatsClient
from incumbent.nats.login import NatsAccess, words
from incumbent.nats.lookups import BACKOFF, LONGEST_PAUSE, Throttle
from incumbent.nats.ports import Take
from incumbent.nats.servers import Server, ServerPool

__all__ = ["NatsAccess", "NatsBucket", "NatsConnection"]

MOST_SHOWN = 3
"""For how many servers the text of a problem says why they cannot be used."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


class NatsConnection:
    """One connection to NATS for the whole process, from `start` to `aclose`.

    `start` returns at once, even if no server answers. `connected` and `problem` tell the state.
    """

    def __init__(self, access: NatsAccess) -> None:
        self.access = access
        self.domain = access.domain
        self.problem = "not connected to NATS yet"
        """Why there is no connection, in words for a person; empty while we are connected."""
        first = random.randrange(len(access.servers))  # noqa: S311
        self._pool = ServerPool([*access.servers[first:], *access.servers[:first]])
        self._failures: dict[Server, BucketError] = {}
        """Why each server could not be used since the connection was lost."""
        self._client: NatsClient | None = None
        self._clients: set[NatsClient] = set()
        """All clients that were made and are not abandoned yet."""
        self._up = asyncio.Event()
        self._closed = False
        self._complained: set[str] = set()
        self._lookups = Throttle()
        self._buckets: WeakValueDictionary[str, NatsBucket] = WeakValueDictionary()
        """The buckets in use, by name. The references are weak, because any election may name any
        bucket."""
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def connected(self) -> bool:
        """Whether there is a connection to a server."""
        return self._up.is_set()

    async def start(self) -> None:
        """Begin to connect, and keep the connection from then on.

        Raises:
            RuntimeError: the connection was started or closed before.
        """
        if self._tasks:
            msg = "this connection to NATS was started before"
            raise RuntimeError(msg)
        self.spawn(self._keep_connected(), name="nats connection")

    async def aclose(self) -> None:
        """End everything, including the watches. Records are not released here."""
        self._closed = True
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # This may take several rounds, because in Python 3.11 `wait_for` can lose a
            # cancellation.
            await asyncio.wait(self._tasks, timeout=0.1)
        # A task that is cancelled between two of its steps may leave a client behind, which was
        # just connected or was about to retire.
        for client in tuple(self._clients):
            await self._abandon(client)
        self._down(BucketUnreachable(CLOSED), news=CLOSED)

    async def __aenter__(self) -> Self:
        """Start the connection."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self.aclose()

    async def wait_connected(self) -> None:
        """Wait until there is a connection."""
        await self._up.wait()

    def bucket(self, name: str) -> NatsBucket:
        """Return the bucket of that name, even if it does not exist in NATS.

        All callers get one object for each name, as long as anybody refers to it.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = NatsBucket(self, name, self._lookups)
        return bucket

    async def create_bucket(
        self, name: str, *, ttl: float, replicas: int, max_bytes: int | None = None
    ) -> None:
        """Create a bucket with markers and history 1, unless a bucket of that name exists.

        Without `max_bytes` it has no limit, or 64 MiB if the account requires one.

        Raises:
            BucketError: the server refuses or does not answer.
        """
        await self.bucket(name).create(ttl=ttl, replicas=replicas, max_bytes=max_bytes)

    # For the buckets

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it ends, or until `aclose`.

        Raises:
            RuntimeError: the connection was closed.
        """
        if self._closed:
            work.close()
            msg = "this connection to NATS was closed"
            raise RuntimeError(msg)
        return self._begin(work, name=name)

    def _begin(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Run `work` in a task. `aclose` cancels the task and waits for its end."""
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

        If the connection is lost or the server refuses the permission, this method ends at once.
        nats-py's own `request` would wait for its whole timeout.

        Raises:
            NotSent: there is no connection.
            BucketUnreachable: there was no answer; the request may have been carried out.
            BucketDenied: the server said that we may not publish to this subject.
        """
        result = await self._connected_client().ask(subject, payload, headers, timeout)
        try:
            decoded = json.loads(result)
        except ValueError as error:
            msg = f"an answer on {subject} is not JSON"
            raise BucketUnreachable(msg) from error
        return decoded if isinstance(decoded, dict) else {}

    def subscribe(self, take: Take) -> AbstractAsyncContextManager[str]:
        """Subscribe to a new inbox. The value of the context is the name of the inbox.

        Raises:
            BucketUnreachable: there is no connection.
        """
        return self._connected_client().deliver(take)

    def _connected_client(self) -> NatsClient:
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
        """Connect to a server, and stay connected to it and to its successors.

        Returns when the connection is lost; returns false if the server could not be used at all.
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
                    work = self._retire(retiring)
                    self.spawn(work, name="nats connection that is given up")
                except RuntimeError:  # closed meanwhile
                    await self._abandon(retiring)
        finally:
            await self._abandon(client)

    async def _open(self, server: Server, *, other_than: str = "") -> NatsClient | BucketError:
        """Connect to a server, or return why that failed. A server with the given id is refused."""
        client = NatsClient(self.access, server, named=self._named)
        self._clients.add(client)
        try:
            await client.open()
            if not other_than or client.server_id != other_than:
                return client
            failure: BucketError = BucketUnreachable(f"{server.address} leads to the same server")
        except BucketDenied as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the next try may succeed after any error
            failure = BucketUnreachable(words(error, server))
        except BaseException:
            await self._abandon(client)
            raise
        await self._abandon(client)
        return failure

    async def _retire(self, client: NatsClient) -> None:
        """Let the open requests on a connection that has a successor end, then close it."""
        try:
            await client.wait_idle()
            if client.lost.done():
                client.give_up(BucketUnreachable(str(client.problem)))
        finally:
            await self._abandon(client)

    async def _abandon(self, client: NatsClient) -> None:
        await client.abandon()
        self._clients.discard(client)

    async def _successor_of(self, client: NatsClient) -> NatsClient | None:
        """Connect to another server while `client` still works; None if `client` is lost first."""
        if client.lost.done():
            self._lost(client)
            return None
        log.info("nats.leaving", server=client.server.address)
        search = self._begin(self._search(client), name="search for another NATS server")
        try:
            ends: set[asyncio.Future[Any]] = {search, client.lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if search.done():
                return search.result()
            self._lost(client)
        finally:
            search.cancel()
            await asyncio.wait({search})
        # In Python 3.11 `wait_for` can lose a cancellation, so the search may have succeeded.
        if not search.cancelled() and search.exception() is None:
            await self._abandon(search.result())
        return None

    async def _search(self, leaving: NatsClient) -> NatsClient:
        tries = 0
        while True:
            servers = self._pool.round()
            for server in servers:
                self._pool.tried(server)
                found = await self._open(server, other_than=leaving.server_id)
                if isinstance(found, NatsClient):
                    return found
                tries += 1
                await asyncio.sleep(BACKOFF.pause(tries // len(servers)))

    def _named(self, client: NatsClient, addresses: Json, trusted: bool) -> None:  # noqa: FBT001
        """Learn which servers exist besides the configured ones."""
        listed = addresses if isinstance(addresses, list) else []
        named = [each for each in listed if isinstance(each, str)]
        if self._pool.learn(named, by=client.server, trusted=trusted):
            known = self._pool.round()
            self._failures = {one: why for one, why in self._failures.items() if one in known}
            log.info("nats.servers", servers=[server.address for server in known])

    def _connected_by(self, client: NatsClient) -> None:
        """Record that there is a connection, which may replace another connection."""
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
        """Record that a server cannot be used. `problem` then names all servers that were tried."""
        self._failures[server] = error
        failures = self._failures.values()
        denied = [why for why in failures if isinstance(why, BucketDenied)]
        sentences = list(dict.fromkeys(str(why) for why in denied or failures))
        text = "; ".join(sentences[:MOST_SHOWN])
        if len(sentences) > MOST_SHOWN:
            text += f"; and {len(sentences) - MOST_SHOWN} more servers"
        self._down(BucketDenied(text) if denied else BucketUnreachable(text), news=str(error))

    def _lost(self, client: NatsClient) -> None:
        """Record that the connection is lost."""
        problem = client.problem
        client.give_up(BucketUnreachable(str(problem)))
        self._down(problem, news=str(problem))

    def _down(self, problem: BucketError, *, news: str) -> None:
        """Record that there is no connection, and tell the buckets."""
        self._client, self.problem = None, str(problem)
        self._up.clear()
        for bucket in tuple(self._buckets.values()):
            bucket.disconnected(problem)
        if news not in self._complained and not self._closed:
            self._complained.add(news)
            log.warning("nats.unreachable", problem=news)
