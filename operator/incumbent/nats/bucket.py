"""A bucket as the stream that it is, behind any connection that can request and subscribe."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Protocol

import structlog

from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import BucketInfo, Entry, Nothing, Peer
from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    BucketSilent,
    BucketUnreachable,
    NotSent,
)
from incumbent.nats import jetstream
from incumbent.nats.continuity import Continuity
from incumbent.nats.lookups import LONGEST_PAUSE, Backoff, Throttle

REQUEST_TIMEOUT = 2.0
CREATE_TIMEOUT = 5.0
HEARTBEAT_EVERY = 1.0
"""Seconds between the heartbeats of a watch that has nothing to say."""
MOST_HEARTBEATS = 3
"""Heartbeats missed in a row before a watch begins anew. They are counted, not timed: an event
loop that was busy for long has to read first what has arrived."""
QUIET = 0.1
"""Seconds without a message after which a server that says so has delivered all."""
INFO_EVERY = 10.0
"""Seconds between looks at the bucket's settings, which may change while elections run."""
TICK = 0.001
"""Seconds that a gap in a watch lasts at least."""
MOST_SPARE = 10_000
"""Keys that nobody watches of which the latest entry is kept, so that an election that begins need
not ask for it. After a start all elections begin soon; those of a bucket with more keys ask."""
LONGEST_SPARE = 1024
"""Bytes of a value that is kept though nobody watches its key. An identity is shorter."""
SPARE_FOR = 300.0
"""Seconds for which such an entry is kept. Nothing is promised by it: what has been forgotten is
read from the stream's leader when somebody begins to watch its key."""
READS_AT_ONCE = 32
"""Keys that are read at a time because somebody begins to watch them."""
SILENT_WATCHES = 2
"""Watches in a row that delivered nothing, no heartbeat either, before that is a problem."""

log = structlog.get_logger(__name__)

Follow = Callable[[str, Sighting], None]
Take = Callable[[str, str, bytes, Mapping[str, str]], None]
"""Takes a message: its subject, reply subject, data and headers. Must not block."""


class Connection(Protocol):
    """What a bucket needs from a connection; every method may raise a `BucketError`."""

    domain: str | None
    """The JetStream domain, if it is not the server's own."""

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        ...

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the answer, which is a JSON object."""
        ...

    def subscribe(self, take: Take) -> AbstractAsyncContextManager[str]:
        """Subscribe to a new inbox, whose name is the value of the context."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run something until it ends, or until the connection is closed for good."""
        ...


