"""What the plugin tells about an election and its pods."""

import re
from datetime import UTC, datetime

import pytest

from incumbent.kubectl import describe
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import EXCLUDE, PRIORITY, STEP_DOWN, resource_from

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LABEL = "incumbent.dev/web"


def pod(name, *, label="candidate", **fields):
    """Return a pod that can lead, but for the fields that are given."""
    labels = {"app": "web"} | ({LABEL: label} if label else {})
    known = {"labels": labels, "created": "2026-11-24T11:00:00Z"} | fields
    return Pod("shop", name, f"uid-{name}", "1", **known)


def election(*, leader="a", ready=("True", "Leading", "pod a leads"), annotations=None, **spec):
    """Return an election that the pod `a` leads, unless something else is said."""
    status = {
        "observedGeneration": 1,
        "state": "Leader",
        "holder": "here/shop/a",
        "token": 7,
        "transitions": 2,
        "site": "here",
        "steward": {"replica": "replica-1", "revision": 7},
        "bucket": {"name": "B", "ttlSeconds": 30, "replicas": 3},
        "key": "shop.web",
        "labelKey": LABEL,
        "conditions": [
            condition("Ready", *ready),
            condition("BucketReady", "True", "BucketFound", "records live 30 s"),
            condition("LabelsInSync", "True", "LabelsWritten", "as it should be"),
        ],
    }
    if leader:
        status["leader"] = {
            "podName": leader,
            "podUID": f"uid-{leader}",
            "nodeName": "node-1",
            "podIP": "10.0.0.1",
            "acquiredTime": "2026-11-24T11:58:00Z",
        }
    return {
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "u",
            "generation": 1,
            "annotations": annotations or {},
        },
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
        "status": status,
    }


def condition(kind, status, reason, message):
    """Return a condition."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-24T11:58:00Z",
    }


def standings(body, pods):
    """Return note and label of every pod, in order."""
    found = describe.standings(body, resource_from(body, default_bucket=""), pods)
    return [(standing.pod.name, standing.note) for standing in found]


def test_leader_first_then_who_is_next():
    """The order of the candidates is that of the operator's choice."""
    pods = [
        pod("c", created="2026-11-24T11:00:02Z"),
        pod("b", created="2026-11-24T11:00:01Z"),
        pod("a", label="leader"),
        pod("d", ready=False, label=""),
    ]
    assert standings(election(), pods) == [
        ("a", "leads"),
        ("b", "next"),
        ("c", ""),
        ("d", "it is not ready"),
    ]


def test_priority_decides_who_is_next():
    """The annotation counts more than age."""
    pods = [pod("a", label="leader"), pod("b"), pod("c", annotations={PRIORITY: "1"})]
    assert standings(election(), pods)[1] == ("c", "next")


@pytest.mark.parametrize("spec", ({"mode": "Observed"}, {"suspend": True}))
def test_nobody_is_next_where_that_cannot_be_known(spec):
    """Where members campaign themselves, and while an election is suspended."""
    notes = dict(standings(election(leader="", **spec), [pod("a"), pod("b")]))
    assert set(notes.values()) == {""}


@pytest.mark.parametrize(
    ("fields", "why"),
    (
        ({"terminating": True}, "it is terminating"),
        ({"phase": "Pending"}, "its phase is Pending"),
        ({"annotations": {EXCLUDE: "true"}}, f"its annotation {EXCLUDE} excludes it"),
        ({"labels": {LABEL: "candidate"}}, "it does not match the selector"),
    ),
)
def test_why_a_pod_cannot_lead(fields, why):
    """Each pod that cannot lead has the reason."""
    assert dict(standings(election(), [pod("a", label="leader"), pod("b", **fields)]))["b"] == why


def test_a_wrong_leader_label_is_told():
    """A pod that carries the label and does not lead is seen at once, whatever else it is."""
    pods = [
        pod("a", label="leader"),
        pod("b", label="leader"),
        pod("c", label="leader", ready=False),
    ]
    notes = dict(standings(election(), pods))
    assert notes["b"] == "next and carries the leader label, but does not lead"
    assert notes["c"] == "it is not ready and carries the leader label, but does not lead"
    assert dict(standings(election(suspend=True), pods[:2]))["b"] == (
        "carries the leader label, but does not lead"
    )


def test_a_leader_that_cannot_lead():
    """The leader keeps its place, with the reason why it will not."""
    notes = dict(standings(election(), [pod("a", label="leader", ready=False)]))
    assert notes == {"a": "leads, but it is not ready"}


def screen(body, pods=(), events=()):
    """Return the screen."""
    resource = resource_from(body, default_bucket="")
    return "\n".join(describe.screen(body, resource, pods, events, NOW))


