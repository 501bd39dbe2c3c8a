"""The map of the packages in docs/architecture.md is the tree."""

from __future__ import annotations

import re
from pathlib import Path

import incumbent
from docpages import DOCS

SOURCES = Path(incumbent.__file__).parent
PAGE = (DOCS / "architecture.md").read_text()
OWN_ROWS = {"cli", "kubectl"}
"""Packages of commands, whose modules are those of `--help`."""
UNNAMED = {"__init__", "ports"}


def rows():
    """Return the cells of each row of the table of packages."""
    table = PAGE.partition("| package |")[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def names(text):
    """Return what stands in backquotes."""
    return set(re.findall(r"`([a-z_.]+)`", text))


def test_every_package_has_a_row_and_every_module_of_it_is_named():
    """A module that is added without a word about it is found here."""
    packages = {path.parent.name for path in SOURCES.glob("*/__init__.py")}
    assert packages == {name for row in rows() for name in names(row[0])} - {"election"}
    for package, *cells in rows():
        for name in names(package) & packages - OWN_ROWS:
            modules = {path.stem for path in (SOURCES / name).iterdir() if path.suffix != ".css"}
            modules -= UNNAMED | {"__pycache__"}
            assert modules <= names(" ".join(cells)), name


def test_every_module_that_answers_a_question_exists():
    """A stranger finds what the page names."""
    table = PAGE.partition("| question |")[2].partition("\n\n")[0]
    for module in names(" ".join(row.rpartition(" | ")[2] for row in table.splitlines()[2:])):
        assert (SOURCES / module.replace(".", "/")).with_suffix(".py").exists(), module


def test_every_module_outside_the_packages_is_named():
    """Those that all packages use."""
    rest = PAGE.partition("Beside the packages:")[2].partition("\n\n")[0]
    modules = {path.stem for path in SOURCES.glob("*.py")} - {"__init__", "__main__", "election"}
    assert modules == names(rest)
