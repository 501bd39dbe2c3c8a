"""The one clock of the package, and the time of day."""

import time
from datetime import UTC, datetime
from pathlib import Path

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIME_NAMESPACE = Path("/proc/self/ns/time")


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


def epoch() -> str:
    """Return what names the zero of `now`: processes with the same one may compare its values.

    That is the identifier of the kernel's present run, which all containers of a machine see, and
    the time namespace (time_namespaces(7)), which may shift the clock. Empty if the system has no
    such identifier: then no other process knows what a value means.
    """
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        return ""
    try:
        namespace = _TIME_NAMESPACE.stat().st_ino
    except OSError:  # before Linux 5.6 there is one for all
        return boot
    return f"{boot}/{namespace}"
