"""A place for the history, in memory; it passes the contract suite of the real one."""

from __future__ import annotations

import asyncio
from collections import Counter

from incumbent.campaign.ports import Answer, Outcome
from incumbent.errors import BucketError
from incumbent.history.ports import Stored


class FakeHistory:
    """Keeps messages by bucket and key; several replicas may share one."""

    def __init__(self, *, kept: int = 200) -> None:
        self.name = "HISTORY"
        self.kept = kept
        self.problem: BucketError | None = None
        """What every method raises."""
        self.loses_answers = False
        self.calls: Counter[str] = Counter()
        self._generation = 1
        self._looked: dict[int, int] = {}
        self._sequence = 0
        self._messages: dict[tuple[str, str], list[Stored]] = {}

    def messages(self, key: str, bucket: str = "LEADER_ELECTION") -> list[bytes]:
        """Return what is kept of a key."""
        return [message.data for message in self._messages.get((bucket, key), ())]

    def keep(self, key: str, data: bytes, bucket: str = "LEADER_ELECTION") -> None:
        """Add a message, as another replica did before."""
        self._sequence += 1
        self._messages.setdefault((bucket, key), []).append(Stored(self._sequence, data))

    def make_anew(self) -> None:
        """Delete it, and make it anew."""
        self._generation += 1
        self._sequence = 0
        self._messages.clear()

    def purge(self, key: str, bucket: str = "LEADER_ELECTION") -> None:
        """Remove all of a key, as an administrator may."""
        self._messages.pop((bucket, key), None)

    def view(self) -> FakeHistory:
        """Return another client's view of the same place."""
        return _View(self)

    async def look(self, viewer: int = 0) -> bool:
        """See `HistoryStore`."""
        await self._reach("look")
        before, self._looked[viewer] = self._looked.get(viewer), self._generation
        return before == self._generation

    async def last(self, bucket: str, key: str) -> Stored | None:
        """See `HistoryStore`."""
        await self._reach("last")
        return next(reversed(self._messages.get((bucket, key), [])), None)

    async def next(self, bucket: str, key: str, *, after: int) -> Stored | None:
        """See `HistoryStore`."""
        await self._reach("next")
        found = self._messages.get((bucket, key), [])
        return next((message for message in found if message.sequence > after), None)

    async def append(self, bucket: str, key: str, data: bytes, *, expected: int) -> Answer:
        """See `HistoryStore`."""
        await self._reach("append")
        found = self._messages.setdefault((bucket, key), [])
        if (found[-1].sequence if found else 0) != expected:
            return Answer(Outcome.REFUSED, reason="wrong last sequence")
        self._sequence += 1
        found.append(Stored(self._sequence, data))
        del found[: -self.kept]
        if self.loses_answers:
            msg = "no answer from NATS"
            raise BucketError(msg)
        return Answer(Outcome.STORED, self._sequence)

    async def _reach(self, name: str) -> None:
        self.calls[name] += 1
        await asyncio.sleep(0.001)
        if self.problem is not None:
            raise self.problem


class _View(FakeHistory):
    """What one client sees; everything but the looks is shared."""

    def __init__(self, of: FakeHistory) -> None:
        self.__dict__ = of.__dict__

    async def look(self, viewer: int = 0) -> bool:
        """See `HistoryStore`."""
        return await super().look(id(self))
