"""What is done to one cluster, one thing after another. Each leaves all pods running."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from chaos.history import Trouble
from controlplane.kube import has_condition, kubectl
from e2e.manifests import NAME, NAMESPACE
from e2e.stage import OPERATOR, PATIENCE, PODS, Stage, gone, ready_pods
from helm import CHART

if TYPE_CHECKING:
    from collections.abc import Mapping

    from chaos.history import PodEvent
    from e2e.node import Node

_NATS = f"/api/v1/namespaces/{OPERATOR}/pods/{OPERATOR}-nats-0"
_OF_OPERATOR = f"app.kubernetes.io/instance={OPERATOR},app.kubernetes.io/component=operator"
_AWAY = 40
"""Seconds that a node is away: until that is found out, and its pods are replaced."""
_UNREADY = 3


async def leader_deleted(stage: Stage) -> None:
    leader = await stage.led()
    async with stage.trial("The leader's pod is deleted", terms=1):
        await stage.kube.delete(f"{PODS}/{leader.pod}")
        await _moved(stage, leader)
        await stage.rolled_out(stage.cluster)


async def leader_killed(stage: Stage) -> None:
    leader = await stage.led()
    node = await stage.node_of(leader)
    async with stage.trial("The leader's process gets SIGKILL", terms=1):
        pids = node.pids(leader.uid)
        assert pids, f"no process of {leader.pod} was found"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        await _moved(stage, leader)
        await stage.rolled_out(stage.cluster)


async def leader_unready(stage: Stage) -> None:
    leader = await stage.led()
    address = (await stage.kube.get(f"{PODS}/{leader.pod}"))["status"]["podIP"]
    sentence = f"The leader is not ready for {_UNREADY} s"
    async with stage.trial(sentence, terms=1), aiohttp.ClientSession() as session:
        for ready in ("false", "true"):
            async with session.put(f"http://{address}:8080/ready/{ready}") as answer:
                answer.raise_for_status()
            if ready == "false":
                await _moved(stage, leader)
                await asyncio.sleep(_UNREADY)
        await stage.rolled_out(stage.cluster)


async def leader_paused(stage: Stage) -> None:
    leader = await stage.led()
    node = await stage.node_of(leader)
    sentence = "The leader's process stands still for 10 s"
    async with stage.trial(sentence, terms=1):
        pids = node.pids(leader.uid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            await _moved(stage, leader)
            await asyncio.sleep(10 - (time.monotonic() - stage.now.since))
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        await stage.rolled_out(stage.cluster)


async def application_updated(stage: Stage) -> None:
    where = f"--namespace={NAMESPACE}"
    async with stage.trial("The application is updated, pod by pod", terms=1):
        await kubectl(stage.cluster.site, "rollout", "restart", where, f"deployment/{NAME}")
        await stage.rolled_out(stage.cluster)


async def operator_updated(stage: Stage) -> None:
    async with stage.trial("The operator is updated, pod by pod", terms=0):
        where = (f"--namespace={OPERATOR}", f"deployment/{OPERATOR}")
        await kubectl(stage.cluster.site, "rollout", "restart", *where)
        await kubectl(stage.cluster.site, "rollout", "status", *where)
        await ready_pods(stage.kube, OPERATOR, _OF_OPERATOR, 2)


async def operator_upgraded(stage: Stage) -> None:
    sentence = "helm upgrade changes a value of the operator"
    async with stage.trial(sentence, terms=0):
        flags = ("--reuse-values", "--set=log.level=debug", f"--timeout={PATIENCE:.0f}s")
        where = f"--namespace={OPERATOR}"
        await stage.helm(stage.cluster)("upgrade", OPERATOR, str(CHART), where, "--wait", *flags)
        await ready_pods(stage.kube, OPERATOR, _OF_OPERATOR, 2)


async def chart_tested(stage: Stage) -> None:
    async with stage.trial("helm test campaigns in the bucket", terms=0):
        printed = await stage.helm(stage.cluster)("test", OPERATOR, f"--namespace={OPERATOR}")
        assert "Succeeded" in printed, printed


async def node_drained(stage: Stage) -> None:
    node = stage.cluster.nodes[1]
    await stage.lead_on(node)
    site = stage.cluster.site
    async with stage.trial("The leader's node is drained", terms=1):
        flags = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={PATIENCE:.0f}s")
        try:
            await kubectl(site, "drain", node.name, *flags)
            await stage.rolled_out(stage.cluster)
        finally:
            await kubectl(site, "uncordon", node.name)


async def link_pulled(stage: Stage) -> None:
    node = stage.cluster.nodes[1]
    leader = await stage.lead_on(node)
    sentence = f"The link of the leader's node is pulled for {_AWAY} s"
    async with stage.trial(sentence, terms=1):
        node.host.pull_link()
        try:
            await _away(stage, leader)
        finally:
            node.host.mend_link()
        await _back(stage, node)


async def kubelet_stopped(stage: Stage) -> None:
    node = stage.cluster.nodes[1]
    leader = await stage.lead_on(node)
    sentence = f"The kubelet of the leader's node is stopped for {_AWAY} s"
    async with stage.trial(sentence, terms=1):
        node.kubelet.kill()
        try:
            await _away(stage, leader)
        finally:
            node.kubelet.start()
        await _back(stage, node)


async def node_reset(stage: Stage) -> None:
    node = stage.cluster.nodes[1]
    leader = await stage.lead_on(node)
    sentence = f"The leader's node is reset, and boots after {_AWAY} s"
    async with stage.trial(sentence, terms=1):
        node.reset()
        try:
            await _away(stage, leader)
        finally:
            await node.boot()
        await _back(stage, node)


async def operators_killed(stage: Stage) -> None:
    sentence = "Both pods of the operator are killed at once"
    async with stage.trial(sentence, terms=0):
        pods = await stage.kube.pods(OPERATOR, _OF_OPERATOR)
        pids = [
            pid
            for pod in pods
            for pid in stage.cluster.node(pod["spec"]["nodeName"]).pids(pod["metadata"]["uid"])
        ]
        assert len(pids) >= len(pods), f"{len(pids)} processes of {len(pods)} pods were found"
        restarts = {pod["metadata"]["uid"]: _restarts(pod) for pod in pods}
        with stage.history.spell(Trouble.DEAD, stage.cluster.site.name, OPERATOR):
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await stage.kube.until(
                f"/api/v1/namespaces/{OPERATOR}/pods",
                lambda found: all(
                    _restarts(pod) > restarts[pod["metadata"]["uid"]] for pod in found["items"]
                ),
                timeout=PATIENCE,
                labelSelector=_OF_OPERATOR,
            )
            await ready_pods(stage.kube, OPERATOR, _OF_OPERATOR, 2)


async def nats_deleted(stage: Stage) -> None:
    before = (await stage.kube.get(_NATS))["metadata"]["uid"]
    sentence = "The pod of NATS is deleted, and comes back with its volume"
    async with stage.trial(sentence, terms=0):
        await stage.kube.delete(_NATS)
        await stage.kube.until(
            _NATS,
            lambda found: (
                found and found["metadata"]["uid"] != before and has_condition(found, "Ready")
            ),
            timeout=PATIENCE,
        )
        await find_nats(stage)
        await asyncio.sleep(stage.history.ttl / 3)  # renewed by then, or not at all


async def chart_uninstalled(stage: Stage) -> None:
    """Uninstall the chart, and look for leftovers."""
    stage.say("helm uninstall")
    await stage.helm(stage.cluster)(
        "uninstall", OPERATOR, f"--namespace={OPERATOR}", "--wait", f"--timeout={PATIENCE:.0f}s"
    )
    for pod in await stage.kube.pods(NAMESPACE):
        metadata = pod["metadata"]
        left = [
            key
            for key in (metadata.get("labels") or {}) | (metadata.get("annotations") or {})
            if key == f"incumbent.dev/{NAME}"
        ]
        if left:
            stage.failures.append(f"helm uninstall left {left} on {metadata['name']}")
    kinds = (
        "/apis/apps/v1/namespaces/{}/deployments /apis/apps/v1/namespaces/{}/statefulsets"
        " /api/v1/namespaces/{}/services /api/v1/namespaces/{}/secrets"
        " /apis/batch/v1/namespaces/{}/jobs /apis/rbac.authorization.k8s.io/v1/clusterroles"
        " /apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
        " /apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    )
    for path in kinds.format(*[OPERATOR] * 5).split():
        found = await stage.kube.get(path, labelSelector=f"app.kubernetes.io/instance={OPERATOR}")
        stage.failures += [
            f"helm uninstall left {path.rpartition('/')[2]}/{one['metadata']['name']}"
            for one in found["items"]
        ]
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
    if not await gone(stage.kube, f"{slices}/incumbent-{NAME}-ipv4"):
        found = await stage.kube.get(f"{slices}/incumbent-{NAME}-ipv4")
        if found.get("endpoints"):
            stage.failures.append("helm uninstall left a slice that leads to a pod")


async def find_nats(stage: Stage) -> None:
    """Tell the witness where the chart's NATS server is now."""
    address = (await stage.kube.get(_NATS))["status"]["podIP"]
    stage.nats[:] = [f"nats://{address}:4222"]


ALL = (
    leader_deleted,
    leader_killed,
    leader_unready,
    leader_paused,
    application_updated,
    operator_updated,
    operator_upgraded,
    chart_tested,
    operators_killed,
    nats_deleted,
    node_drained,
    link_pulled,
    kubelet_stopped,
    node_reset,
)


def _restarts(pod: Mapping[str, Any]) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


async def _moved(stage: Stage, before: PodEvent) -> None:
    """Wait until another pod leads."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if any(pod.uid != before.uid for pod in stage.leaders()):
            return
        await asyncio.sleep(0.02)
    msg = f"{before.pod} has no successor after {PATIENCE:.0f} s"
    raise TimeoutError(msg)


async def _away(stage: Stage, before: PodEvent) -> None:
    await _moved(stage, before)
    await asyncio.sleep(stage.now.since + _AWAY - time.monotonic())


async def _back(stage: Stage, node: Node) -> None:
    """Wait until a node is Ready again, and all that belongs on it runs."""
    await asyncio.sleep(3)  # it is Ready by its old report until it has sent a new one
    await stage.cluster.until_ready(node)
    await stage.rolled_out(stage.cluster)
    await ready_pods(stage.kube, OPERATOR, _OF_OPERATOR, 2)
