"""A campaigner whose API server fails in one thing only, or who hears of something too late.

Each of these once cost a strip, a term, or hundreds of requests a second.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from fakecluster import NAMESPACE, make_election
from incumbent import clock
from incumbent.errors import ClusterUnreachable, Forbidden, NotFound
from incumbent.status.situation import Problem
from stage import KEY, LABEL, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

INTERVAL = TTL / 3
ROUTING = {"service": "web"}
BROKEN = ClusterUnreachable("a webhook failed")
IN_USE = Problem("KeyInUse", "another one has it", of_bucket=False)


@pytest.fixture
async def routed(stage):
    """A stage with a leader that a Service reaches."""
    stage.cluster.put_service()
    stage.change(routing=ROUTING)
    await stage.lead()
    await asyncio.sleep(1)
    return stage


@contextlib.asynccontextmanager
async def led_elsewhere(stage):
    """Another site, or a member elsewhere, holds the record and renews it."""

    async def hold():
        while True:
            stage.bucket.put(KEY, "elsewhere")
            await asyncio.sleep(INTERVAL)

    holding = asyncio.create_task(hold())
    yield
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)


def shown_as_kopf_does(stage):
    """Let campaigners see also what they annotate themselves."""
    annotate = stage.cluster.annotate_election

    async def shown(namespace, name, **options):
        await annotate(namespace, name, **options)
        stage.cluster.show(await stage.cluster.get_election(namespace, name))

    stage.cluster.annotate_election = shown


async def deleted_behind(stage):
    """Let one replica take the election back, and return another one that does not hear of it."""
    first = await stage.start("one")
    await stage.until(lambda: stage.leaders == ["a"])
    late = await stage.start("two")
    await asyncio.sleep(1)
    stage.cluster.shown.clear()
    election = stage.cluster.elections[NAMESPACE, "billing"]
    election["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    await first.retire()
    await stage.kill(first)
    del stage.cluster.elections[NAMESPACE, "billing"]
    return late


# Strips that something else must not hold up


@pytest.mark.parametrize("how", ("failing", "hanging"))
async def test_slices_that_nobody_asks_for_hold_up_no_strip(routed, how):
    """They are deleted after everything else, for another site leads already."""
    cluster = routed.cluster
    fault = (
        cluster.refusing("delete_slice", error=BROKEN)
        if how == "failing"
        else cluster.hanging("delete_slice")
    )
    with fault:
        routed.change(routing=None)
        await asyncio.sleep(1)
        async with led_elsewhere(routed):
            await routed.until(lambda: routed.leaders == [], timeout=2)


@pytest.mark.parametrize("handing_over", (False, True))
async def test_slices_that_cannot_be_written_hold_up_no_block(routed, handing_over):
    """Whoever has the key now labels its own pod, so ours has to lose the label; both, perhaps."""
    with routed.cluster.refusing("patch_slice", error=BROKEN):
        if handing_over:
            routed.annotate(step_down="")
            await asyncio.sleep(1)
        routed.first.block(IN_USE)
        await routed.until(lambda: routed.leaders == [], timeout=1)


async def test_request_that_cannot_be_removed_holds_up_no_strip(stage):
    """Somebody else may lead before it is."""
    shown_as_kopf_does(stage)
    stage.cluster.delete("b")
    await stage.lead()
    stage.annotate(step_down="")
    await stage.until(lambda: stage.record is None, timeout=1)
    await stage.until(lambda: stage.leaders == ["a"] and not stage.annotations, timeout=5)
    with stage.cluster.refusing("annotate_election", error=BROKEN):
        stage.annotate(step_down="")
        await asyncio.sleep(1)
        async with led_elsewhere(stage):
            await stage.until(lambda: stage.leaders == [], timeout=2)


async def test_every_request_to_step_down_gives_others_their_chance(stage):
    """Also the second one, long after the first."""
    shown_as_kopf_does(stage)
    stage.cluster.delete("b")
    await stage.lead()
    for _ in range(2):
        stage.annotate(step_down="")
        await stage.until(lambda: stage.record is None, timeout=1)
        began = clock.now()
        await stage.until(lambda: stage.record is not None, timeout=10)
        assert clock.now() - began > INTERVAL - 0.5
        await stage.until(lambda: stage.leaders == ["a"] and not stage.annotations, timeout=5)
        await asyncio.sleep(5 * TTL)


# Failures that must not be tried again at full speed


@pytest.mark.parametrize("error", (BROKEN, Forbidden("403"), NotFound("404")), ids=str)
@pytest.mark.parametrize("method", ("list_pods", "get_election"))
@pytest.mark.parametrize("why", ("not ready", "asked to"))
async def test_hand_over_that_fails_is_not_tried_again_at_once(stage, error, method, why):
    """Its strip is a write of ours, of which the watch tells."""
    await stage.lead()
    stage.cluster.latency = 0.005
    await asyncio.sleep(1)
    stage.cluster.calls.clear()
    with stage.cluster.refusing(method, error=error):
        if why == "not ready":
            stage.cluster.change("a", ready=False)
        else:
            stage.annotate(step_down="")
        await asyncio.sleep(10)
    assert Counter(call.name for call in stage.cluster.calls)["patch_pod"] < 50
    await stage.until(lambda: stage.leaders == ["b"], timeout=5)


async def test_replicas_that_see_different_pods_do_not_fight_about_the_status(stage):
    """The watch of one stands still, and without a leader here both tell what they know."""
    await stage.start("one")
    second = await stage.start("two")
    async with led_elsewhere(stage):
        await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
        await asyncio.sleep(2)
        stage.cluster.latency = 0.005
        second._pods._namespace._take = lambda _: None
        stage.cluster.change("b", ready=False)
        stage.cluster.calls.clear()
        await asyncio.sleep(30)
    assert Counter(call.name for call in stage.cluster.calls)["replace_status"] < 30


@pytest.mark.parametrize("how", ("deleted", "with a selector"))
async def test_replicas_that_look_at_a_service_in_turn_do_not_fight(stage, how):
    """They find out at different moments, up to half a minute apart."""
    stage.cluster.put_service()
    stage.change(routing=ROUTING)
    await stage.lead()
    await asyncio.sleep(7)
    await stage.start("two")
    async with led_elsewhere(stage):
        await asyncio.sleep(40)
        stage.cluster.latency = 0.005
        stage.cluster.calls.clear()
        if how == "deleted":
            del stage.cluster.services[NAMESPACE, "web"]
        else:
            stage.cluster.put_service(selector={"app": "billing"})
        await asyncio.sleep(60)
    assert Counter(call.name for call in stage.cluster.calls)["replace_status"] < 30
    assert stage.condition("RoutingInSync")[0] == "False"


# What one replica hears too late, or never


async def test_late_retirement_leaves_the_new_election_alone(stage):
    """Deleted, made anew at once, and one replica has not yet taken back the first one."""
    late = await deleted_behind(stage)
    stage.cluster.put_election(make_election(uid="uid-new"))
    await stage.start("one")
    await stage.until(lambda: stage.leaders == ["a"])
    entry, seen = stage.bucket._latest(KEY).entry, len(stage.cluster.history)
    await late.retire()
    assert stage.bucket._latest(KEY).entry.term == entry.term
    assert all(
        pod.labels[LABEL] == "leader" for pod in stage.cluster.history[seen:] if pod.name == "a"
    )


async def test_election_whose_kind_is_gone_is_taken_back(stage):
    """Its definition may be deleted before the last replica has heard of the deletion."""
    await stage.lead()
    with stage.cluster.refusing("get_election", "replace_status", error=NotFound("no such path")):
        async with asyncio.timeout(2):
            await stage.first.retire()
    assert stage.leaders == []
    assert stage.record is None


async def test_who_missed_the_deletion_finds_out_before_it_leads(stage):
    """The other replica took everything back while this one's watch was interrupted."""
    late = await deleted_behind(stage)
    async with asyncio.timeout(2 * TTL):
        await late.gone
    assert stage.leaders == []
    await late.retire()
    assert stage.record is None
    assert all(LABEL not in pod.labels for pod in stage.cluster.pods.values())


async def test_election_that_has_ended_does_not_begin_again(stage):
    """It waited for the end of a longer TTL."""
    await stage.lead()
    stage.bucket.configure(ttl=TTL - 1)
    await asyncio.sleep(0.5)
    ended = stage.first
    await stage.kill(ended)
    await asyncio.sleep(3 * TTL)
    assert ended._driver.campaign is None
