"""Writes the history, beside everything else: no renewal, label or status ever waits for it.

Every replica sees every record of the keys that it watches, and has an entry ready for each term.
The replica that wrote the record writes the entry at once. The others look a moment later, and
write it only if it is not there, so that nothing is lost with the first one. The same holds for the
leader label: every replica of the pod's site sees it come and go.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import structlog

from incumbent import clock
from incumbent.backoff import JitteredBackoff
from incumbent.campaign.ports import Outcome, Sighting, WatchedBucket
from incumbent.campaign.records import Record
from incumbent.errors import BucketError, BucketUnreachable
from incumbent.flag import LEAST, Flag
from incumbent.history import terms as history_terms
from incumbent.history.ports import HistoryObserver, HistoryStore
from incumbent.history.terms import Began, HistoryEntry, LabelChange, Labelled, Tracker

log = structlog.get_logger(__name__)

OTHERS_AFTER = 2.0
"""Seconds, to twice as many, after which a replica looks whether somebody else's term is there."""
MOST_WAITING = 50
"""Entries of one key that wait to be written; of more, the oldest are dropped."""
LINGER = 3.0
"""Seconds for which a key is followed after its election was deleted: the release comes late."""
BACKOFF = JitteredBackoff(first=0.25, longest=30.0)
"""Pauses between attempts while the stream cannot be used."""
MOST_READ = 20_000
"""Entries of all keys that are kept in memory after they were read. Of more, those go that nobody
has used for longest, and are read again when they are needed: about 4 MB."""
FORGOTTEN_AFTER = 600.0
"""Seconds without use after which the entries of a key are forgotten."""
READS_PER_SECOND = 500.0
"""Entries that are read for clients that ask for terms, over all keys: anybody may ask."""
READS_AT_ONCE = 100
"""How many of them are read at once after a time without any."""
TRIES = 5
"""How often an entry is tried that others get ahead of, before a pause."""
OFF = "the history is off: start the operator with --history-stream"
"""The answer instead of a history if there is no stream."""


