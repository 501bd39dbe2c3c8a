"""A label is added with fence, warrant and deadline."""

from __future__ import annotations

import pytest

from fakecluster import make_election, make_pod
from incumbent import clock
from incumbent.errors import (
    Conflict,
    Forbidden,
    Unsent,
)
from incumbent.pods.labels import LONGEST_WRITE, TRIES
from labelwrites import LABEL, LEADS, label_of

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


@pytest.mark.parametrize("error", (Forbidden("no right"), Unsent("no connection")))
async def test_a_label_that_was_certainly_not_written_is_not_in_doubt(cluster, labels, add, error):
    """There is nothing to be stripped then."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("patch_pod", error=error), pytest.raises(type(error)):
        await add(pod, 7)
    assert labels.doubtful == []


async def test_a_label_is_added_with_its_token(cluster, add, learnt):
    """The pod as it is now is returned, and learnt."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, 7) == cluster.pod("a")
    assert label_of(cluster.pod("a")) == ("leader", "7")
    assert learnt == [cluster.pod("a")]


async def test_the_pod_is_read_before_the_bucket_is_written(cluster, add):
    """The patch carries what was seen before the warrant, never what was read after it."""
    pod = cluster.add(make_pod("a"))
    await add(pod, 5)
    assert cluster.operations == ["bucket", "patch_pod"]
    assert cluster.patches[0].version == pod.resource_version


async def test_a_pod_that_changed_since_takes_a_new_warrant(cluster, add):
    """After a conflict everything starts over: read, write to the bucket, patch what was read."""
    pod = cluster.add(make_pod("a"))
    changed = cluster.change("a")
    assert await add(pod, 5, 8) == cluster.pod("a")
    assert cluster.operations == ["bucket", "patch_pod", "get_pod", "bucket", "patch_pod"]
    assert [patch.version for patch in cluster.patches] == [
        pod.resource_version,
        changed.resource_version,
    ]
    assert label_of(cluster.pod("a")) == ("leader", "8")


async def test_without_a_warrant_no_label_is_sent(cluster, add):
    """The bucket write was not stored, so somebody else may have the authority."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, None) is None
    assert cluster.operations == ["bucket"]


async def test_a_new_try_needs_a_new_warrant(cluster, add):
    """The warrant of the first try does not cover the second one."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a")
    assert await add(pod, 5, None) is None
    assert cluster.operations == ["bucket", "patch_pod", "get_pod", "bucket"]
    assert label_of(cluster.pod("a")) == (None, None)


async def test_a_label_that_shows_already_is_not_sent(cluster, add):
    """The pod was labelled by a write that got no answer; that still needs a warrant."""
    pod = cluster.add(make_pod("a", **LEADS))
    assert await add(pod, 5) == pod
    assert cluster.operations == ["bucket"]


@pytest.mark.parametrize("left", (0.0, -1.0))
async def test_no_label_is_sent_past_the_deadline(cluster, add, left):
    """The bucket took so long that there is no time left."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, 5, delay=3.0, until=lambda: 3.0 + left) is None
    assert cluster.operations == ["bucket"]


async def test_the_deadline_is_the_one_that_the_warrant_brings(cluster, add):
    """The bucket write has moved it."""
    pod = cluster.add(make_pod("a"))
    assert await add(pod, 5, delay=3.0, until=lambda: clock.now() + 1.0)
    assert label_of(cluster.pod("a")) == ("leader", "5")


@pytest.mark.parametrize(("left", "timeout"), ((0.5, 0.5), (9.0, 9.0), (60.0, LONGEST_WRITE)))
async def test_an_answer_is_not_waited_for_past_the_deadline(cluster, add, left, timeout):
    """Whoever waits longer could go on as if it led."""
    pod = cluster.add(make_pod("a"))
    await add(pod, 5, until=lambda: left)
    assert cluster.patches[0].timeout == timeout


@pytest.mark.parametrize(
    "values", ({"ready": False}, {"terminating": True}, {"labels": {}}, {"phase": "Failed"})
)
async def test_who_is_no_candidate_gets_no_label(cluster, add, values):
    """Whether it was none from the start, or is found to be none after a conflict."""
    pod = cluster.add(make_pod("a"))
    changed = cluster.change("a", **values)
    assert await add(changed, 5) is None
    assert cluster.operations == []
    assert await add(pod, 5) is None
    assert cluster.operations == ["bucket", "patch_pod", "get_pod"]
    assert label_of(cluster.pod("a")) == (None, None)


@pytest.mark.parametrize("again", (None, "uid-of-another"))
async def test_a_pod_that_is_gone_gets_no_label(cluster, add, again):
    """Nor does another one of its name."""
    pod = cluster.add(make_pod("a"))
    cluster.delete("a")
    if again:
        cluster.add(make_pod("a", uid=again))
    assert await add(pod, 5) is None
    assert cluster.operations == ["bucket", "patch_pod", "get_pod"]
    assert again is None or label_of(cluster.pod("a")) == (None, None)


async def test_a_pod_that_keeps_changing_is_given_up(cluster, add):
    """The caller gets the chance to see what else has changed."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("patch_pod", error=Conflict("it changed")):
        assert await add(pod, 5) is None
    assert len(cluster.patches) == TRIES


