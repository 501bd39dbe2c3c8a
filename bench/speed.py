"""How fast an operator starts and another pod leads, at 1, 100 and 1,000 elections.

Pods are bound to a node that is not there and are made anew from here, so nothing but the operator
is busy while it is measured. Then a second control plane with an operator of its own contests the
same keys. How fast a hand-over is beside busy controllers is measured at 100 elections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from bench.plots import cumulative, curves
from bench.report import SHARES, Measurement, Result, Section, at, patience, say, spread, table
from bench.scene import PER_NAMESPACE, PODS, Scene, election_path, in_turns, pod_path, used
from controlplane.kube import Kube, has_condition
from controlplane.nodes import NodeAgent
from controlplane.processes import ControlPlaneError, Process
from elections import LEADER, condition_of

TTL = 15
LONGEST = 60
"""Seconds after which a new label is not waited for any longer."""
PAUSE = 0.1
"""Seconds between two changes."""
EVENTS = {
    "deletion": "leaders deleted one at a time, on a quiet machine",
    "handover": "leaders deleted one at a time, deletion event to new label",
    "unready": "leaders NotReady one at a time, event to new label",
    "release": "elections suspended one at a time, answer to the other site's label",
    "kill": "elections of a site whose only operator is killed, to the other site's label",
}
"""What happens, by its name in the results."""
ROWS = {
    "deletion": "leader pod deleted",
    "handover": "leader pod deleted, beside controllers and node agent",
    "unready": "leader pod NotReady",
    "release": "election suspended in its leader's site",
    "kill": "SIGKILL of the only operator of the leader's site",
}
"""The same in the report."""
PLOTS = {
    "hand-over": ("Leader pod deleted", (("deletion", ""), ("handover", ", beside controllers"))),
    "speed-unready": ("Leader pod NotReady", (("unready", ""),)),
    "speed-release": ("Election suspended", (("release", ""),)),
    "speed-kill": ("Operator of the leader's site killed", (("kill", ""),)),
}
"""The title of each plot; what it shows, and what is added to the number of elections."""

Election = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    elections: int
    samples: int
    """Deletions, pods NotReady, releases: each so many, one at a time."""
    kills: int
    settle: float
    rest: float
    handovers: int = 0
    """Deletions beside busy controllers."""
    ttl: int = TTL


PLANS = (
    Plan(elections=1, samples=20, kills=2, settle=2, rest=10),
    Plan(elections=100, samples=100, kills=1, settle=5, rest=20, handovers=200),
    Plan(elections=1000, samples=100, kills=1, settle=10, rest=15),
)


def measurements(*, short: bool) -> list[Measurement]:
    """Return one for each number of elections."""
    plans: Sequence[Plan] = PLANS
    if short:
        plans = [Plan(elections=3, samples=2, kills=1, settle=0, rest=1, handovers=2, ttl=3)]
    return [Measurement(f"speed-{plan.elections}", partial(_measure, plan)) for plan in plans]


async def _measure(plan: Plan, folder: Path) -> Result:
    found: Result = {"elections": plan.elections, "ttl": plan.ttl}
    numbers = range(plan.elections)
    elections = [(f"bench-{number // PER_NAMESPACE}", f"e{number}") for number in numbers]
    scene = Scene(folder / "first")
    second = Scene(folder / "second", nats=scene.nats)
    async with scene.running(), _site(scene, plan, candidates=PODS) as site:
        found |= {"start": site.start, "rest": await _rest(site, plan.rest)}
        for name, change in (("deletion", site.delete), ("unready", site.unready)):
            found[name] = await _one_at_a_time(name, change, elections, plan.samples)
        # The second one is not there before, so that all this is of a single site.
        async with second.running(), _site(second, plan, candidates=1) as other:
            contest = Contest(site, other, elections)
            changes = (contest.release, elections, plan.samples)
            found["release"] = await _one_at_a_time("release", *changes)
            found["kill"] = await _kills(contest, plan.kills)
    if plan.handovers:
        found["handover"] = await _handovers(folder / "busy", plan)
    return found


@contextlib.asynccontextmanager
async def _site(scene: Scene, plan: Plan, *, candidates: int) -> AsyncIterator[Site]:
    """Create pods and elections, and run an operator."""
    async with patience("creating pods"):
        seconds = await scene.pods(plan.elections, candidates=candidates)
        seconds += await scene.elections(plan.elections)
    say(f"elections  {plan.elections} with {candidates} pods each created in {seconds:.1f} s")
    async with _serving(scene, plan) as site:
        yield site


@contextlib.asynccontextmanager
async def _serving(scene: Scene, plan: Plan) -> AsyncIterator[Site]:
    operator, began = scene.operator(ttl=plan.ttl), time.monotonic()
    operator.start()
    try:
        async with patience("the operator starts"):
            await scene.until_all_led(plan.elections, operator)
        start = time.monotonic() - began
        say(f"start      all led {start:.1f} s after the process began, bucket TTL {plan.ttl} s")
        await asyncio.sleep(plan.settle)
        async with Watch(scene.kube) as watch:
            yield Site(scene, operator, watch, start)
    finally:
        operator.kill()


class Watch:
    """When a watch of the pods showed a new leader label, and when a pod that cannot lead."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._news = asyncio.Event()
        self.leaders: dict[Election, tuple[str, float]] = {}
        """The pod that carries the label, and since when."""
        self.unfit: dict[tuple[str, str], float] = {}
        """By namespace and pod: since when it is NotReady, terminating or gone."""

    async def __aenter__(self) -> Self:
        """Begin."""
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    async def led(
        self, election: Election, *, since: float = 0, but: str = ""
    ) -> tuple[str, float]:
        """Wait until another pod leads, labelled since then; return its name, and since when.

        Raises:
            ControlPlaneError: it takes longer than it ever should.
        """
        try:
            async with asyncio.timeout(LONGEST):
                while True:
                    pod, labelled = self.leaders.get(election, (but, 0.0))
                    if pod != but and labelled > since:
                        return pod, labelled
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            msg = f"after {LONGEST} s nobody else leads {'/'.join(election)}"
            raise ControlPlaneError(msg) from error

    async def _follow(self) -> None:
        while True:
            async with contextlib.aclosing(self._kube.watch("/api/v1/pods")) as changes:
                async for kind, pod in changes:
                    if kind == "ERROR":
                        break
                    self._note(pod, gone=kind == "DELETED", now=time.monotonic())

    def _note(self, pod: Mapping[str, Any], *, gone: bool, now: float) -> None:
        about = pod["metadata"]
        name, namespace, labels = about["name"], about["namespace"], about["labels"]
        if gone or "deletionTimestamp" in about or not has_condition(pod, "Ready"):
            self.unfit.setdefault((namespace, name), now)
        else:
            self.unfit.pop((namespace, name), None)
        election = namespace, labels["app"]
        known = self.leaders.get(election, ("", 0))[0]
        if not gone and labels.get(f"incumbent.dev/{labels['app']}") == LEADER:
            if known != name:
                self.leaders[election] = name, now
                self._news.set()
        elif known == name:
            del self.leaders[election]


