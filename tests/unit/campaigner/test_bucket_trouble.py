"""What people are told about a bucket that is of no use."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from incumbent.campaigner.bucket_trouble import BucketTrouble
from incumbent.errors import (
    BucketDenied,
    BucketNotFound,
    BucketSilent,
    BucketUnreachable,
)
from stage import KEY, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


def test_wording_is_told_once():
    """Servers that fail in turn do not change the status with each attempt."""
    trouble = BucketTrouble()
    errors = [BucketUnreachable(text) for text in ("one is away", "two is away")]
    assert trouble.observe(errors[0], 0.0, patience=1) is None
    told = [trouble.observe(errors[i % 2], 1.0 + i, patience=1).message for i in range(6)]
    assert told == ["one is away"] + 5 * ["two is away"]


def test_other_trouble_is_told_at_once():
    """Only an absence is waited for."""
    trouble = BucketTrouble()
    trouble.observe(BucketUnreachable("away"), 0.0, patience=1)
    assert trouble.observe(BucketDenied("no right"), 0.1, patience=1).reason == "PermissionDenied"
    assert trouble.observe(None, 0.2, patience=1) is None
    assert trouble.observe(BucketUnreachable("away"), 0.3, patience=1) is None
    assert trouble.missing_for(2.3) < 0
    assert trouble.observe(BucketNotFound("gone"), 2.4, patience=1).reason == "BucketNotFound"
    assert trouble.missing_for(4.4) == pytest.approx(2)


async def test_a_bucket_that_stores_no_write_says_so_and_recovers(stage):
    """The leader is stripped at its deadline, and the reason is no mystery."""
    await stage.lead()
    assert not stage.first.view.bucket_trouble
    with stage.bucket.dropping_requests():
        stage.bucket.denied[KEY] = BucketSilent("NATS has stored no write of key shop.billing")
        stage.bucket._tell()
        await stage.until(lambda: not stage.leaders)
        await stage.until(lambda: stage.condition() == ("False", "BucketSilent"))
        assert stage.condition("BucketReady") == ("False", "BucketSilent")
        assert stage.condition("Stalled") == ("True", "BucketSilent")
        assert "no write" in stage.first.view.bucket_trouble
    stage.bucket.denied.clear()
    stage.bucket._tell()
    await stage.until(lambda: stage.condition() == ("True", "Leading"))
    assert stage.condition("BucketReady") == ("True", "BucketFound")


async def test_a_leader_goes_on_while_only_the_watch_is_silent(stage):
    """Its renewals are answered, so nothing is in doubt; but a person has to look."""
    await stage.lead()
    stage.bucket._set_problem(BucketSilent("the watch delivers nothing"))
    await stage.until(lambda: stage.condition("BucketReady") == ("False", "BucketSilent"))
    assert stage.condition() == ("True", "Leading")
    assert stage.condition("Stalled") == ("True", "BucketSilent")
    await asyncio.sleep(3 * TTL)
    assert stage.leaders == ["a"]


@pytest.mark.parametrize("fault", ({"unfit": "it is sealed: delete it"}, {"subjects": ("x.>",)}))
async def test_a_bucket_whose_settings_cannot_work_says_why(stage, fault):
    """Nobody leads, and the remedy is in the message."""
    await stage.lead()
    stage.bucket.settings = replace(stage.bucket.settings, **fault)
    stage.bucket._tell()
    await stage.until(lambda: stage.condition("Stalled") == ("True", "BucketInvalid"))
    await stage.until(lambda: not stage.leaders)
    message = stage.status["conditions"][0]["message"]
    assert "it is sealed: delete it" in message or "add $KV.LEADER_ELECTION.>" in message
    assert bool(stage.first.view.bucket_trouble) == ("unfit" in fault)