@dataclass(eq=False, slots=True)
class _Chronicle:
    """The history of one key in memory."""

    bucket: WatchedBucket
    key: str
    tracker: Tracker = field(default_factory=Tracker)
    waiting: deque[HistoryEntry] = field(default_factory=deque)
    """Entries that may not be written yet, oldest first."""
    due: float = 0.0
    """When to look at the first of them."""
    early: deque[tuple[str, LabelChange]] = field(default_factory=deque)
    """Changes of the label, each with the site, from before the server said what time it is."""
    carriers: dict[tuple[str, int], str] = field(default_factory=dict)
    """The pods that have the label, with their tokens, and for each the bucket of its term."""
    absent: Labelled | None = None
    """Says that no pod had the label when this process started. It is written when something else
    is: to find out whether that is news, the whole history has to be read."""
    read: deque[HistoryEntry] = field(default_factory=deque)
    last: int | None = None
    """The sequence of the last message that was read; None before all were."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    followers: int = 0
    used_at: float = 0.0
    """When the entries in `read` were last needed."""
    end: Callable[[], None] = lambda: None
    """Ends the watch."""


class HistoryWriter:
    """Keeps the history of the keys that it is told to follow.

    It promises one entry for each beginning and each end, whoever of the replicas writes it: each
    is added on the condition that nothing was added since all others were read. It does not
    promise to see a term that began and ended while no replica was watching.

    Args:
        store: where it is kept.
        replica: how this process names itself in records.
        observer: is told what became of the entries.
    """

    def __init__(self, store: HistoryStore, *, replica: str, observer: HistoryObserver) -> None:
        self.problem = ""
        """Why the history cannot be written or read now; empty if nothing is known to be wrong."""
        self._store = store
        self._replica = replica
        self._observer = observer
        self._keys: dict[tuple[str, str], _Chronicle] = {}
        self._in_memory: OrderedDict[_Chronicle, None] = OrderedDict()
        """The keys whose entries are in memory, the least recently used one first."""
        self._entries = 0
        """How many entries that are."""
        self._next_read = -math.inf
        """The time when the next entry may be read for a client that asks for terms."""
        self._tidying: asyncio.TimerHandle | None = None
        self._stirred = Flag()
        self._failures = 0
        self._looked = False

    def follow(self, bucket: WatchedBucket, key: str) -> Callable[[], None]:
        """Keep the history of a key; returns how to end that, which takes `LINGER` seconds."""
        chronicle = self._keys.get((bucket.name, key))
        if chronicle is None:
            chronicle = self._keys[bucket.name, key] = _Chronicle(bucket, key)
            chronicle.end = bucket.watch(key, partial(self._seen, chronicle))
        chronicle.followers += 1

        def end() -> None:
            chronicle.followers -= 1
            if not chronicle.followers and self._keys.get((bucket.name, key)) is chronicle:
                chronicle.end()
                del self._keys[bucket.name, key]
                self._forget(chronicle)

        def end_later() -> None:
            asyncio.get_running_loop().call_later(LINGER, end)

        return end_later

    def note_labels(
        self, bucket: str, key: str, changes: Iterable[LabelChange], *, site: str
    ) -> None:
        """Keep changes of the leader label on the pods of a site, of a key that is followed."""
        chronicle = self._keys.get((bucket, key))
        if chronicle is None:
            return
        for change in changes:
            if len(chronicle.early) >= MOST_WAITING:
                chronicle.early.popleft()
                self._observer.history_entry("dropped")
            chronicle.early.append((site, change))
        self._date_labels(chronicle)

    async def run(self) -> None:
        """Write, for as long as this is not cancelled."""
        while True:
            self._stirred.clear()
            waiting = (one for one in self._keys.values() if one.waiting)
            first = min(waiting, key=lambda one: one.due, default=None)
            if self._failures or not self._looked:
                if not await self._probe():
                    await asyncio.sleep(BACKOFF.pause(self._failures))
            elif first is None:
                await self._stirred.wait()
            elif first.due > clock.now():
                await self._stirred.wait_within(first.due - clock.now())
            else:
                await self._attempt(first)

    async def finish(self, *, within: float) -> None:
        """Write what waits, also what others would; for the end of the process."""
        try:
            async with asyncio.timeout(within):
                for chronicle in tuple(self._keys.values()):
                    while chronicle.waiting and await self._attempt(chronicle):
                        pass
        except TimeoutError:
            log.warning("history.unfinished", stream=self._store.name)

    async def terms(self, bucket: str, key: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the latest terms of a key that is followed, newest first, as they are served.

        What was seen but is not written yet is among them. Where the stream cannot be used, they
        are what this replica knows.
        """
        chronicle = self._keys.get((bucket, key))
        if chronicle is None:
            return []
        try:
            async with chronicle.reading:
                await self._refresh(chronicle, pace=self._wait_to_read)
        except BucketError as error:
            self._failed(error)
        known = list(chronicle.read)
        absent = () if chronicle.absent is None else (chronicle.absent,)
        for entry in (*absent, *chronicle.waiting):
            news = history_terms.missing(entry, known)
            if news is not None:
                known.append(news)
        found = history_terms.terms(known, latest=chronicle.tracker.latest)
        return [term.as_json() for term in found[:limit]]

    # Inside

    def _seen(self, chronicle: _Chronicle, sighting: Sighting) -> None:
        info, ahead = chronicle.bucket.settings, chronicle.bucket.server_ahead
        if info is None or ahead is None:
            return
        before = chronicle.tracker.latest
        news = chronicle.tracker.observe(
            sighting, clock.now(), ahead=ahead, bucket=info.created, ttl=info.ttl
        )
        self._enqueue(chronicle, news, mine=self._wrote(before) or self._wrote(sighting.entry))
        self._date_labels(chronicle)

    def _date_labels(self, chronicle: _Chronicle) -> None:
        """Make entries of changes of the label, once it is known what time it is."""
        info, ahead = chronicle.bucket.settings, chronicle.bucket.server_ahead
        if info is None or ahead is None or chronicle.tracker.latest is None:
            return  # the beginning of the term comes first
        news: list[HistoryEntry] = []
        while chronicle.early:
            site, change = chronicle.early.popleft()
            carrier, bucket = (change.pod, change.token), info.created
            if change.on:
                chronicle.carriers[carrier] = bucket
            else:  # the bucket may have been made anew since
                bucket = chronicle.carriers.pop(carrier, bucket)
            at, exact = change.at + ahead, change.exact
            entry = Labelled(change.token, change.on, at, bucket, site, change.pod, exact=exact)
            if entry.pod:
                news.append(replace(entry, version=change.version))
            else:
                chronicle.absent = entry
        self._enqueue(chronicle, news, mine=self._wrote(chronicle.tracker.latest))

    def _wrote(self, entry: object) -> bool:
        return isinstance(entry, Record) and entry.replica == self._replica

    def _enqueue(self, chronicle: _Chronicle, news: Sequence[HistoryEntry], *, mine: bool) -> None:
        """Have entries written: at once if they are about our own term, else a moment later."""
        if not news:
            return
        delay = 0.0 if mine else OTHERS_AFTER * random.uniform(1, 2)  # noqa: S311
        due = clock.now() + delay
        chronicle.due = min(due, chronicle.due) if chronicle.waiting else due
        for entry in news:
            if len(chronicle.waiting) >= MOST_WAITING:
                chronicle.waiting.popleft()
                self._observer.history_entry("dropped")
            chronicle.waiting.append(entry)
        self._stirred.set()

    async def _attempt(self, chronicle: _Chronicle) -> bool:
        """Write the first entry that waits, if it is not there; return whether that is settled."""
        entry = chronicle.waiting[0]
        try:
            async with chronicle.reading:
                written = await self._write(chronicle, entry)
        except BucketError as error:
            self._observer.history_entry("failed")
            self._failed(error)
            return False
        except Exception:
            # This entry can never be written; the others can.
            log.exception("history.broke", key=chronicle.key)
            self._observer.history_entry("dropped")
            written = None
        else:
            self._observer.history_entry("known" if written is None else "stored")
        self._worked()
        if chronicle.waiting and chronicle.waiting[0] is entry:
            chronicle.waiting.popleft()
        if written is not None:
            if chronicle.absent is not None:
                absent, chronicle.absent = chronicle.absent, None
                self._enqueue(chronicle, [absent], mine=True)
            if isinstance(written, Began):
                self._observer.term_began(written.how)
            if cause := history_terms.cause_before(written):
                self._observer.term_ended(cause)
        return True

    async def _write(self, chronicle: _Chronicle, entry: HistoryEntry) -> HistoryEntry | None:
        """Return what was written; None if it was known."""
        await self._look()
        where = chronicle.bucket.name, chronicle.key
        if chronicle.last is None:
            last = await self._store.last(*where)
            if last is not None and history_terms.known_by(entry, history_terms.decode(last.data)):
                return None
        for _ in range(TRIES):
            await self._refresh(chronicle)
            news = history_terms.missing(entry, chronicle.read)
            if news is None:
                return None
            data = history_terms.encode(news, writer=self._replica)
            answer = await self._store.append(*where, data, expected=chronicle.last or 0)
            if answer.outcome is Outcome.STORED:
                self._take(chronicle, answer.revision, data)
                return news
            self._forget(chronicle)
        msg = f"others write to stream {self._store.name} all the time"
        raise BucketError(msg)

    async def _probe(self) -> bool:
        """Find out whether the stream can be used again."""
        try:
            await self._look()
        except BucketError as error:
            self._failed(error)
            return False
        self._worked()
        return True

    async def _look(self) -> None:
        if not await self._store.look():
            for chronicle in self._keys.values():
                self._forget(chronicle)

    async def _refresh(
        self, chronicle: _Chronicle, *, pace: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Read what was added since the last time; each read waits for `pace`."""
        await self._look()
        where = chronicle.bucket.name, chronicle.key
        last = chronicle.last or 0
        self._use(chronicle)
        while True:
            if pace is not None:
                await pace()
            found = await self._store.next(*where, after=last)
            if found is None:
                break
            last = found.sequence
            self._take(chronicle, last, found.data)
        chronicle.last = last
        self._use(chronicle)

    async def _wait_to_read(self) -> None:
        """Wait until one more entry may be read for a client that asks for terms."""
        now, each = clock.now(), 1 / READS_PER_SECOND
        self._next_read = max(self._next_read, now - READS_AT_ONCE * each) + each
        if self._next_read > now:
            await asyncio.sleep(self._next_read - now)

    def _take(self, chronicle: _Chronicle, sequence: int, data: bytes) -> None:
        chronicle.last = sequence
        before = len(chronicle.read)
        entry = history_terms.decode(data)
        if entry is not None:
            chronicle.read.append(entry)
        while len(chronicle.read) > self._store.kept:
            chronicle.read.popleft()
        self._entries += len(chronicle.read) - before

    def _use(self, chronicle: _Chronicle) -> None:
        """Keep the entries of a key, and forget others if there are too many."""
        chronicle.used_at = clock.now()
        self._in_memory.pop(chronicle, None)
        self._in_memory[chronicle] = None
        for other in tuple(self._in_memory):
            if self._entries <= MOST_READ:
                break
            if other is not chronicle and not other.reading.locked():
                self._forget(other)
        if self._tidying is None:
            loop = asyncio.get_running_loop()
            self._tidying = loop.call_later(FORGOTTEN_AFTER, self._tidy)

    def _tidy(self) -> None:
        """Forget the entries that nobody has used for long."""
        self._tidying, now = None, clock.now()
        for chronicle in tuple(self._in_memory):
            due = chronicle.used_at + FORGOTTEN_AFTER
            if due > now:
                loop = asyncio.get_running_loop()
                self._tidying = loop.call_later(max(LEAST, due - now), self._tidy)
                return
            if not chronicle.reading.locked():
                self._forget(chronicle)

    def _forget(self, chronicle: _Chronicle) -> None:
        """Let go of the entries of a key; they are read again when they are needed."""
        self._entries -= len(chronicle.read)
        chronicle.read.clear()
        chronicle.last = None
        self._in_memory.pop(chronicle, None)

    def _failed(self, error: BucketError) -> None:
        self._failures += 1
        if self.problem != str(error):
            self.problem = str(error)
            if not isinstance(error, BucketUnreachable):  # that is said already
                log.warning("history.unavailable", problem=self.problem)

    def _worked(self) -> None:
        self._failures, self._looked = 0, True
        if self.problem:
            self.problem = ""
            log.info("history.available", stream=self._store.name)
