"""What single values change, and which are refused."""

import re
import shutil

import pytest
import yaml

from charttemplates import operator, pods, values_of
from helm import CHART, HelmError, objects
from incumbent.nats.servers import server_from

DIGEST = f"sha256:{'0' * 64}"
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy"}
CLUSTER_WIDE |= {"FlowSchema", "PriorityLevelConfiguration"}


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
