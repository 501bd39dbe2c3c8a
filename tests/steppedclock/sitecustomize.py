"""Lets the wall clock of a Python process step: with this folder on PYTHONPATH, by a file.

The file that WALL_CLOCK_STEP names holds the seconds by which the clock is ahead. What counts
durations, CLOCK_MONOTONIC and CLOCK_BOOTTIME, is left alone, as by a real step.
"""

import datetime as dt
import os
import time
from pathlib import Path

_FILE = Path(os.environ["WALL_CLOCK_STEP"])
_time = time.time


def _stepped() -> float:
    return _time() + float(_FILE.read_text())


class _Datetime(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(_stepped(), tz)


time.time = _stepped
time.time_ns = lambda: int(_stepped() * 10**9)
dt.datetime = _Datetime
