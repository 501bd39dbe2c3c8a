"""What the chart renders for each value set, and for pods, roles and logins."""

import copy
import functools
import json
import re

import click
import pytest
import yaml

from charttemplates import ROOT, operator, pods, values_of
from helm import CHART, Helm, objects
from incumbent.cli import main
from incumbent.controller.locks import Locks
from incumbent.settings import Settings

VALUE_SETS = sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*.yaml"))


def each_value_set(function):
    """Run a test with what is rendered of each value set of `ci`."""
    return pytest.mark.parametrize("rendered", VALUE_SETS, indirect=True)(function)


@pytest.fixture(scope="session")
def render_set(tmp_path_factory):
    """Return a function that renders a value set with a helm, once."""
    folder = tmp_path_factory.mktemp("helm")
    return functools.cache(lambda name, values: Helm(name, folder).render(values_of(values)))


@pytest.fixture
def rendered(request, render_set):
    """What is rendered of a value set."""
    return copy.deepcopy(render_set("helm3", request.param))


@pytest.mark.parametrize("values", VALUE_SETS)
def test_each_value_set_passes_the_linter(helm3, values):
    """Also its strict form."""
    helm3.run("lint", "--strict", str(CHART), values=values_of(values))


@pytest.mark.parametrize("values", ("default", "everything", "namespaced"))
def test_the_linter_of_helm_4_has_nothing_to_say_either(helm4, values):
    """Which knows more than that of helm 3."""
    helm4.run("lint", "--strict", str(CHART), values=values_of(values))


@pytest.mark.parametrize("values", VALUE_SETS)
def test_both_versions_of_helm_render_the_same(render_set, values):
    """So what the other tests say of one is true of both."""
    assert render_set("helm3", values) == render_set("helm4", values)


@each_value_set
def test_objects_carry_the_labels_of_the_release(rendered):
    """Labels that change with a version are in no selector, which could never be changed."""
    changing = {"app.kubernetes.io/version", "helm.sh/chart"}
    for thing in rendered:
        if "-as-" not in thing["metadata"]["name"]:  # an extra object
            assert thing["metadata"]["labels"].keys() >= changing, thing["metadata"]
        selector = thing.get("spec", {}).get("selector") or {}
        assert not selector.get("matchLabels", selector).keys() & changing


@each_value_set
def test_pods_meet_the_restricted_standard(rendered):
    """Our containers take no right, write only to volumes, and have requests; no user is set."""
    for name, spec in pods(rendered):
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "runAsUser" not in json.dumps(spec)
        assert "subPath" not in json.dumps(spec), "a file that is mounted so is never renewed"
        for container in spec["containers"]:
            if container["name"] == "beside":
                continue
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]
            assert "cpu" not in container["resources"]["limits"]
            assert re.search(r"(:[^:/]+|@sha256:[0-9a-f]{64})$", container["image"])
            assert not container["image"].endswith(":latest")


@each_value_set
def test_flags_are_those_of_the_program(rendered):
    """Each flag in the arguments of a container of our image is one that its command knows."""
    for name, spec in pods(rendered):
        for container in spec["containers"]:
            if "incumbent-nats" in container["image"] or container["name"] == "beside":
                continue
            command, *flags = container["args"]
            if "--" in flags:
                flags = flags[: flags.index("--")]
            found = main.main.get_command(click.Context(main.main), command)
            known = {option for parameter in found.params for option in parameter.opts}
            used = {flag.partition("=")[0] for flag in flags if flag.startswith("--")}
            assert used <= known, name


@each_value_set
def test_roles_grant_no_secrets_and_nothing_wholesale(rendered):
    """Each rule names what it grants."""
    for role in rendered:
        for rule in role.get("rules", ()):
            everything = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not {"*", "secrets"} & {*everything}, role["metadata"]["name"]


@pytest.mark.parametrize("kept", (True, False))
def test_the_definition_is_that_of_crds(helm3, kept):
    """It is the one of the top level, and is kept if that is wanted."""
    rendered = helm3.render({"crds": {"keep": kept, "labels": {"a": "b"}}})
    (definition,) = objects(rendered, "CustomResourceDefinition")
    source = yaml.safe_load((ROOT / "crds" / "leaderelections.yaml").read_text())
    assert definition["spec"] == source["spec"]
    assert definition["metadata"]["name"] == source["metadata"]["name"]
    assert definition["metadata"]["labels"]["a"] == "b"
    annotations = definition["metadata"].get("annotations", {})
    assert annotations == ({"helm.sh/resource-policy": "keep"} if kept else {})


def test_a_nats_of_ones_own_replaces_that_of_the_chart(helm3):
    """With `nats.url` no server is installed, and no bucket created unless asked for."""
    built_in = helm3.render()
    assert len(objects(built_in, "StatefulSet")) == 1
    assert "--create-bucket" in operator(built_in)["args"]
    theirs = helm3.render({"nats": {"url": "nats://theirs:4222"}})
    assert objects(theirs, "StatefulSet") == []
    assert [s["metadata"]["name"] for s in objects(theirs, "Service")] == ["incumbent"]
    assert "--nats-url=nats://theirs:4222" in operator(theirs)["args"]
    assert "--create-bucket" not in operator(theirs)["args"]
    asked = {"nats": {"url": "nats://theirs:4222", "bucket": {"create": True, "replicas": 3}}}
    assert "--bucket-replicas=3" in operator(helm3.render(asked))["args"]


