"""The chart's admission policies, on a real API server: what they allow, and what they refuse.

They are the namespaced ones, so that they hold in the namespace of this test and nowhere else. The
operator's service account may do everything there: what is refused is refused by a policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import yaml

from controlplane.kube import APPLY, STRATEGIC, ApiError, Kube, kubectl
from elections import LED_STATUS, WHOLE_STATUS, Election
from helm import CHART, Helm, objects
from incumbent.kubernetes.resource import FINALIZER, LABELLING, STEP_DOWN
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
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
CONTROLLERS = VALUES["admissionPolicies"]["labels"]["controllers"]
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
    trial: Kube
    """An operator on trial: it may patch pods here, too, but serves another namespace."""
    stranger: Kube
    """A service account that may do everything, as that of a deployment tool."""
    owner: Mapping[str, Any]
    """A reference to the election of the slices: without it they are garbage, and collected."""

    async def pod(
        self, *, labels: Any = None, annotations: Any = None, spec: Any = None, **more: Any
    ) -> str:
        """Create a pod as the operator, which may set any label then; return its path."""
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        about = {
            "generateName": "web-",
            "labels": {"app": "web", **(labels or {})},
            "annotations": {"note": "mine", **(annotations or {})},
            **more,
        }
        made = await self.operator.create(
            pods, {"metadata": about, "spec": {"containers": CONTAINERS, **(spec or {})}}
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
        "admissionPolicies": {
            "inNamespacedMode": True,
            # Here they all have the name of their process.
            "labels": {"controllers": [*CONTROLLERS, "kube-controller-manager"]},
        },
        "rbac": {"endpointSlices": True},
    }
    rendered = Helm("helm4", tmp_path_factory.mktemp("helm")).render(values)
    policies = [document for document in rendered if document["kind"] in KINDS]
    assert len(policies) == 10
    (role,) = (
        one
        for one in objects(rendered, "Role")
        if one["metadata"]["labels"]["app.kubernetes.io/component"] == "operator"
    )
    async with Kube(site) as admin:
        await admin.namespace(namespace)
        access = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        spare = [rule for rule in role["rules"] if "serve" not in rule["verbs"]]
        for name, rules in (("second", role["rules"]), ("trial", spare)):
            await admin.create(f"{access}/roles", {"metadata": {"name": name}, "rules": rules})
        tokens = {}
        for name, kind, granted in (
            ("incumbent", "ClusterRole", "cluster-admin"),
            ("second", "Role", "second"),
            ("trial", "Role", "trial"),
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
            Kube(known, user="trial") as trial,
            Kube(known, user="stranger") as stranger,
        ):
            guarded = Guarded(namespace, admin, operator, another, trial, stranger, reference)
            await _in_force(guarded)
            yield guarded
        for path in paths:
            await admin.delete(path)
        await admin.delete(f"/api/v1/namespaces/{namespace}")


async def _in_force(guarded: Guarded) -> None:
    """Wait until the API server knows the policies, which takes a second or two."""
    pod = await guarded.pod()
    election = Election(guarded.admin, guarded.namespace, "in-force")
    await election.create()

    templates, template = workload("Deployment", labels={LABEL: "leader"})
    templates = templates.format(namespace=guarded.namespace)

    async def write_a_slice() -> None:
        await guarded.operator.delete(await guarded.slice(guarded.admin, name="in-force"))

    # They have no effect, because the second write of a value would be allowed: it changes nothing.
    pod, status = f"{pod}?dryRun=All", f"{election.path}/status?dryRun=All"
    attempts: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: guarded.admin.patch(pod, {"metadata": {"labels": {LABEL: "leader"}}}),
        lambda: guarded.operator.patch(pod, {"metadata": {"labels": {"app": "other"}}}),
        lambda: guarded.admin.patch(status, {"status": {"token": 1}}),
        lambda: guarded.admin.create(f"{templates}?dryRun=All", template),
        write_a_slice,
    )
    async with asyncio.timeout(20):
        for attempt in attempts:
            while True:
                try:
                    await attempt()
                except ApiError:
                    break
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


async def test_a_pod_with_very_many_labels_can_be_stripped(guarded):
    """An expression may cost only so much; one that costs more would refuse the strip."""
    many = {f"x{number}": "" for number in range(3000)}
    path = await guarded.pod(**LED)
    await guarded.admin.patch(path, metadata(labels=many, annotations=many))
    for change in (STRIPS, GIVES, {"labels": {LABEL: "candidate"}}):
        await guarded.operator.patch(path, {"metadata": change})


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


async def test_the_operator_of_other_namespaces_is_nobody_here(guarded):
    """One that is tried out elsewhere gets no way to the labels of this namespace."""
    elsewhere = f"{guarded.namespace}-trial"
    await guarded.admin.namespace(elsewhere)
    access = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{elsewhere}"
    rule = {"apiGroups": ["incumbent.dev"], "resources": ["leaderelections"], "verbs": ["serve"]}
    about = {"metadata": {"name": "trial"}}
    await guarded.admin.create(f"{access}/roles", {**about, "rules": [rule]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "trial"}
    subject = {"kind": "ServiceAccount", "name": "trial", "namespace": guarded.namespace}
    binding = {**about, "roleRef": reference, "subjects": [subject]}
    await guarded.admin.create(f"{access}/rolebindings", binding)
    with pytest.raises(ApiError, match="by the operator only"):
        await guarded.trial.patch(await guarded.pod(), {"metadata": GIVES})
    await guarded.admin.delete(f"/api/v1/namespaces/{elsewhere}")


async def test_who_may_do_everything_is_no_operator(guarded):
    """A deployment tool has all rights, and serves no elections for that; it is told what to do."""
    path = await guarded.pod()
    expected = (
        "by the operator only; if system:serviceaccount:.* is the operator of another release"
    )
    with pytest.raises(ApiError, match=expected):
        await guarded.stranger.patch(path, {"metadata": GIVES})
    with pytest.raises(ApiError, match="by the operator only; to have another pod lead"):
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


async def merge(kube: Kube, path: str, changed: Any) -> None:
    """Change an object by a merge patch."""
    await kube.patch(path, changed)


async def merge_strategically(kube: Kube, path: str, changed: Any) -> None:
    """Change it by a strategic merge patch, as `kubectl edit` does."""
    await kube.patch(path, changed, content_type=STRATEGIC)


async def patch_by_operations(kube: Kube, path: str, changed: Any) -> None:
    """Change it by a JSON patch."""
    operations = [
        {"op": "add", "path": f"/{part}/{field}", "value": value}
        for part, fields in changed.items()
        for field, value in (await with_changes(kube, path, fields, part)).items()
    ]
    content_type = "application/json-patch+json"
    await kube.patch(path, operations, content_type=content_type)


async def apply(kube: Kube, path: str, changed: Any) -> None:
    """Change it by server-side apply."""
    found = await kube.get(path)
    body = {field: found[field] for field in ("apiVersion", "kind")} | changed
    await kube.request(
        "PATCH",
        path,
        body=body,
        content_type=APPLY,
        params={"fieldManager": "somebody", "force": "true"},
    )


async def replace_whole(kube: Kube, path: str, changed: Any) -> None:
    """Change it by a PUT of the whole object."""
    found = await kube.get(path)
    for part, fields in changed.items():
        found[part] = found.get(part, {}) | await with_changes(kube, path, fields, part)
    await kube.request("PUT", path, body=found)


async def with_changes(kube: Kube, path: str, fields: Any, part: str) -> dict[str, Any]:
    """Return fields of a part of an object, with what maps in them hold already."""
    found = (await kube.get(path)).get(part, {})
    return {
        name: {**found.get(name, {}), **value} if isinstance(value, dict) else value
        for name, value in fields.items()
    }


WAYS = (merge, merge_strategically, patch_by_operations, apply, replace_whole)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", ("labels", "annotations"))
async def test_no_subresource_of_a_pod_sets_a_label_or_a_token(guarded, way, part):
    """Some write labels and annotations, some write none. The API server says which there are."""
    given = metadata(**{part: GIVES[part]})
    served = {
        one["name"]: set(one["verbs"]) for one in (await guarded.admin.get("/api/v1"))["resources"]
    }
    writable = {
        name.partition("/")[2]
        for name, verbs in served.items()
        if name.partition("/")[0] == "pods" and {"update", "patch"} & verbs
    }
    assert {"", "status", "ephemeralcontainers"} <= writable
    for subresource in sorted(writable):
        path = await guarded.pod(spec={"schedulerName": "nobody"})  # so nothing else writes it
        refused = False
        try:
            await way(guarded.admin, f"{path}/{subresource}".rstrip("/"), given)
        except ApiError as error:
            refused = "by the operator only" in str(error)
        about = (await guarded.admin.get(path))["metadata"]
        assert LABEL not in about["labels"]
        assert TOKEN not in about["annotations"]
        assert refused or subresource not in {"", "status"}


@pytest.mark.parametrize("path", ("pods/{name}/binding", "bindings"))
@pytest.mark.parametrize("part", ("labels", "annotations"))
async def test_no_binding_sets_a_label_or_a_token(guarded, path, part):
    """Its labels and annotations become those of the pod. A scheduler's has none."""
    pod = await guarded.pod(spec={"schedulerName": "nobody"})
    name = pod.rpartition("/")[2]
    where = f"/api/v1/namespaces/{guarded.namespace}/{path.format(name=name)}"
    node = (await guarded.admin.get("/api/v1/nodes"))["items"][0]["metadata"]["name"]
    about = {"name": name}
    binding = {"metadata": about, "target": {"kind": "Node", "name": node}}
    changed = {**binding, "metadata": {**about, part: GIVES[part]}}
    with pytest.raises(ApiError, match="by the operator only"):
        await guarded.admin.create(where, changed)
    await guarded.admin.create(where, binding)
    assert (await guarded.admin.get(pod))["spec"]["nodeName"] == node


