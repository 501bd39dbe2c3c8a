"""What the runs came to: kept in `results.json`, shown in `docs/reference/versions.md`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matrix.plan import Run

FILE = Path(__file__).parent / "results.json"


@dataclass(frozen=True, slots=True)
class Result:
    """How many tests of a run passed, failed and were skipped, and on which day (UTC)."""

    passed: int
    failed: int
    skipped: int
    day: str

    @property
    def good(self) -> bool:
        """Whether tests ran, and none failed."""
        return self.passed > 0 and not self.failed


def read_report(report: Path, *, day: str) -> Result:
    """Return the result in a report that pytest wrote by `--junit-xml`."""
    if not report.exists():
        return Result(0, 0, 0, day)
    suites = ET.parse(report).getroot().iter("testsuite")
    counts = [[int(suite.get(name, 0)) for name in _NAMES] for suite in suites]
    tests, failures, errors, skipped = (sum(column) for column in zip(*counts, strict=True))
    failed = failures + errors
    return Result(tests - failed - skipped, failed, skipped, day)


_NAMES = ("tests", "failures", "errors", "skipped")


def read() -> dict[str, Result]:
    """Return the results that are kept, by the name of the run."""
    if not FILE.exists():
        return {}
    return {name: Result(**found) for name, found in json.loads(FILE.read_text()).items()}


def keep(run: Run, result: Result) -> None:
    """Keep the result of a run in place of an earlier one."""
    results = read() | {run.name: result}
    text = json.dumps({name: asdict(found) for name, found in sorted(results.items())}, indent=2)
    FILE.write_text(text + "\n")


def table(runs: list[Run], results: Mapping[str, Result]) -> Iterator[str]:
    """Yield the lines of a Markdown table of all runs."""
    yield "| with | version | tests passed | failed | skipped | on |"
    yield "|---|---|---|---|---|---|"
    for run in runs:
        result = results.get(run.name)
        cells = ["not run yet", "", "", ""]
        if result is not None:
            counts = (result.passed, result.failed, result.skipped)
            cells = [*(f"{count:,}" for count in counts), result.day]
        yield f"| {run.subject} | {run.version} | {' | '.join(cells)} |"
