"""When the next pass of one election begins, and what ends the pass under way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from incumbent import clock
from incumbent.backoff import JitteredBackoff
from incumbent.flag import LEAST, Flag

LONGEST_PAUSE = 2.0
"""Seconds between passes that are not done, at most."""
AGAIN = JitteredBackoff(first=0.05, longest=LONGEST_PAUSE)
"""The pauses between them."""
SHORT_PAUSE = 0.3
"""Seconds until the next pass, at most, if earlier passes failed and there is news."""


class Schedule:
    """The schedule of one election's passes: one wake-up at a time, now or later."""

    def __init__(self) -> None:
        self.due_at = clock.now()
        """When the reason for the latest pass came up."""
        self._due = Flag()
        self._urgent = Flag()
        """Set if the next pass may not wait, however many passes failed before."""
        self._timer: asyncio.TimerHandle | None = None
        self._limit: asyncio.Timeout | None = None

    @property
    def idle(self) -> bool:
        """Whether no pass is due now."""
        return not self._due.is_set()

    def wake(self) -> None:
        """Have a pass made now, or as soon as the one under way has ended."""
        if not self._due.is_set():
            self.due_at = clock.now()
            self._due.set()

    def wake_in(self, seconds: float) -> None:
        """Have a pass made by then. The next pass forgets it, and has to ask again."""
        loop = asyncio.get_running_loop()
        when = loop.time() + max(LEAST, seconds)
        if self._timer is not None and self._timer.when() > when:
            self.cancel()
        if self._timer is None:
            self._timer = loop.call_at(when, self.wake)

    def interrupt(self) -> None:
        """End the pass that is under way, so that the next one need not wait for it."""
        self._urgent.set()
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time())

    def cancel(self) -> None:
        """Cancel the wake-up that `wake_in` asked for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def due(self, *, failures: int) -> None:
        """Wait until a pass is due, and a moment longer after several failures in a row."""
        await self._due.wait()
        if failures > 1:
            # Perhaps our own write has woken us, such as the strip of a hand-over that failed.
            await self._urgent.wait_within(min(SHORT_PAUSE, AGAIN.pause(failures)))
        self._urgent.clear()
        self._due.clear()
        self.cancel()

    @contextlib.asynccontextmanager
    async def interruptible(self) -> AsyncIterator[None]:
        """Run a pass inside this, so that `interrupt` ends it.

        Raises:
            TimeoutError: the pass was interrupted.
        """
        try:
            async with asyncio.timeout(None) as self._limit:
                yield
        finally:
            self._limit = None
