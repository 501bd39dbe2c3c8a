"""The servers and operators of a run, and what is done to them.

Two sites on one etcd, two replicas in each.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from admission import webhook
from chaos.history import History, PodEvent, Trouble
from chaos.operators import START_TIMEOUT, Bucket, Replica, make_replica
from chaos.plan import (
    BY_HAND,
    FORGOTTEN_AFTER,
    OF_LINKS,
    OF_REPLICAS,
    OF_WEBHOOKS,
    Fault,
    Kind,
    Who,
)
from chaos.recorder import ERRORS, GROUP, HAND, LEADER, Recorder, connection, evict
from controlplane.kube import ApiError, Kube
from controlplane.natsserver import NatsCluster, NatsServer
from controlplane.nodes import NodeAgent, PodControl
from controlplane.servers import ControlPlane

SITES = ("east", "west")
REPLICAS = 2
PODS = 3
NAMESPACE = "chaos"
BUCKET = "CHAOS"
ELECTIONS = f"/apis/incumbent.dev/v1alpha1/namespaces/{NAMESPACE}/leaderelections"
DEFINITIONS = Path(__file__).parents[2] / "crds"
AT_ONCE = 4
STEP = 3600.0
"""Seconds by which a clock steps."""
SLOWNESS = 0.15
"""Part of the TTL that each patch takes with a slow webhook."""
SOME = "*[a-m0-4]"
"""The names of the pods that a webhook is about, if not of all: about half of them."""
INSIST = 90.0
"""Seconds for which what was done to pods is taken back, while their API server is away."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is."""

    elections: int
    servers: int
    """Of NATS; also the replicas of the bucket."""
    ttl: float

    def history(self) -> History:
        """Return an empty history."""
        names = {
            site: tuple(f"{site}-{number + 1}" for number in range(REPLICAS)) for site in SITES
        }
        elections = tuple(f"e{number}" for number in range(self.elections))
        return History.of(self.ttl, replicas=names, elections=elections)


