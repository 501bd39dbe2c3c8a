"""One site for many processes: the workers of a test run, or the terminals of a person.

A supervisor runs it: a process of its own, apart from those that use the site, so none of them
has to outlive the others. In its folder `state.json` says that all is ready, and three locks,
which the system gives back when a process ends, however it ends, say who is there:

- `starting` is held by the one process that starts a supervisor;
- `using` is shared by the users; a supervisor that may take it for itself has none left, and ends;
- `serving` is held by the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from controlplane.build import programs
from controlplane.kube import Kube
from controlplane.natsserver import NatsServer
from controlplane.nodes import NodeAgent
from controlplane.processes import ControlPlaneError
from controlplane.servers import ControlPlane
from controlplane.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

_TESTS = Path(__file__).parents[1]
_DEFINITIONS = _TESTS.parent / "crds"
_POLL = 0.05
_STOP_TIMEOUT = 20


@dataclass(frozen=True, slots=True)
class Running:
    """What a supervisor runs."""

    pid: int
    site: Site
    nats_url: str

    def to_json(self) -> str:
        """Return this as text."""
        state = {"pid": self.pid, "site": self.site.to_json(), "nats_url": self.nats_url}
        return json.dumps(state)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return what `to_json` wrote."""
        state = json.loads(text)
        return cls(state["pid"], Site.from_json(state["site"]), state["nats_url"])


def running(folder: Path) -> Running | None:
    """Return what runs in this folder, None when nothing does."""
    try:
        text = (folder / "state.json").read_text()
    except FileNotFoundError:
        return None
    return None if _free(folder, "serving", fcntl.LOCK_SH) else Running.from_json(text)


def start(folder: Path, *, until_unused: bool = False) -> Running:
    """Start a supervisor, unless one runs, and wait until all is ready: 5 s.

    Raises:
        ControlPlaneError: it could not be started.
    """
    programs()
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, "starting"):
        while not (found := running(folder)):
            if _free(folder, "serving", fcntl.LOCK_SH):
                (folder / "state.json").unlink(missing_ok=True)
                _spawn(folder, until_unused=until_unused)
            time.sleep(_POLL)  # one that is about to end
        return found


@contextlib.contextmanager
def use(folder: Path) -> Iterator[Running]:
    """Use the site of this folder together with others; the first starts it, the last ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, "using", fcntl.LOCK_SH):
        found = start(folder, until_unused=True)
        yield found
    deadline = time.monotonic() + _STOP_TIMEOUT
    while not _free(folder, "serving", fcntl.LOCK_SH) and time.monotonic() < deadline:
        if running(folder) and not _free(folder, "using"):
            break  # others use it
        time.sleep(_POLL)


def stop(folder: Path) -> bool:
    """End the supervisor of this folder, and all that it started; return whether there was one."""
    found = running(folder)
    if found:
        os.kill(found.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_TIMEOUT
        while not _free(folder, "serving", fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                msg = f"Process {found.pid} did not end within {_STOP_TIMEOUT} s; end it by hand."
                raise ControlPlaneError(msg)
            time.sleep(_POLL)
    return found is not None


def serve(folder: Path, *, until_unused: bool) -> None:
    """Be the supervisor, until a signal, or until nobody uses it."""
    with _lock(folder, "serving"):
        try:
            asyncio.run(_serve(folder, until_unused=until_unused))
        finally:
            (folder / "state.json").unlink(missing_ok=True)


async def _serve(folder: Path, *, until_unused: bool) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    for old in ("nats", "site"):
        shutil.rmtree(folder / old, ignore_errors=True)
    async with contextlib.AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(folder / "nats"))
        plane = await stack.enter_async_context(ControlPlane(folder))
        await stack.enter_async_context(NodeAgent(plane.site))
        async with Kube(plane.site) as kube:
            for path in sorted(_DEFINITIONS.glob("*.yaml")):
                await kube.apply_definitions(path.read_text())
        state = Running(os.getpid(), plane.site, nats.url)
        (folder / "state.new").write_text(state.to_json())
        (folder / "state.new").replace(folder / "state.json")
        users = stack.enter_context((folder / "using").open("w"))
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), timeout=0.2)
            if until_unused:
                # Once taken it is kept: whoever comes now waits until this process has ended.
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break


def _spawn(folder: Path, *, until_unused: bool) -> None:
    log = folder / "supervisor.log"
    command = [sys.executable, "-m", "controlplane", "serve", f"--folder={folder}"]
    if until_unused:
        command.append("--until-unused")
    # Not by subprocess, which would complain that the supervisor outlives us.
    pid = os.posix_spawn(
        sys.executable,
        command,
        os.environ | {"PYTHONPATH": str(_TESTS)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    ended = False
    try:
        while not (running(folder) or ended):
            time.sleep(_POLL)
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid
    except BaseException:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    if ended:
        said = log.read_text(errors="replace").strip().removeprefix("error: ")
        msg = f"The control plane did not start: {said}"
        raise ControlPlaneError(msg)


@contextlib.contextmanager
def _lock(folder: Path, name: str, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    with (folder / name).open("w") as lock:
        fcntl.flock(lock, how)
        yield


def _free(folder: Path, name: str, how: int = fcntl.LOCK_EX) -> bool:
    try:
        with _lock(folder, name, how | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True
