"""Who may lead, and who should: pure functions over pods.

Nothing here knows what a label write costs or whether one is allowed; that is `labels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from incumbent.model import Nominee, Pod, Record
from incumbent.resource import EXCLUDE, PRIORITY, Resource, Selector

LEADER = "leader"
CANDIDATE = "candidate"


def why_not(pod: Pod, selector: Selector) -> str:
    """Say why a pod is no candidate; empty if it is one."""
    if not selector.matches(pod.labels):
        return "it does not match the selector"
    if pod.terminating:
        return "it is terminating"
    if pod.phase != "Running":
        return f"its phase is {pod.phase}"
    if not pod.ready:
        return "it is not ready"
    if pod.annotations.get(EXCLUDE, "false") != "false":
        return f"its annotation {EXCLUDE} excludes it"
    return ""


def candidates(pods: Iterable[Pod], selector: Selector) -> list[Pod]:
    """Return the pods that may lead, the best first.

    That is the highest priority, then the oldest pod; the name decides between equals, so that
    every replica comes to the same order.
    """
    able = [pod for pod in pods if not why_not(pod, selector)]
    return sorted(able, key=lambda pod: (-priority(pod), pod.created, pod.name))


def priority(pod: Pod) -> int:
    """Return the priority of a pod; what is not an integer counts as 0."""
    try:
        return int(pod.annotations.get(PRIORITY, "0"))
    except ValueError:
        return 0


def choose(able: list[Pod], evicted: Nominee | None = None) -> Pod | None:
    """Return who should lead: the best, but not who was evicted while there is another."""
    others = [pod for pod in able if evicted is None or pod.uid != evicted.pod_uid]
    return next(iter(others or able), None)


def identity(site: str, pod: Pod) -> str:
    """Return the identity under which a pod of a site holds a record."""
    return f"{site}/{pod.namespace}/{pod.name}"


def holder_pod(record: Record, site: str, pods: Mapping[str, Pod], namespace: str) -> Pod | None:
    """Return the very pod that a record of this site names; None if it is not there.

    A pod of the same name with another UID is another pod.
    """
    prefix = f"{site}/{namespace}/"
    if not record.holder.startswith(prefix):
        return None
    pod = pods.get(record.holder.removeprefix(prefix))
    return pod if pod is not None and pod.uid == record.pod_uid else None


@dataclass(frozen=True, slots=True)
class Marking:
    """What the label of a pod that does not lead should be; None: no label."""

    pod: Pod
    value: str | None


def markings(pods: Iterable[Pod], resource: Resource, *, leader_uid: str) -> list[Marking]:
    """Return what to change on pods that do not lead and do not show the leader label.

    Candidates carry `candidate`, everybody else nothing, and nobody here the token annotation.
    Pods that show the leader label are left out: removing that is a strip.
    """
    changes = []
    for pod in pods:
        label = pod.labels.get(resource.label_key)
        if label == LEADER or pod.uid == leader_uid:
            continue
        unwanted = resource.deleting or why_not(pod, resource.selector)
        wanted = None if unwanted else CANDIDATE
        if label != wanted or resource.token_key in pod.annotations:
            changes.append(Marking(pod, wanted))
    return changes


def labelled(pods: Iterable[Pod], resource: Resource) -> list[Pod]:
    """Return the pods that show the leader label, whether the selector matches them or not."""
    return [pod for pod in pods if pod.labels.get(resource.label_key) == LEADER]


def shows(pod: Pod, resource: Resource, token: int) -> bool:
    """Whether a pod shows the leader label with this token."""
    return pod.labels.get(resource.label_key) == LEADER and pod.annotations.get(
        resource.token_key
    ) == str(token)
