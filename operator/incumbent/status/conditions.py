"""The status of a `LeaderElection`, and the events that its changes are: pure functions.

The status never holds what changes while an election is stable: no renewal, no revision, no time
of a look. So a stable election costs the API server nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.campaign.records import BucketInfo, Record, State
from incumbent.campaign.succession import Awaited, Settlement
from incumbent.display import shown
from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    BucketSilent,
    CampaignInvalid,
    ClusterError,
    ConfigurationError,
    Forbidden,
    NotWatched,
)
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import Resource
from incumbent.routing.endpoint_slices import Obstacle

SLOW_PATCH = 1.0
"""Seconds for a patch of a pod from which on the status tells of it; 10 to 30 ms are usual."""
LONGEST_MESSAGE = 32768
"""Characters of a condition's message that the definition allows; a webhook may say any number."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an election cannot work as asked."""

    reason: str
    """The reason of the conditions that say so."""
    message: str
    of_bucket: bool = True
    """Whether it is about the bucket, and not about the resource or the cluster."""
    bars: bool = False
    """Whether the election is not served: nothing of its lock is read, shown or written."""
    owns_label: bool = True
    """Whether the labels by its label key are its own, and not another election's."""

    @property
    def stalls(self) -> bool:
        """Whether a person has to act; an unreachable bucket comes back by itself."""
        return self.reason != "BucketUnreachable"


def problem_from(error: BucketError | ConfigurationError | ClusterError) -> Problem:
    """Name the condition reason of an error."""
    match error:
        case BucketNotFound():
            return Problem("BucketNotFound", str(error))
        case BucketDenied():
            return Problem("PermissionDenied", str(error))
        case CampaignInvalid():
            return Problem("CampaignInvalid", str(error), of_bucket=False)
        case BucketInvalid() | ConfigurationError():
            return Problem("BucketInvalid", str(error))
        case BucketSilent():
            return Problem("BucketSilent", str(error))
        case BucketError():
            return Problem("BucketUnreachable", str(error))
        case Forbidden():
            return Problem("PermissionDenied", str(error), of_bucket=False)
        case NotWatched():
            return Problem("NotWatched", str(error), of_bucket=False)
    return Problem("AdmissionDenied", str(error), of_bucket=False)


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
    unrecognised: str = ""
    """In the mode `Observed`, why the holder means none of our pods; empty if it means one."""
    patch_seconds: float = 0.0
    """Seconds that the API server took for the last patches of pods."""
    strip_late: bool = False
    """Whether a label cannot be taken away between the deadline and the TTL because of that."""
    routed: str = ""
    """The Service that may have slices of this election; empty for none."""
    obstacle: Obstacle | None = None
    """Why that Service cannot be used."""
    unrouted: str = ""
    """Why its slices are not as they should be; empty if they are."""
    pods_seen: bool = True
    """Whether the pods have been seen since the start, whatever is known of the key."""
    stripped: bool = False
    """Whether the label was taken away although the key was not seen."""
    answers: Mapping[str, Any] | None = None
    """The question in the status that this replica has answered, see `confirmation`."""
    process: str = ""
    """What tells the steward from an earlier process of its name."""
    revision: int = 0
    """The latest revision of the key that was seen; 0 if the key was empty then."""
    contested: str = ""
    """Why the labels do not stay as they should be; empty if they do."""
    waits: Settlement | None = None
    """What the holder of our record, or the next candidate, waits for."""
    waits_until: str = ""
    """The end of that wait, RFC 3339."""

    @property
    def barred(self) -> bool:
        """Whether the election is not served."""
        return self.problem is not None and self.problem.bars


@dataclass(frozen=True, slots=True)
class KubernetesEvent:
    """An event about a `LeaderElection`."""

    kind: str
    reason: str
    action: str
    note: str


