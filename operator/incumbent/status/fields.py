"""The status of a `LeaderElection` as a whole: pure functions.

The status never holds what changes while an election is at rest: no renewal, no revision, no time
of a look. Therefore an election at rest costs the API server nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from incumbent.campaign.records import Record, State
from incumbent.display import shown
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import Resource
from incumbent.status.conditions import conditions_from
from incumbent.status.situation import Situation


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
    status["conditions"] = conditions_from(situation, before, now)
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
    status["conditions"] = conditions_from(situation, before, now)
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
