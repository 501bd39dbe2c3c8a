"""The values of a `LeaderElection`, read from the JSON of the API server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.campaign.configuration import CampaignSpec
from incumbent.campaign.records import Profile, Promotion
from incumbent.campaign.timing import ExponentialBackoff
from incumbent.kubernetes.objects import ElectionKey, Pod

GROUP = "incumbent.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "LeaderElection"
PLURAL = "leaderelections"
SERVICE_NAME = "kubernetes.io/service-name"
"""Label of an EndpointSlice that names its Service."""
PROGRAM_HEADER = "Sec-Incumbent-Client"
"""Header that proves that a request comes from a program and not from a script in a browser.
Browsers let no script set a header that begins with `Sec-` (a forbidden request-header name of the
Fetch standard). Programs that use the proxy of an API server send it, because `Host` then names
that server and proves nothing."""

FINALIZER = f"{GROUP}/cleanup"
EXCLUDE = f"{GROUP}/exclude"
"""Annotation on a pod that keeps it out of every election, unless its value is `false`."""
PRIORITY = f"{GROUP}/priority"
"""Annotation on a pod: an integer. The candidate with the highest one is preferred."""

STEP_DOWN = f"{GROUP}/step-down"
"""Annotation on an election that asks its leader to step down, for a named pod or for any pod."""
STEP_DOWN_TERM = f"{GROUP}/step-down-term"
"""Annotation that the operator adds to `STEP_DOWN`: the term that should end."""
LABELLING = f"{GROUP}/labelling"
"""Annotation that the operator writes on an observed election: the pod that it labels next or
labelled last, as `<UID>/<name>/<nonce>`."""


Anchor = str | tuple[str, str]
"""The key of a label or an annotation, or a label with its value. A pod that has none of an
election's anchors does not concern the election. Elections are indexed by anchor, so that a changed
pod need not be compared with each of them."""
ANY: Anchor = ""
"""The anchor that every pod has."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One entry of a selector's `matchExpressions`."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet the requirement, by the rules of the API server."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
        return False


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector. An empty one matches no pod; at the API server it matches every pod."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels is selected."""
        # `all` would take four times as long (measured). Each scrape of the metrics calls this for
        # each election and each pod.
        for requirement in self.requirements:
            if not requirement.matches(labels):
                return False
        return bool(self.requirements)

    @property
    def anchors(self) -> frozenset[Anchor]:
        """Anchors of which every selected pod has at least one."""
        for requirement in self.requirements:
            if requirement.operator == "In":
                return frozenset((requirement.key, value) for value in requirement.values)
        for requirement in self.requirements:
            if requirement.operator == "Exists":
                return frozenset({requirement.key})
        return frozenset({ANY})

    def __str__(self) -> str:
        """Return the selector as a query of the API server."""
        return ",".join(_query(requirement) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class Resource:
    """The spec of one `LeaderElection`, and the parts of its status that the operator reads."""

    key: ElectionKey
    uid: str
    generation: int
    created: str
    deleting: bool
    selector: Selector
    observed: bool
    """Whether the members campaign themselves, and the operator only labels the leader."""
    suspend: bool
    campaign: CampaignSpec
    bucket: str
    """The bucket in use: from the status, else from the spec, else the operator's default."""
    record_key: str
    """The key of the record in the bucket."""
    label_key: str
    unready_grace: float
    """Seconds for which a leader that is not ready goes on leading."""
    preempts: bool
    """Whether a candidate of higher priority replaces a healthy leader."""
    holds: bool
    """Whether the leader keeps its label if NATS is away for longer than the lease."""
    step_down: str | None
    """The pod that should replace the leader; empty: any pod; None: no step-down is asked for."""
    accepts_lower_tokens: bool
    """Whether the next term may have a lower token than the last known term."""
    site: str
    """The site that served the election first; empty before that."""
    service: str = ""
    """The Service whose EndpointSlices should hold the leader; empty: only labels are used."""
    routed: str = ""
    """The Service that the status names. Its slices must be deleted if `service` changes."""

    @property
    def token_key(self) -> str:
        """The key of the leader pod's annotation with the token.

        It contains the election's name, so two elections of a namespace never share it.
        """
        return f"{GROUP}/{self.key.name}.token"

    @property
    def anchors(self) -> frozenset[Anchor]:
        """Anchors of which every pod that concerns the election has at least one."""
        return self.selector.anchors | {self.label_key, self.token_key}

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all labels and annotations of pods that the election looks at."""
        own = {self.label_key, self.token_key}
        return frozenset(own.union(one.key for one in self.selector.requirements))

    def concerns(self, pod: Pod) -> bool:
        """Whether a pod is selected, or carries something of the election."""
        return (
            self.label_key in pod.labels
            or self.token_key in pod.annotations
            or self.selector.matches(pod.labels)
        )


def resource_from(body: Mapping[str, Any], *, default_bucket: str) -> Resource:
    """Read a `LeaderElection`.

    The bucket, the key, the label key and the site are taken from the status as soon as it has
    them, because other defaults of a later operator must not move a running election.
    """
    metadata, spec = body["metadata"], body.get("spec") or {}
    status = body.get("status") or {}
    namespace, name = metadata["namespace"], metadata["name"]
    handover = spec.get("handover") or {}
    campaign = spec.get("campaign") or {}
    return Resource(
        key=ElectionKey(namespace, name),
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        selector=_selector(spec.get("selector") or {}),
        observed=spec.get("mode", "Managed") == "Observed",
        suspend=bool(spec.get("suspend", False)),
        campaign=CampaignSpec(
            profile=_PROFILES.get(campaign.get("profile", ""), Profile.PROMPT),
            interval=campaign.get("intervalSeconds"),
            splay=campaign.get("splaySeconds"),
            promotion=_PROMOTIONS.get(campaign.get("promotion", "")),
            backoff=_backoff(campaign.get("backoff")),
        ),
        bucket=(status.get("bucket") or {}).get("name") or spec.get("bucket") or default_bucket,
        record_key=status.get("key") or spec.get("key") or f"{namespace}.{name}",
        label_key=status.get("labelKey")
        or (spec.get("label") or {}).get("key")
        or f"{GROUP}/{name}",
        unready_grace=float(handover.get("unreadyGraceSeconds", 0)),
        preempts=handover.get("preemption", "Never") == "WhenReady",
        holds=spec.get("onBucketLoss", "StepDown") == "Hold",
        step_down=(metadata.get("annotations") or {}).get(STEP_DOWN),
        accepts_lower_tokens=spec.get("onTokenRegress", "Stop") == "Accept",
        site=status.get("site", ""),
        service=(spec.get("routing") or {}).get("service", ""),
        routed=(status.get("routing") or {}).get("service", ""),
    )


_PROFILES = {profile.value: profile for profile in Profile}
_PROMOTIONS = {promotion.value: promotion for promotion in Promotion}


def _backoff(backoff: Mapping[str, Any] | None) -> ExponentialBackoff | None:
    if backoff is None:
        return None
    return ExponentialBackoff(backoff["initialSeconds"], backoff["factor"], backoff["maxSeconds"])


LONGEST_ANNOTATION = 1024
"""Longest annotation of an election that is kept, in characters. Ours are shorter."""
MOST_ANNOTATIONS = 16
"""Greatest number of annotations kept of an election: our three, and those of kopf's handlers."""

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)


