"""When the office moves, and when it stays: preemption, grace, requests, a lost bucket."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from fakecluster import make_pod
from incumbent.errors import BucketNotFound, Conflict
from stage import KEY, LABEL, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

INTERVAL = TTL / 3
PRIORITY = "incumbent.dev/priority"


# Preemption


@pytest.mark.parametrize(("preemption", "leader"), (("WhenReady", "b"), ("Never", "a")))
async def test_higher_priority_takes_over_only_where_that_is_wanted(stage, preemption, leader):
    """Otherwise who leads stays in office."""
    stage.change(handover={"preemption": preemption})
    await stage.lead()
    stage.cluster.change("b", annotations={PRIORITY: "10"})
    await asyncio.sleep(TTL)
    assert stage.leaders == [leader]
    assert stage.most_at_once() == 1


async def test_equal_priority_preempts_nobody(stage):
    """Neither does a newer or an older pod."""
    stage.change(handover={"preemption": "WhenReady"})
    stage.cluster.change("a", annotations={PRIORITY: "10"})
    await stage.lead()
    stage.cluster.change("b", annotations={PRIORITY: "10"})
    await asyncio.sleep(TTL)
    assert stage.leaders == ["a"]
    assert stage.first.view.counts.transitions == 1


async def test_preempting_pod_has_to_be_ready(stage):
    """It takes over when it can lead, and no sooner."""
    stage.change(handover={"preemption": "WhenReady"})
    stage.cluster.change("b", ready=False, annotations={PRIORITY: "10"})
    await stage.lead()
    await asyncio.sleep(TTL)
    assert stage.leaders == ["a"]
    stage.cluster.change("b", ready=True)
    await stage.until(lambda: stage.leaders == ["b"])
    await stage.until(lambda: stage.reasons[-1] == "HandedOver")


# Grace


async def test_leader_that_is_ready_again_within_the_grace_stays(stage):
    """Nothing is written, and nobody else leads meanwhile."""
    stage.change(handover={"unreadyGraceSeconds": 5})
    await stage.lead()
    patches = len(stage.cluster.patches)
    stage.cluster.change("a", ready=False)
    await asyncio.sleep(4.5)
    assert stage.leaders == ["a"]
    stage.cluster.change("a", ready=True)
    await asyncio.sleep(TTL)
    assert stage.leaders == ["a"]
    assert len(stage.cluster.patches) == patches
    stage.cluster.change("a", ready=False)
    await asyncio.sleep(4.5)
    assert stage.leaders == ["a"], "each time counts for itself"


async def test_office_moves_when_the_grace_is_over(stage):
    """Counted from the moment when the pod turned NotReady."""
    stage.change(handover={"unreadyGraceSeconds": 5})
    await stage.lead()
    stage.cluster.change("a", ready=False)
    await asyncio.sleep(4.9)
    assert stage.leaders == ["a"]
    await stage.until(lambda: stage.leaders == ["b"], timeout=0.5)


@pytest.mark.parametrize("how", ("terminating", "excluded", "gone"))
async def test_grace_is_for_readiness_alone(stage, how):
    """Whatever else keeps a pod from leading moves the office at once."""
    stage.change(handover={"unreadyGraceSeconds": 60})
    await stage.lead()
    match how:
        case "terminating":
            stage.cluster.change("a", ready=False, terminating=True)
        case "excluded":
            stage.cluster.change("a", ready=False, annotations={"incumbent.dev/exclude": ""})
        case "gone":
            stage.cluster.delete("a")
    await stage.until(lambda: stage.leaders == ["b"], timeout=1)


async def test_standby_waits_for_the_grace_too(stage):
    """It takes nothing from a steward that gives its leader time."""
    stage.change(handover={"unreadyGraceSeconds": 8})
    await stage.lead()
    await stage.start("two")
    await asyncio.sleep(1)
    stage.cluster.calls.clear()
    stage.cluster.change("a", ready=False)
    await asyncio.sleep(7.5)
    assert stage.status["steward"]["replica"] == "one"
    assert not stage.writes
    await stage.until(lambda: stage.leaders == ["b"], timeout=2)
    assert stage.most_at_once() == 1


# Requests to step down


async def test_request_moves_the_office_to_anybody_else(stage):
    """Once, and then the request is gone."""
    await stage.lead()
    stage.annotate(step_down="")
    await stage.until(lambda: stage.leaders == ["b"], timeout=1)
    await stage.until(lambda: not stage.annotations, timeout=1)
    await asyncio.sleep(2 * TTL)
    assert stage.leaders == ["b"]
    assert stage.first.view.counts.transitions == 2
    assert stage.most_at_once() == 1


async def test_status_that_is_written_meanwhile_is_nothing_to_warn_of(stage, monkeypatch):
    """A request is noted on the resource, to which the status is written, too."""
    await stage.lead()
    annotate = stage.cluster.annotate_election

    async def conflict(*_, **__):
        monkeypatch.setattr(stage.cluster, "annotate_election", annotate)
        msg = "the object changed"
        raise Conflict(msg)

    monkeypatch.setattr(stage.cluster, "annotate_election", conflict)
    with capture_logs() as logs:
        stage.annotate(step_down="")
        await stage.until(lambda: stage.leaders == ["b"], timeout=1)
    assert stage.cluster.annotate_election is annotate
    assert not [line for line in logs if line["log_level"] == "warning"]


async def test_request_can_name_the_next_leader(stage):
    """Whoever would be chosen otherwise."""
    stage.cluster.add(make_pod("c", created="2026-01-01T00:00:03Z"))
    await stage.lead()
    stage.annotate(step_down="c")
    await stage.until(lambda: stage.leaders == ["c"], timeout=1)
    await stage.until(lambda: not stage.annotations, timeout=1)


@pytest.mark.parametrize(("name", "refused"), (("nobody", True), ("b", True), ("a", False)))
async def test_request_for_who_cannot_lead_is_refused(stage, name, refused):
    """With an event that says so; the leader itself is no reason to complain."""
    stage.cluster.change("b", ready=False)
    await stage.lead()
    stage.annotate(step_down=name)
    await stage.until(lambda: not stage.annotations, timeout=1)
    await asyncio.sleep(1)
    assert stage.leaders == ["a"]
    assert ("StepDownRefused" in stage.reasons) == refused


async def test_without_another_candidate_the_site_stands_aside_for_an_interval(stage):
    """Another site, or a member elsewhere, gets its chance."""
    stage.cluster.delete("b")
    await stage.lead()
    await stage.start("two")
    stage.annotate(step_down="")
    await stage.until(lambda: stage.record is None, timeout=1)
    assert stage.leaders == []
    await asyncio.sleep(INTERVAL - 0.5)
    assert stage.record is None
    await stage.until(lambda: stage.leaders == ["a"], timeout=2)
    assert not stage.annotations


async def test_request_is_carried_out_once_by_whichever_replica(stage):
    """The one that noted the term may die before it has removed the request."""
    await stage.lead()
    second = await stage.start("two")
    await asyncio.sleep(1)
    stage.annotate(step_down="", step_down_term=str(stage.status["token"]))
    await stage.until(lambda: stage.leaders == ["b"], timeout=2)
    await stage.kill(stage.first)
    await stage.until(lambda: second._driver.leads, timeout=TTL)
    await asyncio.sleep(TTL)
    assert stage.leaders == ["b"]
    assert not stage.annotations


async def test_request_about_an_earlier_term_is_removed(stage):
    """Its leader does not lead any more."""
    await stage.lead()
    stage.annotate(step_down="", step_down_term="0")
    await stage.until(lambda: not stage.annotations, timeout=1)
    await asyncio.sleep(TTL)
    assert stage.leaders == ["a"]


async def test_request_to_a_site_that_does_not_lead_is_removed(stage):
    """And it takes part in the election again."""
    stage.bucket.put(KEY, "stranger")
    await stage.start()
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    stage.annotate(step_down="")
    await stage.until(lambda: not stage.annotations, timeout=INTERVAL + 1)
    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders == ["a"], timeout=3 * TTL)


async def test_election_without_requests_asks_the_api_server_nothing(stage):
    """Only a resource that carries the annotation is read."""
    await stage.lead()
    await asyncio.sleep(2 * TTL)
    assert not stage.cluster.operations or set(stage.cluster.operations) == {"renew"}


# A bucket that is lost


async def test_leader_is_held_while_nats_is_away(stage):
    """And it leads on with a new token when NATS is back, without losing its label."""
    stage.change(onBucketLoss="Hold")
    await stage.lead()
    with stage.bucket.unreachable():
        await asyncio.sleep(5 * TTL)
        assert stage.leaders == ["a"]
        assert stage.condition() == ("True", "Leading")
        assert stage.condition("BucketReady") == ("False", "BucketUnreachable")
    await stage.until(lambda: stage.first._driver.leads)
    await asyncio.sleep(1)
    since = [pod for pod in stage.cluster.history if pod.name == "a"]
    labelled = [pod.labels.get(LABEL) == "leader" for pod in since]
    assert labelled == sorted(labelled), "once there, the label stays"
    assert "LeaderLost" not in stage.reasons


async def test_held_leader_goes_when_somebody_else_holds_the_record(stage):
    """That is what holding is worth."""
    stage.change(onBucketLoss="Hold")
    view = View(stage.bucket)
    stage.first = await stage.start(view=view)
    await stage.until(lambda: stage.leaders == ["a"])
    with view.blind():
        await asyncio.sleep(2 * TTL)
        stage.bucket.put(KEY, "stranger")
        await asyncio.sleep(1)
        assert stage.leaders == ["a"]
    stage.bucket.put(KEY, "stranger")
    await stage.until(lambda: not stage.leaders, timeout=2)


async def test_held_leader_that_cannot_lead_any_more_goes(stage):
    """A pod that is not ready is not worth holding."""
    stage.change(onBucketLoss="Hold")
    await stage.lead()
    with stage.bucket.unreachable():
        await asyncio.sleep(2 * TTL)
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: not stage.leaders, timeout=1)
    await stage.until(lambda: stage.leaders == ["b"])


@pytest.mark.parametrize(
    "change", ({"suspend": True}, {"selector": {"matchLabels": {"no": "pod"}}})
)
async def test_held_leader_goes_when_the_resource_says_so(stage, change):
    """Holding is about NATS alone."""
    stage.change(onBucketLoss="Hold")
    await stage.lead()
    with stage.bucket.unreachable():
        await asyncio.sleep(2 * TTL)
        stage.change(**change)
        await stage.until(lambda: not stage.leaders, timeout=1)


async def test_eviction_ends_also_a_leader_that_would_be_held(stage):
    """Somebody wanted it to go."""
    stage.change(onBucketLoss="Hold")
    await stage.lead()
    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders == ["b"], timeout=2 * TTL)
    assert stage.most_at_once() == 1


async def test_missing_bucket_holds_the_leader_too(stage):
    """However long it is gone."""
    stage.change(onBucketLoss="Hold")
    await stage.lead()
    with stage.bucket.unreachable():
        stage.bucket.problem = BucketNotFound("there is no bucket")
        stage.bucket._tell()
        await asyncio.sleep(5 * TTL)
        assert stage.leaders == ["a"]


async def test_two_replicas_hold_one_leader(stage):
    """Neither takes from it what the other keeps, and one of them leads on."""
    stage.change(onBucketLoss="Hold")
    await stage.lead()
    second = await stage.start("two")
    await asyncio.sleep(1)
    with stage.bucket.unreachable():
        await asyncio.sleep(3 * TTL)
        assert stage.leaders == ["a"]
    await stage.until(lambda: stage.first._driver.leads or second._driver.leads)
    await asyncio.sleep(TTL)
    labelled = [p.labels.get(LABEL) == "leader" for p in stage.cluster.history if p.name == "a"]
    assert labelled == sorted(labelled)
    assert stage.leaders == ["a"]
