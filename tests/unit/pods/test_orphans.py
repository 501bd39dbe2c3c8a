"""What is left on pods of elections that were deleted while no operator ran."""

import pytest

from fakecluster import FakeCluster, make_election, make_pod
from incumbent.pods.orphans import orphans, take_back

LED = {"labels": {"app": "web", "incumbent.dev/web": "leader"}}
LED |= {"annotations": {"incumbent.dev/web.token": "7", "note": "mine"}}
ELECTION = make_election(name="web")
CUSTOM = make_election(name="web", label={"key": "example.com/role"})


def keys(pod, *elections):
    """Return the labels and tokens that are left on a pod."""
    found = orphans([pod], elections, prefixes=("example.com",))
    return {(*one.labels, *one.tokens) for one in found}


def test_what_an_election_uses_is_no_orphan():
    """Neither its label nor its token, whatever the label's key is."""
    assert keys(make_pod("a", **LED), ELECTION) == set()
    labels = {"example.com/role": "leader"}
    annotations = {"incumbent.dev/web.token": "7"}
    assert keys(make_pod("a", labels=labels, annotations=annotations), CUSTOM) == set()


@pytest.mark.parametrize(
    ("labels", "annotations", "expected"),
    (
        ({"incumbent.dev/old": "leader"}, {}, {("incumbent.dev/old",)}),
        ({"incumbent.dev/old": "candidate"}, {}, {("incumbent.dev/old",)}),
        ({}, {"incumbent.dev/old.token": "7"}, {("incumbent.dev/old.token",)}),
        (
            {"example.com/role": "leader"},
            {"incumbent.dev/old.token": "7"},
            {("example.com/role", "incumbent.dev/old.token")},
        ),
        # other software's
        ({"example.com/role": "leader"}, {}, set()),
        ({"example.org/role": "leader", "role": "leader"}, {}, set()),
        ({"incumbent.dev/old": "else"}, {"incumbent.dev/exclude": "true", "a": "b"}, set()),
    ),
)
def test_an_orphan_is_what_an_election_would_have_set(labels, annotations, expected):
    """And nothing that other software may have set."""
    assert keys(make_pod("a", labels=labels, annotations=annotations), ELECTION) == expected


async def test_a_pod_that_changed_meanwhile_is_left_alone():
    """Another replica may have labelled it for an election that was created a moment ago."""
    cluster = FakeCluster()
    cluster.add(make_pod("a", **LED))

    async def elections():
        cluster.change("a", labels={**LED["labels"], "more": "1"})
        return []

    where = cluster.pod("a").namespace
    assert await take_back(cluster, where, elections=elections, prefixes=())
    assert cluster.pod("a").labels["incumbent.dev/web"] == "leader"

    async def unchanged():
        return []

    assert await take_back(cluster, where, elections=unchanged, prefixes=())
    left = cluster.pod("a")
    assert (left.labels, left.annotations) == ({"app": "web", "more": "1"}, {"note": "mine"})
    assert not await take_back(cluster, where, elections=unchanged, prefixes=())
