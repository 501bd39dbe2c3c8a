"""The search finds nothing wrong with the rules, and something without any of them."""

from __future__ import annotations

import pytest

from model import __main__ as command
from model import observed
from model.scenarios import BREAK, HOLD, NOT_NEEDED
from model.search import search

FEW = 3_000
"""States near the start, for a test; `python -m model` looks at all."""


@pytest.mark.parametrize("name", HOLD)
def test_the_promises_hold_near_the_start(name: str) -> None:
    """Whatever the order of events, at most one pod leads, and never two sites."""
    result = search(HOLD[name], most=FEW)
    assert not result.broken, str(result)
    assert result.complete or result.states == FEW


@pytest.mark.parametrize("rule", BREAK)
def test_each_rule_is_needed(rule: str) -> None:
    """Without it a way is found in which two lead, and it is shown as a list of steps."""
    result = search(command.left_out(rule))
    assert "label" in result.broken or "both sites" in result.broken
    assert str(result).count("\n") == len(result.steps)


@pytest.mark.parametrize("rule", NOT_NEEDED)
def test_a_rule_that_no_promise_needs(rule: str) -> None:
    """Nothing is found without it either."""
    assert not search(command.left_out(rule), most=FEW).broken


@pytest.mark.parametrize("name", observed.HOLD)
def test_observed_elections_label_one_pod(name: str) -> None:
    """Whatever members, replicas and the API server do; searched to the end but for the largest."""
    result = observed.search(observed.HOLD[name], most=40_000)
    assert not result.broken, str(result)


@pytest.mark.parametrize("rule", observed.RULES)
def test_each_rule_of_observed_elections_is_needed(rule: str) -> None:
    """Without it two pods are labelled at once."""
    result = observed.search(observed.left_out(rule))
    assert "labelled at once" in result.broken


def test_a_search_is_deterministic() -> None:
    """The same way is found each time."""
    case = command.left_out("warrant")
    assert search(case) == search(case)


def test_the_command_shows_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints numbered steps and what they break, and fails only if that is not expected."""
    assert command.main(["confirmed"]) == 0
    assert "  1. R1 hands over from P1" in capsys.readouterr().out
    assert command.main(["warrant", "--states", "10"]) == 1
