"""The one clock of the package, and the time of day."""

import time
from datetime import UTC, datetime

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return seconds on a clock that never steps and that runs on while the machine sleeps.

    Its zero means nothing. CLOCK_MONOTONIC, which asyncio uses, stands still during a suspend,
    and a leader that wakes up would believe in a deadline that passed long ago; where the system
    has no CLOCK_BOOTTIME it is used all the same.
    """
    return time.clock_gettime(_CLOCK)


def today() -> datetime:
    """Return the time of day, for people and for processes that start later. It may step."""
    return datetime.now(UTC)
