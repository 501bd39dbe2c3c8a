"""The chart's admission policies, on a real API server: what they allow, and what they refuse.

They are the namespaced ones, so that they hold in the namespace of this test and nowhere else. The
operator's service account may do everything there: what is refused is refused by a policy.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import yaml

from controlplane.kube import ApiError, Kube
from elections import LED_STATUS, Election
from helm import Helm
from incumbent.resource import FINALIZER
from operatorprocess import run_cleanup

if TYPE_CHECKING:
    from controlplane.sites import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
RULES = "/apis/admissionregistration.k8s.io/v1"
LABEL, TOKEN = "incumbent.dev/web", "incumbent.dev/web.token"
CUSTOM = "example.com/primary"
CONTAINERS = [{"name": "main", "image": "none.invalid/none"}]
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "b", "controller": True}


@dataclass(frozen=True, slots=True)
class Guarded:
    """A namespace in which the policies hold."""

    namespace: str
    admin: Kube
    operator: Kube
    owner: Mapping[str, Any]
    """A reference to the election of the slices: without it they are garbage, and collected."""

    async def pod(self, *, labels: Any = None, annotations: Any = None, **more: Any) -> str:
        """Create a pod as the operator, who may set any label then; return its path."""
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        about = {
            "generateName": "web-",
            "labels": {"app": "web", **(labels or {})},
            "annotations": {"note": "mine", **(annotations or {})},
            **more,
        }
        made = await self.operator.create(
            pods, {"metadata": about, "spec": {"containers": CONTAINERS}}
        )
        return f"{pods}/{made['metadata']['name']}"

    async def slice(self, user: Kube, *, name: str, **change: Any) -> str:
        """Create an EndpointSlice of an election as somebody; return its path."""
        slices = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        unique = f"{name}-{secrets.token_hex(4)}"
        body = {
            "metadata": {
                "name": unique,
                "labels": {"endpointslice.kubernetes.io/managed-by": "incumbent.dev"},
                "ownerReferences": [self.owner],
            },
            "addressType": "IPv4",
            "endpoints": [self.endpoint("web-0")],
        }
        await user.create(slices, {**body, **change})
        return f"{slices}/{unique}"

    def endpoint(self, pod: str, **change: Any) -> dict[str, Any]:
        """Return an endpoint of a slice."""
        target = {"kind": "Pod", "name": pod, "namespace": self.namespace}
        return {"addresses": ["10.0.0.1"], "targetRef": {**target, **change}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    """A namespace with the policies of a release, once they are in force."""
    namespace = f"guarded-{secrets.token_hex(4)}"
    values = {
        "namespaceOverride": namespace,
        "watch": {"namespaces": [namespace]},
        "site": "guarded",
        "labelPrefixes": ["example.com"],
        "admissionPolicies": {"inNamespacedMode": True},
        "rbac": {"endpointSlices": True},
    }
    rendered = Helm("helm4", tmp_path_factory.mktemp("helm")).render(values)
    policies = [document for document in rendered if document["kind"] in KINDS]
    assert len(policies) == 8
    async with Kube(site) as admin:
        await admin.namespace(namespace)
        account = {"metadata": {"name": "incumbent"}}
        await admin.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
        await admin.create(
            f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
            {
                "metadata": {"name": "incumbent"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "cluster-admin",
                },
                "subjects": [{"kind": "ServiceAccount", "name": "incumbent"}],
            },
        )
        token = await admin.service_account_token(namespace, "incumbent")
        paths = []
        for policy in policies:
            kind = f"{RULES}/{KINDS[policy['kind']]}"
            paths.append(f"{kind}/{policy['metadata']['name']}")
            await admin.create(kind, policy)
        owner = await Election(admin, namespace).create()
        reference = {
            **{field: owner[field] for field in ("apiVersion", "kind")},
            **{field: owner["metadata"][field] for field in ("name", "uid")},
        }
        known = replace(site, tokens={**site.tokens, "incumbent": token})
        async with Kube(known, user="incumbent") as operator:
            guarded = Guarded(namespace, admin, operator, reference)
            await _in_force(guarded)
            yield guarded
        for path in paths:
            await admin.delete(path)
        await admin.delete(f"/api/v1/namespaces/{namespace}")


async def _in_force(guarded: Guarded) -> None:
    """Wait until the API server has taken the policies in, which needs a second or two."""
    path = await guarded.pod()
    deadline = time.monotonic() + 20
    for user in (guarded.admin, guarded.operator):
        while True:
            label = LABEL if user is guarded.admin else "app"
            try:
                await user.patch(path, {"metadata": {"labels": {label: "leader"}}})
            except ApiError:
                break
            await user.patch(path, {"metadata": {"labels": {label: None}}})
            assert time.monotonic() < deadline, "the policies do not come into force"
            await asyncio.sleep(0.1)
    while True:
        try:
            await guarded.operator.delete(await guarded.slice(guarded.admin, name="in-force"))
        except ApiError:
            break
        assert time.monotonic() < deadline, "the policies do not come into force"
        await asyncio.sleep(0.1)


def metadata(**fields: Any) -> dict[str, Any]:
    return {"metadata": fields}


LED = {"labels": {LABEL: "leader"}, "annotations": {TOKEN: "7"}}


@pytest.mark.parametrize(
    ("before", "patch"),
    (
        ({}, metadata(labels={LABEL: "leader"}, annotations={TOKEN: "7"})),
        ({}, metadata(labels={LABEL: "candidate"})),
        ({}, metadata(labels={CUSTOM: "leader"})),
        (LED, metadata(labels={LABEL: "candidate"}, annotations={TOKEN: None})),
        (LED, metadata(labels={LABEL: None}, annotations={TOKEN: "0"})),
    ),
)
async def test_the_operator_may_do_its_work(guarded, before, patch):
    """Labels of elections, and the tokens, are set, changed and removed."""
    await guarded.operator.patch(await guarded.pod(**before), patch)


@pytest.mark.parametrize(
    ("patch", "message"),
    (
        (metadata(labels={"app": "other"}), "no labels of a pod"),
        (metadata(labels={"app": None}), "no labels of a pod"),
        (metadata(labels={"example.org/x": "leader"}), "no labels of a pod"),
        (metadata(labels={LABEL: "king"}), "no labels of a pod"),
        (metadata(annotations={"note": "yours"}), "no annotations of a pod"),
        (metadata(annotations={"note": None}), "no annotations of a pod"),
        (metadata(annotations={"incumbent.dev/exclude": "true"}), "no annotations of a pod"),
        (metadata(annotations={"incumbent.dev/priority": "1"}), "no annotations of a pod"),
        (metadata(finalizers=["example.com/x"]), "finalizers"),
        (metadata(ownerReferences=[OWNER]), "owners"),
        ({"spec": {"containers": [{"name": "main", "image": "other"}]}}, "spec"),
        ({"spec": {"activeDeadlineSeconds": 5}}, "spec"),
    ),
)
async def test_the_operator_may_do_nothing_else_to_a_pod(guarded, patch, message):
    """With its service account and all rights nothing but its own labels and tokens can change."""
    path = await guarded.pod()
    strategic = "application/strategic-merge-patch+json"
    with pytest.raises(ApiError, match=message):
        await guarded.operator.patch(path, patch, content_type=strategic)


@pytest.mark.parametrize(
    ("before", "patch"),
    (
        ({}, metadata(labels={LABEL: "leader"})),
        ({}, metadata(labels={CUSTOM: "leader"})),
        ({"labels": {LABEL: "candidate"}}, metadata(labels={LABEL: "leader"})),
        ({}, metadata(annotations={TOKEN: "8"})),
        (LED, metadata(annotations={TOKEN: "8"})),
    ),
)
async def test_nobody_else_sets_a_label_or_a_token(guarded, before, patch):
    """Not even an administrator routes the leader's traffic by hand; the message says how to."""
    path = await guarded.pod(**before)
    with pytest.raises(ApiError, match="by the operator only") as caught:
        await guarded.admin.patch(path, patch)
    assert caught.value.status == 403


