"""The examples, applied to a real API server as a reader would apply them."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = EXAMPLES / "quickstart.yaml"


@pytest.fixture
def kubectl(site, namespace):
    """Return a function that runs kubectl in a namespace with the strictest Pod Security."""

    def run(*arguments):
        command = [
            site.kubectl,
            f"--kubeconfig={site.kubeconfig}",
            f"--namespace={namespace}",
            f"--cache-dir={site.folder}/kubectl-cache-of-tests",
        ]
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=True
        ).stdout

    run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return run


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_examples_suit_any_namespace(path):
    """No example names a namespace, for readers are in one of their own."""
    for document in yaml.safe_load_all(path.read_text()):
        assert "namespace" not in document["metadata"]


def test_quickstart_runs_and_the_service_follows_the_label(kubectl):
    """Its pods run in a restricted namespace, and its Service reaches the one with the label."""
    kubectl("apply", "-f", str(QUICKSTART))
    kubectl("rollout", "status", "deployment/billing", "--timeout=30s")
    pod, *others = kubectl("get", "pods", "-l", "app=billing", "-o", "name").split()
    assert len(others) == 2
    kubectl("label", pod, "incumbent.dev/billing=leader")
    kubectl("label", *others, "incumbent.dev/billing=candidate")
    deadline = time.monotonic() + 20
    served = []
    while not served and time.monotonic() < deadline:
        time.sleep(0.1)
        which = ("-l", "kubernetes.io/service-name=billing-leader")
        slices = json.loads(kubectl("get", "endpointslices", *which, "-o", "json"))["items"]
        served = [e["targetRef"]["name"] for s in slices for e in s["endpoints"] or ()]
    assert served == [pod.removeprefix("pod/")]


def test_quickstart_elects_among_the_pods_of_its_deployment():
    """Election, Deployment and Service speak of the same pods and the same label."""
    deployment, election, service = yaml.safe_load_all(QUICKSTART.read_text())
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert election["spec"]["selector"]["matchLabels"] == labels
    label = f"incumbent.dev/{election['metadata']['name']}"
    assert service["spec"]["selector"] == labels | {label: "leader"}
    assert label not in labels
