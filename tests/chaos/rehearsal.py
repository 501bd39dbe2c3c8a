"""Rehearsals: operators with one fault on purpose, and the checker has to catch it.

Each fault has a scenario in which it does harm for certain, with one election of two pods: on one
site, or on two that contest it. The same scenario is played without the fault, too, and then the
checker must be content.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from admission import until_asked, webhook
from chaos.checker import Finding, Verdict, check
from chaos.history import History, PodEvent, Trouble
from chaos.operators import Bucket, Replica, make_replica
from chaos.recorder import Recorder, evict
from controlplane.kube import Kube
from controlplane.natsserver import NatsServer
from controlplane.nodes import NodeAgent, PodControl
from controlplane.servers import ControlPlane

SITE = "site"
OTHER = "other"
ELECTION = "web"
PODS = 2
DEFINITIONS = Path(__file__).parents[2] / "crds"
START = 90.0
"""Seconds for things to start, on a machine that is busy."""
PATIENCE = 20.0
"""Seconds for what has to happen in a scenario. The checker has limits of its own."""
SETTLED = 10.0
"""Seconds after a scenario in which one leader has to be there."""
UNDONE = 5.0
"""Seconds for which strips are undone."""
BACK = 600.0
"""Seconds by which a clock steps back."""
MOMENT = 1.0
"""Seconds for something to show that must not."""


@dataclass(frozen=True, slots=True)
class Servers:
    """What all rehearsals share."""

    kube: Kube
    other: Kube
    """The connection to another site."""
    nats: NatsServer
    folder: Path


@contextlib.asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[Servers]:
    """Start two control planes with a node each, and NATS."""
    async with AsyncExitStack() as stack:
        nats = await stack.enter_async_context(NatsServer(folder / "nats"))
        kubes: list[Kube] = []
        etcd = None
        for name in (SITE, OTHER):
            plane = ControlPlane(folder, name=name, etcd=etcd)
            await stack.enter_async_context(plane)
            etcd = plane.etcd
            await stack.enter_async_context(NodeAgent(plane.site))
            kube = await stack.enter_async_context(Kube(plane.site))
            for path in sorted(DEFINITIONS.glob("*.yaml")):
                await kube.apply_definitions(path.read_text())
            account = "/api/v1/namespaces/default/serviceaccounts/default"
            await kube.until(account, lambda found: found)
            kubes.append(kube)
        yield Servers(kubes[0], kubes[1], nats, folder)


@dataclass(slots=True)
class Stage:
    """One scenario as it is played."""

    servers: Servers
    name: str
    """Of the namespace, the bucket and the folder."""
    history: History
    recorder: Recorder
    replicas: list[Replica] = field(default_factory=list)
    """Those of the first site."""
    missed: list[str] = field(default_factory=list)
    """What should have happened, and has not."""

    @property
    def kube(self) -> Kube:
        """The connection to the site."""
        return self.servers.kube

    @property
    def folder(self) -> Path:
        """Where operators are asked for what a network may do."""
        return self.servers.folder / self.name

    @property
    def pods(self) -> list[PodEvent]:
        """The pods that are there."""
        return self.recorder.pods(SITE, ELECTION)

    @property
    def leaders(self) -> list[PodEvent]:
        """Those that carry the leader label."""
        return self.recorder.leaders(ELECTION)

    def path(self, pod: PodEvent) -> str:
        """Return the path of a pod."""
        return f"/api/v1/namespaces/{self.name}/pods/{pod.pod}"

    def now(self, pod: PodEvent) -> PodEvent:
        """Return a pod as it is now."""
        return next((known for known in self.pods if known.uid == pod.uid), pod)

    async def set_ready(self, pod: PodEvent, *, ready: bool) -> None:
        """Let a pod become ready, or not ready."""
        self.history.note(f"{pod.pod} is {'' if ready else 'not '}ready")
        about = {"metadata": {"namespace": self.name, "name": pod.pod}}
        await PodControl(self.kube).set_ready(about, ready=ready)

    async def evict(self) -> None:
        """Delete the key."""
        self.history.note("the leader is evicted")
        await evict([self.servers.nats.url], self.name, f"{self.name}.{ELECTION}")

    def hold(self, pod: PodEvent, what: str, *, lost: bool = True, most: int = 10**6) -> None:
        """Hold writes back that concern a pod; see `planted`."""
        asked = {"pod": pod.pod, "what": what, "lost": lost, "most": most}
        new = self.folder / "hold.new"
        new.write_text(json.dumps(asked))
        new.replace(self.folder / "hold")

    def release(self) -> None:
        """Deliver what was held."""
        self.history.note("what was held back is delivered")
        (self.folder / "release").touch()

    async def until(
        self, condition: Callable[[], object], what: str = "", *, seconds: float = PATIENCE
    ) -> None:
        """Wait for something; if it does not come, that is told in the end, unless it may be."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.missed += [what] if what else []
                return
            await asyncio.sleep(0.02)

    async def until_led(self, pod: PodEvent) -> None:
        """Wait until a pod leads."""
        await self.until(lambda: self.now(pod).labelled, f"{pod.pod} does not lead")

    async def until_said(self, event: str) -> None:
        """Wait until an operator has logged something."""
        said = lambda: any(replica.operator.lines(event) for replica in self.replicas)  # noqa: E731
        await self.until(said, f"no operator logged {event}")


