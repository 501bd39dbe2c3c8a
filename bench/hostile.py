"""Whether elections notice strangers at the HTTP port and a tenant who does what he can.

One operator process leads many elections. First leaders are made NotReady one after the other and
everything is quiet; then the same goes on while

- clients ask for metrics, elections and streams without a pause, or never end what they begin
  (`bench.hostile_clients`);
- a namespace creates and deletes elections without a pause, and names buckets that do not exist
  (`bench.hostile_tenant`);
- a validating webhook on the real API server hangs for the pods of that namespace, whose labels
  the operator has to change.

Only the elections of the other namespaces are judged. Clients and tenant have the lowest priority
of the scheduler (nice 19): they take what is left of the cores, and nothing of what they do not
make the servers or the operator do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import nats
import yaml
from nats.aio.msg import Msg

from admission import until_asked, webhook
from bench.crowd import Crowd, Meter, Seen
from bench.plots import cumulative, curves
from bench.report import ROOT, Measurement, Result, Section, at, patience, say, spread, table
from bench.scale import Renewals
from bench.scene import Scene, in_turns, pod_path, shares, used
from controlplane.kube import ApiError
from controlplane.processes import ControlPlaneError, Process, free_port

HOSTILE = "hostile"
"""The namespace of the tenant."""
NICE = 19
"""The priority of clients and tenant: the lowest."""
PODS = 2
"""Candidates of each election."""
KEPT = ("hostile-before",)
"""What an earlier state did, which cannot be measured again."""
LONGEST = 20.0
"""Seconds that a strip is waited for; one that takes longer counts as this."""
MOST_LATE, MOST_DELAY = 0.05, 0.1
"""The reach: of an interval, for the 99th percentile of renewals; seconds, for that of strips."""
MOST_GROWTH = 1.25
"""The reach: resident memory at most, as a multiple of what it was when it was quiet."""
MOST_LINES = 50.0
"""The reach: log lines a second."""
SCRAPE_EVERY, SCRAPE_TIMEOUT = 5.0, 10.0
"""Seconds, as for a Prometheus."""
_POINTS = 200


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    elections: int = 5000
    captives: int = 100
    """Elections of the hostile namespace that are led before it becomes hostile."""
    clients: int = 100
    missing: int = 500
    """Elections that name a bucket that does not exist, each another one."""
    workers: int = 20
    """Elections that are created and deleted at a time."""
    ttl: int = 30
    settle: float = 15
    look: float = 40
    """Seconds for which each of the two phases is looked at."""
    before: float = 5
    """Seconds of hostility before that."""
    after: float = 10
    strips: float = 6
    """A second."""


SHORT = Plan(
    elections=6, captives=2, clients=10, missing=5, workers=2,
    ttl=6, settle=1, look=4, before=1, after=1, strips=2,
)  # fmt: skip


def measurements(*, short: bool) -> list[Measurement]:
    """Return the one. The short one is not judged."""
    if short:
        return [Measurement("hostile", partial(_measure, SHORT))]
    return [Measurement("hostile", partial(_measure, Plan()), judge=judge)]


async def _measure(plan: Plan, folder: Path) -> Result:
    found: Result = {"elections": plan.elections, "ttl": plan.ttl, "interval": plan.ttl / 3}
    found |= {"clients": plan.clients, "missing": plan.missing, "captives": plan.captives}
    async with contextlib.AsyncExitStack() as stack:
        scene = await stack.enter_async_context(Scene(folder).running())
        say(f"elections  {plan.elections} of {PODS} pods, bucket TTL {plan.ttl} s; creating them")
        async with patience("creating them"):
            await scene.pods(plan.elections, candidates=PODS)
            await scene.elections(plan.elections)
            await _captives(scene, plan.captives)
        port = free_port()
        operator = scene.operator(ttl=plan.ttl, port=port, arguments=_permissions())
        stack.callback(operator.kill)
        began = time.monotonic()
        operator.start()
        async with patience("waiting until all are led"):
            await scene.until_all_led(plan.elections + plan.captives, operator)
        found["start"] = time.monotonic() - began
        say(f"start      all led after {found['start']:.1f} s")
        crowd = await stack.enter_async_context(Crowd(scene).watching())
        look = _Look(plan, scene, crowd, operator, port)
        await stack.enter_async_context(look.running())
        async with patience("settling"):
            await asyncio.sleep(plan.settle)
        found["quiet"] = await look.at("quiet", {})
        async with _hostility(plan, scene, port, folder) as (enemies, done):
            async with patience("the hostility begins"):
                await asyncio.sleep(plan.before)
            found["hostile"] = await look.at("hostile", enemies)
        found["done"] = done
        say(f"           {_done(done)}")
        await asyncio.sleep(plan.after)
        found["after"] = {"wrong": len(look.wrong), "memory": look.meter.memory["after"]}
    return found


def _permissions() -> list[str]:
    """Return the flags that let a tenant do what is to be measured, where that takes any."""
    shown = subprocess.run(
        [sys.executable, "-m", "incumbent", "operator", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    wanted = {"--allow-lock": "*/*/*", "--max-elections-per-namespace": "0"}
    return [f"{flag}={value}" for flag, value in wanted.items() if flag in shown]


async def _captives(scene: Scene, count: int) -> None:
    """Create the hostile namespace with some elections; half of its pods have long annotations."""
    await scene.kube.create("/api/v1/namespaces", {"metadata": {"name": HOSTILE}})
    account = {"metadata": {"name": "default"}}
    await scene.kube.create(f"/api/v1/namespaces/{HOSTILE}/serviceaccounts", account)

    async def captive(name: str, number: int) -> None:
        for pod in range(PODS):
            await scene.pod(HOSTILE, name, f"{name}-{pod}")
            if number % 2:
                about = {"metadata": {"annotations": {"note": "x" * 100_000}}}
                await scene.kube.patch(pod_path(HOSTILE, f"{name}-{pod}"), about)
        await scene.election(HOSTILE, name)

    await in_turns(captive(f"captive-{number}", number) for number in range(count))
    await scene.pod(HOSTILE, "churn", "churn-0")


@contextlib.asynccontextmanager
async def _hostility(
    plan: Plan, scene: Scene, port: int, folder: Path
) -> AsyncIterator[tuple[dict[str, Process], Result]]:
    """Be hostile; at the end, fill in what was done."""
    done: Result = {}
    site = folder / "site.json"
    site.write_text(scene.site.to_json())
    clients = _program("hostile_clients", folder, f"127.0.0.1:{port}", plan.clients, NICE)
    tenant = _program("hostile_tenant", folder, site, HOSTILE, plan.workers, plan.missing, NICE)
    async with webhook(scene.kube, HOSTILE, folder) as hook:
        await until_asked(scene.kube, pod_path(HOSTILE, "churn-0"), hook)
        hook.delay, hook.asked = 600, 0
        try:
            clients.start()
            tenant.start()
            say(f"hostile    {plan.clients} clients; {plan.missing} buckets that do not exist;")
            say(
                f"           {plan.workers} elections made and deleted at a time; a hanging webhook"
            )
            yield {"clients": clients, "tenant": tenant}, done
            for process in (clients, tenant):
                if not process.running:
                    msg = f"The program of the {process.name} ended: {process.log.read_text()}"
                    raise ControlPlaneError(msg)
                await process.stop(timeout=15)
                printed = process.log.read_text().strip().splitlines()
                done[process.name] = json.loads(printed[-1]) if printed else {}
            done["reviews"] = hook.asked
        finally:
            clients.kill()
            tenant.kill()


def _program(name: str, folder: Path, *arguments: object) -> Process:
    command = [sys.executable, "-m", f"bench.{name}", *map(str, arguments)]
    return Process(command, name=name.removeprefix("hostile_"), folder=folder)


def _ours(key: str) -> bool:
    """Whether an election is one of those that must not notice anything."""
    return not key.startswith(f"{HOSTILE}.")


class _Renewals(Renewals):
    """The writes of the elections that must not notice anything."""

    def __init__(self) -> None:
        super().__init__()
        self._at: dict[str, float] = {}

    async def take(self, message: Msg) -> None:
        """Take in one write."""
        key = message.subject.split(".", 2)[2]
        if _ours(key):
            self._at[key] = time.time()
            await super().take(message)

    def begin(self) -> None:
        """Count from now on."""
        self.count, self.distances = 0, []

    def late(self, interval: float) -> list[float]:
        """Return by how many seconds each renewal came late, and those that are due; sorted."""
        now = time.time()
        due = [now - at for at in self._at.values() if now - at > interval]
        return sorted(max(0.0, distance - interval) for distance in (*self.distances, *due))


class _Strips:
    """Leaders made NotReady one after the other, and how long their labels stayed.

    Times run from the watch's event of NotReady to that of the strip, so they hold nothing of what
    the API server takes for our own request.
    """

    def __init__(self, scene: Scene, crowd: Crowd, elections: Sequence[str], rate: float) -> None:
        self._scene, self._crowd, self._rate = scene, crowd, rate
        order = list(elections)
        random.Random(1).shuffle(order)  # noqa: S311
        self._order = order
        self._waits: dict[str, _Wait] = {}
        crowd.listeners.append(self._saw)
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.strips: list[float] = []
        self.labels: list[float] = []
        self.answers: list[float] = []
        self.skipped = 0

    @property
    def under_way(self) -> set[str]:
        """Elections whose leader is NotReady."""
        return set(self._waits)

    async def run(self, seconds: float) -> None:
        """Go on for so long; ends when the last strip has come, or is not waited for any more."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * self._rate)):
                await asyncio.sleep(began + number / self._rate - time.monotonic())
                key = self._order.pop(0)
                self._order.append(key)
                group.create_task(self._one(key))

    async def _one(self, key: str) -> None:
        pod = self._crowd.leader(key)
        if pod is None or key in self._crowd.wrong or key in self._waits:
            self.skipped += 1
            return
        wait = self._waits[key] = _Wait(pod.uid)
        try:
            with self._crowd.excused(pod):
                began = time.monotonic()
                if not await self._ready(pod, ready=False):
                    self.skipped += 1
                    return
                self.answers.append(time.monotonic() - began)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LONGEST):
                        await wait.done.wait()
                unready = wait.unready or began
                self.strips.append((wait.stripped or unready + LONGEST) - unready)
                self.labels.append((wait.labelled or unready + LONGEST) - unready)
                await self._ready(pod, ready=True)
                await asyncio.sleep(1)  # the record may show later than the label
        finally:
            del self._waits[key]

    async def _ready(self, pod: Seen, *, ready: bool) -> bool:
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        path = f"{pod_path(pod.namespace, pod.name)}/status"
        try:
            async with asyncio.timeout(LONGEST):
                await self._scene.kube.patch(path, {"status": status})
        except (ApiError, aiohttp.ClientError, OSError, TimeoutError):
            return False
        return True

    def _saw(self, pod: Seen) -> None:
        wait, now = self._waits.get(pod.key), time.monotonic()
        if wait is None:
            return
        if pod.uid == wait.uid:
            if not pod.ready:
                wait.unready = wait.unready or now
            if wait.unready and not pod.labelled:
                wait.stripped = wait.stripped or now
        elif pod.labelled:
            wait.labelled = wait.labelled or now
        if wait.stripped and wait.labelled:
            wait.done.set()


