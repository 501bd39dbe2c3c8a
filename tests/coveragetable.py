"""`python -m coveragetable`: print the branch coverage of each package, and fail below the floor.

Reads what the unit tests measured. The floor is `fail_under` in `pyproject.toml`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import coverage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def main() -> int:
    """Print the table; return the exit code."""
    measured = coverage.Coverage()
    measured.load()
    with tempfile.NamedTemporaryFile() as file:
        total = measured.json_report(outfile=file.name)
        files = json.loads(Path(file.name).read_text())["files"]
    floor = float(measured.get_option("report:fail_under"))  # type: ignore[arg-type]
    print("Lines and branches of each package that the unit tests run:")  # noqa: T201
    for package, percent in packages(files):
        print(f"  {package:<25}{percent:6.1f} %")  # noqa: T201
    print(f"  {'all':<25}{total:6.1f} %, at least {floor:g} % is required")  # noqa: T201
    return 1 if total < floor else 0


def packages(files: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield name and percentage of each package, from the files of a JSON report."""
    parts: dict[str, list[Mapping[str, int]]] = defaultdict(list)
    for name, found in files.items():
        parts[Path(name).parent.as_posix().removeprefix("operator/")].append(found["summary"])
    for package, summaries in sorted(parts.items()):
        covered = sum(one["covered_lines"] + one["covered_branches"] for one in summaries)
        there = sum(one["num_statements"] + one["num_branches"] for one in summaries)
        yield package, 100 * covered / there if there else 100.0


if __name__ == "__main__":
    sys.exit(main())
