"""Search all states of every scenario, and show what each rule is for.

Without an argument everything is searched, which takes long; with one, only the scenario or the
rule of that name. The exit code is 1 if something was found that should not be, or not found that
should.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

from model.rules import Case
from model.scenarios import BREAK, HOLD, NOT_NEEDED
from model.search import Result, search

MOST = 2_000_000
"""States of one search."""


def main(arguments: list[str] | None = None) -> int:
    """Search, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join([*HOLD, *BREAK, *NOT_NEEDED])}")
    parser.add_argument("--states", type=int, default=MOST, help="of one search, at most")
    options = parser.parse_args(arguments)
    wanted = options.name or [*HOLD, *BREAK, *NOT_NEEDED]
    wrong = 0
    for name in wanted:
        if name in HOLD:
            wrong += bool(_shown(name, HOLD[name], options.states).broken)
        elif name in BREAK:
            wrong += not _shown(f"without {name!r}", left_out(name), options.states).broken
        elif name in NOT_NEEDED:
            wrong += bool(_shown(f"without {name!r}", left_out(name), options.states).broken)
        else:
            parser.error(f"there is no scenario or rule {name!r}")
    return 1 if wrong else 0


def left_out(rule: str) -> Case:
    """Return the case in which a rule is left out."""
    case = (BREAK | NOT_NEEDED)[rule]
    return replace(case, without=case.without | {rule})


def _shown(title: str, case: Case, most: int) -> Result:
    started = time.monotonic()
    result = search(case, most=most)
    print(f"{title}: {time.monotonic() - started:.1f} s\n{result}\n", flush=True)  # noqa: T201
    return result


if __name__ == "__main__":
    sys.exit(main())