@dataclass
class _Wait:
    """What was seen of one leader that was made NotReady; moments, 0 for what is still to come."""

    uid: str
    unready: float = 0.0
    stripped: float = 0.0
    labelled: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class _Probes:
    """What a kubelet and a Prometheus get to hear."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        probe = yaml.safe_load((ROOT / "charts/incumbent/values.yaml").read_text())["livenessProbe"]
        self.timeout: float = probe.get("timeoutSeconds", 1)
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.probes: list[float | None] = []
        """Seconds to each answer, None for one that was none."""
        self.scrapes: list[float | None] = []
        self.size = 0

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            for path in ("/livez", "/readyz"):
                group.create_task(self._again(path, every=1, timeout=self.timeout))
            scrape = self._again("/metrics", every=SCRAPE_EVERY, timeout=SCRAPE_TIMEOUT)
            group.create_task(scrape)

    async def _again(self, path: str, *, every: float, timeout: float) -> None:
        while True:
            began = time.monotonic()
            seconds: float | None = None
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                # A connection of its own for each, as a kubelet makes it.
                limit = aiohttp.ClientTimeout(total=timeout)
                async with (
                    aiohttp.ClientSession(timeout=limit) as session,
                    session.get(self._url + path) as answer,
                ):
                    body = await answer.read()
                    # If this loop is late, an answer may come after the limit and before its timer.
                    took = time.monotonic() - began
                    if answer.ok and took <= timeout:
                        seconds = took
                        self.size = len(body) if path == "/metrics" else self.size
            (self.scrapes if path == "/metrics" else self.probes).append(seconds)
            await asyncio.sleep(max(0.0, began + every - time.monotonic()))

    def result(self) -> Result:
        """Return what came of them."""
        return {
            "probes": _answered(self.probes),
            "scrapes": _answered(self.scrapes),
            "metrics_bytes": self.size,
        }


def _answered(answers: Sequence[float | None]) -> Result:
    times = [seconds for seconds in answers if seconds is not None]
    return {"sent": len(answers), "answered": len(times), "slowest": max(times, default=0.0)}


class _Look:
    """What is looked at in each phase."""

    def __init__(
        self, plan: Plan, scene: Scene, crowd: Crowd, operator: Process, port: int
    ) -> None:
        self._plan, self._scene, self._crowd, self._operator = plan, scene, crowd, operator
        self._renewals = _Renewals()
        self._probes = _Probes(port)
        keys = [key for key in crowd.pods if _ours(key)]
        self._strips = _Strips(scene, crowd, keys, plan.strips)
        self.meter = Meter(operator, every=0.5)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look."""
        client = await nats.connect(self._scene.nats.url, pending_size=1 << 24)
        await client.subscribe("$KV.LEADER_ELECTION.>", cb=self._renewals.take)
        probing = asyncio.create_task(self._probes.run())
        try:
            async with self.meter.running():
                yield
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)
            await client.close()

    @property
    def wrong(self) -> set[str]:
        """Elections that are not led as they should be, and whose leader may lead."""
        return {key for key in self._crowd.wrong - self._strips.under_way if _ours(key)}

    async def at(self, name: str, others: Mapping[str, Process]) -> Result:
        """Look at one phase."""
        crowd, plan = self._crowd, self._plan
        for part in (crowd, self._renewals, self._strips, self._probes):
            part.begin()
        watched = {"operator": self._operator, **self._scene.servers, **others}
        samples, log = len(self.meter.samples), self._operator.log
        size = log.stat().st_size
        mine = time.process_time()
        async with patience(f"looking ({name})"):
            usage, _ = await asyncio.gather(used(plan.look, watched), self._strips.run(plan.look))
        usage["bench"] = {"cpu": 100 * (time.process_time() - mine) / plan.look}
        if (code := self._operator.exit_code) is not None:
            msg = f"The operator ended with code {code}; the end of its log:\n"
            raise ControlPlaneError(msg + "\n".join(log.read_text().splitlines()[-8:]))
        resident = [one.resident / 2**20 for one in self.meter.samples[samples:]]
        lines = _lines(log, size)
        result: Result = {
            "seconds": plan.look,
            "lost": len({key for key in crowd.lost if _ours(key)} | self.wrong),
            "twice": sum(map(_ours, crowd.twice)),
            "wrong": len(self.wrong),
            "late": _thinned(self._renewals.late(plan.ttl / 3)),
            "renewals": self._renewals.count,
            "strips": _thinned(sorted(self._strips.strips)),
            "labels": _thinned(sorted(self._strips.labels)),
            "answers": _thinned(sorted(self._strips.answers)),
            "samples": len(self._strips.strips),
            "skipped": self._strips.skipped,
            "memory": {"first": resident[0], "peak": max(resident), "last": resident[-1]},
            "usage": usage,
            "log_lines": lines / plan.look,
            "log_bytes": (log.stat().st_size - size) / plan.look,
            "probe_timeout": self._probes.timeout,
            **self._probes.result(),
        }
        for line in _told(name, result):
            say(line)
        return result