# The scenarios


async def leader_fails(stage: Stage) -> None:
    """The leader becomes unready, so that the other pod leads."""
    leader, other = await _two(stage)
    await stage.set_ready(leader, ready=False)
    await stage.until_led(other)


async def slice_moves(stage: Stage) -> None:
    """The same, and a slice leads to the leader."""
    await leader_fails(stage)


async def strip_is_lost(stage: Stage) -> None:
    """The same, and the first strip comes after the new leader has its label."""
    leader, other = await _two(stage)
    stage.hold(leader, "other", most=1)
    await stage.set_ready(leader, ready=False)
    await stage.until_led(other)
    stage.release()
    await stage.until_said("write.delivered")


async def strip_is_undone(stage: Stage) -> None:
    """The leader becomes unready, and a webhook gives it its label back with each patch."""
    leader, other = await _two(stage)
    hooked = webhook(stage.kube, stage.name, stage.folder, mutating=True, user="operator")
    with stage.history.spell(Trouble.ADMISSION, SITE):
        async with hooked as hook:
            async with Kube(stage.kube.site, user="operator") as operator:
                await until_asked(operator, stage.path(leader), hook)
            hook.keeps = leader.pod
            await stage.set_ready(leader, ready=False)
            await stage.until(lambda: len(stage.leaders) > 1, seconds=UNDONE)
        await stage.until_led(other)


async def label_is_late(stage: Stage) -> None:
    """A pod's label is under way for so long that another pod leads when it comes."""
    leader, other = await _two(stage)
    stage.hold(other, "leader")
    await stage.set_ready(leader, ready=False)
    await stage.until_said("write.held")
    await stage.set_ready(leader, ready=True)
    await stage.until(lambda: not stage.now(leader).unfit, f"{leader.pod} is not ready")
    await stage.evict()
    await stage.until_led(leader)
    stage.release()
    await stage.until_said("write.delivered")


async def slice_is_late(stage: Stage) -> None:
    """The first write that leads a slice to a pod is under way until another pod leads."""
    leader, other = await _two(stage)
    stage.hold(other, "slice", most=1)
    await stage.set_ready(leader, ready=False)
    await stage.until_said("write.held")
    await stage.until_led(other)
    await stage.set_ready(leader, ready=True)
    await stage.until(lambda: not stage.now(leader).unfit, f"{leader.pod} is not ready")
    await stage.set_ready(other, ready=False)
    await stage.until_led(leader)
    stage.release()
    await stage.until_said("write.delivered")


async def steward_is_deaf(stage: Stage) -> None:
    """The steward does not hear that its leader was evicted, and that another replica took over."""
    leader, other = await _two(stage)
    name = stage.recorder.steward(SITE, ELECTION)
    steward = next(replica for replica in stage.replicas if replica.name == name)
    writes = len(stage.history.messages)
    await stage.until(lambda: len(stage.history.messages) > writes, "nobody renews")
    with stage.history.spell(Trouble.NO_NATS, SITE, name):
        steward.nats[0].hold()
        stage.hold(leader, "leader", lost=False)
        await stage.evict()
        await stage.until_led(other)
        stage.release()
        await stage.until(lambda: len(stage.leaders) > 1, seconds=MOMENT)
        await steward.nats[0].resume()