def lean(body: dict[str, Any]) -> dict[str, Any]:
    """Remove the fields that the operator does not use from an election, in place; return it.

    The operator keeps each election in memory while it exists. `managedFields` are a third of it,
    and a user who may annotate it can make it a hundred times larger. The schema of the kind limits
    spec and status.
    """
    metadata = body["metadata"]
    known: Mapping[str, str] = metadata.get("annotations") or {}
    ours = (STEP_DOWN, STEP_DOWN_TERM, LABELLING)
    others = (key for key in known if key.startswith(f"{GROUP}/") and key not in ours)
    kept = [key for key in (*ours, *others) if len(known.get(key, "")) <= LONGEST_ANNOTATION]
    annotations = {key: known[key] for key in kept[:MOST_ANNOTATIONS] if key in known}
    body["metadata"] = {key: metadata[key] for key in _METADATA if key in metadata}
    if annotations:
        body["metadata"]["annotations"] = annotations
    return body


def whole(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an election from a list, with the fields that lists leave out of their items."""
    return {"apiVersion": API_VERSION, "kind": KIND, **item}


def _selector(selector: Mapping[str, Any]) -> Selector:
    labels = selector.get("matchLabels") or {}
    requirements = [Requirement(k, "In", frozenset({v})) for k, v in labels.items()]
    for entry in selector.get("matchExpressions") or ():
        values = frozenset(entry.get("values") or ())
        requirements.append(Requirement(entry["key"], entry["operator"], values))
    return Selector(tuple(requirements))


def _query(requirement: Requirement) -> str:
    values = ",".join(sorted(requirement.values))
    match requirement.operator:
        case "In":
            return f"{requirement.key} in ({values})"
        case "NotIn":
            return f"{requirement.key} notin ({values})"
        case "Exists":
            return requirement.key
    return f"!{requirement.key}"


def pods_path(namespace: str) -> str:
    """Return the path of the pods of a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods"


def slices_path(namespace: str) -> str:
    """Return the path of the EndpointSlices of a namespace."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def elections_path(namespace: str) -> str:
    """Return the path of the elections of a namespace."""
    return f"/apis/incumbent.dev/v1alpha1/namespaces/{namespace}/leaderelections"
