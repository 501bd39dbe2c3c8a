"""What one consumer of a bucket delivers: the latest entry of each key, then every change."""

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
"""Seconds between the heartbeats of a watch that has nothing to say."""
MOST_HEARTBEATS = 3
"""Heartbeats missed in a row before a watch begins again. They are counted, not timed: an event
loop that was busy for long has to read first what has arrived."""
QUIET = 0.1
"""Seconds without a message after which a server that says so has delivered all."""
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
        """Record what was read of a key that is watched, and was not known."""
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
        """Record a message of the consumer, and show what is new."""
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

    def _take_heartbeat(self, headers: Mapping[str, str]) -> None:
        """Record a heartbeat: there is nothing to deliver, whatever was pending before."""
        if headers.get("Nats-Last-Consumer") != str(self._delivered):
            self.end("messages were lost before a heartbeat")
        self._pending = 0
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
