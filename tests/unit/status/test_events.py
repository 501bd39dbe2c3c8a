"""Which changes are told as Kubernetes events, and the questions of replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from incumbent.campaign.records import State
from incumbent.status.events import KubernetesEvent, events_from
from incumbent.status.fields import status_from
from incumbent.status.situation import Problem
from situations import (
    NOBODY,
    NOW,
    SUSPENDED,
    UNREACHABLE,
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
    situation,
    strange,
)


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
