"""Run tests against a mutant, in a copy of the repository."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mutants.sample import Mutant

TIMEOUT = 600
"""Seconds. A mutant that takes longer is noticed."""
SIMULATED = {"campaign"}
"""Packages of which the simulation runs the code."""


class Workplace:
    """A copy of the repository, for as long as the context is open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._copy = Path()

    def __enter__(self) -> Self:
        """Copy what Git knows."""
        self._copy = Path(tempfile.mkdtemp(prefix="mutants-"))
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=self._root, check=True, capture_output=True, text=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            target = self._copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self._root / name, target)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the copy."""
        shutil.rmtree(self._copy, ignore_errors=True)

    def find_killer(self, mutant: Mutant) -> str | None:
        """Return the first command that fails with the mutant; None if it survives them all."""
        target = self._copy / mutant.path
        target.write_text(mutant.code)
        try:
            return next((c for c in self._commands(mutant) if not self._passes(c)), None)
        finally:
            target.write_text(mutant.original)

    def _commands(self, mutant: Mutant) -> Iterator[str]:
        """Yield the commands, the quickest first."""
        package = mutant.path.parts[2]
        pytest = "pytest -q -x -p no:cacheprovider -n 2 --dist loadfile"
        if (self._copy / "tests" / "unit" / package).is_dir():
            yield f"{pytest} tests/unit/{package}"
        if package in SIMULATED:
            yield "simulation --runs 100 --seed 1"
        yield f"{pytest} tests/unit"

    def _passes(self, command: str) -> bool:
        """Run a module of Python in the copy."""
        folders = (self._copy / "operator", self._copy, self._copy / "tests")
        environment = os.environ | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split()],
            cwd=self._copy,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            return process.wait(TIMEOUT) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
