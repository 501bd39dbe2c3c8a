"""`python -m e2e`: prepare, go into namespaces of our own, and go through the scenarios."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.report import environment, keep

import debian
from controlplane import build
from controlplane.processes import ControlPlaneError
from e2e import images, network, report, scenarios
from e2e.node import PLUGINS

if TYPE_CHECKING:
    from e2e.stage import Stage

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "e2e"
PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    f"{PLUGINS}/ptp": "containernetworking-plugins",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "sysctl": "procps",
    "umount": "mount",
    "unshare": "util-linux",
}
"""Packages of Debian, by a program that is in each."""
INSIDE = "INCUMBENT_E2E_INSIDE"
"""Names the archives of the images, for the half that runs in namespaces of its own."""
_BEGAN = time.monotonic()


class Impossible(Exception):
    """This machine cannot do it; the message says in a sentence what is missing."""


def main() -> int:
    """Do what the command line says; return the exit code."""
    options = _options()
    try:
        if archives := os.environ.get(INSIDE):
            return asyncio.run(_run([Path(path) for path in archives.split()], options))
        _require()
        for needed in (build.programs, build.node_programs, build.helms):
            needed()
        archives = " ".join(str(path) for path in images.build(say))
    except (Impossible, debian.PackagesMissing) as error:
        sys.stderr.write(f"make e2e: {error}\n")
        if os.environ.get("E2E") == "skip":
            sys.stderr.write("make e2e: skipped, as E2E=skip asks for.\n")
            return 0
        return 2
    except (ControlPlaneError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"make e2e: {error}\n")
        return 1
    sys.stdout.flush()
    # What runs inside ends with us, whatever happens to us, and so does all that it mounts.
    spaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    command = ["unshare", *spaces, sys.executable, "-m", "e2e", *sys.argv[1:]]
    try:
        return subprocess.run(command, check=False, env=os.environ | {INSIDE: archives}).returncode
    except KeyboardInterrupt:
        return 130


def say(text: str) -> None:
    """Print a line with the time since the start."""
    sys.stdout.write(f"{time.monotonic() - _BEGAN:6.1f} s  {text}\n")
    sys.stdout.flush()


def _require() -> None:
    """See to it that everything is there.

    Raises:
        Impossible: this machine or this user cannot do it.
        PackagesMissing: they cannot be installed.
    """
    if sys.platform != "linux":
        msg = f"it needs Linux with its namespaces and cgroups, and this is {sys.platform}."
        raise Impossible(msg)
    if os.geteuid() != 0:
        msg = "it needs root, to make namespaces and run containers; try sudo make e2e."
        raise Impossible(msg)
    debian.install(PACKAGES, say=say)


async def _run(archives: list[Path], options: argparse.Namespace) -> int:
    """Go through the scenarios, in namespaces of our own."""
    network.lay()
    folder = Path(tempfile.mkdtemp(prefix="e2e-"))
    about = environment()
    about["versions"] += f", containerd {network.run('containerd', '--version').split()[2]}"
    found: dict[str, Any] = {}
    pictures = {}
    failures: list[str] = []
    for name, scenario in (("one", scenarios.one_cluster), ("two", scenarios.two_clusters)):
        if options.scenario not in {"", name}:
            continue
        began, home = time.monotonic(), folder / name
        home.mkdir()
        try:
            stage: Stage = await scenario(home, archives, say=say, only=options.only)
        except Exception as error:  # noqa: BLE001 - whatever it is, the logs are to be kept
            failures.append(f"scenario {name} broke off: {type(error).__name__}: {error}")
            continue
        found[name] = report.result(stage, time.monotonic() - began)
        pictures[name] = report.picture(stage)
        sys.stdout.write(f"\n{report.tables(found[name])}\n")
        failures += stage.failures
    keep("e2e", found, options.into, before=about)
    for name, picture in pictures.items():
        (options.into / f"e2e-{name}.svg").write_text(picture)
    say(f"tables and pictures are in {options.into}")
    for failure in failures:
        sys.stderr.write(f"make e2e: {failure}\n")
    if failures or options.keep:
        sys.stderr.write(f"make e2e: logs and records are in {folder}\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e", description=__doc__)
    parser.add_argument("--scenario", choices=("one", "two"), default="", help="only this one")
    parser.add_argument("--only", default="", help="only faults with this in their name")
    parser.add_argument("--keep", action="store_true", help="keep logs and records")
    parser.add_argument("--into", type=Path, default=RESULTS, help="where results are written")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
