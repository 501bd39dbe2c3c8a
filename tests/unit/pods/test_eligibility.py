from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakecluster import make_election, make_pod
from incumbent.campaign.records import Nominee, Record
from incumbent.kubernetes.resource import EXCLUDE, PRIORITY, resource_from
from incumbent.pods.eligibility import (
    Marking,
    candidates,
    choose,
    holder_pod,
    identity,
    labelled,
    markings,
    shows,
    why_not,
)

LABEL = "incumbent.dev/billing"
TOKEN = "incumbent.dev/billing.token"
RESOURCE = resource_from(make_election(), default_bucket="B")
DELETING = resource_from(make_election(deletionTimestamp="now"), default_bucket="B")
SELECTOR = RESOURCE.selector
APP = {"app": "billing"}


def names(pods):
    return [pod.name for pod in pods]


def born(
    second, name=None, *, template=None, priority=None, hash_label="pod-template-hash", node="one"
):
    """Return a candidate by the second of its birth; `template` is its template's hash."""
    return make_pod(
        name or f"{'zyxwvutsrq'[second]}-{second}",  # no order by names is one by age
        created=f"2026-01-01T00:00:{second:02}Z",
        node=node,
        labels=APP if template is None else APP | {hash_label: template},
        annotations={} if priority is None else {PRIORITY: priority},
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    (
        ({}, ""),
        ({"annotations": {EXCLUDE: "false"}}, ""),
        ({"labels": {}}, "it does not match the selector"),
        ({"terminating": True}, "it is terminating"),
        ({"phase": "Pending"}, "its phase is Pending"),
        ({"ready": False}, "it is not ready"),
        ({"annotations": {EXCLUDE: "true"}}, "its annotation incumbent.dev/exclude excludes it"),
        ({"annotations": {EXCLUDE: ""}}, "its annotation incumbent.dev/exclude excludes it"),
    ),
)
def test_a_candidate_matches_runs_is_ready_stays_and_is_not_excluded(values, reason):
    """Whatever keeps a pod from leading is said in words."""
    assert why_not(make_pod("a", **values), SELECTOR) == reason


@pytest.mark.parametrize(
    ("pods", "order"),
    (
        pytest.param([born(2), born(1), born(3)], [1, 2, 3], id="the oldest"),
        pytest.param([born(1), born(2, priority="5")], [2, 1], id="priority before age"),
        pytest.param([born(1, priority="-1"), born(2)], [2, 1], id="a priority below 0"),
        pytest.param([born(2, priority="high"), born(1)], [1, 2], id="no integer counts as 0"),
        pytest.param([born(2, priority="9" * 5000), born(1)], [1, 2], id="too long an integer"),
        pytest.param(
            [born(1, template="old"), born(3, template="new"), born(2, template="new")],
            [2, 3, 1],
            id="the newest template, and in it the oldest",
        ),
        pytest.param(
            [
                born(1, template="a", hash_label="controller-revision-hash"),
                born(2, template="b", hash_label="controller-revision-hash"),
            ],
            [2, 1],
            id="revisions of a StatefulSet are templates, too",
        ),
        pytest.param(
            [born(1, template="old"), born(2, template="new"), born(3, template="old")],
            [1, 3, 2],
            id="a roll-back makes the old template the newest",
        ),
        pytest.param(
            [born(1, template="old", priority="1"), born(2, template="new")],
            [1, 2],
            id="priority before template",
        ),
    ),
)
def test_the_order_of_candidates(pods, order):
    """Priority, then the newest template, then age."""
    assert [int(pod.name[2:]) for pod in candidates(pods, SELECTOR)] == order


@pytest.mark.parametrize(
    ("pods", "away_from", "order"),
    (
        pytest.param([born(1), born(2, node="two")], "one", [2, 1], id="before age"),
        pytest.param([born(1), born(2, node="two")], "", [1, 2], id="not if there is none"),
        pytest.param([born(1), born(2)], "one", [1, 2], id="all on that node"),
        pytest.param(
            [born(2, template="new"), born(1, node="two", template="old")],
            "one",
            [2, 1],
            id="not before the template",
        ),
        pytest.param(
            [born(2, priority="1"), born(1, node="two")], "one", [2, 1], id="not before priority"
        ),
    ),
)
def test_a_node_to_keep_away_from_comes_last_among_equals(pods, away_from, order):
    """Of equal candidates those on other nodes than a failed leader's are better."""
    found = candidates(pods, SELECTOR, away_from=away_from)
    assert [int(pod.name[2:]) for pod in found] == order


def test_the_name_decides_between_twins():
    """Pods that were made in the same second have one order at every replica."""
    twins = [born(1, name) for name in "cab"]
    for some in itertools.permutations(twins):
        assert names(candidates(some, SELECTOR)) == ["a", "b", "c"]


@given(
    st.lists(
        st.builds(
            lambda number, second, template, priority: born(
                second, f"pod-{number}", template=template, priority=priority
            ),
            st.integers(0, 9),
            st.integers(0, 3),
            st.sampled_from([None, "a", "b"]),
            st.sampled_from([None, "1"]),
        ),
        unique_by=lambda pod: pod.name,
    ),
    st.randoms(),
)
def test_the_order_does_not_depend_on_how_pods_arrive(pods, random):
    """Replicas see pods in different orders, and choose the same one."""
    shuffled = list(pods)
    random.shuffle(shuffled)
    assert candidates(shuffled, SELECTOR) == candidates(pods, SELECTOR)


