"""What builds and runs images: Docker, Podman, or buildah with what every Linux has."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOLS = ("buildah", "podman", "docker")
CHROOT_NEEDS = "+sys_chroot,+setuid,+setgid"


class Missing(Exception):
    """Something has to be installed, started or allowed first; one sentence says what."""


@dataclass(frozen=True)
class Config:
    """What an image says about itself."""

    user: str
    entrypoint: list[str]
    environment: list[str]
    labels: Mapping[str, str]


def output(*command: str) -> str:
    """Run a command, and return what it prints."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()


def find_tool() -> str:
    """Return the first tool that works: a client without its engine is of no use.

    Raises:
        Missing: there is none.
    """
    for tool in TOOLS:
        if shutil.which(tool):
            asked = subprocess.run([tool, "info"], check=False, capture_output=True)
            if asked.returncode == 0:
                return tool
    msg = (
        f"neither {', '.join(TOOLS[:-1])} nor {TOOLS[-1]} works here: install one, for example"
        " with apt-get install buildah, or start its engine."
    )
    raise Missing(msg)


class Engine:
    """Docker or Podman, with an image that it has.

    Args:
        tool: which of the two.
        image: its name.
    """

    def __init__(self, tool: str, image: str) -> None:
        self._tool = tool
        self._image = image
        (found,) = json.loads(output(tool, "image", "inspect", image))
        self.config = _config_from(found["Config"])
        self.size = int(found["Size"])
        """Of all layers, unpacked, in bytes."""

    def command(
        self,
        *arguments: str,
        entrypoint: str = "",
        ports: Sequence[int] = (),
        mounts: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """Return a command that runs the image with a read-only root and without privileges."""
        flags = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"]
        flags += [f"--publish=127.0.0.1:{port}:{port}" for port in ports]
        flags += [f"--volume={source}:{target}" for source, target in (mounts or {}).items()]
        flags += [f"--entrypoint={entrypoint}"] if entrypoint else []
        return [self._tool, "run", *flags, self._image, *arguments]


class Chroot:
    """A working copy of an image that buildah has, to be run in a chroot.

    Args:
        image: its name.
        root: where the copy is mounted.
    """

    def __init__(self, image: str, root: Path) -> None:
        self._root = root
        found = json.loads(output("buildah", "inspect", "--type=image", image))
        self.config = _config_from(found["OCIv1"]["config"])
        self.size = int(output("du", "--summarize", "--bytes", str(root)).split()[0])
        """Of all files, in bytes."""

    def command(
        self,
        *arguments: str,
        entrypoint: str = "",
        ports: Sequence[int] = (),
        mounts: Mapping[Path, str] | None = None,
    ) -> list[str]:
        """Return a command that does the same; the network is the machine's."""
        mounts = mounts or {}
        for target in ("/proc", "/dev", *mounts.values()):
            (self._root / target[1:]).mkdir(parents=True, exist_ok=True)  # as any runtime does
        steps = ["mount --bind . .", 'cd "$PWD"', "mount -o remount,bind,ro ."]
        steps += ["mount -t proc proc proc", "mount --rbind /dev dev"]
        steps += [f"mount --bind {shlex.quote(str(s))} .{t}" for s, t in mounts.items()]
        called = [entrypoint] if entrypoint else self.config.entrypoint
        user, _, group = self.config.user.partition(":")
        run = [
            *("env", "-i", *self.config.environment),
            *(_where("setpriv"), "--no-new-privs", f"--bounding-set=-all,{CHROOT_NEEDS}"),
            *(_where("chroot"), f"--userspec={user}:{group}", "--groups=", "."),
            *(*called, *arguments),
        ]
        steps = [f"cd {shlex.quote(str(self._root))}", *steps, f"exec {shlex.join(run)}"]
        return ["unshare", "--mount", "sh", "-c", " && ".join(steps)]


@contextlib.contextmanager
def prepared(tool: str, image: str) -> Iterator[Engine | Chroot]:
    """Make an image ready to be run.

    Raises:
        Missing: this machine, or this user, cannot run what the tool has built.
    """
    if tool != "buildah":
        yield Engine(tool, image)
        return
    if os.geteuid() != 0:
        msg = "only root can run what buildah has built: become root, or use Podman or Docker."
        raise Missing(msg)
    container = output("buildah", "from", "--pull-never", image)
    try:
        yield Chroot(image, Path(output("buildah", "mount", container)))
    finally:
        output("buildah", "rm", container)


def _where(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        msg = f"there is no {program}: install util-linux and coreutils, or use Podman or Docker."
        raise Missing(msg)
    return path


def _config_from(found: Mapping[str, Any]) -> Config:
    return Config(
        found.get("User") or "",
        found.get("Entrypoint") or [],
        found.get("Env") or [],
        found.get("Labels") or {},
    )
