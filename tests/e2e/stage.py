"""A scenario under way: what is on, what was done, and what it looked like from outside."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from chaos.checker import check
from chaos.history import History, PodEvent
from chaos.recorder import Recorder
from controlplane.kube import Kube, kubectl
from controlplane.processes import free_port
from e2e import manifests
from e2e.cluster import Cluster
from e2e.manifests import BY_LABEL, BY_SLICE, CLIENTS, NAME, NAMESPACE
from e2e.network import OURS
from e2e.node import Node
from e2e.traffic import Answer, Bucket, Figures, Ledger, Route, figures, read
from helm import CHART, Helm

OPERATOR = "incumbent"
"""The release, its namespace and its Deployment."""
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
PATIENCE = 90.0
"""Seconds, for whatever has to come about on a busy machine."""
_CALM = 2.0
"""Seconds without any change before a fault, longer than kube-proxy waits between two changes."""
_MOMENT = 1.0
"""Seconds after all is over, in which clients are to be answered by the leader."""
_POLL = 0.1

Say = Callable[[str], None]


@dataclass(slots=True)
class Trial:
    """One fault, and what it did."""

    sentence: str
    since: float
    until: float = 0.0
    expected: int = 0
    """How many terms may begin by it, and have to."""
    leaders: list[tuple[float, str, int]] = field(default_factory=list)
    """When each of them began, of which pod, and with which token."""
    figures: dict[str, Figures] = field(default_factory=dict)
    """By client, Service, and kind of connection."""
    writes: tuple[int, int] = (0, 0)
    """How many the ledger accepted, and how many it refused."""


class Stage:
    """Clusters with an application each that share one election, and the witnesses.

    Args:
        clusters: one, or several on one bucket.
        folder: for records and logs.
        ttl: of the bucket, in seconds.
        say: hears what goes on.
    """

    def __init__(self, clusters: Sequence[Cluster], folder: Path, *, ttl: float, say: Say) -> None:
        self.clusters = clusters
        self.say = say
        self.ledger = Ledger()
        self.trials: list[Trial] = []
        self.failures: list[str] = []
        self.routes: list[Route] = []
        self.nats: list[str] = []
        """Where the witness finds NATS."""
        self._folder = folder
        self._records = folder / "records"
        self._wall = time.time() - time.monotonic()
        replicas: dict[str, tuple[str, ...]] = {
            cluster.site.name: (OPERATOR,) for cluster in clusters
        }
        self.history = History.of(ttl, replicas=replicas, elections=(NAME,))
        self.history.routing = True
        self.recorder = Recorder(
            self.history, namespace=NAMESPACE, bucket="LEADER_ELECTION", routing=True
        )
        self._ledger_port = free_port()

    @property
    def cluster(self) -> Cluster:
        """The only cluster, or the first one."""
        return self.clusters[0]

    @property
    def kube(self) -> Kube:
        """Its API."""
        return self.cluster.kube

    def helm(self, cluster: Cluster) -> Helm:
        """Return helm for a cluster."""
        return Helm("helm4", self._folder / f"helm-{cluster.site.name}", cluster.site)

    # Before the first fault

    async def install(self, cluster: Cluster, *flags: str) -> None:
        """Install the chart, as its README says, into a namespace with the strictest policy."""
        await apply(cluster, manifests.namespace(OPERATOR, labels=manifests.RESTRICTED))
        where = (f"--namespace={OPERATOR}", "--wait", f"--timeout={PATIENCE:.0f}s")
        rights = "--set=rbac.endpointSlices=true"
        # The application asks the operator who leads. The network here enforces no policy.
        opened = '--set-json=networkPolicy.ingress.from=[{"namespaceSelector":{}}]'
        await self.helm(cluster)("install", OPERATOR, str(CHART), *where, rights, opened, *flags)

    async def deploy(self, cluster: Cluster, *, replicas: int, every: float) -> None:
        """Apply application, election, Services and clients, and wait until they run."""
        self._records.mkdir(parents=True, exist_ok=True)
        ledger = f"http://{OURS}:{self._ledger_port}/"
        await apply(
            cluster,
            manifests.namespace(NAMESPACE, labels=manifests.RESTRICTED),
            manifests.namespace(CLIENTS),
            *manifests.application(ledger, replicas=replicas),
            manifests.service(BY_LABEL),
            manifests.service(BY_SLICE),
            manifests.election(),
        )
        await self.rolled_out(cluster)
        await self.set_clients(cluster, BY_LABEL, BY_SLICE, every=every)

    async def set_clients(
        self,
        cluster: Cluster,
        *services: str,
        every: float,
        path: str = "/",
        node: str = "",
    ) -> None:
        """Have clients ask these Services; see `manifests.clients`."""
        targets = []
        for name in services:
            body = await cluster.kube.get(f"/api/v1/namespaces/{NAMESPACE}/services/{name}")
            targets.append(f"{name}={body['spec']['clusterIP']}:80")
        found = manifests.clients(targets, self._records, every=every, path=path, node=node)
        await apply(cluster, *found)
        where = f"--namespace={CLIENTS}"
        await kubectl(cluster.site, "rollout", "status", where, f"daemonset/{CLIENTS}")

    async def rolled_out(self, cluster: Cluster) -> None:
        """Wait until all pods of the application are ready, and old ones gone."""
        path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}"

        def complete(found: Any) -> bool:
            status, wanted = found["status"], found["spec"]["replicas"]
            counts = [
                status.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")
            ]
            seen = status.get("observedGeneration") == found["metadata"]["generation"]
            return bool(seen and counts == [wanted] * 3)

        await cluster.kube.until(path, complete, timeout=PATIENCE)
        await cluster.kube.until(
            PODS,
            lambda found: not any(p["metadata"].get("deletionTimestamp") for p in found["items"]),
            timeout=PATIENCE,
            labelSelector=f"app={NAME}",
        )

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Take writes, and record what happens, while this is entered."""
        application = web.Application()
        application.router.add_post("/", self.ledger.write)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, OURS, self._ledger_port).start()
        self.history.began = time.monotonic()
        kubes = [cluster.kube for cluster in self.clusters]
        try:
            async with self.recorder.recording(kubes, self.nats, delays=False):
                yield
        finally:
            self.history.ended = time.monotonic()
            await runner.cleanup()
            self.history.save(self._folder / "history.jsonl")

    # Who leads

    def leaders(self) -> list[PodEvent]:
        """Return the pods with the leader label, as last seen."""
        return self.recorder.leaders(NAME)

    async def led(self, cluster: Cluster | None = None) -> PodEvent:
        """Wait until one pod has led for a moment, in this cluster or in any, and return it."""
        deadline, since, before = time.monotonic() + PATIENCE, 0.0, None
        while time.monotonic() < deadline:
            now = self.leaders()
            one = now[0] if len(now) == 1 else None
            if one and cluster and one.site != cluster.site.name:
                one = None
            if (one and (one.uid, one.token)) != before:
                since, before = time.monotonic(), one and (one.uid, one.token)
            if one and time.monotonic() - since >= _CALM:
                return one
            await asyncio.sleep(_POLL)
        msg = f"nobody leads for {_CALM:.0f} s within {PATIENCE:.0f} s: {self.leaders()}"
        raise TimeoutError(msg)

    async def node_of(self, pod: PodEvent) -> Node:
        """Return the node of a pod."""
        found = await self.kube.get(f"{PODS}/{pod.pod}")
        return self.cluster.node(found["spec"]["nodeName"])

    async def lead_on(self, node: Node) -> PodEvent:
        """Bring the office to a pod of this node, another pod beside it, and others elsewhere.

        Pods of a node that falls silent are found out one after the other, so that the second one
        could lead for a moment in between.
        """
        while True:
            await self.rolled_out(self.cluster)
            leader = await self.led()
            pods = {
                pod["metadata"]["name"]: pod["spec"]["nodeName"]
                for pod in await self.kube.pods(NAMESPACE, f"app={NAME}")
            }
            elsewhere = [name for name, where in pods.items() if where != node.name]
            if leader.pod in elsewhere or not elsewhere:
                await self.kube.delete(f"{PODS}/{leader.pod}")
            elif len(elsewhere) < len(pods) - 1:
                return leader
            else:
                await self._move(elsewhere[0], pods[elsewhere[0]])

    async def _move(self, pod: str, node: str) -> None:
        """Have a pod replaced by one on another node."""
        site = self.cluster.site
        await kubectl(site, "cordon", node)
        try:
            await self.kube.delete(f"{PODS}/{pod}")
            await self.rolled_out(self.cluster)
        finally:
            await kubectl(site, "uncordon", node)

    # Faults

    @contextlib.asynccontextmanager
    async def trial(self, sentence: str, *, terms: int) -> AsyncIterator[Trial]:
        """Do something to it, in a calm moment, and note what it does.

        Args:
            sentence: what is done.
            terms: how many terms begin by that.
        """
        self.say(sentence)
        await self.led()
        await asyncio.sleep(_CALM)
        trial = Trial(sentence, since=time.monotonic(), expected=terms)
        self.history.note(sentence)
        yield trial
        await self.led()
        await asyncio.sleep(_MOMENT)
        trial.until = time.monotonic()
        self.trials.append(trial)
        self._look_at(trial)

    def _look_at(self, trial: Trial) -> None:
        bucket = self._bucket()
        trial.leaders = [
            (message.at - trial.since, f"{message.site}/{message.pod}", message.term)
            for message in bucket.terms(trial.since, trial.until)
        ]
        within = [e for e in self.ledger.entries if trial.since <= e[0] <= trial.until]
        accepted = sum(1 for entry in within if entry[3])
        trial.writes = (accepted, len(within) - accepted)
        found = "; ".join(f"{pod} after {at:.2f} s" for at, pod, _ in trial.leaders)
        self.say(f"    {len(trial.leaders)} terms began{': ' if found else ''}{found}")
        if len(trial.leaders) != trial.expected:
            words = (
                f"{trial.sentence}: {trial.expected} terms should begin by that, not {found or 0}"
            )
            self.failures.append(words)

    def answers(self) -> list[Answer]:
        """Return what all clients have written down."""
        return read(self._records, wall=self._wall)

    def _bucket(self) -> Bucket:
        return Bucket([m for m in self.history.messages if m.election == NAME])

    def judge(self) -> None:
        """Look at everything once more, when it is over."""
        answers = self.answers()
        bucket = self._bucket()
        seen: dict[str, list[Answer]] = {}
        for answer in answers:
            kind = "kept" if answer.kept else "new"
            seen.setdefault(f"{answer.client} {answer.target} {kind}", []).append(answer)
        for trial in self.trials:
            for key, chosen in sorted(seen.items()):
                trial.figures[key] = figures(chosen, bucket, since=trial.since, until=trial.until)
            self._look_at_the_end(trial, answers, bucket.leader(trial.until))
        verdict = check(self.history)
        self.failures += [
            f"{finding.promise}, {finding.at - self.history.began:.1f} s after the start:"
            f" {finding.words}"
            for finding in verdict.violations
        ]
        if shared := self.ledger.shared():
            self.failures.append(f"more than one pod wrote with each of the tokens {shared}")

    def _look_at_the_end(self, trial: Trial, answers: Sequence[Answer], leader: str) -> None:
        """See that who asks anew when it is over is answered by the leader, in both ways."""
        last = [
            answer
            for answer in answers
            if trial.until - _MOMENT <= answer.sent <= answer.done <= trial.until
            and answer.pod
            and not answer.kept
        ]
        for service in (BY_LABEL, BY_SLICE):
            asked = [answer for answer in last if answer.target == service]
            if {answer.pod for answer in asked} != {leader}:
                # Each node has a kube-proxy of its own, which may be the one that is late.
                found = sorted({f"{answer.pod} from {answer.client}" for answer in asked})
                words = f"in the end {service} led to {found or 'nobody'}, not to {leader}"
                self.failures.append(f"{trial.sentence}: {words}")


async def apply(cluster: Cluster, *objects: dict[str, Any]) -> None:
    """Apply objects, as kubectl does."""
    await cluster.kube.apply(yaml.safe_dump_all(objects))
