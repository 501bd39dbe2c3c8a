"""The chart's FlowSchema, on a real API server: which of the operator's requests it is for."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import aiohttp
import pytest

from controlplane.kube import Kube
from helm import Helm, HelmError, objects

if TYPE_CHECKING:
    from controlplane.sites import Site

FLOWCONTROL = "/apis/flowcontrol.apiserver.k8s.io/v1"
PATHS = {"FlowSchema": "flowschemas", "PriorityLevelConfiguration": "prioritylevelconfigurations"}
CLUSTER_ADMIN = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
CLUSTER_ADMIN |= {"name": "cluster-admin"}
MERGE = "application/merge-patch+json"


async def levels_of(site: Site, token: str, requests) -> list[tuple[str, str]]:
    """Send requests; return the UIDs of the FlowSchema and the priority level of each."""
    found = []
    headers = {"Authorization": f"Bearer {token}", "Content-Type": MERGE}
    connector = aiohttp.TCPConnector(ssl=site.ssl_context())
    async with aiohttp.ClientSession(site.url, headers=headers, connector=connector) as session:
        for method, path in requests:
            body = "{}" if method == "PATCH" else None
            async with session.request(method, path, data=body) as response:
                found.append(
                    (
                        response.headers["X-Kubernetes-PF-FlowSchema-UID"],
                        response.headers["X-Kubernetes-PF-PriorityLevel-UID"],
                    )
                )
    return found


async def until_in_force(kube: Kube, schema, site: Site, token: str, request) -> None:
    """Wait until the API server uses a FlowSchema."""
    path = f"{FLOWCONTROL}/flowschemas/{schema}"
    uid = (await kube.get(path))["metadata"]["uid"]
    for _ in range(600):
        ((found, _),) = await levels_of(site, token, [request])
        if found == uid:
            return
    pytest.fail(f"{schema} is not in force")


@pytest.mark.parametrize("level", ("", "workload-high"))
async def test_what_a_change_of_leader_needs_has_a_level_and_nothing_else_has(
    site, kube, tmp_path, level
):
    """Patches of pods and statuses, slices, and reads; not watches, events and lists of all."""
    namespace = f"flow-{secrets.token_hex(4)}"
    values = {
        "namespaceOverride": namespace,
        "rbac": {"endpointSlices": True},
        "flowControl": {"priorityLevel": level},
    }
    rendered = Helm("helm4", tmp_path).render(values)
    (schema,) = objects(rendered, "FlowSchema")
    own = objects(rendered, "PriorityLevelConfiguration")
    assert bool(own) != bool(level)
    await kube.namespace(namespace)
    await kube.create(
        f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "incumbent"}}
    )
    await kube.create(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "metadata": {"name": namespace},
            "roleRef": CLUSTER_ADMIN,
            "subjects": [{"kind": "ServiceAccount", "name": "incumbent", "namespace": namespace}],
        },
    )
    for thing in (*own, schema):
        await kube.create(f"{FLOWCONTROL}/{PATHS[thing['kind']]}", thing)
    try:
        token = await account_token(kube, namespace)
        pods = f"/api/v1/namespaces/{namespace}/pods"
        elections = f"/apis/incumbent.dev/v1alpha1/namespaces/{namespace}/leaderelections"
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        urgent = [
            ("GET", f"{pods}/a"),
            ("GET", pods),
            ("PATCH", f"{pods}/a"),
            ("GET", f"{elections}/a"),
            ("PATCH", f"{elections}/a"),
            ("PATCH", f"{elections}/a/status"),
            ("GET", slices),
            ("GET", f"{slices}/a"),
            ("PATCH", f"{slices}/a"),
            ("DELETE", f"{slices}/a"),
            ("GET", f"/api/v1/namespaces/{namespace}/services/a"),
        ]
        others = [
            ("GET", "/apis/incumbent.dev/v1alpha1/leaderelections"),
            ("GET", elections),
            ("GET", f"{pods}?watch=true&timeoutSeconds=1"),
            ("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"),
            ("GET", "/api/v1/namespaces/kube-system"),
            ("GET", f"/api/v1/namespaces/{namespace}/secrets/a"),
        ]
        name = schema["metadata"]["name"]
        await until_in_force(kube, name, site, token, urgent[0])
        wanted = await uids(kube, name, level or own[0]["metadata"]["name"])
        assert set(await levels_of(site, token, urgent)) == {wanted}
        usual = await uids(kube, "service-accounts", "workload-low")
        assert set(await levels_of(site, token, others)) == {usual}
    finally:
        for thing in (schema, *own):
            name = thing["metadata"]["name"]
            await kube.delete(f"{FLOWCONTROL}/{PATHS[thing['kind']]}/{name}")
        await kube.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{namespace}")


async def uids(kube: Kube, schema: str, level: str) -> tuple[str, str]:
    """Return the UIDs of a FlowSchema and a priority level."""
    found = [
        await kube.get(f"{FLOWCONTROL}/flowschemas/{schema}"),
        await kube.get(f"{FLOWCONTROL}/prioritylevelconfigurations/{level}"),
    ]
    one, other = (each["metadata"]["uid"] for each in found)
    return one, other


async def account_token(kube: Kube, namespace: str) -> str:
    """Return a token of the operator's service account."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/incumbent/token"
    answer = await kube.create(path, {"spec": {"expirationSeconds": 3600}})
    token: str = answer["status"]["token"]
    return token


async def test_the_level_queues_what_does_not_fit_and_lends_what_it_does_not_need(kube, helm3):
    """A full API server lets requests wait, and refuses none while there is room in a queue."""
    (level,) = objects(helm3.render(), "PriorityLevelConfiguration")
    name = f"shape-{secrets.token_hex(4)}"
    level["metadata"] = {"name": name}
    path = f"{FLOWCONTROL}/prioritylevelconfigurations"
    await kube.create(path, level)
    try:
        limited = (await kube.get(f"{path}/{name}"))["spec"]["limited"]
    finally:
        await kube.delete(f"{path}/{name}")
    assert limited["limitResponse"]["type"] == "Queue"
    assert 0 < limited["lendablePercent"] < 100
    assert "borrowingLimitPercent" not in limited


@pytest.mark.parametrize(
    ("values", "wrong"),
    (
        ({"priorityLevel": "leader-election"}, "priorityLevel"),
        ({"matchingPrecedence": 0}, "matchingPrecedence"),
        ({"nominalConcurrencyShares": 0}, "nominalConcurrencyShares"),
    ),
)
def test_values_that_would_harm_the_cluster_are_refused(helm3, values, wrong):
    """In that level the scheduler renews its lease."""
    with pytest.raises(HelmError, match=wrong):
        helm3.render({"flowControl": values})


def test_nothing_is_made_where_it_is_not_wanted(helm3):
    """By the value."""
    rendered = helm3.render({"flowControl": {"enabled": False}})
    assert not {thing["kind"] for thing in rendered} & {*PATHS}
