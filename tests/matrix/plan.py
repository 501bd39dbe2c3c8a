"""Which versions are tested, and with which tests."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from controlplane.build import kubernetes_versions

if TYPE_CHECKING:
    from collections.abc import Iterable

NATS_SERVERS = ("2.11.11", "2.12.8", "2.14.6", "2.15.1")
"""The last versions of the minor versions with limit markers. Earlier ones of 2.11 are left out:
a watch on three servers of 2.11.0 misses markers now and then (2 of 16 tries)."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
OPTIONAL_PYTHONS = frozenset({"3.14"})
"""Those that few machines have yet: a machine without one leaves it out, and says so."""
LOWEST, HIGHEST = "lowest", "highest"
"""Of the versions of Python packages that `pyproject.toml` allows."""

KUBERNETES, NATS, PYTHON, PACKAGES = "Kubernetes", "nats-server", "Python", "Python packages"

_TESTS = {
    KUBERNETES: (
        "tests/contract/test_cluster.py",
        "tests/manifests",
        "tests/chart",
        "tests/integration/test_bad_input.py",
        "tests/integration/test_cleanup.py",
        "tests/integration/test_election.py",
        "tests/integration/test_kubectl.py",
        "tests/integration/test_operator.py",
        "tests/integration/test_operator_faults.py",
        "tests/integration/test_routing.py",
    ),
    NATS: (
        "tests/contract/test_bucket.py",
        "tests/contract/test_history.py",
        "tests/integration/test_commands.py",
        "tests/integration/test_history.py",
        "tests/integration/test_nats.py",
        "tests/integration/test_nats_accounts.py",
    ),
    PYTHON: ("tests/unit", "tests/contract"),
    PACKAGES: ("tests/unit", "tests/contract"),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One version of one thing, beside the versions that all other tests use."""

    subject: str
    version: str

    @property
    def name(self) -> str:
        """What the command line calls it, such as `kubernetes-1.32.13`."""
        return f"{self.subject.lower().replace(' ', '-')}-{self.version}"

    @property
    def tests(self) -> tuple[str, ...]:
        """The files and folders with the tests."""
        return _TESTS[self.subject]


def runs() -> list[Run]:
    """Return all runs, subject by subject, the lowest version first."""
    versions = {
        KUBERNETES: kubernetes_versions(),
        NATS: NATS_SERVERS,
        PYTHON: PYTHONS,
        PACKAGES: (LOWEST, HIGHEST),
    }
    return [Run(subject, version) for subject, found in versions.items() for version in found]


def rotation(all_runs: Iterable[Run], day: int) -> list[Run]:
    """Return one run of each subject, another one each day.

    The highest versions of packages are left out: others publish new ones at any time, and a check
    of a change must not fail for that.

    Args:
        all_runs: the runs, subject by subject.
        day: counts days; after as many days as a subject has runs, all of them have been chosen.
    """
    lasting = [run for run in all_runs if run.version != HIGHEST]
    subjects = [list(found) for _, found in groupby(lasting, key=lambda run: run.subject)]
    return [found[day % len(found)] for found in subjects]
