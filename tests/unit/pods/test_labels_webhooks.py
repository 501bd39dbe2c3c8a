"""What webhooks change in a write is noticed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakecluster import make_pod
from incumbent.errors import (
    AdmissionDenied,
    ClusterUnreachable,
)
from labelwrites import APP, FOREVER, LABEL, LEADS, SHOWN, label_of

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


def keep_label(before, patched):
    """Store the label as it was, whatever a patch says."""
    label = {name: value for name, value in before.labels.items() if name == LABEL}
    others = {name: value for name, value in patched.labels.items() if name != LABEL}
    return replace(patched, labels=others | label)


def keep_all(before, _):
    """Store nothing of a patch."""
    return before


def drop_label(_, patched):
    """Store no label of the election."""
    others = {name: value for name, value in patched.labels.items() if name != LABEL}
    return replace(patched, labels=others)


def take_note(_, patched):
    """Add something that is no business of ours."""
    return replace(patched, annotations=patched.annotations | {"policy": "seen"})


@pytest.mark.parametrize("change", (keep_label, keep_all))
async def test_a_strip_that_a_webhook_undoes_is_not_confirmed(cluster, labels, learnt, change):
    """The API server answers 200, and the pod has the label all the same."""
    pod = cluster.add(make_pod("a", **LEADS))
    with (
        cluster.webhook("a", change=change),
        pytest.raises(AdmissionDenied, match="Pod a has the leader label again"),
    ):
        await labels.strip(pod, "candidate", until=FOREVER)
    assert learnt == [cluster.pod("a")]
    await labels.strip(cluster.pod("a"), "candidate", until=FOREVER)


@pytest.mark.parametrize("shown", SHOWN)
async def test_a_strip_that_writes_nothing_is_not_confirmed(cluster, labels, add, shown):
    """A label that is still on its way would arrive."""
    pod = cluster.add(make_pod("a", **{**shown, "labels": APP | shown.get("labels", {})}))
    with cluster.delaying_writes(2) as late:
        with pytest.raises(ClusterUnreachable):
            await add(pod, 9)
        with cluster.webhook("a", change=keep_all), pytest.raises(AdmissionDenied):
            await labels.strip(pod, "candidate", until=FOREVER)
        assert labels.doubtful == [pod]
        late.carry_out()
    assert label_of(cluster.pod("a")) == ("leader", "9")


@pytest.mark.parametrize("change", (drop_label, keep_all))
async def test_a_label_that_a_webhook_takes_out_is_refused(cluster, labels, add, change):
    """The pod has no label, and nobody says that it leads."""
    pod = cluster.add(make_pod("a"))
    with (
        cluster.webhook("a", change=change),
        pytest.raises(AdmissionDenied, match="took the leader label out"),
    ):
        await add(pod, 5)
    assert labels.doubtful == []
    with cluster.webhook("a", change=change), pytest.raises(AdmissionDenied):
        await labels.would_accept(cluster.pod("a"))


async def test_a_mark_that_a_webhook_changes_is_refused(cluster, labels):
    """So it is not tried again at once, and for ever."""
    pod = cluster.add(make_pod("a"))
    with cluster.webhook("a", change=drop_label), pytest.raises(AdmissionDenied):
        await labels.mark(pod, "candidate")


async def test_what_a_webhook_adds_is_not_held_against_a_patch(cluster, labels, add):
    """Only the label counts."""
    pod = cluster.add(make_pod("a"))
    with cluster.webhook("a", change=take_note):
        await labels.mark(pod, "candidate")
        led = await add(cluster.pod("a"), 5)
        await labels.strip(led, "candidate", until=FOREVER)
    assert label_of(cluster.pod("a")) == ("candidate", None)
    assert labels.doubtful == []
