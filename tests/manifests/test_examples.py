"""The examples, applied to a real API server as a reader would apply them."""

import asyncio
import json
import subprocess
import time
from pathlib import Path

import lupa
import nats
import pytest
import yaml

from controlplane.kube import Kube
from controlplane.kube import kubectl as run_kubectl
from elections import LEADER, Election
from operatorprocess import OperatorProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = EXAMPLES / "quickstart.yaml"
LOCKS = ("*/LEADER_ELECTION/global.*", "*/CHORIA_LEADER_ELECTION/machines")
"""What the operator has to allow for examples whose keys do not begin with their namespace."""


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


# The others, each with an operator


@pytest.fixture
def start(kubectl, new_operator, private_nats):
    """Return a coroutine function that applies an example, with an operator in its namespace."""

    async def run(name):
        await asyncio.to_thread(kubectl, "apply", "-f", str(EXAMPLES / name))
        flags = ("--create-bucket", "--bucket-ttl=5s", *map("--allow-lock={}".format, LOCKS))
        operator = new_operator(private_nats.url, *flags)
        await operator.start()
        return operator

    return run


async def endpoints(election, service):
    """Return the pods to which a Service leads."""
    path = f"/apis/discovery.k8s.io/v1/namespaces/{election.namespace}/endpointslices"
    selector = f"kubernetes.io/service-name={service}"
    slices = (await election.kube.get(path, labelSelector=selector))["items"]
    return [e["targetRef"]["name"] for found in slices for e in found.get("endpoints") or ()]


async def test_statefulset_leads_with_a_greater_token_under_an_old_name(kube, namespace, start):
    """The leader Service follows, and a new pod of the same name is a new leader."""
    election = Election(kube, namespace, "ledger")
    await start("statefulset.yaml")
    leader = await election.wait_leader()
    before = await election.status()
    for pod in await election.pods():
        await kube.delete(election.pod_path(pod), grace=0)
    changed = await kube.until(
        election.path,
        lambda found: _leader(found).get("podUID") not in {None, before["leader"]["podUID"]},
    )
    assert changed["status"]["token"] > before["token"]
    assert leader in await election.pods()
    served = []
    deadline = time.monotonic() + 20
    while served != [changed["status"]["leader"]["podName"]]:
        assert time.monotonic() < deadline, served
        await asyncio.sleep(0.1)
        changed = await kube.get(election.path)
        served = await endpoints(election, "ledger-leader")


async def test_one_of_two_sites_leads(kube, namespace, start, second_site, private_nats, tmp_path):
    """In the other one the election is led elsewhere, until the first is suspended."""
    await start("two-sites.yaml")
    election = Election(kube, namespace, "reports")
    await election.wait_leader()
    async with Kube(second_site) as there:
        await there.namespace(namespace)
        elsewhere = Election(there, namespace, "reports")
        where = f"--namespace={namespace}"
        await run_kubectl(second_site, "apply", where, "-f", str(EXAMPLES / "two-sites.yaml"))
        operator = OperatorProcess(
            second_site,
            tmp_path,
            nats_url=private_nats.url,
            arguments=(where, *map("--allow-lock={}".format, LOCKS)),
            replica="there",
        )
        try:
            await operator.start()
            await elsewhere.wait_reason("LedElsewhere")
            assert LEADER not in (await elsewhere.labels()).values()
            await election.patch(suspend=True)
            await elsewhere.wait_leader()
            assert LEADER not in (await election.labels()).values()
        finally:
            operator.kill()
            await there.delete(f"/api/v1/namespaces/{namespace}")


async def test_observed_member_is_labelled_by_its_host_name(kube, namespace, start, private_nats):
    """What a Choria member writes names the pod; a machine that holds the key has no pod."""
    election, bucket = Election(kube, namespace, "machines"), "CHORIA_LEADER_ELECTION"
    client = await nats.connect(private_nats.url)
    try:
        store = await client.jetstream().create_key_value(bucket=bucket, ttl=30)
        await start("observed-choria.yaml")
        await kube.until(election.path, lambda found: "candidates" in (found.get("status") or {}))
        pod = min(await election.pods())
        await store.put(election.name, f"machines-{pod}".encode())
        assert await election.wait_leader() == pod
        await store.put(election.name, b"host.example.com")
        await election.wait_reason("LedElsewhere")
        assert LEADER not in (await election.labels()).values()
    finally:
        await client.close()