class NatsBucket:
    """A bucket behind a connection to NATS; implements `incumbent.campaign.ports.WatchedBucket`.

    All watches of a bucket share one consumer, whose state is kept by key, so that a thousand
    elections cost the server one. It runs while somebody watches or listens.

    Args:
        connection: to NATS.
        name: of the bucket.
        throttle: of all buckets that are looked for, because they cannot be used.
    """

    def __init__(self, connection: Connection, name: str, throttle: Throttle | None = None) -> None:
        self.name = name
        self.problem: BucketError | None = None
        """Why the bucket cannot be used now; None while it can, and before the first look."""
        self.settings: BucketInfo | None = None
        """What the server said last."""
        self.denied: dict[str, BucketDenied | BucketInvalid | BucketSilent] = {}
        """Keys of which no write was stored since NATS is connected; a later one may succeed."""
        self._answered_at: dict[str, float] = {}
        """When a write of a key was answered last, or tried first, since NATS is connected."""
        self._silent_watches = 0
        """Watches in a row that delivered nothing at all."""
        self._losses = 0
        """How often the connection was lost."""
        self._connection = connection
        self._api = jetstream.api_of(connection.domain)
        # nats-py's KeyValue forgets the domain here, and writes to a stream of the leaf node.
        self._writes = f"{self._api}.$KV.{name}" if connection.domain else f"$KV.{name}"
        self._watchers: dict[str, dict[object, Callable[[Sighting], None]]] = {}
        self._followers: dict[object, Follow] = {}
        self._listeners: dict[object, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._feed: Feed | None = None
        self.backoff = Backoff(LONGEST_PAUSE)
        """How often to look for it while it cannot be used."""
        self._throttle = Throttle() if throttle is None else throttle
        self._sought = asyncio.Event()
        """Set when a look should not wait for the end of a pause."""
        self.if_missing = ""
        """What to do if there is no such bucket, in words; empty: what anybody would."""
        self._not_created: BucketError | None = None
        self._prepared = asyncio.Event()
        self._prepared.set()
        self._last_revision = 0
        self.server_ahead: float | None = None
        """How many seconds the server's clock is ahead of `incumbent.clock`; None: not asked."""
        self._server_ahead_at_most = 0.0
        self._shown: Feed | None = None
        """The feed whose entries were shown last, also after its end."""
        self._wanted = asyncio.Event()
        """Set when somebody watches a key, or all."""
        self._reading: set[str] = set()
        """Keys that are being read because somebody began to watch them."""
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    def hold(self) -> Callable[[], None]:
        """Begin no watch before the returned function is called.

        For a bucket that is about to be created: until then it is not missing.
        """
        self._prepared.clear()

        def begin() -> None:
            # A reference to the bucket, and not to its event alone: a bucket to which nobody refers
            # is dropped, and whoever asks for its name gets another one.
            self._prepared.set()

        return begin

    @property
    def delivers(self) -> bool:
        """Whether the present watch has delivered anything, a heartbeat at least."""
        return self._feed is not None and self._feed.began

    async def create(self, *, ttl: float, replicas: int, max_bytes: int | None = None) -> None:
        """Create it with markers and history 1, unless there is a bucket of that name.

        Without `max_bytes` it has no limit, or a default one if the account requires one.

        Raises:
            BucketError: the server refuses or does not answer.
        """
        try:
            await self.info()
        except BucketNotFound:
            request = jetstream.stream_request(
                self.name, ttl=ttl, replicas=replicas, max_bytes=max_bytes
            )
            try:
                try:
                    await self._ask("STREAM.CREATE", request, timeout=CREATE_TIMEOUT)
                except jetstream.MaxBytesRequired:
                    request = {**request, "max_bytes": jetstream.DEFAULT_MAX_BYTES}
                    await self._ask("STREAM.CREATE", request, timeout=CREATE_TIMEOUT)
            except BucketError as error:
                self._not_created = error
                raise
            log.info("bucket.created", bucket=self.name, ttl=ttl, replicas=replicas)
        self._not_created = None
        self._sought.set()

    async def info(self) -> BucketInfo:
        """Ask the server for the bucket's settings."""
        asked_at = clock.now()
        answer = await self._ask("STREAM.INFO")
        info = jetstream.info_from(self.name, answer)
        self._last_revision = answer["state"]["last_seq"]
        # As if the answer had come in no time: an age may be said too small, never too great.
        self.server_ahead = info.server_time - clock.now()
        self._server_ahead_at_most = info.server_time - asked_at
        return info

    async def peers(self) -> list[Peer]:
        """Ask the server which servers hold the bucket, and how they fare."""
        return jetstream.peers_from(await self._ask("STREAM.INFO"))

    async def clock_of_a_server(self) -> tuple[str, float]:
        """Ask one of the servers that hold the bucket, by chance, for its name and its clock.

        Takes the right that the watch has: to create a consumer. The clock is in seconds since
        1970.
        """
        request = jetstream.clock_request(self.name)
        return jetstream.clock_from(await self._ask("CONSUMER.CREATE", request))

    async def write(
        self, key: str, value: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put `value` if the last revision of the key is `expected` (0: no message at all)."""
        return await self._publish(key, value.encode(), expected, headers, timeout)

    async def remove(
        self, key: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put a delete marker if the last revision of the key is `expected`."""
        return await self._publish(key, b"", expected, headers, timeout)

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Read the latest entry of the key from the stream's leader."""
        what = {"last_by_subj": f"$KV.{self.name}.{key}"}
        try:
            answer = await self._ask("STREAM.MSG.GET", what, timeout=timeout)
        except jetstream.NoMessage:
            return Sighting(Nothing())
        except BucketDenied as error:
            if self._feed is not None:
                self._feed.end(str(error))  # the next one begins with a read
            raise
        entry, stored_at = jetstream.entry_from(answer["message"])
        unseen_for = math.inf
        if self._shown is not None:
            unseen_for = self._shown.unseen_for(self._shown.known(key), entry.revision)
        return Sighting(entry, self._age(stored_at), unseen_for=unseen_for, stored_at=stored_at)

    def watch(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Call `seen` for the latest entry of the key and for every later one, in order.

        If the bucket is watched already, and the latest entry is known, the first call comes before
        this returns.
        """
        token = object()
        self._watchers.setdefault(key, {})[token] = seen
        self._wanted.set()
        self._start()
        if self._feed is not None and self._feed.claim(key):
            _call(seen, self._latest(self._feed, key))
        elif self._feed is not None:
            self._read_first(self._feed, key)

        def end() -> None:
            watchers = self._watchers.get(key, {})
            watchers.pop(token, None)
            if not watchers:
                self._watchers.pop(key, None)
                self.denied.pop(key, None)
                self._answered_at.pop(key, None)
                self._release(key)
            self._stop_if_idle()

        return end

    def follow(self, seen: Follow) -> Callable[[], None]:
        """Call `seen` with key and sighting for every key, then for every change, in order.

        After what is there now has been shown, at first and after each loss of the watch, `seen`
        is called once with an empty key.
        """
        token = object()
        self._followers[token] = seen
        self._wanted.set()
        self._start()
        if self._feed is not None and not self._feed.complete:
            self._feed.end("all keys are followed now")
            self._feed = None
        elif self._feed is not None:
            self._show_all(self._feed, seen)

        def end() -> None:
            self._followers.pop(token, None)
            self._release(*(self._shown.entries if self._shown is not None else ()))
            self._stop_if_idle()

        return end

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` whenever `problem` or `settings` change; returns how to end that.

        When the bucket was made anew this comes before the first sighting of the new one.
        """
        token = object()
        self._listeners[token] = changed
        self._start()
        self._sought.set()

        def end() -> None:
            self._listeners.pop(token, None)
            self._stop_if_idle()

        return end

    def disconnected(self, problem: BucketError) -> None:
        """Take in that there is no connection, and why."""
        self.denied.clear()
        self._answered_at.clear()
        self._silent_watches, self._losses = 0, self._losses + 1
        self.backoff.end()  # the next server may have it
        self._sought.set()
        if self._task is not None:
            if self._feed is not None:
                self._feed.end("the connection was lost")
                self._feed = None
            self._set_problem(problem)

    def moved(self) -> None:
        """Begin the watch again, because the connection is one to another server now."""
        if self._feed is not None:
            self._feed.end("the connection moved to another server")
            self._feed = None

    # Requests

    async def _ask(
        self,
        call: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout: float = REQUEST_TIMEOUT,
    ) -> dict[str, Any]:
        subject = f"{self._api}.{call}.KV_{self.name}"
        payload = json.dumps(body).encode() if body else b""
        answer = await self._connection.request(subject, payload, timeout=timeout)
        error = jetstream.error_from(answer, self.name)
        if error is not None:
            raise error
        return answer

    async def _publish(
        self, key: str, payload: bytes, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        subject, headers = f"{self._writes}.{key}", {**headers, wire.EXPECTED: str(expected)}
        if key in self._watchers:
            self._answered_at.setdefault(key, clock.now())
        try:
            answer = await self._connection.request(
                subject, payload, timeout=timeout, headers=headers
            )
        except NotSent as failure:
            return Answer(Outcome.REFUSED, reason=str(failure))
        except BucketDenied as failure:
            self._permitted(key, failure)
            return Answer(Outcome.UNKNOWN, reason=str(failure))
        except BucketError as failure:
            self._unanswered(key, str(failure))
            return Answer(Outcome.UNKNOWN, reason=str(failure))
        refusal, result = jetstream.refusal_from(self.name, answer), jetstream.answer_from(answer)
        stored = refusal is None and result.outcome is not Outcome.UNKNOWN
        if refusal is not None or stored or not isinstance(self.denied.get(key), BucketSilent):
            self._permitted(key, refusal)
        if stored and key in self._watchers:
            self._answered_at[key] = clock.now()
        elif refusal is None:
            self._unanswered(key, result.reason)
        return result

    def _unanswered(self, key: str, why: str) -> None:
        """Note a write that was not answered as a write should be, and after a TTL tell of it."""
        silence = clock.now() - self._answered_at.get(key, clock.now())
        known = isinstance(self.denied.get(key), BucketSilent)
        if self.settings is None or silence < self.settings.ttl or known:
            return
        since = (clock.today() - timedelta(seconds=silence)).strftime("%Y-%m-%dT%H:%M:%SZ")
        msg = (
            f"NATS has stored no write of key {key} in bucket {self.name} since {since} ({why}):"
            " look at the disk and the log of its servers"
        )
        self._permitted(key, BucketSilent(msg))

    def _permitted(
        self, key: str, error: BucketDenied | BucketInvalid | BucketSilent | None
    ) -> None:
        """Note whether writes of a key are stored, and tell of a change."""
        if str(error or "") == str(self.denied.get(key, "")):
            return
        if key not in self._watchers:
            # A command looks at once, and nobody else would forget it.
            for other in self.denied.keys() - self._watchers.keys() - {key}:
                del self.denied[other]
        if error is None:
            del self.denied[key]
        else:
            self.denied[key] = error
            log.warning("bucket.denied", bucket=self.name, problem=str(error))
        self._tell()

    # The watch

    def _start(self) -> None:
        if self._task is None:
            self._task = self._connection.spawn(self._keep(), name=f"watch of bucket {self.name}")

    def _stop_if_idle(self) -> None:
        used = self._watchers or self._followers or self._listeners
        if self._task is not None and not used:
            self._task.cancel()
            self._task, self._feed, self.problem = None, None, None
            self._shown = None  # who watches next has seen nothing of it

    async def _keep(self) -> None:
        """Keep the watch: from one loss of it to the next."""
        failures = 0
        while True:
            await self._connection.wait_connected()
            await self._prepared.wait()
            if self.backoff.throttled:
                await self._throttle.take()
            self._sought.clear()
            began, refused = clock.now(), False
            try:
                reason = await self._follow()
                log.info("bucket.watch_over", bucket=self.name, reason=reason)
            except BucketError as error:
                refused = not isinstance(error, BucketUnreachable)
                if self._set_problem(self._with_reason(error)):
                    log.warning("bucket.problem", bucket=self.name, problem=str(self.problem))
            except Exception:
                log.exception("bucket.watch_failed", bucket=self.name)
            failures = 0 if clock.now() - began > LONGEST_PAUSE else failures + 1
            if refused:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.backoff.pause(clock.now())):
                        await self._sought.wait()
            else:
                self.backoff.end()
                await pause(failures)

    def _with_reason(self, error: BucketError) -> BucketError:
        """Say of a bucket that is missing why it could not be created, or what to do."""
        if not isinstance(error, BucketNotFound):
            return error
        missing = f"there is no bucket {self.name}"
        if self._not_created is not None:
            return BucketNotFound(f"{missing}, and it cannot be created: {self._not_created}")
        return BucketNotFound(f"{missing}: {self.if_missing}") if self.if_missing else error

    async def _follow(self) -> str:
        """Watch until that is over, and return why."""
        losses = self._losses
        await self._look()
        self._wanted.clear()
        if not (self._watchers or self._followers):
            return await self._look_on()
        for key in tuple(self._watchers)[:1]:
            # Who watches a key will have to read it one day, and should not learn then that it may
            # not.
            await self.read(key, timeout=REQUEST_TIMEOUT)
        if self._shown is not None and self._last_revision < self._shown.continuity.reached:
            self._shown = None  # the stream went back
        feed = Feed(
            f"$KV.{self.name}.",
            self._last_revision,
            self._show,
            self._age,
            self._stored_after,
            after=self._shown,
            wanted=lambda key: bool(self._followers) or key in self._watchers,
            certain=self._watchers,
        )
        try:
            async with self._connection.subscribe(feed.take) as inbox:
                request = jetstream.consumer_request(self.name, inbox, HEARTBEAT_EVERY)
                consumer = await self._ask("CONSUMER.CREATE", request)
                # A look before and one behind: the consumer is of the bucket that both saw. And
                # a second one for what was replaced while the first part was delivered.
                for _ in range(2):
                    if not await self._look():
                        return "the bucket was made anew"
                    if consumer["num_pending"]:
                        await feed.reach(self._last_revision)
                if self._silent_watches:
                    await feed.hear()  # the one before delivered nothing
                if not feed.over.done():
                    self._synchronised(feed)
                reason = await self._guard(feed)
                self._judge(feed, lost=self._losses != losses)
                return reason
        finally:
            if self._feed is feed:
                self._feed = None

    async def _look_on(self) -> str:
        """Look at the settings now and then, until somebody watches a key.

        A bucket that no election can use may hold many and large values of somebody else.
        """
        self._set_problem(None)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INFO_EVERY):
                    await self._wanted.wait()
                    return "a key is watched now"
            await self._look()

    def _judge(self, feed: Feed, *, lost: bool) -> None:
        """Tell of a watch that is over and delivered nothing, unless the connection was lost."""
        if feed.began or lost:
            self._silent_watches = 0
            return
        self._silent_watches += 1
        if self._silent_watches < SILENT_WATCHES:
            return
        msg = (
            f"NATS answers, but the watch of bucket {self.name} delivers nothing: log in to the"
            " account of the bucket, or let it export what consumers deliver"
        )
        if self._set_problem(BucketSilent(msg)):
            log.warning("bucket.problem", bucket=self.name, problem=msg)

    async def _guard(self, feed: Feed) -> str:
        """Wait for the end of a watch, and look at the settings now and then."""
        missed, looked_at = 0, clock.now()
        while missed < MOST_HEARTBEATS:
            await asyncio.wait({feed.over}, timeout=HEARTBEAT_EVERY)
            if feed.over.done():
                return feed.over.result()
            missed = 0 if feed.heard else missed + 1
            feed.heard = False
            if clock.now() - looked_at >= INFO_EVERY:
                looked_at = clock.now()
                feed.forget()
                with contextlib.suppress(BucketUnreachable):  # whoever writes notices it sooner
                    if not await self._look():
                        return "the bucket was made anew"
        return "no heartbeat came"

    async def _look(self) -> bool:
        """Look at the settings; false if this is another bucket than before."""
        before, info = self.settings, await self.info()
        same = before is not None and before.created == info.created
        self.settings = info
        if not same:
            # Or somebody who begins to watch when told would be shown the old one.
            self._feed = self._shown = None
        if before is None or _timeless(before) != _timeless(info):
            self._tell()
        return same

    def _synchronised(self, feed: Feed) -> None:
        """Show every watcher what its key holds now, also that it holds nothing."""
        before, self._feed, self._shown = self._shown, feed, feed
        feed.begin()
        log.info("bucket.watched", bucket=self.name, keys=len(feed.entries) + len(feed.spare))
        self._set_problem(None)
        for key in tuple(self._watchers):
            if feed.claim(key):
                self._show_watchers(key, self._latest(feed, key, after=before))
            else:
                self._read_first(feed, key)
        for seen in tuple(self._followers.values()):
            self._show_all(feed, seen)

    def _show_all(self, feed: Feed, seen: Follow) -> None:
        for key in (*feed.entries, *feed.spare):
            _call(seen, key, self._latest(feed, key))
        _call(seen, "", Sighting(Nothing()))

    def _release(self, *keys: str) -> None:
        """Keep no longer what nobody watches."""
        if self._followers:
            return
        for feed in filter(None, (self._feed, self._shown)):
            for key in keys:
                if key not in self._watchers:
                    feed.release(key)

    def _read_first(self, feed: Feed, key: str) -> None:
        """Read a key that somebody began to watch, because what it holds has been forgotten."""
        if key not in self._reading:
            self._reading.add(key)
            self._connection.spawn(self._read_until_known(feed, key), name=f"first read of {key}")

    async def _read_until_known(self, feed: Feed, key: str) -> None:
        failures = 0
        try:
            while feed is self._feed and key in self._watchers and key not in feed.entries:
                try:
                    async with self._reads:
                        found = await self.read(key, timeout=REQUEST_TIMEOUT)
                except BucketError:
                    failures += 1
                    await pause(failures)
                    continue
                if feed is self._feed and key in self._watchers and key not in feed.entries:
                    feed.learn(key, found.entry, found.stored_at)
                    self._show_watchers(key, dataclasses.replace(found, unseen_for=math.inf))
                break
        finally:
            self._reading.discard(key)
        if self._feed not in {None, feed}:
            self._read_if_unknown(key)

    def _read_if_unknown(self, key: str) -> None:
        if self._feed is not None and key in self._watchers and not self._feed.claim(key):
            self._read_first(self._feed, key)

    def _latest(self, feed: Feed, key: str, *, after: Feed | None = None) -> Sighting:
        """Return what a key holds, for somebody to whom an earlier feed was shown, or none."""
        unseen_for = math.inf if after is None else feed.unseen_for(after.known(key))
        latest = feed.latest(key)
        if latest is None:
            return Sighting(Nothing(), unseen_for=unseen_for)
        entry, stored_at = latest
        return Sighting(entry, self._age(stored_at), unseen_for=unseen_for, stored_at=stored_at)

    def _age(self, stored_at: float) -> float:
        """Return how old a message is, or less."""
        if self.server_ahead is None:
            return 0.0
        return max(0.0, clock.now() + self.server_ahead - stored_at)

    def _stored_after(self, stored_at: float) -> float:
        """Return when a message was stored, or a moment before, on our own clock."""
        return min(clock.now(), stored_at - self._server_ahead_at_most)

    def _show(self, key: str, sighting: Sighting) -> None:
        self._show_watchers(key, sighting)
        for seen in tuple(self._followers.values()):
            _call(seen, key, sighting)

    def _show_watchers(self, key: str, sighting: Sighting) -> None:
        watchers = self._watchers.get(key, {})
        for token, seen in tuple(watchers.items()):
            if token in watchers:
                _call(seen, sighting)

    def _set_problem(self, problem: BucketError | None) -> bool:
        before, self.problem = self.problem, problem
        changed = (type(before), str(before)) != (type(problem), str(problem))
        if changed:
            self._tell()
        return changed

    def _tell(self) -> None:
        for changed in tuple(self._listeners.values()):
            _call(changed)


class Feed:
    """What one consumer delivers: the latest entry of every key, then each change.

    Args:
        prefix: of the subjects; what follows is the key.
        last_revision: what the stream held at least when the consumer was made.
        changed: called with key and sighting for every entry, from `begin` on.
        age: returns how old a message is that was stored then, at least: it may have waited in
            the socket while the process stood still.
        stored_after: returns a moment on our own clock before which it was not stored.
        after: the feed that was shown before this one, if any.
        wanted: tells whether somebody watches a key; by default somebody watches all.
        certain: keys that are watched from the beginning.
    """

    def __init__(
        self,
        prefix: str,
        last_revision: int,
        changed: Callable[[str, Sighting], None],
        age: Callable[[float], float],
        stored_after: Callable[[float], float],
        *,
        after: Feed | None = None,
        wanted: Callable[[str], bool] = lambda _: True,
        certain: Iterable[str] = (),
    ) -> None:
        self.entries: dict[str, tuple[Entry, float]] = {}
        """The latest entry of every key that is watched, and when it was stored by the server's
        clock. They are as many as those who watch."""
        self.spare: dict[str, tuple[Entry, float, float]] = {}
        """The same of other keys, and when it came on our own clock, the earliest first. There are
        `MOST_SPARE` at most, for `SPARE_FOR` seconds."""
        self.complete = True
        """Whether a key that is in neither of them certainly holds nothing."""
        self._wanted = wanted
        self._certain = set(certain)
        """Keys that were watched at all times, so that nothing of them was forgotten."""
        self._unshown: set[str] = set()
        """Keys of which those who watch have been shown nothing yet."""
        self.continuity: Continuity = (
            Continuity(last_revision) if after is None else after.continuity.copy()
        )
        self.heard = True
        """Whether anything came; whoever looks resets it."""
        self.began = False
        """Whether anything came at all."""
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when nothing of this counts any more, with the reason."""
        self._live = False
        self._skip = len(prefix)
        self._changed = changed
        self._age = age
        self._stored_after = stored_after
        self._delivered = self._revision = 0
        self._pending = 1
        self._goal = 0
        self._reached = asyncio.Event()
        self._last_revision = last_revision
        self._known_to = self.continuity.reached
        """The revision up to which every key was shown, whether it holds a message or not."""

    def begin(self) -> None:
        """Call `changed` from now on; whoever calls this shows what every key holds now."""
        self._live = True
        self.continuity.ended(self._last_revision)
        self._known_to = self.continuity.reached

    def claim(self, key: str) -> bool:
        """Keep a key from now on, because it is watched; return whether what it holds is known."""
        spare = self.spare.pop(key, None)
        if spare is not None:
            self.entries[key] = spare[:2]
        if self.complete or key in self._certain or key in self.entries:
            return True
        self._unshown.add(key)
        return False

    def release(self, key: str) -> None:
        """Keep a key no longer than others, because nobody watches it any more."""
        self._certain.discard(key)
        self._unshown.discard(key)
        if key in self.entries:
            self._set_aside(key, *self.entries.pop(key))

    def learn(self, key: str, entry: Entry, stored_at: float) -> None:
        """Take in what was read of a key that is watched, and was not known."""
        self._unshown.discard(key)
        if not isinstance(entry, Nothing):
            self.entries[key] = entry, stored_at

    def latest(self, key: str) -> tuple[Entry, float] | None:
        """Return the latest entry of a key, and when it was stored; None if none is known."""
        if key in self.entries:
            return self.entries[key]
        return self.spare[key][:2] if key in self.spare else None

    def _set_aside(self, key: str, entry: Entry, stored_at: float) -> None:
        """Keep the entry of a key that nobody watches, for a while."""
        self.spare.pop(key, None)
        self.spare[key] = entry, stored_at, clock.now()
        if len(self.spare) > MOST_SPARE:
            del self.spare[next(iter(self.spare))]
            self.complete = False

    def forget(self) -> None:
        """Forget the entries of keys that nobody watches, once they have been kept for long."""
        limit = clock.now() - SPARE_FOR
        for key in tuple(itertools.takewhile(lambda key: self.spare[key][2] < limit, self.spare)):
            del self.spare[key]
            self.complete = False

    def known(self, key: str) -> int:
        """Return the revision up to which a key was shown."""
        shown = self.entries.get(key)
        return max(self._known_to, shown[0].revision if shown else 0)

    def unseen_for(self, known: int, revision: int = 0) -> float:
        """Return for how many seconds something on a key may be missing; see `Continuity`."""
        since = self.continuity.missing_since(known, revision)
        return 0.0 if since == math.inf else max(TICK, clock.now() - since)

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Take in a message of the consumer."""
        if self.over.done():
            return
        self.heard = self.began = True
        if not reply:
            # A heartbeat comes when there is nothing to deliver, whatever was pending before.
            if headers.get("Nats-Last-Consumer") != str(self._delivered):
                self.end("messages were lost before a heartbeat")
            self._pending = 0
            self._reached.set()
            return
        delivery = jetstream.delivery_from(reply)
        self._delivered += 1
        if delivery.number != self._delivered:
            self.end("messages were lost")
            return
        key = subject[self._skip :]
        before, known = self.entries.get(key), self.known(key)
        wanted = self._wanted(key)
        ahead = before is not None and before[0].revision > delivery.revision  # it was read
        if not wanted and len(data) > LONGEST_SPARE:
            self.spare.pop(key, None)
            self.complete = False
        elif not ahead:
            entry = wire.entry_from(data, headers, delivery.revision)
            if wanted:
                self.spare.pop(key, None)
                self.entries[key] = entry, delivery.stored_at
            else:
                self._set_aside(key, entry, delivery.stored_at)
        self.continuity.delivered(delivery.revision, self._stored_after(delivery.stored_at))
        if ahead or not wanted:
            pass
        elif self._live:
            # The key was shown as it is without this, or nobody was shown anything of it.
            late = delivery.revision <= self._known_to or key in self._unshown
            self._unshown.discard(key)
            unseen_for = math.inf if late else self.unseen_for(known)
            age, live = self._age(delivery.stored_at), unseen_for == 0
            self._changed(
                key,
                Sighting(entry, age, live, math.inf if live else unseen_for, delivery.stored_at),
            )
        elif before is not None and before[0].revision > self._known_to:
            self.continuity.concealed(before[0].revision, self._stored_after(before[1]))
        self._revision, self._pending = delivery.revision, delivery.pending
        if self._revision >= self._goal:
            self._reached.set()

    async def reach(self, revision: int) -> None:
        """Return when all up to a revision was delivered or replaced, or when this is over.

        That nothing is pending is no proof: while keys are renewed the server counts too few
        (nats-server 2.15.1, by up to one in twenty). It counts if there is silence, too, which
        it takes when the latest messages of the stream are gone themselves.
        """
        quiet = 0
        while self._revision < revision and not self.over.done():
            delivered, self._goal = self._delivered, revision
            self._reached.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(QUIET):
                    await self._reached.wait()
            quiet = quiet + 1 if delivered == self._delivered else 0
            if quiet and self._pending == 0:
                return
            if quiet * QUIET > MOST_HEARTBEATS * HEARTBEAT_EVERY:
                self.end("messages stopped to come")

    async def hear(self) -> None:
        """Return when anything came, or when this is over because nothing did."""
        for _ in range(MOST_HEARTBEATS):
            if self.began:
                return
            await asyncio.wait({self.over}, timeout=HEARTBEAT_EVERY)
        if not self.began:
            self.end("no heartbeat came")

    def end(self, reason: str) -> None:
        """Say that nothing of this counts any more."""
        if not self.over.done():
            self.over.set_result(reason)
        self._reached.set()


async def pause(failures: int) -> None:
    """Wait before the next attempt: longer after more failures, and never all at once."""
    longest = min(LONGEST_PAUSE, 0.05 * 2 ** min(failures, 8))
    await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311


def _call(function: Callable[..., None], *arguments: object) -> None:
    """Call somebody else's function, whose errors are not ours."""
    try:
        function(*arguments)
    except Exception:
        log.exception("bucket.watcher_failed")


def _timeless(info: BucketInfo) -> BucketInfo:
    return dataclasses.replace(info, server_time=0)
