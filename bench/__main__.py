"""Measure, and write the report: ``python -m bench [GROUP …]``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from bench import bucket, cost, failover, hostile, report, scale, soak, speed, storm
from bench.report import Measurement, say
from controlplane.processes import ControlPlaneError

GROUPS = {
    "failover": failover,
    "cost": cost,
    "speed": speed,
    "bucket": bucket,
    "scale": scale,
    "storm": storm,
    "hostile": hostile,
    "soak": soak,
}
USUAL = ("failover", "cost", "speed", "bucket")


def main() -> int:
    """Make the measurements that are missing, and return the exit code: 1 for one that failed."""
    # Members would tell of every term, and of every server that is killed under them.
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet)
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        help=f"{', '.join(GROUPS)}, or one measurement of a group, such as cost-500;"
        f" default: {' '.join(USUAL)}",
    )
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--short", action="store_true", help="very little, to see that it works")
    parser.add_argument("--report", action="store_true", help="measure nothing, only write it")
    parser.add_argument("--hours", type=float, default=1, help="of soak; default: %(default)s")
    parser.add_argument(
        "--results", type=Path, default=report.RESULTS, help="a folder; default: %(default)s"
    )
    arguments = parser.parse_args()
    if arguments.short and arguments.results == report.RESULTS:
        parser.error("give --results with --short, whose figures mean nothing")
    more = {"soak": {"hours": arguments.hours, "results": arguments.results}}
    made: dict[str, list[Measurement]] = {
        name: group.measurements(short=arguments.short, **more.get(name, {}))
        for name, group in GROUPS.items()
    }
    every = {one.name: one for group in made.values() for one in group}
    chosen: list[Measurement] = []
    for name in arguments.groups or USUAL:
        if name in GROUPS:
            chosen += made[name]
        elif name in every:
            chosen.append(every[name])
        else:
            parser.error(f"there is no {name}; choose from {', '.join([*GROUPS, *every])}")
    good = True
    try:
        if not arguments.report:
            good = _measure(chosen, arguments.results, again=arguments.again)
    finally:  # also of what there is when somebody has interrupted it
        _report(made, arguments.results)
    return 0 if good else 1


def _report(made: Mapping[str, Sequence[Measurement]], results: Path) -> None:
    sections = []
    for name, group in made.items():
        if found := report.results([one.name for one in group], results):
            found |= report.results(getattr(GROUPS[name], "KEPT", ()), results)
            sections.append(GROUPS[name].section(found))
    results.mkdir(parents=True, exist_ok=True)
    say(f"report     {report.write(sections, results)}")


def _measure(chosen: Sequence[Measurement], results: Path, *, again: bool) -> bool:
    """Make measurements, and return whether all those that are judged are good enough."""
    good = True
    environment = report.environment()
    say(f"machine    {environment['machine']}")
    say(f"versions   {environment['versions']}; commit {environment['commit']}")
    for one in chosen:
        if not again and report.known(one.name, results):
            say(f"\n{one.name}: was measured with these sources; --again does it again")
            continue
        say(f"\n{one.name}:")
        before = report.environment()
        with tempfile.TemporaryDirectory(prefix="incumbent-bench-") as folder:
            result = asyncio.run(one.run(Path(folder)))
        report.keep(one.name, result, results, before=before)
        if one.judge is not None:
            good = one.judge(result) and good
    return good


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ControlPlaneError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # what was measured is kept