class Site:
    """A control plane and its operator."""

    def __init__(self, scene: Scene, operator: Process, watch: Watch, start: float) -> None:
        self.scene, self.operator, self.watch, self.start = scene, operator, watch, start
        self._names = itertools.count(PODS)

    async def delete(self, election: Election) -> float:
        """Delete the leader pod; return the seconds from the event to the next one's label.

        Then another pod is created, in place of a controller.
        """
        namespace, name = election
        old, _ = await self.watch.led(election)
        await self.scene.kube.delete(pod_path(namespace, old), grace=0)
        _, labelled = await self.watch.led(election, but=old)
        await self.scene.pod(namespace, name, f"{name}-{next(self._names)}")
        return labelled - self.watch.unfit[namespace, old]

    async def delete_only(self, election: Election) -> float:
        """Delete the leader pod in peace; somebody else replaces it."""
        namespace, _ = election
        old, _ = await self.watch.led(election)
        await self.scene.kube.delete(pod_path(namespace, old))
        _, labelled = await self.watch.led(election, but=old)
        return labelled - self.watch.unfit[namespace, old]

    async def unready(self, election: Election) -> float:
        """Make the leader pod NotReady until the next one is labelled; return the seconds."""
        namespace, _ = election
        old, _ = await self.watch.led(election)
        await self._ready(namespace, old, ready=False)
        _, labelled = await self.watch.led(election, but=old)
        seconds = labelled - self.watch.unfit[namespace, old]
        await self._ready(namespace, old, ready=True)
        return seconds

    async def _ready(self, namespace: str, pod: str, *, ready: bool) -> None:
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        await self.scene.kube.patch(f"{pod_path(namespace, pod)}/status", {"status": status})

    async def suspend(self, election: Election, *, suspend: bool) -> None:
        """Suspend an election here, or resume it."""
        await self.scene.kube.patch(election_path(*election), {"spec": {"suspend": suspend}})

    async def stands_by(self, election: Election) -> None:
        """Wait until this site would take over."""
        await self.scene.kube.until(election_path(*election), _led_elsewhere, timeout=LONGEST)


