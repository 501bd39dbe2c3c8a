"""The two scenarios: one cluster of two nodes, and two clusters of one node each."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from chaos.history import Trouble
from controlplane.kube import has_condition, kubectl
from controlplane.natsserver import NatsServer
from e2e import faults, manifests
from e2e.cluster import Cluster
from e2e.manifests import BY_LABEL, BY_SLICE, NAMESPACE
from e2e.network import NATS
from e2e.stage import OPERATOR, PODS, Stage, apply
from e2e.traffic import Route, first_answers
from helm import QUICKSTART

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from e2e.stage import Say

_TTL = 30.0
"""Of the chart's own bucket, by default."""
_TTL_OF_TWO = 10.0
"""Of the bucket of two clusters: what the loss of a whole one costs."""
_EVERY = 0.04
_OFTEN = 0.005
"""Seconds between two requests of a client; the latter where milliseconds are told apart."""
_HAND_OVERS = 20
"""For each way to route."""


async def one_cluster(folder: Path, images: Sequence[Path], *, say: Say, only: str = "") -> Stage:
    """Go through all faults that one cluster can have, and measure both ways to route."""
    say("starting a control plane and two nodes")
    async with Cluster("east", 1, folder, images=images, nodes=2) as cluster:
        stage = Stage([cluster], folder, ttl=_TTL, say=say)
        disk = folder / "nats"
        disk.mkdir()
        disk.chmod(0o777)
        await apply(cluster, manifests.volume("nats", disk, cluster.nodes[0].name))
        say("helm install")
        await stage.install(cluster)
        await _quickstart(stage)
        say(f"starting {manifests.NAME} in three pods, and a client on each node")
        await faults.find_nats(stage)
        async with stage.watched():
            await stage.deploy(cluster, replicas=3, every=_EVERY)
            for fault in faults.ALL:
                if only in fault.__name__:
                    await fault(stage)
            if not only or only == "routing":
                await _measure_routing(stage)
            await stage.led()
        if not only or only == "uninstall":
            await faults.chart_uninstalled(stage)
        stage.judge()
        return stage


async def two_clusters(folder: Path, images: Sequence[Path], *, say: Say, only: str = "") -> Stage:
    """Lose the cluster that leads: first its way to NATS, and then all of it."""
    say("starting two clusters of one node each, and NATS outside both")
    nats = NatsServer(folder / "nats", host=NATS)
    await nats.start()
    try:
        async with (
            Cluster("north", 2, folder, images=images, nodes=1) as north,
            Cluster("south", 3, folder, images=images, nodes=1) as south,
        ):
            stage = Stage([north, south], folder, ttl=_TTL_OF_TWO, say=say)
            stage.nats[:] = [nats.url]
            bucket = (f"--set=nats.bucket.ttl={_TTL_OF_TWO:g}s", "--set=nats.bucket.create=true")
            for cluster in stage.clusters:
                say(f"helm install in {cluster.site.name}")
                site = f"--set=site={cluster.site.name}"
                await stage.install(cluster, f"--set=nats.url={nats.url}", site, *bucket)
            async with stage.watched():
                for cluster in stage.clusters:
                    await stage.deploy(cluster, replicas=2, every=_EVERY)
                for fault in (_cut_from_nats, _lose_cluster):
                    if only in fault.__name__:
                        await fault(stage)
            stage.judge()
            return stage
    finally:
        await nats.stop()


async def _quickstart(stage: Stage) -> None:
    """Do what README.md says, and take it away again."""
    stage.say("the quickstart: kubectl apply, kubectl wait, and the leader deleted")
    site, where = stage.cluster.site, "--namespace=quickstart"
    await apply(stage.cluster, manifests.namespace("quickstart", labels=manifests.RESTRICTED))
    await kubectl(site, "apply", where, "-f", str(QUICKSTART))
    await kubectl(
        site, "wait", where, "leaderelection/billing", "--for=condition=Ready", "--timeout=60s"
    )
    await kubectl(site, "rollout", "status", where, "deployment/billing", "--timeout=60s")
    selector = "incumbent.dev/billing=leader"
    (leader,) = await stage.kube.pods("quickstart", selector)
    await kubectl(site, "delete", "pod", where, f"--selector={selector}", "--wait=false")
    await stage.kube.until(
        "/api/v1/namespaces/quickstart/pods",
        lambda found: [
            pod
            for pod in found["items"]
            if pod["metadata"]["uid"] != leader["metadata"]["uid"] and has_condition(pod, "Ready")
        ],
        labelSelector=selector,
    )
    await kubectl(site, "delete", where, "-f", str(QUICKSTART))


async def _measure_routing(stage: Stage) -> None:
    """Delete the leader again and again, with each way to route."""
    labels = f"/api/v1/namespaces/{NAMESPACE}/services/{BY_LABEL}"
    deleted = []
    for title, service, both in (
        ("EndpointSlice", BY_SLICE, False),
        ("EndpointSlice, and a Service that selects the pods", BY_SLICE, True),
        ("label", BY_LABEL, True),
    ):
        stage.say(f"routing by {title}: the leader is deleted {_HAND_OVERS} times")
        if both:
            await apply(stage.cluster, manifests.service(BY_LABEL))
        else:
            await stage.kube.delete(labels)
        await apply(stage.cluster, manifests.election(routing=service == BY_SLICE))
        node = stage.cluster.nodes[0].name
        await stage.set_clients(stage.cluster, service, every=_OFTEN, path="/who", node=node)
        moments = []
        for _ in range(_HAND_OVERS):
            leader = await stage.led()
            moments.append((time.monotonic(), leader.pod))
            await stage.kube.delete(f"{PODS}/{leader.pod}")
            await asyncio.sleep(1)
            await stage.rolled_out(stage.cluster)
        await stage.led()
        deleted.append((title, service, moments))
    answers = stage.answers()
    for title, service, moments in deleted:
        stage.routes.append(Route(title, first_answers(answers, service, moments)))


async def _cut_from_nats(stage: Stage) -> None:
    """Swallow what the leading cluster sends to NATS."""
    leader = await stage.led()
    cluster = next(each for each in stage.clusters if each.site.name == leader.site)
    sentence = "What the leading cluster sends to NATS is swallowed for 30 s"
    async with stage.trial(sentence, terms=1):
        with stage.history.spell(Trouble.NO_NATS, leader.site, OPERATOR):
            for node in cluster.nodes:
                node.host.drop(NATS)
            try:
                await asyncio.sleep(30)
            finally:
                for node in cluster.nodes:
                    node.host.pass_on(NATS)
        await asyncio.sleep(5)


async def _lose_cluster(stage: Stage) -> None:
    """End all of the leading cluster at once, for good."""
    leader = await stage.led()
    lost = next(each for each in stage.clusters if each.site.name == leader.site)
    async with stage.trial("The leading cluster is lost, for good", terms=1):
        lost.stop()
        stage.recorder.lose(lost.site.name)
        await stage.led(next(each for each in stage.clusters if each is not lost))