async def test_preferred_zone_leads_when_it_can(kube, namespace, start):
    """The office goes to the other zone with the pod, and comes back with the next one."""
    election = Election(kube, namespace, "dispatch")
    await start("priority-by-zone.yaml")
    await kube.until(election.path, _led_by("a"))
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/dispatch-a"
    await kube.patch(deployment, {"spec": {"replicas": 0}})
    await kube.until(election.path, _led_by("b"))
    await kube.patch(deployment, {"spec": {"replicas": 1}})
    await kube.until(election.path, _led_by("a"))


def _led_by(zone):
    return lambda found: _leader(found).get("podName", "").startswith(f"dispatch-{zone}-")


async def test_two_elections_have_leaders_of_their_own(kube, namespace, start):
    """The same pods, two labels, and a step-down of the one leaves the other alone."""
    writer, sweeper = (Election(kube, namespace, f"cache-{job}") for job in ("writer", "sweeper"))
    await start("two-elections.yaml")
    first = (await kube.until(writer.path, _leader))["status"]["leader"]
    second = (await kube.until(sweeper.path, _leader))["status"]["leader"]
    await kube.patch(sweeper.path, {"metadata": {"annotations": {"incumbent.dev/step-down": ""}}})
    await kube.until(
        sweeper.path,
        lambda found: _leader(found).get("podUID", second["podUID"]) != second["podUID"],
    )
    assert (await kube.get(writer.path))["status"]["leader"] == first


def _leader(found):
    return (found.get("status") or {}).get("leader") or {}


def test_bucket_of_nack_is_one_that_elections_like():
    """It has what docs/nats.md asks for."""
    (bucket,) = yaml.safe_load_all((EXAMPLES / "nack-bucket.yaml").read_text())
    spec = bucket["spec"]
    assert (spec["bucket"], spec["history"], spec["replicas"]) == ("LEADER_ELECTION", 1, 3)
    assert spec["limitMarkerTtl"] == int(spec["ttl"].removesuffix("s")) * 10**9


def condition(kind, status, reason="Any"):
    return {"type": kind, "status": status, "reason": reason, "message": f"{kind} {reason}"}


@pytest.mark.parametrize(
    ("status", "health"),
    (
        (None, "Progressing"),
        ({"observedGeneration": -1}, "Progressing"),
        ({"conditions": [condition("Ready", "True")], "observedGeneration": 1}, "Progressing"),
        ({}, "Progressing"),
        ({"conditions": [condition("Ready", "True", "Leading")]}, "Healthy"),
        ({"conditions": [condition("Ready", "True", "LedElsewhere")]}, "Healthy"),
        ({"conditions": [condition("Ready", "False", "Suspended")]}, "Suspended"),
        ({"conditions": [condition("Ready", "False", "Vacant")]}, "Progressing"),
        (
            {
                "conditions": [
                    condition("Ready", "False", "KeyInUse"),
                    condition("Stalled", "True", "KeyInUse"),
                ]
            },
            "Degraded",
        ),
    ),
)
def test_argo_cd_is_told_the_health(status, health):
    """The script gives what Argo CD understands, in every state of an election."""
    (config,) = yaml.safe_load_all((EXAMPLES / "argo-cd-health.yaml").read_text())
    (script,) = config["data"].values()
    seen = None if status is None else {"observedGeneration": 2, **status}
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)
    lua.globals().obj = lua.table_from(
        {"metadata": {"generation": 2}} | ({"status": seen} if seen is not None else {}),
        recursive=True,
    )
    found = lua.execute(script)
    assert found["status"] == health
    assert found["message"]
