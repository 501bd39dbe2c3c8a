"""Run tests with every supported version: `python -m matrix`, or `make matrix`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from controlplane.processes import ControlPlaneError
from matrix import results
from matrix.environments import ROOT, Missing, prepare
from matrix.plan import OPTIONAL_PYTHONS, PYTHON, Run, rotation, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS_OF_A_DAY = 86400


def main() -> int:
    """Do what the arguments say, and return the exit code: 0 if every run passed."""
    parser = argparse.ArgumentParser(prog="python -m matrix", description=__doc__)
    parser.add_argument("--list", action="store_true", help="show the names of all runs, and end")
    parser.add_argument("--only", action="append", default=[], help="a run by name; repeatable")
    parser.add_argument(
        "--rotate", action="store_true", help="one run of each subject, another one each day"
    )
    parser.add_argument("--parallel", default="2", help="how many tests at a time (default: 2)")
    arguments = parser.parse_args()
    chosen = runs()
    names = [run.name for run in chosen]
    if unknown := [name for name in arguments.only if name not in names]:
        parser.error(f"there is no run {unknown[0]}; choose from {', '.join(names)}")
    if arguments.only:
        chosen = [run for run in chosen if run.name in arguments.only]
    if arguments.rotate:
        chosen = rotation(chosen, int(time.time()) // _SECONDS_OF_A_DAY)
    if arguments.list:
        sys.stdout.writelines(f"{run.name}\n" for run in chosen)
        return 0
    failed = [run for run in chosen if not _passes(run, arguments.parallel)]
    names = [run.name for run in failed]
    _say(f"failed: {', '.join(names)}" if names else f"all of {len(chosen)} runs passed")
    return 1 if failed else 0


def _passes(run: Run, parallel: str) -> bool:
    """Carry out one run; return whether it passed."""
    _say(f"{run.name}: preparing")
    start = time.monotonic()
    try:
        python, environment = prepare(run)
    except Missing as error:
        _say(f"{run.name}: {error}")
        return run.subject == PYTHON and run.version in OPTIONAL_PYTHONS
    except (ControlPlaneError, subprocess.CalledProcessError) as error:
        _say(f"{run.name}: {error}")
        return False
    _say(f"{run.name}: running {' '.join(run.tests)}")
    report = ROOT / "build" / "matrix" / f"{run.name}.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    command = _pytest(run.tests, parallel, f"--junit-xml={report}")
    subprocess.run([python, *command], cwd=ROOT, env=environment, check=False)
    result = results.read_report(report, day=datetime.now(UTC).date().isoformat())
    results.keep(run, result)
    _say(
        f"{run.name}: {result.passed} passed, {result.failed} failed, {result.skipped} skipped,"
        f" in {time.monotonic() - start:.0f} s"
    )
    return result.good


def _pytest(tests: Sequence[str], parallel: str, *arguments: str) -> list[str]:
    command = ["-m", "pytest", *tests, "-q", "-n", parallel, "--dist", "loadfile", *arguments]
    return command if parallel != "0" else ["-m", "pytest", *tests, "-q", *arguments]


def _say(text: str) -> None:
    sys.stdout.write(f"matrix: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
