"""`incumbent cleanup`: after it, nothing needs the operator any more."""

import asyncio
import functools

import pytest

from elections import LEADER, LED_STATUS, condition_of
from incumbent.kubernetes.resource import FINALIZER
from operatorprocess import run_cleanup


@pytest.fixture
def cleanup(site):
    """Return a coroutine function that runs the command, and returns exit code and output."""
    return functools.partial(run_cleanup, site.kubeconfig_for("operator"))


async def served(election, *, labels=None):
    """Leave an election as an operator leaves it that was killed, with a leader and a candidate."""
    await election.add_pods("one", "two")
    await election.create(**({"label": {"key": labels}} if labels else {}))
    await election.kube.patch(
        election.path, {"metadata": {"finalizers": [FINALIZER, "example.com/another"]}}
    )
    status = LED_STATUS | ({"labelKey": labels} if labels else {})
    await election.kube.patch(f"{election.path}/status", {"status": status})
    key = labels or election.label
    await election.annotate_or_label("one", labels={key: LEADER}, annotations={election.token: "7"})
    await election.annotate_or_label("two", labels={key: "candidate"})


@pytest.mark.parametrize("labels", (None, "incumbent.dev/primary"))
async def test_labels_tokens_and_the_finalizer_are_taken_away(
    cleanup, kube, namespace, election, labels
):
    """Pods and election stay; the status says that nobody serves it, and keeps its memory."""
    await served(election, labels=labels)
    code, said = await cleanup(f"--namespace={namespace}")
    assert (code, said) == (0, "let go of 1 election\n")
    for pod in (await election.pods()).values():
        assert pod["metadata"]["labels"] == {"app": "web"}
        assert not pod["metadata"].get("annotations")
    found = await kube.get(election.path)
    assert found["metadata"]["finalizers"] == ["example.com/another"]
    assert condition_of(found, "Ready")["reason"] == "NotServed"
    assert "leader" not in found["status"]
    assert (found["status"]["token"], found["status"]["key"]) == (7, "shop.billing")
    await kube.patch(election.path, {"metadata": {"finalizers": None}})
    await election.delete()
    await election.wait_gone()


async def test_other_namespaces_are_left_alone(cleanup, kube, namespace, election):
    """What is not named is served by another operator."""
    await served(election)
    before = await kube.get(election.path)
    other = f"{namespace}-b"
    await kube.namespace(other)
    code, said = await cleanup(f"--namespace={other}")
    assert (code, said) == (0, "let go of 0 elections\n")
    assert await kube.get(election.path) == before
    await kube.patch(election.path, {"metadata": {"finalizers": None}})
    await kube.delete(f"/api/v1/namespaces/{other}")


async def test_the_operator_is_stopped_first(cleanup, kube, namespace, election):
    """While one of its pods lives, even a terminating one, nothing is taken away."""
    await served(election)
    await kube.deployment(
        namespace, "operator", replicas=1, annotations={"node-agent/stop-seconds": "2"}
    )
    running = asyncio.create_task(
        cleanup(f"--namespace={namespace}", f"--operator={namespace}/operator")
    )
    while True:
        labels = await election.labels()
        if not await kube.pods(namespace, "app=operator"):
            break
        assert labels["one"] == LEADER
        await asyncio.sleep(0.05)
    code, _ = await running
    assert code == 0
    assert await election.labels() == {}
    deployment = await kube.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/operator")
    assert deployment["spec"]["replicas"] == 0
    await kube.patch(election.path, {"metadata": {"finalizers": None}})


async def test_an_operator_that_is_gone_needs_no_stop(cleanup, namespace):
    """A cleanup that was interrupted can be done once more."""
    code, said = await cleanup(f"--namespace={namespace}", f"--operator={namespace}/operator")
    assert code == 0
    assert f"There is no Deployment operator in the namespace {namespace}" in said
    assert said.endswith("\nlet go of 0 elections\n")


async def test_a_missing_right_is_said(site, kube, namespace, election):
    """And the exit code tells, so that helm does not go on."""
    await served(election)
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    await kube.create(account, {"metadata": {"name": "nobody"}})
    token = await kube.service_account_token(namespace, "nobody")
    kubeconfig = site.kubeconfig_for(f"nobody-{namespace}", token=token)
    code, said = await run_cleanup(kubeconfig, f"--namespace={namespace}")
    assert code == 1
    assert said.startswith("Error: A right is missing: ")
    await kube.patch(election.path, {"metadata": {"finalizers": None}})