async def operator_restarts_blindly(stage: Stage) -> None:
    """The only operator is killed, and starts again without NATS; another cluster contests it."""
    (replica,) = stage.replicas
    with stage.history.spell(Trouble.NO_NATS, SITE, replica.name):
        await replica.nats[0].refuse()
        with stage.history.spell(Trouble.DEAD, SITE, replica.name):
            replica.operator.kill()
            await replica.start_blindly()
        await _until_led_elsewhere(stage)
        await replica.nats[0].resume()


async def clock_steps_back(stage: Stage) -> None:
    """The steward loses NATS, and its wall clock steps back; another cluster contests it."""
    (replica,) = stage.replicas
    with stage.history.spell(Trouble.NO_NATS, SITE, replica.name):
        await replica.nats[0].refuse()
        stage.history.note(f"the clock of {replica.name} steps back")
        replica.step(-BACK)
        await _until_led_elsewhere(stage)
        await replica.nats[0].resume()


async def _until_led_elsewhere(stage: Stage) -> None:
    await stage.until(
        lambda: any(pod.site == OTHER for pod in stage.leaders),
        "the other cluster does not lead",
        seconds=stage.history.ttl + PATIENCE,
    )


async def deletion_is_missed(stage: Stage) -> None:
    """The leader is deleted while the watch is interrupted. Then the pods are listed again."""
    leader, _ = await _two(stage)
    (replica,) = stage.replicas
    with stage.history.spell(Trouble.NO_API, SITE, replica.name):
        await replica.api.refuse()
        stage.history.note(f"{leader.pod} is deleted")
        await stage.kube.delete(stage.path(leader), grace=0)
        await stage.until(
            lambda: len([pod for pod in stage.pods if not pod.unfit]) == PODS, "no new pod"
        )
        await replica.api.resume()


async def leader_leaves_selector(stage: Stage) -> None:
    """The leader loses the label that selects it, and is there all the same."""
    leader, other = await _two(stage)
    stage.history.note(f"{leader.pod} leaves the selector")
    await stage.kube.patch(stage.path(leader), {"metadata": {"labels": {"app": None}}})
    await stage.until_led(other)


