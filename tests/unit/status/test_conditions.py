from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fakecluster import make_election, make_pod
from incumbent.campaign.records import BucketInfo, Record, State
from incumbent.campaign.succession import Awaited, Settlement
from incumbent.errors import (
    AdmissionDenied,
    BucketDenied,
    BucketInvalid,
    BucketNotFound,
    BucketUnreachable,
    CampaignInvalid,
    ConfigurationError,
    Forbidden,
    Refused,
)
from incumbent.kubernetes.resource import resource_from
from incumbent.status.conditions import (
    KubernetesEvent,
    Problem,
    Situation,
    events_from,
    problem_from,
    status_from,
)

CRD = Path(__file__).parents[3] / "crds/leaderelections.yaml"
BORN = {"observedGeneration": -1}
RESOURCE = resource_from(make_election(), default_bucket="LEADER_ELECTION")
SUSPENDED = resource_from(make_election(spec={"suspend": True}), default_bucket="LEADER_ELECTION")
BUCKET = BucketInfo(
    name="LEADER_ELECTION",
    ttl=30.0,
    history=1,
    replicas=3,
    created="2026-01-01T00:00:00.123456789Z",
    markers=True,
    mirror=False,
    clustered=True,
    server_time=0.0,
)
A, B = make_pod("a"), make_pod("b")
UNREACHABLE = Problem("BucketUnreachable", "NATS does not answer")
EARLIER, NOW, LATER = (f"2026-01-01T0{hour}:00:00Z" for hour in range(3))

# What can be the case


def record_of(pod, term, revision=None):
    return Record(
        revision or term,
        f"here/shop/{pod.name}",
        term,
        replica="r-1/nonce",
        site="here/uid",
        pod_uid=pod.uid,
    )


def strange(holder, revision):
    return Record(revision, holder, term=revision)


def situation(**values):
    """Return a vacancy with three candidates, unless `values` say otherwise."""
    defaults = {
        "resource": RESOURCE,
        "site": "here",
        "state": State.CANDIDATE,
        "seen": True,
        "record": None,
        "ours": False,
        "leader": None,
        "total": 3,
        "ready": 3,
        "steward": "",
        "bucket": BUCKET,
        "problem": None,
        "unlabelled": "",
    }
    return Situation(**{**defaults, **values})


def led_by(pod, term, revision=None, **values):
    return situation(
        **{
            "state": State.LEADER,
            "record": record_of(pod, term, revision),
            "ours": True,
            "leader": pod,
            "steward": "r-1",
            **values,
        }
    )


def led_elsewhere(term=40, holder="there/shop/x", revision=None):
    record = Record(revision or term, holder, term, replica="r-9/n", site="there/uid", pod_uid="x")
    return situation(record=record)


def led_by_stranger(revision, holder="member.example.net"):
    return situation(record=strange(holder, revision))


VACANT = situation()
UNSEEN = situation(seen=False, pods_seen=False, state=State.UNKNOWN, total=0, ready=0, bucket=None)
NOBODY = situation(total=0, ready=0)


def history(*situations, born=BORN):
    """Return the statuses that situations in a row lead to, the first one included."""
    statuses = [born]
    for hour, case in enumerate(situations):
        statuses.append(status_from(case, statuses[-1], f"2026-01-01T0{hour}:00:00Z"))
    return statuses


def latest(*situations, born=BORN):
    return history(*situations, born=born)[-1]


def condition(status, kind):
    return next(one for one in status["conditions"] if one["type"] == kind)


def judged(case, kind):
    found = condition(latest(case), kind)
    return found["status"], found["reason"]


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


records = st.one_of(
    st.none(),
    st.builds(record_of, st.sampled_from([A, B]), st.integers(1, 3), st.integers(3, 9)),
    st.builds(strange, st.sampled_from(["m", "here/shop/a"]), st.integers(1, 9)),
)
problems = st.none() | st.builds(
    Problem,
    st.sampled_from(["KeyInUse", "BucketUnreachable", "PermissionDenied"]),
    st.just("it is so"),
    st.booleans(),
)
situations = st.builds(
    situation,
    resource=st.sampled_from([RESOURCE, SUSPENDED, replace(RESOURCE, generation=2)]),
    state=st.sampled_from(State),
    seen=st.booleans(),
    record=records,
    ours=st.booleans(),
    leader=st.sampled_from([None, A, B]),
    total=st.integers(0, 2),
    ready=st.integers(0, 2),
    steward=st.sampled_from(["", "r-1", "r-2"]),
    bucket=st.sampled_from([None, BUCKET]),
    problem=problems,
    unlabelled=st.sampled_from(["", "it failed"]),
)
odd_statuses = st.sampled_from([{}, BORN, {"conditions": []}, {"transitions": 5, "token": 2}])
statuses = st.one_of(odd_statuses, st.lists(situations, max_size=3).map(lambda s: latest(*s)))


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


