"""What measurements share: servers, pods without a kubelet, elections, and what processes use."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.kube import Kube, has_condition
from controlplane.natsserver import NatsServer
from controlplane.processes import Process, free_port
from controlplane.servers import ControlPlane
from controlplane.sites import WRITES, Site
from incumbent.kubernetes.resource import API_VERSION, KIND, PLURAL, elections_path, pods_path

ROOT = Path(__file__).parents[1]
PODS = 3
"""Candidates of each election."""
PER_NAMESPACE = 100
"""Elections."""
_AT_ONCE = 16
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    at: float
    cpu: float
    """Seconds."""
    resident: int
    """Bytes."""

    @classmethod
    def of(cls, process: Process) -> Usage:
        """Read it from the system: of the process and of those that it has started."""
        ticks, pages = _taken(process.pid)
        for child in _children(process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                ticks, pages = (a + b for a, b in zip((ticks, pages), _taken(child), strict=True))
        return cls(time.monotonic(), ticks / _TICKS, pages * _PAGE)


def _taken(pid: int) -> tuple[int, int]:
    """Return ticks of CPU and resident pages of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return int(fields[11]) + int(fields[12]), pages


def _children(pid: int) -> Iterator[int]:
    """Yield the processes below another one."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in map(int, path.read_text().split()):
                yield child
                yield from _children(child)


async def used(seconds: float, processes: Mapping[str, Process]) -> dict[str, dict[str, float]]:
    """Return the share of a core in percent and the resident MB of each process over this time."""
    before = {name: Usage.of(process) for name, process in processes.items()}
    await asyncio.sleep(seconds)
    after = {name: Usage.of(process) for name, process in processes.items()}
    return {
        name: {
            "cpu": round(100 * (now.cpu - before[name].cpu) / (now.at - before[name].at), 2),
            "resident": round(now.resident / 2**20, 1),
        }
        for name, now in after.items()
    }


def shares(usage: Mapping[str, Mapping[str, float]]) -> str:
    """Return the shares of a core that processes took, as `used` has them."""
    return ", ".join(f"{name} {one['cpu']:.1f} %" for name, one in usage.items())


def pod_path(namespace: str, name: str) -> str:
    """Return the path of a pod."""
    return f"{pods_path(namespace)}/{name}"


def election_path(namespace: str, name: str) -> str:
    """Return the path of an election."""
    return f"{elections_path(namespace)}/{name}"


class Scene:
    """An API server with etcd, and NATS, all fresh.

    Args:
        folder: for everything that they write.
        controllers: whether controller-manager and scheduler run.
        nats: of another scene, which runs meanwhile, to be a second site on it; an own one by
            default.
    """

    def __init__(
        self, folder: Path, *, controllers: bool = False, nats: NatsServer | None = None
    ) -> None:
        self.folder = folder
        self._owns_nats = nats is None
        self.nats = nats or NatsServer(folder / "nats")
        self.plane = ControlPlane(folder, controllers=controllers)
        self.site: Site = self.plane.site
        self.kube = Kube(self.site)
        self._addresses = itertools.count(1)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Scene]:
        """Start everything, with our kind; end everything."""
        nats = self.nats if self._owns_nats else contextlib.nullcontext()
        async with nats, self.plane, self.kube:
            for path in sorted((ROOT / "crds").glob("*.yaml")):
                await self.kube.apply_definitions(path.read_text())
            yield self

    @property
    def servers(self) -> dict[str, Process]:
        """The processes that elections burden."""
        return {
            "etcd": self.plane.etcd.process,
            "kube-apiserver": self.plane.api_server,
            "nats-server": self.nats.process,
        }

    def operator(
        self, *, ttl: int, name: str = "operator", port: int = 0, arguments: Sequence[str] = ()
    ) -> Process:
        """Return an operator of this scene, not started; `port` is where it shows its metrics."""
        return Process(
            [
                *(sys.executable, "-m", "incumbent", "operator"),
                f"--kubeconfig={self.site.kubeconfig_for('operator')}",
                f"--nats-url={self.nats.url}",
                "--create-bucket",
                f"--bucket-ttl={ttl}s",
                f"--http-address=127.0.0.1:{port or free_port()}",
                f"--replica=bench-{secrets.token_hex(2)}",
                *arguments,
            ],
            name=name,
            folder=self.folder,
        )

    async def pods(
        self, elections: int, *, candidates: int = PODS, per_namespace: int = PER_NAMESPACE
    ) -> float:
        """Create the candidates of so many elections, Running and Ready; return the seconds."""
        began = time.monotonic()
        for number in range(-(-elections // per_namespace)):
            # In place of the controllers.
            metadata = {"metadata": {"name": f"bench-{number}"}}
            await self.kube.create("/api/v1/namespaces", metadata)
            account = {"metadata": {"name": "default"}}
            await self.kube.create(f"/api/v1/namespaces/bench-{number}/serviceaccounts", account)
        await in_turns(
            self.pod(f"bench-{number // per_namespace}", f"e{number}", f"e{number}-{pod}")
            for number in range(elections)
            for pod in range(candidates)
        )
        return time.monotonic() - began

    async def pod(self, namespace: str, election: str, name: str) -> None:
        """Create a candidate, Running and Ready.

        It is bound to a node that is not there, and nobody but us writes its status.
        """
        address = next(self._addresses)
        body = {
            "metadata": {"name": name, "labels": {"app": election}},
            "spec": {
                "nodeName": "none",
                "automountServiceAccountToken": False,
                "containers": [{"name": "main", "image": "none.invalid/none"}],
            },
        }
        status = {
            "phase": "Running",
            "podIP": f"10.{address >> 16}.{address >> 8 & 255}.{address & 255}",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        await self.kube.create(pods_path(namespace), body)
        await self.kube.patch(f"{pod_path(namespace, name)}/status", {"status": status})

    async def elections(self, count: int, *, per_namespace: int = PER_NAMESPACE) -> float:
        """Create so many elections over the pods that `pods` made; return the seconds."""
        began = time.monotonic()
        await in_turns(
            self.election(f"bench-{number // per_namespace}", f"e{number}")
            for number in range(count)
        )
        return time.monotonic() - began

    async def election(self, namespace: str, name: str) -> None:
        """Create an election over the pods that are labelled `app: name`."""
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": name}}},
        }
        await self.kube.create(elections_path(namespace), body)

    async def until_all_led(self, count: int, process: Process) -> None:
        """Return when so many elections show a leader, of whichever site.

        Raises:
            ControlPlaneError: the process ended before, or it takes longer than it ever should.
        """
        waiting = asyncio.create_task(self._until_led(count))

        async def done() -> bool:
            return waiting.done()

        try:
            await process.wait_until(done, timeout=120 + count / 5)
            await waiting
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def _until_led(self, count: int) -> None:
        path, led = f"/apis/{API_VERSION}/{PLURAL}", set()
        while True:
            found = await self.kube.get(path)
            led = {_name(one) for one in found["items"] if _led(one)}
            if len(led) >= count:
                return
            version = found["metadata"]["resourceVersion"]
            # A watch and not more lists, which would cost more than what is measured.
            watch = self.kube.watch(path, resourceVersion=version)
            async with contextlib.aclosing(watch):
                async for kind, one in watch:
                    if kind == "ERROR":
                        break
                    if _led(one):
                        led.add(_name(one))
                        if len(led) >= count:
                            return

    def writes(self, position: int, *, user: str = "operator") -> int:
        """Return how many write requests of a user came after a position of the audit log."""
        return len(self.site.audit.requests(since=position, user=user, verbs=WRITES))

    async def written(self) -> int:
        """Return how many write requests the API server has had so far, whoever made them."""
        assert self.kube._session  # noqa: SLF001, S101 - its answer is no JSON
        async with self.kube._session.get("/metrics") as answer:  # noqa: SLF001
            text = await answer.text()
        verbs = tuple(f'verb="{verb}"' for verb in ("POST", "PUT", "PATCH", "DELETE", "APPLY"))
        lines = (line for line in text.splitlines() if line.startswith("apiserver_request_total{"))
        return sum(
            int(float(line.rpartition(" ")[2]))
            for line in lines
            if any(verb in line for verb in verbs)
        )


async def in_turns(work: Iterable[Coroutine[Any, Any, None]], *, width: int = _AT_ONCE) -> None:
    """Await all, so many at a time."""
    waiting = iter(work)

    async def some() -> None:
        for one in waiting:
            await one

    await asyncio.gather(*(some() for _ in range(width)))


def _name(election: Mapping[str, Any]) -> tuple[str, str]:
    return election["metadata"]["namespace"], election["metadata"]["name"]


def _led(election: Mapping[str, Any]) -> bool:
    return has_condition(election, "Ready")
