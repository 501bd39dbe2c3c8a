"""A Service is led to the leader by slices of our own, on a real control plane with controllers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time

import pytest
import pytest_asyncio

from controlplane.kube import ApiError
from controlplane.sites import WRITES
from elections import LEADER, Election, condition_of, with_bucket
from operatorprocess import OperatorProcess

TTL = 5.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(site, nats_server, shared_namespace, tmp_path_factory):
    """An operator that the tests share."""
    async with OperatorProcess(
        site,
        tmp_path_factory.mktemp("operator"),
        nats_url=nats_server.url,
        arguments=(f"--namespace={shared_namespace}", *with_bucket(TTL)),
    ) as process:
        yield process


class Routed(Election):
    """An election whose Service has the same name."""

    @property
    def slices_path(self):
        """The path of the EndpointSlices of the namespace."""
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"

    @property
    def slice_path(self):
        """The path of the slice of ours."""
        return f"{self.slices_path}/incumbent-{self.name}-ipv4"

    async def add_service(self, **spec):
        """Create the Service, without a selector."""
        ports = [
            {"name": "web", "port": 80, "targetPort": 8080, "appProtocol": "http"},
            {"name": "dns", "port": 53, "protocol": "UDP"},
        ]
        body = {"metadata": {"name": self.name}, "spec": {"ports": ports, **spec}}
        await self.kube.create(f"/api/v1/namespaces/{self.namespace}/services", body)

    async def lead_routed(self, *pods):
        """Create Service, pods and election, and wait until the leader is reached."""
        await self.add_service()
        leader = await self.lead(*pods, routing={"service": self.name})
        await self.wait_reached(leader)
        return leader

    def reached(self, found):
        """Return the short names of the pods that a slice leads to."""
        endpoints = (found or {}).get("endpoints") or ()
        return [self.short({"metadata": {"name": e["targetRef"]["name"]}}) for e in endpoints]

    async def wait_reached(self, *pods, timeout=20):
        """Wait until the slice leads to these pods, and return it."""
        return await self.kube.until(
            self.slice_path, lambda found: self.reached(found) == [*pods], timeout=timeout
        )

    async def slices(self):
        """Return all slices of the Service, whoever wrote them."""
        label = f"kubernetes.io/service-name={self.name}"
        return (await self.kube.get(self.slices_path, labelSelector=label))["items"]


@pytest.fixture
def shared(kube, operator, shared_namespace):
    """The election of a test, not created yet, for the operator that the tests share."""
    return Routed(kube, shared_namespace, f"web-{secrets.token_hex(4)}")


async def test_slice_is_the_only_one_and_complete(shared, operator):
    """The API server takes it as it is, and the controllers leave the Service to us."""
    leader = await shared.lead_routed()
    pod = (await shared.pods())[leader]
    await shared.wait_reason("SliceWritten", kind="RoutingInSync")
    (found,) = await shared.slices()
    assert found["metadata"]["labels"] == {
        "kubernetes.io/service-name": shared.name,
        "endpointslice.kubernetes.io/managed-by": "incumbent.dev",
    }
    (owner,) = found["metadata"]["ownerReferences"]
    assert owner["uid"] == (await shared.kube.get(shared.path))["metadata"]["uid"]
    assert found["addressType"] == "IPv4"
    (endpoint,) = found["endpoints"]
    assert endpoint == {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod",
            "namespace": shared.namespace,
            "name": f"{shared.name}-{leader}",
            "uid": pod["metadata"]["uid"],
        },
    }
    assert found["ports"] == [
        {"name": "web", "protocol": "TCP", "port": 8080, "appProtocol": "http"},
        {"name": "dns", "protocol": "UDP", "port": 53},
    ]
    token = str((await shared.status())["token"])
    assert found["metadata"]["annotations"][shared.token] == token


async def test_hand_over_is_one_write_of_the_slice(shared, operator, pods):
    """Whoever watches sees the one pod, and then the other; the labels follow."""
    leader = await shared.lead_routed()
    version = (await shared.kube.get(shared.slices_path))["metadata"]["resourceVersion"]
    await pods.set_ready((await shared.pods())[leader], ready=False)
    other = await shared.wait_leader(other_than=leader)
    await shared.wait_reached(other)

    seen = []
    field = f"metadata.name=incumbent-{shared.name}-ipv4"
    changes = shared.kube.watch(
        shared.slices_path, resourceVersion=version, fieldSelector=field, timeoutSeconds="2"
    )
    async with contextlib.aclosing(changes):
        async for _, found in changes:
            seen.append(shared.reached(found))
    assert seen == [[other]]
    assert (await shared.labels())[other] == LEADER


async def test_at_rest_nothing_is_written(site, shared, operator):
    """Nor when the slice is read again, and compared with what the API server made of it."""
    await shared.lead_routed()
    await shared.wait_reason("SliceWritten", kind="RoutingInSync")
    since, began = site.audit.position(), time.monotonic()

    def requests(*verbs):
        found = site.audit.requests(
            since=since, user="operator", namespace=shared.namespace, verbs=verbs
        )
        return [one for one in found if shared.name in one.name]

    while not [one for one in requests("get") if one.resource == "endpointslices"]:
        assert time.monotonic() < began + 50, "the slice is not read again"
        await asyncio.sleep(0.5)
    await asyncio.sleep(0.5)  # for a write that would follow
    assert requests(*WRITES) == []


async def test_suspension_and_deletion_take_the_slice_back(shared, operator):
    """It is empty while nobody leads, and gone with the election."""
    leader = await shared.lead_routed("one")
    await shared.patch(suspend=True)
    await shared.wait_reached()
    await shared.patch(suspend=False)
    await shared.wait_reached(leader)
    await shared.delete()
    await shared.wait_gone()
    assert await shared.slices() == []


async def test_other_service_gets_a_slice_and_the_old_one_none(shared, operator):
    """And without `routing` there is none at all; the label stays."""
    leader = await shared.lead_routed("one")
    name = shared.name
    other = f"{name}-other"
    body = {"metadata": {"name": other}, "spec": {"ports": [{"port": 80}]}}
    await shared.kube.create(f"/api/v1/namespaces/{shared.namespace}/services", body)
    await shared.patch(routing={"service": other})
    await shared.kube.until(
        shared.slice_path,
        lambda f: f and f["metadata"]["labels"]["kubernetes.io/service-name"] == other,
    )
    await shared.wait_reached(leader)
    assert await shared.slices() == []
    await shared.patch(routing=None)
    await shared.kube.until(shared.slice_path, lambda found: found is None)
    await shared.kube.until(shared.path, lambda found: "routing" not in found["status"])
    await shared.wait_labels({leader: LEADER})


async def test_service_with_a_selector_is_refused_until_it_has_none(shared, operator):
    """With a sentence, an event and no slice of ours; the label is set all the same."""
    await shared.add_service(selector={"app": shared.name})
    leader = await shared.lead("one", routing={"service": shared.name})
    condition = await shared.wait_reason("ServiceHasSelector", kind="RoutingInSync")
    assert "selector" in condition["message"]
    assert condition_of({"status": await shared.status()}, "Stalled")["status"] == "True"
    await shared.wait_event("ServiceHasSelector")
    assert await shared.kube.until(shared.slice_path, lambda found: found is None) is None
    service = f"/api/v1/namespaces/{shared.namespace}/services/{shared.name}"
    await shared.kube.patch(service, {"spec": {"selector": None}})
    # Kubernetes leaves what it made by the selector, and that leads to every pod.
    condition = await shared.wait_reason("ServiceHasOthers", kind="RoutingInSync")
    assert f"delete the Endpoints {shared.name}" in condition["message"]
    await shared.kube.delete(f"/api/v1/namespaces/{shared.namespace}/endpoints/{shared.name}")
    for left in await shared.slices():
        with contextlib.suppress(ApiError):  # Kubernetes deletes the copy of the Endpoints itself
            await shared.kube.delete(f"{shared.slices_path}/{left['metadata']['name']}")
    await shared.wait_reached(leader)


async def test_headless_service_of_two_families_is_led_by_the_one_that_there_is(shared, operator):
    """Kubernetes gives both families to a headless Service without a selector."""
    await shared.add_service(clusterIP="None")
    leader = await shared.lead("one", routing={"service": shared.name})
    found = await shared.wait_reached(leader)
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    await shared.wait_reason("SliceWritten", kind="RoutingInSync")


async def test_election_survives_its_operator_and_the_slice_with_it(
    site, kube, namespace, private_nats, tmp_path
):
    """Cut off from NATS the slice is empty at the deadline; later it leads to the leader again."""
    election = Routed(kube, namespace)
    async with OperatorProcess(
        site,
        tmp_path,
        nats_url=private_nats.url,
        arguments=(f"--namespace={namespace}", *with_bucket(TTL)),
    ):
        leader = await election.lead_routed()
        await private_nats.stop()
        await election.wait_reached(timeout=2 * TTL)
        await private_nats.start()
        leader = await election.wait_leader()
        await election.wait_reached(leader)
