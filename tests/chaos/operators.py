"""Operators with links of their own, of this version or of the previous one.

Each reaches its API server and every NATS server through a proxy; recorder and node agents go
there directly.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from controlplane.natsserver import NatsServer
from controlplane.processes import Process
from controlplane.proxy import Proxy
from controlplane.sites import Site
from operatorprocess import SOURCES, STEPPED_CLOCK, OperatorProcess

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 90.0
"""Seconds for a process to start, on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket of a run, as operators are told about it."""

    servers: Sequence[NatsServer]
    name: str
    ttl: float
    """Seconds."""
    replicas: int = 1

    @property
    def flags(self) -> list[str]:
        """Have it created."""
        return [
            f"--bucket={self.name}",
            "--create-bucket",
            f"--bucket-ttl={self.ttl:g}s",
            f"--bucket-replicas={self.replicas}",
        ]


@dataclass(slots=True)
class Replica:
    """One operator, and its links."""

    site: str
    name: str
    operator: OperatorProcess
    """The one that runs, or ran last."""
    api: Proxy
    nats: tuple[Proxy, ...]
    clock: Path
    """The file that says by how many seconds its wall clock is ahead."""
    new: OperatorProcess
    previous: OperatorProcess | None = None
    """The previous version under the same name, if there is any."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """For who starts and stops it."""

    def step(self, ahead: float) -> None:
        """Let its wall clock step, so that it is so many seconds ahead."""
        new = self.clock.with_suffix(".new")
        new.write_text(str(ahead))
        new.replace(self.clock)

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        await self.operator.start(ready=False)
        await self.operator.wait_ready(timeout=START_TIMEOUT)

    async def start_blindly(self) -> None:
        """Start it while it cannot become ready, and wait until it runs."""
        await self.operator.start(ready=False)

        async def answers() -> bool:
            return (await self.operator.readyz())[0] != 0

        await self.operator.process.wait_until(answers, timeout=START_TIMEOUT)

    async def replace(self, operator: OperatorProcess) -> None:
        """End what runs politely, and start another one in its place."""
        await self.operator.process.stop()
        self.operator = operator
        await self.start()


async def make_replica(
    stack: AsyncExitStack,
    where: Site,
    folder: Path,
    *,
    name: str,
    namespace: str,
    bucket: Bucket,
    previous: Path | None = None,
    launcher: Sequence[str] = ("incumbent",),
) -> Replica:
    """Return a replica that was not started yet.

    Args:
        stack: ends it, and its proxies.
        where: its site.
        folder: for logs.
        name: its name.
        namespace: of its elections.
        bucket: of its elections.
        previous: the source root of the previous version.
        launcher: which module to run, and what comes before the subcommand.
    """

    async def proxy(url: str) -> Proxy:
        return await stack.enter_async_context(Proxy(int(url.rpartition(":")[2])))

    api = await proxy(where.url)
    links = tuple([await proxy(server.url) for server in bucket.servers])
    first, *others = [f"nats://{link.address}" for link in links]
    clock = folder / f"{name}.clock"
    clock.write_text("0")

    def operator(log: str, sources: Sequence[Path], launcher: Sequence[str]) -> OperatorProcess:
        made = OperatorProcess(
            where,
            folder,
            nats_url=first,
            arguments=(
                *(f"--nats-url={url}" for url in others),
                f"--namespace={namespace}",
                f"--replica={name}",
                *bucket.flags,
            ),
            replica=log,
            kubeconfig=where.kubeconfig_for("operator", server=api.address),
        )
        _run_from(made.process, sources, launcher, clock)
        stack.callback(made.process.kill)
        return made

    new = operator(name, (SOURCES, ROOT / "tests"), launcher)
    old = None
    if previous is not None:
        old = operator(f"{name}-previous", (previous,), ("incumbent",))
    return Replica(where.name, name, new, api, links, clock, new, old)


def _run_from(
    process: Process, sources: Sequence[Path], launcher: Sequence[str], clock: Path
) -> None:
    """Have a process run other sources, start in another module, and have a clock of its own."""
    path = os.pathsep.join(map(str, (STEPPED_CLOCK, *sources)))
    process._environment = {**os.environ, "PYTHONPATH": path, "WALL_CLOCK_STEP": str(clock)}
    at = process._arguments.index("incumbent")
    process._arguments[at : at + 1] = launcher


def previous_version(folder: Path) -> tuple[Path | None, str]:
    """Unpack the operator's previous version, if the history of this tree has one.

    That is the newest tag, or else the newest commit, whose operator is not the present one.

    Args:
        folder: where to.

    Returns:
        Its source root, and its name; or None, and why there is none.
    """
    try:
        for name in (
            *_git("tag", "--sort=-creatordate", "--merged=HEAD").splitlines(),
            *_git("log", "-2", "--format=%h", "--", "operator").splitlines(),
        ):
            if _git("diff", "--name-only", name, "--", "operator"):
                folder.mkdir(parents=True)
                archive = folder / "previous.tar"
                _git("archive", f"--output={archive}", name, "operator")
                subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
                return folder / "operator", name
    except (OSError, subprocess.CalledProcessError):
        return None, "git does not know this tree"
    return None, "the git history holds no other version of the operator"


def _git(*arguments: str) -> str:
    """Return what git prints about this tree."""
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.strip()
