"""What a real API server does with the requests of the adapter."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest

import admission
from controlplane.kube import Kube, kubectl
from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
)
from incumbent.kubernetes import requests as kubernetes_requests
from incumbent.kubernetes import watch as kubernetes_watch
from incumbent.kubernetes.answers import UnknownKind
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodsReplaced
from incumbent.kubernetes.resource import PRIORITY, lean
from waiting import until

SECONDS = 30
"""Longer than the API server ever takes, so that a test that would hang fails."""

ELECTIONS = "/apis/incumbent.dev/v1alpha1/namespaces/{}/leaderelections"


@contextlib.asynccontextmanager
async def connected(kubeconfig):
    api_server = await ApiServer.connect(str(kubeconfig), replica="replica-1")
    try:
        yield api_server
    finally:
        await api_server.aclose()


@pytest.fixture
async def api_server(site):
    """The adapter in front of `site`."""
    async with connected(site.kubeconfig_for("operator")) as api_server:
        yield api_server


@pytest.fixture
async def powerless(site, kube, namespace):
    """The adapter with a service account that has no rights."""
    token = await kube.service_account_token(namespace, "default")
    async with connected(site.kubeconfig_for(namespace, token=token)) as api_server:
        yield api_server


@pytest.fixture
async def pod(api_server, kube, namespace):
    """A pod that nobody but the test touches, as the adapter sees it."""
    await create_pod(kube, namespace, "a")
    return await api_server.get_pod(namespace, "a")


@pytest.fixture
async def election(kube, namespace):
    """An election that no operator looks after."""
    return await kube.create(
        ELECTIONS.format(namespace),
        {
            "apiVersion": "incumbent.dev/v1alpha1",
            "kind": "LeaderElection",
            "metadata": {"name": "billing"},
            "spec": {"selector": {"matchLabels": {"app": "x"}}},
        },
    )


async def create_pod(kube, namespace, name, *, labels=None, annotations=None, **spec):
    # Left alone by the scheduler, and so by the node agent.
    body = {
        "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}},
        "spec": {
            "schedulerName": "nobody",
            "containers": [{"name": "main", "image": "none.invalid/none"}],
            **spec,
        },
    }
    return await kube.create(f"/api/v1/namespaces/{namespace}/pods", body)


async def delete_pod(kube, namespace, name):
    await kube.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", grace=0)


def make_slice(namespace):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": "incumbent-billing-ipv4",
            "annotations": {"incumbent.dev/billing.token": "7", "incumbent.dev/write": "one"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [],
    }


async def label(api_server, pod, **labels):
    return await api_server.patch_pod(pod, labels=labels, annotations={}, timeout=SECONDS)


# Pods


async def test_a_cluster_is_known_by_the_uid_of_kube_system(api_server, kube):
    """The UID is the one that everybody else sees, too."""
    namespace = await kube.get("/api/v1/namespaces/kube-system")
    assert await api_server.cluster_uid() == namespace["metadata"]["uid"]
    namespace = await kube.get("/api/v1/namespaces/default")
    assert await api_server.cluster_uid("default") == namespace["metadata"]["uid"]


async def test_a_running_pod_is_read_with_all_that_counts(api_server, kube, namespace):
    """Of a pod on a node, readiness, address and node are there."""
    [created] = await kube.deployment(
        namespace, "x", replicas=1, annotations={"note": "n", PRIORITY: "7"}
    )
    name = created["metadata"]["name"]
    pod = await api_server.get_pod(namespace, name)
    seen = await kube.get(f"/api/v1/namespaces/{namespace}/pods/{name}")
    assert (pod.namespace, pod.name, pod.phase, pod.ready, pod.terminating) == (
        namespace,
        name,
        "Running",
        True,
        False,
    )
    assert pod.uid == seen["metadata"]["uid"]
    assert pod.resource_version == seen["metadata"]["resourceVersion"]
    assert pod.created == seen["metadata"]["creationTimestamp"]
    assert pod.labels["app"] == "x"
    assert pod.annotations == {PRIORITY: "7"}  # those of others are not kept
    assert (pod.node, pod.ip) == (seen["spec"]["nodeName"], seen["status"]["podIP"])


async def test_a_pod_that_is_not_there_is_none(api_server, namespace):
    """No error: its absence is an answer."""
    assert await api_server.get_pod(namespace, "nobody") is None


async def test_labels_and_annotations_are_set_and_removed(api_server, pod):
    """None removes, what is not named stays, and the answer is the pod as it is now."""
    first = await api_server.patch_pod(
        pod,
        labels={"one": "1", "two": "2"},
        annotations={"incumbent.dev/billing.token": "7"},
        timeout=SECONDS,
    )
    assert first.labels == {"one": "1", "two": "2"}
    assert first.annotations == {"incumbent.dev/billing.token": "7"}
    second = await api_server.patch_pod(
        first,
        labels={"one": None, "absent": None},
        annotations={"incumbent.dev/billing.token": None},
        timeout=SECONDS,
    )
    assert second.labels == {"two": "2"}
    assert second.annotations == {}
    assert second == await api_server.get_pod(pod.namespace, pod.name)


async def test_a_patch_decided_on_an_older_pod_is_refused(api_server, pod):
    """A write in flight is fenced off by any other write."""
    await label(api_server, pod, winner="first")
    with pytest.raises(Conflict, match="modified"):
        await label(api_server, pod, winner="second")
    current = await api_server.get_pod(pod.namespace, pod.name)
    assert current.labels == {"winner": "first"}


async def test_a_patch_for_a_pod_that_was_replaced_is_refused(api_server, kube, pod):
    """Another pod of the same name is another pod."""
    await delete_pod(kube, pod.namespace, pod.name)
    await create_pod(kube, pod.namespace, pod.name)
    with pytest.raises(Conflict):
        await label(api_server, pod, winner="second")
    assert not (await api_server.get_pod(pod.namespace, pod.name)).labels


async def test_another_uid_with_the_same_version_is_refused_for_good(api_server, pod):
    """It takes a restored backup for this; then the API server calls the UID immutable."""
    with pytest.raises(Refused, match=r"metadata\.uid"):
        await label(api_server, replace(pod, uid="0b7c0000-0000-0000-0000-000000000000"), l="1")
    assert await api_server.get_pod(pod.namespace, pod.name) == pod


async def test_a_patch_for_a_pod_that_is_gone_is_not_found(api_server, kube, pod):
    """Only the API server says that a pod is gone."""
    await delete_pod(kube, pod.namespace, pod.name)
    with pytest.raises(NotFound):
        await label(api_server, pod, winner="nobody")


async def test_a_patch_that_changes_nothing_fences_nothing(api_server, pod):
    """The API server drops it, and the resourceVersion stays: a strip has to change something."""
    labelled = await label(api_server, pod, l="leader")
    again = await label(api_server, labelled, l="leader")
    removed = await label(api_server, again, absent=None)
    assert pod.resource_version != labelled.resource_version
    assert removed.resource_version == again.resource_version == labelled.resource_version


async def test_an_invalid_label_is_refused_for_good(api_server, pod):
    """What validation refuses will not do better a second time."""
    with pytest.raises(Refused, match="a valid label must"):
        await label(api_server, pod, l="no label!")


async def test_a_list_shows_every_write_that_was_answered(api_server, kube, namespace, pod):
    """Even when the write is a moment old, and others wrote something else since."""
    for number in map(str, range(20)):
        pod = await label(api_server, pod, l=number)
        await kube.create(
            f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"generateName": "x"}}
        )
        assert await api_server.list_pods(namespace, f"l={number}") == [pod]
        version = pod.resource_version
        assert await api_server.list_pods(namespace, f"l={number}", since=version) == [pod]


async def test_a_list_knows_all_selectors(api_server, kube, namespace):
    """A selector may ask for a label, for its absence, and for a set of values."""
    await create_pod(kube, namespace, "a", labels={"app": "x", "l": "leader"})
    await create_pod(kube, namespace, "b", labels={"app": "x", "l": "candidate"})
    await create_pod(kube, namespace, "c", labels={"app": "y"})
    for selector, names in (
        ("", "abc"),
        ("l", "ab"),
        ("l=leader", "a"),
        ("!l", "c"),
        ("app in (x,y),l!=leader", "bc"),
    ):
        pods = await api_server.list_pods(namespace, selector)
        assert "".join(sorted(found.name for found in pods)) == names


async def test_a_list_of_many_pages_is_complete(api_server, kube, namespace, monkeypatch):
    """The pages come from one resourceVersion, with a selector and with `since`, too."""
    monkeypatch.setattr(kubernetes_requests, "PAGE", 3)
    for number in range(8):
        created = await create_pod(kube, namespace, f"p{number}", labels={"odd": str(number % 2)})
    since = created["metadata"]["resourceVersion"]
    everybody = await api_server.list_pods(namespace, "")
    assert [pod.name for pod in everybody] == [f"p{number}" for number in range(8)]
    odd = await api_server.list_pods(namespace, "odd=1", since=since)
    assert [pod.name for pod in odd] == ["p1", "p3", "p5", "p7"]


# EndpointSlices


@pytest.fixture
async def slice_(api_server, namespace):
    """An EndpointSlice as the adapter created it."""
    return await api_server.create_slice(make_slice(namespace), timeout=SECONDS)


async def test_a_slice_is_changed_in_the_state_that_was_seen(api_server, namespace, slice_):
    """Lists are replaced, None removes, and the answer is what a read shows."""
    annotations = {"incumbent.dev/billing.token": None, "incumbent.dev/write": "two"}
    change = {"metadata": {"annotations": annotations}, "endpoints": []}
    changed = await api_server.patch_slice(slice_, change, timeout=SECONDS)
    assert changed["metadata"]["annotations"] == {"incumbent.dev/write": "two"}
    assert not changed.get("endpoints")
    assert await api_server.get_slice(namespace, "incumbent-billing-ipv4") == changed
    with pytest.raises(Conflict):
        await api_server.patch_slice(slice_, change, timeout=SECONDS)
    with pytest.raises(Conflict):
        await api_server.delete_slice(slice_)
    await api_server.delete_slice(changed)
    assert await api_server.get_slice(namespace, "incumbent-billing-ipv4") is None
    with pytest.raises(NotFound):
        await api_server.patch_slice(changed, change, timeout=SECONDS)
    with pytest.raises(NotFound):
        await api_server.delete_slice(changed)


async def test_a_write_of_the_same_fences_nothing(api_server, slice_):
    """So each write of ours has a value of its own."""
    same = {"metadata": {}, "endpoints": slice_["endpoints"]}
    again = await api_server.patch_slice(slice_, same, timeout=SECONDS)
    assert again["metadata"]["resourceVersion"] == slice_["metadata"]["resourceVersion"]


async def test_a_second_slice_of_one_name_is_a_conflict(api_server, namespace, slice_):
    """A creation that comes late is refused."""
    with pytest.raises(Conflict):
        await api_server.create_slice(make_slice(namespace), timeout=SECONDS)


async def test_a_slice_made_anew_is_another_one(api_server, namespace, slice_):
    """What was decided on the earlier one is refused."""
    await api_server.delete_slice(slice_)
    await api_server.create_slice(make_slice(namespace), timeout=SECONDS)
    with pytest.raises((Conflict, Refused)):
        await api_server.patch_slice(slice_, {"endpoints": []}, timeout=SECONDS)
    with pytest.raises(Conflict):
        await api_server.delete_slice(slice_)


# Rights


@pytest.mark.parametrize(
    ("request_", "words"),
    (
        (lambda api, pod, _: api.get_pod(pod.namespace, "a"), 'get resource "pods"'),
        (lambda api, pod, _: api.list_pods(pod.namespace, ""), 'list resource "pods"'),
        (lambda api, pod, _: label(api, pod, l="x"), 'patch resource "pods"'),
        (lambda api, _, __: api.cluster_uid(), 'get resource "namespaces"'),
        (
            lambda api, pod, _: api.get_election(pod.namespace, "billing"),
            'get resource "leaderelections"',
        ),
        (lambda api, pod, _: api.get_service(pod.namespace, "x"), 'get resource "services"'),
        (lambda api, pod, _: api.get_slice(pod.namespace, "x"), 'get resource "endpointslices"'),
        (
            lambda api, pod, _: api.create_slice(make_slice(pod.namespace), timeout=SECONDS),
            'create resource "endpointslices"',
        ),
        (
            lambda api, pod, _: api.replace_status(
                pod.namespace, "billing", resource_version="1", status={}
            ),
            'patch resource "leaderelections/status"',
        ),
        (
            lambda api, _, election: api.emit_event(
                election, kind="Normal", reason="R", action="A", note="n"
            ),
            'create resource "events"',
        ),
    ),
    ids=(
        "get",
        "list",
        "patch",
        "namespace",
        "election",
        "service",
        "slice",
        "new slice",
        "status",
        "event",
    ),
)
async def test_a_missing_right_is_named(request_, words, powerless, pod, election):
    """The sentence says who lacks which verb on which resource."""
    with pytest.raises(Forbidden, match=f"system:serviceaccount:.* cannot {words}"):
        await request_(powerless, pod, election)


async def test_a_token_that_nobody_knows_is_forbidden(site, namespace):
    """401 is a lack of rights, too."""
    kubeconfig = site.kubeconfig_for(f"stranger-{namespace}", token="unknown")
    async with connected(kubeconfig) as stranger:
        with pytest.raises(Forbidden, match="credentials"):
            await stranger.cluster_uid()


# Admission


@pytest.mark.parametrize("reason", (None, "Forbidden", "RequestEntityTooLarge"))
async def test_a_refusal_by_a_policy_is_no_missing_right(reason, api_server, kube, namespace, pod):
    """Whatever code the policy chooses: the message names the policy and what it says."""
    path = f"/api/v1/namespaces/{namespace}/pods/a"
    async with admission.policy(kube, namespace, "false", reason=reason):
        await admission.until_refused(kube, path)
        with pytest.raises(AdmissionDenied, match=r"policy.*pods \"a\".*image not signed"):
            await label(api_server, await api_server.get_pod(namespace, "a"), l="x")


@pytest.mark.parametrize("code", (None, 403, 404, 409, 422, 429, 500))
async def test_a_refusal_by_a_webhook_is_no_missing_right(
    code, api_server, kube, namespace, pod, tmp_path
):
    """Nor is it a conflict, a missing pod, or an API server that failed: nothing was written."""
    path = f"/api/v1/namespaces/{namespace}/pods/a"
    async with admission.webhook(kube, namespace, tmp_path) as hook:
        hook.refuses = "a"
        hook.status |= {"code": code} if code else {}
        await admission.until_refused(kube, path)
        with pytest.raises(AdmissionDenied, match=r'"slow.example.com" denied.*not signed'):
            await label(api_server, await api_server.get_pod(namespace, "a"), l="x")


async def test_a_webhook_that_does_not_answer_lets_nothing_be_written(
    api_server, kube, namespace, pod, tmp_path
):
    """It is no refusal for good, and the outcome is known."""
    path = f"/api/v1/namespaces/{namespace}/pods/a"
    async with admission.webhook(kube, namespace, tmp_path) as hook:
        hook.down = True
        await admission.until_refused(kube, path)
        with pytest.raises(AdmissionUnavailable, match="failed calling webhook"):
            await label(api_server, await api_server.get_pod(namespace, "a"), l="x")


async def test_a_dry_run_asks_admission_and_writes_nothing(api_server, kube, namespace, pod):
    """So a policy can be asked about a label without a change."""
    path = f"/api/v1/namespaces/{namespace}/pods/a"

    async def ask():
        current = await api_server.get_pod(namespace, "a")
        await api_server.patch_pod(
            current, labels={"l": "x"}, annotations={}, timeout=SECONDS, dry_run=True
        )
        assert await api_server.get_pod(namespace, "a") == current

    await ask()
    async with admission.policy(kube, namespace, "false"):
        await admission.until_refused(kube, path)
        with pytest.raises(AdmissionDenied):
            await ask()


async def test_a_quota_is_no_missing_right(api_server, kube, namespace):
    """The message names the quota."""
    hard = {"count/endpointslices.discovery.k8s.io": "0"}
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    await kube.create(quotas, {"metadata": {"name": "few"}, "spec": {"hard": hard}})
    await kube.until(f"{quotas}/few", lambda found: found["status"].get("hard") == hard)
    with pytest.raises(AdmissionDenied, match="exceeded quota: few"):
        await api_server.create_slice(make_slice(namespace), timeout=SECONDS)


# Elections


async def test_an_election_is_read_as_it_is(api_server, namespace, election):
    """All of its JSON but what only others need; None when it is not there."""
    assert await api_server.get_election(namespace, "billing") == lean(election)
    assert await api_server.get_election(namespace, "nobody") is None


HELD = {"holder": "first", "conditions": []}
"""A status with the one field that has a default."""


async def test_a_status_is_replaced_as_a_whole(api_server, namespace, election):
    """Keys that the new status does not have are gone, at every depth; the spec stays."""
    status = {
        "observedGeneration": 1,
        "holder": "h",
        "candidates": {"total": 3, "ready": 3},
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Leading",
                "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    version = election["metadata"]["resourceVersion"]
    first = await api_server.replace_status(
        namespace, "billing", resource_version=version, status=status
    )
    assert first["status"] == status
    version = first["metadata"]["resourceVersion"]
    less = {"observedGeneration": 1, "candidates": {"total": 3}, "conditions": []}
    second = await api_server.replace_status(
        namespace, "billing", resource_version=version, status=less
    )
    assert second["status"] == less
    assert second["spec"] == election["spec"]
    assert second == await api_server.get_election(namespace, "billing")


async def test_a_status_decided_on_an_older_election_is_refused(api_server, namespace, election):
    """Of two stewards, the later one has to look again."""
    version = election["metadata"]["resourceVersion"]
    await api_server.replace_status(namespace, "billing", resource_version=version, status=HELD)
    with pytest.raises(Conflict):
        await api_server.replace_status(
            namespace, "billing", resource_version=version, status={"holder": "second"}
        )
    current = await api_server.get_election(namespace, "billing")
    assert current["status"] == HELD


async def test_a_status_against_the_schema_is_refused_for_good(api_server, namespace, election):
    """This is told apart from a conflict."""
    version = election["metadata"]["resourceVersion"]
    with pytest.raises(Refused, match=r"status\.state"):
        await api_server.replace_status(
            namespace, "billing", resource_version=version, status={"state": "Dancing"}
        )


async def test_annotations_of_an_election_are_set_and_removed(
    api_server, kube, namespace, election
):
    """Those of others stay, and a change that was decided on an older election is refused."""
    version = election["metadata"]["resourceVersion"]
    annotations = {"example.com/a": "1", "incumbent.dev/b": ""}
    await api_server.annotate_election(
        namespace, "billing", resource_version=version, annotations=annotations
    )
    with pytest.raises(Conflict):
        await api_server.annotate_election(
            namespace, "billing", resource_version=version, annotations={"example.com/a": None}
        )
    current = await kube.get(ELECTIONS.format(namespace) + "/billing")
    assert current["metadata"]["annotations"].items() >= annotations.items()
    known = await api_server.get_election(namespace, "billing")
    assert known["metadata"]["annotations"] == {"incumbent.dev/b": ""}
    await api_server.annotate_election(
        namespace,
        "billing",
        resource_version=current["metadata"]["resourceVersion"],
        annotations={"incumbent.dev/b": None},
    )
    current = await kube.get(ELECTIONS.format(namespace) + "/billing")
    assert current["metadata"]["annotations"]["example.com/a"] == "1"
    assert "incumbent.dev/b" not in current["metadata"]["annotations"]


async def test_the_status_of_a_deleted_election_is_not_found(api_server, namespace):
    """Whoever writes the last status comes too late."""
    with pytest.raises(NotFound):
        await api_server.replace_status(namespace, "nobody", resource_version="1", status={})


async def test_an_event_is_shown_by_kubectl(api_server, site, namespace, election):
    """`kubectl events --for` finds it; the note may be longer than the API server takes."""
    for number in range(2):
        await api_server.emit_event(
            election, kind="Normal", reason="LeaderElected", action="Elect", note=f"Note {number}"
        )
    await api_server.emit_event(
        election, kind="Warning", reason="LeaderLost", action="StepDown", note="n" + "ä" * 1000
    )
    printed = await kubectl(
        site,
        "events",
        f"--namespace={namespace}",
        "--for=leaderelection/billing",
        "--output=json",
    )
    events = {event["message"]: event for event in json.loads(printed)["items"]}
    assert set(events) == {"Note 0", "Note 1", "n" + "ä" * 511}
    event = events["n" + "ä" * 511]
    assert (event["type"], event["reason"], event["action"]) == (
        "Warning",
        "LeaderLost",
        "StepDown",
    )
    assert event["reportingComponent"] == "incumbent.dev/operator"
    assert event["reportingInstance"] == "replica-1"
    assert event["involvedObject"]["uid"] == election["metadata"]["uid"]


# Watches


class Pods:
    """Follows a watch, and keeps what it shows."""

    def __init__(self, api_server, namespace):
        self.events = []
        self.names = set()
        self._changed = asyncio.Condition()
        self._watch = api_server.watch_pods(namespace)
        self._task = asyncio.create_task(self._follow())

    async def __aenter__(self):
        await self.until(lambda: self.events)
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow(self):
        async with contextlib.aclosing(self._watch) as events:
            async for event in events:
                async with self._changed:
                    self.events.append(event)
                    match event:
                        case PodsReplaced(pods):
                            self.names = {pod.name for pod in pods}
                        case PodChanged(pod):
                            self.names.add(pod.name)
                        case PodDeleted(pod):
                            self.names.discard(pod.name)
                    self._changed.notify_all()

    async def until(self, condition):
        """Wait until the condition holds."""
        async with asyncio.timeout(SECONDS), self._changed:
            await self._changed.wait_for(condition)

    @property
    def replacements(self):
        """How often everything was replaced."""
        return sum(isinstance(event, PodsReplaced) for event in self.events)


async def test_a_watch_shows_what_is_there_and_what_happens(api_server, kube, namespace, pod):
    """The list first, then each change once, in order."""
    async with Pods(api_server, namespace) as pods:
        changed = await label(api_server, pod, l="leader")
        await create_pod(kube, namespace, "b")
        await delete_pod(kube, namespace, "a")
        await pods.until(lambda: pods.names == {"b"})
    replaced, *events = pods.events
    assert replaced == PodsReplaced((pod,))
    assert events[0] == PodChanged(changed)
    assert [(type(event), event.pod.name, event.pod.terminating) for event in events[1:]] == [
        (PodChanged, "b", False),
        (PodChanged, "a", True),
        (PodDeleted, "a", True),
    ]


async def test_a_watch_whose_connection_breaks_loses_nothing(site, kube, namespace, proxy):
    """What happened meanwhile is shown afterwards, as if nothing had been."""
    wire = await proxy(int(site.url.rpartition(":")[2]))
    await create_pod(kube, namespace, "a")
    kubeconfig = site.kubeconfig_for("operator", server=wire.address)
    async with connected(kubeconfig) as api_server, Pods(api_server, namespace) as pods:
        for number in range(3):
            await wire.refuse()
            await create_pod(kube, namespace, f"b{number}")
            await delete_pod(kube, namespace, f"b{number}")
            await create_pod(kube, namespace, f"c{number}")
            await wire.resume()
            expected = {"a", *(f"c{count}" for count in range(number + 1))}
            await pods.until(lambda expected=expected: pods.names == expected)
        await wire.refuse()
        with pytest.raises(ClusterUnreachable):
            await api_server.cluster_uid()


async def test_a_watch_through_a_black_hole_is_given_up(site, kube, namespace, proxy, monkeypatch):
    """A connection that stays open and delivers nothing is noticed by its silence."""
    monkeypatch.setattr(kubernetes_watch, "SILENCE", 1)
    monkeypatch.setattr(kubernetes_watch, "TIMEOUT", 1)
    wire = await proxy(int(site.url.rpartition(":")[2]))
    kubeconfig = site.kubeconfig_for("operator", server=wire.address)
    async with connected(kubeconfig) as api_server, Pods(api_server, namespace) as pods:
        wire.black_hole()
        await create_pod(kube, namespace, "a")
        with pytest.raises(ClusterUnreachable, match="in time"):
            await api_server.cluster_uid()
        await wire.resume()
        await pods.until(lambda: pods.names == {"a"})


@pytest.mark.timeout(180)
async def test_at_rest_nothing_is_listed_again(private_plane, monkeypatch):
    """A watch in which nothing happens shows that it works, and the next one goes on from it.

    The API server sends a bookmark 2 s before a watch ends, as it does each minute.
    """
    monkeypatch.setattr(kubernetes_watch, "WATCH_SECONDS", (5, 5))
    monkeypatch.setattr(kubernetes_watch, "SILENCE", 4.5)
    log = private_plane.site.audit
    async with connected(private_plane.site.kubeconfig_for("operator")) as api_server:
        async with Pods(api_server, "default") as pods:
            await pods.until(lambda: pods.replacements)

            def watches():
                return sum(request.verb == "watch" for request in log.requests(namespace="default"))

            await until(lambda: watches() >= 8, within=60)  # each of the four is there twice
            assert pods.replacements == 1
        asked = log.requests(namespace="default", user="operator")
        assert [one.verb for one in asked if one.verb != "watch"] == ["list"]


@pytest.mark.timeout(180)
async def test_a_restart_of_the_api_server_hides_no_deletion(private_plane, proxy, tmp_path):
    """A pod that was deleted while nobody watched is not in the list that replaces everything."""
    site = private_plane.site
    wire = await proxy(int(site.url.rpartition(":")[2]))
    kubeconfig = site.kubeconfig_for("operator", server=wire.address)
    async with Kube(site) as kube, connected(kubeconfig) as api_server:
        await kube.namespace("shop")
        await create_pod(kube, "shop", "a")
        await create_pod(kube, "shop", "b")
        async with Pods(api_server, "shop") as pods:
            await wire.refuse()
            await delete_pod(kube, "shop", "a")
            private_plane.kill_api_server()
            await private_plane.start_api_server()
            await wire.resume()
            await pods.until(lambda: pods.replacements == 2)
            assert pods.names == {"b"}
            await create_pod(kube, "shop", "c")
            await pods.until(lambda: pods.names == {"b", "c"})


@pytest.mark.timeout(180)
async def test_a_kind_that_is_not_installed_is_an_error(private_plane):
    """Nobody takes a missing definition for a missing election."""
    async with connected(private_plane.site.kubeconfig) as api_server:
        with pytest.raises(UnknownKind, match="CustomResourceDefinition"):
            await api_server.get_election("default", "billing")
        with pytest.raises(UnknownKind):
            await api_server.replace_status("default", "b", resource_version="1", status={})
