"""A label write without an answer counts as written."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fakecluster import make_pod
from incumbent.errors import (
    ClusterUnreachable,
    Conflict,
    Forbidden,
)
from incumbent.pods.labels import Labels
from labelwrites import APP, FOREVER, LABEL, LEADS, Bucket, label_of

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


async def test_a_label_without_an_answer_counts_as_written(labels, doubt):
    """The pod is a carrier, though it does not show the label."""
    doubtful_pod = await doubt()
    assert labels.doubtful == [doubtful_pod]
    assert await labels.carriers() == [doubtful_pod]


async def test_a_label_whose_sender_was_cancelled_counts_as_written(cluster, labels, add):
    """The request may be on its way."""
    pod = cluster.add(make_pod("a"))
    sender = asyncio.create_task(add(pod, 5))
    with cluster.delaying_writes():
        await asyncio.sleep(1)
        sender.cancel()
        await asyncio.wait([sender])
    assert labels.doubtful == [pod]
    assert label_of(cluster.pod("a")) == ("leader", "5")


@pytest.mark.parametrize("first", (True, False))
async def test_nobody_else_is_labelled_in_the_meantime(cluster, labels, add, doubt, first):
    """Not before a strip of the doubtful pod is confirmed."""
    doubtful_pod = await doubt()
    other = cluster.add(make_pod("b"))
    assert await add(other, 6, first=first) is None
    await labels.strip(doubtful_pod, "candidate", until=FOREVER)
    assert labels.doubtful == []
    assert await add(other, 6, first=first) == cluster.pod("b")


@pytest.mark.parametrize("again", (None, "uid-of-another"))
async def test_a_doubt_ends_with_its_pod(cluster, labels, doubt, again):
    """A strip that finds no such pod any more is confirmed."""
    doubtful_pod = await doubt()
    cluster.delete("a")
    if again:
        cluster.add(make_pod("a", uid=again))
    await labels.strip(doubtful_pod, None, until=FOREVER)
    assert labels.doubtful == []


async def test_a_doubt_outlasts_a_strip_that_was_not_confirmed(cluster, labels, doubt):
    """Nothing is known any better."""
    doubtful_pod = await doubt()
    with cluster.unreachable(), pytest.raises(ClusterUnreachable):
        await labels.strip(doubtful_pod, None, until=1.0)
    assert labels.doubtful == [doubtful_pod]


async def test_the_same_pod_can_be_labelled_again(cluster, labels, add, doubt):
    """It is the one that is to lead; an answer to a later write ends the doubt."""
    doubtful_pod = await doubt()
    assert await add(doubtful_pod, 5, first=True) == cluster.pod("a")
    assert labels.doubtful == []


async def test_a_conflict_ends_the_doubt(cluster, labels, add, doubt):
    """The pod has moved on, so what was sent before has arrived, or never will."""
    doubtful_pod = await doubt()
    cluster.change("a", ready=False)
    assert await add(doubtful_pod, 5) is None
    assert labels.doubtful == []


async def test_a_conflict_ends_no_doubt_before_the_pod_is_read(cluster, labels, add, doubt):
    """It may be our own label that changed the pod."""
    doubtful_pod = await doubt()
    cluster.change("a", **LEADS)
    away = ClusterUnreachable("away")
    with cluster.refusing("get_pod", error=away), pytest.raises(ClusterUnreachable):
        await add(doubtful_pod, 5)
    assert labels.doubtful == [doubtful_pod]


async def test_a_mark_ends_the_doubt_if_it_changes_anything(cluster, labels, doubt):
    """A patch that the API server drops fences nothing."""
    doubtful_pod = await doubt()
    unmarked = replace(doubtful_pod, labels=APP)
    await labels.mark(unmarked, None)
    assert labels.doubtful == [doubtful_pod]
    await labels.mark(unmarked, "candidate")
    assert labels.doubtful == []


async def test_a_label_that_was_refused_is_not_doubtful(cluster, labels, add):
    """It was not written, and never will be."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("patch_pod"), pytest.raises(Forbidden):
        await add(pod, 5)
    assert labels.doubtful == []


async def test_a_refusal_says_nothing_about_an_earlier_label(cluster, labels, add, doubt):
    """The one before may still arrive."""
    doubtful_pod = await doubt()
    with cluster.refusing("patch_pod"), pytest.raises(Forbidden):
        await add(doubtful_pod, 5)
    assert labels.doubtful == [doubtful_pod]


async def test_a_replica_that_stood_still_labels_nobody(cluster, labels, add):
    """Its label was sent with a warrant of its own; its successor strips, and labels another."""
    successor = Labels(cluster, labels.resource, lambda _: None)
    a, b = cluster.add(make_pod("a")), cluster.add(make_pod("b"))
    with cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await add(a, 5)
        await successor.strip(a, "candidate", until=FOREVER)
        bucket = Bucket(cluster, 9)
        assert await successor.add(b, warrant=bucket.warrant, until=lambda: FOREVER, first=True)
    assert [type(error) for error in late.refused] == [Conflict, Conflict]
    leaders = [pod.name for pod in cluster.history if pod.labels.get(LABEL) == "leader"]
    assert leaders == ["b"]