class Contest:
    """Two sites on the same keys, all of which the first one leads."""

    def __init__(self, first: Site, second: Site, elections: Sequence[Election]) -> None:
        self._other = {first: second, second: first}
        self._leads = dict.fromkeys(elections, first)

    async def release(self, election: Election) -> float:
        """Suspend the election where it is led; return the seconds to the other site's label."""
        site = self._leads[election]
        other, sent = self._other[site], time.monotonic()
        await site.suspend(election, suspend=True)
        answered = time.monotonic()
        _, labelled = await other.watch.led(election, since=sent)
        self._leads[election] = other
        await site.suspend(election, suspend=False)
        await site.stands_by(election)
        return labelled - answered

    async def kill(self) -> list[float]:
        """Kill the operator of the site that leads most; return the seconds for each election."""
        ((site, _),) = Counter(self._leads.values()).most_common(1)
        led, other = [one for one, leads in self._leads.items() if leads is site], self._other[site]
        began = time.monotonic()
        site.operator.kill()
        labelled = [await other.watch.led(election, since=began) for election in led]
        self._leads |= dict.fromkeys(led, other)
        return [at - began for _, at in labelled]

    async def restart(self) -> None:
        """Start the operator that was killed, and wait until it stands by."""
        for site, other in self._other.items():
            if not site.operator.running:
                site.operator.start()
                led = [one for one, leads in self._leads.items() if leads is other]
                await in_turns(site.stands_by(election) for election in led)


async def _rest(site: Site, seconds: float) -> Result:
    position = site.scene.site.audit.position()
    async with patience("at rest"):
        usage = (await used(seconds, {"operator": site.operator}))["operator"]
    writes = site.scene.writes(position)
    say(
        f"at rest    {usage['resident']:.0f} MB resident, {usage['cpu']:.1f} % of a core,"
        f" {writes} write requests to the API server in {seconds} s"
    )
    return {**usage, "writes": writes, "seconds": seconds}


