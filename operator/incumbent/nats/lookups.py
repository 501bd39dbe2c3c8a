"""How often to ask for a bucket that cannot be used: less and less often, and all buckets in turn.

Anybody who may create elections can name buckets that do not exist. Each of them costs NATS and the
loop that renews a request each time that it is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math

from incumbent import clock
from incumbent.backoff import JitteredBackoff, jittered
from incumbent.errors import BucketError, BucketNotFound

LONGEST_PAUSE = 1.0
"""Seconds between attempts at what is expected to come back, at most."""
SELDOM = 60.0
"""Seconds between looks for a bucket that somebody named and that does not exist, at most."""
SHARE = 4
"""The longest pause is this share of the time since the first look: a bucket that is created after
an hour is found within the minute, one that is created after 20 s is found within 5 s."""
PER_SECOND = 20.0
"""Looks for all such buckets together, at most. 1,200 can be looked for once a minute each."""

BACKOFF = JitteredBackoff(first=0.05, longest=LONGEST_PAUSE)
"""Between attempts at what is expected to come back: a server, or a watch."""


class Throttle:
    """Lets only so many looks begin in a second, in the order in which they are due.

    Each bucket waits for one turn at a time. So a bucket waits for at most one turn of every other.
    """

    def __init__(self, per_second: float = PER_SECOND) -> None:
        self._distance = 1 / per_second
        self._free_at = -math.inf
        self._order = asyncio.Lock()

    async def take(self) -> None:
        """Return when it is our turn. Whoever is cancelled meanwhile delays nobody."""
        loop = asyncio.get_running_loop()
        async with self._order:
            await asyncio.sleep(self._free_at - loop.time())
            self._free_at = loop.time() + self._distance


class Lookups:
    """When to look for one bucket, and what to say if there is none.

    Args:
        name: of the bucket.
        throttle: of all buckets that are looked for, because they cannot be used.
    """

    def __init__(self, name: str, throttle: Throttle | None = None) -> None:
        self.longest_pause = LONGEST_PAUSE
        """Seconds between two looks, at most, while the bucket cannot be used."""
        self.if_missing = ""
        """What to do if there is no such bucket, in words; empty: what anybody would."""
        self.not_created: BucketError | None = None
        """Why the bucket could not be created, if that was tried last."""
        self._name = name
        self._throttle = Throttle() if throttle is None else throttle
        self._since = math.inf
        self._looks = 0
        self._sought = asyncio.Event()
        """Set when a look should not wait for the end of a pause."""
        self._prepared = asyncio.Event()
        self._prepared.set()

    def hold(self) -> None:
        """Look for it only after `begin`, because it is about to be created."""
        self._prepared.clear()

    def begin(self) -> None:
        """Look for it from now on."""
        self._prepared.set()

    def soon(self) -> None:
        """Look again without a wait for the end of the pause, because something changed."""
        self._sought.set()

    async def turn(self) -> None:
        """Return when to look."""
        await self._prepared.wait()
        if self.longest_pause > LONGEST_PAUSE and self._since < math.inf:
            await self._throttle.take()
        self._sought.clear()

    async def wait(self) -> None:
        """Wait after a look that was in vain, until the next one is due, or until `soon`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.pause(clock.now())):
                await self._sought.wait()

    def pause(self, now: float) -> float:
        """Return the seconds until the next look, after one that was in vain."""
        self._since = min(self._since, now)
        self._looks += 1
        share = min(self.longest_pause, (now - self._since) / SHARE)
        return jittered(max(BACKOFF.most(self._looks), share))

    def restart(self) -> None:
        """Begin with short pauses at the next look that is in vain."""
        self._since, self._looks = math.inf, 0

    def explained(self, error: BucketError) -> BucketError:
        """Return an error that says of a missing bucket why it is missing, or what to do."""
        if not isinstance(error, BucketNotFound):
            return error
        missing = f"there is no bucket {self._name}"
        if self.not_created is not None:
            return BucketNotFound(f"{missing}, and it cannot be created: {self.not_created}")
        return BucketNotFound(f"{missing}: {self.if_missing}") if self.if_missing else error
