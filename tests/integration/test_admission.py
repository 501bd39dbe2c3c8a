"""Admission plugins of other people, on a real API server: slow webhooks, and refusals."""

from __future__ import annotations

import pytest

import admission
from elections import LabelWatch, condition_of, with_bucket

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
