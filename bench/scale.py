"""Thousands of elections in one operator process: start, at rest, restart; the most also in two.

How late renewals are is taken from the records themselves, which say when they were sent: the time
between two renewals of a key, less the interval. That is on the operator's own clock, and nothing
here delays it.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import nats
from nats.aio.msg import Msg

from bench.plots import cumulative, curves
from bench.report import Measurement, Result, Section, at, say, table
from bench.scene import PER_NAMESPACE, PODS, Scene, Usage, shares, used
from controlplane.processes import Process
from incumbent.campaign import wire

SIZES = (1000, 5000, 10000)
TTL = 30
SETTLE, LOOK, PROFILE = 30, 60, 20
"""Seconds: before the look at the settled state, for it, and for the profile."""
_POINTS = 200


def measurements(*, short: bool) -> list[Measurement]:
    """Return one for each size; and 1,000 elections in one namespace."""
    if short:
        quick = partial(_measure, elections=4, ttl=3, settle=1, look=3, profile=0)
        return [Measurement("scale-4", quick)]
    usual = partial(_measure, ttl=TTL, settle=SETTLE, look=LOOK, profile=PROFILE)
    found = [
        Measurement(f"scale-{size}", partial(usual, elections=size, second=size == max(SIZES)))
        for size in SIZES
    ]
    together = partial(usual, elections=1000, per_namespace=1000)
    return [*found, Measurement("scale-1000-one-namespace", together)]


async def _measure(
    folder: Path,
    *,
    elections: int,
    ttl: int,
    settle: float,
    look: float,
    profile: float,
    per_namespace: int = PER_NAMESPACE,
    second: bool = False,
) -> Result:
    async with Scene(folder).running() as scene:
        say(f"elections  {elections} with {PODS} pods each, bucket TTL {ttl} s; creating them")
        found: Result = {"elections": elections, "ttl": ttl, "per_namespace": per_namespace}
        found["pods_created_in"] = await scene.pods(elections, per_namespace=per_namespace)
        await scene.elections(elections, per_namespace=per_namespace)
        operator = scene.operator(ttl=ttl)
        renewals = Renewals()
        client = await nats.connect(scene.nats.url)
        await client.subscribe("$KV.LEADER_ELECTION.>", cb=renewals.take)
        try:
            found["start"] = await _start(scene, operator, elections)
            await asyncio.sleep(settle)
            found["rest"] = await _rest(scene, operator, renewals, look=look, interval=ttl / 3)
            if profile and shutil.which("py-spy"):
                found["profile"] = await _profile(operator, folder, profile)
            found["restart"] = await _restart(scene, operator, renewals, elections)
            if second:
                found["two"] = await _second(scene, operator, ttl=ttl, settle=settle, look=look)
        finally:
            operator.kill()
            await client.close()
    return found


class Renewals:
    """The writes of a bucket, as anybody sees who subscribes to its subjects."""

    def __init__(self) -> None:
        self.count = 0
        self.distances: list[float] = []
        """Seconds between two writes of one key by one replica."""
        self.replicas: dict[str, str] = {}
        """Who wrote a key last."""
        self._sent: dict[str, tuple[str, float]] = {}
        self.news = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """Take in one write."""
        headers = message.headers or {}
        replica, sent_at = headers.get(wire.REPLICA, ""), float(headers.get(wire.SENT_AT, 0))
        self.count += 1
        before = self._sent.get(message.subject)
        if before is not None and before[0] == replica:
            self.distances.append(sent_at - before[1])
        self._sent[message.subject] = (replica, sent_at)
        self.replicas[message.subject] = replica
        self.news.set()


async def _start(scene: Scene, operator: Process, elections: int) -> Result:
    position, began = scene.site.audit.position(), time.monotonic()
    operator.start()
    await scene.until_all_led(elections, operator)
    seconds = time.monotonic() - began
    usage = (await used(0.1, {"operator": operator}))["operator"]
    writes = scene.writes(position)
    cpu = Usage.of(operator).cpu
    say(
        f"start      all led after {seconds:.1f} s: {writes} writes at the API server,"
        f" {writes / seconds:.0f}/s; {cpu:.1f} s of CPU, {usage['resident']:.0f} MB"
    )
    return {"seconds": seconds, "writes": writes, "cpu": cpu, "resident": usage["resident"]}


async def _rest(
    scene: Scene, operator: Process, renewals: Renewals, *, look: float, interval: float
) -> Result:
    position = scene.site.audit.position()
    renewals.count, renewals.distances = 0, []
    usage = await used(look, {**scene.servers, "operator": operator})
    writes = renewals.count / look
    late = sorted(max(0.0, distance - interval) for distance in renewals.distances)
    result = {
        "usage": usage,
        "bucket_writes": round(writes, 1),
        "api_writes": scene.writes(position),
        "interval": interval,
        "late": {f"p{share}": at(late, share / 100) for share in (50, 90, 99, 100) if late},
        "late_curve": [late[int(n * len(late) / _POINTS)] for n in range(_POINTS) if late],
    }
    mine = usage["operator"]
    say(f"at rest    {mine['resident']:.0f} MB resident; of a core: {shares(usage)}")
    say(f"           {writes:.1f} bucket writes/s, {result['api_writes']} API writes")
    if late:
        say(
            f"lateness   p50 {1000 * at(late, 0.5):.1f} ms, p99 {1000 * at(late, 0.99):.1f} ms"
            f" ({100 * at(late, 0.99) / interval:.2f} % of the interval), max"
            f" {1000 * late[-1]:.1f} ms of {len(late)} renewals"
        )
    return result


async def _restart(scene: Scene, operator: Process, renewals: Renewals, elections: int) -> Result:
    """End it in order, start it, and wait until it has renewed every record."""
    stopping = time.monotonic()
    await operator.stop(timeout=30)
    old, position, began = (
        set(renewals.replicas.values()),
        scene.site.audit.position(),
        time.monotonic(),
    )
    operator.start()
    async with asyncio.timeout(600):
        while sum(replica not in old for replica in renewals.replicas.values()) < elections:
            renewals.news.clear()
            await renewals.news.wait()
            await asyncio.sleep(0.05)
    seconds = time.monotonic() - began
    result = {
        "stop": began - stopping,
        "seconds": seconds,
        "cpu": Usage.of(operator).cpu,
        "writes": scene.writes(position),
        "resident": (await used(0.1, {"operator": operator}))["operator"]["resident"],
    }
    say(
        f"restart    ended in {result['stop']:.1f} s; every record renewed {seconds:.1f} s after"
        f" the new start; {result['cpu']:.1f} s of CPU, {result['writes']} API writes,"
        f" {result['resident']:.0f} MB"
    )
    return result


async def _second(
    scene: Scene, operator: Process, *, ttl: int, settle: float, look: float
) -> Result:
    """Start a second replica beside the first one, and look at both at rest."""
    other = scene.operator(ttl=ttl, name="second")
    other.start()
    try:
        await asyncio.sleep(2 * settle)
        position = scene.site.audit.position()
        usage = await used(look, {**scene.servers, "steward": operator, "standby": other})
        writes = scene.writes(position)
    finally:
        other.kill()
    say(f"two        of a core: {shares(usage)}; standby {usage['standby']['resident']:.0f} MB")
    return {"usage": usage, "api_writes": writes}


async def _profile(process: Process, folder: Path, seconds: float) -> list[tuple[str, float]]:
    """Return the functions in which most of the time goes itself, with their shares in percent."""
    path = folder / "profile.txt"
    command = ["py-spy", "record", "--pid", str(process.pid), "--duration", str(int(seconds))]
    running = await asyncio.create_subprocess_exec(
        *command,
        "--format",
        "raw",
        "--output",
        str(path),
        "--nonblocking",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await running.wait()
    own: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.exists() else ():
        stack, _, count = line.rpartition(" ")
        own[stack.rpartition(";")[2]] += int(count)
    whole = sum(own.values())
    return [(name, round(100 * count / whole, 1)) for name, count in own.most_common(25)]


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    return Section("Scale", _text(results), _plots(results))


def _text(results: Mapping[str, Result]) -> str:
    head = (
        "elections",
        "per namespace",
        "first start",
        "API writes/s then",
        "CPU at rest",
        "MB at rest",
        "bucket writes/s",
        "renewal late, p99",
        "of the interval",
        "restart",
        "MB after it",
    )
    rows = []
    for found in results.values():
        start, rest = found["start"], found["rest"]
        late = rest["late"].get("p99", 0.0)
        rows.append(
            (
                found["elections"],
                found["per_namespace"],
                f"{start['seconds']:.1f} s",
                f"{start['writes'] / start['seconds']:.0f}",
                f"{rest['usage']['operator']['cpu']:.1f} %",
                f"{rest['usage']['operator']['resident']:.0f}",
                rest["bucket_writes"],
                f"{1000 * late:.0f} ms",
                f"{100 * late / rest['interval']:.2f} %",
                f"{found['restart']['seconds']:.1f} s",
                f"{found['restart']['resident']:.0f}",
            )
        )
    text = (
        f"One operator process, {PODS} candidates for each election, bucket TTL {TTL} s. A first"
        " start labels every pod and writes every status, and is bound by the API server; a"
        " restart finds all settled, and counts until every record is renewed by the new process."
        f" CPU is a share of one core.\n\n{table(head, rows)}"
    )
    for found in results.values():
        if two := found.get("two"):
            usage = two["usage"]
            text += (
                f"\n\nTwo replicas with {found['elections']} elections at rest: the steward takes"
                f" {usage['steward']['cpu']:.1f} % of a core and"
                f" {usage['steward']['resident']:.0f} MB, the standby"
                f" {usage['standby']['cpu']:.1f} % and {usage['standby']['resident']:.0f} MB; they"
                f" sent {two['api_writes']} write requests to the API server."
            )
    profiled = [found for found in results.values() if found.get("profile")]
    if profiled:
        lines = [(f"`{name}`", f"{share} %") for name, share in profiled[-1]["profile"][:12]]
        text += (
            f"\n\nWhere the time goes at rest with {profiled[-1]['elections']} elections, by the"
            f" functions' own time:\n\n{table(('function', 'share'), lines)}"
        )
    return text


def _plots(results: Mapping[str, Result]) -> dict[str, str]:
    spread = {
        f"{r['elections']:,}": r
        for r in results.values()
        if r["per_namespace"] == PER_NAMESPACE or len(results) == 1
    }
    late = {
        name: [(1000 * a, b) for a, b in cumulative(found["rest"]["late_curve"])]
        for name, found in spread.items()
        if found["rest"]["late_curve"]
    }
    drawn = {}
    if late:
        title = "Renewals by lateness: elections in one process"
        drawn["scale-lateness"] = curves(title, late, x="late by at most, ms", y="% of all")
    if len(spread) > 1:

        def growth(*path: str) -> list[tuple[float, float]]:
            return [(0, 0), *((r["elections"], _at(r, *path)) for r in spread.values())]

        drawn["scale-cpu"] = curves(
            "CPU at rest",
            {
                "operator": growth("rest", "usage", "operator", "cpu"),
                "nats-server": growth("rest", "usage", "nats-server", "cpu"),
            },
            x="elections",
            y="% of a core",
        )
        drawn["scale-memory"] = curves(
            "Resident memory at rest",
            {
                "after a first start": growth("rest", "usage", "operator", "resident"),
                "after a restart": growth("restart", "resident"),
            },
            x="elections",
            y="MB",
        )
        drawn["scale-start"] = curves(
            "Start",
            {"first start": growth("start", "seconds"), "restart": growth("restart", "seconds")},
            x="elections",
            y="s",
        )
    return drawn


def _at(found: Any, *path: str) -> float:
    for name in path:
        found = found[name]
    return float(found)
