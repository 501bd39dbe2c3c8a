"""How long to wait before something is tried again: longer after each failure, and never in step.

Many replicas and elections meet the same failure at one moment. Without jitter they would all try
again at one moment, too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 64  # a float overflows after a thousand


@dataclass(frozen=True, slots=True)
class JitteredBackoff:
    """Pauses that double with each failure up to a limit, each shortened at random by up to half.

    It has no state: its user counts the failures.
    """

    first: float
    """Seconds of the pause after 0 failures, at most."""
    longest: float
    """Seconds of any pause, at most."""

    def pause(self, failures: int) -> float:
        """Return how many seconds to wait after so many failures in a row."""
        return jittered(self.most(failures))

    def most(self, failures: int) -> float:
        """Return the longest pause after so many failures, in seconds: the pause without jitter."""
        return min(self.longest, self.first * 2.0 ** min(failures, _MOST_DOUBLINGS))


def jittered(seconds: float) -> float:
    """Return a random part of a pause: at least half of it."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
