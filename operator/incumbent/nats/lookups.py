"""How often to ask for a bucket that cannot be used: less and less often, and all buckets in turn.

Anybody who may create elections can name buckets that do not exist. Each lookup of such a bucket is
a request, which costs time of NATS and of the event loop that renews records.
"""

from __future__ import annotations

import asyncio
import contextlib
import math

from incumbent import clock
from incumbent.backoff import JitteredBackoff, jittered
from incumbent.errors import BucketError, BucketNotFound

LONGEST_PAUSE = 1.0
"""Longest pause in seconds between attempts to reach a server or to begin a watch."""
SELDOM = 60.0
"""Longest pause in seconds between lookups of a bucket that an election names and that does not
exist."""
SHARE = 4
"""A pause is at most the time since the first lookup divided by this number. A bucket that is
created after an hour is found within a minute, one that is created after 20 s within 5 s."""
PER_SECOND = 20.0
"""Most lookups per second for all such buckets together. This allows one lookup a minute for each
of 1,200 buckets."""

BACKOFF = JitteredBackoff(first=0.05, longest=LONGEST_PAUSE)
"""The pauses between attempts to reach a server or to begin a watch."""


class Throttle:
    """Limits the number of lookups per second. They begin in the order in which they are due.

    Each bucket waits for one turn at a time, so it waits for at most one turn of each other bucket.
    """

    def __init__(self, per_second: float = PER_SECOND) -> None:
        self._distance = 1 / per_second
        self._free_at = -math.inf
        self._order = asyncio.Lock()

    async def take(self) -> None:
        """Wait for our turn. A caller that is cancelled meanwhile delays no other caller."""
        loop = asyncio.get_running_loop()
        async with self._order:
            await asyncio.sleep(self._free_at - loop.time())
            self._free_at = loop.time() + self._distance


class Lookups:
    """Decides when to look for one bucket, and explains its absence.

    Args:
        name: the name of the bucket.
        throttle: limits the lookups of all buckets that cannot be used.
    """

    def __init__(self, name: str, throttle: Throttle | None = None) -> None:
        self.longest_pause = LONGEST_PAUSE
        """Longest pause in seconds between two lookups while the bucket cannot be used."""
        self.if_missing = ""
        """Advice for a person if the bucket does not exist; empty: the usual advice."""
        self.not_created: BucketError | None = None
        """Why the last attempt to create the bucket failed; None if it did not fail."""
        self._name = name
        self._throttle = Throttle() if throttle is None else throttle
        self._since = math.inf
        self._looks = 0
        self._sought = asyncio.Event()
        """Set if the next lookup should not wait for the end of the pause."""
        self._prepared = asyncio.Event()
        self._prepared.set()

    def hold(self) -> None:
        """Do not look for the bucket before `begin`, because it is about to be created."""
        self._prepared.clear()

    def begin(self) -> None:
        """Look for the bucket from now on."""
        self._prepared.set()

    def soon(self) -> None:
        """Look again without waiting for the end of the pause, because something changed."""
        self._sought.set()

    async def turn(self) -> None:
        """Wait until the next lookup may begin."""
        await self._prepared.wait()
        if self.longest_pause > LONGEST_PAUSE and self._since < math.inf:
            await self._throttle.take()
        self._sought.clear()

    async def wait(self) -> None:
        """After a failed lookup, wait until the next one is due, or until `soon` is called."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pause(clock.now())):
                await self._sought.wait()

    def pause(self, now: float) -> float:
        """Return the seconds until the next lookup, after a failed one."""
        self._since = min(self._since, now)
        self._looks += 1
        share = min(self.longest_pause, (now - self._since) / SHARE)
        return jittered(max(BACKOFF.most(self._looks), share))

    def restart(self) -> None:
        """Begin with short pauses again after the next failed lookup."""
        self._since, self._looks = math.inf, 0

    def explained(self, error: BucketError) -> BucketError:
        """Return the error; for a missing bucket, one that says why it is missing or what to do."""
        if not isinstance(error, BucketNotFound):
            return error
        missing = f"there is no bucket {self._name}"
        if self.not_created is not None:
            return BucketNotFound(f"{missing}, and it cannot be created: {self.not_created}")
        return BucketNotFound(f"{missing}: {self.if_missing}") if self.if_missing else error
