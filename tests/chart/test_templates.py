"""What the chart renders, and what it refuses to."""

import copy
import functools
import importlib.util
import json
import re
import shutil
import tomllib

import click
import promql_parser
import pytest
import yaml

from helm import CHART, Helm, HelmError, granted, objects, roles_of_the_operator
from incumbent.cli import main
from incumbent.controller.locks import Locks
from incumbent.nats.servers import server_from
from incumbent.settings import Settings

ROOT = CHART.parents[1]
VALUE_SETS = sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*.yaml"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
TEMPLATES = "\n".join(
    path.read_text() for path in CHART.glob("templates/**/*.*") if path.suffix != ".md"
)
DIGEST = f"sha256:{'0' * 64}"
LOGIN = {"secretName": "a"}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy"}
CLUSTER_WIDE |= {"FlowSchema", "PriorityLevelConfiguration"}


def values_of(name):
    """Return a value set of `ci`."""
    return yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())


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


def pods(rendered):
    """Return name and spec of each pod, or pod template."""
    return [
        (thing["metadata"]["name"], (thing["spec"].get("template") or thing)["spec"])
        for thing in rendered
        if thing["kind"] in {"Deployment", "StatefulSet", "Job", "Pod"}
    ]


def operator(rendered):
    """Return the operator's container."""
    (deployment,) = objects(rendered, "Deployment")
    return next(
        c for c in deployment["spec"]["template"]["spec"]["containers"] if c["name"] == "operator"
    )


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