def test_limits_of_tenants_reach_the_operator(helm3):
    """Rules for locks one by one, and the quota, of which 0 is a value, too."""
    default = operator(helm3.render())["args"]
    assert not [flag for flag in default if flag.startswith("--allow-lock")]
    assert f"--max-elections-per-namespace={Settings().max_elections_per_namespace}" in default
    rules = ["*/SLOW/{namespace}.*", "shop/B/a/b", "*/*/*", "shop*/B*/global.*"]
    parts = [dict(zip(("namespace", "bucket", "key"), r.split("/", 2), strict=True)) for r in rules]
    flags = operator(helm3.render({"allowedLocks": parts, "maxElectionsPerNamespace": 0}))["args"]
    assert [f"--allow-lock={rule}" for rule in rules] == [
        flag for flag in flags if flag.startswith("--allow-lock")
    ]
    assert Locks("B", rules).rules
    assert "--max-elections-per-namespace=0" in flags


@pytest.mark.parametrize(
    ("login", "expected", "sources"),
    (
        (
            {"auth": {"credentials": {"secretName": "s", "key": "k"}}},
            {"--nats-creds=/etc/incumbent/nats/user.creds"},
            {("secret", "s", "k", "user.creds")},
        ),
        (
            {"auth": {"nkey": {"secretName": "s", "key": "k"}}},
            {"--nats-nkey=/etc/incumbent/nats/nkey.seed"},
            {("secret", "s", "k", "nkey.seed")},
        ),
        (
            {"auth": {"token": {"secretName": "s", "key": "k"}}},
            {"--nats-token-file=/etc/incumbent/nats/token"},
            {("secret", "s", "k", "token")},
        ),
        (
            {"auth": {"userPassword": {"secretName": "s", "passwordKey": "k"}}},
            {"--nats-password-file=/etc/incumbent/nats/password"},
            {("secret", "s", "k", "password")},
        ),
        (
            {"tls": {"ca": {"secretName": "s", "key": "k"}, "first": True}},
            {"--nats-tls-ca=/etc/incumbent/nats/ca.crt", "--nats-tls-first"},
            {("secret", "s", "k", "ca.crt")},
        ),
        (
            {"tls": {"ca": {"configMapName": "c"}, "client": {"secretName": "s"}}},
            {
                "--nats-tls-ca=/etc/incumbent/nats/ca.crt",
                "--nats-tls-cert=/etc/incumbent/nats/tls.crt",
                "--nats-tls-key=/etc/incumbent/nats/tls.key",
            },
            {
                ("configMap", "c", "ca.crt", "ca.crt"),
                ("secret", "s", "tls.crt", "tls.crt"),
                ("secret", "s", "tls.key", "tls.key"),
            },
        ),
    ),
    ids=["credentials", "nkey", "token", "password", "tls", "client certificate"],
)
def test_logins_are_files_from_secrets(helm3, login, expected, sources):
    """The operator, and the test that plays a member, get each as a file and the flag for it."""
    rendered = helm3.render({"nats": {"url": "nats://theirs", **login}})
    for name, spec in pods(rendered):
        if "-cleanup-" in name:
            continue
        (container,) = spec["containers"]
        login_flags = {
            flag
            for flag in container["args"]
            if flag.startswith("--nats-") and not flag.startswith("--nats-url")
        }
        assert login_flags == expected
        (volume,) = (v for v in spec["volumes"] if v["name"] == "nats")
        found = {
            (kind, source["name"], item["key"], item["path"])
            for projected in volume["projected"]["sources"]
            for kind, source in projected.items()
            for item in source["items"]
        }
        assert found == sources
        assert {"name": "nats", "mountPath": "/etc/incumbent/nats", "readOnly": True} in container[
            "volumeMounts"
        ]


def test_pods_of_hooks_get_what_the_operator_gets(helm3):
    """Labels, annotations, environment, placement, secrets, and the rest of the spec."""
    values = values_of("everything")
    values["affinity"]["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": {}}
    rendered = helm3.render(values)
    (deployment,), (job,) = objects(rendered, "Deployment"), objects(rendered, "Job")
    (test,) = objects(rendered, "Pod")
    expected = deployment["spec"]["template"]
    for pod in (job["spec"]["template"], test):
        own = {"app.kubernetes.io/component"}
        assert {*expected["metadata"]["labels"].items()} - {*pod["metadata"]["labels"].items()} == {
            (name, expected["metadata"]["labels"][name]) for name in own
        }
        missing = expected["metadata"]["annotations"].keys() - pod["metadata"]["annotations"].keys()
        assert missing == {"kubectl.kubernetes.io/default-container"}
        own = {"containers", "volumes", "affinity", "topologySpreadConstraints"}
        own |= {"terminationGracePeriodSeconds", "serviceAccountName"}
        for key in expected["spec"].keys() - own - {"automountServiceAccountToken"}:
            assert pod["spec"][key] == expected["spec"][key], key
        # It has to run beside the operator's pods, also where these keep away from one another.
        assert pod["spec"]["affinity"] == {"nodeAffinity": values["affinity"]["nodeAffinity"]}
        assert {"initContainers", "hostAliases", "imagePullSecrets", "tolerations"} <= {
            *pod["spec"]
        }
        (container,) = pod["spec"]["containers"]
        for key in ("envFrom", "resources", "securityContext", "image", "imagePullPolicy"):
            assert container[key] == operator(rendered)[key], key
        assert pod["spec"]["restartPolicy"] == "Never"


def test_pods_of_hooks_may_differ(helm3):
    """An annotation that lets a sidecar in would keep a Job from ending."""
    mesh = {"podAnnotations": {"mesh": "on"}, "podLabels": {"mesh": "on"}}
    off = {"podAnnotations": {"mesh": "off"}, "podLabels": {"mesh": "off"}}
    rendered = helm3.render({**mesh, "cleanup": off, "tests": off})
    for pod in (objects(rendered, "Job")[0]["spec"]["template"], *objects(rendered, "Pod")):
        assert pod["metadata"]["annotations"]["mesh"] == pod["metadata"]["labels"]["mesh"] == "off"