def test_who_is_no_candidate_is_not_among_them():
    """Neither an unready pod nor one of another set is offered."""
    pods = [make_pod("a", ready=False), make_pod("b", labels={}), make_pod("c")]
    assert names(candidates(pods, SELECTOR)) == ["c"]


def test_a_template_is_as_new_as_its_candidates():
    """A pod that is not ready yet does not make its template the one to prefer."""
    starting = make_pod("x", ready=False, created="2027", labels=APP | {"pod-template-hash": "old"})
    pods = [born(1, template="old"), born(2, template="new"), starting]
    assert names(candidates(pods, SELECTOR)) == ["x-2", "y-1"]


@pytest.mark.parametrize(
    ("able", "evicted", "chosen"),
    (
        ("ab", None, "a"),
        ("ab", Nominee("s/shop/a", "uid-a"), "b"),
        ("a", Nominee("s/shop/a", "uid-a"), "a"),
        ("ab", Nominee("s/shop/a", "uid-of-an-earlier-a"), "a"),
        ("", None, None),
    ),
)
def test_the_evicted_pod_comes_last(able, evicted, chosen):
    """The best is chosen, but who was evicted only if there is nobody else."""
    pod = choose([make_pod(name) for name in able], evicted)
    assert (pod.name if pod else None) == chosen


@pytest.mark.parametrize(
    ("holder", "uid", "found"),
    (
        ("here/shop/a", "uid-a", True),
        ("here/shop/a", "uid-of-an-earlier-a", False),
        ("here/shop/a", "", False),
        ("renamed/shop/a", "uid-a", True),
        ("here/other/a", "uid-a", False),
        ("here/shop/b", "uid-a", False),
        ("a", "uid-a", False),
    ),
)
def test_a_record_names_one_very_pod(holder, uid, found):
    """Namespace, name and UID have to be right; the site may have had another name."""
    pod = make_pod("a")
    record = Record(7, holder, 5, replica="r", site="here/uid", pod_uid=uid)
    assert holder_pod(record, {"a": pod}, "shop") == (pod if found else None)


def test_an_identity_is_found_again():
    """What `identity` writes, `holder_pod` reads."""
    pod = make_pod("a")
    record = Record(7, identity("here", pod), 5, pod_uid=pod.uid)
    assert holder_pod(record, {"a": pod}, "shop") is pod


LEADS = {"labels": APP | {LABEL: "leader"}, "annotations": {TOKEN: "5"}}
STANDS = {"labels": APP | {LABEL: "candidate"}}


@pytest.mark.parametrize(
    ("values", "wanted"),
    (
        pytest.param({}, "candidate", id="a new candidate"),
        pytest.param(STANDS, "as it is", id="a candidate"),
        pytest.param(STANDS | {"ready": False}, None, id="no candidate any more"),
        pytest.param({"labels": {LABEL: "candidate"}}, None, id="left the selector"),
        pytest.param({"ready": False}, "as it is", id="neither candidate nor labelled"),
        pytest.param({"labels": APP | {LABEL: "boss"}}, "candidate", id="a strange value"),
        pytest.param(STANDS | {"annotations": {TOKEN: "0"}}, "candidate", id="a fence is left"),
        pytest.param({"ready": False, "annotations": {TOKEN: "0"}}, None, id="nothing but a fence"),
        pytest.param(LEADS, "as it is", id="shows leader: takes a strip"),
        pytest.param(LEADS | {"ready": False}, "as it is", id="unready, and shows leader"),
    ),
)
def test_who_does_not_lead_is_marked(values, wanted):
    """Candidates get `candidate`, others nothing, and who shows `leader` is left to a strip."""
    pod = make_pod("a", **values)
    expected = [] if wanted == "as it is" else [Marking(pod, wanted)]
    assert markings([pod], RESOURCE, leader_uid="") == expected


def test_the_leader_is_not_marked():
    """While the pod that leads shows no label yet, it is not made a candidate."""
    assert markings([make_pod("a")], RESOURCE, leader_uid="uid-a") == []


def test_nobody_is_a_candidate_of_an_election_that_is_deleted():
    """Candidates lose their label, too."""
    pods = [make_pod("a", **STANDS), make_pod("b")]
    assert markings(pods, DELETING, leader_uid="") == [Marking(pods[0], None)]


def test_whoever_shows_the_label_is_found():
    """The selector does not matter: a pod may have left it with the label on."""
    pods = [
        make_pod("a", **LEADS),
        make_pod("b", **STANDS),
        make_pod("c", labels={LABEL: "leader"}),
    ]
    assert names(labelled(pods, RESOURCE)) == ["a", "c"]


@pytest.mark.parametrize(
    ("values", "expected"),
    (
        (LEADS, True),
        (LEADS | {"annotations": {TOKEN: "4"}}, False),
        (LEADS | {"annotations": {}}, False),
        (STANDS | {"annotations": {TOKEN: "5"}}, False),
    ),
)
def test_a_leader_shows_label_and_token(values, expected):
    """The label with the token of another term is not this term's."""
    assert shows(make_pod("a", **values), RESOURCE, 5) is expected
