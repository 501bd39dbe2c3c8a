"""What each condition says."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
from incumbent.status.situation import Problem, problem_from
from situations import (
    BUCKET,
    NOBODY,
    SUSPENDED,
    UNREACHABLE,
    UNSEEN,
    VACANT,
    A,
    condition,
    latest,
    led_by,
    led_by_stranger,
    led_elsewhere,
    record_of,
    situation,
)


def judged(case, kind):
    found = condition(latest(case), kind)
    return found["status"], found["reason"]


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
