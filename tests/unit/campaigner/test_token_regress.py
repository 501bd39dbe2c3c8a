"""A fencing token that goes back stops its election."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import NAMESPACE
from incumbent.campaign import wire
from stage import KEY, LABEL, TOKEN, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


async def test_lower_token_stops_the_election_until_it_is_accepted(stage):
    """Whatever was told the last token would refuse the next leader."""
    stage.bucket._revision = 40
    await stage.lead()
    stage.bucket.recreate()
    await stage.until(lambda: stage.condition() == ("False", "TokenRegressed"))
    assert stage.record is None
    assert stage.status["token"] == 41
    assert stage.reasons[-1] == "TokenRegressed"
    stage.cluster.calls.clear()
    await asyncio.sleep(2 * TTL)
    assert not stage.writes
    stage.change(onTokenRegress="Accept")
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    assert stage.leaders
    assert stage.status["token"] < 41
    stage.change(onTokenRegress="Stop")
    await asyncio.sleep(2 * TTL)
    assert stage.condition() == ("True", "Leading")
    labels = [pod for pod in stage.cluster.history if pod.labels.get(LABEL) == "leader"]
    tokens = {int(pod.annotations[TOKEN]) for pod in labels}
    assert tokens == {41, stage.status["token"]}


async def test_restored_bucket_with_an_old_record_stops_the_election(stage):
    """The record is our own, of an earlier term: nobody is labelled with its token again."""
    stage.bucket._revision = 40
    await stage.lead()
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: stage.leaders == ["b"])
    term = stage.status["token"]
    old = stage.bucket._latest(KEY).entry
    stage.bucket.recreate()
    headers = {wire.SITE: old.site, wire.REPLICA: "other/nonce", wire.TERM: "7"}
    stage.bucket.put(KEY, "site/shop/b", {**headers, wire.POD_UID: old.pod_uid, wire.PROMOTED: "1"})
    await stage.until(lambda: stage.condition() == ("False", "TokenRegressed"))
    await stage.until(lambda: stage.record is None)
    assert stage.status["token"] == term
    assert not stage.leaders


async def test_token_of_a_status_that_is_ahead_of_the_watch_stops_nobody(stage):
    """The API server can be faster with the next term than NATS."""
    await stage.lead()
    election = stage.cluster.elections[NAMESPACE, "billing"]
    stage.cluster.put_election({**election, "status": {**election["status"], "token": 999}})
    await asyncio.sleep(0.05)
    assert stage.leaders == ["a"]
    assert stage.first._tokens.problem is None
