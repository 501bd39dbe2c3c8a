"""Looks for garbage that do not hold up the event loop."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

from incumbent import clock

LONG = 0.05
"""Seconds of a look through everything after which the same is not looked through again. A few
hundred elections take so long."""


@contextlib.contextmanager
def looked_for_briefly(turnover: Callable[[], int]) -> Iterator[None]:
    """Have Python pass over what is there to stay when it looks for garbage.

    It looks through all objects each time that they have become a quarter more. With 10,000
    elections that holds up all renewals for 2.7 s, and with 2,000 it is a quarter of what a restart
    takes (measured). What was imported, and what a long look has left, is passed over. Only when
    elections have begun or ended, and that is over, everything is looked through once more, for
    they leave cycles behind.

    Other cycles that were in use at a long look, and are not any more, stay in memory until then.

    Args:
        turnover: how many elections have begun and ended so far.
    """
    began, known, stirred = 0.0, turnover(), False

    def look(phase: str, info: dict[str, Any]) -> None:
        nonlocal began, known, stirred
        if info["generation"] < len(gc.get_count()) - 1:
            return
        if phase == "stop":
            if clock.now() - began > LONG:
                gc.freeze()
            return
        began = clock.now()
        if turnover() != known:
            known, stirred = turnover(), True
        elif stirred:
            stirred = False
            gc.unfreeze()

    gc.freeze()
    gc.callbacks.append(look)
    try:
        yield
    finally:
        gc.callbacks.remove(look)
        gc.unfreeze()