# Conditions


@pytest.mark.parametrize(
    ("case", "verdict", "words"),
    (
        (led_by(A, 5), ("True", "Leading"), "pod a leads"),
        (led_by(A, 5, problem=UNREACHABLE), ("True", "Leading"), "pod a leads"),
        (led_elsewhere(), ("True", "LedElsewhere"), "there/shop/x holds the record"),
        (led_by_stranger(5), ("True", "LedElsewhere"), "member.example.net holds the record"),
        (replace(led_elsewhere(), ready=0), ("True", "LedElsewhere"), "there/shop/x"),
        (replace(led_elsewhere(), problem=UNREACHABLE), ("False", "BucketUnreachable"), "NATS"),
        (VACANT, ("False", "Vacant"), "no pod leads; a candidate campaigns"),
        (led_by(A, 5, leader=None), ("False", "Vacant"), "here/shop/a holds the record, but"),
        (NOBODY, ("False", "NoCandidates"), "no pod matches the selector app in (billing)"),
        (situation(ready=0), ("False", "NoCandidates"), "none of 3 matching pods can lead"),
        (led_by(A, 5, leader=None, ready=0), ("False", "NoCandidates"), "none of 3"),
        (situation(resource=SUSPENDED), ("False", "Suspended"), "suspended"),
        (led_by(A, 5, resource=SUSPENDED), ("True", "Leading"), "pod a leads"),
        (led_elsewhere(holder="x\n\x1b[2J"), ("True", "LedElsewhere"), r"x\n\x1b[2J holds"),
        (
            situation(resource=SUSPENDED, problem=Problem("KeyInUse", "taken")),
            ("False", "Suspended"),
            "suspended",
        ),
        (situation(problem=UNREACHABLE), ("False", "BucketUnreachable"), "NATS does not answer"),
        (UNSEEN, ("Unknown", "Starting"), "not been seen yet"),
        (replace(UNSEEN, problem=UNREACHABLE), ("False", "BucketUnreachable"), "NATS"),
    ),
)
def test_ready_says_whether_somebody_leads(case, verdict, words):
    """Here or elsewhere; and if nobody does, why."""
    assert judged(case, "Ready") == verdict
    assert words in condition(latest(case), "Ready")["message"]


def waiting(awaited, *, until="12:34:56", holder="", **values):
    """Return a vacancy in which the next leader waits."""
    settlement = Settlement(1.0, awaited, holder)
    return situation(waits=settlement, waits_until=f"2026-01-01T{until}Z", **values)


@pytest.mark.parametrize(
    ("awaited", "holder", "why"),
    (
        (Awaited.MEMBER, "there/x", "there/x may lead until then: it lost the record and did not"),
        (Awaited.STRANGER, "x\n", r"x\n keeps no deadline and may not know yet"),
        (Awaited.UNKNOWN, "", "somebody may lead until then whose record this operator did not"),
        (Awaited.EARLIER, "", "an earlier holder of the record may lead until then"),
        (Awaited.CAMPAIGN, "", "promotion is NextCampaign"),
    ),
)
def test_a_holder_that_waits_says_why_and_until_when(awaited, holder, why):
    """In one sentence."""
    case = waiting(awaited, holder=holder, record=record_of(A, 5), ours=True, steward="r-1")

    message = condition(latest(case), "Ready")["message"]
    assert message.startswith("here/shop/a holds the record, but is not labelled yet: it waits")
    assert f"until 12:34:56Z because {why}" in message


def test_a_candidate_whose_record_was_deleted_says_until_when_others_go_first():
    """Then it campaigns."""
    assert condition(latest(waiting(Awaited.OTHERS)), "Ready")["message"] == (
        "no pod leads; a candidate campaigns: it waits until 12:34:56Z because somebody deleted the"
        " record, and other members go first"
    )


