"""Everything that the chart renders, shown to a real API server."""

import contextlib

import pytest
import yaml

from controlplane.kube import ApiError, has_condition, kubectl
from helm import CHART

VALUE_SETS = sorted(CHART.glob("ci/*-values.yaml"))
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
MONITORING = {"podmonitors": "PodMonitor", "servicemonitors": "ServiceMonitor"}
MONITORING |= {"prometheusrules": "PrometheusRule"}


@pytest.fixture
async def prepared(kube, namespace):
    """A restricted namespace on a site with the namespaces and kinds of the value sets."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    labels |= {"pod-security.kubernetes.io/warn": "restricted"}
    for name in ("team-a", "team-b"):
        with contextlib.suppress(ApiError):
            await kube.create("/api/v1/namespaces", {"metadata": {"name": name}})
    for name in ("team-a", "team-b", namespace):
        await kube.patch(f"/api/v1/namespaces/{name}", {"metadata": {"labels": labels}})
    for plural, kind in MONITORING.items():
        with contextlib.suppress(ApiError):
            await kube.create(DEFINITIONS, definition(plural, kind))
    for plural in MONITORING:
        path = f"{DEFINITIONS}/{plural}.monitoring.coreos.com"
        await kube.until(path, lambda found: has_condition(found, "Established"))
    return namespace


def definition(plural, kind):
    """Return the definition of a kind of the Prometheus operator, which takes anything."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version | {"schema": {"openAPIV3Schema": schema}}],
        },
    }


@pytest.mark.parametrize("values", VALUE_SETS, ids=lambda path: path.stem)
async def test_the_api_server_takes_every_object(site, prepared, helm3, values):
    """No field is unknown, no warning is given, and Pod Security has no objection."""
    where = f"--namespace={prepared}"
    rendered = helm3.render(yaml.safe_load(values.read_text()), where)
    # The kind is installed on this site already, by somebody else than a test.
    rendered = [thing for thing in rendered if thing["kind"] != "CustomResourceDefinition"]
    how = ("--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors")
    text = yaml.safe_dump_all(rendered)
    said = await kubectl(site, "apply", *how, "-f", "-", stdin=text)
    assert len(said.splitlines()) == len(rendered)
