"""What many elections in one operator process come to in hours of light churn.

Pods and elections are deleted and created anew all the time, without controllers. Every sample is
kept in the result as it comes, so that an interrupted soak gives a report, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import nats
from nats.aio.client import Client

from bench import report
from bench.crowd import BUCKET, Crowd
from bench.plots import curves
from bench.report import Measurement, Result, Section, patience, say, table
from bench.scene import PODS, Scene, Usage
from controlplane.processes import Process, free_port

ELECTIONS, TTL = 1000, 30
SETTLE = 30.0
EVERY, POD_EVERY, ELECTION_EVERY = 30.0, 2.0, 60.0
"""Seconds: between samples, between deleted pods, and between deleted elections."""
LEADERS = 1 / 3
"""Of the pods that are deleted."""
LONGEST = 120.0
"""Seconds until all are led before it begins, at most."""
_ESTABLISHED = "01"
"""In /proc/PID/net/tcp."""

KINDS = {
    "resident": "resident memory, MB",
    "tasks": "tasks",
    "handles": "open file descriptors",
    "threads": "threads",
    "connections": "TCP connections",
    "cpu": "CPU, % of a core",
    "consumers": "consumers of the bucket's stream",
    "clients": "connections at the NATS server",
    "subscriptions": "subscriptions at the NATS server",
    "server": "resident memory of the NATS server, MB",
}
"""What a sample holds, beside `at` in seconds and what went wrong; the last four are of the server,
and contain what we look with."""


def measurements(
    *, short: bool, hours: float = 1.0, results: Path = report.RESULTS
) -> list[Measurement]:
    """Return the one.

    Args:
        short: whether it is only to be seen that it works.
        hours: how long.
        results: the folder in which each sample is kept as it comes.
    """
    if short:
        run = partial(
            _measure, elections=4, ttl=3, seconds=4, settle=0, every=0.5, pod=0.5, election=1.5
        )
    else:
        run = partial(
            _measure,
            elections=ELECTIONS,
            ttl=TTL,
            seconds=3600 * hours,
            settle=SETTLE,
            every=EVERY,
            pod=POD_EVERY,
            election=ELECTION_EVERY,
        )
    return [Measurement("soak", partial(run, results=results))]


async def _measure(
    folder: Path,
    *,
    results: Path,
    elections: int,
    ttl: int,
    seconds: float,
    settle: float,
    every: float,
    pod: float,
    election: float,
) -> Result:
    found: Result = {"elections": elections, "ttl": ttl, "asked": seconds, "samples": []}
    before = report.environment()
    async with Scene(folder).running() as scene:
        say(f"elections  {elections} with {PODS} pods each, bucket TTL {ttl} s; creating them")
        async with patience("creating them"):
            await scene.pods(elections)
            await scene.elections(elections)
        port = free_port()
        operator, client = scene.operator(ttl=ttl, port=port), await nats.connect(scene.nats.url)
        try:
            operator.start()
            async with patience("waiting until all are led"):
                await scene.until_all_led(elections, operator)
            async with Crowd(scene).watching() as crowd, patience("under way", every=300):
                await crowd.until_right(limit=LONGEST)
                await asyncio.sleep(settle)
                crowd.begin()
                found["churn"] = {"pods": 0, "leaders": 0, "elections": 0}
                churn = [
                    asyncio.create_task(_over_and_over(pod, partial(_pod, crowd, found["churn"]))),
                    asyncio.create_task(
                        _over_and_over(election, partial(_election, crowd, found["churn"]))
                    ),
                ]
                try:
                    async for sample in _samples(scene, operator, port, client, every, seconds):
                        sample |= {"wrong": len(crowd.wrong), "lost": crowd.lost.total()}
                        sample |= {"twice": len(crowd.twice)}
                        found["samples"].append(sample)
                        report.keep("soak", found, results, before=before)
                        _tell(sample)
                        for task in churn:
                            if task.done():
                                await task  # raises why
                finally:
                    for task in churn:
                        task.cancel()
                    await asyncio.gather(*churn, return_exceptions=True)
        finally:
            await client.close()
            operator.kill()
    return found


async def _over_and_over(every: float, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        await asyncio.gather(asyncio.sleep(every), what())


async def _pod(crowd: Crowd, count: dict[str, int]) -> None:
    """Delete one pod, and create another one in its place."""
    pods = crowd.pods[random.choice(list(crowd.pods))]  # noqa: S311
    lead = random.random() < LEADERS  # noqa: S311
    able = [pod for pod in pods.values() if pod.labelled == lead]
    if able:
        pod = random.choice(able)  # noqa: S311
        await crowd.delete(pod)
        await crowd.create(pod.key)
        count["pods"] += 1
        count["leaders"] += lead


async def _election(crowd: Crowd, count: dict[str, int]) -> None:
    await crowd.recreate(random.choice(list(crowd.pods)))  # noqa: S311
    count["elections"] += 1


async def _samples(
    scene: Scene, operator: Process, port: int, client: Client, every: float, seconds: float
) -> AsyncIterator[dict[str, float]]:
    """Yield what there is, again and again, for so many seconds."""
    began, before = time.monotonic(), Usage.of(operator)
    while before.at - began < seconds:
        await asyncio.sleep(every)
        now, server = Usage.of(operator), await scene.nats.monitor("varz")
        answer = await client.request(f"$JS.API.STREAM.INFO.KV_{BUCKET}", timeout=10)
        yield {
            "at": round(now.at - began, 1),
            "resident": round(now.resident / 2**20, 2),
            "cpu": round(100 * (now.cpu - before.cpu) / (now.at - before.at), 2),
            "tasks": await _tasks(port),
            **_of_process(operator.pid),
            "consumers": json.loads(answer.data)["state"]["consumer_count"],
            "clients": server["connections"],
            "subscriptions": server["subscriptions"],
            "server": round(server["mem"] / 2**20, 2),
        }
        before = now


async def _tasks(port: int) -> int:
    """Return how many tasks the operator has, by its metrics."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return next(int(float(line.split()[1])) for line in lines if line.startswith("incumbent_tasks"))