async def _one_at_a_time(
    name: str,
    change: Callable[[Election], Awaitable[float]],
    elections: Sequence[Election],
    count: int,
) -> list[float]:
    """Return the sorted seconds of so many changes, spread over all elections."""
    chosen = itertools.cycle(elections[:: max(1, len(elections) // count)])
    taken = []
    async with patience(ROWS[name]):
        for election in itertools.islice(chosen, count):
            taken.append(await change(election))
            await asyncio.sleep(PAUSE)
    return _told(name, taken)


async def _kills(contest: Contest, count: int) -> list[float]:
    taken = []
    async with patience(ROWS["kill"]):
        for number in range(count):
            if number:
                await contest.restart()
            taken += await contest.kill()
    return _told("kill", taken)


async def _handovers(folder: Path, plan: Plan) -> list[float]:
    """Delete leaders of Deployments, whose replacements keep controllers and node agent busy."""
    scene = Scene(folder, controllers=True)
    async with scene.running(), NodeAgent(scene.site, stop_seconds=0.5):
        await scene.kube.namespace("bench")
        elections = [("bench", f"e{number}") for number in range(plan.elections)]

        async def create(name: str) -> None:
            await scene.kube.deployment("bench", name, replicas=PODS)
            await scene.election("bench", name)

        say(f"elections  {plan.elections} over Deployments of {PODS} pods; creating them")
        async with patience("creating Deployments"):
            await in_turns((create(name) for _, name in elections), width=8)
        async with _serving(scene, plan) as site:
            return await _one_at_a_time("handover", site.delete_only, elections, plan.handovers)


def _told(name: str, taken: Sequence[float]) -> list[float]:
    """Sort a distribution, and say it."""
    title = "hand-over" if name == "handover" else name
    ordered = sorted(taken)
    say(f"{title:10} {len(ordered)} {EVENTS[name]}: {_spread(name, ordered)}")
    return ordered


def _spread(name: str, taken: Sequence[float]) -> str:
    if name == "kill":
        return spread(taken)
    return spread([1000 * seconds for seconds in taken], unit="ms", digits=0)


def _led_elsewhere(election: Mapping[str, Any] | None) -> bool:
    return bool(condition_of(election, "Ready")["reason"] == "LedElsewhere")


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = list(results.values())
    head = ("", *(f"{one['elections']:,} elections" for one in found))
    rows: list[list[str]] = [
        ["first start, until all led", *(f"{one['start']:.1f} s" for one in found)],
        ["operator at rest, of a core", *(f"{one['rest']['cpu']:.1f} %" for one in found)],
        ["operator at rest, resident", *(f"{one['rest']['resident']:.0f} MB" for one in found)],
        [
            "API writes at rest",
            *(f"{one['rest']['writes']} in {one['rest']['seconds']} s" for one in found),
        ],
    ]
    rows += [[title, *(_cell(one, name) for one in found)] for name, title in ROWS.items()]
    text = (
        f"{PODS} candidates for each election, unready grace 0 s (the default), bucket TTL"
        f" {found[0]['ttl']} s, everything on one machine. Times run to the moment when a watch"
        " shows the new leader's label: in the first three rows of times from the watch's event of"
        " the deletion or of NotReady, then from the answer to the suspension, then from the kill."
        " Changes come one at a time, but a kill concerns all elections of the site. The second"
        " site has one candidate for each election, and a control plane of its own."
        f" In a cell: {', '.join(name for name, _ in SHARES)}, and of how many.\n\n"
        f"{table(head, rows)}"
    )
    return Section("Speed", text, _plots(found))


def _cell(found: Result, name: str) -> str:
    taken = found.get(name)
    if not taken:
        return ""
    factor, unit, digits = (1, "s", 1) if name == "kill" else (1000, "ms", 0)
    shown = " / ".join(f"{factor * at(taken, share):.{digits}f}" for _, share in SHARES)
    return f"{shown} {unit} ({len(taken)})"


def _plots(found: Sequence[Result]) -> dict[str, str]:
    drawn = {}
    for plot, (title, shown) in PLOTS.items():
        factor, unit = (1, "s") if plot == "speed-kill" else (1000, "ms")
        series = {
            f"{one['elections']:,}{added}": [
                (factor * seconds, share) for seconds, share in cumulative(one[name])
            ]
            for name, added in shown
            for one in found
            if one.get(name)
        }
        whole = f"{title}: time to the new label, by elections"
        drawn[plot] = curves(whole, series, x=f"at most, {unit}", y="% of all")
    return drawn
