"""Search all states of every scenario, and show what each rule is for.

Without an argument everything is searched, which takes long; with one, only the scenario or the
rule of that name. The exit code is 1 if something was found that should not be, or not found that
should.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from model import observed
from model.rules import Case
from model.scenarios import BREAK, HOLD, NOT_NEEDED
from model.search import Result, search

NAMES = [*HOLD, *BREAK, *NOT_NEEDED, *observed.HOLD, *observed.RULES]
MOST = 2_000_000
"""States of one search."""


def main(arguments: list[str] | None = None) -> int:
    """Search, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--states", type=int, default=MOST, help="of one search, at most")
    options = parser.parse_args(arguments)
    wanted = options.name or NAMES
    wrong = 0
    for name in wanted:
        if name in HOLD:
            wrong += bool(_shown(name, partial(search, HOLD[name]), options.states).broken)
        elif name in BREAK:
            wrong += not _shown(
                f"without {name!r}", partial(search, left_out(name)), options.states
            ).broken
        elif name in NOT_NEEDED:
            wrong += bool(
                _shown(f"without {name!r}", partial(search, left_out(name)), options.states).broken
            )
        elif name in observed.HOLD:
            case = observed.HOLD[name]
            wrong += bool(_shown(name, partial(observed.search, case), options.states).broken)
        elif name in observed.RULES:
            case = observed.left_out(name)
            title = f"without {name!r}"
            wrong += not _shown(title, partial(observed.search, case), options.states).broken
        else:
            parser.error(f"there is no scenario or rule {name!r}")
    return 1 if wrong else 0


def left_out(rule: str) -> Case:
    """Return the case in which a rule is left out."""
    case = (BREAK | NOT_NEEDED)[rule]
    return replace(case, without=case.without | {rule})


def _shown(title: str, look: Callable[..., Result], most: int) -> Result:
    started = time.monotonic()
    result = look(most=most)
    print(f"{title}: {time.monotonic() - started:.1f} s\n{result}\n", flush=True)  # noqa: T201
    return result


if __name__ == "__main__":
    sys.exit(main())