async def test_nobody_else_creates_a_leader(guarded):
    """A pod of one's own cannot be born with the label."""
    about = {"name": "born", "labels": {LABEL: "leader"}}
    pods = f"/api/v1/namespaces/{guarded.namespace}/pods"
    with pytest.raises(ApiError, match="by the operator only"):
        await guarded.admin.create(pods, {"metadata": about, "spec": {"containers": CONTAINERS}})


@pytest.mark.parametrize(
    ("before", "patch"),
    (
        (LED, metadata(labels={LABEL: None})),
        (LED, metadata(labels={LABEL: "candidate"})),
        (LED, metadata(annotations={TOKEN: None})),
        (LED, metadata(annotations={TOKEN: "0"})),
        (LED, metadata(labels={"tier": "gold"}, annotations={"note": "ours"})),
        ({}, metadata(labels={LABEL: "candidate"})),
        ({}, metadata(labels={"example.org/x": "leader"})),
        ({}, metadata(annotations={"incumbent.dev/priority": "5"})),
    ),
)
async def test_everybody_may_take_a_label_away(guarded, before, patch):
    """It is the way out when the operator is gone; and what is not ours is left alone."""
    await guarded.admin.patch(await guarded.pod(**before), patch)


async def test_nobody_else_writes_a_status(guarded):
    """Who could would choose the leader that others read."""
    election = Election(guarded.admin, guarded.namespace, "guarded")
    await election.create()
    status = {"status": {"holder": "me"}}
    with pytest.raises(ApiError, match="status of an election") as caught:
        await guarded.admin.patch(f"{election.path}/status", status)
    assert caught.value.status == 403
    await guarded.operator.patch(f"{election.path}/status", status)
    await guarded.admin.patch(election.path, {"spec": {"suspend": True}})


