"""A strip is a real write, confirmed by the API server, and bounded."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fakecluster import make_pod
from incumbent import clock
from incumbent.errors import (
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
)
from incumbent.pods.labels import RESEND_AFTER
from labelwrites import APP, FOREVER, LABEL, LEADS, SHOWN, answer, label_of

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]
A_STEP = 0.25
"""Seconds in which one try and one read after the end of the time are over."""


def touch(cluster, name="a", **values):
    """Return an action by somebody else that changes a pod."""
    return lambda: cluster.change(name, **values)


async def test_the_fixture_keeps_time():
    """Time-outs are waited for on the clock that the code looks at."""
    before = clock.now()
    await asyncio.sleep(100)
    assert clock.now() - before == pytest.approx(100)


@pytest.mark.parametrize("value", ("candidate", None))
async def test_a_strip_takes_label_and_token_in_one_write(cluster, labels, learnt, value):
    """Afterwards the label says what was asked for, and the answer is learnt."""
    pod = cluster.add(make_pod("a", **LEADS))
    await labels.strip(pod, value, until=FOREVER)
    assert label_of(cluster.pod("a")) == (value, None)
    assert cluster.operations == ["patch_pod"]
    assert learnt == [cluster.pod("a")]


@pytest.mark.parametrize("value", ("candidate", None))
@pytest.mark.parametrize("shown", SHOWN)
async def test_a_strip_is_always_a_real_write(cluster, labels, shown, value):
    """The API server drops a patch that changes nothing, and then nothing would be fenced."""
    pod = cluster.add(make_pod("a", **shown))
    for _ in range(3):
        before = cluster.pod("a")
        await labels.strip(before, value, until=FOREVER)
        assert cluster.pod("a").resource_version != before.resource_version
        assert cluster.pod("a").labels.get(LABEL) == value
    assert cluster.pod("a").uid == pod.uid


@pytest.mark.parametrize("shown", SHOWN)
async def test_a_label_that_is_still_on_its_way_is_refused_after_a_strip(
    cluster, labels, add, shown
):
    """Whatever the pod showed when it was stripped, a label sent before does not arrive."""
    pod = cluster.add(make_pod("a", **{**shown, "labels": APP | shown.get("labels", {})}))
    with cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await add(pod, 9)
        await labels.strip(pod, "candidate", until=FOREVER)
    assert [type(error) for error in late.refused] == [Conflict, Conflict]
    assert cluster.pod("a").labels[LABEL] == "candidate"


async def test_a_strip_is_decided_on_a_state_of_the_pod(cluster, labels):
    """It carries the resourceVersion that was seen, or that was read where none was."""
    pod = cluster.add(make_pod("a", **LEADS))
    await labels.strip(pod, None, until=FOREVER)
    unknown = replace(pod, resource_version="")
    await labels.strip(unknown, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod", "patch_pod"]
    assert [patch.version for patch in cluster.patches] == ["2", "3"]


async def test_a_strip_starts_over_when_the_pod_has_changed(cluster, labels, learnt):
    """A conflict is no end: the pod is read, which is learnt, and stripped as it is now."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a", **LEADS)
    cluster.before_next("patch_pod", touch(cluster, ready=False))
    cluster.before_next("patch_pod", touch(cluster, ready=True))
    await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod"] * 2 + ["patch_pod"]
    assert learnt == cluster.history[-3:]
    assert label_of(cluster.pod("a")) == (None, None)


async def test_a_strip_whose_answer_was_lost_is_done_again(cluster, labels):
    """What was carried out without an answer is not confirmed; the second try is a real write."""
    pod = cluster.add(make_pod("a", **LEADS))
    strip = asyncio.create_task(labels.strip(pod, None, until=FOREVER))
    with cluster.dropping_answers():
        await asyncio.sleep(RESEND_AFTER / 2)
    carried_out = cluster.pod("a")
    assert label_of(carried_out) == (None, None)
    assert not strip.done()
    await strip
    assert cluster.operations == ["patch_pod", "patch_pod", "get_pod", "patch_pod"]
    assert int(cluster.pod("a").resource_version) > int(carried_out.resource_version)


async def test_a_strip_that_arrives_late_changes_nothing(cluster, labels):
    """Its second try was confirmed, so the first one is refused."""
    pod = cluster.add(make_pod("a", **LEADS))
    strip = asyncio.create_task(labels.strip(pod, None, until=FOREVER))
    with cluster.delaying_writes(1) as late:
        await strip
        confirmed = cluster.pod("a")
    assert [type(error) for error in late.refused] == [Conflict]
    assert cluster.pod("a") == confirmed


