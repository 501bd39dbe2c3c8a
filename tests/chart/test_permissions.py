"""What the chart allows the operator is what the operator needs: nothing is refused, nothing spare.

Its pods run here with the token of the chart's service account, so the API server's audit log is
that of a real installation, with the admission policies in force.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from controlplane.kube import has_condition, kubectl
from controlplane.nodes import PodControl
from elections import Election
from helm import (
    CHART,
    DEFINITION,
    QUICKSTART,
    Helm,
    granted,
    objects,
    quickstart,
    roles_of_the_operator,
)

if TYPE_CHECKING:
    pass

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

RIGHTS = CHART.parents[1] / "examples" / "install" / "rights.yaml"
REFUSED = {401, 403}
"""Not 422: by a JSON patch that fails kopf notices that another replica was first."""

FOR_FAULTS = {
    ("get", "pods"): "after a conflict or a lost answer, the pod is read again",
    ("serve", "leaderelections"): "by it the policies of another release recognize an operator",
    ("create", "endpointslices/restricted"): "OpenShift asks for it",
}
"""Rights that a run without faults may leave unused, and what they are for."""


async def live(cluster, election, *, routing) -> None:
    """Let an election see everything that happens to one in its life."""
    where, pods = f"--namespace={election.namespace}", PodControl(cluster.kube)
    await kubectl(cluster.site, "apply", where, "-f", str(QUICKSTART))
    leader = await election.wait_leader()
    if routing:
        services = f"/api/v1/namespaces/{election.namespace}/services"
        office = {"metadata": {"name": "office"}, "spec": {"ports": [{"port": 80}]}}
        await cluster.kube.create(services, office)
        await election.patch(routing={"service": "office", "mode": "EndpointSlice"})
        await cluster.kube.until(
            election.path, lambda found: has_condition(found, "RoutingInSync"), timeout=30
        )
    await cluster.kube.delete(election.pod_path(leader))
    leader = await election.wait_leader(other_than=leader)
    found = await cluster.kube.get(election.pod_path(leader))
    await pods.set_ready(found, ready=False)
    leader = await election.wait_leader(other_than=leader)
    await pods.set_ready(found, ready=True)
    step_down = {"metadata": {"annotations": {"incumbent.dev/step-down": ""}}}
    await cluster.kube.patch(election.path, step_down)
    leader = await election.wait_leader(other_than=leader)
    await election.set_label(leader, None)
    await cluster.kube.until(
        election.pod_path(leader), lambda pod: pod["metadata"]["labels"].get(election.label)
    )
    await election.patch(suspend=True)
    await election.wait_reason("Suspended")
    await election.patch(suspend=False)
    await election.wait_leader()
    if routing:
        await election.patch(routing=None)
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{election.namespace}/endpointslices"
        await cluster.kube.until(f"{slices}/incumbent-billing-ipv4", lambda found: found is None)
    await election.delete()
    await election.wait_gone()
    await election.wait_labels({})


@pytest.mark.parametrize("mode", ("cluster", "namespaced", "routing"))
async def test_operator_has_the_rights_that_it_uses(cluster, tmp_path, mode):
    """In the audit log of a whole life no request is refused, and every right is used."""
    namespace, shop = await cluster.namespace(), await cluster.namespace("shop")
    helm = Helm("helm4", tmp_path, cluster.site)
    values: dict[str, Any] = {"nats": {"bucket": {"ttl": "6s"}}}
    if mode == "namespaced":
        values |= {
            "watch": {"namespaces": [shop]},
            "site": "here",
            "admissionPolicies": {"inNamespacedMode": True},
        }
    if mode == "routing":
        values["rbac"] = {"endpointSlices": True}
    where = (f"--namespace={namespace}", "--wait", "--timeout=60s")
    since = cluster.site.audit.position()
    try:
        await helm("install", "incumbent", str(CHART), *where, values=values)
        await live(cluster, Election(cluster.kube, shop, "billing"), routing=mode == "routing")
        roles = "/apis/rbac.authorization.k8s.io/v1"
        name = f"incumbent.{namespace}"
        path = f"clusterroles/{name}" if mode != "namespaced" else f"namespaces/{shop}/roles/{name}"
        role = await cluster.kube.get(f"{roles}/{path}")
        await asyncio.sleep(1)  # the log has a watch when it begins, and it may begin late
        requests = cluster.site.audit.requests(
            since=since, user=f"system:serviceaccount:{namespace}:incumbent"
        )
    finally:
        await helm("uninstall", "incumbent", *where)
        await cluster.kube.delete(DEFINITION)
        await cluster.kube.until(DEFINITION, lambda found: found is None)
    assert [request for request in requests if request.status in REFUSED] == []
    used = {
        (r.verb, f"{r.resource}/{r.subresource}" if r.subresource else r.resource)
        for r in requests
        if r.resource
    }
    spare = granted(role) - used
    assert spare <= FOR_FAULTS.keys(), f"granted and not used: {spare - FOR_FAULTS.keys()}"
    assert used <= granted(role) | {("patch", "deployments/scale")}


async def test_rights_that_are_granted_by_hand_suffice(cluster, tmp_path, helm3):
    """With `rbac.create=false`, from install to uninstall; they are what the chart would grant."""
    namespace, shop = await cluster.namespace(), await cluster.namespace("shop")
    text = RIGHTS.read_text().replace("incumbent\n", f"{namespace}\n")  # names, not groups
    text = text.replace(f"[{namespace}]", "[incumbent]")
    by_hand = list(yaml.safe_load_all(text))
    values: dict[str, Any] = {"replicaCount": 1}
    rendered = helm3.render(values)
    for kind in ("ClusterRole", "Role"):
        (ours,) = objects(by_hand, kind)
        (theirs,) = roles_of_the_operator(rendered, kind)
        assert granted(ours) == granted(theirs)

    values |= {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": namespace}}
    helm = Helm("helm3", tmp_path, cluster.site)
    where = (f"--namespace={namespace}", "--wait", "--timeout=60s")
    election = Election(cluster.kube, shop, "billing")
    since = cluster.site.audit.position()
    await kubectl(cluster.site, "apply", "-f-", stdin=text)
    try:
        await helm("install", "incumbent", str(CHART), *where, values=values)
        await quickstart(cluster, shop)
        await election.wait_leader()
    finally:
        await helm("uninstall", "incumbent", *where)
        await cluster.kube.delete(DEFINITION)
        await cluster.kube.until(DEFINITION, lambda found: found is None)
        await kubectl(cluster.site, "delete", "-f-", stdin=text)
    assert await election.labels() == {}
    account = f"system:serviceaccount:{namespace}:{namespace}"
    requests = cluster.site.audit.requests(since=since, user=account)
    assert [request for request in requests if request.status in REFUSED] == []
