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
from helm import Helm, objects
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
    second: Kube
    """The operator of another release: it has the rights of the chart, and no policy names it."""
    stranger: Kube
    """A service account that may do everything, as that of a deployment tool."""
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
    (role,) = (
        one
        for one in objects(rendered, "Role")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
    )
    async with Kube(site) as admin:
        await admin.namespace(namespace)
        access = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        await admin.create(
            f"{access}/roles", {"metadata": {"name": "second"}, "rules": role["rules"]}
        )
        tokens = {}
        for name, kind, granted in (
            ("incumbent", "ClusterRole", "cluster-admin"),
            ("second", "Role", "second"),
            ("stranger", "ClusterRole", "cluster-admin"),
        ):
            account = {"metadata": {"name": name}}
            await admin.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
            await admin.create(
                f"{access}/rolebindings",
                {
                    **account,
                    "roleRef": {
                        "apiGroup": "rbac.authorization.k8s.io",
                        "kind": kind,
                        "name": granted,
                    },
                    "subjects": [{"kind": "ServiceAccount", "name": name}],
                },
            )
            tokens[name] = await admin.service_account_token(namespace, name)
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
        known = replace(site, tokens={**site.tokens, **tokens})
        async with (
            Kube(known, user="incumbent") as operator,
            Kube(known, user="second") as another,
            Kube(known, user="stranger") as stranger,
        ):
            guarded = Guarded(namespace, admin, operator, another, stranger, reference)
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
        ({"spec": {"tolerations": [{"operator": "Exists"}]}}, "spec"),
    ),
)
async def test_the_operator_may_do_nothing_else_to_a_pod(guarded, patch, message):
    """With its service account and all rights nothing but its own labels and tokens can change."""
    path = await guarded.pod()
    strategic = "application/strategic-merge-patch+json"
    with pytest.raises(ApiError, match=message):
        await guarded.operator.patch(path, patch, content_type=strategic)


ADDED = {
    "a label": metadata(labels={"example.org/seen": "1"}),
    "an annotation": metadata(annotations={"example.org/seen": "1"}),
    "another annotation": metadata(annotations={"note": "yours"}),
    "no annotation": metadata(annotations={"note": None}),
    "a finalizer": metadata(finalizers=["example.com/x"]),
    "a toleration": {"spec": {"tolerations": [{"key": "a", "operator": "Exists"}]}},
}
"""What other admission plugins add to a patch of ours, which is all that a policy sees of them."""
GIVES = {"labels": {LABEL: "leader"}, "annotations": {TOKEN: "7"}}
STRIPS = {"labels": {LABEL: None}, "annotations": {TOKEN: None}}


def together(ours, theirs):
    """Return a patch with a change of ours, and what was added to it."""
    about = theirs.get("metadata", {})
    merged = {part: {**ours.get(part, {}), **about.get(part, {})} for part in ours}
    return {**theirs, "metadata": {**about, **merged}}


@pytest.mark.parametrize("added", ADDED)
@pytest.mark.parametrize(("before", "ours"), (({}, GIVES), (LED, STRIPS)), ids=("give", "strip"))
async def test_what_others_add_is_not_held_against_the_operator(guarded, before, ours, added):
    """A policy sees our patch and what another admission plugin made of it as one."""
    path = await guarded.pod(**before)
    strategic = "application/strategic-merge-patch+json"
    await guarded.operator.patch(path, together(ours, ADDED[added]), content_type=strategic)


@pytest.mark.parametrize(
    "changed",
    (
        metadata(labels={"app": "other"}),
        metadata(labels={"app": None}),
        metadata(ownerReferences=[OWNER]),
        {"spec": {"activeDeadlineSeconds": 5}},
    ),
)
async def test_a_strip_is_refused_for_nothing_but_images(guarded, changed):
    """Two pods would lead. A pod is given the label only as it was chosen."""
    strip, give = together(STRIPS, changed), together(GIVES, changed)
    await guarded.operator.patch(await guarded.pod(**LED), strip)
    with pytest.raises(ApiError, match="The operator changes"):
        await guarded.operator.patch(await guarded.pod(), give)
    both = await guarded.pod(labels={CUSTOM: "leader"})
    given = together({"labels": {CUSTOM: None, LABEL: "leader"}}, changed)
    with pytest.raises(ApiError, match="The operator changes"):
        await guarded.operator.patch(both, given)


