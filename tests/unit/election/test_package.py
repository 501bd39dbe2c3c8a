"""What importing the package costs, and which clock the deadline is of."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import incumbent
from incumbent import (
    clock,
)

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]
SOURCES = Path(incumbent.__file__).parents[1]


def test_importing_the_package_imports_no_library():
    """Only what is asked for is imported; a name that is not there is an error as usual."""
    code = (
        "import sys, incumbent\n"
        "heavy = {'nats', 'structlog', 'click', 'kopf', 'kubernetes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from incumbent import *\n"
        "assert 'nats' in sys.modules and Election.__name__ == 'Election'\n"
        "assert not {'kopf', 'kubernetes'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SOURCES)})
    with pytest.raises(AttributeError, match="has no attribute 'Elections'"):
        incumbent.Elections  # noqa: B018


def test_the_deadline_is_of_a_clock_that_runs_on_in_sleep(monkeypatch):
    """The clock is the one that counts a suspend, too, where there is one."""
    monkeypatch.undo()
    name = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    assert abs(clock.now() - time.clock_gettime(name)) < 5
