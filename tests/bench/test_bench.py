"""`make bench` works: the short version of each measurement. What it measures is not judged."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]


async def bench(*arguments: str) -> str:
    """Run it, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *arguments),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


def files(folder: Path) -> list[Path]:
    """Return the results in a folder."""
    return list(folder.glob("*.json"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("group", "said", "plot"),
    (
        ("speed", "hand-over  2 leaders deleted one at a time", "speed-kill"),
        ("failover", "fail-over  Prompt: 2 keys, min", "fail-over"),
        ("cost", "ratio      Incumbent takes", "cost-3"),
        ("bucket-writes", "one at a time p50", "bucket-writes"),
        ("bucket-expiry", "R1, no markers, read: p50", "bucket-expiry"),
        ("bucket-leaders", "TTL 2 s: of 3 elections", "bucket-leaders"),
        ("scale", "lateness   p50", "scale-lateness"),
        ("storm", "leases lost", "storm-memory"),
        ("hostile", "strips: p50", "hostile-strips"),
        ("soak", "consumers; ", "soak-handles"),
    ),
)
async def test_a_measurement_is_made_and_reported(
    shared_folder: Path, tmp_path: Path, group: str, said: str, plot: str
) -> None:
    """A measurement prints its figures, and leaves a file, a report and a plot behind."""
    printed = await bench("--short", "--results", str(tmp_path), group)
    assert said in printed
    (file,) = files(tmp_path)
    assert json.loads(file.read_text())["environment"]["commit"]
    assert f"({plot}.svg)" in (tmp_path / "README.md").read_text()
    assert ET.parse(tmp_path / f"{plot}.svg").getroot().tag.endswith("svg")


async def test_a_report_is_made_from_the_files_alone(tmp_path: Path) -> None:
    """Whoever has the files can make the report without measuring."""
    content = {
        "environment": dict.fromkeys(("machine", "versions", "commit", "time", "load"), "x"),
        "result": {
            "ttl": 5,
            "keys": 2,
            "rounds": 1,
            "outages": {"client-go": [5.0, 8.0], "Prompt": [2.5, 4.0]},
            "releases": [0.001],
        },
    }
    (tmp_path / "failover.json").write_text(json.dumps(content))
    await bench("--report", "--results", str(tmp_path))
    content["result"] |= {"busy": content["result"]["outages"], "twice": {"Prompt": 0}}
    row = "| Prompt | 2 | 2.50 s | 4.00 s | 4.00 s | 4.00 s | 4.00 s | 0.50 |"
    assert row in (tmp_path / "README.md").read_text()


PHASE = {
    "lost": 0,
    "twice": 0,
    "late": [0.0, 0.1],
    "strips": [0.02, 0.03],
    "memory": {"first": 300, "last": 300, "peak": 310},
    "probes": {"sent": 80, "answered": 80, "slowest": 0.1},
    "probe_timeout": 5,
    "log_lines": 2,
}
"""What a phase of `hostile` may come to."""


@pytest.mark.parametrize(
    "change",
    (
        {"lost": 1},
        {"twice": 1},
        {"late": [0.0, 0.6]},
        {"late": []},
        {"strips": [0.02, 0.14]},
        {"strips": []},
        {"memory": {"first": 300, "last": 400, "peak": 400}},
        {"probes": {"sent": 80, "answered": 79, "slowest": 5}},
        {"probes": {"sent": 0, "answered": 0, "slowest": 0}},
        {"log_lines": 200},
    ),
    ids=lambda change: ",".join(f"{name}={value}" for name, value in change.items()),
)
def test_hostility_that_is_noticed_is_judged_so(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing that is to be reached is looked at, also if nothing was seen at all."""
    monkeypatch.syspath_prepend(str(ROOT))
    judge = importlib.import_module("bench.hostile").judge
    found = {"interval": 10, "quiet": PHASE}
    assert judge({**found, "hostile": PHASE})
    assert not judge({**found, "hostile": {**PHASE, **change}})
