"""What much at once does to many elections in one operator process.

There are no controllers: a pod is deleted at once, and another one is created in its place. Each
storm begins when the one before is over, on the same elections.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from bench.crowd import Crowd, Meter
from bench.plots import cumulative, curves
from bench.report import Measurement, Result, Section, at, patience, say, spread, table
from bench.scene import PODS, Scene, in_turns
from controlplane.processes import Process

ELECTIONS, ROLLING, TTL = 1000, 200, 30
SETTLE, AFTER = 30.0, 30.0
"""Seconds: after the start, and after each storm before its memory is read."""
LONGEST = 120.0
"""Seconds after that in which all have to be led, or it is said how many are not."""
AT_ONCE = 64
"""Requests with which leaders are deleted."""
_CONTROLLERS = 2
"""Requests with which what replaces them is created: about the pace of a kube-controller-manager,
whose default is 20 a second."""
_SAMPLE = 0.25
_POINTS = 200
STORMS = {
    "leaders": "all leader pods deleted at once",
    "nats": "NATS killed, and started on its store",
    "api": "the API server killed and started; etcd stays",
    "rolling": "rolling updates of some elections at once",
}


def measurements(*, short: bool) -> list[Measurement]:
    """Return the one."""
    if short:
        run = partial(_measure, elections=4, rolling=2, ttl=5, settle=0.5, after=1)
    else:
        run = partial(
            _measure, elections=ELECTIONS, rolling=ROLLING, ttl=TTL, settle=SETTLE, after=AFTER
        )
    return [Measurement("storm", run)]


async def _measure(
    folder: Path, *, elections: int, rolling: int, ttl: int, settle: float, after: float
) -> Result:
    found: Result = {"elections": elections, "rolling": rolling, "ttl": ttl, "after": after}
    async with Scene(folder).running() as scene:
        say(f"elections  {elections} with {PODS} pods each, bucket TTL {ttl} s; creating them")
        async with patience("creating them"):
            await scene.pods(elections)
            await scene.elections(elections)
        operator = scene.operator(ttl=ttl)
        try:
            await _start(scene, operator, elections)
            async with Crowd(scene).watching() as crowd:
                await crowd.until_right(limit=LONGEST)
                async with patience("settling"):
                    await asyncio.sleep(settle)
                found["storms"] = {}
                for name, storm in (
                    ("leaders", partial(_leaders, crowd)),
                    ("nats", scene.nats.restart),
                    ("api", partial(_api_server, scene)),
                    ("rolling", partial(_rolling, crowd, rolling)),
                ):
                    say(f"{name:<10} {STORMS[name]}")
                    one = await _storm(scene, crowd, operator, storm, after=after)
                    found["storms"][name] = one
                    for line in _told(one):
                        say(f"           {line}")
        finally:
            operator.kill()
    return found


async def _start(scene: Scene, operator: Process, elections: int) -> None:
    operator.start()
    async with patience("waiting until all are led"):
        await scene.until_all_led(elections, operator)


async def _storm(
    scene: Scene,
    crowd: Crowd,
    operator: Process,
    storm: Callable[[], Awaitable[None]],
    *,
    after: float,
) -> Result:
    """Let it come, and look until some time after it is over."""
    crowd.begin()
    position, began = scene.site.audit.position(), time.monotonic()
    async with Meter(operator, every=_SAMPLE).running() as meter, patience("looking"):
        await storm()
        ended = time.monotonic()
        crowd.await_writes()
        await asyncio.sleep(after)
        await crowd.done()
        all_led = await crowd.until_right(limit=LONGEST)
    gaps = crowd.gaps
    return {
        "seconds": ended - began,
        "led": max(0.0, crowd.right_since - ended) if all_led else None,
        "renewed": crowd.written_at - ended if crowd.all_written else None,
        "left": len(crowd.wrong),
        "lost": crowd.lost.total(),
        "terms": Counter(crowd.terms.values()),
        "markers": dict(crowd.markers),
        "twice": len(crowd.twice),
        "bare": len(gaps),
        "gaps": [at(gaps, n / _POINTS) for n in range(_POINTS + 1)] if gaps else [],
        "memory": meter.memory,
        "curve": meter.curve(),
        "cpu": meter.cpu,
        "writes": scene.writes(position),
    }


async def _leaders(crowd: Crowd) -> None:
    """Delete every leader; over when the last is. What replaces them is created after that."""
    leaders = [pod for key in crowd.pods if (pod := crowd.leader(key)) is not None]
    await in_turns((crowd.delete(pod) for pod in leaders), width=AT_ONCE)
    replacements = (crowd.create(pod.key) for pod in leaders)
    crowd.later(in_turns(replacements, width=_CONTROLLERS))


async def _api_server(scene: Scene) -> None:
    scene.plane.kill_api_server()
    await scene.plane.start_api_server()


async def _rolling(crowd: Crowd, count: int) -> None:
    """Replace every pod of so many elections, one at a time for each, all elections at once."""

    async def roll(key: str) -> None:
        for pod in list(crowd.pods[key].values()):
            await crowd.create(key, template="new")
            await crowd.delete(pod)

    await in_turns(map(roll, list(crowd.pods)[:count]), width=count)


def _told(one: Result) -> list[str]:
    """Return what one storm did, as lines."""
    memory = one["memory"]
    markers = ", ".join(f"{count} {name}" for name, count in one["markers"].items())
    bare = f": {spread(one['gaps'])}" if one["gaps"] else ""
    text = (
        f"{one['seconds']:.1f} s; then all led after {after_it(one, 'led')}, all records written"
        f" after {after_it(one, 'renewed')}\n"
        f"{one['lost']} leases lost; {one['twice']} elections with two labels; terms begun:"
        f" {_terms(one)}; markers: {markers or 'none'}\n"
        f"without a label: {one['bare']} elections{bare}\n"
        f"{memory['before']:.0f} MB before, {memory['peak']:.0f} at most, {memory['after']:.0f}"
        f" after it ({memory['after'] / memory['before']:.2f}); {one['cpu']:.1f} s of CPU,"
        f" {one['writes']} API writes"
    )
    return text.splitlines()


def after_it(one: Result, what: str) -> str:
    """Return after how many seconds something was so, or that it was not while we looked."""
    if one[what] is not None:
        return f"{one[what]:.1f} s"
    return f"- ({one['left']} are not)" if what == "led" else "-"


def _terms(one: Result) -> str:
    """Return how many elections began how many terms."""
    counts = sorted((int(times), count) for times, count in one["terms"].items())
    return ", ".join(f"{times} in {count} elections" for times, count in counts) or "none"


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = results["storm"]
    storms: dict[str, Result] = found["storms"]
    head = (
        "storm",
        "took",
        "leases lost",
        "two labels",
        "all led after",
        "all records written after",
        "elections without a label",
        "p50",
        "p99",
        "max",
        "MB before",
        "peak",
        "after",
        "ratio",
        "CPU",
        "API writes",
    )
    rows = []
    for name, one in storms.items():
        memory, gaps = one["memory"], one["gaps"]
        rows.append(
            (
                STORMS[name],
                f"{one['seconds']:.1f} s",
                one["lost"],
                one["twice"],
                after_it(one, "led"),
                after_it(one, "renewed"),
                one["bare"],
                *(f"{at(gaps, s):.2f} s" if gaps else "-" for s in (0.5, 0.99, 1.0)),
                *(f"{memory[when]:.0f}" for when in ("before", "peak", "after")),
                f"{memory['after'] / memory['before']:.2f}",
                f"{one['cpu']:.1f} s",
                one["writes"],
            )
        )
    text = (
        f"One operator process with {found['elections']} elections of {PODS} pods, bucket TTL"
        f" {found['ttl']} s; {found['rolling']} of them in the rolling updates. A lease is lost"
        " when a new term begins although the holder's pod is still there. Times without a label"
        " are those of the elections that were without one. All is led when each election has"
        " exactly one label, on the pod that its record names; this time, and that until the last"
        " record was renewed, count from the end of the storm (at rest a record is renewed every"
        f" third of a TTL); memory, CPU and writes count until {found['after']:g} s after it,"
        f" or until all are led.\n\n{table(head, rows)}\n\n"
        + "\n".join(f"- {STORMS[name]}: terms begun: {_terms(one)}" for name, one in storms.items())
    )
    memory = {name: one["curve"] for name, one in storms.items()}
    title = "Resident memory of the operator during storms"
    plots = {"storm-memory": curves(title, memory, x="s since it began", y="MB")}
    if gaps := {name: cumulative(one["gaps"]) for name, one in storms.items() if one["gaps"]}:
        title = "Elections by how long they were without a label"
        plots["storm-gaps"] = curves(title, gaps, x="at most, s", y="% of those without")
    return Section("Storms", text, plots)
