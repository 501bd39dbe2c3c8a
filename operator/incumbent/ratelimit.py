"""How often something may happen: a token bucket for each source. Pure: `now` is an argument."""

from __future__ import annotations

_FORGET_AT = 64
"""How many sources are remembered before those are looked for that need not be."""


class RateLimit:
    """Lets each source do something a number of times at once, and then so often a second.

    A source is forgotten when it may do its full burst again, so what is remembered is bounded by
    the sources of the last `burst / rate` seconds.

    Args:
        burst: how often at once.
        rate: how often a second after that.
        most: how many sources are remembered; of more, the one that came least recently is
            forgotten, and may do its full burst again. None: no limit but the one above.
    """

    def __init__(self, *, burst: int, rate: float, most: int | None = None) -> None:
        self._burst = burst
        self._rate = rate
        self._most = most
        self._left: dict[str, tuple[float, float]] = {}
        """How often each source could still do it, and when that was; the latest comes last."""
        self._forget_at = _FORGET_AT

    def __len__(self) -> int:
        """Return how many sources are remembered."""
        return len(self._left)

    def take(self, source: str, now: float) -> bool:
        """Return whether a source may do it now, and count it if so."""
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
        # Twice of what is left: so each look is paid for by as many new sources.
        self._forget_at = max(_FORGET_AT, 2 * len(self._left))