def test_the_network_policy_covers_every_pod_of_the_operators_image(helm3):
    """Also those of the hooks, which need NATS and the API server where all else is denied."""
    rendered = helm3.render({"nats": {"url": "nats://x"}})
    (policy,) = objects(rendered, "NetworkPolicy")
    selector = policy["spec"]["podSelector"]
    (components,) = selector["matchExpressions"]
    assert components["operator"] == "In"
    owners = [
        *objects(rendered, "Deployment"),
        *objects(rendered, "Job"),
        *objects(rendered, "Pod"),
    ]
    for owner in owners:
        labels = (owner["spec"].get("template") or owner)["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
        assert labels[components["key"]] in components["values"]


def own_policy(rendered):
    """Return the operator's NetworkPolicy, not that of the built-in NATS."""
    policies = objects(rendered, "NetworkPolicy")
    return next(one["spec"] for one in policies if not one["metadata"]["name"].endswith("-nats"))


def test_no_pod_reaches_the_operator_unless_it_is_let_in(helm3):
    """What the operator reaches is left alone, for its API server may have any port."""
    policy = own_policy(helm3.render())
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress"], [])
    assert "egress" not in policy


PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


@pytest.mark.parametrize(
    ("value", "ports", "opened"),
    (
        ("from", {}, ["http"]),
        ("from", {"metrics": 9090, "probes": 8081}, ["http", "metrics", "probes"]),
        ("metricsFrom", {}, ["http"]),
        ("metricsFrom", {"metrics": 9090}, ["metrics"]),
        ("probesFrom", {}, ["http"]),
        ("probesFrom", {"probes": 8081}, ["probes"]),
    ),
)
def test_network_policy_is_opened_port_by_port(helm3, value, ports, opened):
    """Prometheus needs the page as little as an ingress controller needs the metrics."""
    values = {"ports": ports, "networkPolicy": {"ingress": {value: [PEER]}}}
    (rule,) = own_policy(helm3.render(values))["ingress"]
    assert rule["from"] == [PEER]
    assert [port["port"] for port in rule["ports"]] == opened


@pytest.mark.parametrize(
    ("monitor", "kind", "endpoints"),
    (
        ("podMonitor", "PodMonitor", "podMetricsEndpoints"),
        ("serviceMonitor", "ServiceMonitor", "endpoints"),
    ),
)
def test_ports_of_their_own(helm3, monitor, kind, endpoints):
    """Flags, container, Service, probes and monitors agree; a probe of another port stays."""
    values = {
        "ports": {"http": 8888, "metrics": 9090, "probes": 8081},
        "startupProbe": {"httpGet": {"port": 1234}},
        "monitoring": {"whenKindIsMissing": "render", monitor: {"enabled": True}},
    }
    rendered = helm3.render(values)
    container = operator(rendered)
    assert {"--http-address=:8888", "--metrics-address=:9090", "--probes-address=:8081"} <= {
        *container["args"]
    }
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == values["ports"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"]["port"] for kind in PROBES}
    assert probes == {"startup": 1234, "liveness": "probes", "readiness": "probes"}
    service = next(
        one for one in objects(rendered, "Service") if not one["metadata"]["name"].endswith("-nats")
    )
    assert [port["name"] for port in service["spec"]["ports"]] == ["http", "metrics"]
    (found,) = objects(rendered, kind)
    assert found["spec"][endpoints][0]["port"] == "metrics"


PROBES = ("startup", "liveness", "readiness")


def test_one_port_serves_everything_by_default(helm3):
    """Without more flags than that."""
    container = operator(helm3.render())
    assert [port["name"] for port in container["ports"]] == ["http"]
    assert not [flag for flag in container["args"] if flag.startswith(("--metrics", "--probes"))]
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in PROBES} == {"http"}


def test_operator_answers_to_the_names_of_its_service_and_to_those_that_are_given(helm3):
    """The short name with the namespace is the one that the operator cannot tell by itself."""
    args = operator(helm3.render({"http": {"hosts": ["a.example.com"]}}))["args"]
    hosts = [arg.removeprefix("--http-host=") for arg in args if arg.startswith("--http-host=")]
    assert hosts[1:] == ["a.example.com"]
    assert hosts[0].count(".") == 1


def test_whoever_asks_no_cluster_gets_no_hooks(helm):
    """`helm template` and kustomize print for somebody who creates hooks like any other object."""
    kinds = [thing["kind"] for thing in helm.render(kinds=False)]
    assert not {"Job", "Pod"} & {*kinds}
    assert "Deployment" in kinds
    assert {"Job", "Pod"} <= {thing["kind"] for thing in helm.render()}


def test_another_job_has_another_name(helm3):
    """A Job's spec cannot be changed, so whoever applies it again must not meet the old one."""
    names = {
        objects(helm3.render({"image": {"tag": tag}}), "Job")[0]["metadata"]["name"]
        for tag in ("1", "2", "2")
    }
    assert len(names) == 2


def test_what_a_nats_administrator_asks_for_becomes_flags(helm3):
    """And defaults become none."""
    nats = {"url": "x", "inboxPrefix": "_INBOX_ops", "connectTimeout": "500ms"}
    bucket = {"create": True, "maxBytes": "64MiB"}
    rendered = helm3.render({"nats": {**nats, "bucket": bucket}})
    flags = {"--nats-inbox-prefix=_INBOX_ops", "--nats-connect-timeout=500ms"}
    for name, spec in pods(rendered):
        arguments = spec["containers"][0]["args"]
        if "cleanup" not in arguments:  # which has nothing to do with NATS
            assert flags <= set(arguments), name
    assert "--bucket-max-bytes=64MiB" in operator(rendered)["args"]
    plain = " ".join(operator(helm3.render({"nats": {"url": "x"}}))["args"])
    assert not [flag for flag in ("inbox", "connect", "max-bytes") if flag in plain]


def test_a_user_name_comes_from_its_secret_unless_it_is_given(helm3):
    """A variable of the chart that `extraEnv` gives, too, is there once."""
    values = {"nats": {"url": "nats://x", "auth": {"userPassword": {"secretName": "s"}}}}
    (variable,) = operator(helm3.render(values))["env"]
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "s", "key": "username"}
    values["extraEnv"] = [{"name": "INCUMBENT_NATS_USER", "value": "theirs"}]
    assert operator(helm3.render(values))["env"] == values["extraEnv"]