@pytest.mark.parametrize("part", ("labels", "annotations"))
async def test_no_eviction_sets_a_label_or_a_token(guarded, part):
    """It deletes a pod, and is not held up."""
    pod = await guarded.pod(spec={"schedulerName": "nobody"}, finalizers=["example.com/x"])
    about = {"name": pod.rpartition("/")[2], part: GIVES[part]}
    await guarded.admin.create(f"{pod}/eviction", {"metadata": about})
    evicted = (await guarded.admin.get(pod))["metadata"]
    assert "deletionTimestamp" in evicted
    assert LABEL not in evicted["labels"]
    assert TOKEN not in evicted["annotations"]
    await guarded.admin.patch(pod, {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("about", ({}, {"ownerReferences": [OWNER]}), ids=("bare", "owned"))
@pytest.mark.parametrize("part", ("labels", "annotations"))
async def test_nobody_else_creates_a_leader(guarded, about, part):
    """A pod of one's own is not born with the label, whatever controller it says that it has."""
    pods = f"/api/v1/namespaces/{guarded.namespace}/pods"
    body = {"metadata": {"name": "born", part: GIVES[part], **about}}
    body |= {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": CONTAINERS}}
    with pytest.raises(ApiError, match="by the operator only"):
        await guarded.admin.create(pods, body)
    asked = {"body": body, "content_type": APPLY, "params": {"fieldManager": "somebody"}}
    with pytest.raises(ApiError, match="by the operator only"):
        await guarded.admin.request("PATCH", f"{pods}/born", **asked)


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


async def served(guarded: Guarded, name: str) -> Election:
    """Create an election with every field of a status, as its operator would write it."""
    election = Election(guarded.admin, guarded.namespace, name)
    await election.create()
    await guarded.operator.patch(f"{election.path}/status", {"status": WHOLE_STATUS})
    return election


UNSERVED = {
    "state": "Unknown",
    "leader": None,
    "conditions": [{**WHOLE_STATUS["conditions"][0], "status": "Unknown", "reason": "NotServed"}],
}
"""What of a status `incumbent cleanup` changes."""


async def test_nobody_else_writes_a_status(guarded):
    """Somebody who could would choose the leader that others read."""
    election = await served(guarded, "guarded")
    status = {"status": {"holder": "me"}}
    with pytest.raises(ApiError, match="status of an election") as caught:
        await guarded.admin.patch(f"{election.path}/status", status)
    assert caught.value.status == 403
    await guarded.operator.patch(f"{election.path}/status", status)
    await guarded.admin.patch(election.path, {"spec": {"suspend": True}})


@pytest.mark.parametrize("dressed", (False, True), ids=("plainly", "as a cleanup"))
async def test_nobody_else_changes_any_field_of_a_status(guarded, dressed):
    """Also beside what a cleanup writes; each field alone, changed or removed."""
    election = await served(guarded, f"fields-{dressed}".lower())
    path = f"{election.path}/status"
    before = await election.status()

    def others(value: Any) -> Any:
        match value:
            case dict():
                return {name: others(one) for name, one in value.items()}
            case int():
                return value + 1
            case str() if value.startswith("2026"):
                return "2027-01-01T00:00:00Z"
        return f"{value}x"

    dress = UNSERVED if dressed else {}
    for field in WHOLE_STATUS.keys() - UNSERVED.keys():
        for value in (others(WHOLE_STATUS[field]), None):
            with pytest.raises(ApiError, match="written by the operator only"):
                await guarded.admin.patch(path, {"status": {**dress, field: value}})
    assert await election.status() == before


@pytest.mark.parametrize(
    "change",
    (
        {"state": "Leader"},
        {"leader": WHOLE_STATUS["leader"]},
        {"conditions": []},
        {"conditions": WHOLE_STATUS["conditions"]},
        {"conditions": [{**UNSERVED["conditions"][0], "status": "True"}]},
        {"conditions": [{**UNSERVED["conditions"][0], "type": "Stalled"}]},
        {"conditions": [*UNSERVED["conditions"], {**UNSERVED["conditions"][0], "type": "New"}]},
    ),
)
async def test_a_cleanup_says_nothing_but_that_nobody_serves_it(guarded, change):
    """No state, leader or condition that would mean something else."""
    election = await served(guarded, f"cleaned-{secrets.token_hex(4)}")
    with pytest.raises(ApiError, match="written by the operator only"):
        await guarded.admin.patch(f"{election.path}/status", {"status": {**UNSERVED, **change}})
    await guarded.admin.patch(f"{election.path}/status", {"status": UNSERVED})


@pytest.mark.parametrize("way", [way for way in WAYS if way is not merge_strategically])
async def test_no_way_of_writing_changes_a_status(guarded, way):
    """Nor does the election itself, whose status is a subresource."""
    election = await served(guarded, f"ways-{secrets.token_hex(4)}")
    before = await election.status()
    changed = {"status": {"key": "payments.ledger", "labelKey": "incumbent.dev/other"}}
    with pytest.raises(ApiError, match="written by the operator only"):
        await way(guarded.admin, f"{election.path}/status", changed)
    with contextlib.suppress(ApiError):
        await way(guarded.admin, election.path, changed)
    assert await election.status() == before


async def test_an_election_has_no_other_subresource(guarded):
    """Such as `scale`, by which another field of its status could be written."""
    kinds = (await guarded.admin.get("/apis/incumbent.dev/v1alpha1"))["resources"]
    names = {one["name"] for one in kinds}
    assert names == {"leaderelections", "leaderelections/status"}


async def test_an_election_is_created_without_a_status(guarded):
    """One of a backup is, which brings its lock, its questions and its annotation along."""
    election = Election(guarded.admin, guarded.namespace, "restored")
    about = {"name": "restored", "annotations": {LABELLING: "a/web-0/1"}}
    spec = {"selector": {"matchLabels": {"app": "web"}}}
    kind = {"apiVersion": "incumbent.dev/v1alpha1", "kind": "LeaderElection"}
    body = {**kind, "metadata": about, "spec": spec, "status": WHOLE_STATUS}
    await guarded.stranger.create(election.collection, body)
    assert (await election.status())["observedGeneration"] == -1
    assert not (await election.status()).keys() & {"key", "site", "bucket", "labelKey"}
    with pytest.raises(ApiError, match="written by the operator only"):
        await guarded.stranger.patch(f"{election.path}/status", {"status": WHOLE_STATUS})


async def test_nobody_else_says_for_which_pod_a_label_is_meant(guarded):
    """In the mode `Observed` the operator trusts the annotation. Without it, it strips all pods."""
    election = await served(guarded, "observed")

    def meant_for(value: str | None) -> Any:
        return {"metadata": {"annotations": {LABELLING: value}}}

    with pytest.raises(ApiError, match="may be removed, but not changed"):
        await guarded.admin.patch(election.path, meant_for("b/web-1/1"))
    await guarded.operator.patch(election.path, meant_for("a/web-0/1"))
    with pytest.raises(ApiError, match="may be removed, but not changed"):
        await guarded.admin.patch(election.path, meant_for("b/web-1/1"))
    await guarded.admin.patch(election.path, {"metadata": {"annotations": {STEP_DOWN: ""}}})
    await guarded.admin.patch(election.path, meant_for(None))


async def test_whoever_cleans_up_by_hand_is_not_refused(guarded):
    """An administrator runs the command where no hook of helm's does, policies or not."""
    election = Election(guarded.admin, guarded.namespace, "left")
    await election.create()
    await guarded.admin.patch(election.path, {"metadata": {"finalizers": [FINALIZER]}})
    path = f"{election.path}/status"
    await guarded.operator.patch(path, {"status": LED_STATUS})
    pod = await guarded.pod(labels={election.label: "leader"})  # its token is gone

    kubeconfig = guarded.admin.site.kubeconfig
    code, said = await run_cleanup(kubeconfig, f"--namespace={guarded.namespace}")
    assert code == 0, said
    found = await guarded.admin.get(election.path)
    assert "finalizers" not in found["metadata"]
    assert "leader" not in found["status"]
    assert [one["reason"] for one in found["status"]["conditions"]] == ["NotServed"]
    assert election.label not in (await guarded.admin.get(pod))["metadata"]["labels"]


KINDS_WITH_TEMPLATES = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{namespace}/statefulsets",
    "DaemonSet": "/apis/apps/v1/namespaces/{namespace}/daemonsets",
    "ReplicaSet": "/apis/apps/v1/namespaces/{namespace}/replicasets",
    "ControllerRevision": "/apis/apps/v1/namespaces/{namespace}/controllerrevisions",
    "Job": "/apis/batch/v1/namespaces/{namespace}/jobs",
    "CronJob": "/apis/batch/v1/namespaces/{namespace}/cronjobs",
    "ReplicationController": "/api/v1/namespaces/{namespace}/replicationcontrollers",
}


def workload(kind: str, *, about: Any = None, **template: Any) -> tuple[str, Any]:
    """Return the path and the body of something with a template for pods, of which it makes none.

    Args:
        kind: of it.
        about: more of its metadata.
        template: metadata of the template.
    """
    name = f"born-{secrets.token_hex(4)}"
    app = {"app": name}
    pod = {"containers": CONTAINERS, "restartPolicy": "Always"}
    made: dict[str, Any] = {"template": {"metadata": template, "spec": pod}}
    template["labels"] = {**app, **template.get("labels", {})}
    content: dict[str, Any] = {"spec": {"selector": {"matchLabels": app}, **made}}
    match kind:
        case "Deployment" | "StatefulSet" | "ReplicaSet":
            content["spec"]["replicas"] = 0
        case "ReplicationController":
            content["spec"] |= {"selector": app, "replicas": 0}
        case "ControllerRevision":
            content = {"revision": 1, "data": {"spec": made}}
        case "Job" | "CronJob":
            pod["restartPolicy"] = "Never"
            content = {"spec": {**made, "suspend": True}}
            if kind == "CronJob":
                content = {"spec": {"schedule": "0 0 1 1 *", "jobTemplate": content}}
    path = KINDS_WITH_TEMPLATES[kind]
    version = "/".join(path.split("/")[2:4]) if path.startswith("/apis") else "v1"
    body = {"apiVersion": version, "kind": kind, "metadata": {"name": name, **(about or {})}}
    return path, {**body, **content}


@pytest.mark.parametrize("kind", KINDS_WITH_TEMPLATES)
@pytest.mark.parametrize("about", ({}, {"ownerReferences": [OWNER]}), ids=("bare", "owned"))
@pytest.mark.parametrize(
    "template",
    (
        {"labels": {LABEL: "leader"}},
        {"labels": {CUSTOM: "leader"}},
        {"annotations": {TOKEN: "7"}},
    ),
    ids=("label", "label of another prefix", "token"),
)
async def test_no_template_has_a_leaders_label_or_token(guarded, kind, about, template):
    """Its pods would be born with it. Who writes the template is told so."""
    path, body = workload(kind, about=about, **template)
    where = path.format(namespace=guarded.namespace)
    with pytest.raises(ApiError, match="remove it from the template"):
        await guarded.admin.create(where, body)
    path, body = workload(kind, about=about, labels={LABEL: "candidate", "tier": "leader"})
    await guarded.admin.create(where, body)


async def test_the_controllers_of_kubernetes_are_known(guarded):
    """All that create pods, or objects with templates, and no other ones: their roles say so."""
    made = {"pods", *(path.rpartition("/")[2] for path in KINDS_WITH_TEMPLATES.values())}
    roles = (await guarded.admin.get("/apis/rbac.authorization.k8s.io/v1/clusterroles"))["items"]
    creators = set()
    for role in roles:
        controller = role["metadata"]["name"].partition("system:controller:")[2]
        for rule in role["rules"] or ():
            if controller and "create" in rule["verbs"] and made & {*rule.get("resources", ())}:
                creators.add(f"system:serviceaccount:kube-system:{controller}")
    # It recycles volumes, by pods of a template of the administrator's.
    creators -= {"system:serviceaccount:kube-system:persistent-volume-binder"}
    assert creators | {"system:kube-controller-manager"} == {*CONTROLLERS}


async def test_a_template_that_had_the_label_before_still_makes_pods(guarded):
    """A workload without pods would be worse. It may be scaled and changed, but gets no more."""
    path, body = workload("Deployment", labels={LABEL: "leader"})
    where, name = path.format(namespace=guarded.namespace), body["metadata"]["name"]
    # A person could create it only before the policy was there.
    acting = ("--as=system:serviceaccount:kube-system:deployment-controller",)
    acting += ("--as-group=system:masters", f"--namespace={guarded.namespace}")
    await kubectl(guarded.admin.site, *acting, "create", "-f", "-", stdin=json.dumps(body))
    deployment = f"{where}/{name}"
    await guarded.admin.patch(deployment, {"spec": {"replicas": 1}})
    pods = f"/api/v1/namespaces/{guarded.namespace}/pods"
    born = await guarded.admin.until(
        pods, lambda found: len(found["items"]) == 1, labelSelector=f"app={name}"
    )
    assert born["items"][0]["metadata"]["labels"][LABEL] == "leader"

    def given(**template: Any) -> Any:
        return {"spec": {"template": {"metadata": template}}}

    for more in ({"labels": {CUSTOM: "leader"}}, {"annotations": {TOKEN: "7"}}):
        with pytest.raises(ApiError, match="remove it from the template"):
            await guarded.admin.patch(deployment, given(**more))
    await guarded.admin.patch(deployment, given(labels={"tier": "gold"}))
    await guarded.admin.patch(deployment, given(labels={LABEL: None}))


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
    assert len(ours) == 5
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
