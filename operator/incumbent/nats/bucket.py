"""A bucket on any connection that can request and subscribe: reads, writes and the watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import BucketInfo, Peer
from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketNotFound,
    NotSent,
)
from incumbent.nats import jetstream
from incumbent.nats.lookups import Lookups, Throttle
from incumbent.nats.ports import Connection
from incumbent.nats.requests import BucketRequests
from incumbent.nats.subscribers import Follow, Subscribers
from incumbent.nats.watch import BucketWatch
from incumbent.nats.write_problems import Problem, WriteProblems

log = structlog.get_logger(__name__)


class NatsBucket:
    """A bucket on a connection to NATS; implements `incumbent.campaign.ports.WatchedBucket`.

    All watches of a bucket share one consumer, so a thousand elections cost the server only one.
    The consumer exists while somebody watches or listens.

    Args:
        connection: the connection to NATS.
        name: the name of the bucket.
        throttle: limits the lookups of all buckets that cannot be used.
    """

    def __init__(self, connection: Connection, name: str, throttle: Throttle | None = None) -> None:
        self.name = name
        self.lookups = Lookups(name, throttle)
        """Says when to look for the bucket while it cannot be used, and explains the problem."""
        self._connection = connection
        self._subscribers = Subscribers()
        self._write_problems = WriteProblems(name, self._subscribers)
        self._requests = BucketRequests(connection, name)
        self._watch = BucketWatch(name, connection, self._requests, self.lookups, self._subscribers)
        self._task: asyncio.Task[None] | None = None

    @property
    def problem(self) -> BucketError | None:
        """Why the bucket cannot be used now; None while it can be, and before the first look."""
        return self._watch.problem

    @property
    def settings(self) -> BucketInfo | None:
        """The settings in the server's last answer; None before the first answer."""
        return self._watch.settings

    @property
    def denied(self) -> Mapping[str, Problem]:
        """The keys whose writes are not stored since NATS is connected, each with the reason.

        A later write may succeed.
        """
        return self._write_problems.denied

    @property
    def server_ahead(self) -> float | None:
        """Seconds that the server's clock is ahead of `incumbent.clock`; None if not known yet."""
        return self._requests.server_ahead

    @property
    def delivers(self) -> bool:
        """Whether the present watch has delivered anything, at least a heartbeat."""
        return self._watch.delivers

    def hold(self) -> Callable[[], None]:
        """Begin no watch before the returned function is called.

        The operator uses this for a bucket that it is about to create, so the bucket is not
        reported as missing.
        """
        self.lookups.hold()

        def begin() -> None:
            # This refers to the bucket, not only to its lookups. Otherwise the bucket could be
            # dropped, and the next caller with its name would get a new object.
            self.lookups.begin()

        return begin

    async def create(self, *, ttl: float, replicas: int, max_bytes: int | None = None) -> None:
        """Create the bucket with markers and history 1, unless a bucket of that name exists.

        Without `max_bytes` it has no limit, or a default limit if the account requires one.

        Raises:
            BucketError: the server refuses or does not answer.
        """
        try:
            await self._requests.info()
        except BucketNotFound:
            try:
                await self._requests.create(ttl=ttl, replicas=replicas, max_bytes=max_bytes)
            except BucketError as error:
                self.lookups.not_created = error
                raise
            log.info("bucket.created", bucket=self.name, ttl=ttl, replicas=replicas)
        self.lookups.not_created = None
        self.lookups.soon()

    async def info(self) -> BucketInfo:
        """Ask the server for the bucket's settings."""
        return await self._requests.info()

    async def peers(self) -> list[Peer]:
        """Ask NATS which servers hold the bucket, and whether they are up to date."""
        return await self._requests.peers()

    async def clock_of_a_server(self) -> tuple[str, float]:
        """Ask a random one of the servers that hold the bucket for its name and its clock.

        This needs the right to create a consumer, as the watch does. The clock is in seconds since
        1970.
        """
        return await self._requests.clock_of_a_server()

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Read the latest entry of the key from the stream's leader."""
        return await self._watch.read(key, timeout=timeout)

    # Writes

    async def write(
        self, key: str, value: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put `value` if the last revision of the key is `expected` (0: there is no message)."""
        return await self._publish(key, value.encode(), expected, headers, timeout)

    async def remove(
        self, key: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put a delete marker if the last revision of the key is `expected`."""
        return await self._publish(key, b"", expected, headers, timeout)

    async def _publish(
        self, key: str, payload: bytes, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        self._write_problems.began(key)
        try:
            answer = await self._requests.publish(
                key, payload, expected=expected, headers=headers, timeout=timeout
            )
        except NotSent as failure:
            return Answer(Outcome.REFUSED, reason=str(failure))
        except BucketDenied as failure:
            self._write_problems.refused(key, failure)
            return Answer(Outcome.UNKNOWN, reason=str(failure))
        except BucketError as failure:
            self._write_problems.unanswered(key, str(failure), ttl=self._ttl)
            return Answer(Outcome.UNKNOWN, reason=str(failure))
        refusal, result = jetstream.refusal_from(self.name, answer), jetstream.answer_from(answer)
        if refusal is not None:
            self._write_problems.refused(key, refusal)
        elif result.outcome is Outcome.UNKNOWN:
            self._write_problems.permitted(key)
            self._write_problems.unanswered(key, result.reason, ttl=self._ttl)
        else:
            self._write_problems.stored(key)
        return result

    @property
    def _ttl(self) -> float | None:
        return None if self.settings is None else self.settings.ttl

    # The watch

    def watch(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Call `seen` for the latest entry of the key and for every later one, in order.

        If the bucket is watched already and the latest entry is known, the first call happens
        before this method returns.
        """
        remove = self._subscribers.add_watcher(key, seen)
        self._start()
        self._watch.begin_key(key, seen)

        def end() -> None:
            remove()
            if not self._subscribers.watches(key):
                self._write_problems.forget(key)
                self._watch.release_key(key)
            self._stop_if_idle()

        return end

    def follow(self, seen: Follow) -> Callable[[], None]:
        """Call `seen` with key and sighting for every key, then for every change, in order.

        When all present entries have been shown, at first and after each loss of the watch, `seen`
        is called once with an empty key.
        """
        remove = self._subscribers.add_follower(seen)
        self._start()
        self._watch.begin_all(seen)

        def end() -> None:
            remove()
            self._watch.release_all()
            self._stop_if_idle()

        return end

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when `problem`, `settings` or `denied` change.

        If the bucket was created again, this call comes before the first sighting in the new
        bucket. Returns a function that ends this.
        """
        remove = self._subscribers.add_listener(changed)
        self._start()
        self.lookups.soon()

        def end() -> None:
            remove()
            self._stop_if_idle()

        return end

    def disconnected(self, problem: BucketError) -> None:
        """Observe that there is no connection to NATS, because of this problem."""
        self._write_problems.clear()
        self.lookups.restart()  # with short pauses, because the next server may have the bucket
        self.lookups.soon()
        self._watch.lost(problem, watched=self._task is not None)

    def moved(self) -> None:
        """Begin the watch again, because the connection leads to another server now."""
        self._watch.moved()

    def _start(self) -> None:
        if self._task is None:
            self._task = self._connection.spawn(self._keep(), name=f"watch of bucket {self.name}")

    async def _keep(self) -> None:
        """Keep the watch. The task refers to the bucket, so a watched bucket is not dropped."""
        await self._watch.keep()

    def _stop_if_idle(self) -> None:
        if self._task is not None and self._subscribers.idle:
            self._task.cancel()
            self._task = None
            self._watch.reset()
