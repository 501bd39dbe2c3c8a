"""The one clock of the package, and the time of day."""

import time
from datetime import UTC, datetime
from pathlib import Path

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIME_NAMESPACE = Path("/proc/self/ns/time")


def now() -> float:
    """Return seconds on a clock that never steps and that continues while the machine sleeps.

    The zero of this clock is arbitrary. CLOCK_MONOTONIC, which asyncio uses, stands still during a
    suspend. With it, a leader that wakes up would believe in a deadline that passed long ago. It is
    used only if the system has no CLOCK_BOOTTIME.
    """
    return time.clock_gettime(_CLOCK)


def today() -> datetime:
    """Return the time of day, for people and for processes that start later. It may step."""
    return datetime.now(UTC)


def epoch() -> str:
    """Return an identifier for the zero of `now`. Processes with equal ones may compare times.

    It consists of the kernel's boot identifier, which all containers of a machine see, and of the
    time namespace (time_namespaces(7)), which may shift the clock. It is empty if the system has no
    boot identifier. Then no other process can interpret a time of this clock.
    """
    try:
        boot = _BOOT_ID.read_text().strip()
    except OSError:
        return ""
    try:
        namespace = _TIME_NAMESPACE.stat().st_ino
    except OSError:  # before Linux 5.6 all processes share one time namespace
        return boot
    return f"{boot}/{namespace}"
