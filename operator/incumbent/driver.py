"""Does what a campaign asks of its bucket, when it asks for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from incumbent import clock
from incumbent.campaign import NEVER, Campaign, Create, Look, Renew, Wait, Write
from incumbent.errors import BucketError
from incumbent.model import State
from incumbent.ports import Answer, Bucket, Outcome


class Driver:
    """The I/O of one campaign.

    Args:
        campaign: the machine.
        bucket: where the key is.
        key: the key in the bucket.
        happened: called after everything that the campaign was told.
        vacant: called when the campaign would create the record, where that takes more than a
            write; by default it is created.
        trying: called with the state as each write is begun.
        wrote: called with the outcome of each write and the seconds that it took.

    None of them may block.
    """

    def __init__(
        self,
        campaign: Campaign,
        bucket: Bucket,
        key: str,
        *,
        happened: Callable[[], None],
        vacant: Callable[[], None] | None = None,
        trying: Callable[[State], None] = lambda _: None,
        wrote: Callable[[Outcome, float], None] = lambda *_: None,
    ) -> None:
        self.campaign = campaign
        self.writing = asyncio.Lock()
        """Held from `begin_…` to the answer: a write expects the revision of the one before."""
        self.campaigns: Counter[State] = Counter()
        """Writes so far, by the state before."""
        self._bucket = bucket
        self._key = key
        self._vacant = vacant
        self._happened = happened
        self._trying = trying
        self._wrote = wrote
        self._stirred = asyncio.Event()

    def stir(self) -> None:
        """Let `run` ask the campaign again, for it was told something."""
        self._stirred.set()

    async def run(self) -> None:
        """Renew and look as the campaign asks, until cancelled."""
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
                        await self.renew()
                case Create() if self._vacant is not None:
                    self._vacant()
                    await self._stirred.wait()
                case Create():
                    async with self.writing:
                        await self._create()
                case Wait(until):
                    await self._sleep(until)

    async def renew(self, *, leaving: bool = False) -> bool:
        """Renew the record, with the lock held; return whether that was stored."""
        write = self.campaign.begin_renewal(clock.now(), leaving=leaving)
        return write is not None and await self.write(write)

    async def release(self) -> bool:
        """Give the record up, if it is ours; return whether it is certain that it is not, now."""
        async with self.writing:
            write = self.campaign.begin_release(clock.now())
            return write is None or await self.write(write)

    async def _create(self) -> bool:
        write = self.campaign.begin_create(clock.now())
        return write is not None and await self.write(write)

    async def write(self, write: Write) -> bool:
        """Carry out a write that was begun, with the lock held; return whether it was stored."""
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
            now = clock.now()
            self.campaign.answered(write, answer, now)
            self._wrote(answer.outcome, now - write.sent_at)
            self._stirred.set()
            self._happened()
        return answer.outcome is Outcome.STORED

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
        seconds = None if until == NEVER else max(0.0, until - clock.now())
        try:
            async with asyncio.timeout(seconds):
                await self._stirred.wait()
        except TimeoutError:
            return
