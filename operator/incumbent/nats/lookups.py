"""How often to ask for a bucket that cannot be used: less and less often, and all buckets in turn.

Anybody who may create elections can name buckets that do not exist. Each of them costs NATS and the
loop that renews a request each time that it is looked for.
"""

from __future__ import annotations

import asyncio
import math
import random

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts: the first pause, and the longest for what is expected to come back."""
SELDOM = 60.0
"""Seconds between looks for a bucket that somebody named and that does not exist, at most."""
SHARE = 4
"""The longest pause is this share of the time since the first look: a bucket that is created after
an hour is found within the minute, one that is created after 20 s is found within 5 s."""
PER_SECOND = 20.0
"""Looks for all such buckets together, at most. 1,200 can be looked for once a minute each."""


class Backoff:
    """When to look for one bucket again.

    Args:
        longest: seconds between two looks, at most.
    """

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self._since = math.inf
        self._looks = 0

    @property
    def throttled(self) -> bool:
        """Whether the next look waits for those of other buckets."""
        return self.longest > LONGEST_PAUSE and self._since < math.inf

    def pause(self, now: float) -> float:
        """Return the seconds until the next look, after one that was in vain."""
        self._since = min(self._since, now)
        self._looks += 1
        steps = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._looks, 8))
        share = min(self.longest, (now - self._since) / SHARE)
        return max(steps, share) * random.uniform(0.5, 1.0)  # noqa: S311

    def end(self) -> None:
        """Begin with short pauses at the next look that is in vain."""
        self._since, self._looks = math.inf, 0


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
