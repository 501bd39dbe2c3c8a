"""The threat model in docs/security.md names tests that exist, and says so where there is none."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

import pytest

from docpages import DOCS, ROOT

PAGE = (DOCS / "security.md").read_text()
MODEL = PAGE.partition("\n## Threat model\n")[2].partition("\n## ")[0]
NO_TEST = "—"


@dataclass(frozen=True, slots=True)
class Row:
    """What one kind of attacker can try."""

    attacker: str
    attempt: str
    defence: str
    tests: str

    def __str__(self) -> str:
        """Name it."""
        return f"{self.attacker}: {self.attempt}"


def rows():
    """Return all rows of the tables, without their heads."""
    for section in MODEL.split("\n### ")[1:]:
        attacker, _, text = section.partition("\n")
        lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
        for line in lines:
            attempt, defence, tests = line.split(" | ")
            if attempt != "attempt":
                yield Row(attacker, attempt, defence, tests)


ROWS = tuple(rows())


def names_of_tests():
    """Return the names of all test functions in the repository."""
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name


def test_every_attacker_is_there():
    """Nobody drops out of the page unnoticed."""
    assert {row.attacker for row in ROWS} == {
        "Somebody who may create elections in a namespace",
        "Somebody who may only edit pods in a namespace",
        "A pod that reaches ports of the operator or of NATS",
        "A node",
        "A NATS user",
        "An administrator of one namespace",
        "A second release of the chart",
        "Another cluster at the same NATS",
    }


def test_every_named_test_is_there():
    """A test that was renamed or deleted does not stay on the page, in the tables or elsewhere."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert named - set(names_of_tests()) == set()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_is_stopped_has_a_test_and_what_is_not_says_so(row):
    """Each row names tests, or begins its defence with the word "Nothing"."""
    if row.tests == NO_TEST:
        assert row.defence.startswith("Nothing")
    else:
        assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", row.tests)