def _of_process(pid: int) -> dict[str, float]:
    """Return how much of what the system counts a process holds."""
    folder = Path("/proc", str(pid))
    handles = list((folder / "fd").iterdir())
    sockets = set()
    for handle in handles:
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(handle.readlink()).removeprefix("socket:[").rstrip("]"))
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in (folder / "net" / name).read_text().splitlines()[1:]
    ]
    return {
        "handles": len(handles),
        "threads": len(list((folder / "task").iterdir())),
        "connections": sum(line[3] == _ESTABLISHED and line[9] in sockets for line in lines),
    }


def _tell(sample: Mapping[str, float]) -> None:
    say(
        f"{sample['at']:7.0f} s  {sample['resident']:.1f} MB, {sample['handles']} handles,"
        f" {sample['threads']} threads, {sample['connections']} connections,"
        f" {sample['cpu']:.1f} %; {sample['consumers']} consumers; {sample['wrong']} not led,"
        f" {sample['lost']} leases lost, {sample['twice']} times two labels"
    )


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = results["soak"]
    samples: list[Mapping[str, float]] = found["samples"]
    if not samples:
        return Section("Soak", "It was interrupted before the first sample.")
    last, churn = samples[-1], found["churn"]
    rows = []
    for kind, words in KINDS.items():
        values = [sample[kind] for sample in samples]
        rows.append(
            (
                words,
                values[0],
                min(values),
                max(values),
                values[-1],
                f"{_slope(samples, kind):+.2f}",
            )
        )
    head = ("", "first", "least", "most", "last", "per hour")
    text = (
        f"One operator process with {found['elections']} elections of {PODS} pods, bucket TTL"
        f" {found['ttl']} s, for {last['at'] / 3600:.2f} h of {found['asked'] / 3600:.2f} h asked"
        f" for. Meanwhile {churn['pods']} pods were deleted and replaced, {churn['leaders']} of"
        f" them leaders, and {churn['elections']} elections deleted and created. {last['lost']:g}"
        f" leases were lost, {last['twice']:g} elections ever had two labels, and"
        f" {max(sample['wrong'] for sample in samples):g} at most were not led at a sample. The"
        " last column is the slope of the least squares over the second half. What is the server's"
        f" contains what we look with.\n\n{table(head, rows)}"
    )

    def curve(kind: str) -> list[tuple[float, float]]:
        return [(sample["at"] / 60, sample[kind]) for sample in samples]

    def drawn(title: str, *kinds: str) -> str:
        return curves(title, {kind: curve(kind) for kind in kinds}, x="min", y="")

    plots = {
        "soak-memory": drawn("Resident memory, MB: operator and NATS server", "resident", "server"),
        "soak-tasks": drawn("Tasks of the operator", "tasks"),
        "soak-handles": drawn("What the operator holds", "handles", "threads", "connections"),
        "soak-server": drawn("What the NATS server holds", "consumers", "clients", "subscriptions"),
        "soak-cpu": drawn("CPU of the operator, % of a core", "cpu"),
    }
    return Section("Soak", text, plots)


def _slope(samples: Sequence[Mapping[str, float]], kind: str) -> float:
    """Return by how much it grows per hour in the second half of the time."""
    half = [sample for sample in samples if sample["at"] >= samples[-1]["at"] / 2]
    if len(half) < 2:  # noqa: PLR2004 - a line takes two points
        return 0.0
    hours = [sample["at"] / 3600 for sample in half]
    return statistics.linear_regression(hours, [sample[kind] for sample in half]).slope
