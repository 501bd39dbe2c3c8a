"""Collect what a Python program needs to run into a folder, which becomes the root of an image.

The folder holds the interpreter with its library, the program's virtual environment, the shared
libraries that any of it is linked with, certificate authorities and time zones. So there is no
shell in it, no pip, no package manager, and nothing that is setuid.

Used by the Containerfile, on Linux with glibc: `python3 rootfs.py TARGET VENV`
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = re.compile(
    r"ensurepip|pydoc_data|idlelib|lib2to3|tkinter|turtledemo|tests?|config-.*"
    r"|site-packages|dist-packages|__pycache__"
)
"""Folders of the library that bring pip, or that no server needs."""

NEEDED = ("/etc/ssl/certs", "/usr/share/zoneinfo")
"""Authorities and time zones; without them a connection or a time would be wrong."""
ALSO = (
    *("/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/lib/ssl"),
    *("/etc/ssl/openssl.cnf", "/etc/services", "/etc/protocols", "/etc/ld.so.cache"),
)
"""What is copied if there is any; certificates are links to the former."""

USERS = "root:x:0:0:root:/:/nologin\nincumbent:x:65532:65532:incumbent:/:/nologin\n"
GROUPS = "root:x:0:\nincumbent:x:65532:\n"

NOTHING = re.compile(r"(?!)")
_ELF = b"\x7fELF"


class Root:
    """The folder, in which everything has the path that it has here.

    Args:
        folder: it must not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def add(self, path: str | Path, left_out: re.Pattern[str] = NOTHING) -> None:
        """Copy a file or a folder, and each symbolic link on the way to it.

        Args:
            path: the file or folder.
            left_out: names of folders below it that are not copied.
        """
        here = Path("/")
        parts = [*Path(path).parts[1:]]
        while parts:
            here /= parts.pop(0)
            there = self._folder / here.relative_to("/")
            if here.is_symlink():
                target = here.readlink()
                if not there.is_symlink():
                    there.symlink_to(target)
                self.add(Path(os.path.normpath(here.parent / target), *parts), left_out)
                return
            if here.is_dir():
                there.mkdir(exist_ok=True)
            elif here.exists() and not there.exists():
                shutil.copyfile(here, there)
                # Neither setuid nor writable, whoever installed it.
                there.chmod(0o755 if here.stat().st_mode & stat.S_IXUSR else 0o644)
        if here.is_dir():
            for each in sorted(here.iterdir()):
                if each.is_symlink():
                    if each.exists() and each.resolve() not in each.parents:
                        self.add(each, left_out)
                elif each.is_file() or (each.is_dir() and not left_out.fullmatch(each.name)):
                    self.add(each, left_out)

    def add_libraries(self) -> None:
        """Copy the shared libraries that what was copied is linked with."""
        for path in [*self._linked()]:
            here = Path("/") / path.relative_to(self._folder)
            libraries = libraries_of(here)
            if None in libraries:  # so it could not be imported here either
                path.unlink()
                continue
            for library in libraries:
                self.add(str(library))

    def _linked(self) -> Iterator[Path]:
        for path in sorted(self._folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(len(_ELF)) == _ELF:
                        yield path

    def write(self, path: str, text: str) -> None:
        """Write a file of our own."""
        there = self._folder / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)
        there.chmod(0o644)

    def compile(self, library: str) -> None:
        """Compile the library's modules; by hash, so that the same files are the same image."""
        compileall.compile_dir(
            self._folder / library.lstrip("/"),
            quiet=1,
            stripdir=str(self._folder),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def libraries_of(path: Path) -> list[str | None]:
    """Return the shared libraries that a file is linked with; None for one that is missing."""
    command = ["ldd", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    found: list[str | None] = []
    for line in done.stdout.splitlines():
        name, _, rest = line.strip().partition(" => ")
        if rest.startswith("not found"):
            found.append(None)
        elif rest.startswith("/"):
            found.append(rest.split(" ")[0])
        elif name.startswith("/"):  # the loader itself
            found.append(name.split(" ")[0])
    return found


def build(target: Path, environment: Path) -> None:
    """Fill the folder.

    Args:
        target: the folder.
        environment: the program's virtual environment, made by this interpreter.
    """
    root = Root(target)
    interpreter, library = Path(sys.executable).resolve(), sysconfig.get_path("stdlib")
    root.add(interpreter)
    root.add(library, LEFT_OUT)
    root.add(environment)
    root.add_libraries()
    gcc = [Path(name) for name in libraries_of(interpreter) if name and "libc.so" in name]
    for folder in {path.parent for path in gcc}:  # what threads are cancelled with, loaded late
        for late in sorted(folder.glob("libgcc_s.so.*")):
            root.add(late)
    for path in NEEDED:
        if not Path(path).is_dir():
            msg = f"{path} is missing in the base: install ca-certificates and tzdata in it"
            raise SystemExit(msg)
        root.add(path)
    for path in ALSO:
        if Path(path).exists():
            root.add(path)
    root.write("/etc/passwd", USERS)
    root.write("/etc/group", GROUPS)
    root.write("/etc/nsswitch.conf", "hosts: files dns\n")
    root.compile(library)
    temporary = target / "tmp"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o1777)


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
