"""The watch of one bucket: one consumer for all keys, begun again after each loss."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import Callable

import structlog

from incumbent import clock
from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import BucketInfo, Nothing
from incumbent.errors import BucketDenied, BucketError, BucketSilent, BucketUnreachable
from incumbent.nats.feed import HEARTBEAT_EVERY, MOST_HEARTBEATS, Feed
from incumbent.nats.lookups import BACKOFF, LONGEST_PAUSE, Lookups
from incumbent.nats.ports import Connection
from incumbent.nats.requests import REQUEST_TIMEOUT, BucketRequests
from incumbent.nats.subscribers import Follow, Subscribers, call

INFO_EVERY = 10.0
"""Seconds between two checks of the bucket's settings, which may change while elections run."""
READS_AT_ONCE = 32
"""How many keys to read at the same time when somebody begins to watch them."""
SILENT_WATCHES = 2
"""After this many watches in a row without a message or heartbeat, a problem is reported."""

log = structlog.get_logger(__name__)


class BucketWatch:
    """Observes a bucket, and shows its entries and changes to the subscribers.

    Args:
        name: the name of the bucket.
        connection: the connection to NATS.
        requests: sends requests about the bucket.
        lookups: decides when to look for the bucket while it cannot be used.
        subscribers: the subscribers of the bucket.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        requests: BucketRequests,
        lookups: Lookups,
        subscribers: Subscribers,
    ) -> None:
        self.problem: BucketError | None = None
        """Why the bucket cannot be used now; None while it can be, and before the first look."""
        self.settings: BucketInfo | None = None
        """The settings in the server's last answer; None before the first answer."""
        self._name = name
        self._connection = connection
        self._requests = requests
        self._lookups = lookups
        self._subscribers = subscribers
        self._silent_watches = 0
        """How many watches in a row have delivered neither a message nor a heartbeat."""
        self._losses = 0
        """How often the connection was lost."""
        self._feed: Feed | None = None
        """The feed of the present watch; None until its entries have been shown."""
        self._shown: Feed | None = None
        """The feed whose entries were shown last, also after its end."""
        self._wanted = asyncio.Event()
        """Set when somebody begins to watch a key, or to follow all keys."""
        self._reading: set[str] = set()
        """The keys that are being read because somebody began to watch them."""
        self._reads = asyncio.Semaphore(READS_AT_ONCE)

    @property
    def delivers(self) -> bool:
        """Whether the present watch has delivered anything, at least a heartbeat."""
        return self._feed is not None and self._feed.began

    # Called by the bucket

    def begin_key(self, key: str, seen: Callable[[Sighting], None]) -> None:
        """Show the entry of a key to a new watcher.

        If the bucket is watched already and the entry is known, this happens before this method
        returns.
        """
        self._wanted.set()
        if self._feed is not None and self._feed.claim(key):
            call(seen, self._latest(self._feed, key))
        elif self._feed is not None:
            self._read_first(self._feed, key)

    def begin_all(self, seen: Follow) -> None:
        """Show the entries of all keys to a new follower."""
        self._wanted.set()
        if self._feed is not None and not self._feed.complete:
            self._give_up("all keys are followed now")
        elif self._feed is not None:
            self._show_all(self._feed, seen)

    def release_key(self, key: str) -> None:
        """Keep the entry of a key only as a spare one, unless somebody still wants the key."""
        for feed in filter(None, (self._feed, self._shown)):
            if not self._subscribers.wants(key):
                feed.release(key)

    def release_all(self) -> None:
        """Call `release_key` for all keys."""
        for key in tuple(self._shown.entries if self._shown is not None else ()):
            self.release_key(key)

    def reset(self) -> None:
        """Forget what was shown, because no subscriber is left, and new ones have seen nothing."""
        self._feed = self._shown = self.problem = None

    def lost(self, problem: BucketError, *, watched: bool) -> None:
        """Record that the connection was lost; `watched` tells whether `keep` runs."""
        self._silent_watches, self._losses = 0, self._losses + 1
        if watched:
            self._give_up("the connection was lost")
            self._set_problem(problem)

    def moved(self) -> None:
        """Begin the watch again, because the connection leads to another server now."""
        self._give_up("the connection moved to another server")

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Read the latest entry of a key from the stream's leader."""
        try:
            latest = await self._requests.latest(key, timeout=timeout)
        except BucketDenied as error:
            if self._feed is not None:
                self._feed.end(str(error))  # the next watch begins with a read
            raise
        if latest is None:
            return Sighting(Nothing())
        entry, stored_at = latest
        unseen_for = math.inf
        if self._shown is not None:
            unseen_for = self._shown.unseen_for(self._shown.known(key), entry.revision)
        age = self._requests.age(stored_at)
        return Sighting(entry, age, unseen_for=unseen_for, stored_at=stored_at)

    # The loop

    async def keep(self) -> None:
        """Watch the bucket for ever. Begin the watch again after each loss."""
        failures = 0
        while True:
            await self._connection.wait_connected()
            await self._lookups.turn()
            began, refused = clock.now(), False
            try:
                reason = await self._follow()
                log.info("bucket.watch_over", bucket=self._name, reason=reason)
            except BucketError as error:
                refused = not isinstance(error, BucketUnreachable)
                if self._set_problem(self._lookups.explained(error)):
                    log.warning("bucket.problem", bucket=self._name, problem=str(self.problem))
            except Exception:
                log.exception("bucket.watch_failed", bucket=self._name)
            failures = 0 if clock.now() - began > LONGEST_PAUSE else failures + 1
            if refused:
                await self._lookups.wait()
            else:
                self._lookups.restart()
                await asyncio.sleep(BACKOFF.pause(failures))

    async def _follow(self) -> str:
        """Watch the bucket until the watch is over, and return the reason."""
        losses = self._losses
        # 1. Look at the settings. While nobody wants a key, watch only them.
        await self._look()
        self._wanted.clear()
        if not (self._subscribers.keys or self._subscribers.followers):
            return await self._look_on()
        # 2. Read one key, to learn now if we may not read keys. An election will have to do so one
        #    day.
        for key in self._subscribers.keys[:1]:
            await self.read(key, timeout=REQUEST_TIMEOUT)
        feed = self._next_feed()
        try:
            async with self._connection.subscribe(feed.take) as inbox:
                pending = await self._requests.create_consumer(inbox, heartbeat=HEARTBEAT_EVERY)
                # 3. Look at the settings again. If both looks show one bucket, the consumer belongs
                #    to it. A second round covers entries that were replaced during the first round.
                for _ in range(2):
                    if not await self._look():
                        return "the bucket was made anew"
                    if pending:
                        await feed.reach(self._requests.last_revision)
                if self._silent_watches:
                    await feed.hear()  # because the watch before delivered nothing
                # 4. Show the present entries, then each change.
                if not feed.over.done():
                    self._synchronised(feed)
                reason = await self._guard(feed)
                self._judge(feed, lost=self._losses != losses)
                return reason
        finally:
            if self._feed is feed:
                self._feed = None

    def _next_feed(self) -> Feed:
        """Return the feed of a new watch, which continues the feed that was shown before."""
        last_revision = self._requests.last_revision
        if self._shown is not None and last_revision < self._shown.continuity.reached:
            self._shown = None  # the stream went back to an older state
        return Feed(
            f"$KV.{self._name}.",
            last_revision,
            self._subscribers.show,
            self._requests.age,
            self._requests.stored_after,
            after=self._shown,
            wanted=self._subscribers.wants,
            certain=self._subscribers.keys,
        )

    async def _look_on(self) -> str:
        """Look at the settings every `INFO_EVERY` seconds, until somebody watches a key.

        We do not watch such a bucket, because it may hold many and large values of somebody else.
        """
        self._set_problem(None)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INFO_EVERY):
                    await self._wanted.wait()
                    return "a key is watched now"
            await self._look()

    async def _guard(self, feed: Feed) -> str:
        """Wait for the end of a watch, and look at the settings every `INFO_EVERY` seconds."""
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
                with contextlib.suppress(BucketUnreachable):  # a write would notice that sooner
                    if not await self._look():
                        return "the bucket was made anew"
        return "no heartbeat came"

    def _judge(self, feed: Feed, *, lost: bool) -> None:
        """Report a watch that ended without a message, unless the connection was lost."""
        if feed.began or lost:
            self._silent_watches = 0
            return
        self._silent_watches += 1
        if self._silent_watches < SILENT_WATCHES:
            return
        msg = (
            f"NATS answers, but the watch of bucket {self._name} delivers nothing: log in to the"
            " account of the bucket, or let it export what consumers deliver"
        )
        if self._set_problem(BucketSilent(msg)):
            log.warning("bucket.problem", bucket=self._name, problem=msg)

    async def _look(self) -> bool:
        """Look at the settings; return false if this is another bucket than before."""
        before, info = self.settings, await self._requests.info()
        same = before is not None and before.created == info.created
        self.settings = info
        if not same:
            # Otherwise `notify` could add a watcher, which would be shown the old bucket.
            self._feed = self._shown = None
        if before is None or _timeless(before) != _timeless(info):
            self._subscribers.notify()
        return same

    def _give_up(self, reason: str) -> None:
        """End the present watch, if there is one; `keep` begins the next watch."""
        if self._feed is not None:
            self._feed.end(reason)
            self._feed = None

    def _set_problem(self, problem: BucketError | None) -> bool:
        before, self.problem = self.problem, problem
        changed = (type(before), str(before)) != (type(problem), str(problem))
        if changed:
            self._subscribers.notify()
        return changed

    # Showing entries

    def _synchronised(self, feed: Feed) -> None:
        """Show every watcher the present entry of its key, which may be `Nothing`."""
        before, self._feed, self._shown = self._shown, feed, feed
        feed.begin()
        log.info("bucket.watched", bucket=self._name, keys=len(feed.entries) + len(feed.spare))
        self._set_problem(None)
        for key in self._subscribers.keys:
            if feed.claim(key):
                self._subscribers.show_watchers(key, self._latest(feed, key, after=before))
            else:
                self._read_first(feed, key)
        for seen in self._subscribers.followers:
            self._show_all(feed, seen)

    def _show_all(self, feed: Feed, seen: Follow) -> None:
        for key in (*feed.entries, *feed.spare):
            call(seen, key, self._latest(feed, key))
        call(seen, "", Sighting(Nothing()))

    def _latest(self, feed: Feed, key: str, *, after: Feed | None = None) -> Sighting:
        """Return the entry of a key for a watcher; `after` is the feed that it was shown before."""
        unseen_for = math.inf if after is None else feed.unseen_for(after.known(key))
        latest = feed.latest(key)
        if latest is None:
            return Sighting(Nothing(), unseen_for=unseen_for)
        entry, stored_at = latest
        age = self._requests.age(stored_at)
        return Sighting(entry, age, unseen_for=unseen_for, stored_at=stored_at)

    def _read_first(self, feed: Feed, key: str) -> None:
        """Read a key that somebody began to watch, because its entry has been forgotten."""
        if key not in self._reading:
            self._reading.add(key)
            self._connection.spawn(self._read_until_known(feed, key), name=f"first read of {key}")

    async def _read_until_known(self, feed: Feed, key: str) -> None:
        failures = 0
        try:
            while self._unknown(feed, key):
                try:
                    async with self._reads:
                        found = await self.read(key, timeout=REQUEST_TIMEOUT)
                except BucketError:
                    failures += 1
                    await asyncio.sleep(BACKOFF.pause(failures))
                    continue
                if self._unknown(feed, key):
                    feed.learn(key, found.entry, found.stored_at)
                    sighting = dataclasses.replace(found, unseen_for=math.inf)
                    self._subscribers.show_watchers(key, sighting)
                break
        finally:
            self._reading.discard(key)
        if self._feed not in {None, feed}:
            self._read_if_unknown(key)

    def _unknown(self, feed: Feed, key: str) -> bool:
        """Return whether a key is watched, but was neither delivered nor read in this feed."""
        watched = feed is self._feed and self._subscribers.watches(key)
        return watched and key not in feed.entries

    def _read_if_unknown(self, key: str) -> None:
        watched = self._feed is not None and self._subscribers.watches(key)
        if self._feed is not None and watched and not self._feed.claim(key):
            self._read_first(self._feed, key)


def _timeless(info: BucketInfo) -> BucketInfo:
    return dataclasses.replace(info, server_time=0)