class World:
    """Everything that runs; use it as an asynchronous context manager.

    Args:
        folder: for all that it writes.
        scale: how large it is.
        previous: the source root of the operator's previous version, if there is any.
        routing: whether each election names a Service.
    """

    def __init__(
        self, folder: Path, scale: Scale, previous: Path | None, *, routing: bool = False
    ) -> None:
        self.history = scale.history()
        self.history.routing = self._routing = routing
        self.recorder = Recorder(self.history, namespace=NAMESPACE, bucket=BUCKET, routing=routing)
        self.under_way: list[str] = []
        """What is wrong at this moment, in words."""
        self.done: list[Fault] = []
        self._folder = folder
        self._scale = scale
        self._previous = previous
        self._stack = AsyncExitStack()
        self._planes: dict[str, ControlPlane] = {}
        self._kubes: dict[str, Kube] = {}
        self._replicas: dict[str, list[Replica]] = {}
        self._servers: list[NatsServer] = []
        self._changes = 0
        self._few = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Self:
        """Start all servers, but no operator."""
        try:
            await self._start_nats()
            await self._start_sites()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self._stack.aclose()

    @property
    def _urls(self) -> list[str]:
        return [server.url for server in self._servers if server.process.running]

    def _all_replicas(self) -> Iterator[Replica]:
        for replicas in self._replicas.values():
            yield from replicas

    # The start

    async def _start_nats(self) -> None:
        folder = self._folder / "nats"
        if self._scale.servers == 1:
            self._servers = [await self._stack.enter_async_context(NatsServer(folder))]
        else:
            cluster = NatsCluster(folder, size=self._scale.servers)
            self._servers = (await self._stack.enter_async_context(cluster)).servers

    async def _start_sites(self) -> None:
        etcd = None
        for name in SITES:
            plane = ControlPlane(self._folder, name=name, etcd=etcd)
            await self._stack.enter_async_context(plane)
            etcd = plane.etcd
            self._planes[name] = plane
            agent = NodeAgent(plane.site, start_seconds=0.3, stop_seconds=0.3)
            await self._stack.enter_async_context(agent)
            kube = await self._stack.enter_async_context(Kube(plane.site))
            self._kubes[name] = kube
            for path in sorted(DEFINITIONS.glob("*.yaml")):
                await kube.apply_definitions(path.read_text())
            await kube.namespace(NAMESPACE)
            await kube.until(
                "/api/v1/namespaces/default/serviceaccounts/default", lambda found: found
            )

    @contextlib.asynccontextmanager
    async def recorded(self) -> AsyncIterator[None]:
        """Record while this is entered; it ends early if the recording fails."""
        urls = [server.url for server in self._servers]
        async with self.recorder.recording(list(self._kubes.values()), urls):
            yield

    async def start_operators(self) -> None:
        """Start all replicas, and wait until they are ready."""
        for site, names in self.history.replicas.items():
            self._replicas[site] = [await self._replica(site, name) for name in names]
        await asyncio.gather(*(replica.start() for replica in self._all_replicas()))

    async def _replica(self, site: str, name: str) -> Replica:
        return await make_replica(
            self._stack,
            self._kubes[site].site,
            self._folder,
            name=name,
            namespace=NAMESPACE,
            bucket=Bucket(self._servers, BUCKET, self._scale.ttl, self._scale.servers),
            previous=self._previous,
        )

    async def start_elections(self) -> None:
        """Create pods and elections in both sites, and wait until all are led."""
        await asyncio.gather(
            *(
                self._start_election(kube, election)
                for election in self.history.elections
                for kube in self._kubes.values()
            )
        )
        await self.recorder.wait_led(START_TIMEOUT)

    async def _start_election(self, kube: Kube, name: str) -> None:
        async with self._few:
            await kube.deployment(NAMESPACE, name, replicas=PODS)
            body: dict[str, Any] = {
                "apiVersion": "incumbent.dev/v1alpha1",
                "kind": "LeaderElection",
                "metadata": {"name": name},
                "spec": {"selector": {"matchLabels": {"app": name}}},
            }
            if self._routing:
                service = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}
                await kube.create(f"/api/v1/namespaces/{NAMESPACE}/services", service)
                body["spec"]["routing"] = {"service": name}
            await kube.create(ELECTIONS, body)

    # The end

    def complaints(self) -> list[str]:
        """Return what operators logged that they never should: errors of their own, tracebacks.

        Those of the previous version are left out.
        """
        return [
            f"{replica.name} logged: {line[:300]}"
            for replica in self._all_replicas()
            for line in replica.new.complaints
        ]

    # The faults

    async def suffer(self, faults: Sequence[Fault], start: float) -> None:
        """Carry out a plan; returns when all faults have ended."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(start + fault.at - time.monotonic())
                tasks.create_task(self._carry_out(fault))
                self.done.append(fault)

    async def _carry_out(self, fault: Fault) -> None:
        if fault.kind in OF_REPLICAS or fault.kind in OF_LINKS:
            await self._hinder(fault)
        elif fault.kind in OF_WEBHOOKS:
            await self._interfere(fault)
        elif fault.kind is Kind.NATS:
            await self._kill_nats(fault)
        elif fault.kind is Kind.API:
            await self._kill_api_server(fault)
        else:
            names = (self.history.elections[number] for number in fault.elections)
            await asyncio.gather(*(self._disturb(fault, name) for name in names))

    def _site(self, fault: Fault, election: str) -> str:
        leaders = self.recorder.leaders(election)
        site = leaders[0].site if leaders else SITES[0]
        return site if fault.leading else next(other for other in SITES if other != site)

    async def _hinder(self, fault: Fault) -> None:
        """Do something to replicas, or their links."""
        election = self.history.elections[fault.elections[0]]
        site = self._site(fault, election)
        steward = self.recorder.steward(site, election)
        hit = [
            replica
            for replica in self._replicas[site]
            if fault.who is Who.ALL or (replica.name == steward) == (fault.who is Who.STEWARD)
        ]
        works = {
            Kind.KILL: self._kill,
            Kind.BLIND: self._restart_blindly,
            Kind.CLOCK: self._step_clock,
            Kind.PAUSE: self._pause,
            Kind.PREVIOUS: self._bring_previous,
        }
        work = works.get(fault.kind, self._disconnect)
        words = f"{fault.kind.value}: {' and '.join(r.name for r in hit)}, {fault.seconds:.1f} s"
        with self._noted(words):
            await asyncio.gather(*(work(replica, fault) for replica in hit))

    async def _kill(self, replica: Replica, fault: Fault) -> None:
        async with replica.turn:
            with self._spell(Trouble.DEAD, replica):
                replica.operator.kill()
                await asyncio.sleep(fault.seconds)
                await replica.start()

    async def _restart_blindly(self, replica: Replica, fault: Fault) -> None:
        """Start a replica anew while it cannot reach NATS."""
        over = time.monotonic() + fault.seconds
        async with replica.turn:
            with self._spell(Trouble.NO_NATS, replica):
                for link in replica.nats:
                    await link.refuse()
                with self._spell(Trouble.DEAD, replica):
                    replica.operator.kill()
                    await replica.start_blindly()
                await asyncio.sleep(over - time.monotonic())
                for link in replica.nats:
                    await link.resume()
            await replica.operator.wait_ready(timeout=START_TIMEOUT)

    async def _step_clock(self, replica: Replica, fault: Fault) -> None:
        """Let the wall clock of a replica step, which is no trouble to it."""
        async with replica.turn:
            replica.step(STEP if int(fault.at * 10) % 2 else -STEP)
            await asyncio.sleep(fault.seconds)
            replica.step(0)

    async def _bring_previous(self, replica: Replica, fault: Fault) -> None:
        """Have the previous version in a replica's place for a while."""
        if replica.previous is None:
            return
        over = time.monotonic() + fault.seconds
        async with replica.turn:
            with self._spell(Trouble.DEAD, replica):
                await replica.replace(replica.previous)
            await asyncio.sleep(over - time.monotonic())
            with self._spell(Trouble.DEAD, replica):
                await replica.replace(replica.new)

    async def _pause(self, replica: Replica, fault: Fault) -> None:
        async with replica.turn:
            with self._spell(Trouble.PAUSED, replica):
                replica.operator.process.pause()
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    replica.operator.process.resume()

    async def _disconnect(self, replica: Replica, fault: Fault) -> None:
        nats = fault.kind in {Kind.CUT_NATS, Kind.HOLE_NATS, Kind.HOLD_NATS}
        links = replica.nats if nats else (replica.api,)
        with self._spell(Trouble.NO_NATS if nats else Trouble.NO_API, replica):
            for link in links:
                if fault.kind in {Kind.CUT_NATS, Kind.CUT_API}:
                    await link.refuse()
                elif fault.kind in {Kind.HOLE_NATS, Kind.HOLE_API}:
                    link.black_hole()
                else:
                    link.hold()
            await asyncio.sleep(fault.seconds)
            for link in links:
                await link.resume()

    async def _kill_nats(self, fault: Fault) -> None:
        """Kill the server that leads the stream, and start it again with its store."""
        leader = self._servers[0]
        if len(self._servers) > 1:
            name = await self._stream_leader()
            leader = next((s for s in self._servers if s.process.name == name), leader)
        over = time.monotonic() + fault.seconds
        with self._noted(f"{fault.kind.value}: {leader.process.name}, {fault.seconds:.1f} s"):
            with self._spell(Trouble.NATS_DOWN):
                leader.kill()
                while time.monotonic() < over and not await self._led_without(leader):  # noqa: ASYNC110
                    await asyncio.sleep(0.2)
                if not await self._led_without(leader):
                    await self._restart(leader)
            await asyncio.sleep(over - time.monotonic())
            await self._restart(leader)

    async def _kill_api_server(self, fault: Fault) -> None:
        """Kill the API server of a site, and start it again with its etcd."""
        site = self._site(fault, self.history.elections[fault.elections[0]])
        plane = self._planes[site]
        with contextlib.ExitStack() as spells:
            spells.enter_context(self._noted(f"{fault.kind.value}: {site}, {fault.seconds:.1f} s"))
            for replica in self._replicas[site]:
                spells.enter_context(self._spell(Trouble.NO_API, replica))
            plane.kill_api_server()
            await asyncio.sleep(fault.seconds)
            await plane.start_api_server()

    async def _interfere(self, fault: Fault) -> None:
        """Have a webhook hold up, refuse or change what the operators of a site write to pods."""
        site = self._site(fault, self.history.elections[fault.elections[0]])
        kube, folder = self._kubes[site], self._folder / f"webhook-{site}"
        folder.mkdir(exist_ok=True)
        over = time.monotonic() + fault.seconds
        with (
            self._noted(f"{fault.kind.value}: {site}, {fault.seconds / FORGOTTEN_AFTER:.1f} s"),
            self.history.spell(Trouble.ADMISSION, site),
        ):
            hooked = webhook(kube, NAMESPACE, folder, mutating=True, user="operator")
            async with hooked as hook:
                match fault.kind:
                    case Kind.SLOW:
                        hook.delay = SLOWNESS * self._scale.ttl
                    case Kind.REFUSING:
                        hook.refuses = "*" if fault.who is Who.ALL else SOME
                    case _:
                        hook.keeps = "*" if fault.who is Who.ALL else SOME
                await asyncio.sleep(fault.seconds / FORGOTTEN_AFTER)
            await asyncio.sleep(over - time.monotonic())

    async def _restart(self, server: NatsServer) -> None:
        server.spawn()
        await server.wait_ready(timeout=START_TIMEOUT)

    async def _led_without(self, killed: NatsServer) -> bool:
        """Whether the stream has another leader than the server that was killed."""
        others = len(self._servers) > 1
        return others and await self._stream_leader() not in {"", killed.process.name}

    async def _stream_leader(self) -> str:
        """Return the name of the server that leads the stream, empty if nobody says so."""
        with contextlib.suppress(*ERRORS):
            async with connection(self._urls) as client:
                info = await client.jetstream(timeout=1).stream_info(f"KV_{BUCKET}")
                return str(info.cluster.leader or "")
        return ""

    async def _disturb(self, fault: Fault, election: str) -> None:
        """Do something to the pods or the record of an election."""
        site = self._site(fault, election)
        kube = self._kubes[site]
        deployment = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{election}"
        pods = self.recorder.pods(site, election)
        pod = next((pod for pod in pods if pod.labelled), pods[0] if pods else None)
        if fault.kind is Kind.LABEL:
            pod = next((pod for pod in pods if not (pod.labelled or pod.unfit)), None)
        words = f"{fault.kind.value}: {election} in {site}"
        if pod is not None and fault.kind in {Kind.DELETE, Kind.FLAP, Kind.LEAVE, *BY_HAND}:
            words += f", {pod.pod}"
        with self._noted(words, election), contextlib.suppress(*ERRORS):
            match fault.kind:
                case Kind.DELETE if pod is not None:
                    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.pod}"
                    await kube.delete(path, grace=0 if fault.elections[0] % 2 else None)
                case Kind.FLAP if pod is not None:
                    about = {"metadata": {"namespace": NAMESPACE, "name": pod.pod}}
                    control = PodControl(kube)
                    with contextlib.suppress(*ERRORS):  # it may be done all the same
                        await control.set_ready(about, ready=False)
                    await asyncio.sleep(fault.seconds)
                    await _insist(lambda: control.set_ready(about, ready=True))
                case Kind.LEAVE if pod is not None:
                    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.pod}"
                    await kube.patch(path, {"metadata": {"labels": {"app": None}}})
                    await asyncio.sleep(fault.seconds)
                    await _insist(lambda: kube.delete(path, grace=0))
                case Kind.EVICT:
                    await evict(self._urls, BUCKET, f"{NAMESPACE}.{election}")
                case Kind.LABEL | Kind.UNLABEL if pod is not None:
                    await self._label(kube, pod, LEADER if fault.kind is Kind.LABEL else None)
                case Kind.ROLL:
                    self._changes += 1
                    template = {"metadata": {"annotations": {"rolled": str(self._changes)}}}
                    await kube.patch(deployment, {"spec": {"template": template}})
                    await asyncio.sleep(fault.seconds)
                case Kind.SCALE:
                    with contextlib.suppress(*ERRORS):
                        await kube.patch(deployment, {"spec": {"replicas": 0}})
                    await asyncio.sleep(fault.seconds)
                    await _insist(lambda: kube.patch(deployment, {"spec": {"replicas": PODS}}))

    async def _label(self, kube: Kube, pod: PodEvent, value: str | None) -> None:
        """Change the leader label of a pod by hand."""
        self._changes += 1
        change = {
            "labels": {f"{GROUP}/{pod.election}": value},
            "annotations": {HAND: str(self._changes)},
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod.pod}"
        await kube.patch(path, {"metadata": change | {"uid": pod.uid}})

    # What the history says about them

    def _spell(
        self, trouble: Trouble, replica: Replica | None = None
    ) -> contextlib.AbstractContextManager[None]:
        if replica is None:
            return self.history.spell(trouble)
        return self.history.spell(trouble, replica.site, replica.name)

    @contextlib.contextmanager
    def _noted(self, words: str, election: str = "") -> Iterator[None]:
        self.history.note(words, election)
        self.under_way.append(words)
        try:
            yield
        finally:
            self.under_way.remove(words)
            self.history.note(f"over: {words}", election)

    def label_writes(self) -> int:
        """Return how many requests of operators changed pods, as the API servers logged it."""
        return sum(
            request.resource == "pods" and request.status < 300
            for kube in self._kubes.values()
            for request in kube.site.audit.requests(user="operator", verbs=("patch",))
        )


async def _insist(work: Callable[[], Awaitable[object]]) -> None:
    """Do something to pods, also if their API server is away at first."""
    deadline = time.monotonic() + INSIST
    while True:
        try:
            await work()
        except ERRORS as error:
            refused = isinstance(error, ApiError) and error.status in {404, 409}
            if refused or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return
