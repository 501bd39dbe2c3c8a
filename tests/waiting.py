"""Waiting for what nobody tells."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 20.0
"""Seconds: more than anything takes that a test waits for, also on a busy machine."""


async def until(holds: Callable[[], object], *, within: float = PATIENCE) -> None:
    """Look every 10 ms whether a condition holds, and fail if it does not in time."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)
