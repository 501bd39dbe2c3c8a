"""The feed of one consumer of a bucket: the latest entry of each key, then every change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping

from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Entry, Nothing
from incumbent.nats import jetstream
from incumbent.nats.continuity import Continuity

HEARTBEAT_EVERY = 1.0
"""Seconds between the heartbeats of the server while it has no messages to deliver."""
MOST_HEARTBEATS = 3
"""How many heartbeats must be missed in a row before the watch begins again. We count heartbeats
and not time, because an event loop that was busy for long must first read what has arrived."""
QUIET = 0.1
"""Seconds without a message after which we believe a server that nothing is pending."""
TICK = 0.001
"""Shortest length in seconds of a gap in a watch."""
MOST_SPARE = 10_000
"""For how many keys that nobody watches to keep the latest entry, so an election that begins does
not have to read it. All elections begin soon after the start of the operator. In a bucket with more
keys, some of them have to read their key."""
LONGEST_SPARE = 1024
"""Most bytes of a value that is kept while nobody watches its key. An identity is shorter."""
SPARE_FOR = 300.0
"""Seconds for which an entry is kept that nobody watches. Nothing depends on it: if the entry has
been forgotten when somebody begins to watch the key, it is read from the stream's leader."""


class Feed:
    """Receives what one consumer delivers: the latest entry of every key, then each change.

    Args:
        prefix: the part of the subjects before the key.
        last_revision: a revision that the stream had reached when the consumer was made.
        changed: is called with key and sighting for every entry, after `begin` was called.
        age: returns the age of a message from the time when the server stored it, or less: the
            message may have waited in the socket while the process stood still.
        stored_after: returns, for a time of the server, an earlier or equal time on our own clock.
        after: the feed that was shown before this one, if any.
        wanted: returns whether somebody watches a key. By default all keys are watched.
        certain: the keys that are watched from the beginning.
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
        """The latest entry of every watched key, and when it was stored by the server's clock."""
        self.spare: dict[str, tuple[Entry, float, float]] = {}
        """The latest entry of other keys, when it was stored by the server's clock, and when it
        came by our own clock, the earliest first. At most `MOST_SPARE` entries are kept, for
        `SPARE_FOR` seconds."""
        self.complete = True
        """Whether a key that is neither in `entries` nor in `spare` certainly holds nothing."""
        self._wanted = wanted
        self._certain = set(certain)
        """Keys that were watched at all times, so none of their entries was forgotten."""
        self._unshown: set[str] = set()
        """Watched keys of which no entry has been shown yet."""
        self.continuity: Continuity = (
            Continuity(last_revision) if after is None else after.continuity.copy()
        )
        self.heard = True
        """Whether a message or heartbeat came since the last check, which resets this."""
        self.began = False
        """Whether a message or heartbeat ever came."""
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the feed is not valid any more; the result is the reason."""
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
        """The revision up to which every key was shown, including keys without a message."""

    def begin(self) -> None:
        """Call `changed` for each message from now on. The caller shows the present entries."""
        self._live = True
        self.continuity.ended(self._last_revision)
        self._known_to = self.continuity.reached

    def claim(self, key: str) -> bool:
        """Keep a key from now on, because it is watched; return whether its entry is known."""
        spare = self.spare.pop(key, None)
        if spare is not None:
            self.entries[key] = spare[:2]
        if self.complete or key in self._certain or key in self.entries:
            return True
        self._unshown.add(key)
        return False

    def release(self, key: str) -> None:
        """Keep the entry of a key only as a spare one, because nobody watches the key any more."""
        self._certain.discard(key)
        self._unshown.discard(key)
        if key in self.entries:
            self._set_aside(key, *self.entries.pop(key))

    def learn(self, key: str, entry: Entry, stored_at: float) -> None:
        """Record the entry that was read for a watched key whose entry was not known."""
        self._unshown.discard(key)
        if not isinstance(entry, Nothing):
            self.entries[key] = entry, stored_at

    def latest(self, key: str) -> tuple[Entry, float] | None:
        """Return the latest entry of a key, and when it was stored; None if it is not known."""
        if key in self.entries:
            return self.entries[key]
        return self.spare[key][:2] if key in self.spare else None

    def _set_aside(self, key: str, entry: Entry, stored_at: float) -> None:
        """Keep the entry of a key that nobody watches for a while."""
        self.spare.pop(key, None)
        self.spare[key] = entry, stored_at, clock.now()
        if len(self.spare) > MOST_SPARE:
            del self.spare[next(iter(self.spare))]
            self.complete = False

    def forget(self) -> None:
        """Forget entries of keys that nobody watches after they were kept for `SPARE_FOR`."""
        limit = clock.now() - SPARE_FOR
        for key in tuple(itertools.takewhile(lambda key: self.spare[key][2] < limit, self.spare)):
            del self.spare[key]
            self.complete = False

    def known(self, key: str) -> int:
        """Return the revision up to which a key was shown."""
        shown = self.entries.get(key)
        return max(self._known_to, shown[0].revision if shown else 0)

    def unseen_for(self, known: int, revision: int = 0) -> float:
        """Return for how many seconds an entry of a key may have been missing; see `Continuity`."""
        since = self.continuity.missing_since(known, revision)
        return 0.0 if since == math.inf else max(TICK, clock.now() - since)

    def take(self, subject: str, reply: str, data: bytes, headers: Mapping[str, str]) -> None:
        """Record a message of the consumer, and show it if it is new."""
        if self.over.done():
            return
        self.heard = self.began = True
        if not reply:
            self._take_heartbeat(headers)
            return
        delivery = jetstream.delivery_from(reply)
        self._delivered += 1
        if delivery.number != self._delivered:
            self.end("messages were lost")
            return
        key = subject[self._skip :]
        before, known = self.entries.get(key), self.known(key)
        wanted = self._wanted(key)
        ahead = before is not None and before[0].revision > delivery.revision  # a read was faster
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
            # The key was already shown without this message, or was never shown at all.
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

    def _take_heartbeat(self, headers: Mapping[str, str]) -> None:
        """Record a heartbeat. It says that nothing is pending any more."""
        if headers.get("Nats-Last-Consumer") != str(self._delivered):
            self.end("messages were lost before a heartbeat")
        self._pending = 0
        self._reached.set()

    async def reach(self, revision: int) -> None:
        """Wait until all messages up to a revision are delivered or replaced, or the feed is over.

        If the server says that nothing is pending, that proves nothing by itself. While keys are
        renewed, it counts too few messages (nats-server 2.15.1, by up to one in twenty). We believe
        it if no message comes for `QUIET` seconds, too. That is needed if the latest messages of
        the stream are gone, because then the revision never comes.
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
        """Wait until a message or heartbeat comes. End the feed if none comes in time."""
        for _ in range(MOST_HEARTBEATS):
            if self.began:
                return
            await asyncio.wait({self.over}, timeout=HEARTBEAT_EVERY)
        if not self.began:
            self.end("no heartbeat came")

    def end(self, reason: str) -> None:
        """End the feed: its messages do not count any more."""
        if not self.over.done():
            self.over.set_result(reason)
        self._reached.set()
