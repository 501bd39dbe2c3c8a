"""Pauses before something is tried again, which grow with each failure and have jitter.

Many replicas and elections meet a failure at one moment. Without jitter they would all try again at
one moment, too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 64  # a float overflows after a thousand


@dataclass(frozen=True, slots=True)
class JitteredBackoff:
    """Pauses that double with each failure up to a limit. Jitter shortens each by up to half.

    The object has no state, so its user counts the failures.
    """

    first: float
    """Longest pause after 0 failures, in seconds."""
    longest: float
    """Longest pause after any number of failures, in seconds."""

    def pause(self, failures: int) -> float:
        """Return how many seconds to wait after this number of failures in a row."""
        return jittered(self.most(failures))

    def most(self, failures: int) -> float:
        """Return the pause without jitter, in seconds, after this number of failures in a row."""
        return min(self.longest, self.first * 2.0 ** min(failures, _MOST_DOUBLINGS))


def jittered(seconds: float) -> float:
    """Return a pause shortened at random by up to half."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311
