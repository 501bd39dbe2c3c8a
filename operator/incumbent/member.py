"""Does what the campaign of a plain member asks of its bucket, when it asks for it.

A member that is no replica of a site creates its record by itself, has nobody to hand it to, and
tells its callbacks of the loss before it releases: that is all that `incumbent.driver` lacks.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from incumbent import clock
from incumbent.campaign import NEVER, Campaign, Create, Look, Renew, Wait, Write
from incumbent.errors import BucketError
from incumbent.model import State
from incumbent.ports import Answer, Bucket, Outcome

SHORTEST_SLEEP = 0.001
"""Seconds; a timer and a clock need not agree on when a moment has come."""


class MemberDriver:
    """The I/O of one campaign.

    Args:
        campaign: the machine.
        bucket: where the key is.
        key: the key in the bucket.
        happened: called after everything that the campaign was told. Must not block.
        trying: called with the state before each write. Must not block.
    """

    def __init__(
        self,
        campaign: Campaign,
        bucket: Bucket,
        key: str,
        *,
        happened: Callable[[], None],
        trying: Callable[[State], None],
    ) -> None:
        self.campaign = campaign
        self.writing = asyncio.Lock()
        """Held from `begin_…` to the answer: a write expects the revision of the one before."""
        self.campaigns: Counter[State] = Counter()
        """Writes so far, by the state before."""
        self._bucket = bucket
        self._key = key
        self._happened = happened
        self._trying = trying
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """Let `run` ask the campaign again, for it was told something."""
        self._stirred.set()

    async def run(self) -> None:
        """Campaign until cancelled."""
        while True:
            self._stirred.clear()
            step = self.campaign.poll(clock.now())
            if self.campaign.has_events:
                self._happened()
            match step:
                case Look():
                    await self._look(step)
                case Renew():
                    async with self.writing:
                        await self.write(self.campaign.begin_renewal(clock.now()))
                case Create():
                    async with self.writing:
                        await self.write(self.campaign.begin_create(clock.now()))
                case Wait(until):
                    await self._sleep(until)

    async def write(self, write: Write | None) -> Outcome | None:
        """Carry out a write that was begun, with the lock held; return how it ended."""
        if write is None:
            return None
        state = self.campaign.state(write.sent_at)
        self.campaigns[state] += 1
        self._trying(state)
        answer = Answer(Outcome.UNKNOWN)
        key, bucket, expected, timeout = self._key, self._bucket, write.expected, write.timeout
        try:
            if write.record is None:
                answer = await bucket.remove(
                    key, expected=expected, headers=write.headers, timeout=timeout
                )
            else:
                value = write.record.holder
                answer = await bucket.write(
                    key, value, expected=expected, headers=write.headers, timeout=timeout
                )
        finally:
            # Also when cancelled: the write may have been stored.
            self.campaign.answered(write, answer, clock.now())
            self._stirred.set()
            self._happened()
        return answer.outcome

    async def look(self) -> None:
        """Read the record now, if the last write was refused."""
        step = self.campaign.poll(clock.now())
        if isinstance(step, Look):
            await self._look(step)

    async def _look(self, look: Look) -> None:
        try:
            sighting = await self._bucket.read(self._key, timeout=look.timeout)
        except BucketError:
            self.campaign.unreadable(clock.now())
        else:
            self.campaign.observe(sighting, clock.now(), look=look)
        self._happened()

    async def _sleep(self, until: float) -> None:
        """Wait until then, or until something stirs."""
        seconds = None if until == NEVER else max(SHORTEST_SLEEP, until - clock.now())
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
