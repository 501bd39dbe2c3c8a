"""The conditions of a status, as pure functions of what is known and of the status before."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from incumbent.campaign.records import BucketInfo, Record
from incumbent.campaign.succession import Awaited
from incumbent.display import shown
from incumbent.status.situation import Situation

SLOW_PATCH = 1.0
"""Seconds for a patch of a pod from which on the status tells of it; 10 to 30 ms are usual."""

LONGEST_MESSAGE = 32768
"""Characters of a condition's message that the definition allows; a webhook may say any number."""


def ready_in(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return reason and message of the condition `Ready`."""
    return condition_in(status, "Ready")


def condition_in(status: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Return reason and message of a condition."""
    for condition in status.get("conditions", ()):
        if condition["type"] == kind:
            return condition["reason"], condition["message"]
    return "", ""


def conditions_from(
    situation: Situation, before: Mapping[str, Any], now: str
) -> list[dict[str, Any]]:
    """Return all conditions; one whose status stays keeps the time of its last transition."""
    kept = {condition["type"]: condition for condition in before.get("conditions", ())}
    if before.get("observedGeneration", -1) < 0:
        kept = {}  # what the definition says of an election that nobody has seen
    conditions = []
    for kind, (status, reason, message) in (
        ("Ready", _ready_now(situation, before)),
        ("BucketReady", _bucket_ready(situation)),
        ("CandidatesReady", _candidates_ready(situation)),
        ("LabelsInSync", _labels_in_sync(situation)),
        ("RoutingInSync", _routing_in_sync(situation)),
        ("Stalled", _stalled(situation)),
    ):
        if kind == "RoutingInSync" and not situation.resource.service:
            continue
        old = kept.get(kind, {})
        since = old.get("lastTransitionTime", now) if old.get("status") == status else now
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": shown(message, LONGEST_MESSAGE),
                "observedGeneration": situation.resource.generation,
                "lastTransitionTime": since,
            }
        )
    return conditions


_Verdict = tuple[str, str, str]


def _ready_now(situation: Situation, before: Mapping[str, Any]) -> _Verdict:
    record, problem = situation.record, situation.problem
    if problem is not None and problem.bars:
        return "False", problem.reason, problem.message
    if situation.resource.suspend and situation.leader is None:
        return "False", "Suspended", "the election is suspended: no pod of this site leads"
    if problem is not None and situation.leader is None:
        return "False", problem.reason, problem.message
    if situation.leader is not None:
        return "True", "Leading", f"pod {situation.leader.name} leads"
    if not situation.seen:
        return "Unknown", "Starting", _unseen(situation)
    if record is not None and not situation.ours:
        return "True", "LedElsewhere", _led_elsewhere(situation, record)
    if situation.ready == 0:
        return "False", "NoCandidates", _no_candidates(situation)
    if record is not None:
        message = f"{shown(record.holder)} holds the record, but is not labelled yet"
    else:
        message = "no pod leads; a candidate campaigns"
    return "False", "Vacant", _unless_said(message + _wait(situation), before)


_UNTIL = re.compile(r"\buntil (\d\d):(\d\d):(\d\d)Z\b")

_SAME_WAIT = 5
"""Seconds by which two replicas may differ about the end of one wait."""

_DAY = 86400


def _wait(situation: Situation) -> str:
    """Say for what a candidate waits and until when; empty if it does not wait."""
    if situation.waits is None:
        return ""
    other = shown(situation.waits.holder)
    why = {
        Awaited.MEMBER: f"{other} may lead until then: it lost the record and did not release it",
        Awaited.STRANGER: f"{other} keeps no deadline and may not know yet that it lost the record",
        Awaited.UNKNOWN: "somebody may lead until then whose record this operator did not see",
        Awaited.CAMPAIGN: "promotion is NextCampaign",
        Awaited.OTHERS: "somebody deleted the record, and other members go first",
    }.get(situation.waits.awaited, "an earlier holder of the record may lead until then")
    return f": it waits until {situation.waits_until[11:]} because {why}"


def _unless_said(message: str, before: Mapping[str, Any]) -> str:
    """Return a message, or the present one if the two differ by some seconds of a wait only.

    Two replicas that wait for one thing would correct each other.
    """
    said = ready_in(before)[1]
    if _UNTIL.sub("", said) != _UNTIL.sub("", message):
        return message
    ends = [_seconds_of_day(found) for found in map(_UNTIL.search, (said, message)) if found]
    apart = (ends[0] - ends[-1]) % _DAY if ends else 0
    return said if min(apart, _DAY - apart) <= _SAME_WAIT else message


