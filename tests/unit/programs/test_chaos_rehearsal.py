"""Faults that are planted into operators, and the previous version of the operator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chaos import operators
from chaos.planted import FAULTS
from chaos.rehearsal import SCENARIOS
from incumbent import clock
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.connection import Connection
from incumbent.pods.cache import NamespacePods
from incumbent.pods.labels import Labels
from incumbent.replicas.confirmation import Confirmation

TESTS = Path(__file__).parents[2]


def test_each_fault_has_a_scenario():
    """One that nobody plays proves nothing."""
    played = [name for scenario in SCENARIOS for name in scenario.faults]
    assert sorted([*played, "none"]) == sorted(FAULTS)


REPLACED = (
    *((Labels, name) for name in ("add", "strip")),
    *((ApiServer, name) for name in ("patch_pod", "patch_slice", "watch_pods")),
    (clock, "now"),
    (Confirmation, "act"),
    (Connection, "send"),
    (NamespacePods, "_take"),
)


@pytest.fixture
def replaced(monkeypatch):
    """Return a function that tells what was replaced; afterwards all is as it was."""
    before = {place: getattr(*place) for place in REPLACED}
    for place, real in before.items():
        monkeypatch.setattr(*place, real)
    return lambda: [place for place, real in before.items() if getattr(*place) is not real]


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "none"])
def test_each_fault_can_be_planted(fault, replaced):
    """What it replaces is there."""
    FAULTS[fault]()
    assert replaced()


def test_operator_without_a_fault_is_as_it_was(replaced):
    """Or its scenario would prove nothing."""
    FAULTS["none"]()
    assert not replaced()


def test_launcher_runs_the_operator(tmp_path):
    """With its flags."""
    command = [sys.executable, "-m", "chaos.planted", "no-warrant", tmp_path, "operator", "--help"]
    done = subprocess.run(command, check=True, cwd=TESTS, capture_output=True, text=True)
    assert "--nats-url" in done.stdout


def git(folder, *arguments):
    """Run git in a folder."""
    about = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=no")
    subprocess.run(["git", "-C", folder, *about, *arguments], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a tree with three versions of an operator, of which the last is not committed."""
    folder = tmp_path.resolve() / "tree"
    source = folder / "operator" / "version"
    source.parent.mkdir(parents=True)
    git(folder, "init")
    for version in ("one", "two"):
        source.write_text(version)
        git(folder, "add", ".")
        git(folder, "commit", "--message", version)
    source.write_text("three")
    monkeypatch.setattr(operators, "ROOT", folder)
    return folder


def previous(tree):
    """Return which version the previous one is, or why there is none."""
    found, words = operators.previous_version(tree.parent / "previous")
    return (found / "version").read_text() if found else words


def test_previous_version_is_the_latest_commit_that_differs(tree):
    """With changes that are not committed, that is the last one."""
    assert previous(tree) == "two"


def test_previous_version_of_a_commit_is_the_one_before(tree):
    """Whatever else was committed since."""
    git(tree, "checkout", "operator")
    (tree / "other").touch()
    git(tree, "add", ".")
    git(tree, "commit", "--message", "other")
    assert previous(tree) == "one"


def test_tag_comes_before_commits(tree):
    """That is what people run."""
    git(tree, "tag", "v1", "HEAD^")
    assert previous(tree) == "one"


def test_tree_without_history_has_no_previous_version(tmp_path, monkeypatch):
    """An unpacked archive is one."""
    monkeypatch.setattr(operators, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found, words = operators.previous_version(tmp_path / "previous")
    assert found is None
    assert "git" in words
