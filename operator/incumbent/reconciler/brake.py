"""A brake on what somebody else undoes again and again. Pure."""

from __future__ import annotations

FREE = 3
"""Times in a row without a pause: a label that was changed by hand is corrected at once."""
FIRST_PAUSE = 0.2
"""Seconds of the first pause; each is twice as long as the one before."""
FORGIVEN_AFTER = 60.0
"""Seconds without a correction after which the next one counts as the first."""


class Brake:
    """Says when a correction may be made again.

    Args:
        longest: seconds between two corrections, at most.
    """

    def __init__(self, longest: float) -> None:
        self.times = 0
        """Corrections in a row."""
        self._longest = longest
        self._last_at = -FORGIVEN_AFTER

    def pull(self, now: float) -> None:
        """Note that a correction was made."""
        self.times = 1 if now >= self.forgiven_at else self.times + 1
        self._last_at = now

    @property
    def forgiven_at(self) -> float:
        """When the corrections so far do not count any more."""
        return self._last_at + FORGIVEN_AFTER

    @property
    def free_at(self) -> float:
        """When the next correction may be made."""
        if self.times < FREE:
            return self._last_at
        pause = min(self._longest, FIRST_PAUSE * 2.0 ** min(self.times - FREE, 10))
        return self._last_at + pause

    def holds(self, now: float) -> bool:
        """Whether the brake still counts so many corrections that they are paused."""
        return self.times >= FREE and now < self.forgiven_at
