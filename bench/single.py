"""One operator process: start, at rest, and how fast it hands over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.plots import cumulative, curves
from bench.report import Measurement, Result, Section, at, say
from bench.scene import PODS, Scene, Usage, in_turns
from controlplane.kube import Kube
from controlplane.nodes import NodeAgent
from controlplane.processes import Process

NAMESPACE = "bench"
TTL = 30


def measurements(*, short: bool) -> list[Measurement]:
    """Return the one."""
    if short:
        run = partial(_measure, elections=3, settle=0, rest=1, deletions=2)
    else:
        run = partial(_measure, elections=100, settle=15, rest=60, deletions=200)
    return [Measurement("single", run)]


async def _measure(
    folder: Path, *, elections: int, settle: float, rest: float, deletions: int
) -> Result:
    scene = Scene(folder, controllers=True)
    async with scene.running(), NodeAgent(scene.site, stop_seconds=0.5):
        await scene.kube.namespace(NAMESPACE)
        names = [f"e{number}" for number in range(elections)]
        say(f"elections  {elections} with {PODS} pods each, bucket TTL {TTL} s; starting them")
        await in_turns((_create(scene, name) for name in names), width=8)
        operator = scene.operator(ttl=TTL)
        began = time.monotonic()
        operator.start()
        try:
            await scene.until_all_led(elections, operator)
            start = time.monotonic() - began
            say(f"start      all led {start:.1f} s after the process began")
            await asyncio.sleep(settle)
            found = await _rest(scene, operator, rest)
            taken = await _deletions(deletions, scene.kube, names)
        finally:
            await operator.stop()
    return {"elections": elections, "start": start, "rest": found, "handovers": taken}


async def _create(scene: Scene, name: str) -> None:
    await scene.kube.deployment(NAMESPACE, name, replicas=PODS)
    await scene.election(NAMESPACE, name)


async def _rest(scene: Scene, operator: Process, seconds: float) -> Result:
    position, before = scene.site.audit.position(), Usage.of(operator)
    await asyncio.sleep(seconds)
    after, writes = Usage.of(operator), scene.writes(position)
    share = 100 * (after.cpu - before.cpu) / (after.at - before.at)
    resident = after.resident / 2**20
    say(
        f"at rest    {resident:.0f} MB resident, {share:.1f} % of a core,"
        f" {writes} write requests to the API server in {seconds} s"
    )
    return {"resident": resident, "cpu": share, "writes": writes, "seconds": seconds}


async def _deletions(count: int, kube: Kube, names: Sequence[str]) -> list[float]:
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
    say(
        f"hand-over  {count} leaders deleted one at a time, deletion event to new label:"
        f" {_shares(taken)}"
    )
    return taken


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


async def _leader(kube: Kube, name: str) -> str:
    while True:
        pods = await kube.pods(NAMESPACE, f"app={name},incumbent.dev/{name}=leader")
        if pods:
            return str(pods[0]["metadata"]["name"])
        await asyncio.sleep(0.05)


def _shares(taken: Sequence[float]) -> str:
    shares = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
    return ", ".join(f"{name} {1000 * at(taken, share):.0f} ms" for name, share in shares)


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = results["single"]
    rest, taken = found["rest"], found["handovers"]
    text = (
        f"- {found['elections']} elections with {PODS} pods each, bucket TTL {TTL} s\n"
        f"- start: all led {found['start']:.1f} s after the process began\n"
        f"- at rest: {rest['resident']:.0f} MB resident, {rest['cpu']:.1f} % of a core,"
        f" {rest['writes']} write requests to the API server in {rest['seconds']} s\n"
        f"- hand-over: {len(taken)} leaders deleted one at a time, deletion event to new label:"
        f" {_shares(taken)}"
    )
    curve = [(1000 * a, b) for a, b in cumulative(taken)]
    title = "Hand-overs by how long they took, deletion event to new label"
    drawing = curves(title, {"Incumbent": curve}, x="at most, ms", y="% of all")
    return Section("One operator", text, {"hand-over": drawing})
