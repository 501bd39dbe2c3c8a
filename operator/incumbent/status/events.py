"""The Kubernetes events that follow from a change of a status: pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.status.conditions import condition_in, ready_in


@dataclass(frozen=True, slots=True)
class KubernetesEvent:
    """An event about a `LeaderElection`."""

    kind: str
    reason: str
    action: str
    note: str


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
    reason, message = ready_in(after)
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
    if reason in _TROUBLES and reason != ready_in(before)[0]:
        events.append(KubernetesEvent("Warning", reason, "Campaign", message))
    stalled = condition_in(after, "Stalled")
    if reason != stalled[0] == "CampaignInvalid" != condition_in(before, "Stalled")[0]:
        events.append(
            KubernetesEvent("Warning", stalled[0], "Campaign", stalled[1])
        )  # the leader goes on
    obstacle = condition_in(after, "RoutingInSync")
    if obstacle[0] in _OBSTACLES and obstacle[0] != condition_in(before, "RoutingInSync")[0]:
        events.append(KubernetesEvent("Warning", obstacle[0], "Route", obstacle[1]))
    contested = condition_in(after, "LabelsInSync")
    if contested[0] == "LabelsContested" != condition_in(before, "LabelsInSync")[0]:
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


def _term(status: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return which term of which pod the status shows."""
    return status["leader"]["podUID"], status.get("token")
