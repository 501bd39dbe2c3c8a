"""The end of an election, and of a replica."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import NAMESPACE
from incumbent import clock
from incumbent.campaigner.retirement import DELETE_WITHIN
from incumbent.status.situation import Problem
from stage import LABEL, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

RELEASE = "release"
IN_USE = Problem("KeyInUse", "somebody else has it", of_bucket=False)


async def test_deletion_takes_everything_back(stage):
    """Labels, annotations and record are gone."""
    await stage.lead()
    stage.change()  # nothing
    await stage.first.retire()
    assert stage.record is None
    assert stage.writes[-1] != "transfer"
    for pod in stage.cluster.pods.values():
        assert pod.labels == {"app": "billing"}
        assert not pod.annotations


async def test_deletion_waits_for_nats_only_so_long(stage):
    """Labels go at once, and the record is left to lapse."""
    await stage.lead()
    began = clock.now()
    with stage.bucket.unreachable():
        retiring = asyncio.create_task(stage.first.retire())
        await stage.until(lambda: not stage.leaders, timeout=0.5)
        await retiring
    assert DELETE_WITHIN <= clock.now() - began < DELETE_WITHIN + 0.5


async def test_deletion_waits_for_the_labels(stage):
    """As long as a label is there, the election is not done with."""
    await stage.lead()
    with stage.cluster.refusing("patch_pod"):
        retiring = asyncio.create_task(stage.first.retire())
        await asyncio.sleep(3 * DELETE_WITHIN)
        assert not retiring.done()
    await retiring
    assert stage.leaders == []


async def test_standby_that_is_cut_off_takes_back_the_labels_of_a_deleted_election(stage):
    """Even if the steward is dead, and NATS away, nothing keeps the election from its end."""
    steward = await stage.start("one")
    standby = await stage.start("two")
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(1)
    await stage.kill(steward)
    with stage.bucket.unreachable():
        await standby.retire()
    assert stage.leaders == []


async def test_standby_takes_the_record_of_a_deleted_election_first(stage):
    """A steward that has not heard of the deletion yet cannot label again."""
    steward = await stage.start("one")
    standby = await stage.start("two")
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(1)
    stage.cluster.calls.clear()
    election = stage.cluster.elections[NAMESPACE, "billing"]
    election["metadata"]["deletionTimestamp"] = "now"
    retiring = asyncio.create_task(standby.retire())
    await asyncio.sleep(0.5)
    stage.cluster.show(election)
    await asyncio.gather(retiring, steward.retire())
    assert "a=leader" not in stage.writes
    assert stage.record is None
    assert all(pod.labels == {"app": "billing"} for pod in stage.cluster.pods.values())


async def test_replicas_that_take_back_at_once_do_not_keep_each_other_from_it(stage):
    """One of them waits: otherwise each renewal would end the pass of the other, for ever."""
    steward = await stage.start("one")
    standby = await stage.start("two")
    await stage.until(lambda: stage.leaders == ["a"])
    await asyncio.sleep(1)
    stage.cluster.latency = 0.1
    revision = stage.bucket._revision
    async with asyncio.timeout(DELETE_WITHIN):
        await asyncio.gather(steward.retire(), standby.retire())
    assert stage.record is None
    assert stage.bucket._revision < revision + 20


async def test_blocked_election_gives_its_label_up_and_leaves_the_record(stage):
    """The record belongs to the other election now."""
    await stage.lead()
    stage.first.block(IN_USE)
    await stage.until(lambda: not stage.leaders, timeout=0.5)
    await stage.until(lambda: stage.condition() == ("False", "KeyInUse"))
    assert RELEASE not in stage.writes
    stage.first.block(None)
    await stage.until(lambda: stage.leaders == ["a"])


async def test_election_that_was_blocked_from_the_start_touches_nothing(stage):
    """Labels that it finds are not its own."""
    stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"})
    campaigner = await stage.start()
    campaigner.block(IN_USE)
    await asyncio.sleep(2 * TTL)
    assert stage.writes == []
    assert stage.condition() == ("False", "KeyInUse")


async def test_replica_that_leaves_is_followed_at_once(stage):
    """Its last renewal says so; no label changes."""
    first = await stage.start("one")
    await stage.until(lambda: stage.leaders == ["a"])
    await stage.start("two")
    await asyncio.sleep(1)
    await first.leave()
    left = clock.now()
    await stage.kill(first)
    patches = len(stage.cluster.patches)
    await stage.until(lambda: stage.status["steward"]["replica"] == "two")
    assert clock.now() - left < 0.5
    assert len(stage.cluster.patches) == patches


async def test_single_replica_can_release_at_its_end(stage):
    """Nobody has to wait for a TTL then."""
    await stage.lead()
    await stage.first.resign()
    assert stage.leaders == []
    assert stage.record is None


async def test_release_at_the_end_is_bounded(stage):
    """Without NATS the process ends all the same, and the label is gone."""
    await stage.lead()
    with stage.bucket.unreachable():
        await stage.first.resign()
    assert stage.leaders == []


async def test_election_of_a_namespace_that_is_not_watched_can_be_deleted(stage):
    """Its finalizer waits for nothing."""
    stage.cluster.unwatched = True
    campaigner = await stage.start()
    await stage.until(lambda: stage.condition() == ("False", "NotWatched"))
    await asyncio.wait_for(campaigner.retire(), 10)