def status_from(situation: Situation, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the whole new status; equal to `before` if nothing has changed.

    The token is kept while the key is vacant and while a stranger, whose records have none, holds
    it: then it is the last one that is known, and the next one will be greater. It is also kept
    when the record has a lower one, unless the resource accepts that.

    Args:
        situation: what is the case.
        before: the present status.
        now: RFC 3339, for the times of what is new.
    """
    resource, record = situation.resource, situation.record
    if situation.barred:
        return _barred_status(situation, before, now)
    lasting = {"token"}
    if not situation.seen:
        lasting |= {"holder", "leader", "steward", "newcomer"}
    if not situation.pods_seen:
        lasting |= {"candidates"}
    if situation.stripped:
        lasting -= {"leader"}
    if before.get("unconfirmed") != situation.answers:
        lasting |= {"unconfirmed"}
    status = {
        "observedGeneration": resource.generation,
        "state": situation.state.name.capitalize(),
        "transitions": before.get("transitions", 0),
        "candidates": {"total": situation.total, "ready": situation.ready},
        "key": resource.record_key,
        "labelKey": resource.label_key,
        "site": situation.site,
        "bucket": _bucket(situation, before),
        **{name: value for name, value in before.items() if name in lasting},
    }
    if situation.routed:
        status["routing"] = {"service": situation.routed}
    if record is not None:
        status["transitions"] += _begins_reign(record, resource, before)
        status["holder"] = shown(record.holder)
        if _gives_token(record, resource, before):
            status["token"] = record.term
    known = before if status.get("token") == before.get("token") else {}
    if record is not None and situation.steward:
        status["steward"] = _steward(situation, record, known.get("steward") or {}, before)
    if situation.leader is not None:
        kept = known.get("leader") or {}
        same = kept.get("podUID") == situation.leader.uid
        since = kept.get("acquiredTime", now) if same else now
        status["leader"] = _leader(situation.leader, since)
    status["conditions"] = _conditions(situation, before, now)
    return status


def _barred_status(situation: Situation, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the status of an election that is not served.

    What a status says of a record is left out, because it may be a record of others: an operator
    without this rule, or the author of the election, may have written it. Names of its lock stay,
    so that another default does not move it. A question of another replica stays, because to remove
    it is to answer it.
    """
    lasting = {"key", "labelKey", "site", "unconfirmed", "newcomer"}
    if not situation.pods_seen:
        lasting |= {"candidates"}
    status = {
        "observedGeneration": situation.resource.generation,
        "state": State.UNKNOWN.name.capitalize(),
        "transitions": before.get("transitions", 0),
        "candidates": {"total": situation.total, "ready": situation.ready},
        **{name: value for name, value in before.items() if name in lasting},
    }
    if bucket := (before.get("bucket") or {}).get("name"):
        status["bucket"] = {"name": bucket}
    if situation.routed:
        status["routing"] = {"service": situation.routed}
    status["conditions"] = _conditions(situation, before, now)
    return status


def with_candidates(situation: Situation, before: Mapping[str, Any], now: str) -> Mapping[str, Any]:
    """Return a status with what a situation says about candidates, and nothing else of it.

    A replica that does not see the key still sees the pods, and nobody knows them better.
    """
    fresh = status_from(situation, before, now)
    if not situation.pods_seen or "conditions" not in before:
        return before
    new = next(one for one in fresh["conditions"] if one["type"] == "CandidatesReady")
    conditions = [new if one["type"] == new["type"] else one for one in before["conditions"]]
    return {**before, "candidates": fresh["candidates"], "conditions": conditions}


def ready(status: Mapping[str, Any]) -> bool:
    """Whether a status says that all is well with the election and with its key."""
    shown = {one["type"]: one["status"] for one in status.get("conditions", ())}
    return shown.get("Ready") == shown.get("BucketReady") == "True"


def without_proofs(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a status as an older definition of the kind allows it (see `site`)."""
    steward = status.get("steward")
    if steward is None:
        return status
    kept = {name: steward[name] for name in steward if name not in {"process", "admitted"}}
    return {**status, "steward": kept}


def events_from(
    before: Mapping[str, Any], after: Mapping[str, Any], *, evicted: bool = False
) -> list[KubernetesEvent]:
    """Return what a change of status means to a person; one event for one change.

    Args:
        before: the status as it was.
        after: as it is now.
        evicted: whether the old leader had to go because somebody deleted the record.
    """
    events = []
    old, new = before.get("leader"), after.get("leader")
    reason, message = _ready(after)
    if old and evicted:
        note = f"pod {old['podName']} does not lead any more: somebody deleted its record"
        events.append(KubernetesEvent("Warning", "Evicted", "StepDown", note))
    elif old and not new:
        note = f"pod {old['podName']} does not lead any more: {message}"
        if reason in {"NoCandidates", "Suspended"}:
            events.append(KubernetesEvent("Normal", "Released", "Release", note))
        else:
            events.append(KubernetesEvent("Warning", "LeaderLost", "StepDown", note))
    if new and (not old or _term(before) != _term(after)):
        name, token = new["podName"], after.get("token")
        # A stranger's record has no token.
        known = "" if token is None else f"with token {token}"
        if old and not evicted and old["podUID"] != new["podUID"]:
            note = f"pod {name} leads after pod {old['podName']}" + (known and f", {known}")
            events.append(KubernetesEvent("Normal", "HandedOver", "HandOver", note))
        else:
            note = f"pod {name} leads" + (known and f" {known}")
            events.append(KubernetesEvent("Normal", "LeaderElected", "Elect", note))
    if reason in _TROUBLES and reason != _ready(before)[0]:
        events.append(KubernetesEvent("Warning", reason, "Campaign", message))
    stalled = _condition(after, "Stalled")
    if reason != stalled[0] == "CampaignInvalid" != _condition(before, "Stalled")[0]:
        events.append(
            KubernetesEvent("Warning", stalled[0], "Campaign", stalled[1])
        )  # the leader goes on
    obstacle = _condition(after, "RoutingInSync")
    if obstacle[0] in _OBSTACLES and obstacle[0] != _condition(before, "RoutingInSync")[0]:
        events.append(KubernetesEvent("Warning", obstacle[0], "Route", obstacle[1]))
    contested = _condition(after, "LabelsInSync")
    if contested[0] == "LabelsContested" != _condition(before, "LabelsInSync")[0]:
        events.append(KubernetesEvent("Warning", contested[0], "Label", contested[1]))
    return events


_OBSTACLES = frozenset(
    {
        "ServiceNotFound",
        "ServiceHasSelector",
        "ServiceHasOthers",
        "ServiceInvalid",
        "ServiceInUse",
        "PermissionDenied",
        "AdmissionDenied",
    }
)
"""Reasons for which a Service is not led to the leader."""

_TROUBLES = frozenset(
    {
        "NoCandidates",
        "BucketNotFound",
        "BucketInvalid",
        "BucketSilent",
        "BucketUnreachable",
        "CampaignInvalid",
        "RecordOutdated",
        "PermissionDenied",
        "AdmissionDenied",
        "KeyInUse",
        "LabelKeyInUse",
        "LockNotAllowed",
        "QuotaExceeded",
        "TokenRegressed",
        "SiteInUse",
    }
)
"""Reasons of Ready that are news by themselves. The others come with a change of leader."""


def _bucket(situation: Situation, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bucket; what the server has not said again since the start is kept."""
    name, info = situation.resource.bucket, situation.bucket
    if info is None:
        kept: dict[str, Any] = before.get("bucket") or {}
        return {**kept, "name": name}
    # The server gives nanoseconds; Kubernetes' date-time is satisfied with any.
    return {
        "name": name,
        "ttlSeconds": round(info.ttl),
        "replicas": info.replicas,
        "createdTime": info.created,
    }


def _steward(
    situation: Situation, record: Record, kept: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return who answers for the record, and which replica it has admitted last (see `site`)."""
    process = situation.process
    same = kept.get("replica") == situation.steward and kept.get("process", process) == process
    admitted = before.get("newcomer") or (kept.get("admitted") if same else None)
    if admitted == f"{situation.steward}/{process}":
        admitted = None  # our own question, before we took over
    steward = {
        "replica": situation.steward,
        "revision": kept["revision"] if same else record.revision,
        "process": process,
        "admitted": admitted,
    }
    return {name: value for name, value in steward.items() if value}


def _leader(pod: Pod, since: str) -> dict[str, str]:
    shown = {
        "podName": pod.name,
        "podUID": pod.uid,
        "nodeName": pod.node,
        "podIP": pod.ip,
        "acquiredTime": since,
    }
    return {name: value for name, value in shown.items() if value}


def _gives_token(record: Record, resource: Resource, before: Mapping[str, Any]) -> bool:
    """Whether the status takes the token of a record: a lower one has to be accepted.

    A stranger's record has none; its revision is another one with each renewal.
    """
    grows = record.term >= before.get("token", 0)
    return not record.stranger and (grows or resource.accepts_lower_tokens)


def _begins_reign(record: Record, resource: Resource, before: Mapping[str, Any]) -> bool:
    """Whether a record is of another reign than the last one that the status knew.

    Where it gives no token, the holder decides.
    """
    if _gives_token(record, resource, before):
        return record.term != before.get("token")
    return shown(record.holder) != before.get("holder")


def _term(status: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return which term of which pod the status shows."""
    return status["leader"]["podUID"], status.get("token")


def _ready(status: Mapping[str, Any]) -> tuple[str, str]:
    return _condition(status, "Ready")


def _condition(status: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Return reason and message of a condition."""
    for condition in status.get("conditions", ()):
        if condition["type"] == kind:
            return condition["reason"], condition["message"]
    return "", ""


def _conditions(situation: Situation, before: Mapping[str, Any], now: str) -> list[dict[str, Any]]:
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
    said = _ready(before)[1]
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
