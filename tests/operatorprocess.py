"""The operator as a process of its own, as people run it: `python -m incumbent operator`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from controlplane.processes import Process, Startable, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controlplane.sites import Site
    from elections import Election

SOURCES = Path(__file__).parents[1] / "operator"
SHARED_FOR = 1.0
"""Seconds for which metrics that were made for one client are served to all."""
STEPPED_CLOCK = Path(__file__).parent / "steppedclock"


class OperatorProcess(Startable):
    """One replica. It keeps its name, its port and its log over restarts.

    Args:
        site: whose elections it serves, as the user `operator`.
        folder: for the log.
        nats_url: where it finds NATS.
        arguments: more flags; the last one wins.
        replica: its name.
        kubeconfig: instead of that of the user `operator`.
        variables: more environment variables.
        enter: what its command begins with.
        clock_step: a file that holds by how many seconds its wall clock is ahead.
    """

    def __init__(
        self,
        site: Site,
        folder: Path,
        *,
        nats_url: str,
        arguments: Sequence[str] = (),
        replica: str = "replica-1",
        kubeconfig: Path | None = None,
        variables: Mapping[str, str] | None = None,
        enter: Sequence[str] = (),
        clock_step: Path | None = None,
    ) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOURCES), **(variables or {})}
        if clock_step is not None:
            environment["PYTHONPATH"] += f"{os.pathsep}{STEPPED_CLOCK}"
            environment["WALL_CLOCK_STEP"] = str(clock_step)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.process = Process(
            [
                *(*enter, sys.executable, "-m", "incumbent", "operator"),
                f"--kubeconfig={kubeconfig or site.kubeconfig_for('operator')}",
                f"--nats-url={nats_url}",
                f"--http-address={self.url.removeprefix('http://')}",
                f"--replica={replica}",
                *arguments,
            ],
            name=replica,
            folder=folder,
            environment=environment,
        )

    async def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it is ready (or not)."""
        self.process.start()
        if ready:
            await self.wait_ready()

    async def wait_ready(self, *, timeout: float = 20) -> None:
        """Wait until /readyz says 200."""

        async def is_ready() -> bool:
            return (await self.readyz())[0] == 200

        await self.process.wait_until(is_ready, timeout=timeout)

    async def wait_said(self, text: str, *, times: int = 1, timeout: float = 20) -> None:
        """Wait until the log contains a text so many times."""

        async def said() -> bool:
            return self.log.count(text) >= times

        await self.process.wait_until(said, timeout=timeout)

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        self.process.kill()

    async def restart(self) -> None:
        """Kill it, and start it anew."""
        self.kill()
        await self.start()

    async def wait_ready_line(self, line: str, *, timeout: float = 20) -> None:
        """Wait until /readyz?verbose says 200, with this line; what is served may be a bit old."""

        async def has_it() -> bool:
            status, text = await self.readyz("?verbose")
            return status == 200 and line in text.splitlines()

        await self.process.wait_until(has_it, timeout=timeout)

    async def readyz(self, query: str = "") -> tuple[int, str]:
        """Return status and text of /readyz; 0 while nobody listens."""
        url = f"{self.url}/readyz{query}"
        try:
            async with self._session() as session, session.get(url) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return 0, ""

    async def election(self, namespace: str, name: str) -> dict[str, Any]:
        """Return what `/v1/elections/<namespace>/<name>` says, empty if nobody knows of it."""
        url = f"{self.url}/v1/elections/{namespace}/{name}"
        async with self._session() as session, session.get(url) as answer:
            return {} if answer.status in {404, 503} else dict(await answer.json())

    async def metrics(self) -> dict[str, float]:
        """Return every series of /metrics and its value, by its text as it is there.

        What is served may be a second old, so this waits until it is not older than the call.
        """
        await asyncio.sleep(SHARED_FOR)
        async with self._session() as session, session.get(f"{self.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        series = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in series}

    @property
    def log(self) -> str:
        """All that it has logged so far."""
        return self.process.log.read_text() if self.process.log.exists() else ""

    def lines(self, event: str) -> list[Mapping[str, Any]]:
        """Return the log lines of one event."""
        lines = (json.loads(line) for line in self.log.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    @property
    def complaints(self) -> list[str]:
        """What it logged and never should: errors of its own code, and tracebacks."""
        marks = '"level": "error", "logger": "incumbent', "Traceback"
        return [line for line in self.log.splitlines() if any(mark in line for mark in marks)]

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))


def series(metric: str, election: Election, **labels: str) -> str:
    """Return the name of an election's series in `OperatorProcess.metrics`."""
    labels = {"election": election.name, "namespace": election.namespace, **labels}
    shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"incumbent_{metric}{{{shown}}}"


async def run_cleanup(kubeconfig: Path, *arguments: str) -> tuple[int, str]:
    """Run `incumbent cleanup`; return its exit code, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "incumbent", "cleanup", *arguments),
        f"--kubeconfig={kubeconfig}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()
