"""Descriptions of a `LeaderElection`, its pods and its events for people: pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from incumbent.kubectl.printing import age, lines
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import GROUP, STEP_DOWN, Resource
from incumbent.pods.eligibility import LEADER, candidates, priority, why_not

SCREEN_VERSION = f"kubectl.{GROUP}/v1"
"""Version of the output of `status -o json`. It changes if a field changes its meaning."""

EVENTS = 8
"""Number of latest events on the screen."""


def status_of(election: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the status; empty if there is no status yet."""
    return election.get("status") or {}


def led_by(election: Mapping[str, Any]) -> str:
    """Return the name of the pod that leads; empty if no pod of this cluster does."""
    return str((status_of(election).get("leader") or {}).get("podName", ""))


def condition(election: Mapping[str, Any], kind: str) -> Mapping[str, str]:
    """Return a condition; if the status does not have it yet, one with the status Unknown."""
    found: Mapping[str, str]
    for found in status_of(election).get("conditions") or ():
        if found["type"] == kind:
            return found
    return {
        "type": kind,
        "status": "Unknown",
        "reason": "NotServed",
        "message": (
            "no operator has seen this election yet: see whether one runs and serves this namespace"
        ),
    }


def nobody(name: str, election: Mapping[str, Any]) -> str:
    """Say who leads instead of the wanted pod, or why nobody leads."""
    if pod := led_by(election):
        return f"{name} is led by the pod {pod}"
    ready = condition(election, "Ready")
    if ready["reason"] == "LedElsewhere":
        return f"{name} is led elsewhere: {ready['message']}"
    return f"Nobody leads {name}: {ready['message']} ({ready['reason']})"