def _seconds_of_day(until: re.Match[str]) -> int:
    hours, minutes, seconds = map(int, until.groups())
    return 3600 * hours + 60 * minutes + seconds


def _unseen(situation: Situation) -> str:
    what = "the key has" if situation.pods_seen else "the key and the pods have"
    return f"{what} not been seen yet"


def _led_elsewhere(situation: Situation, record: Record) -> str:
    """Say who leads, and from where: perhaps nobody meant to share the election with that site."""
    holder = shown(record.holder)
    if situation.resource.observed or not record.site:
        why = f"; {situation.unrecognised}" if situation.unrecognised else ""
        return f"{holder} holds the record{why}"
    uid = shown(record.site.partition("/")[2])
    which = f", whose UID is {uid}" if uid else ""
    return f"{holder} holds the record for site {shown(record.site_name)}{which}"


def _no_candidates(situation: Situation) -> str:
    if situation.total == 0:
        return f"no pod matches the selector {situation.resource.selector}"
    return (
        f"none of {situation.total} matching pods can lead: it has to be running, ready, neither"
        " terminating nor excluded by its annotation"
    )


def _bucket_ready(situation: Situation) -> _Verdict:
    problem = situation.problem
    if situation.barred:
        return "Unknown", "NotRead", "the bucket is not read, because the election is not served"
    if problem is not None and problem.of_bucket:
        return "False", problem.reason, problem.message
    info = situation.bucket
    if info is None:
        return "Unknown", "Starting", "the bucket has not been seen yet"
    warnings = warnings_about(info)
    if warnings:
        return "True", "BucketAtRisk", "; ".join(warnings)
    return "True", "BucketFound", f"records live {info.ttl:g} s"


def warnings_about(info: BucketInfo) -> list[str]:
    """Say what works but should not stay so, as Choria does."""
    warnings = []
    if info.history != 1:
        warnings.append(f"history should be 1, it is {info.history}")
    if info.ttl < 5:  # noqa: PLR2004
        warnings.append(f"a TTL under 5 s ({info.ttl:g} s) makes short disturbances elections")
    if info.ttl > 60:  # noqa: PLR2004
        warnings.append(f"a TTL over 1 minute ({info.ttl:g} s) makes failovers slow")
    if info.clustered and info.replicas == 1:
        warnings.append("one replica in a NATS cluster: losing that server stops all elections")
    if not info.markers:
        warnings.append("without limit markers an expiry is noticed later")
    return [*warnings, *info.risks]


def _candidates_ready(situation: Situation) -> _Verdict:
    if not situation.pods_seen:
        return "Unknown", "Starting", "the pods have not been seen yet"
    if situation.ready == 0:
        return "False", "NoCandidates", _no_candidates(situation)
    return "True", "CandidatesFound", f"{situation.ready} of {situation.total} pods can lead"


def _labels_in_sync(situation: Situation) -> _Verdict:
    if situation.unlabelled:
        return "False", "LabelsNotWritten", situation.unlabelled
    if situation.contested:
        return "False", "LabelsContested", situation.contested
    if not (situation.seen or (situation.barred and situation.pods_seen)):
        return "Unknown", "Starting", _unseen(situation)
    if situation.barred:
        return "True", "LabelsWritten", "no pod has the leader label"
    message = "every pod's label is as it should be"
    if situation.patch_seconds >= SLOW_PATCH:
        message += (
            f", but the last patch of a pod took about {situation.patch_seconds:.0f} s: look for an"
            " admission webhook that is slow"
        )
    if situation.strip_late:
        message += (
            ". The bucket's TTL is too short for that: when NATS is away, another cluster may lead"
            " before the label is gone here"
        )
    return "True", "LabelsWritten", message


def _routing_in_sync(situation: Situation) -> _Verdict:
    obstacle = situation.obstacle
    if obstacle is not None:
        return "False", obstacle.reason, obstacle.message
    if situation.unrouted:
        return "False", "SliceNotWritten", situation.unrouted
    if situation.barred:
        return "Unknown", "NotRouted", "the election is not served, so the Service reaches no pod"
    if not situation.seen:
        return "Unknown", "Starting", _unseen(situation)
    service = situation.resource.service
    return "True", "SliceWritten", f"Service {service} reaches the leader, and no other pod"


def _stalled(situation: Situation) -> _Verdict:
    problem = situation.problem
    if problem is not None and problem.stalls:
        return "True", problem.reason, problem.message
    if situation.obstacle is not None:
        return "True", situation.obstacle.reason, situation.obstacle.message
    return "False", "NotStalled", "nothing needs a person"