def _lines(log: Path, position: int) -> int:
    with log.open("rb") as file:
        file.seek(position)
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def _thinned(values: Sequence[float]) -> list[float]:
    """Return so few of sorted values that they fit into a file, and that `at` finds p99 and max."""
    if len(values) <= _POINTS:
        return [round(value, 5) for value in values]
    last = len(values) - 1
    return [round(values[round(n * last / _POINTS)], 5) for n in range(_POINTS + 1)]


def _told(name: str, one: Result) -> list[str]:
    """Return what was seen in one phase, as lines."""
    memory, probes, scrapes = one["memory"], one["probes"], one["scrapes"]
    text = (
        f"{name:<10} {one['lost']} leases lost ({one['wrong']} elections are not led),"
        f" {one['twice']} elections with two labels\n"
        f"renewals late: {_spread(one['late'])} of {one['renewals']}\n"
        f"strips: {_spread(one['strips'])} of {one['samples']} ({one['skipped']} skipped)\n"
        f"the next pod's label: {_spread(one['labels'])}\n"
        f"the API server's answer to a patch of ours: {_spread(one['answers'])}\n"
        f"probes: {probes['answered']} of {probes['sent']} answered, the slowest after"
        f" {1000 * probes['slowest']:.0f} ms; scrapes: {scrapes['answered']} of"
        f" {scrapes['sent']}, {1000 * scrapes['slowest']:.0f} ms\n"
        f"{memory['first']:.0f} MB, {memory['peak']:.0f} at most; of a core:"
        f" {shares(one['usage'])}\n"
        f"log: {one['log_lines']:.1f} lines/s, {one['log_bytes'] / 1000:.1f} kB/s; /metrics:"
        f" {one['metrics_bytes'] / 1000:.0f} kB"
    )
    return text.replace("\n", f"\n{'':<11}").split("\n")


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "none"
    return spread([1000 * value for value in values], unit="ms", digits=0)


