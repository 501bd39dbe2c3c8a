"""Candidates are marked, and carriers of a label are listed."""

from __future__ import annotations

import pytest

from fakecluster import NAMESPACE, make_pod
from incumbent.errors import (
    ClusterUnreachable,
)
from labelwrites import APP, LABEL, LEADS, TOKEN, label_of

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


@pytest.mark.parametrize("value", ("candidate", None))
async def test_a_mark_sets_the_label_and_takes_the_fence(cluster, labels, learnt, value):
    """Whoever does not lead carries no token either."""
    pod = cluster.add(make_pod("a", labels=APP | {LABEL: "x"}, annotations={TOKEN: "0"}))
    await labels.mark(pod, value)
    assert label_of(cluster.pod("a")) == (value, None)
    assert cluster.patches[0].version == pod.resource_version
    assert learnt == [cluster.pod("a")]


async def test_a_mark_never_takes_the_leader_label(cluster, labels):
    """That takes a strip, which is confirmed."""
    pod = cluster.add(make_pod("a", **LEADS))
    await labels.mark(pod, None)
    assert cluster.operations == []


async def test_a_mark_of_a_pod_that_has_changed_does_nothing(cluster, labels):
    """It could have become the leader meanwhile."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a", **LEADS)
    await labels.mark(pod, "candidate")
    assert label_of(cluster.pod("a")) == ("leader", "5")
    cluster.delete("a")
    await labels.mark(pod, "candidate")
    assert cluster.operations == ["patch_pod", "patch_pod"]


async def test_a_mark_without_an_answer_is_an_error(cluster, labels):
    """The pass has to come again."""
    pod = cluster.add(make_pod("a"))
    with cluster.unreachable(), pytest.raises(ClusterUnreachable):
        await labels.mark(pod, "candidate")


async def test_carriers_are_found_by_the_label_alone(cluster, labels):
    """A pod that left the selector, or runs no more, can still carry it."""
    cluster.add(make_pod("a", labels={LABEL: "leader"}, phase="Failed"))
    cluster.add(make_pod("b", labels=APP | {LABEL: "candidate"}))
    cluster.add(make_pod("c", labels={"incumbent.dev/other": "leader"}))
    cluster.add(make_pod("d", namespace="other", labels={LABEL: "leader"}))
    assert [pod.name for pod in await labels.carriers()] == ["a"]
    assert cluster.calls[-1].target == f"{LABEL}=leader"


async def test_a_carrier_is_listed_once_and_as_it_is_now(cluster, labels, doubt):
    """A doubtful pod whose label has arrived is not listed twice."""
    await doubt()
    labelled = cluster.change("a", **LEADS)
    assert await labels.carriers() == [labelled]
    assert labelled.namespace == NAMESPACE