def test_the_screen():
    """It says who, where, since when, with which token, and how the bucket is."""
    event = {
        "metadata": {},
        "eventTime": "2026-11-24T11:58:00.5Z",
        "type": "Normal",
        "reason": "LeaderElected",
        "note": "pod a leads with token 7",
    }
    text = screen(election(), [pod("a", label="leader"), pod("b")], [event])
    assert text.splitlines() == [
        "Election:    shop/web",
        "Leader:      a on node-1, 10.0.0.1",
        "Since:       2026-11-24T11:58:00Z (2m)",
        "Token:       7",
        "Holder:      here/shop/a",
        "Steward:     replica-1 of site here",
        "Bucket:      B (TTL 30 s, replicas 3, healthy)",
        "Key:         shop.web",
        "Label:       incumbent.dev/web=leader",
        "Transitions: 2",
        "",
        "Pods:",
        "  POD   CAN LEAD   LABEL       PRIORITY   AGE   NOTE",
        "  a     yes        leader      0          60m   leads",
        "  b     yes        candidate   0          60m   next",
        "",
        "Conditions:",
        "  CONDITION      STATUS   SINCE   REASON          MESSAGE",
        "  Ready          True     2m      Leading         pod a leads",
        "  BucketReady    True     2m      BucketFound     records live 30 s",
        "  LabelsInSync   True     2m      LabelsWritten   as it should be",
        "",
        "Events:",
        "  AGO    TYPE     REASON          NOTE",
        "  119s   Normal   LeaderElected   pod a leads with token 7",
    ]


def test_the_screen_of_an_election_that_nobody_serves():
    """It says that no operator has looked at it yet."""
    body = election() | {"status": {}}
    text = screen(body)
    assert (
        "Leader:      nobody: no operator has seen this election yet: see whether one runs" in text
    )
    assert "Bucket:      not known yet (NotServed: no operator has" in text
    assert "Pods: none matches the selector app in (web)" in text
    ready = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NotServed",
        "message": "no operator has seen it",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }
    text = screen(body | {"status": {"observedGeneration": -1, "conditions": [ready]}})
    assert re.search(r"Ready +Unknown +<unknown> +NotServed", text)


def test_the_screen_of_an_election_that_is_led_elsewhere():
    """The holder says where."""
    body = election(leader="", ready=("True", "LedElsewhere", "x holds the record"))
    del body["status"]["steward"]
    text = screen(body)
    assert "Leader:      elsewhere" in text
    assert "Steward:     none at this site (here)" in text


def test_the_screen_tells_what_is_under_way():
    """Mode, suspension and a request to step down are seen."""
    text = screen(election(annotations={STEP_DOWN: "b"}, mode="Observed", suspend=True))
    assert "shop/web (the members campaign themselves, suspended)" in text
    assert "Requested:   that the leader steps down for b" in text


def test_what_may_not_be_read_is_a_sentence():
    """Without the right to see pods or events the rest is shown."""
    text = screen(election(), "no right to pods", "no right to events")
    assert "Pods: no right to pods" in text
    assert text.endswith("Events: no right to events")
    body = election()
    resource = resource_from(body, default_bucket="")
    data = describe.data(body, resource, "no", "no")
    assert data["pods"] is data["events"] is None


def test_an_event_as_data():
    """Programs rely on these names."""
    told = {"type": "Normal", "reason": "LeaderElected", "note": "pod a leads with token 7"}
    event = {**told, "metadata": {}, "eventTime": "2026-11-24T11:58:00.5Z"}
    event["reportingInstance"] = "incumbent-0"
    body = election()
    data = describe.data(body, resource_from(body, default_bucket=""), [], [event])
    (found,) = data["events"]
    assert {**found, "time": ""} == {**told, "reporter": "incumbent-0", "time": ""}
    assert found["time"].startswith("2026-11-24T11:58:00")


def test_the_same_as_data():
    """Programs get everything that the screen shows."""
    body = election()
    pods = [pod("a", label="leader"), pod("b"), pod("c", ready=False, label="")]
    data = describe.data(body, resource_from(body, default_bucket=""), pods, [])
    assert data["apiVersion"] == "kubectl.incumbent.dev/v1"
    assert data["leader"]["pod"] == "a"
    assert data["leader"]["token"] == data["token"] == 7
    assert [(one["name"], one["eligible"], one["next"]) for one in data["pods"]] == [
        ("a", True, False),
        ("b", True, True),
        ("c", False, False),
    ]
    assert data["pods"][2]["reason"] == "it is not ready"
    assert data["conditions"] == body["status"]["conditions"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    (
        (election(), "web is led by the pod a"),
        (
            election(leader="", ready=("True", "LedElsewhere", "x holds the record")),
            "web is led elsewhere: x holds the record",
        ),
        (
            election(leader="", ready=("False", "NoCandidates", "no pod matches")),
            "Nobody leads web: no pod matches (NoCandidates)",
        ),
    ),
)
def test_why_the_pod_does_not_lead(body, sentence):
    """One sentence says who leads instead, or why nobody does."""
    assert describe.nobody("web", body) == sentence