def test_in_namespaces_there_is_nothing_for_the_whole_cluster(helm3):
    """One Role in each, no policies unless they are asked for, and the operator told where."""
    values = values_of("namespaced")
    rendered = helm3.render(values)
    assert not CLUSTER_WIDE & {thing["kind"] for thing in rendered}
    roles = objects(rendered, "Role")
    hooks = [role for role in roles if "annotations" in role["metadata"]]
    granted = {role["metadata"]["namespace"] for role in roles if role not in hooks}
    assert granted == {"team-a", "team-b"}
    flags = {"--site=blue", "--namespace=team-a", "--namespace=team-b"}
    assert flags <= {*operator(rendered)["args"]}
    values["admissionPolicies"] = {"inNamespacedMode": True}
    assert objects(helm3.render(values), "ValidatingAdmissionPolicy")
    values["flowControl"] = {"inNamespacedMode": True}
    (schema,) = objects(helm3.render(values), "FlowSchema")
    (rule,) = schema["spec"]["rules"]
    assert {where for one in rule["resourceRules"] for where in one["namespaces"]} == granted


def test_a_single_replica_has_no_budget(helm3):
    """Its node could never be drained; with two, one may be away."""
    assert objects(helm3.render({"replicaCount": 1}), "PodDisruptionBudget") == []
    (budget,) = objects(helm3.render(), "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    values = {"podDisruptionBudget": {"minAvailable": 0}}
    (budget,) = objects(helm3.render(values), "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 0


@pytest.mark.parametrize(
    ("image", "registry", "expected"),
    (
        ({}, "", "ghcr.io/incumbent-dev/incumbent:{version}"),
        ({"tag": "1.2"}, "", "ghcr.io/incumbent-dev/incumbent:1.2"),
        (
            {"tag": "1.2", "digest": DIGEST},
            "",
            f"ghcr.io/incumbent-dev/incumbent@{DIGEST}",
        ),
        ({"registry": "a"}, "b", "b/incumbent-dev/incumbent:{version}"),
        ({"registry": "", "repository": "incumbent"}, "", "incumbent:{version}"),
    ),
)
def test_images_are_named_by_digest_tag_or_version(helm3, image, registry, expected):
    """The digest wins over the tag, and the global registry over the image's."""
    rendered = helm3.render({"image": image, "global": {"imageRegistry": registry}})
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert operator(rendered)["image"] == expected.format(version=version)


def test_long_names_fit(helm3):
    """The longest name of a release leaves room for all that is put behind it."""
    text = helm3.run("template", "a" * 53, str(CHART), "--namespace", "b" * 63)
    for thing in yaml.safe_load_all(text):
        if not thing:
            continue
        name = thing["metadata"]["name"]
        if thing["kind"] == "StatefulSet":
            assert len(f"{name}-0123456789") <= 63
        if thing["kind"] not in CLUSTER_WIDE | {"ValidatingAdmissionPolicyBinding"}:
            assert len(name) <= 63
        for value in thing["metadata"]["labels"].values():
            assert len(value) <= 63


@pytest.mark.parametrize(
    ("values", "sentence"),
    (
        ({"watch": {"namespaces": ["a"]}}, "set site to a name of your choice"),
        ({"nats": {"url": "nats://me:secret@x"}}, "put them into a Secret"),
        ({"nats": {"url": "nats://me:secret"}}, "must consist of URLs like nats://host:4222"),
        ({"nats": {"url": "nats://me:12/secret"}}, "must consist of URLs like nats://host:4222"),
        ({"nats": {"url": "nats://me:12#secret"}}, "must consist of URLs like nats://host:4222"),
        ({"nats": {"url": ["http://x"]}}, "must consist of URLs like nats://host:4222"),
        ({"nats": {"url": ["nats://x,nats://y"]}}, "must consist of URLs like nats://host:4222"),
        ({"nats": {"url": "nats://::1:4222"}}, "an IPv6 address in brackets"),
        ({"nats": {"url": "nats://[a]"}}, "an IPv6 address in brackets"),
        ({"nats": {"url": "ws://x", "tls": {"first": True}}}, "write wss in nats.url"),
        (
            {
                "nats": {
                    "url": "x",
                    "auth": {"token": {"secretName": "a"}, "nkey": {"secretName": "a"}},
                }
            },
            "keep one of nats.auth.nkey, nats.auth.token",
        ),
        (
            {"nats": {"url": "x", "tls": {"ca": {"secretName": "a", "configMapName": "b"}}}},
            "takes a secretName or a configMapName",
        ),
        ({"nats": {"auth": {"token": {"secretName": "a"}}}}, "set nats.url, too"),
        ({"nats": {"domain": "hub"}}, "set nats.url, too"),
        ({"nats": {"bucket": {"replicas": 3}}}, "the chart runs only one"),
        ({"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}, "not both"),
        (
            {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
            "enable one of them",
        ),
        (
            {"monitoring": {"serviceMonitor": {"enabled": True}}, "service": {"enabled": False}},
            "set service.enabled",
        ),
        (
            {"monitoring": {"podMonitor": {"enabled": True}}},
            "install the Prometheus operator",
        ),
        ({"extraArgs": ["--release-on-exit"]}, "set replicaCount to 1"),
        ({"extraArgs": ["--release-on-exit=true"]}, "set replicaCount to 1"),
        (
            {"extraEnv": [{"name": "INCUMBENT_RELEASE_ON_EXIT", "value": "1"}]},
            "set replicaCount to 1",
        ),
        ({"labelPrefixes": ["app.kubernetes.io"]}, "use a domain of your own"),
        ({"serviceAccount": {"create": False}}, "set serviceAccount.name"),
        ({"ports": {"metrics": 8080}}, "ports.metrics is 8080"),
    ),
)
def test_what_cannot_work_is_refused_with_a_sentence(helm3, values, sentence):
    """It says what to do instead, and shows no password."""
    with pytest.raises(HelmError, match=re.escape(sentence)) as caught:
        helm3.render(values)
    assert "secret" not in str(caught.value).replace(sentence, "").replace("secretName", "")


@pytest.mark.parametrize(
    "values",
    (
        {"replicas": 2},
        {"nats": {"urls": []}},
        {"nats": {"auth": {"token": {"secretName": "a", "value": "b"}}}},
        {"replicaCount": "2"},
        {"log": {"level": "trace"}},
        {"image": {"digest": "0123"}},
        {"image": {"tag": 1.2}},
        {"nats": {"bucket": {"replicas": 2}}},
        {"watch": {"namespaces": ["Team"]}},
        {"labelPrefixes": ["Example.com"]},
        {"labelPrefixes": ["it's"]},
        {"labelPrefixes": ["a: b"]},
        {"allowedLocks": ["shop/B/k"]},
        {"allowedLocks": [{"namespace": "shop", "bucket": "B"}]},
        {"allowedLocks": [{"namespace": "Shop", "bucket": "B", "key": "k"}]},
        {"allowedLocks": [{"namespace": "sh*p", "bucket": "B", "key": "k"}]},
        {"allowedLocks": [{"namespace": "shop", "bucket": "a.b", "key": "k"}]},
        {"allowedLocks": [{"namespace": "shop", "bucket": "B", "key": "a b"}]},
        {"allowedLocks": [{"namespace": "shop", "bucket": "B", "key": ""}]},
        {"maxElectionsPerNamespace": -1},
        {"nats": {"bucket": {"ttl": "abc"}}},
        {"nats": {"bucket": {"maxBytes": "64MB"}}},
        {"nats": {"inboxPrefix": "a.>"}},
        {"nats": {"connectTimeout": "soon"}},
    ),
)
def test_values_that_do_not_exist_are_refused(helm, values):
    """So are those of a wrong type."""
    with pytest.raises(HelmError, match="schema"):
        helm.render(values)


def test_labels_of_ones_own_stand_beside_those_of_the_chart(helm):
    """On everything, and none of the chart's own can be replaced: selectors need them."""
    part_of = "app.kubernetes.io/part-of"
    ours = {part_of: "incumbent", "app.kubernetes.io/name": "incumbent"}
    extra = {"team": "shop", **dict.fromkeys(ours, "shop")}
    values = {"commonLabels": extra, "service": {"labels": {**extra, "only": "service"}}}
    for document in helm.render(values):
        labels = document["metadata"]["labels"]
        assert {**ours, "team": "shop"}.items() <= labels.items()
        assert ("only" in labels) == (
            document["kind"] == "Service" and labels["app.kubernetes.io/component"] == "operator"
        )


@pytest.mark.parametrize(
    "url", ("nats://a:4222, nats://b:4222,", ["nats://a:4222", "nats://b:4222"])
)
def test_urls_may_be_written_as_a_list_or_with_commas(helm, url):
    """A comma at the end is no URL."""
    rendered = helm.render({"nats": {"url": url}})
    (deployment,) = (one for one in rendered if one["kind"] == "Deployment")
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    urls = [one for one in arguments if one.startswith("--nats-url")]
    assert urls == ["--nats-url=nats://a:4222", "--nats-url=nats://b:4222"]


@pytest.mark.parametrize(
    ("url", "port"),
    (
        ("x", 4222),
        ("x:4223", 4223),
        ("NATS://x", 4222),
        ("tls://x.y-z_0:1/", 1),
        ("nats://[fd00::1]", 4222),
        ("nats://[fe80::1%25eth0]:5", 5),
        ("ws://x", 80),
        ("wss://x/nats", 443),
        ("wss://x:8443/nats?a=b", 8443),
    ),
)
def test_every_url_of_the_operator_is_one_of_the_chart(helm3, url, port):
    """And the port that it means is open in the NetworkPolicy."""
    server = server_from(url)
    assert server.port == port
    policy = {"egress": {"enabled": True}}
    rendered = helm3.render({"nats": {"url": url}, "networkPolicy": policy})
    (policy,) = (
        one
        for one in rendered
        if one["kind"] == "NetworkPolicy" and "nats" not in one["metadata"]["name"]
    )
    ports = [entry["port"] for rule in policy["spec"]["egress"] for entry in rule["ports"]]
    assert ports[-1] == port


def test_the_chart_can_be_a_part_of_another(helm, tmp_path):
    """The other one's condition and global values are no unknown values."""
    umbrella = tmp_path / "umbrella"
    shutil.copytree(CHART, umbrella / "charts" / "incumbent")
    dependency = {"name": "incumbent", "version": ">=0-0", "condition": "incumbent.enabled"}
    chart = {
        "apiVersion": "v2",
        "name": "umbrella",
        "version": "1.0.0",
        "dependencies": [dependency],
    }
    (umbrella / "Chart.yaml").write_text(yaml.safe_dump(chart))
    values = {"incumbent": {"enabled": True, "replicaCount": 1}, "global": {"anything": {"a": 1}}}
    rendered = helm.render(values, chart=umbrella)
    assert objects(rendered, "Deployment")[0]["spec"]["replicas"] == 1
    values["incumbent"]["enabled"] = False
    assert helm.render(values, chart=umbrella) == []


@pytest.mark.parametrize(
    ("how", "expected"), (("skip", []), ("render", ["PodMonitor"])), ids=["skip", "render"]
)
def test_monitoring_kinds_may_be_missing(helm3, how, expected):
    """They are skipped or rendered, as asked for; where they are known, always rendered."""
    values = {"monitoring": {"whenKindIsMissing": how, "podMonitor": {"enabled": True}}}
    assert [t["kind"] for t in objects(helm3.render(values), "PodMonitor")] == expected
    known = "--api-versions=monitoring.coreos.com/v1/PodMonitor"
    assert objects(helm3.render(values, known), "PodMonitor")


@pytest.mark.parametrize(
    ("values", "expected"),
    (
        ({}, "FOR TRYING OUT"),
        ({"nats": {"url": "nats://x"}}, "WARNING: TLS"),
        (
            {"nats": {"url": "tls://x", "auth": {"nkey": {"secretName": "s"}}}},
            "login: nkey from Secret s",
        ),
        ({"nats": {"url": "tls://x"}}, "has to exist"),
        ({"replicaCount": 1}, "WARNING: With fewer than two replicas"),
        ({"crds": {"keep": False}}, "WARNING: crds.keep is false"),
        (
            {"monitoring": {"whenKindIsMissing": "skip", "podMonitor": {"enabled": True}}},
            "WARNING: monitoring.podMonitor was skipped",
        ),
        ({"watch": {"namespaces": ["a", "b"]}, "site": "x"}, "in the namespaces a, b"),
    ),
)
def test_notes_say_what_was_installed_and_what_is_risky(helm4, values, expected):
    """And not what is of no concern: each of them is in the notes of its values only."""
    notes = helm4.run("install", "incumbent", str(CHART), "--dry-run=client", values=values)
    assert expected in notes.partition("\nNOTES:\n")[2]
    if "WARNING" in expected:
        quiet = {"nats": {"url": "tls://x"}}
        notes = helm4.run("install", "incumbent", str(CHART), "--dry-run=client", values=quiet)
        assert "WARNING" not in notes.partition("\nNOTES:\n")[2]


# What is generated, and what belongs together


def script(path):
    """Import a script."""
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_generated_is_up_to_date():
    """`make chart` would change nothing."""
    for path, content in script(ROOT / "charts" / "generate.py").generated().items():
        assert path.read_text() == content, f"{path.name} is out of date: run make chart"


def leaves(values, path=()):
    """Return the paths of all values that are no maps."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name)


def test_every_value_is_used_and_every_used_value_exists():
    """A template looks at each value, or at all of a group, and at no other."""
    for path in leaves(DEFAULTS):
        names = [f".{name}" for name in path] + [f'"{name}"' for name in path[-1:]]
        whole = [".".join(("", "Values", *path[:n])) for n in range(1, len(path) + 1)]
        assert any(name in TEMPLATES for name in names[-2:]) or any(
            re.search(rf"{re.escape(group)}(?![\w.])", TEMPLATES) for group in whole
        ), ".".join(path)
    for used in re.findall(r"\.Values((?:\.\w+)+)", TEMPLATES):
        found = DEFAULTS
        for name in used.split(".")[1:]:
            assert name in found, used
            found = found[name]


def test_versions_and_images_are_those_of_the_package():
    """Chart, program and the images that are announced have one version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    announced = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    for image, values in zip(announced, (DEFAULTS, DEFAULTS["nats"]["builtIn"]), strict=True):
        named = values["image"]
        assert image["image"] == f"{named['registry']}/{named['repository']}:{version}"


def expressions():
    """Return every expression of alerts and dashboard, and where it is."""
    for rule in yaml.safe_load((CHART / "files" / "alerts.yaml").read_text()):
        yield rule["alert"], rule["expr"]
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["query"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


@pytest.mark.parametrize(("where", "expression"), tuple(expressions()))
def test_alerts_and_dashboard_ask_for_series_that_exist(where, expression):
    """In PromQL; each metric is ours, with each label, and each value of it that is named."""
    if not expression.startswith("label_values("):  # that is Grafana's
        promql_parser.parse(re.sub(r"\$\w+", "x", expression))
    series = script(ROOT / "docs" / "generate.py").served()
    for name, labels in re.findall(r"(incumbent_\w+)(?:\{([^}]*)\})?", expression):
        candidates = re.findall(rf"^{name}(\{{.*\}})? ", series, re.MULTILINE)
        assert candidates, f"{where}: {name}"
        for label, operator_, value in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', labels):
            known = f'{label}="{value}"' if operator_ == "=" else f'{label}="'
            assert any(known in candidate for candidate in candidates), (
                f"{where}: {name}{{{known}}}"
            )


def test_the_page_lists_the_rights(helm3):
    """Every right that the chart grants is in a table of docs/security.md, and no other one."""
    page = (CHART.parents[1] / "docs" / "security.md").read_text()
    page = page.partition("## What the operator may do")[2].partition("\n## ")[0]
    listed = {
        (verb, resource)
        for resource, verbs in re.findall(r"^\| `([a-z/]+)`[^|]*\| ([^|]*) \|$", page, re.MULTILINE)
        for verb in re.findall(r"[a-z]+", re.sub(r"\(.*|, (to|of|for) .*", "", verbs))
    }
    rendered = helm3.render({"rbac": {"endpointSlices": True}})
    roles = roles_of_the_operator(rendered, "ClusterRole", "Role")
    assert listed == {right for role in roles for right in granted(role)}