async def test_the_first_label_of_a_term_needs_that_no_other_pod_carries_one(cluster, add):
    """It does not matter whether the selector matches the other one."""
    pod = cluster.add(make_pod("a"))
    cluster.add(make_pod("b", labels={LABEL: "leader"}))
    assert await add(pod, 5, first=True) is None
    assert cluster.patches == []


async def test_the_first_label_of_a_term_may_be_the_pods_second(cluster, add):
    """A pod that shows the label of an earlier term does not stand in its own way."""
    cluster.add(make_pod("c", namespace="other", labels={LABEL: "leader"}))
    cluster.add(make_pod("d", labels={LABEL: "candidate"}))
    pod = cluster.add(make_pod("a", **LEADS))
    assert await add(pod, 9, first=True)
    assert label_of(cluster.pod("a")) == ("leader", "9")


async def test_the_other_pods_are_looked_at_again_after_a_conflict(cluster, add):
    """Starting over means from the start."""
    pod = cluster.add(make_pod("a"))
    cluster.change("a")
    other = make_pod("b", labels={LABEL: "leader"})
    cluster.before_next("patch_pod", lambda: cluster.add(other))
    assert await add(pod, 5, first=True) is None
    assert label_of(cluster.pod("a")) == (None, None)


async def test_later_labels_of_a_term_cost_no_list(cluster, add):
    """Who leads is known then, and other carriers are looked for in the view."""
    pod = cluster.add(make_pod("a"))
    await add(pod, 5, first=False)
    assert cluster.operations == ["bucket", "patch_pod"]


@pytest.mark.parametrize(
    "change",
    (
        pytest.param(None, id="gone"),
        pytest.param({"uid": "another"}, id="another of its name"),
        pytest.param({"deletionTimestamp": "2026-01-01T00:00:00Z"}, id="being deleted"),
    ),
)
async def test_the_first_label_of_a_term_needs_its_election(cluster, add, change):
    """Nobody would ever take the label back."""
    pod = cluster.add(make_pod("a"))
    if change is None:
        cluster.elections.clear()
    else:
        cluster.put_election(make_election(**change))
    assert await add(pod, 5, first=True) is None
    assert cluster.patches == []


async def test_a_look_that_fails_is_an_error(cluster, add):
    """Without the list nothing is known, so nothing is sent."""
    pod = cluster.add(make_pod("a"))
    with cluster.refusing("list_pods"), pytest.raises(Forbidden):
        await add(pod, 5, first=True)
    assert "bucket" not in cluster.operations


async def test_some_pods_may_carry_the_label_before_a_hand_over(cluster, labels):
    """The old leader, which is being stripped, is no claim of somebody else."""
    old, to = cluster.add(make_pod("a", **LEADS)), cluster.add(make_pod("b"))
    assert await labels.unclaimed(old, to, since=to.resource_version)
    listing = next(call for call in cluster.calls if call.name == "list_pods")
    assert listing.version == to.resource_version
    assert not await labels.unclaimed(to)
    cluster.add(make_pod("c", labels={LABEL: "leader"}))
    assert not await labels.unclaimed(old, to)