def _done(done: Result) -> str:
    """Return what clients and tenant did, as text."""
    kinds = done["clients"]["kinds"]
    seconds = done["clients"]["seconds"]
    answers = {
        kind: ", ".join(f"{count / seconds:.0f} {what}" for what, count in one["answers"].items())
        for kind, one in kinds.items()
    }
    told = "; ".join(f"{kinds[kind]['clients']} {kind} {text}" for kind, text in answers.items())
    tenant = done["tenant"]
    return (
        f"per second, by kind of client and status: {told}. The tenant created {tenant['created']}"
        f" elections, of which {tenant['gone']} went and {tenant['stuck']} were stuck for a minute;"
        f" {tenant['refused']} requests were refused; the webhook was asked {done['reviews']} times"
    )


@dataclass(frozen=True)
class Line:
    """One thing that is to be reached."""

    what: str
    limit: str
    found: str
    met: bool


def reach(found: Result) -> list[Line]:
    """Return what is to be reached, and whether it is."""
    quiet, hostile, interval = found["quiet"], found["hostile"], found["interval"]
    late = at(hostile["late"], 0.99) if hostile["late"] else interval
    strips = [at(one["strips"], 0.99) if one["strips"] else LONGEST for one in (quiet, hostile)]
    delay = strips[1] - strips[0]
    probes, memory = hostile["probes"], hostile["memory"]
    growth = memory["peak"] / quiet["memory"]["last"]
    lines = hostile["log_lines"] - quiet["log_lines"]
    return [
        Line("leases lost", "0", str(hostile["lost"]), hostile["lost"] == 0),
        Line("elections with two labels", "0", str(hostile["twice"]), hostile["twice"] == 0),
        Line(
            "renewals late, p99, of the interval",
            f"< {100 * MOST_LATE:g} %",
            f"{100 * late / interval:.2f} %",
            late < MOST_LATE * interval,
        ),
        Line(
            "strips, p99, longer than without",
            f"< {1000 * MOST_DELAY:g} ms",
            f"{1000 * delay:.0f} ms",
            delay < MOST_DELAY,
        ),
        Line(
            f"probes answered within {hostile['probe_timeout']:g} s",
            "all",
            f"{probes['answered']} of {probes['sent']}",
            probes["answered"] == probes["sent"] > 0,
        ),
        Line(
            "resident memory, as a multiple of that without",
            f"< {MOST_GROWTH:g}",
            f"{growth:.2f}",
            growth < MOST_GROWTH,
        ),
        Line(
            "log lines, more than without",
            f"< {MOST_LINES:g}/s",
            f"{lines:.1f}/s",
            lines < MOST_LINES,
        ),
    ]


