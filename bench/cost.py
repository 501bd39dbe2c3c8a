"""What elections cost at rest, beside those of client-go's LeaderElector.

One control plane, three times the same look at it: idle, with Leases, with an operator whose bucket
has the TTL of these Leases. Of everything the idle one's share is taken off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.plots import bars
from bench.report import Measurement, Result, Section, say, table
from bench.scene import Scene, shares, used
from controlplane import build
from controlplane.processes import Process

SIZES = (500, 1000)
TTL = 15
"""Seconds: the lease duration of client-go's defaults."""
SETTLE, LOOK = 15, 45
"""Seconds before and for each look."""
CLIENTS = ("Leases", "Incumbent")


def measurements(*, short: bool) -> list[Measurement]:
    """Return one for each size."""
    if short:
        return [Measurement("cost-3", partial(_measure, elections=3, settle=1, look=1))]
    return [
        Measurement(f"cost-{size}", partial(_measure, elections=size, settle=SETTLE, look=LOOK))
        for size in SIZES
    ]


async def _measure(folder: Path, *, elections: int, settle: float, look: float) -> Result:
    async with Scene(folder).running() as scene:
        seconds = await scene.pods(elections)
        say(f"pods       {3 * elections} created in {seconds:.1f} s")
        found: Result = {"elections": elections, "pods_created_in": seconds}
        # What the creation of so many pods leaves to do has to end first.
        await asyncio.sleep(2 * settle)
        found["Idle"] = await _look(scene, look)

        client = Process(
            [
                build.lease(),
                f"--kubeconfig={scene.site.kubeconfig_for('node-agent')}",  # not in the audit log
                "--namespace=bench-0",
                f"--elections={elections}",
            ],
            name="lease",
            folder=folder,
        )
        began = time.monotonic()
        client.start()
        try:
            await client.wait_until(partial(_said, client, "all led"), timeout=300)
            say(f"Leases     all {elections} led after {time.monotonic() - began:.1f} s")
            await asyncio.sleep(settle)
            found["Leases"] = await _look(scene, look, client=client)
            found["Leases"]["lost"] = client.log.read_text().count("lost")
        finally:
            client.kill()

        await scene.elections(elections)
        operator, position = scene.operator(ttl=TTL), scene.site.audit.position()
        began = time.monotonic()
        operator.start()
        try:
            await scene.until_all_led(elections, operator)
            found["start"] = time.monotonic() - began
            found["start_writes"] = scene.writes(position)
            say(f"Incumbent  all {elections} led after {found['start']:.1f} s")
            await asyncio.sleep(settle)
            position = scene.site.audit.position()
            found["Incumbent"] = await _look(scene, look, client=operator)
            found["Incumbent"]["audited"] = scene.writes(position)
        finally:
            operator.kill()
    for line in _lines(found):
        say(line)
    return found


async def _said(process: Process, text: str) -> bool:
    return text in process.log.read_text()


async def _look(scene: Scene, seconds: float, *, client: Process | None = None) -> dict[str, Any]:
    processes = scene.servers | ({"client": client} if client is not None else {})
    before, began = await scene.written(), time.monotonic()
    usage = await used(seconds, processes)
    writes = (await scene.written() - before) / (time.monotonic() - began)
    say(f"           of a core: {shares(usage)}; {writes:.1f} API writes/s")
    return {"usage": usage, "writes": round(writes, 2)}


def above(found: Mapping[str, Any], client: str) -> dict[str, float]:
    """Return the shares of a core that a client's elections take, by process."""
    idle, busy = found["Idle"]["usage"], found[client]["usage"]
    return {
        name: max(0.0, share["cpu"] - idle.get(name, {"cpu": 0})["cpu"])
        for name, share in busy.items()
    }


def _lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for client in CLIENTS:
        taken = above(found, client)
        parts = ", ".join(f"{name} {share:.1f} %" for name, share in taken.items())
        lines.append(
            f"{client:10} {sum(taken.values()):.1f} % of a core above idle ({parts}),"
            f" {found[client]['writes'] - found['Idle']['writes']:.1f} API writes/s,"
            f" client {found[client]['usage']['client']['resident']:.0f} MB"
        )
    lines.append(f"ratio      Incumbent takes {ratio(found)} of the CPU that Leases take")
    return lines


def ratio(found: Mapping[str, Any]) -> str:
    """Return what Incumbent's elections take of the CPU that Leases take, as a fraction."""
    leases, incumbent = (sum(above(found, client).values()) for client in CLIENTS)
    return f"1/{leases / incumbent:.1f}" if leases and incumbent else "an unknown share"


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    head = (
        "",
        "elections",
        "etcd",
        "kube-apiserver",
        "nats-server",
        "client",
        "sum",
        "API writes/s",
        "client MB",
    )
    rows, plots = [], {}
    for found in results.values():
        count = found["elections"]
        for client in CLIENTS:
            taken = above(found, client)
            rows.append(
                (
                    client,
                    count,
                    *(f"{taken[name]:.1f} %" for name in head[2:6]),
                    f"{sum(taken.values()):.1f} %",
                    f"{found[client]['writes'] - found['Idle']['writes']:.1f}",
                    f"{found[client]['usage']['client']['resident']:.0f}",
                )
            )
        plots[f"cost-{count}"] = bars(
            f"CPU of {count} elections at rest, above the idle control plane",
            {client: above(found, client) for client in CLIENTS},
            unit="% of a core",
        )
    ratios = "; ".join(
        f"at {found['elections']} elections Incumbent takes {ratio(found)} of the CPU, and its"
        f" operator sent {found['Incumbent']['audited']} write requests to the API server"
        for found in results.values()
    )
    starts = "; ".join(
        f"{found['elections']} elections were led {found['start']:.1f} s after the operator's start"
        f" ({found['start_writes']} writes)"
        for found in results.values()
    )
    text = (
        "client-go's `LeaderElector` with its defaults (15, 10 and 2 s), all members in one"
        f" process, and an operator whose bucket has a TTL of {TTL} s, one after the other on the"
        " same control plane. Shares of a core above that control plane while idle.\n\n"
        f"{table(head, rows)}\n\nRatio: {ratios}.\n\nFirst start: {starts}."
    )
    return Section("Cost at rest", text, plots)