def about_leader(election: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data about the leader."""
    status = status_of(election)
    leader = status.get("leader") or {}
    return {
        "pod": leader.get("podName"),
        "namespace": election["metadata"]["namespace"],
        "uid": leader.get("podUID"),
        "node": leader.get("nodeName"),
        "ip": leader.get("podIP"),
        "since": leader.get("acquiredTime"),
        "token": status.get("token"),
        "holder": status.get("holder"),
    }


@dataclass(frozen=True, slots=True)
class Standing:
    """The role of one pod in an election."""

    pod: Pod
    why_not: str
    """Why the pod is not a candidate; empty if it is one."""
    label: str
    leads: bool
    follows: bool
    """Whether the pod would lead next."""

    @property
    def note(self) -> str:
        """A note about the pod for people."""
        if self.leads:
            return f"leads, but {self.why_not}" if self.why_not else "leads"
        wrong = " and carries the leader label, but does not lead" if self.label == LEADER else ""
        if self.why_not:
            return self.why_not + wrong
        return ("next" if self.follows else "") + wrong.removeprefix(" and " * (not self.follows))


def standings(
    election: Mapping[str, Any], resource: Resource, pods: Iterable[Pod]
) -> list[Standing]:
    """Return the role of every pod: the leader first, then the candidates, the best first.

    The pod that is shown as next is only an estimate, because the operator avoids an evicted pod
    for a while, which is not known here. If the members campaign themselves, no pod is shown as
    next, because the quickest member wins.
    """
    pods = list(pods)
    leader = status_of(election).get("leader") or {}
    able = candidates(pods, resource.selector)
    others = [pod for pod in able if pod.uid != leader.get("podUID")]
    foreseeable = not (resource.observed or resource.suspend or resource.deleting)
    successor = others[0].uid if others and foreseeable else ""
    rest = sorted((pod for pod in pods if pod not in able), key=lambda pod: pod.name)
    found = [
        Standing(
            pod=pod,
            why_not=why_not(pod, resource.selector),
            label=pod.labels.get(resource.label_key, ""),
            leads=pod.uid == leader.get("podUID"),
            follows=pod.uid == successor,
        )
        for pod in (*able, *rest)
    ]
    return sorted(found, key=lambda standing: not standing.leads)


def screen(
    election: Mapping[str, Any],
    resource: Resource,
    pods: Sequence[Pod] | str,
    events: Sequence[Mapping[str, Any]] | str,
    now: datetime,
) -> list[str]:
    """Return the lines about an election. `pods` and `events` may be texts why they are missing."""
    text = [*_head(election, resource, now), ""]
    if isinstance(pods, str):
        text += [f"Pods: {pods}", ""]
    else:
        text += [*_pods(election, resource, pods, now), ""]
    text += _conditions(election, now)
    if isinstance(events, str):
        text += ["", f"Events: {events}"]
    elif events:
        text += ["", "Events:", *_indented(_event_rows(events[-EVENTS:], now))]
    return text


def data(
    election: Mapping[str, Any],
    resource: Resource,
    pods: Sequence[Pod] | str,
    events: Sequence[Mapping[str, Any]] | str,
) -> dict[str, Any]:
    """Return the content of `screen` as data. Parts that could not be read are None."""
    status = status_of(election)
    return {
        "apiVersion": SCREEN_VERSION,
        "kind": "ElectionStatus",
        "metadata": {"name": resource.key.name, "namespace": resource.key.namespace},
        "mode": "Observed" if resource.observed else "Managed",
        "suspended": resource.suspend,
        "leader": about_leader(election) if led_by(election) else None,
        "holder": status.get("holder"),
        "token": status.get("token"),
        "transitions": status.get("transitions", 0),
        "site": status.get("site"),
        "state": status.get("state", "Unknown"),
        "steward": status.get("steward"),
        "bucket": status.get("bucket"),
        "key": status.get("key"),
        "pods": None
        if isinstance(pods, str)
        else [
            {
                "name": standing.pod.name,
                "eligible": not standing.why_not,
                "reason": standing.why_not or None,
                "label": standing.label or None,
                "priority": priority(standing.pod),
                "leads": standing.leads,
                "next": standing.follows,
            }
            for standing in standings(election, resource, pods)
        ],
        "conditions": status.get("conditions", []),
        "events": None
        if isinstance(events, str)
        else [
            {
                "time": _time_of(event),
                "type": event.get("type"),
                "reason": event.get("reason"),
                "note": event.get("note"),
                "reporter": event.get("reportingInstance"),
            }
            for event in events
        ],
    }


def _head(election: Mapping[str, Any], resource: Resource, now: datetime) -> list[str]:
    status = status_of(election)
    leader, ready = status.get("leader") or {}, condition(election, "Ready")
    annotations = election["metadata"].get("annotations") or {}
    rows = [("Election", f"{resource.key}{_manner(resource)}")]
    if leader:
        where = ", ".join(filter(None, (leader.get("nodeName"), leader.get("podIP"))))
        rows.append(("Leader", leader["podName"] + (f" on {where}" if where else "")))
        since = leader.get("acquiredTime", "")
        rows.append(("Since", f"{since} ({age(since, now)})"))
    elif ready["reason"] == "LedElsewhere":
        rows.append(("Leader", "elsewhere"))
    else:
        rows.append(("Leader", f"nobody: {ready['message']} ({ready['reason']})"))
    rows.append(("Token", str(status.get("token", "none"))))
    rows.append(("Holder", status.get("holder", "nobody")))
    steward = status.get("steward")
    rows.append(
        (
            "Steward",
            f"{steward['replica']} of site {status.get('site')}"
            if steward
            else f"none at this site ({status['site']})"
            if status.get("site")
            else "none",
        )
    )
    rows.append(("Bucket", _bucket(election)))
    rows.append(("Key", resource.record_key))
    rows.append(("Label", f"{resource.label_key}={LEADER}"))
    rows.append(("Transitions", str(status.get("transitions", 0))))
    if STEP_DOWN in annotations:
        to = annotations[STEP_DOWN]
        rows.append(("Requested", "that the leader steps down" + (f" for {to}" if to else "")))
    width = max(len(title) for title, _ in rows) + 2
    return [f"{title + ':':{width}}{text}" for title, text in rows]


def _manner(resource: Resource) -> str:
    notes = ["the members campaign themselves"] * resource.observed
    notes += ["suspended"] * resource.suspend + ["being deleted"] * resource.deleting
    return f" ({', '.join(notes)})" if notes else ""


def _bucket(election: Mapping[str, Any]) -> str:
    bucket = status_of(election).get("bucket") or {}
    parts = []
    if "ttlSeconds" in bucket:
        parts.append(f"TTL {bucket['ttlSeconds']} s")
    if "replicas" in bucket:
        parts.append(f"replicas {bucket['replicas']}")
    ready = condition(election, "BucketReady")
    healthy = ready["status"] == "True" and ready["reason"] == "BucketFound"
    parts.append("healthy" if healthy else f"{ready['reason']}: {ready['message']}")
    return f"{bucket.get('name', 'not known yet')} ({', '.join(parts)})"


def _pods(
    election: Mapping[str, Any], resource: Resource, pods: Sequence[Pod], now: datetime
) -> list[str]:
    found = standings(election, resource, pods)
    if not found:
        return [f"Pods: none matches the selector {resource.selector}"]
    rows = [("POD", "CAN LEAD", "LABEL", "PRIORITY", "AGE", "NOTE")]
    rows += [
        (
            standing.pod.name,
            "no" if standing.why_not else "yes",
            standing.label or "<none>",
            str(priority(standing.pod)),
            age(standing.pod.created, now),
            standing.note,
        )
        for standing in found
    ]
    return ["Pods:", *_indented(rows)]


def _conditions(election: Mapping[str, Any], now: datetime) -> list[str]:
    conditions = status_of(election).get("conditions") or [condition(election, "Ready")]
    # Before an operator has seen the election, the times are defaults of the definition.
    judged = status_of(election).get("observedGeneration", -1) >= 0
    rows = [("CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE")]
    rows += [
        (
            found["type"],
            found["status"],
            age(found.get("lastTransitionTime", "") if judged else "", now),
            found["reason"],
            found["message"],
        )
        for found in conditions
    ]
    return ["Conditions:", *_indented(rows)]


def _event_rows(events: Sequence[Mapping[str, Any]], now: datetime) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("AGO", "TYPE", "REASON", "NOTE")]
    return rows + [
        (
            age(_time_of(event), now),
            event.get("type", ""),
            event.get("reason", ""),
            event.get("note", ""),
        )
        for event in events
    ]


def _time_of(event: Mapping[str, Any]) -> str:
    return event.get("eventTime") or event["metadata"].get("creationTimestamp") or ""


def _indented(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines(rows)]