def judge(found: Result) -> bool:
    """Say what is reached, and return whether everything is."""
    lines = reach(found)
    for line in lines:
        mark = "reached" if line.met else "MISSED"
        say(f"{mark:<10} {line.what}: {line.found} ({line.limit})")
    return all(line.met for line in lines)


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = results["hostile"]
    series = {"without": found["quiet"], "with hostility": found["hostile"]}
    text = (
        f"One operator process with {found['elections']} elections of {PODS} pods, bucket TTL"
        f" {found['ttl']} s, first left alone and then under hostility. {found['clients']} clients"
        " ask for metrics, elections and streams without a pause, read one byte a second, never end"
        " their headers, name a wrong host, or hold hundreds of connections. One namespace creates"
        f" and deletes elections without a pause, names {found['missing']} buckets that do not"
        f" exist, and has {found['captives']} elections whose pods cannot be changed, because a"
        " webhook of the API server hangs. Figures are of the other namespaces. The time of a strip"
        " runs from the moment when a watch shows the leader NotReady to the moment when it shows"
        " the pod without the label. Clients and tenant run at the lowest priority of the"
        f" scheduler.\n\n{verdict(found)}\n\n{figures(results)}\n\n"
        f"What the hostile ones got, {_done(found['done'])}."
    )
    plots = {}
    for name, title, what in (
        ("hostile-strips", "Strips of other namespaces by their time", "strips"),
        ("hostile-lateness", "Renewals of other namespaces by lateness", "late"),
    ):
        drawn = {
            label: [(1000 * a, b) for a, b in cumulative(one[what])]
            for label, one in series.items()
            if one[what]
        }
        if drawn:
            plots[name] = curves(title, drawn, x="at most, ms", y="% of all")
    return Section("Hostility", text, plots)


