"""What is done to one cluster, one thing after another. Each leaves all pods running."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import aiohttp

from chaos.history import Trouble
from controlplane.kube import has_condition, kubectl
from e2e.manifests import NAME, NAMESPACE
from e2e.node import Node
from e2e.stage import OPERATOR, PATIENCE, PODS, Stage
from helm import CHART

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from chaos.history import PodEvent

_NATS = f"/api/v1/namespaces/{OPERATOR}/pods/{OPERATOR}-nats-0"
_LOGIN = f"/api/v1/namespaces/{OPERATOR}/secrets/{OPERATOR}-nats"
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
        _send(pids, signal.SIGKILL)
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
    async with stage.trial(sentence, terms=1) as trial:
        pids = node.pids(leader.uid)
        _send(pids, signal.SIGSTOP)
        try:
            await _moved(stage, leader)
            await asyncio.sleep(10 - (time.monotonic() - trial.since))
        finally:
            _send(pids, signal.SIGCONT)
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
        await _operators_ready(stage)


async def operator_upgraded(stage: Stage) -> None:
    sentence = "helm upgrade changes a value of the operator"
    async with stage.trial(sentence, terms=0):
        flags = ("--reuse-values", "--set=log.level=debug", f"--timeout={PATIENCE:.0f}s")
        where = f"--namespace={OPERATOR}"
        await stage.helm(stage.cluster)("upgrade", OPERATOR, str(CHART), where, "--wait", *flags)
        await _operators_ready(stage)


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
    async def mend(node: Node) -> None:
        node.host.mend_link()

    sentence = f"The link of the leader's node is pulled for {_AWAY} s"
    await _take_node(stage, sentence, lambda node: node.host.pull_link(), mend)


async def kubelet_stopped(stage: Stage) -> None:
    async def start(node: Node) -> None:
        node.kubelet.start()

    sentence = f"The kubelet of the leader's node is stopped for {_AWAY} s"
    await _take_node(stage, sentence, lambda node: node.kubelet.kill(), start)


async def node_reset(stage: Stage) -> None:
    sentence = f"The leader's node is reset, and boots after {_AWAY} s"
    await _take_node(stage, sentence, Node.reset, Node.boot)


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
            _send(pids, signal.SIGKILL)
            await stage.kube.until(
                f"/api/v1/namespaces/{OPERATOR}/pods",
                lambda found: all(
                    _restarts(pod) > restarts[pod["metadata"]["uid"]] for pod in found["items"]
                ),
                timeout=PATIENCE,
                labelSelector=_OF_OPERATOR,
            )
            await _operators_ready(stage)


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
    label = f"incumbent.dev/{NAME}"
    for pod in await stage.kube.pods(NAMESPACE):
        metadata = pod["metadata"]
        if label in (metadata.get("labels") or {}) | (metadata.get("annotations") or {}):
            stage.failures.append(f"helm uninstall left {label} on {metadata['name']}")
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
    for found in (await stage.kube.get(slices))["items"]:
        if found["metadata"]["name"] == f"incumbent-{NAME}-ipv4" and found.get("endpoints"):
            stage.failures.append("helm uninstall left a slice that leads to a pod")


async def find_nats(stage: Stage) -> None:
    """Tell the witness where the chart's NATS server is now, and how to log in."""
    address = (await stage.kube.get(_NATS))["status"]["podIP"]
    login = (await stage.kube.get(_LOGIN))["data"]
    user, password = (base64.b64decode(login[key]).decode() for key in ("username", "password"))
    stage.nats[:] = [f"nats://{user}:{password}@{address}:4222"]


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


async def _take_node(
    stage: Stage,
    sentence: str,
    take: Callable[[Node], None],
    bring_back: Callable[[Node], Awaitable[None]],
) -> None:
    """Take the leader's node away for a while, and wait until all that belongs on it runs again."""
    node = stage.cluster.nodes[1]
    leader = await stage.lead_on(node)
    async with stage.trial(sentence, terms=1) as trial:
        take(node)
        try:
            await _moved(stage, leader)
            await asyncio.sleep(trial.since + _AWAY - time.monotonic())
        finally:
            await bring_back(node)
        await asyncio.sleep(3)  # it is Ready by its old report until it has sent a new one
        await stage.cluster.until_ready(node)
        await stage.rolled_out(stage.cluster)
        await _operators_ready(stage)


async def _operators_ready(stage: Stage) -> None:
    """Wait until there are two Ready pods of the operator, and no others."""

    def complete(found: Any) -> bool:
        pods = found["items"]
        lasting = [p for p in pods if not p["metadata"].get("deletionTimestamp")]
        return len(pods) == 2 and sum(has_condition(p, "Ready") for p in lasting) == 2

    path = f"/api/v1/namespaces/{OPERATOR}/pods"
    await stage.kube.until(path, complete, timeout=PATIENCE, labelSelector=_OF_OPERATOR)


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
