"""The status of a `LeaderElection`, and the events that its changes are: pure functions.

The status never holds what changes while an election is stable: no renewal, no revision, no time
of a look. So a stable election costs the API server nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    ConfigurationError,
    IncumbentError,
)
from incumbent.model import BucketInfo, Pod, Record, State
from incumbent.resource import Resource


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an election cannot work as asked."""

    reason: str
    message: str

    @property
    def stalls(self) -> bool:
        """Whether a person has to act; the others heal when their cause goes away."""
        return self.reason in {"KeyInUse", "LabelKeyInUse", "BucketInvalid", "PermissionDenied"}

    @property
    def of_bucket(self) -> bool:
        """Whether it is about the bucket, not about the resource."""
        return self.reason not in {"KeyInUse", "LabelKeyInUse"}


def problem_from(error: IncumbentError) -> Problem:
    """Name the condition reason of an error."""
    match error:
        case BucketNotFound():
            return Problem("BucketNotFound", str(error))
        case BucketDenied():
            return Problem("PermissionDenied", str(error))
        case BucketInvalid() | ConfigurationError():
            return Problem("BucketInvalid", str(error))
        case BucketError():
            return Problem("BucketUnreachable", str(error))
    return Problem("PermissionDenied", str(error))


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a status is made of."""

    resource: Resource
    site: str
    state: State
    seen: bool
    """Whether the key and the pods have been seen since the start."""
    record: Record | None
    """The live record, whoever wrote it."""
    ours: bool
    """Whether that is a record of this site."""
    leader: Pod | None
    """The pod that carries the leader label by right."""
    total: int
    """Pods that the selector matches."""
    ready: int
    """Candidates among them."""
    steward: str
    """The replica that renewed last, if this site holds the record."""
    bucket: BucketInfo | None
    problem: Problem | None
    unlabelled: str
    """Why the labels are not as they should be; empty if they are."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event about a `LeaderElection`."""

    kind: str
    reason: str
    action: str
    note: str


def status_from(situation: Situation, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the whole new status; equal to `before` if nothing has changed.

    Args:
        situation: what is the case.
        before: the present status.
        now: RFC 3339, for the times of what is new.
    """
    resource, record = situation.resource, situation.record
    leader = situation.leader
    status: dict[str, Any] = {
        "observedGeneration": resource.generation,
        "state": situation.state.name.capitalize(),
        "transitions": before.get("transitions", 0),
        "candidates": {"total": situation.total, "ready": situation.ready},
        "key": resource.record_key,
        "labelKey": resource.label_key,
        "site": situation.site,
        "bucket": {"name": resource.bucket, **_bucket(situation.bucket)},
    }
    if not situation.seen:
        kept = ("holder", "token", "leader", "steward")
        status |= {name: before[name] for name in kept if name in before}
    if record is not None:
        status["holder"] = record.holder
        if not record.stranger:
            status["token"] = record.term
    if situation.steward and record is not None:
        kept = before.get("steward") or {}
        same = kept.get("replica") == situation.steward and before.get("token") == record.term
        revision = kept.get("revision") if same else record.revision
        status["steward"] = {"replica": situation.steward, "revision": revision}
    if leader is not None and record is not None:
        shown = {
            "podName": leader.name,
            "podUID": leader.uid,
            "nodeName": leader.node,
            "podIP": leader.ip,
        }
        kept = before.get("leader") or {}
        same = kept.get("podUID") == leader.uid and before.get("token") == record.term
        shown["acquiredTime"] = kept.get("acquiredTime", now) if same else now
        status["leader"] = {name: value for name, value in shown.items() if value}
    if record is not None and _new_reign(status, before):
        status["transitions"] += 1
    status["conditions"] = _conditions(situation, before, now)
    return status


def events_from(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """Return what a change of status means to a person; one event for one change."""
    events = []
    old, new = before.get("leader"), after.get("leader")
    reason, message = _ready(after)
    old_reason = _ready(before)[0]
    if new and (old or {}).get("podUID") != new["podUID"]:
        name, token = new["podName"], after.get("token")
        if old:
            note = f"pod {name} leads after pod {old['podName']}, with token {token}"
            events.append(Event("Normal", "HandedOver", "HandOver", note))
        else:
            note = f"pod {name} leads with token {token}"
            events.append(Event("Normal", "LeaderElected", "Elect", note))
    elif old and not new:
        planned = reason in {"NoCandidates", "Suspended"}
        note = f"pod {old['podName']} does not lead any more: {message}"
        if planned:
            events.append(Event("Normal", "Released", "Release", note))
        else:
            events.append(Event("Warning", "LeaderLost", "StepDown", note))
    if reason != old_reason:
        if reason == "NoCandidates":
            events.append(Event("Warning", reason, "Campaign", message))
        elif reason in _TROUBLES:
            events.append(Event("Warning", reason, "Connect", message))
    return events


_TROUBLES = frozenset(
    {
        "BucketNotFound",
        "BucketInvalid",
        "BucketUnreachable",
        "PermissionDenied",
        "KeyInUse",
        "LabelKeyInUse",
    }
)


def _bucket(info: BucketInfo | None) -> dict[str, Any]:
    if info is None:
        return {}
    # The server gives nanoseconds; Kubernetes' date-time is satisfied with any.
    return {
        "ttlSeconds": round(info.ttl),
        "replicas": info.replicas,
        "createdTime": info.created,
    }


def _new_reign(status: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether the record names another reign than the last one that the status knew."""
    if "holder" not in before:
        return True
    if status["holder"] != before["holder"]:
        return True
    return "token" in status and status["token"] != before.get("token")


def _ready(status: Mapping[str, Any]) -> tuple[str, str]:
    for condition in status.get("conditions", ()):
        if condition["type"] == "Ready":
            return condition["reason"], condition["message"]
    return "", ""


def _conditions(situation: Situation, before: Mapping[str, Any], now: str) -> list[dict[str, Any]]:
    kept = {condition["type"]: condition for condition in before.get("conditions", ())}
    conditions = []
    for kind, (status, reason, message) in (
        ("Ready", _ready_now(situation)),
        ("BucketReady", _bucket_ready(situation)),
        ("CandidatesReady", _candidates_ready(situation)),
        ("LabelsInSync", _labels_in_sync(situation)),
        ("Stalled", _stalled(situation)),
    ):
        old = kept.get(kind, {})
        since = old.get("lastTransitionTime", now) if old.get("status") == status else now
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "observedGeneration": situation.resource.generation,
                "lastTransitionTime": since,
            }
        )
    return conditions


