"""Pods of real controllers come and go: a change of leader only where the leader goes."""

from __future__ import annotations

import asyncio

import pytest

from controlplane.kube import has_condition
from controlplane.nodes import START_SECONDS
from elections import store_on
from scenarios.timeline import Timeline, settled

pytestmark = pytest.mark.timeout(120)

SIZE = 10
CAREFUL = {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
SLOW = {START_SECONDS: "0.3"}


def rolled_out(deployment):
    """Whether a Deployment has only pods of its present template, all of them available."""
    status = deployment["status"]
    return (
        status["observedGeneration"] == deployment["metadata"]["generation"]
        and status.get("replicas") == status.get("updatedReplicas") == SIZE
        and status.get("availableReplicas") == SIZE
    )


@pytest.mark.parametrize(
    ("strategy", "unavailable"), ((CAREFUL, 0), (None, 2)), ids=("none unavailable", "default")
)
async def test_rolling_update_of_a_deployment(election, private_nats, start, strategy, unavailable):
    """Ten pods are replaced, which costs one hand-over, and one for each that may go too early."""
    await start(election, private_nats.url, "replica-1")
    kube, path = election.kube, f"/apis/apps/v1/namespaces/{election.namespace}/deployments/web"
    await kube.deployment(election.namespace, "web", replicas=SIZE, annotations=SLOW)
    if strategy:
        await kube.patch(path, {"spec": {"strategy": strategy}})
    await election.create()
    old = await settled(election)
    await asyncio.sleep(1)  # times of creation are whole seconds: else no template is the newer
    async with Timeline(election) as timeline:
        template = {"metadata": {"annotations": {"changed": "yes"}}}
        await kube.patch(path, {"spec": {"template": template}})
        await kube.until(path, rolled_out, timeout=60)
        await kube.until(election.pods_path, lambda found: len(found["items"]) == SIZE, timeout=30)
        new = await settled(election)
        await asyncio.sleep(1)
    assert timeline.most == 1
    assert new != old
    terms = (await election.status())["transitions"] - 1  # a pod may go before it has the label
    assert 1 <= len(timeline.reigns) <= terms <= 1 + unavailable, str(timeline)


@pytest.mark.parametrize("how", ("three candidates", "one candidate", "at once"))
async def test_pod_of_a_stateful_set_comes_back_under_its_name(election, private_nats, start, how):
    """It is another pod: whoever leads now, it is a new term, and the record has that pod's UID.

    So it is when the only replica did not see that it was away.
    """
    replicas = await start(election, private_nats.url, "replica-1")
    kube, labels = election.kube, {"app": "web"}
    spec = {
        "replicas": 3,
        "selector": {"matchLabels": labels},
        "serviceName": "web",
        "podManagementPolicy": "Parallel",
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]},
        },
    }
    body = {"metadata": {"name": "web"}, "spec": spec}
    await kube.create(f"/apis/apps/v1/namespaces/{election.namespace}/statefulsets", body)
    for number in range(3):
        await kube.until(election.pod_path(str(number)), lambda pod: has_condition(pod, "Ready"))
    if how != "three candidates":
        for number in (1, 2):
            exclude = {"incumbent.dev/exclude": "true"}
            await election.annotate_or_label(str(number), annotations=exclude)
    await election.create()
    leader = await election.wait_leader()
    before = await election.status()
    async with Timeline(election) as timeline, store_on(private_nats) as store:
        (old,) = timeline.leaders
        if how == "at once":
            replicas["replica-1"].process.pause()
        await kube.delete(election.pod_path(leader), grace=0 if how == "at once" else None)
        await kube.until(
            election.pod_path(leader),
            lambda pod: has_condition(pod, "Ready") and pod["metadata"]["uid"] != old.uid,
        )
        replicas["replica-1"].process.resume()
        new = await timeline.wait_for(election, other_than=old.uid)
        await asyncio.sleep(2)
        record = await store.latest(election.key)
        status = await election.status()
    assert timeline.most == 1
    assert [x.uid for x in timeline.reigns] == [new.uid]
    assert (new.pod == old.pod) == (how != "three candidates")
    assert int(new.token) == status["token"] > before["token"]
    assert record.headers["Incumbent-Pod-UID"] == new.uid == status["leader"]["podUID"]
    assert record.value.endswith(f"/{new.pod}")
    assert status["transitions"] == 2
