"""Bodies that the server makes once for all clients that ask at about the same time."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from incumbent import clock

T = TypeVar("T")

Content = bytes | bytearray

SHARED_FOR = 1.0
"""Seconds for which the body that was made for one client is served to all."""

AT_MOST = 0.25
"""Share of the time that is spent on making the same thing again and again."""

SHORTEST_PAUSE = 0.2
"""Seconds between two events of a stream, at least, however much changes."""

MOST_BODIES = 2
"""Bodies of one kind that clients read at the same time. Beyond them, readers get the latest."""

SLOW_AFTER = 5.0
"""Seconds that a client may read, while others want a newer body and there are too many."""


class Shared(Generic[T]):
    """Something that is made once for everybody who wants it at about the same time.

    It is made at most once in `lasts` seconds (default: `SHARED_FOR`), and takes no more than
    `AT_MOST` of the time.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], *, lasts: float | None = None) -> None:
        self._make = make
        self._lasts = SHARED_FOR if lasts is None else lasts
        self._making: asyncio.Task[T] | None = None
        self.until = 0.0
        """When it may be made again."""
        self.made: T | None = None
        """The latest result."""

    async def get(self) -> T:
        """Return what is there, or is being made, or make it."""
        if self._making is None:
            if self.made is not None and clock.now() < self.until:
                return self.made
            self._making = asyncio.create_task(self._renew())
            self._making.add_done_callback(_seen)
        return await asyncio.shield(self._making)

    async def _renew(self) -> T:
        began = clock.now()
        try:
            self.made = await self._make()
        finally:
            self._making = None
        self.until = max(began + self._lasts, began + (clock.now() - began) / AT_MOST)
        return self.made


def _seen(task: asyncio.Task[Any]) -> None:
    """Take note of a failure although every client that waited for it may have gone."""
    if not task.cancelled():
        task.exception()


class Body:
    """A body for many clients, plain and compressed, with its tag."""

    def __init__(self, content: Content, kind: str, tag: str, step: int) -> None:
        self.content = content
        self.kind = kind
        self.tag = tag
        self.step = step
        """The step of the mirror that it shows."""
        self.made_at = clock.now()
        self.readers: set[asyncio.Transport] = set()
        """The connections on which it is being sent."""
        self._compressed: asyncio.Task[bytes] | None = None

    async def compressed(self) -> bytes:
        """Return it as gzip, made once, beside the event loop."""
        if self._compressed is None:
            work = asyncio.to_thread(gzip.compress, self.content, 1)
            self._compressed = asyncio.create_task(work)
        return await asyncio.shield(self._compressed)


class Bodies:
    """The bodies of one kind, with a limit of how many are in memory."""

    def __init__(self, make: Callable[[], Awaitable[tuple[Content, str, int]]], name: str) -> None:
        self._make = make
        self._name = f"{name}-{id(self):x}-{clock.now():.0f}"
        self._read: list[Body] = []
        self._count = 0
        self._shared = Shared(self._renew)

    async def get(self, step: int = -1) -> Body:
        """Return the body of this second, or one that shows a step as soon as there may be one."""
        while (body := await self._shared.get()).step < step:  # noqa: ASYNC110  # nothing tells when
            await asyncio.sleep(max(SHORTEST_PAUSE, self._shared.until - clock.now()))
        return body

    async def _renew(self) -> Body:
        self._read = [body for body in self._read if body.readers]
        latest = self._shared.made
        if len(self._read) >= MOST_BODIES and latest is not None:
            oldest = self._read[0]
            if clock.now() < oldest.made_at + SLOW_AFTER:
                return latest
            for reader in tuple(oldest.readers):
                reader.abort()
        del latest
        self._shared.made = None  # unless it is being read, it goes before there is another
        content, kind, step = await self._make()
        self._count += 1
        body = Body(content, kind, f'"{self._name}-{self._count}"', step)
        self._read.append(body)
        return body

    def forget(self) -> None:
        """Let go of what nobody reads."""
        self._read = [body for body in self._read if body.readers]
        self._shared.made = None
