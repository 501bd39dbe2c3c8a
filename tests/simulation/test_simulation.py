"""The simulation finds nothing wrong with the machine, and everything that is planted."""

from __future__ import annotations

import functools
import re

import pytest

from simulation import __main__ as command
from simulation import faults, scenario

SEED = 1
RUNS = 100
MOST_RUNS = 200
"""Within which a planted fault is found."""


def test_no_promise_is_broken() -> None:
    """Whatever goes wrong, the promises hold, and enough goes wrong."""
    results = [scenario.run(seed) for seed in range(SEED, SEED + RUNS)]
    assert [f"seed {r.seed}: {r.violation}" for r in results if r.violation] == []
    assert sum(r.terms for r in results) > RUNS
    assert sum(r.faults for r in results) > 10 * RUNS


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.cause.__name__)
def test_a_planted_fault_is_found(fault: faults.Fault) -> None:
    """Each mistake breaks the promise that it should, within a bounded number of runs."""
    assert any(
        fault.shows in _planted(fault, seed).violation for seed in range(SEED, SEED + MOST_RUNS)
    )


def test_a_seed_reproduces_its_run() -> None:
    """The same seed gives the same timeline; another seed another one."""
    first, again, other = (scenario.run(seed, timeline=True) for seed in (7, 7, 8))
    assert first == again
    assert first.timeline != other.timeline


def test_a_timeline_changes_nothing() -> None:
    """A run that is watched goes as it went before."""
    fault = faults.FAULTS[0]
    seed = next(s for s in range(SEED, SEED + MOST_RUNS) if _planted(fault, s).violation)
    blind, watched = _planted(fault, seed), _planted(fault, seed, timeline=True)
    assert blind.violation == watched.violation
    assert watched.timeline[-1].endswith(watched.violation)


def test_the_command_ends_with_the_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line has the counts, and the exit code says that nothing was found."""
    assert command.main(["--runs", "3", "--seed", "5", "--seconds", "20"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("3 runs, ")
    assert last.endswith(" 0 violations")


def test_the_command_shows_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A violation comes with its seed and a timeline, and with exit code 1."""
    fault, run = faults.FAULTS[0], scenario.run
    planted = functools.partial(
        run, member=fault.member, campaign=fault.campaign, focus=fault.focus
    )
    monkeypatch.setattr(scenario, "run", planted)
    assert command.main(["--runs", "40", "--seed", "1"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"\nseed \d+: two act at once: ", out)
    assert "SIGKILL" in out or "link" in out
    assert " 0 violations" not in out.splitlines()[-1]


def _planted(fault: faults.Fault, seed: int, *, timeline: bool = False) -> scenario.Result:
    return scenario.run(
        seed,
        timeline=timeline,
        member=fault.member,
        campaign=fault.campaign,
        focus=fault.focus,
    )