def verdict(found: Result) -> str:
    """Return what is to be reached and what was, as a table."""
    rows = [
        (line.what, line.limit, line.found, "yes" if line.met else "no") for line in reach(found)
    ]
    return table(("", "reach", "measured", "reached"), rows)


def figures(results: Mapping[str, Result]) -> str:
    """Return what was measured with and without hostility, and in an earlier state, as a table."""
    found = results["hostile"]
    series = {"without": found["quiet"], "with hostility": found["hostile"]}
    if before := results.get("hostile-before"):  # curves of it would hide all others
        series[f"with it, {before['state']}"] = before["hostile"]

    def row(name: str, text: Any) -> tuple[str, ...]:
        return (name, *(text(one) for one in series.values()))

    def times(what: str) -> Any:
        return lambda one: (
            " / ".join(f"{1000 * at(one[what], share):.0f}" for share in (0.5, 0.99, 1.0)) + " ms"
            if one[what]
            else "-"
        )

    def answered(what: str) -> Any:
        def text(one: Result) -> str:
            counts = f"{one[what]['answered']} of {one[what]['sent']}"
            slowest = f", {1000 * one[what]['slowest']:.0f} ms" if one[what]["answered"] else ""
            return counts + slowest

        return text

    def share(name: str) -> Any:
        return lambda one: f"{one['usage'][name]['cpu']:.0f} %" if name in one["usage"] else "-"

    rows = [
        row("leases lost", lambda one: str(one["lost"])),
        row("not led at the end", lambda one: str(one["wrong"])),
        row("renewals late, p50 / p99 / max", times("late")),
        row("strips, p50 / p99 / max", times("strips")),
        row("until the next pod's label, p50 / p99 / max", times("labels")),
        row("answers of the API server to a patch of ours, p50 / p99 / max", times("answers")),
        row("probes answered, the slowest", answered("probes")),
        row("scrapes answered, the slowest", answered("scrapes")),
        row("resident memory, at most", lambda one: f"{one['memory']['peak']:.0f} MB"),
        row("log lines", lambda one: f"{one['log_lines']:.1f}/s"),
        *(
            row(f"{name}, of a core", share(name))
            for name in dict.fromkeys(name for one in series.values() for name in one["usage"])
        ),
    ]
    return table(("", *series), rows)
