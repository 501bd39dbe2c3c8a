"""The operator goes on when another API server is behind the address of the one it knew."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.httpproxy import HttpProxy
from controlplane.kube import Kube
from controlplane.nodes import NodeAgent
from elections import LEADER, Election, LabelWatch, store_on, with_bucket
from incumbent.routing.writer import LOOK_EVERY
from operatorprocess import OperatorProcess

pytestmark = pytest.mark.timeout(240)

DEFINITIONS = Path(__file__).parents[2] / "crds"
TTL = 6.0
SOON = 15
"""Seconds that are more than enough on a busy machine; at rest it takes one or two."""


@pytest.fixture
async def own_kube(private_plane):
    """A connection to the test's own control plane, with a node and the namespace `own`."""
    async with Kube(private_plane.site) as kube, NodeAgent(private_plane.site):
        for path in sorted(DEFINITIONS.glob("*.yaml")):
            await kube.apply_definitions(path.read_text())
        await kube.namespace("own")
        yield kube


@pytest.fixture
async def operator(private_plane, private_nats, tmp_path, request):
    """An operator there, of all namespaces or of one, whose log has no error of its own."""
    flags = (*with_bucket(TTL), *getattr(request, "param", ()))
    process = OperatorProcess(
        private_plane.site, tmp_path, nats_url=private_nats.url, arguments=flags
    )
    yield process
    process.kill()
    assert not process.complaints


async def churn(kube, *paths, times=200):
    """Change objects, so that versions grow."""
    for number in range(times):
        for path in paths:
            await kube.patch(path, {"metadata": {"annotations": {"n": str(number)}}})


@pytest.mark.parametrize(
    "operator", ((), ("--namespace=own",)), indirect=True, ids=["cluster", "namespace"]
)
@pytest.mark.parametrize("lost", (200, 0), ids=["much was lost", "little was lost"])
async def test_etcd_is_restored_from_a_backup(
    private_plane, own_kube, operator, private_nats, lost
):
    """Versions go back, or soon are what they were: labels, status, slices and specs are followed.

    Nobody restarts the operator. An election that was made after the backup is gone, and one that
    was deleted after it is served again.
    """
    kube = own_kube
    service = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
    await kube.create("/api/v1/namespaces/own/services", service)
    web, early = Election(kube, "own"), Election(kube, "own", "early")
    late = Election(kube, "own", "late")
    slice_path = "/apis/discovery.k8s.io/v1/namespaces/own/endpointslices/incumbent-web-ipv4"
    await operator.start()
    before = await web.lead(routing={"service": "web"})
    await early.lead()
    copy = await private_plane.back_up()

    await web.kube.patch(web.path, {"metadata": {"annotations": {"incumbent.dev/step-down": ""}}})
    after = await web.wait_leader(other_than=before)
    await early.delete()
    await early.wait_gone()
    await late.lead()
    await churn(kube, web.path, *(web.pod_path(pod) for pod in ("one", "two")), times=lost)

    await private_plane.restore(copy)
    async with LabelWatch(web) as labels:
        await web.wait_labels({after: LEADER, before: "candidate"}, timeout=SOON)
        assert await web.wait_leader(other_than=before, timeout=SOON) == after
        await kube.until(
            slice_path,
            lambda found: found["endpoints"][0]["targetRef"]["name"] == f"web-{after}",
            timeout=SOON if lost else LOOK_EVERY + SOON,
        )
        await web.patch(suspend=True)
        await web.wait_labels({"one": "candidate", "two": "candidate"}, timeout=SOON)
        await web.patch(suspend=False)
        leader = await web.wait_leader(timeout=SOON)
        await kube.delete(web.pod_path(leader), grace=0)
        await web.wait_leader(other_than=leader, timeout=SOON)
        assert labels.most == 1
    await early.wait_leader(timeout=SOON)
    async with store_on(private_nats) as store:
        await store.until(late.key, lambda found: found is None or not found.value, timeout=SOON)
    if lost:
        assert operator.lines("cluster.restored")


async def test_the_leader_was_made_after_the_backup(
    private_plane, own_kube, operator, private_nats, tmp_path
):
    """Its pod is not there any more: another one leads. Two replicas do not take it for a copy."""
    web = Election(own_kube, "own")
    await operator.start()
    second = OperatorProcess(
        private_plane.site,
        tmp_path,
        nats_url=private_nats.url,
        arguments=with_bucket(TTL),
        replica="replica-2",
    )
    async with second:
        before = await web.lead()
        copy = await private_plane.back_up()
        await web.add_pods("three")
        annotations = {"incumbent.dev/step-down": "web-three"}
        await own_kube.patch(web.path, {"metadata": {"annotations": annotations}})
        assert await web.wait_leader(other_than=before) == "three"
        await churn(own_kube, web.path)

        await private_plane.restore(copy)
        async with LabelWatch(web) as labels:
            await web.wait_leader(timeout=SOON)
            status = await web.kube.until(
                web.path, lambda found: found["status"]["transitions"] > 1, timeout=SOON
            )
            assert status["status"]["leader"]["podName"] in {"web-one", "web-two"}
            await web.patch(suspend=True)
            await web.wait_labels({"one": "candidate", "two": "candidate"}, timeout=SOON)
            await web.patch(suspend=False)
            await web.wait_leader(timeout=SOON)
            assert labels.most == 1
        assert not second.complaints
        for replica in (operator, second):
            assert "SiteInUse" not in replica.log


async def test_the_certificate_of_the_api_server_is_signed_by_another_authority(
    private_plane, own_kube, operator, private_nats
):
    """The file of the CA has changed; the watches of pods and of elections come back."""
    election = Election(own_kube, "own")
    await operator.start()
    await election.lead()
    await private_plane.renew_certificate()
    async with Kube(private_plane.site) as kube:
        renewed = Election(kube, "own")
        leader = await renewed.wait_leader()
        await renewed.patch(suspend=True)
        await renewed.wait_labels({"one": "candidate", "two": "candidate"}, timeout=SOON)
        await renewed.patch(suspend=False)
        leader = await renewed.wait_leader(timeout=SOON)
        await kube.delete(renewed.pod_path(leader), grace=0)
        await renewed.wait_leader(other_than=leader, timeout=SOON)


async def test_the_api_server_is_behind_a_proxy(site, election, new_operator, private_nats):
    """All requests and watches go through it: nobody else knows the name of the API server.

    Without NO_PROXY for this machine, NATS is reached all the same.
    """
    port = site.url.rpartition(":")[2]
    name = "kubernetes.default.svc"
    async with HttpProxy(int(port)) as proxy:
        operator = new_operator(
            private_nats.url,
            *with_bucket(TTL),
            kubeconfig=site.kubeconfig_for("operator", server=f"{name}:{port}"),
            variables={"HTTPS_PROXY": proxy.url, "NO_PROXY": "10.0.0.0/8,example.com"},
        )
        await operator.start()
        leader = await election.lead()
        await election.patch(suspend=True)
        await election.wait_labels({"one": "candidate", "two": "candidate"}, timeout=SOON)
        await election.patch(suspend=False)
        leader = await election.wait_leader(timeout=SOON)
        await election.kube.delete(election.pod_path(leader), grace=0)
        await election.wait_leader(other_than=leader, timeout=SOON)
        assert set(proxy.asked) == {f"CONNECT {name}:{port} HTTP/1.1"}
        operator.kill()
