"""A rate limit with one token bucket for each source. Pure, because `now` is an argument."""

from __future__ import annotations

_FORGET_AT = 64
"""From this number of sources on, those that need not be remembered are removed."""


class RateLimit:
    """Limits how often each source may act: `burst` times at once, then `rate` times per second.

    A source is forgotten when it may do its full burst again. Therefore only the sources of the
    last `burst / rate` seconds are remembered.

    Args:
        burst: how often a source may act at once.
        rate: how often a source may act per second after that.
        most: the most sources to remember. If there are more, the one that acted least recently is
            forgotten, and may do its full burst again. None: no such limit.
    """

    def __init__(self, *, burst: int, rate: float, most: int | None = None) -> None:
        self._burst = burst
        self._rate = rate
        self._most = most
        self._left: dict[str, tuple[float, float]] = {}
        """How often each source could still act, and at what time. The latest source is last."""
        self._forget_at = _FORGET_AT

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._left)

    def take(self, source: str, now: float) -> bool:
        """Return whether a source may act now. If so, count the action."""
        left = self._left_of(source, now)
        allowed = left >= 1
        self._left.pop(source, None)
        self._left[source] = (left - 1 if allowed else left), now
        if self._most is not None and len(self._left) > self._most:
            del self._left[next(iter(self._left))]
        if len(self._left) >= self._forget_at:
            self._forget(now)
        return allowed

    def _left_of(self, source: str, now: float) -> float:
        left, since = self._left.get(source, (self._burst, now))
        return min(self._burst, left + self._rate * max(0.0, now - since))

    def _forget(self, now: float) -> None:
        full = [source for source in self._left if self._left_of(source, now) >= self._burst]
        for source in full:
            del self._left[source]
        # Look again when the number of sources has doubled, so the cost per new source is constant.
        self._forget_at = max(_FORGET_AT, 2 * len(self._left))
