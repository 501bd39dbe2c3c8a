"""Explore: many runs, each from a seed of its own.

Prints every violation with its seed, the first ones with a timeline, and ends with the counts.
The exit code is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from simulation import scenario

MOST_TIMELINES = 3
PROGRESS_EVERY = 5.0
"""Seconds."""


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    options = _options(arguments)
    seed = random.randrange(10**9) if options.seed is None else options.seed
    say(f"{options.runs} runs, seeds {seed} to {seed + options.runs - 1}")
    terms = faults = violations = 0
    started = shown = time.monotonic()
    for number in range(options.runs):
        result = scenario.run(seed + number, seconds=options.seconds)
        terms += result.terms
        faults += result.faults
        if result.violation:
            violations += 1
            say(f"\nseed {result.seed}: {result.violation}")
        if options.timeline or (result.violation and violations <= MOST_TIMELINES):
            again = scenario.run(result.seed, seconds=options.seconds, timeline=True)
            say("\n".join(again.timeline))
        if time.monotonic() - shown > PROGRESS_EVERY:
            shown = time.monotonic()
            say(f"  {number + 1} runs in {shown - started:.0f} s, {violations} violations")
    took = time.monotonic() - started
    counts = f"{terms} terms, {faults} faults, {violations} violations"
    say(f"{options.runs} runs, {took:.1f} s, {counts}")
    return 1 if violations else 0


def say(words: str) -> None:
    """Print at once, for somebody who waits."""
    print(words, flush=True)  # noqa: T201


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--runs", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--seed", type=int, help="of the first run (random); the next add one each")
    parser.add_argument("--seconds", type=float, help="virtual seconds of each run (12 TTLs)")
    parser.add_argument("--timeline", action="store_true", help="print one for every run")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
