"""Who reaches the operator: network policies, ports and host names."""

import pytest

from charttemplates import operator
from helm import objects


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