async def _two(stage: Stage) -> tuple[PodEvent, PodEvent]:
    """Return the leader and the other pod, once everything has settled."""
    await stage.until(lambda: len(stage.leaders) == 1, "nobody leads at first")
    (leader,) = stage.leaders
    (other,) = (pod for pod in stage.pods if pod.uid != leader.uid)
    return leader, other


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario, and the faults that it brings to light."""

    play: Callable[[Stage], Awaitable[None]]
    faults: dict[str, str]
    """Names in `planted`, and what they are in words."""
    breaks: str = "one pod a site"
    """The promise that is broken first."""
    replicas: int = 1
    ttl: float = 6.0
    routing: bool = False
    """Whether the election names a Service."""
    contested: bool = False
    """Whether another cluster takes part."""


SCENARIOS = (
    Scenario(leader_fails, {"label-first": "the new pod is labelled first"}),
    Scenario(strip_is_lost, {"skip-confirmation": "the strip is not confirmed"}),
    Scenario(
        label_is_late,
        {
            "no-resource-version": "label writes without resourceVersion",
            "empty-strip": "a strip writes nothing when no label shows",
        },
    ),
    Scenario(strip_is_undone, {"trust-status": "a strip that a webhook undid is believed"}),
    Scenario(
        steward_is_deaf,
        {"no-warrant": "a label without a fresh bucket write"},
        replicas=2,
        ttl=10.0,
    ),
    Scenario(
        clock_steps_back,
        {"wall-clock": "deadlines on the wall clock"},
        breaks="one site",
        contested=True,
    ),
    Scenario(
        operator_restarts_blindly,
        {"no-doubt": "an unseen record is taken for renewed"},
        breaks="one site",
        ttl=20.0,
        contested=True,
    ),
    Scenario(
        deletion_is_missed,
        {"keep-deleted": "a relist keeps deleted pods"},
        breaks="somebody leads",
    ),
    Scenario(leader_leaves_selector, {"trust-deleted": "DELETED of a selector watch is believed"}),
    Scenario(
        slice_moves,
        {"slice-both": "a slice leads to two for a moment"},
        breaks="one pod a slice",
        routing=True,
    ),
    Scenario(
        slice_is_late,
        {"slice-late": "slice writes without resourceVersion"},
        breaks="tokens grow",
        routing=True,
    ),
)


# Playing them


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """How one went."""

    name: str
    history: History
    verdict: Verdict
    missed: list[str]
    expected: str
    """The promise that the fault breaks."""

    @property
    def caught(self) -> bool:
        """Whether the checker found what the fault does, and found that first."""
        return self.expected in [finding.promise for finding in self.verdict.violations[:1]]

    @property
    def sound(self) -> bool:
        """Whether the scenario was played to its end, and no promise was broken."""
        return not (self.verdict.violations or self.missed)

    @property
    def seconds(self) -> float:
        """Seconds from the beginning of the scenario to the first broken promise."""
        return self.verdict.violations[0].at - self.history.began


async def rehearse(servers: Servers, scenario: Scenario, fault: str = "none") -> Rehearsal:
    """Play a scenario with a fault, or without, and return what the checker says."""
    name = f"{scenario.play.__name__}-{fault}".replace("_", "-")
    staff = {SITE: tuple(f"replica-{number + 1}" for number in range(scenario.replicas))}
    nats, kubes = servers.nats, [servers.kube]
    if scenario.contested:
        staff[OTHER] = (f"{OTHER}-1",)
        kubes.append(servers.other)
    history = History.of(scenario.ttl, replicas=staff, elections=(ELECTION,))
    history.routing = scenario.routing
    recorder = Recorder(history, namespace=name, bucket=name, routing=scenario.routing)
    stage = Stage(servers, name, history, recorder)
    stage.folder.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        everybody: list[Replica] = []
        for kube, names in zip(kubes, staff.values(), strict=True):
            await kube.namespace(name)
            await kube.deployment(name, ELECTION, replicas=PODS)
            everybody += [
                await make_replica(
                    stack,
                    kube.site,
                    stage.folder,
                    name=replica,
                    namespace=name,
                    bucket=Bucket([nats], name, scenario.ttl),
                    launcher=("chaos.planted", fault, str(stage.folder)),
                )
                for replica in names
            ]
        stage.replicas += [replica for replica in everybody if replica.site == SITE]
        await asyncio.gather(*(replica.start() for replica in everybody))
        async with stage.recorder.recording(kubes, [nats.url]):
            for kube in kubes:  # the first site leads
                await _create_election(stage, kube, routing=scenario.routing)
                await stage.recorder.wait_led(START)
            history.began = time.monotonic()
            await scenario.play(stage)
            await stage.recorder.wait_led(SETTLED)
        history.ended = time.monotonic()
        complaints = [line for replica in everybody for line in replica.operator.complaints]
    verdict = check(history)
    verdict.violations += [
        Finding("log", history.ended, "", f"an operator logged: {line[:300]}")
        for line in complaints
    ]
    return Rehearsal(name, history, verdict, stage.missed, scenario.breaks)


async def _create_election(stage: Stage, kube: Kube, *, routing: bool) -> None:
    body: dict[str, Any] = {
        "apiVersion": "incumbent.dev/v1alpha1",
        "kind": "LeaderElection",
        "metadata": {"name": ELECTION},
        "spec": {"selector": {"matchLabels": {"app": ELECTION}}},
    }
    if routing:
        service = {"metadata": {"name": ELECTION}, "spec": {"ports": [{"port": 80}]}}
        await kube.create(f"/api/v1/namespaces/{stage.name}/services", service)
        body["spec"]["routing"] = {"service": ELECTION}
    path = f"/apis/incumbent.dev/v1alpha1/namespaces/{stage.name}/leaderelections"
    await kube.create(path, body)