_Verdict = tuple[str, str, str]


def _ready_now(situation: Situation) -> _Verdict:
    record, problem = situation.record, situation.problem
    if situation.resource.suspend:
        return "False", "Suspended", "the election is suspended: no pod of this site leads"
    if problem is not None and situation.leader is None:
        return "False", problem.reason, problem.message
    if situation.leader is not None:
        return "True", "Leading", f"pod {situation.leader.name} leads"
    if not situation.seen:
        return "Unknown", "Starting", "the key and the pods have not been seen yet"
    if record is not None and not situation.ours:
        return "True", "LedElsewhere", f"{record.holder} holds the record"
    if situation.ready == 0:
        return "False", "NoCandidates", _no_candidates(situation)
    return "False", "Vacant", "no pod leads; a candidate campaigns"


def _no_candidates(situation: Situation) -> str:
    if situation.total == 0:
        return f"no pod matches the selector {situation.resource.selector}"
    return f"none of {situation.total} matching pods is running, ready and not terminating"


def _bucket_ready(situation: Situation) -> _Verdict:
    problem = situation.problem
    if problem is not None and problem.of_bucket:
        return "False", problem.reason, problem.message
    info = situation.bucket
    if info is None:
        return "Unknown", "Starting", "the bucket has not been seen yet"
    warnings = _warnings(info)
    if warnings:
        return "True", "BucketAtRisk", "; ".join(warnings)
    return "True", "BucketFound", f"records live {info.ttl:g} s"


def _warnings(info: BucketInfo) -> list[str]:
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
    return warnings


def _candidates_ready(situation: Situation) -> _Verdict:
    if not situation.seen:
        return "Unknown", "Starting", "the pods have not been seen yet"
    if situation.ready == 0:
        return "False", "NoCandidates", _no_candidates(situation)
    return "True", "CandidatesFound", f"{situation.ready} of {situation.total} pods can lead"


def _labels_in_sync(situation: Situation) -> _Verdict:
    if situation.unlabelled:
        return "False", "LabelsNotWritten", situation.unlabelled
    if not situation.seen:
        return "Unknown", "Starting", "the pods have not been seen yet"
    return "True", "LabelsWritten", "every pod's label is as it should be"


def _stalled(situation: Situation) -> _Verdict:
    problem = situation.problem
    if problem is not None and problem.stalls:
        return "True", problem.reason, problem.message
    return "False", "NotStalled", "nothing needs a person"
