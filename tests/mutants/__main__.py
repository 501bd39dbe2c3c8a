"""`python -m mutants`: change the code that decides, at random, and see whether a test fails.

Prints each mutant that no test noticed, as a diff. The exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from mutants.run import Workplace
from mutants.sample import sample

ROOT = Path(__file__).parents[2]
MODULES = (
    "campaign/machine.py",
    "campaign/steps.py",
    "campaign/succession.py",
    "campaign/timing.py",
    "campaign/tokens.py",
    "campaigner/[a-z]*.py",
    "controller/locks.py",
    "controller/quota.py",
    "controller/registry.py",
    "history/[a-z]*.py",
    "nats/continuity.py",
    "pods/eligibility.py",
    "pods/labels.py",
    "pods/election_labels.py",
    "pods/intent.py",
    "reconciler/[a-z]*.py",
    "replicas/[a-z]*.py",
    "routing/endpoint_slices.py",
    "status/[a-z]*.py",
)
"""Patterns of the modules that decide, below `operator/incumbent`."""


def main() -> int:
    """Do what the command line says; return the exit code."""
    options = _options()
    source = ROOT / "operator" / "incumbent"
    modules = sorted(path for pattern in MODULES for path in source.glob(pattern))
    seed = random.randrange(10**6) if options.seed is None else options.seed
    say(f"{options.count} mutants, seed {seed}")
    survivors = 0
    with Workplace(ROOT) as workplace:
        for number, mutant in enumerate(sample(ROOT, modules, options.count, seed), start=1):
            began = time.monotonic()
            killer = workplace.find_killer(mutant)
            survivors += killer is None
            outcome = f"killed by {killer}" if killer else "SURVIVED"
            took = time.monotonic() - began
            say(f"{number}. {mutant.path}:{mutant.line} {mutant.operator}: {outcome}, {took:.0f} s")
            if not killer:
                say(mutant.diff())
    say(f"{survivors} of {options.count} mutants survived, seed {seed}")
    return 1 if survivors else 0


def say(words: str) -> None:
    """Print at once, for somebody who waits."""
    print(words, flush=True)  # noqa: T201


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="how many (30)")
    parser.add_argument("--seed", type=int, help="which sample (random)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
