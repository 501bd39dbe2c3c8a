"""The one clock of the package."""

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Return seconds on a clock that never steps and that runs on while the machine sleeps.

    Its zero means nothing. CLOCK_MONOTONIC, which asyncio uses, stands still during a suspend,
    and a leader that wakes up would believe in a deadline that passed long ago; where the system
    has no CLOCK_BOOTTIME it is used all the same.
    """
    return time.clock_gettime(_CLOCK)
