"""Records that NATS does not remove."""

from __future__ import annotations

import asyncio

import pytest

from incumbent.campaign import wire
from stage import KEY, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


NEVER_EXPIRES = {"Nats-TTL": "never"}


async def test_a_foreign_record_that_is_older_than_the_ttl_is_no_leader(stage):
    """The status names its holder and its last renewal, and says how to evict it; once."""
    stage.bucket.put(KEY, "me", NEVER_EXPIRES)
    await stage.start()
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))
    assert stage.condition("Stalled") == ("False", "NotStalled")
    await stage.until(lambda: stage.condition() == ("False", "RecordOutdated"), timeout=3 * TTL)
    assert stage.condition("Stalled") == ("True", "RecordOutdated")
    assert stage.condition("BucketReady") == ("True", "BucketFound")
    message = stage.status["conditions"][0]["message"]
    assert "me holds the record" in message
    assert "2027-01-15T08:00:0" in message
    assert "incumbent evict shop.billing --bucket LEADER_ELECTION" in message
    written = stage.cluster.operations.count("replace_status")
    await asyncio.sleep(10 * TTL)
    assert stage.cluster.operations.count("replace_status") == written
    assert "RecordOutdated" in stage.reasons

    stage.bucket.delete(KEY)
    await stage.until(lambda: stage.leaders == ["a"])
    await stage.until(lambda: stage.condition() == ("True", "Leading"))


async def test_a_foreign_record_that_is_renewed_after_all_leads_again(stage):
    """Its holder was late."""
    stage.bucket.put(KEY, "me", NEVER_EXPIRES)
    await stage.start()
    await stage.until(lambda: stage.condition() == ("False", "RecordOutdated"), timeout=3 * TTL)
    stage.bucket.put(KEY, "me", NEVER_EXPIRES)
    await stage.until(lambda: stage.condition() == ("True", "LedElsewhere"))


async def test_a_record_of_our_own_site_that_never_expires_is_taken_over(stage):
    """Its successor renews it, and the new message expires like any other."""
    await stage.lead()
    record = stage.bucket._latest(KEY).entry
    await stage.kill(stage.first)
    stage.bucket.put(KEY, record.holder, {**wire.headers_of(record), **NEVER_EXPIRES})
    await stage.start("two")
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    await asyncio.sleep(3 * TTL)
    assert stage.leaders == ["a"]


async def test_a_record_that_expired_without_a_word_is_not_outdated(stage):
    """Without markers no watch tells that it is gone, and a suspended site does not campaign."""
    stage.bucket.markers = False
    stage.change(suspend=True)
    stage.bucket.put(KEY, "me")
    await stage.start()
    await asyncio.sleep(5 * TTL)
    assert "RecordOutdated" not in stage.reasons
    assert stage.condition("Stalled") == ("False", "NotStalled")