async def test_whoever_cleans_up_by_hand_is_not_refused(guarded):
    """An administrator runs the command where no hook of helm's does, policies or not."""
    election = Election(guarded.admin, guarded.namespace, "left")
    await election.create()
    await guarded.admin.patch(election.path, {"metadata": {"finalizers": [FINALIZER]}})
    path = f"{election.path}/status"
    await guarded.operator.patch(path, {"status": LED_STATUS})
    pod = await guarded.pod(labels={election.label: "leader"})  # its token is gone

    unserved = [{**LED_STATUS["conditions"][0], "status": "Unknown", "reason": "NotServed"}]
    for change in ({}, {"leader": None}, {"leader": None, "token": 8, "conditions": unserved}):
        with pytest.raises(ApiError, match="by the operator only"):
            await guarded.admin.patch(path, {"status": {"key": "x", **change}})

    kubeconfig = guarded.admin.site.kubeconfig
    code, said = await run_cleanup(kubeconfig, f"--namespace={guarded.namespace}")
    assert code == 0, said
    found = await guarded.admin.get(election.path)
    assert "finalizers" not in found["metadata"]
    assert "leader" not in found["status"]
    assert [one["reason"] for one in found["status"]["conditions"]] == ["NotServed"]
    assert election.label not in (await guarded.admin.get(pod))["metadata"]["labels"]


async def test_a_label_in_a_template_is_only_warned_about(guarded):
    """Its pods are created all the same: a workload without any would be worse."""
    labels = {"app": "born", LABEL: "leader"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "born"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "born"}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": CONTAINERS}},
        },
    }
    site = guarded.admin.site
    process = await asyncio.create_subprocess_exec(
        site.kubectl,
        f"--kubeconfig={site.kubeconfig}",
        f"--cache-dir={site.folder}/kubectl-cache-of-tests",
        f"--namespace={guarded.namespace}",
        *("apply", "-f", "-"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate(yaml.safe_dump(deployment).encode())
    assert process.returncode == 0
    assert "Warning" in complaint.decode()
    assert "the pod template has a label of an election" in complaint.decode()
    pods = f"/api/v1/namespaces/{guarded.namespace}/pods"
    await guarded.admin.until(
        pods, lambda found: len(found["items"]) == 1, labelSelector="app=born"
    )


async def test_other_namespaces_are_left_alone(guarded):
    """The policies of a release hold where its operator looks for elections, and only there."""
    name = f"{guarded.namespace}-other"
    await guarded.admin.namespace(name)
    about = {"name": "born", "labels": {LABEL: "leader"}}
    pods = f"/api/v1/namespaces/{name}/pods"
    await guarded.admin.create(pods, {"metadata": about, "spec": {"containers": CONTAINERS}})
    await guarded.admin.delete(f"/api/v1/namespaces/{name}")


async def test_the_expressions_are_well_typed(guarded):
    """The API server has found no field in them that does not exist."""
    policies = (await guarded.admin.get(f"{RULES}/validatingadmissionpolicies"))["items"]
    ours = [p for p in policies if guarded.namespace in p["metadata"]["name"]]
    assert len(ours) == 4
    for policy in ours:
        path = f"{RULES}/validatingadmissionpolicies/{policy['metadata']['name']}"
        checked = await guarded.admin.until(
            path, lambda found: "typeChecking" in found.get("status", {})
        )
        assert not checked["status"]["typeChecking"].get("expressionWarnings"), checked["status"]


async def test_operator_writes_the_slices_of_elections(guarded):
    """It creates one, leads it to another pod and to nobody, and deletes it."""
    path = await guarded.slice(guarded.operator, name="incumbent-web")
    await guarded.operator.patch(path, {"endpoints": [guarded.endpoint("web-1")]})
    await guarded.operator.patch(path, {"endpoints": []})
    await guarded.operator.delete(path)


async def test_operator_touches_no_other_slices(guarded):
    """Those of Kubernetes' own controllers lead clients elsewhere."""
    path = await guarded.slice(guarded.admin, name="web")
    for change in (
        guarded.operator.patch(path, {"endpoints": []}),
        guarded.operator.delete(path),
        guarded.slice(guarded.operator, name="web"),
        guarded.slice(guarded.operator, name="incumbent-web", metadata={"name": "incumbent-b"}),
    ):
        with pytest.raises(ApiError, match="The operator"):
            await change


async def test_operator_leads_nobody_to_two_pods_or_elsewhere(guarded):
    """Also not where the slice is its own."""
    path = await guarded.slice(guarded.operator, name="incumbent-web")
    for endpoints in (
        [guarded.endpoint("web-0"), guarded.endpoint("web-1")],
        [guarded.endpoint("web-0", namespace="kube-system")],
        [{"addresses": ["10.0.0.1"]}],
    ):
        with pytest.raises(ApiError, match="one pod of the same namespace"):
            await guarded.operator.patch(path, {"endpoints": endpoints})
