"""A namespace that is deleted goes, with the operator in it, or only with its rights there."""

from __future__ import annotations

import pytest

from controlplane.kube import kubectl
from elections import Election
from helm import quickstart
from incumbent.kubernetes.resource import FINALIZER
from operatorprocess import run_cleanup

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

CLUSTER_WIDE = "clusterroles,clusterrolebindings,validatingadmissionpolicies"
CLUSTER_WIDE += ",validatingadmissionpolicybindings"


async def gone(cluster, namespace):
    """Wait until a namespace has gone."""
    path = f"/api/v1/namespaces/{namespace}"
    await cluster.kube.delete(path)
    await cluster.kube.until(path, lambda found: found is None, timeout=60)


def values(nats_server, *namespaces):
    """Return values for an operator of these namespaces, or of all."""
    nats = {"url": nats_server.url, "bucket": {"name": "GOING", "create": True}}
    only = {"watch": {"namespaces": [*namespaces]}, "site": "blue"} if namespaces else {}
    return {"replicaCount": 1, "nats": nats, **only}


@pytest.mark.parametrize("version", ("helm3",))
@pytest.mark.parametrize("where", ("its own", "another"))
async def test_a_namespace_goes_whose_rights_went_first(cluster, install, nats_server, where):
    """The operator's RoleBinding is in it; whether that goes before the election is chance."""
    namespace = await cluster.namespace()
    watched = namespace if where == "its own" else await cluster.namespace("shop")
    await install("incumbent", namespace, values=values(nats_server, watched))
    election = await quickstart(cluster, watched)
    await election.wait_leader()
    bindings = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{watched}/rolebindings"
    await cluster.kube.delete(f"{bindings}/incumbent.{namespace}")
    await gone(cluster, watched)
    if watched != namespace:
        await install.helm("uninstall", "incumbent", f"--namespace={namespace}", "--wait")


@pytest.mark.parametrize("version", ("helm3",))
async def test_a_namespace_goes_with_an_operator_of_all_namespaces(cluster, install, nats_server):
    """Elections elsewhere wait for another operator, or for `incumbent cleanup`."""
    namespace = await cluster.namespace()
    await install("incumbent", namespace, values=values(nats_server))
    here, there = [await quickstart(cluster, one) for one in (namespace, "")]
    for election in (here, there):
        await election.wait_leader()
    try:
        await gone(cluster, namespace)
        code, said = await run_cleanup(cluster.site.kubeconfig)
        assert (code, said) == (0, "let go of 1 election\n")
        assert await there.labels() == {}
    finally:
        release = "--selector=app.kubernetes.io/instance=incumbent"
        await kubectl(cluster.site, "delete", CLUSTER_WIDE, release)
        await kubectl(cluster.site, "delete", "crd", "leaderelections.incumbent.dev")


@pytest.mark.parametrize("version", ("helm3",))
async def test_an_election_without_a_finalizer_takes_its_labels_along(
    cluster, install, nats_server
):
    """It is gone at once when it is deleted, and the operator takes back what it did."""
    namespace = await cluster.namespace()
    await install("incumbent", namespace, values=values(nats_server, namespace))
    election = await quickstart(cluster, namespace)
    await election.wait_leader()
    assert "finalizers" not in (await cluster.kube.get(election.path))["metadata"]
    # An operator of an earlier version may have added it.
    await cluster.kube.patch(election.path, {"metadata": {"finalizers": [FINALIZER]}})
    await cluster.kube.until(election.path, lambda found: "finalizers" not in found["metadata"])
    await election.delete()
    await election.wait_labels({})
    for pod in (await election.pods()).values():
        assert election.token not in pod["metadata"].get("annotations", {})


@pytest.mark.parametrize("version", ("helm3",))
async def test_labels_are_taken_away_of_an_election_that_was_deleted_without_an_operator(
    cluster, install, nats_server
):
    """Nothing held it back, so the operator finds its labels when it starts."""
    namespace = await cluster.namespace()
    only = values(nats_server, namespace)
    await install("incumbent", namespace, values=only)
    election = await quickstart(cluster, namespace)
    await election.wait_leader()
    scale = f"/apis/apps/v1/namespaces/{namespace}/deployments/incumbent/scale"
    await cluster.kube.patch(scale, {"spec": {"replicas": 0}})
    operator = "app.kubernetes.io/component=operator"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    await cluster.kube.until(pods, lambda found: not found["items"], labelSelector=operator)
    await election.delete()
    await election.wait_gone()
    another = Election(cluster.kube, namespace, "another")
    await another.create(selector={"matchLabels": {"app": "billing"}})
    await cluster.kube.patch(scale, {"spec": {"replicas": 1}})
    await election.wait_labels({})
    await another.wait_reason("Leading")
