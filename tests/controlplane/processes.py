"""Processes: start one, wait until it is ready, end it by its own process id.

Where `setpriv` exists (Linux), a process also ends when the thread that started it ends, even by
SIGKILL. So start processes from the main thread. Elsewhere a killed Python leaves them running.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

_POLL = 0.02
_LAST_LINES = 8


class ControlPlaneError(Exception):
    """Something of the control plane did not work; the message says what, and where to look."""


MOST_RESERVED = 500
"""Ports that one process keeps for itself, the latest."""
_reserved: deque[int] = deque()
"""File descriptors, one for each of them."""


def _reserve(port: int) -> bool:
    """Keep a port from other processes that ask `free_port`; return whether it was free.

    Between the question and the moment when a server listens, nothing else tells that it is taken.
    """
    if sys.platform != "linux":
        return True  # other systems have no names without files
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0incumbent-port-{port}")  # a name without a file, which ends with the process
    except OSError:
        mark.close()
        return False
    _reserved.append(mark.detach())
    if len(_reserved) > MOST_RESERVED:
        os.close(_reserved.popleft())
    return True


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, and that nobody else gets for now.

    It lies below the ports that the system gives to outgoing connections. Otherwise a client that
    tries to reconnect to a stopped server could get the server's own port, or connect to itself.
    """
    while True:
        port = random.randrange(12000, 32000)
        if not _reserve(port):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Startable:
    """What is started by entering it as an asynchronous context manager, and killed at the end."""

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once, also when it is started in part only."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()


async def http_status(url: str, *, verify: bool = True, token: str = "") -> int:
    """Return the status of a GET, 0 when nobody answered within a second."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    timeout = aiohttp.ClientTimeout(total=1)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, headers=headers, ssl=verify) as response,
        ):
            return response.status
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0


def bound_to_us(command: list[str]) -> list[str]:
    """Return a command that starts `command` so that it dies with the thread that starts it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else command


class Process:
    """One process with a log file, in a process group of its own.

    Ctrl-C in the terminal does not reach it; who started it has to end it.
    """

    def __init__(
        self,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        name: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._arguments = [os.fspath(argument) for argument in arguments]
        self._environment = None if environment is None else dict(environment)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, 0 when there is no process."""
        return self._popen.pid if self._popen else 0

    @property
    def running(self) -> bool:
        """Whether the process exists (it may be paused)."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with by itself; None while it runs, and after it was ended from here."""
        return self._popen.poll() if self._popen else None

    def start(self) -> None:
        """Start it, appending to its log; does not wait for anything."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                bound_to_us(self._arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    async def wait_until(self, ready: Callable[[], Awaitable[bool]], *, timeout: float) -> None:
        """Wait until `ready` says so.

        Raises:
            ControlPlaneError: the process ended, or it is not ready after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not await ready():
            if self._popen is None:
                msg = f"{self.name} was stopped while somebody waited for it."
                raise ControlPlaneError(msg)
            if self._popen.poll() is not None:
                msg = f"{self.name} ended with code {self._popen.returncode}. {self._tail()}"
                raise ControlPlaneError(msg)
            if time.monotonic() > deadline:
                msg = f"{self.name} is not ready after {timeout:.0f} s. {self._tail()}"
                raise ControlPlaneError(msg)
            await asyncio.sleep(_POLL)

    def pause(self) -> None:
        """Freeze it: its connections stay open, and nothing answers on them.

        Returns when all its threads stand still, which takes a busy machine a moment.
        """
        self._signal(signal.SIGSTOP)
        if self.running:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with its whole process group."""
        self._signal(signal.SIGKILL)
        if self._popen:
            self._popen.wait()
        self._popen = None

    async def stop(self, *, timeout: float = 10) -> None:
        """Ask it to end (SIGTERM), and kill it when it has not after `timeout` seconds."""
        self._signal(signal.SIGTERM)
        self.resume()
        deadline = time.monotonic() + timeout
        while self.running and time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(_POLL)
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            os.killpg(self.pid, number)

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return f"The end of its log {self.log}:\n" + "\n".join(lines)
