"""Admission plugins of other people, on a real API server: slow webhooks, and refusals."""

from __future__ import annotations

import pytest

import admission
from elections import LabelWatch, condition_of, store_on, with_bucket

TTL = 10.0
STEP_DOWN = "incumbent.dev/step-down"


@pytest.fixture
async def operator(private_nats, new_operator):
    """A running operator with a bucket of its own."""
    operator = new_operator(private_nats.url, *with_bucket(TTL))
    await operator.start()
    return operator


@pytest.fixture
async def hook(kube, namespace, tmp_path):
    """A webhook that is asked about each update of a pod, and allows it."""
    folder = tmp_path / "hook"
    folder.mkdir()
    async with admission.webhook(kube, namespace, folder) as hook:
        yield hook


async def test_slow_webhook_makes_changes_of_leader_slow(election, operator, hook):
    """It takes longer than a patch of ours once was given; the status says so."""
    await election.add_pods("one", "two")
    await admission.until_asked(election.kube, election.pod_path("one"), hook)
    hook.delay = 2.5
    async with LabelWatch(election) as watch:
        await election.create()
        first = await election.wait_leader()
        await election.kube.patch(election.path, {"metadata": {"annotations": {STEP_DOWN: ""}}})
        await election.wait_leader(other_than=first)
        assert watch.most == 1
        found = await election.kube.until(
            election.path,
            lambda found: "webhook" in condition_of(found, "LabelsInSync").get("message", ""),
        )
        assert "about 3 s" in condition_of(found, "LabelsInSync")["message"]
        hook.delay = 0


async def test_pod_that_a_policy_freezes_is_passed_over(election, operator):
    """The next candidate leads; nothing is taken back when the policy is gone."""
    await election.add_pods("one")
    await election.add_pods("two")
    one = election.pod_path("one")
    expression = "object.metadata.name != 'web-one'"
    async with LabelWatch(election) as watch:
        async with admission.policy(election.kube, election.namespace, expression):
            await admission.until_refused(election.kube, one)
            await election.create()
            assert await election.wait_leader() == "two"
            found = await election.kube.until(
                election.path,
                lambda found: condition_of(found, "LabelsInSync")["status"] == "False",
            )
            said = condition_of(found, "LabelsInSync")["message"]
            assert "web-one" in said
            assert "image not signed" in said
            assert condition_of(found, "Ready")["reason"] == "Leading"
        await election.kube.until(
            election.path,
            lambda found: condition_of(found, "LabelsInSync")["status"] == "True",
            timeout=70,
        )
        assert watch.leaders == ["two"]


async def test_record_is_free_while_a_webhook_refuses_every_pod(
    election, operator, hook, private_nats
):
    """Another cluster can lead. When the webhook answers again, this one does."""
    await election.add_pods("one", "two")
    hook.down = True
    await admission.until_refused(election.kube, election.pod_path("one"))
    async with LabelWatch(election) as watch, store_on(private_nats) as store:
        await election.create()
        await store.until(election.key, lambda latest: latest and latest.value)
        await store.until(election.key, lambda latest: latest and not latest.value)
        found = await election.wait_reason("AdmissionDenied")
        assert "slow.example.com" in found["message"]
        hook.down = False
        await election.wait_leader(timeout=70)
        assert watch.most == 1


async def test_pod_that_cannot_be_stripped_keeps_others_from_leading(election, operator):
    """It has the label. The condition says what to do, and deleting the pod helps."""
    leader = await election.lead()
    expression = f"object.metadata.name != 'web-{leader}'"
    async with (
        LabelWatch(election) as watch,
        admission.policy(election.kube, election.namespace, expression),
    ):
        await admission.until_refused(election.kube, election.pod_path(leader))
        about = {"metadata": {"annotations": {STEP_DOWN: ""}}}
        await election.kube.patch(election.path, about)
        found = await election.kube.until(
            election.path, lambda found: condition_of(found, "Stalled")["status"] == "True"
        )
        assert condition_of(found, "Stalled")["reason"] == "AdmissionDenied"
        assert "cannot be stripped" in condition_of(found, "Stalled")["message"]
        await election.kube.delete(election.pod_path(leader), grace=0)
        await election.wait_leader(other_than=leader)
        assert watch.most == 1
