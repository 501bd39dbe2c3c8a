"""A campaign follows the spec of its election, and the settings of its bucket."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from incumbent import clock
from stage import LABEL, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


IMPOSSIBLE = {"intervalSeconds": 60}


async def test_change_to_an_impossible_interval_changes_no_leader(stage):
    """The election goes on as before, also with its next leader, and the condition says so."""
    stage.change(campaign={"intervalSeconds": 2})
    await stage.lead()
    token = stage.status["token"]
    stage.change(campaign=IMPOSSIBLE)
    await stage.until(lambda: stage.condition("Stalled") == ("True", "CampaignInvalid"))
    assert "goes on with an interval of 2 s" in stage.message("Stalled")
    assert stage.condition() == ("True", "Leading")
    assert stage.reasons.count("CampaignInvalid") == 1
    await asyncio.sleep(5 * TTL)
    assert (stage.leaders, stage.status["token"]) == (["a"], token)
    assert not stage.cluster.patches
    assert stage.first.view.reading().interval == 2
    stage.cluster.change("a", ready=False)
    await stage.until(lambda: stage.leaders == ["b"], timeout=1)

    stage.change(campaign={})
    await stage.until(lambda: stage.condition("Stalled")[0] == "False")
    assert stage.first.view.reading().interval == TTL / 3
    assert stage.leaders == ["b"]


async def test_restart_with_an_impossible_interval_changes_no_leader(stage):
    """The new process does not know the interval that counted, and takes the default one."""
    await stage.lead()
    stage.change(campaign=IMPOSSIBLE)
    await stage.until(lambda: stage.condition("Stalled")[0] == "True")
    await stage.kill(stage.first)
    await stage.start("two", nonce="other")
    await asyncio.sleep(5 * TTL)
    assert stage.leaders == ["a"]
    assert stage.record == "site/shop/a"
    assert not stage.cluster.patches
    assert f"goes on with an interval of {TTL / 3:g} s" in stage.message("Stalled")


async def test_impossible_interval_begins_no_election(stage):
    """Nobody led before, so nobody loses anything."""
    stage.change(campaign=IMPOSSIBLE)
    await stage.start()
    await stage.until(lambda: stage.condition() == ("False", "CampaignInvalid"))
    await asyncio.sleep(2 * TTL)
    assert stage.record is None
    assert "goes on" not in stage.message()


async def test_ttl_that_the_interval_does_not_fit_ends_the_term(stage):
    """What counted before does not count with another TTL."""
    stage.change(campaign={"intervalSeconds": 4})
    await stage.lead()
    stage.bucket.configure(ttl=4)
    await stage.until(lambda: not stage.leaders, timeout=1)
    await stage.until(lambda: stage.condition() == ("False", "CampaignInvalid"))
    await asyncio.sleep(3 * TTL)
    assert stage.record is None


async def test_label_goes_when_the_bucket_is_made_anew_and_shows_nothing(stage):
    """What was known of the old bucket does not count, even before the new one is seen."""
    await stage.lead()
    stage.bucket._synchronised = False
    stage.bucket._generation += 1
    stage.bucket._take_settings()
    await stage.until(lambda: not stage.leaders, timeout=0.5)


async def test_record_that_is_in_the_new_bucket_already_stays(stage, monkeypatch):
    """Its writer may learn that the bucket is another one only after its first write there."""
    await stage.lead()
    info = stage.bucket.settings
    age = clock.now() - stage.first._driver.lease.sent_at + 1
    born = replace(info, created="1970-01-01T00:00:10.123456789Z", server_time=10.123457 + age)
    monkeypatch.setattr(stage.bucket, "_info", lambda: born)
    stage.bucket._take_settings()
    await asyncio.sleep(TTL)
    assert not stage.cluster.patches
    assert stage.first._driver.leads


async def test_higher_ttl_counts_at_once(stage):
    """Nothing changes but the interval."""
    await stage.lead()
    stage.bucket.configure(ttl=2 * TTL)
    await asyncio.sleep(3 * TTL)
    assert stage.first.view.reading().interval == 2 * TTL / 3
    assert not stage.cluster.patches
    assert stage.record == "site/shop/a"


async def test_after_a_lower_ttl_nobody_leads_for_an_old_one(stage):
    """Everything is given up, and begun anew when nobody counts on the old TTL any more."""
    await stage.lead()
    stage.bucket.configure(ttl=3)
    lowered = clock.now()
    await stage.until(lambda: stage.condition() == ("False", "BucketInvalid"))
    assert stage.leaders == []
    assert stage.record is None
    await stage.until(lambda: stage.leaders == ["a"])
    assert TTL <= clock.now() - lowered < TTL + 1


async def test_bucket_that_breaks_the_limits_has_no_leader(stage):
    """Also one that carried a label before, for nobody can lead by right."""
    stage.cluster.change("a", labels={"app": "billing", LABEL: "leader"})
    stage.bucket.ttl = 0.5
    await stage.start()
    await stage.until(lambda: not stage.leaders)
    await stage.until(lambda: stage.condition() == ("False", "BucketInvalid"))
    stage.bucket.configure(ttl=TTL)
    await stage.until(lambda: stage.leaders == ["a"])
