"""Looks for garbage that do not hold up the event loop."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from typing import Any

from incumbent import clock

LONG = 0.05
"""Seconds of a look through everything after which the same is not looked through again. A few
hundred elections take so long."""
MANY = 200
"""Elections that have begun and ended after which everything is looked through again. Each takes
some 65 KB (`bench scale`), so what these leave behind is 13 MB at most."""
SELDOM = 600.0
"""Seconds between two looks through everything, at least. With 10,000 elections such a look holds
up all renewals for 2.7 s (measured), and whoever creates and deletes elections can cause one."""


@contextlib.contextmanager
def looked_for_briefly(turnover: Callable[[], int]) -> Iterator[None]:
    """Have Python pass over what is there to stay when it looks for garbage.

    It looks through all objects each time that they have become a quarter more. With 10,000
    elections that holds up all renewals for 2.7 s, and with 2,000 it is a quarter of what a restart
    takes (measured). What was imported, and what a long look has left, is passed over. Only when
    `MANY` elections have begun or ended, and that is over, everything is looked through once more,
    for they leave cycles behind; and not before `SELDOM` has passed since the last time.

    Other cycles that were in use at a long look, and are not any more, stay in memory until then.

    Args:
        turnover: how many elections have begun and ended so far.
    """
    began, known, looked_at = 0.0, turnover(), -math.inf
    done = known  # the turnover up to which everything was looked through

    def look(phase: str, info: dict[str, Any]) -> None:
        nonlocal began, known, looked_at, done
        if info["generation"] < len(gc.get_count()) - 1:
            return
        if phase == "stop":
            if clock.now() - began > LONG:
                gc.freeze()
            return
        began = clock.now()
        if turnover() != known:
            known = turnover()  # it goes on
        elif known - done >= MANY and began >= looked_at + SELDOM:
            done, looked_at = known, began
            gc.unfreeze()

    gc.freeze()
    gc.callbacks.append(look)
    try:
        yield
    finally:
        gc.callbacks.remove(look)
        gc.unfreeze()
