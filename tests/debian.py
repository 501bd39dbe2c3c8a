"""Programs that a test needs and that Debian has in its packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class PackagesMissing(Exception):
    """Packages are missing and cannot be installed; the message says which."""


def install(packages: Mapping[str, str], *, say: Callable[[str], None]) -> None:
    """Install the packages whose programs are missing.

    Args:
        packages: names of packages, by a program that is in each.
        say: prints what is being done.

    Raises:
        PackagesMissing: apt-get is missing or fails, or this user is not root.
    """
    missing = [package for program, package in packages.items() if not shutil.which(program)]
    if not missing:
        return
    names = ", ".join(missing)
    if not shutil.which("apt-get"):
        msg = f"it needs what Debian has in {names}; install these."
        raise PackagesMissing(msg)
    if os.geteuid() != 0:
        msg = f"it needs root to install {names}; try sudo, or install these."
        raise PackagesMissing(msg)
    say(f"installing {names}")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, check=False, capture_output=True, text=True, env=quiet)
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            msg = f"{' '.join(step[:2])} failed ({''.join(said)}); install {names} by hand."
            raise PackagesMissing(msg)