async def test_a_strip_waits_for_an_api_server_that_is_away(cluster, labels):
    """It goes on as soon as the API server is back."""
    pod = cluster.add(make_pod("a", **LEADS))
    strip = asyncio.create_task(labels.strip(pod, None, until=FOREVER))
    with cluster.unreachable():
        await asyncio.sleep(5)
    assert not strip.done()
    await asyncio.wait_for(strip, timeout=1)
    assert label_of(cluster.pod("a")) == (None, None)


@pytest.mark.parametrize("again", (None, "uid-of-another"))
async def test_a_strip_ends_when_a_read_finds_the_pod_gone(cluster, labels, again):
    """No pod of that name, or another one, is a confirmation; the other one is left alone."""
    pod = cluster.add(make_pod("a", **LEADS))
    cluster.delete("a")
    if again:
        cluster.add(make_pod("a", uid=again, **LEADS))
    await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod"]
    assert again is None or label_of(cluster.pod("a")) == ("leader", "5")


async def test_a_strip_of_a_pod_that_was_never_seen_may_find_none(cluster, labels):
    """A record can name a pod that is gone; then there is nothing to write."""
    await labels.strip(make_pod("a"), None, until=FOREVER)
    assert cluster.operations == ["get_pod"]


async def test_only_a_read_confirms_that_a_pod_is_gone(cluster, labels):
    """A patch that finds no pod is not enough while a read finds it."""
    pod = cluster.add(make_pod("a", **LEADS))
    cluster.before_next("patch_pod", answer(NotFound("not here")))
    await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod", "get_pod", "patch_pod"]
    assert label_of(cluster.pod("a")) == (None, None)


async def test_a_pod_that_left_the_view_is_stripped_all_the_same(cluster, labels, learnt):
    """A watch shows a pod as deleted that only left the selector: it still carries the label."""
    pod = cluster.add(make_pod("a", **LEADS))
    cluster.change("a", labels={LABEL: "leader"})
    await labels.strip(pod, None, until=FOREVER)
    assert label_of(cluster.pod("a")) == (None, None)
    assert learnt[-1] == cluster.pod("a")


@pytest.mark.parametrize(
    "fault",
    (
        pytest.param(lambda cluster: cluster.unreachable(), id="away"),
        pytest.param(lambda cluster: cluster.dropping_answers(), id="no answers"),
        pytest.param(lambda cluster: cluster.delaying_writes(), id="slow"),
        pytest.param(lambda cluster: cluster.hanging("patch_pod", "get_pod"), id="hanging"),
        pytest.param(lambda cluster: cluster.hanging("get_pod"), id="reads hang"),
        pytest.param(
            lambda cluster: cluster.refusing("patch_pod", error=Conflict("it changed")),
            id="always changing",
        ),
        pytest.param(
            lambda cluster: cluster.refusing("patch_pod", error=NotFound("not here")),
            id="patch and read disagree",
        ),
    ),
)
async def test_a_strip_is_bounded(cluster, labels, fault):
    """Not confirmed in time, it says so soon after, and not before."""
    cluster.latency = 0.01
    pod = replace(cluster.add(make_pod("a", **LEADS)), resource_version="1")
    with fault(cluster), pytest.raises(ClusterUnreachable, match="counts as labelled"):
        await labels.strip(pod, None, until=4.0)
    assert 4.0 <= clock.now() <= 4.0 + A_STEP


async def test_a_strip_is_tried_once_when_its_time_is_over(cluster, labels):
    """It harms nobody, and whoever asks is late, not wrong."""
    pod = cluster.add(make_pod("a", **LEADS))
    await asyncio.sleep(10)
    await labels.strip(pod, None, until=5.0)
    assert label_of(cluster.pod("a")) == (None, None)
    assert cluster.patches[0].timeout > 0


async def test_a_strip_does_not_wait_for_an_answer_beyond_its_time(cluster, labels):
    """A request waits for what is left, whether it is the first or the second one."""
    pod = cluster.add(make_pod("a", **LEADS))
    with cluster.dropping_answers(), pytest.raises(ClusterUnreachable):
        await labels.strip(pod, None, until=RESEND_AFTER + 0.5)
    first, *more = [patch.timeout for patch in cluster.patches]
    assert first == RESEND_AFTER + 0.5
    assert more
    assert all(0 < timeout <= 0.5 for timeout in more)


async def test_a_strip_that_is_not_allowed_says_so(cluster, labels):
    """There is no point in trying again."""
    pod = cluster.add(make_pod("a", **LEADS))
    with cluster.refusing("patch_pod"), pytest.raises(Forbidden):
        await labels.strip(pod, None, until=FOREVER)
    assert cluster.operations == ["patch_pod"]
