"""Admission plugins of other people: slow webhooks, and policies that refuse our patches."""

from __future__ import annotations

import asyncio

import pytest

from fakecluster import make_pod
from incumbent import clock
from stage import LABEL, MARGIN, TTL

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]


def message(stage, kind):
    """Return the message of a condition."""
    return next(c["message"] for c in stage.status["conditions"] if c["type"] == kind)


def never_two(stage):
    """Make sure that no two pods were ever labelled at once."""
    assert stage.most_at_once() <= 1


# Slow


@pytest.mark.parametrize("seconds", (2.5, 4.0))
async def test_slow_webhook_makes_everything_slow_and_nothing_impossible(stage, seconds):
    """A first leader, a hand-over, a step-down: each of the patches takes its time."""
    with stage.cluster.webhook(seconds=seconds):
        await stage.start()
        await stage.until(lambda: stage.leaders == ["a"], timeout=1 + seconds)
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=1 + 3 * seconds)
        stage.cluster.change("a", ready=True)
        stage.annotate(step_down="a")
        await stage.until(lambda: stage.leaders == ["a"], timeout=1 + 3 * seconds)
        await stage.until(lambda: "webhook" in message(stage, "LabelsInSync"))
        assert f"about {seconds:.0f} s" in message(stage, "LabelsInSync")
        assert stage.condition("LabelsInSync") == ("True", "LabelsWritten")
    never_two(stage)
    assert "release" not in stage.writes


async def test_slow_candidates_hold_up_no_change_of_leader(stage):
    """Their labels are nothing that anybody waits for."""
    for name in "cdef":
        stage.cluster.add(make_pod(name, created="2026-01-01T00:01:00Z"))
    with stage.cluster.webhook("c", "d", "e", "f", seconds=20.0):
        await stage.lead()
        stage.cluster.change("a", ready=False)
        await stage.until(lambda: stage.leaders == ["b"], timeout=0.5)
        await stage.until(lambda: stage.cluster.pod("c").labels.get(LABEL), timeout=60)


@pytest.mark.parametrize("method", ("hand-over", "step-down"))
async def test_slow_patch_outlasts_no_renewal(stage, method):
    """Renewals go on while a patch is on its way, so that the term does not end."""
    await stage.lead()
    with stage.cluster.webhook(seconds=5.0):
        if method == "hand-over":
            stage.cluster.change("a", ready=False)
        else:
            stage.annotate(step_down="b")
        await stage.until(lambda: stage.leaders == ["b"], timeout=13)
    assert [one for one in stage.writes if "=" not in one] == ["transfer"]


@pytest.mark.parametrize("seconds", (0.5, 1.5, 2.0))
async def test_strip_at_the_deadline_ends_before_the_record_does(stage, seconds):
    """It is sent sooner when patches are known to be slow: another cluster waits for the TTL."""
    with stage.cluster.webhook(seconds=seconds):
        await stage.lead()
        await asyncio.sleep(2 * TTL)
        with stage.bucket.unreachable():
            expires = stage.first._driver.lease.sent_at + TTL
            await stage.until(lambda: not stage.leaders)
            assert clock.now() < expires
        await stage.until(lambda: stage.leaders == ["a"])


async def test_webhook_that_is_too_slow_for_the_ttl_is_told(stage):
    """Then the second promise cannot be held, and the condition says so."""
    with stage.cluster.webhook(seconds=4.0):
        await stage.lead()
        await stage.until(lambda: "TTL is too short" in message(stage, "LabelsInSync"))


async def test_deadline_moves_back_when_the_webhook_is_gone(stage):
    """Some patches later; nobody has to restart anything."""
    usual = []
    with stage.cluster.webhook(seconds=2.0):
        await stage.lead()
        usual.append(stage.first._driver.campaign.timing.margin)
    for pod in ("b", "a") * 3:
        stage.annotate(step_down=pod)
        await stage.until(lambda pod=pod: stage.leaders == [pod])
        await stage.until(lambda: "incumbent.dev/step-down" not in stage.annotations)
    usual.append(stage.first._driver.campaign.timing.margin)
    assert usual == [pytest.approx(0.3 + 2, abs=0.1), pytest.approx(MARGIN)]
