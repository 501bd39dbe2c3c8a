"""Which pods may lead, and which pod should lead: pure functions over pods.

This module does not know what a label write costs, or whether it is allowed. `labels` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from incumbent.campaign.records import Nominee, Record
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import EXCLUDE, PRIORITY, Resource, Selector

LEADER: Final = "leader"
CANDIDATE: Final = "candidate"

NAMES_SHOWN = 6
"""Greatest number of pod names in a message."""

TEMPLATE_HASHES = ("pod-template-hash", "controller-revision-hash")
"""Labels whose value differs from template to template. Deployments set the first one, StatefulSets
and DaemonSets the second one."""


def why_not(pod: Pod, selector: Selector) -> str:
    """Say why a pod is not a candidate; empty if it is one."""
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


def candidates(pods: Iterable[Pod], selector: Selector, *, away_from: str = "") -> list[Pod]:
    """Return the pods that may lead, the best first.

    The order is: the highest priority, then the newest pod template, so that a rolling update costs
    one hand-over and not one for each pod, then pods on another node than `away_from`, then the
    oldest pod. The name decides between equals, so that every replica finds the same order.

    A template is as new as its newest candidate. During a rolling update, or a rollback, this is
    the template that the new pods have. The choice can be wrong in two cases: a pod with the old
    template is replaced in the middle of a rolling update, or two templates have pods of the same
    second, because `creationTimestamp` counts whole seconds. Then there is one more hand-over.
    """
    able = sorted(
        (pod for pod in pods if not why_not(pod, selector)), key=lambda pod: (pod.created, pod.name)
    )
    newest = {_template(pod): pod.created for pod in able}
    # Sorting is stable, also in reverse, so equal pods keep their order.
    return sorted(
        able,
        key=lambda pod: (priority(pod), newest[_template(pod)], pod.node != away_from),
        reverse=True,
    )


def priority(pod: Pod) -> int:
    """Return the priority of a pod; a value that is not an integer counts as 0."""
    try:
        return int(pod.annotations.get(PRIORITY, "0"))
    except ValueError:
        return 0


def _template(pod: Pod) -> str:
    return next((pod.labels[label] for label in TEMPLATE_HASHES if label in pod.labels), "")


def choose(able: list[Pod], evicted: Nominee | None = None) -> Pod | None:
    """Return the best pod that was not evicted; the evicted one only if there is no other."""
    others = [pod for pod in able if evicted is None or pod.uid != evicted.pod_uid]
    return next(iter(others or able), None)


def identity(site: str, pod: Pod) -> str:
    """Return the identity under which a pod of a site holds a record."""
    return f"{identities(site, pod.namespace)}{pod.name}"


def identities(site: str, namespace: str) -> str:
    """Return the prefix of the identities of all pods of a site's namespace."""
    return f"{site}/{namespace}/"


def holder_pod(record: Record, pods: Mapping[str, Pod], namespace: str) -> Pod | None:
    """Return the pod that a record of this site names; None if it does not exist.

    A pod with this name but another UID is another pod. The name of the site does not matter,
    because somebody may have changed it.
    """
    local = record.holder.partition("/")[2]
    if not local.startswith(f"{namespace}/"):
        return None
    pod = pods.get(local.removeprefix(f"{namespace}/"))
    return pod if pod is not None and pod.uid == record.pod_uid else None


def meant_pod(record: Record, site: str, pods: Iterable[Pod], resource: Resource) -> Pod | None:
    """Return the pod that a self-campaigning holder's identity refers to.

    The identity may be `<site>/<namespace>/<pod>`, `<namespace>/<pod>`, the pod's name, its host
    name, or its DNS name (the host name followed by the pod's subdomain). Return None if the
    identity refers to none of our pods, or may refer to two.
    """
    found = _meant(record, site, pods, resource)
    return found[0] if len(found) == 1 else None


def why_none(record: Record, site: str, pods: Iterable[Pod], resource: Resource) -> str:
    """Say why a record's holder cannot be matched to one of our pods; empty if it can."""
    known = list(pods)
    found = sorted(pod.name for pod in _meant(record, site, known, resource))
    if len(found) == 1:
        return ""
    if found:
        return f"pods {' and '.join(found)} both have this name, so none of them is labelled"
    selected = sorted(
        (pod for pod in known if resource.selector.matches(pod.labels)), key=lambda pod: pod.name
    )
    names = [name for pod in selected for name in (pod.name, pod.hostname, dns_name(pod)) if name]
    if not names:
        return "no pod matches the selector"
    more = ", …" if len(names) > NAMES_SHOWN else ""
    shown_names = ", ".join(names[:NAMES_SHOWN])
    return f"the names of this election's pods are {shown_names}{more}"


def dns_name(pod: Pod) -> str:
    """Return the DNS name of a pod without the cluster's domain; empty if it has none."""
    return f"{pod.hostname or pod.name}.{pod.domain}" if pod.domain else ""


def _meant(record: Record, site: str, pods: Iterable[Pod], resource: Resource) -> list[Pod]:
    """Return the selected pods that the holder of a record may refer to."""
    selected = [pod for pod in pods if resource.selector.matches(pod.labels)]
    if record.pod_uid:
        selected = [pod for pod in selected if pod.uid == record.pod_uid]
    return [pod for pod in selected if _is_called(pod, record.holder, site)]


def _is_called(pod: Pod, name: str, site: str) -> bool:
    local = f"{pod.namespace}/{pod.name}"
    if name in {f"{site}/{local}", local, pod.name}:
        return True
    if pod.hostname and name == pod.hostname:
        return True
    if not pod.domain:
        return False
    subdomain, namespace, _ = pod.domain.split(".")
    host = f"{pod.hostname or pod.name}.{subdomain}"
    dns = dns_name(pod)
    return name in {host, f"{host}.{namespace}", dns} or name.startswith(f"{dns}.")


@dataclass(frozen=True, slots=True)
class Marking:
    """The label that a pod which does not lead should have; a `value` of None: no label."""

    pod: Pod
    value: Literal["candidate"] | None


def markings(pods: Iterable[Pod], resource: Resource, *, leader_uid: str) -> list[Marking]:
    """Return the changes to pods that do not lead and do not show the leader label.

    Candidates get the value `candidate`, other pods get no label, and none of these pods keeps the
    token annotation. Pods that show the leader label are left out, because they need a strip.
    """
    changes = []
    for pod in pods:
        label = pod.labels.get(resource.label_key)
        if label == LEADER or pod.uid == leader_uid:
            continue
        unwanted = resource.deleting or why_not(pod, resource.selector)
        wanted: Literal["candidate"] | None = None if unwanted else CANDIDATE
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


def shown_tokens(pods: Iterable[Pod], resource: Resource) -> dict[str, int]:
    """Return the tokens of the pods that show the leader label and a token, by UID.

    A label that somebody set by hand has no token. A term without a token is shown as 0.
    """
    tokens = {
        pod.uid: pod.annotations.get(resource.token_key, "")
        for pod in pods
        if pod.labels.get(resource.label_key) == LEADER
    }
    least = 0 if resource.observed else 1
    return {uid: int(t) for uid, t in tokens.items() if t.isdecimal() and int(t) >= least}