@pytest.mark.parametrize(
    ("first", "second", "said"),
    (
        ("12:34:56", "12:34:58", "12:34:56"),
        ("12:34:56", "12:34:52", "12:34:56"),
        ("23:59:59", "00:00:01", "23:59:59"),
        ("12:34:56", "12:35:26", "12:35:26"),
    ),
)
def test_replicas_that_differ_by_seconds_about_a_wait_do_not_correct_each_other(
    first, second, said
):
    """Another wait is news."""
    one, other = (waiting(Awaited.OTHERS, until=until) for until in (first, second))

    assert f"until {said}Z" in condition(latest(one, other), "Ready")["message"]


@pytest.mark.parametrize(
    "reason",
    (
        "KeyInUse",
        "LabelKeyInUse",
        "BucketNotFound",
        "BucketInvalid",
        "BucketUnreachable",
        "PermissionDenied",
        "TokenRegressed",
    ),
)
def test_a_problem_is_the_reason_why_nobody_leads(reason):
    """With its own sentence."""
    ready = condition(latest(situation(problem=Problem(reason, "so it is"))), "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("False", reason, "so it is")


@pytest.mark.parametrize(
    ("case", "verdict", "words"),
    (
        (VACANT, ("True", "BucketFound"), "30 s"),
        (UNSEEN, ("Unknown", "Starting"), "not been seen"),
        (situation(problem=UNREACHABLE), ("False", "BucketUnreachable"), "NATS does not answer"),
        (
            situation(problem=Problem("KeyInUse", "taken", of_bucket=False)),
            ("True", "BucketFound"),
            "30 s",
        ),
        (situation(bucket=replace(BUCKET, history=5)), ("True", "BucketAtRisk"), "it is 5"),
        (situation(bucket=replace(BUCKET, ttl=4.9)), ("True", "BucketAtRisk"), "4.9 s"),
        (situation(bucket=replace(BUCKET, ttl=5.0)), ("True", "BucketFound"), "5 s"),
        (situation(bucket=replace(BUCKET, ttl=60.0)), ("True", "BucketFound"), "60 s"),
        (situation(bucket=replace(BUCKET, ttl=61.0)), ("True", "BucketAtRisk"), "61 s"),
        (situation(bucket=replace(BUCKET, replicas=1)), ("True", "BucketAtRisk"), "one replica"),
        (
            situation(bucket=replace(BUCKET, replicas=1, clustered=False)),
            ("True", "BucketFound"),
            "30 s",
        ),
        (situation(bucket=replace(BUCKET, markers=False)), ("True", "BucketAtRisk"), "markers"),
        (
            situation(bucket=replace(BUCKET, history=2, markers=False)),
            ("True", "BucketAtRisk"),
            "it is 2; without",
        ),
    ),
)
def test_bucket_ready_warns_of_what_works_but_should_not_stay(case, verdict, words):
    """And says what is wrong when it does not work."""
    assert judged(case, "BucketReady") == verdict
    assert words in condition(latest(case), "BucketReady")["message"]


@pytest.mark.parametrize(
    ("case", "verdict", "words"),
    (
        (VACANT, ("True", "CandidatesFound"), "3 of 3 pods can lead"),
        (situation(ready=0), ("False", "NoCandidates"), "none of 3"),
        (NOBODY, ("False", "NoCandidates"), "no pod matches"),
        (UNSEEN, ("Unknown", "Starting"), "not been seen"),
        (situation(seen=False, ready=2), ("True", "CandidatesFound"), "2 of 3 pods can lead"),
    ),
)
def test_candidates_ready_counts(case, verdict, words):
    """One candidate is enough."""
    assert judged(case, "CandidatesReady") == verdict
    assert words in condition(latest(case), "CandidatesReady")["message"]


@pytest.mark.parametrize(
    ("case", "verdict"),
    (
        (VACANT, ("True", "LabelsWritten")),
        (situation(unlabelled="a right is missing"), ("False", "LabelsNotWritten")),
        (situation(contested="again and again"), ("False", "LabelsContested")),
        (UNSEEN, ("Unknown", "Starting")),
    ),
)
def test_labels_in_sync_says_what_keeps_labels_from_being_written(case, verdict):
    """With the sentence of the error."""
    assert judged(case, "LabelsInSync") == verdict
    assert case.unlabelled in condition(latest(case), "LabelsInSync")["message"]


@pytest.mark.parametrize(
    ("problem", "verdict"),
    (
        (None, ("False", "NotStalled")),
        (UNREACHABLE, ("False", "NotStalled")),
        (Problem("BucketNotFound", "none"), ("True", "BucketNotFound")),
        (Problem("BucketInvalid", "bad"), ("True", "BucketInvalid")),
        (Problem("PermissionDenied", "no"), ("True", "PermissionDenied")),
        (Problem("KeyInUse", "taken"), ("True", "KeyInUse")),
        (Problem("LabelKeyInUse", "taken"), ("True", "LabelKeyInUse")),
        (Problem("SiteInUse", "a copy", of_bucket=False), ("True", "SiteInUse")),
    ),
)
def test_stalled_calls_for_a_person(problem, verdict):
    """An unreachable bucket comes back by itself, the rest does not."""
    assert judged(situation(problem=problem), "Stalled") == verdict


@pytest.mark.parametrize(
    ("error", "reason", "of_bucket"),
    (
        (BucketNotFound("x"), "BucketNotFound", True),
        (BucketDenied("x"), "PermissionDenied", True),
        (BucketInvalid("x"), "BucketInvalid", True),
        (ConfigurationError("x"), "BucketInvalid", True),
        (CampaignInvalid("x"), "CampaignInvalid", False),
        (BucketUnreachable("x"), "BucketUnreachable", True),
        (Forbidden("x"), "PermissionDenied", False),
        (AdmissionDenied("x"), "AdmissionDenied", False),
        (Refused("x"), "AdmissionDenied", False),
    ),
)
def test_an_error_becomes_a_reason(error, reason, of_bucket):
    """And keeps its sentence; what the API server refuses is not the bucket's fault."""
    assert problem_from(error) == Problem(reason, "x", of_bucket)


# Events


def told(*situations, evicted=False):
    """Return the events of the last step."""
    before, after = history(*situations)[-2:]
    return events_from(before, after, evicted=evicted)


def kinds(*situations, evicted=False):
    return [(event.kind, event.reason) for event in told(*situations, evicted=evicted)]


ELECTED = ("Normal", "LeaderElected")
HANDED_OVER = ("Normal", "HandedOver")
RELEASED = ("Normal", "Released")
LOST = ("Warning", "LeaderLost")
NO_CANDIDATES = ("Warning", "NoCandidates")


@pytest.mark.parametrize(
    ("situations", "expected"),
    (
        pytest.param([led_by(A, 5)], [ELECTED], id="the first leader"),
        pytest.param([VACANT, led_by(A, 5)], [ELECTED], id="a leader after a vacancy"),
        pytest.param([led_by(A, 5), led_by(A, 5, 9)], [], id="a renewal"),
        pytest.param([led_by(A, 5), led_by(A, 5, steward="r-2")], [], id="another steward"),
        pytest.param([led_by(A, 5), led_by(A, 5, ready=1)], [], id="fewer candidates"),
        pytest.param([led_by(A, 5), led_by(A, 5, problem=UNREACHABLE)], [], id="NATS blinks"),
        pytest.param([led_by(A, 5), UNSEEN], [], id="a restart"),
        pytest.param([led_by(A, 5), UNSEEN, led_by(A, 5, 9)], [], id="after a restart"),
        pytest.param([led_by(A, 5), led_by(B, 9)], [HANDED_OVER], id="a hand-over"),
        pytest.param(
            [led_by(A, 5), led_by(replace(A, uid="anew"), 9)],
            [HANDED_OVER],
            id="a hand-over to a pod of the same name",
        ),
        pytest.param([led_by(A, 5), led_by(A, 9)], [ELECTED], id="the same pod in a new term"),
        pytest.param(
            [led_by(A, 5), situation(ready=0)], [RELEASED, NO_CANDIDATES], id="all unready"
        ),
        pytest.param([led_by(A, 5), NOBODY], [RELEASED, NO_CANDIDATES], id="scale to zero"),
        pytest.param([VACANT, NOBODY], [NO_CANDIDATES], id="the last candidate goes"),
        pytest.param([NOBODY], [NO_CANDIDATES], id="an election without pods"),
        pytest.param([NOBODY, situation(ready=0)], [], id="there are still no candidates"),
        pytest.param([NOBODY, VACANT], [], id="candidates come"),
        pytest.param([led_by(A, 5), situation(resource=SUSPENDED)], [RELEASED], id="a suspension"),
        pytest.param([led_by(A, 5), VACANT], [LOST], id="a loss"),
        pytest.param([led_by(A, 5), led_elsewhere()], [LOST], id="lost to another site"),
        pytest.param([led_by(A, 5), led_by_stranger(9)], [LOST], id="lost to a stranger"),
        pytest.param([led_elsewhere(40), led_elsewhere(50)], [], id="elsewhere"),
        pytest.param([led_elsewhere(40), led_by(A, 50)], [ELECTED], id="taken over from elsewhere"),
        pytest.param(
            [led_by(A, 5), situation(problem=UNREACHABLE)],
            [LOST, ("Warning", "BucketUnreachable")],
            id="NATS away for too long",
        ),
        pytest.param(
            [situation(problem=UNREACHABLE), situation(problem=UNREACHABLE, ready=1)],
            [],
            id="NATS is still away",
        ),
        pytest.param(
            [situation(problem=Problem("KeyInUse", "taken"))],
            [("Warning", "KeyInUse")],
            id="a key that is taken",
        ),
    ),
)
def test_each_change_is_one_event(situations, expected):
    """What a person wants to know, and nothing while nothing happens."""
    assert kinds(*situations) == expected


def test_an_eviction_is_told_as_such():
    """Somebody wanted it, so it is not a loss; who follows was elected."""
    evicted = ("Warning", "Evicted")
    assert kinds(led_by(A, 5), VACANT, evicted=True) == [evicted]
    assert kinds(led_by(A, 5), led_by(B, 9), evicted=True) == [evicted, ELECTED]
    assert kinds(led_by(A, 5), led_by(A, 9), evicted=True) == [evicted, ELECTED]
    assert kinds(VACANT, led_by(A, 9), evicted=True) == [ELECTED]


def test_events_say_who_and_why():
    """One sentence each, with the pod, the token and the reason."""
    assert told(led_by(A, 5)) == [
        KubernetesEvent("Normal", "LeaderElected", "Elect", "pod a leads with token 5")
    ]
    assert told(led_by(A, 5), led_by(B, 9)) == [
        KubernetesEvent("Normal", "HandedOver", "HandOver", "pod b leads after pod a, with token 9")
    ]
    first, second = (
        situation(record=strange(pod.name, 5), ours=True, leader=pod, state=State.LEADER)
        for pod in (A, B)
    )
    assert told(first)[0].note == "pod a leads"
    assert told(first, second)[0].note == "pod b leads after pod a"
    assert told(led_by(A, 5), led_elsewhere()) == [
        KubernetesEvent(
            "Warning",
            "LeaderLost",
            "StepDown",
            "pod a does not lead any more: there/shop/x holds the record for site"
            " there, whose UID is uid",
        )
    ]
    assert told(led_by(A, 5), NOBODY) == [
        KubernetesEvent(
            "Normal",
            "Released",
            "Release",
            "pod a does not lead any more: no pod matches the selector app in (billing)",
        ),
        KubernetesEvent(
            "Warning", "NoCandidates", "Campaign", "no pod matches the selector app in (billing)"
        ),
    ]
    assert told(led_by(A, 5), VACANT, evicted=True) == [
        KubernetesEvent(
            "Warning",
            "Evicted",
            "StepDown",
            "pod a does not lead any more: somebody deleted its record",
        )
    ]


def test_question_of_a_replica_stays_until_somebody_can_answer():
    """A replica that does not see the key keeps it, the steward answers, others drop it."""
    asked = {**latest(led_by(A, 5, process="n1")), "newcomer": "two/n2"}
    assert latest(UNSEEN, born=asked)["newcomer"] == "two/n2"
    assert "newcomer" not in latest(led_elsewhere(), born=asked)
    answered = latest(led_by(A, 5, process="n1"), born=asked)
    assert "newcomer" not in answered
    assert answered["steward"]["admitted"] == "two/n2"
    assert latest(led_by(A, 5, process="n1"), born=answered) == answered


def test_answer_of_an_earlier_steward_is_not_repeated():
    """Another process has not seen the question; nor is a question an answer to itself."""
    asked = {**latest(led_by(A, 5, process="n1")), "newcomer": "r-1/n3"}
    answered = latest(led_by(A, 5, process="n1"), born=asked)
    assert answered["steward"]["admitted"] == "r-1/n3"
    assert "admitted" not in latest(led_by(A, 5, process="n3"), born=answered)["steward"]
    assert "admitted" not in latest(led_by(A, 5, process="n3"), born=asked)["steward"]


def test_first_word_of_an_operator_is_new_whatever_the_definition_says():
    """The time of a condition that nobody has judged means nothing."""
    unserved = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NotServed",
        "message": "no operator has seen this election yet",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }
    born = {"observedGeneration": -1, "conditions": [unserved]}
    found = condition(status_from(UNSEEN, born, NOW), "Ready")
    assert (found["reason"], found["lastTransitionTime"]) == ("Starting", NOW)
    assert events_from(born, status_from(UNSEEN, born, NOW)) == []
