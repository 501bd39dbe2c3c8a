"""The images of a run, as OCI archives: ours, the sandbox's, and one with Python for the rest.

No registry of images is asked: the base is made from packages of Debian, once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from controlplane.build import cache_root
from image.__main__ import ROOT, TARGETS, name_of

if TYPE_CHECKING:
    from collections.abc import Callable

PYTHON = "localhost/incumbent-e2e-python:1"
"""What the application and its clients run in, and what ours is built on."""
PAUSE = "registry.k8s.io/pause:3.10"
"""The name that the quickstart asks for; what sleeps in it is ours. Sandboxes run it, too."""
SLEEP = "/bin/sleep"
"""What runs in a sandbox."""
_SUITE = "bookworm"
"""Of Debian; its Python is 3.11."""
_STORAGE = """
[storage]
driver = "vfs"
graphroot = "{folder}/images"
runroot = "{folder}/running"
"""
"""A store of our own, which is gone afterwards, and which needs no module of the kernel."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LAST_LINES = 20
_CERTIFICATES = "/etc/ssl/certs"


def build(say: Callable[[str], None]) -> list[Path]:
    """Build all images, and return their archives."""
    cache = cache_root() / "e2e"
    cache.mkdir(parents=True, exist_ok=True)
    base = cache / f"{_SUITE}.tar"
    if not base.exists():
        say(f"making a base from packages of Debian {_SUITE}: about a minute, the first time")
        _make_base(base)
    say("building images: about a minute")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        store = _Store(Path(folder))
        store.make(PYTHON, base)
        store.make(PAUSE, base, "--user=65535:65535", f'--cmd=["{SLEEP}", "infinity"]')
        store.make_ours()
        names = [PYTHON, PAUSE, *map(name_of, TARGETS)]
        return [store.export(name, cache) for name in names]


class _Store:
    """Images that are being built."""

    def __init__(self, folder: Path) -> None:
        config = folder / "storage.conf"
        config.write_text(_STORAGE.format(folder=folder))
        self._environment = {
            "CONTAINERS_STORAGE_CONF": str(config),
            "BUILDAH_ISOLATION": "chroot",
        }

    def make(self, name: str, base: Path, *config: str) -> None:
        """Make an image of what is in an archive."""
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, str(base), "/")
        self._buildah("config", f"--env=PATH={_PATH}", *config, container)
        self._buildah("commit", "--rm", "--quiet", container, name)

    def make_ours(self) -> None:
        """Build what `make image` builds."""
        flags = f"--network=host --volume={_CERTIFICATES}:{_CERTIFICATES}:ro"
        environment = {"BASE": PYTHON, "IMAGE_FLAGS": flags, "PYTHONPATH": str(ROOT / "tests")}
        command = [sys.executable, "-m", "image", "build"]
        _quietly(command, **self._environment, **environment)

    def export(self, name: str, folder: Path) -> Path:
        """Write an image into an archive, and return its path."""
        path = folder / f"{name.rpartition('/')[2].partition(':')[0]}.oci"
        path.unlink(missing_ok=True)
        self._buildah("push", "--quiet", name, f"oci-archive:{path}:{name}")
        return path

    def _buildah(self, *arguments: str) -> str:
        return _quietly(["buildah", *arguments], **self._environment)


def _make_base(target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        packages = "python3,python3-venv,ca-certificates"
        options = ("--variant=minbase", f"--include={packages}")
        _quietly(["debootstrap", *options, _SUITE, folder])
        for part in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(Path(folder, part), ignore_errors=True)
        Path(folder).chmod(0o755)
        new = target.with_suffix(".new")
        _quietly(["tar", "--create", f"--file={new}", "-C", folder, "."])
        new.replace(target)


def _quietly(command: list[str], **environment: str) -> str:
    """Run a command, and return what it printed.

    Raises:
        RuntimeError: it failed; the message ends with what it said.
    """
    done = subprocess.run(
        command,
        check=False,
        text=True,
        capture_output=True,
        env=os.environ | environment,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_LAST_LINES:])
        msg = f"{' '.join(command)} failed:\n{said}"
        raise RuntimeError(msg)
    return done.stdout.strip()
