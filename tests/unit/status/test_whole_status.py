"""The whole status: what is in it, what is counted, and what stays."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fakecluster import make_pod
from incumbent.status.events import events_from
from incumbent.status.fields import status_from
from situations import (
    BORN,
    EARLIER,
    LATER,
    NOBODY,
    NOW,
    RESOURCE,
    UNSEEN,
    VACANT,
    A,
    B,
    condition,
    history,
    latest,
    led_by,
    led_by_stranger,
    led_elsewhere,
    situations,
    statuses,
)

CRD = Path(__file__).parents[3] / "crds/leaderelections.yaml"


# The whole


def test_the_first_status_says_everything():
    """Who leads, since when, who answers for it, where the record is, and what is in use."""
    status = status_from(led_by(A, 7, 9), BORN, NOW)
    conditions = status.pop("conditions")
    assert status == {
        "observedGeneration": 1,
        "state": "Leader",
        "holder": "here/shop/a",
        "leader": {
            "podName": "a",
            "podUID": "uid-a",
            "nodeName": "node-1",
            "podIP": "10.0.0.1",
            "acquiredTime": NOW,
        },
        "token": 7,
        "transitions": 1,
        "candidates": {"total": 3, "ready": 3},
        "steward": {"replica": "r-1", "revision": 9},
        "bucket": {
            "name": "LEADER_ELECTION",
            "ttlSeconds": 30,
            "replicas": 3,
            "createdTime": "2026-01-01T00:00:00.123456789Z",
        },
        "key": "shop.billing",
        "labelKey": "incumbent.dev/billing",
        "site": "here",
    }
    assert {one["type"]: one["status"] for one in conditions} == {
        "Ready": "True",
        "BucketReady": "True",
        "CandidatesReady": "True",
        "LabelsInSync": "True",
        "Stalled": "False",
    }
    assert {one["observedGeneration"] for one in conditions} == {1}
    assert {one["lastTransitionTime"] for one in conditions} == {NOW}


def test_what_is_not_there_is_left_out():
    """Without a record there is neither holder nor steward, and without a leader no pod."""
    assert not {"holder", "steward", "leader", "token"} & latest(VACANT).keys()
    unscheduled = make_pod("a", node="", ip="")
    assert latest(led_by(unscheduled, 7))["leader"].keys() == {"podName", "podUID", "acquiredTime"}


@given(situations, statuses)
def test_a_status_is_equal_when_nothing_has_changed(case, before):
    """A second look writes nothing, whenever it comes and whatever was there before."""
    once = status_from(case, before, NOW)
    assert status_from(case, once, LATER) == once
    assert events_from(once, once) == []


@given(situations, statuses)
def test_replicas_agree_in_all_but_the_steward(case, before):
    """Whoever writes the status writes the same sentences, so that nobody corrects a peer."""
    mine = status_from(replace(case, steward="r-1"), before, NOW)
    other = status_from(replace(case, steward="r-2"), before, NOW)
    assert {**mine, "steward": None} == {**other, "steward": None}


@given(situations, statuses)
def test_a_status_fits_into_the_schema(case, before):
    """What the schema does not know would be dropped, and written again at every look."""
    assert list(misfits(status_from(case, before, NOW), schema())) == []


@functools.cache
def schema():
    crd = yaml.safe_load(CRD.read_text())
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]


def misfits(value, known, path="status"):
    """Yield what does not fit into a structural schema, as far as a status uses it."""
    types = {"object": dict, "array": list, "string": str, "integer": int}
    if not isinstance(value, types[known["type"]]):
        yield f"{path}: {value!r}"
    elif known["type"] == "object":
        fields = known["properties"]
        yield from (f"{path}.{name} is unknown" for name in value.keys() - fields.keys())
        missing = set(known.get("required", ())) - value.keys()
        yield from (f"{path}.{name} is missing" for name in missing)
        for name in value.keys() & fields.keys():
            yield from misfits(value[name], fields[name], f"{path}.{name}")
    elif known["type"] == "array":
        for one in value:
            yield from misfits(one, known["items"], f"{path}[]")
    elif known["type"] == "integer":
        if value < known.get("minimum", value):
            yield f"{path}: {value}"
    elif value not in known.get("enum", [value]) or not re.search(known.get("pattern", ""), value):
        yield f"{path}: {value!r}"


def test_the_schema_check_can_fail():
    """It finds each kind of misfit."""
    wrong = {
        "state": "Boss",
        "token": "7",
        "transitions": -1,
        "leader": {"podName": "a"},
        "more": 1,
        "conditions": [{"reason": "two words"}],
    }
    assert len(list(misfits(wrong, schema()))) == 10


# Reigns


def accepting(case):
    """The same for a resource that accepts lower tokens."""
    return replace(case, resource=replace(RESOURCE, accepts_lower_tokens=True))


@pytest.mark.parametrize(
    ("situations", "transitions"),
    (
        pytest.param([VACANT], 0, id="nobody led so far"),
        pytest.param([led_by(A, 5), led_by(A, 5, 9), led_by(A, 5, 20)], 1, id="renewals"),
        pytest.param([led_by(A, 5), led_by(B, 9)], 2, id="a hand-over"),
        pytest.param([led_by(A, 5), led_by(A, 9)], 2, id="a new term of the same holder"),
        pytest.param(
            [led_by(A, 5), led_by(replace(A, uid="anew"), 9)], 2, id="a pod that was made anew"
        ),
        pytest.param([led_by(A, 5), VACANT, led_by(B, 9)], 2, id="a vacancy between"),
        pytest.param([led_by(A, 5), VACANT, led_by(A, 5)], 1, id="a vacancy that was none"),
        pytest.param([led_by(A, 5), UNSEEN, led_by(A, 5, 9)], 1, id="a restart"),
        pytest.param([led_by(A, 5), UNSEEN, led_by(B, 9)], 2, id="a hand-over while away"),
        pytest.param([led_by(A, 5), led_elsewhere(40), led_elsewhere(40)], 2, id="to another site"),
        pytest.param(
            [led_by_stranger(5), led_by_stranger(6), led_by_stranger(7)], 1, id="a stranger renews"
        ),
        pytest.param(
            [led_by_stranger(5), led_by_stranger(6, "other")], 2, id="a stranger after another"
        ),
        pytest.param([led_by_stranger(5), VACANT, led_by_stranger(9)], 2, id="a stranger again"),
        pytest.param(
            [led_by(A, 5), led_by_stranger(6), led_by_stranger(8), led_by(A, 9)],
            3,
            id="a stranger between",
        ),
        pytest.param(
            [led_by(A, 40), led_elsewhere(5), led_elsewhere(5)], 2, id="a lower token elsewhere"
        ),
    ),
)
def test_each_new_reign_is_counted_once(situations, transitions):
    """What counts is who leads, not how often the record is written."""
    assert latest(*situations)["transitions"] == transitions


def test_transitions_go_on_from_what_there_is():
    """An operator that starts does not begin to count anew."""
    status = {"transitions": 41, "token": 5, "holder": "here/shop/a"}
    assert latest(led_by(A, 5), born=status)["transitions"] == 41
    assert latest(led_by(A, 9), born=status)["transitions"] == 42


@pytest.mark.parametrize(
    ("situations", "token"),
    (
        ([led_by(A, 5)], 5),
        ([led_by(A, 5), VACANT], 5),
        ([led_by(A, 5), UNSEEN], 5),
        ([led_by(A, 5), led_by_stranger(9)], 5),
        ([led_by(A, 5), led_by_stranger(9), led_by(B, 12)], 12),
        ([led_elsewhere(40)], 40),
        ([led_by(A, 40), led_elsewhere(5)], 40),
        ([led_by(A, 40), accepting(led_by(B, 5))], 5),
    ),
)
def test_the_last_token_is_remembered(situations, token):
    """Strangers have none, a vacancy takes none away, and a lower one has to be accepted."""
    assert latest(*situations)["token"] == token


@pytest.mark.parametrize(
    ("situations", "hour"),
    (
        pytest.param([led_by(A, 5), led_by(A, 5, 9)], 0, id="a renewal"),
        pytest.param([led_by(A, 5), UNSEEN, led_by(A, 5)], 0, id="a restart"),
        pytest.param([led_by(A, 5), led_by(A, 5, 9, steward="r-2")], 0, id="another steward"),
        pytest.param([led_by(A, 5), led_by(B, 9)], 1, id="another pod"),
        pytest.param([led_by(A, 5), led_by(A, 9)], 1, id="another term"),
        pytest.param([led_by(A, 5), led_by(replace(A, uid="anew"), 5)], 1, id="another UID"),
    ),
)
def test_a_term_has_one_beginning(situations, hour):
    """The time is that of the first look at this term of this pod."""
    assert latest(*situations)["leader"]["acquiredTime"] == f"2026-01-01T0{hour}:00:00Z"


@pytest.mark.parametrize(
    ("situations", "steward"),
    (
        pytest.param([led_by(A, 5), led_by(A, 5, 9)], ("r-1", 5), id="a renewal"),
        pytest.param([led_by(A, 5), led_by(A, 5, 9, steward="r-2")], ("r-2", 9), id="a relay"),
        pytest.param(
            [led_by(A, 5), led_by(A, 5, 9, steward="r-2"), led_by(A, 5, 12)],
            ("r-1", 12),
            id="there and back",
        ),
        pytest.param([led_by(A, 5), led_by(B, 9)], ("r-1", 9), id="a new term"),
        pytest.param([led_by(A, 5), UNSEEN], ("r-1", 5), id="a restart"),
    ),
)
def test_the_steward_is_named_with_the_revision_of_its_takeover(situations, steward):
    """Not with the latest one, which changes with every renewal."""
    assert tuple(latest(*situations)["steward"].values()) == steward


def test_only_a_site_that_holds_the_record_has_a_steward():
    """When another site takes over, nobody here answers for the record."""
    assert "steward" not in latest(led_by(A, 5), led_elsewhere())


# What is kept


def test_a_replica_that_sees_nothing_leaves_what_is_known():
    """After a restart, who led still leads as far as anybody knows."""
    before, after = history(led_by(A, 5), UNSEEN)[1:]
    kept = ("holder", "token", "leader", "steward", "candidates", "bucket", "transitions")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_a_vacancy_that_is_seen_ends_what_was():
    """Then nobody leads, and nobody answers for anything."""
    after = latest(led_by(A, 5), VACANT)
    assert not {"holder", "leader", "steward"} & after.keys()


def test_the_bucket_is_known_by_name_before_it_is_seen():
    """That is what a person who has to create it needs."""
    assert latest(UNSEEN)["bucket"] == {"name": "LEADER_ELECTION"}


def test_a_status_says_which_generation_it_is_about():
    """The resource's and every condition's, so that a reader knows whether a change was seen."""
    status = latest(led_by(A, 5), led_by(A, 5, resource=replace(RESOURCE, generation=7)))
    assert status["observedGeneration"] == 7
    assert {one["observedGeneration"] for one in status["conditions"]} == {7}


def test_a_transition_is_a_change_of_status():
    """Another reason or sentence is none, so the time tells for how long it is so."""
    statuses = history(VACANT, NOBODY, led_by(A, 5), led_by(B, 9))
    times = [condition(status, "Ready")["lastTransitionTime"] for status in statuses[1:]]
    assert [time[12] for time in times] == ["0", "0", "2", "2"]


def test_conditions_of_others_do_not_confuse():
    """A condition that is not ours is not carried on, and not taken for one of ours."""
    other = {"type": "Other", "status": "True", "lastTransitionTime": EARLIER}
    status = status_from(VACANT, {"conditions": [other]}, NOW)
    assert [one["type"] for one in status["conditions"]] == [
        "Ready",
        "BucketReady",
        "CandidatesReady",
        "LabelsInSync",
        "Stalled",
    ]


@given(holder=st.text())
def test_a_holder_is_shown_printable_and_not_endless(holder):
    """Whoever can write a key decides what is in it, and must not stop or garble the status."""
    for text in (holder, holder * 200 + "a" * 40_000):
        record = led_elsewhere(holder=text)
        status = latest(record)
        assert latest(record, record) == status
        for shown in (status["holder"], condition(status, "Ready")["message"]):
            assert shown.isprintable()
            assert len(shown) <= 32768
    if holder.isprintable():
        assert latest(led_elsewhere(holder=holder))["holder"] == holder


def test_a_message_is_no_longer_than_the_definition_allows():
    """A webhook may say why it refuses a label in as many words as it likes."""
    case = led_by(A, 5, unlabelled="no " * 20_000)
    assert len(condition(latest(case), "LabelsInSync")["message"]) == 32768