@pytest.mark.parametrize("ours", (GIVES, STRIPS), ids=("give", "strip"))
@pytest.mark.parametrize(
    ("changed", "message"),
    (
        ({"spec": {"containers": [{"name": "main", "image": "other"}]}}, "spec"),
        (metadata(labels={CUSTOM: "king"}), "no labels of a pod"),
        (metadata(annotations={"incumbent.dev/exclude": "true"}), "no annotations of a pod"),
    ),
)
async def test_what_a_pod_runs_is_left_alone_all_the_same(guarded, ours, changed, message):
    """Nobody who has the operator's token can run something else in a pod, whatever comes along."""
    path = await guarded.pod(**({} if ours is GIVES else LED))
    strategic = "application/strategic-merge-patch+json"
    with pytest.raises(ApiError, match=message):
        await guarded.operator.patch(path, together(ours, changed), content_type=strategic)


@pytest.mark.parametrize("resource", ("pods", "endpointslices"))
@pytest.mark.parametrize("field", ("labels", "annotations"))
async def test_a_mutating_policy_does_not_stop_the_operator(guarded, resource, field):
    """It adds to every update, as a webhook would; nobody else can set the label by that either."""
    served = {kind["name"] for kind in (await guarded.admin.get(RULES))["resources"]}
    if "mutatingadmissionpolicies" not in served:
        pytest.skip("this API server is older than 1.36: it has no MutatingAdmissionPolicy")
    group = "" if resource == "pods" else "discovery.k8s.io"
    name = f"seen-{resource}-{field}-{guarded.namespace}"
    added = f'Object.metadata{{{field}: {{"example.org/seen": "1"}}}}'
    expression = f"Object{{metadata: {added}}}"
    rules = {"apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}
    where = {"matchLabels": {"kubernetes.io/metadata.name": guarded.namespace}}
    policy = {
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "namespaceSelector": where,
                "resourceRules": [{**rules, "operations": ["UPDATE"]}],
            },
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": expression},
                }
            ],
        },
    }
    binding = {"metadata": {"name": name}, "spec": {"policyName": name}}
    await guarded.admin.create(f"{RULES}/mutatingadmissionpolicies", policy)
    await guarded.admin.create(f"{RULES}/mutatingadmissionpolicybindings", binding)
    try:
        await _seen(guarded, field, resource)
        if resource == "pods":
            path = await guarded.pod()
            for change in (GIVES, {"labels": {LABEL: "candidate"}}, GIVES, STRIPS):
                patched = await guarded.operator.patch(path, {"metadata": change})
            with pytest.raises(ApiError, match="by the operator only"):
                await guarded.admin.patch(path, {"metadata": GIVES})
        else:
            path = await guarded.slice(guarded.operator, name="incumbent-web")
            patched = await guarded.operator.patch(path, {"endpoints": [guarded.endpoint("web-1")]})
        assert patched["metadata"][field]["example.org/seen"] == "1"
    finally:
        for kind in ("bindings", "policies"):
            plural = "policybindings" if kind == "bindings" else "policies"
            await guarded.admin.delete(f"{RULES}/mutatingadmission{plural}/{name}")


async def _seen(guarded: Guarded, field: str, resource: str) -> None:
    """Wait until a mutating policy is in force."""
    path = await (guarded.pod() if resource == "pods" else guarded.slice(guarded.admin, name="s"))
    deadline = time.monotonic() + 20
    count = 0
    while True:
        count += 1
        change = {"metadata": {"annotations": {"count": str(count)}}}
        about = (await guarded.admin.patch(path, change))["metadata"]
        if "example.org/seen" in about.get(field, {}):
            break
        assert time.monotonic() < deadline, "the mutation does not come into force"
        await asyncio.sleep(0.1)


async def test_the_operator_of_another_release_is_not_refused(guarded):
    """It would lose its labels to the policies of whoever was installed beside it."""
    path = await guarded.pod()
    for change in (GIVES, {"labels": {LABEL: "candidate"}}, GIVES, STRIPS):
        await guarded.second.patch(path, {"metadata": change})
    election = Election(guarded.admin, guarded.namespace, "second")
    await election.create()
    await guarded.second.patch(f"{election.path}/status", {"status": {"holder": "me"}})


async def test_who_may_do_everything_is_no_operator(guarded):
    """A deployment tool has all rights, and serves no elections for that; it is told what to do."""
    path = await guarded.pod()
    expected = (
        "by the operator only; if system:serviceaccount:.* is the operator of another release"
    )
    with pytest.raises(ApiError, match=expected):
        await guarded.stranger.patch(path, {"metadata": GIVES})
    with pytest.raises(ApiError, match="by the operator only; to move the office"):
        await guarded.admin.patch(path, {"metadata": {"labels": {LABEL: "leader"}}})


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
