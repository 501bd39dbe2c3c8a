"""What one replica has written into the status, and what it leaves to others."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaigner.report import PATIENCE
from incumbent.errors import (
    BucketNotFound,
    BucketUnreachable,
)
from stage import KEY, TTL, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


async def test_a_wait_is_told_once_with_its_end_and_its_reason(stage):
    """Whatever else the status says meanwhile."""
    stage.bucket.put(KEY, "member.example.net")
    await stage.start()
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    with capture_logs() as logs:
        stage.bucket.delete(KEY)
        await stage.until(lambda: "until" in stage.message())
    (log,) = (entry for entry in logs if entry["event"] == "election.waits")
    assert (log["awaited"], log["holder"]) == ("stranger", "member.example.net")
    assert log["until"][11:] in stage.message()
    assert "member.example.net keeps no deadline and may not know yet" in stage.message()
    told, ready = {stage.message()}, False

    while stage.condition() == ("False", "Vacant"):
        told.add(stage.message())
        stage.cluster.change("b", ready=ready)  # so that there is something else to write
        ready = not ready
        await asyncio.sleep(0.3)
    assert len(told) == 1
    await stage.until(lambda: stage.leaders)


async def test_absence_of_nats_is_told_after_a_moment(stage):
    """The leader stays until the deadline; then it is stripped, and told."""
    await stage.lead()
    with stage.bucket.unreachable():
        await asyncio.sleep(PATIENCE / 2)
        assert stage.condition("BucketReady") == ("True", "BucketFound")
        told = ("False", "BucketUnreachable")
        await stage.until(lambda: stage.condition("BucketReady") == told, timeout=PATIENCE)
        assert stage.condition() == ("True", "Leading")
        await stage.until(lambda: not stage.leaders)
        await stage.until(lambda: stage.condition() == ("False", "BucketUnreachable"))
        assert stage.reasons[1:] == ["LeaderLost", "BucketUnreachable"]
        await asyncio.sleep(2 * TTL)
    await stage.until(lambda: stage.leaders == ["a"])
    await stage.until(lambda: stage.condition() == ("True", "Leading"))


async def test_blink_of_nats_is_not_told(stage):
    """A reconnect writes nothing to the API server."""
    await stage.lead()
    with stage.bucket.unreachable():
        await asyncio.sleep(PATIENCE / 2)
    await asyncio.sleep(TTL)
    assert not {"replace_status", "patch_pod", "emit_event"} & set(stage.cluster.operations)


@pytest.mark.parametrize("problem", (BucketNotFound("no bucket"), BucketUnreachable("away")))
async def test_candidates_are_told_though_the_key_is_not_known(stage, problem):
    """Who sees the pods says how many can lead, whatever is wrong with the bucket."""
    stage.cluster.change("b", ready=False)
    stage.bucket._unreachable = True
    stage.bucket.problem = problem
    await stage.start()
    await stage.until(lambda: (stage.condition() or ("",))[0] == "False")
    for ready, status in ((2, "True"), (1, "True"), (0, "False")):
        stage.cluster.change("a", ready=ready > 0)
        stage.cluster.change("b", ready=ready > 1)
        await asyncio.sleep(1)
        assert stage.status["candidates"] == {"total": 2, "ready": ready}
        assert stage.condition("CandidatesReady")[0] == status
    assert len(stage.cluster.events) == 1


async def test_candidates_are_told_in_an_outage_without_another_word(stage):
    """A second replica says the same, and both are quiet then."""
    await stage.lead()
    await stage.start("two", nonce="other")
    with stage.bucket.unreachable():
        await asyncio.sleep(3 * TTL)
        before = dict(stage.status)
        stage.cluster.change("b", ready=False)
        await asyncio.sleep(1)
        assert stage.status["candidates"] == {"total": 2, "ready": 1}
        changed = {one for one in before if stage.status[one] != before[one]}
        assert changed == {"candidates", "conditions"}
        stage.cluster.calls.clear()
        await asyncio.sleep(60)
        assert "replace_status" not in {call.name for call in stage.cluster.calls}


async def test_blind_replica_does_not_fight_for_the_status(stage):
    """It says once that it sees nothing; who sees corrects that, and then there is peace."""
    stage.bucket.put(KEY, "stranger")
    view = View(stage.bucket)
    await stage.start("one", view=view)
    await stage.start("two")
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    before = stage.cluster.operations.count("replace_status")
    with view.blind():
        for _ in range(30):
            stage.bucket.put(KEY, "stranger")
            await asyncio.sleep(TTL / 3)
        assert stage.condition() == ("True", "LedElsewhere")
    assert stage.cluster.operations.count("replace_status") - before <= 2


async def test_replica_that_stood_still_writes_over_no_news(stage):
    """What it remembers of its own term is older than what the status shows."""
    view = View(stage.bucket)
    first = await stage.start("one", view=view)
    await stage.until(lambda: stage.leaders == ["a"])
    second = await stage.start("two")
    await asyncio.sleep(1)
    with view.blind():
        await stage.until(lambda: second._driver.leads)
        before = stage.status
        first._report._bucket = stage.bucket  # it believes that all is well
        first._report.tell()
        await asyncio.sleep(1)
        assert stage.status == before


async def test_record_of_a_replica_that_is_not_known_yet_is_no_news_of_another_site(stage):
    """A report between the arrival of the record and the next pass says nothing of it."""
    await stage.lead()
    standby = await stage.start("two")
    await asyncio.sleep(1)
    record = stage.bucket._latest(KEY).entry
    headers = {**wire.headers_of(record), wire.REPLICA: "three/new"}
    stage.bucket.put(KEY, record.holder, headers)
    standby._driver._seen(stage.bucket._latest(KEY))
    standby._report.tell()
    await asyncio.sleep(0.3)
    assert stage.reasons == ["LeaderElected"]
    assert stage.condition() == ("True", "Leading")


async def test_replica_that_has_not_heard_of_the_record_leaves_the_status_to_its_steward(stage):
    """Its watch lags, and for what it knows nobody leads."""

    async def refused(*_, **__):
        return Answer(Outcome.REFUSED)

    for name in ("a", "b"):
        stage.cluster.change(name, ready=False)
    view = View(stage.bucket)
    late = await stage.start("late", view=view)
    await stage.until(lambda: stage.condition() == ("False", "NoCandidates"))
    view.mute, view.write = True, refused
    await stage.start("one")
    for name in ("a", "b"):
        stage.cluster.change(name, ready=True)
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    late._report.tell()
    await asyncio.sleep(1)
    view.mute = False
    view._be(None)
    await asyncio.sleep(TTL)
    assert stage.reasons == ["NoCandidates", "LeaderElected"]


async def test_namespace_that_is_not_watched_says_so(stage):
    """It stalls, is served as soon as it is watched, and can be deleted meanwhile."""
    stage.cluster.unwatched = True
    with capture_logs() as logs:
        campaigner = await stage.start()
        await stage.until(lambda: stage.condition() == ("False", "NotWatched"))
        await asyncio.sleep(60)
    assert stage.condition("Stalled") == ("True", "NotWatched")
    assert not [line for line in logs if line["event"] == "pass.failed"]
    assert "list_pods" not in stage.cluster.operations
    assert stage.record is None
    stage.cluster.unwatched = False
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    await stage.kill(campaigner)
