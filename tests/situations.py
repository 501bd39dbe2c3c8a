"""Situations of an election, and what its status says in them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from fakecluster import make_election, make_pod
from incumbent.campaign.records import BucketInfo, Record, State
from incumbent.kubernetes.resource import resource_from
from incumbent.status.fields import status_from
from incumbent.status.situation import Problem, Situation

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
