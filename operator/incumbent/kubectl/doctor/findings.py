"""The judgements of `kubectl incumbent doctor`: pure functions."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from incumbent.campaign.records import BucketInfo, Record
from incumbent.campaign.timing import MAXIMUM_TTL, MINIMUM_TTL
from incumbent.display import shown
from incumbent.kubectl.describe import condition, led_by, status_of
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import FINALIZER, GROUP, PLURAL, STEP_DOWN, VERSION, Resource
from incumbent.pods.eligibility import LEADER, candidates, why_not
from incumbent.settings import Settings

DELETED_FOR = 30.0
"""Seconds after which a deleted election that still exists is a finding."""
MOST_APART = 1.0
"""Seconds by which two clocks may differ without a finding."""
MOST_OF_TTL = 0.05
"""Part of the TTL by which the clocks of a bucket's servers may differ (see docs/nats.md)."""
MOST_FIELDS = 5
"""Greatest number of fields named in a finding. Further fields are only counted."""


class Level(enum.StrEnum):
    """The severity of a finding."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    topic: str
    level: Level
    text: str
    todo: str = ""
    """The action that helps; empty if no action is needed."""


def about_definition(
    installed: Mapping[str, Any] | str | None, ours: Mapping[str, Any], *, served: Sequence[str]
) -> list[Finding]:
    """Compare the definition of the kind in the cluster with the one of this program.

    Args:
        installed: the definition in the cluster, or a text that says why it cannot be read; None
            if it does not exist.
        ours: the definition of this program.
        served: the versions of the group that the API server serves.
    """
    topic, apply = "Definition", "apply crds/ of this version: `kubectl apply -f crds/`"
    name = f"{PLURAL}.{GROUP}"
    if VERSION not in served:
        other = f", only {', '.join(served)}" if served else ""
        text = f"the API server does not serve {name} in the version {VERSION}{other}"
        return [Finding(topic, Level.PROBLEM, text, apply)]
    if installed is None or isinstance(installed, str):
        text = f"{name} is served as {VERSION}; its fields were not compared: {installed}"
        return [Finding(topic, Level.NOTE, text)]
    mine, theirs = fields_of(ours), fields_of(installed)
    missing = sorted(mine.keys() - theirs.keys())
    surplus = sorted(theirs.keys() - mine.keys())
    changed = sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])
    findings = []
    if missing:
        text = f"the definition in the cluster lacks {_few(missing)}: it is older than this program"
        findings.append(Finding(topic, Level.PROBLEM, text, apply))
    elif surplus:
        text = f"the definition in the cluster also has {_few(surplus)}: this program is older"
        findings.append(Finding(topic, Level.WARNING, text, "upgrade this program"))
    elif changed:
        text = f"the definition in the cluster differs in {_few(changed)}"
        todo = "apply crds/ of the operator's version, and use this program in the same one"
        findings.append(Finding(topic, Level.WARNING, text, todo))
    return findings or [
        Finding(topic, Level.OK, f"{name} is served as {VERSION}, with the fields of this program")
    ]


def fields_of(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of each field by its path, for our version in a definition."""
    for version in definition["spec"]["versions"]:
        if version["name"] == VERSION:
            return dict(_fields("", version["schema"]["openAPIV3Schema"]))
    return {}


def _fields(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    parts = {"properties", "items", "additionalProperties", "description"}
    yield path or "the whole", {n: v for n, v in schema.items() if n not in parts}
    for name, part in (schema.get("properties") or {}).items():
        yield from _fields(f"{path}.{name}".lstrip("."), part)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), Mapping):
            yield from _fields(f"{path}[]", schema[part])


def about_election(
    election: Mapping[str, Any], resource: Resource, pods: Sequence[Pod] | str, now: datetime
) -> list[Finding]:
    """Judge an election by its status and the labels of its pods.

    `pods` may be a text that says why the pods cannot be read. During a change of leader, status
    and labels differ for a moment, so the caller reports only what it finds twice.
    """
    name = str(resource.key)
    findings = [*_about_service(name, election, now), *_about_status(name, election)]
    if isinstance(pods, str):
        findings.append(Finding(name, Level.NOTE, f"its labels were not looked at: {pods}"))
    else:
        findings += _about_labels(name, election, resource, pods)
    return findings


_RUNNING = "see whether the operator runs, whether it serves this namespace, and what it logs"


def _about_service(name: str, election: Mapping[str, Any], now: datetime) -> Iterator[Finding]:
    metadata, status = election["metadata"], status_of(election)
    seen, generation = status.get("observedGeneration", -1), metadata.get("generation", 0)
    if condition(election, "Ready")["reason"] == "NotServed":
        text = "no operator serves it"
        yield Finding(name, Level.PROBLEM, text, _RUNNING)
    elif seen < generation:
        text = f"the operator has not seen its last change (generation {generation}, seen: {seen})"
        yield Finding(name, Level.PROBLEM, text, _RUNNING)
    deleted = metadata.get("deletionTimestamp")
    if deleted and FINALIZER in metadata.get("finalizers", ()):
        since = (now - datetime.fromisoformat(deleted)).total_seconds()
        if since > DELETED_FOR:
            text = f"it was deleted at {deleted}, and still waits for the operator"
            todo = f"{_RUNNING}; docs/operations.md says how to go without"
            yield Finding(name, Level.PROBLEM, text, todo)
    if STEP_DOWN in (metadata.get("annotations") or {}):
        text = "a request to step down waits to be carried out"
        yield Finding(name, Level.WARNING, text, _RUNNING)


def about_limits(topic: str, deployment: Mapping[str, Any]) -> list[Finding]:
    """Say which locks and how many elections an operator allows, according to its Deployment.

    Settings from other places, such as a variable from a ConfigMap, are not considered.
    """
    name = f"{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
    own = _given(deployment, "bucket") or [Settings.bucket]
    rules = _given(deployment, "allow-lock")
    text = f"{name}: elections may use keys of bucket {own[-1]} that begin with their namespace"
    text += f"; it also allows {', '.join(rules)}" if rules else ", and no others"
    most = _given(deployment, "max-elections-per-namespace")
    count = most[-1] if most else str(Settings.max_elections_per_namespace)
    text += f"; of each namespace {'all' if count == '0' else count} elections are served"
    if "*/*/*" not in rules:
        return [Finding(topic, Level.OK, text)]
    todo = "allow only what is needed: docs/operations.md says how"
    text = f"{name} allows */*/*: authors of elections can read and take any key of any bucket"
    return [Finding(topic, Level.WARNING, text, todo)]


def _given(deployment: Mapping[str, Any], flag: str) -> list[str]:
    """Return the values of a flag in the containers of a Deployment."""
    variable = f"INCUMBENT_{flag.replace('-', '_').upper()}"
    found: list[str] = []
    for container in deployment["spec"]["template"]["spec"].get("containers", ()):
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        for word, following in zip(words, [*words[1:], ""], strict=True):
            if word == f"--{flag}":
                found.append(following)
            elif word.startswith(f"--{flag}="):
                found.append(word.partition("=")[2])
        variables = {one["name"]: one.get("value", "") for one in container.get("env") or ()}
        if not found and variables.get(variable):
            found += [part.strip() for part in variables[variable].split(",") if part.strip()]
    return found


_REMEDIES = {
    "NoCandidates": "look at the pods: `kubectl incumbent status` says why each cannot lead",
    "BucketNotFound": "create the bucket, or delete the election and create it with another one",
    "BucketInvalid": "do what the message says; docs/nats.md has the right settings",
    "BucketSilent": "see docs/runbooks/IncumbentBucketSilent.md: account, disk, servers",
    "RecordOutdated": "make sure that its holder does not act, then evict the key",
    "CampaignInvalid": "shorten `campaign.intervalSeconds`, or leave it out: a third of the TTL",
    "BucketUnreachable": "look at NATS, and at what lies between; it goes on by itself",
    "PermissionDenied": "grant the right that is named",
    "NotWatched": "raise the hard limit of open files of the operator's process",
    "AdmissionDenied": "change the policy, webhook or quota that is named, or exempt the operator",
    "KeyInUse": "give one of the two elections another key, or delete it",
    "LockNotAllowed": "ask the administrator of the operator for it (--allow-lock), or delete the"
    " election and create it again without `bucket` and `key`",
    "QuotaExceeded": "delete elections of its namespace, or ask the administrator of the operator"
    " for more (--max-elections-per-namespace)",
    "LabelKeyInUse": "give one of the two elections another label key, or delete it",
    "TokenRegressed": "see docs/operations.md, then set onTokenRegress to Accept",
    "SiteInUse": "give the operator of the copied cluster another --site; see docs/operations.md",
    "LabelsContested": "find out who else sets the label, with --show-managed-fields",
    "ServiceNotFound": "create the Service that `routing` names, without a selector",
    "ServiceHasOthers": "delete what else leads clients of that Service somewhere",
    "ServiceHasSelector": "remove the selector of the Service that `routing` names",
    "ServiceInvalid": "give the Service that `routing` names another type",
    "ServiceInUse": "give one of the two elections another Service",
    "SliceNotWritten": "look at what keeps the operator from writing slices, and at its log",
    "LabelsNotWritten": "look at what keeps the operator from writing pods, and at its log",
    "BucketAtRisk": "give the bucket the settings that docs/nats.md asks for",
    "Vacant": "wait until the time that it says; without one, see what the operator logs",
}


def _about_status(name: str, election: Mapping[str, Any]) -> Iterator[Finding]:
    ready = condition(election, "Ready")
    stalled = condition(election, "Stalled")
    if stalled["status"] == "True":
        yield _told(name, Level.PROBLEM, stalled)
    elif ready["status"] == "False" and ready["reason"] != "Suspended":
        level = Level.PROBLEM if ready["reason"] == "BucketUnreachable" else Level.WARNING
        yield _told(name, level, ready)
    elif ready["reason"] == "Suspended":
        yield Finding(name, Level.NOTE, "it is suspended")
    elif ready["reason"] == "LedElsewhere":
        todo = "if it is not meant to share the election, give one of the two another bucket"
        yield Finding(name, Level.NOTE, f"LedElsewhere: {ready['message']}", todo)
    bucket, labels = condition(election, "BucketReady"), condition(election, "LabelsInSync")
    if bucket["reason"] == "BucketAtRisk":
        yield _told(name, Level.WARNING, bucket)
    routing = condition(election, "RoutingInSync")
    if labels["status"] == "False":
        yield _told(name, Level.PROBLEM, labels)
    if routing["status"] == "False" and stalled["status"] != "True":
        yield _told(name, Level.PROBLEM, routing)


def _told(name: str, level: Level, told: Mapping[str, str]) -> Finding:
    return Finding(
        name,
        level,
        f"{told['reason']}: {told['message']}",
        _REMEDIES.get(told["reason"], _RUNNING),
    )


def _about_labels(
    name: str, election: Mapping[str, Any], resource: Resource, pods: Sequence[Pod]
) -> Iterator[Finding]:
    status = status_of(election)
    leader, token = status.get("leader") or {}, status.get("token")
    carriers = [pod for pod in pods if pod.labels.get(resource.label_key) == LEADER]
    todo = f"the operator corrects labels within a second: {_RUNNING}"
    if len(carriers) > 1:
        names = ", ".join(sorted(pod.name for pod in carriers))
        text = f"{len(carriers)} pods carry the leader label: {names}"
        yield Finding(name, Level.PROBLEM, text, todo)
    for pod in carriers:
        if pod.uid != leader.get("podUID"):
            text = f"the pod {pod.name} carries the leader label, and the status says otherwise"
            yield Finding(name, Level.PROBLEM, text, todo)
        elif pod.annotations.get(resource.token_key) != str(token):
            shown = pod.annotations.get(resource.token_key, "none")
            text = f"the pod {pod.name} shows the token {shown}, and the status says {token}"
            yield Finding(name, Level.PROBLEM, text, todo)
    if leader and leader.get("podUID") not in {pod.uid for pod in carriers}:
        text = f"the leader {led_by(election)} does not carry the leader label"
        yield Finding(name, Level.PROBLEM, text, todo)
    if condition(election, "LabelsInSync")["status"] != "True":
        return  # the status reports it already, or labelling has not begun
    able = {pod.uid for pod in candidates(pods, resource.selector)}
    for pod in pods:
        label = pod.labels.get(resource.label_key)
        if label == LEADER:
            continue
        if label is None and pod.uid in able:
            text = f"the pod {pod.name} can lead, and lacks the label {resource.label_key}"
            yield Finding(name, Level.WARNING, text, todo)
        if label is not None and pod.uid not in able:
            why = why_not(pod, resource.selector)
            text = f"the pod {pod.name} is labelled {label}, and cannot lead: {why}"
            yield Finding(name, Level.WARNING, text, todo)


def about_record(name: str, election: Mapping[str, Any], record: Record | None) -> list[Finding]:
    """Compare the record in the bucket with the status."""
    holder = status_of(election).get("holder", "")
    found = shown(record.holder) if record is not None else ""
    if holder == found:
        return []
    said = f"{holder} holds the key" if holder else "nobody holds the key"
    seen = f"{found} does" if found else "nobody does" if holder else "somebody does"
    text = f"the status says that {said}, but in the bucket {seen}: nobody keeps the status"
    return [Finding(name, Level.PROBLEM, text, _RUNNING)]


def about_bucket(info: BucketInfo, warnings: Sequence[str]) -> list[Finding]:
    """Judge the settings of a bucket, and add warnings about other risks."""
    topic, todo = f"Bucket {info.name}", "give it the settings that docs/nats.md asks for"
    if info.mirror:
        text = "it is a copy of another bucket, and cannot hold an election"
        return [Finding(topic, Level.PROBLEM, text, "use the bucket that it is a copy of")]
    if info.unfit:
        text, _, remedy = info.unfit.partition(": ")
        return [Finding(topic, Level.PROBLEM, text, remedy)]
    if not MINIMUM_TTL <= info.ttl <= MAXIMUM_TTL:
        text = f"its TTL is {info.ttl:g} s; it must be from 1 second to 1 hour"
        return [Finding(topic, Level.PROBLEM, text, todo)]
    if warnings:
        return [Finding(topic, Level.WARNING, warning, todo) for warning in warnings]
    text = f"TTL {info.ttl:g} s, history {info.history}, replicas {info.replicas}, with markers"
    return [Finding(topic, Level.OK, text)]


def about_clock(topic: str, ahead: float, *, uncertain: float) -> Finding:
    """Judge how many seconds another clock is ahead of ours, with an error of `uncertain`."""
    if abs(ahead) - uncertain <= MOST_APART:
        return Finding(
            topic, Level.OK, f"its clock and this machine's differ by {abs(ahead):.1f} s"
        )
    which = "ahead of" if ahead > 0 else "behind"
    text = f"its clock is {abs(ahead):.1f} s {which} this machine's"
    todo = (
        "synchronise both (NTP): elections go by durations and do not suffer, but log lines and"
        " events are compared across machines"
    )
    return Finding(topic, Level.WARNING, text, todo)


@dataclass(frozen=True, slots=True)
class ServerClock:
    """The measured clock of a server."""

    name: str
    ahead: float
    """Seconds by which it is ahead of this machine's clock."""
    uncertain: float
    """Seconds by which `ahead` may be wrong (see `Question`)."""


def about_clocks(
    topic: str, names: Sequence[str], clocks: Sequence[ServerClock], *, ttl: float
) -> list[Finding]:
    """Judge how much the clocks of the servers of a bucket differ.

    Args:
        topic: the topic of the findings.
        names: the names of the servers that hold the bucket.
        clocks: the measured clocks; some may be missing.
        ttl: the TTL of the bucket in seconds.
    """
    findings = []
    missing = sorted({*names} - {clock.name for clock in clocks})
    if missing:
        text = f"the clock of {', '.join(missing)} was not seen, for it did not answer"
        findings.append(Finding(topic, Level.NOTE, text))
    if len(clocks) < 2:  # noqa: PLR2004  # a comparison needs two
        return findings
    first = min(clocks, key=lambda clock: clock.ahead)
    last = max(clocks, key=lambda clock: clock.ahead)
    apart = last.ahead - first.ahead
    if apart - first.uncertain - last.uncertain <= ttl * MOST_OF_TTL:
        text = f"the clocks of its servers differ by at most {apart:.1f} s"
        return [*findings, Finding(topic, Level.OK, text)]
    text = f"the clock of {last.name} is {apart:.1f} s ahead of that of {first.name}"
    todo = (
        "synchronise the clocks of the NATS servers (NTP): when the bucket's leader moves from one"
        " to the other, records expire that much sooner or later"
    )
    return [*findings, Finding(topic, Level.WARNING, text, todo)]


@dataclass(frozen=True, slots=True)
class Right:
    """A right that the API server can grant."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""
    name: str = ""
    needed: tuple[str, ...] = ()
    """The commands that need it."""

    @property
    def what(self) -> str:
        """Its object: `pods`, `leaderelections.incumbent.dev/status`, `namespaces kube-system`."""
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        part = f"/{self.subresource}" if self.subresource else ""
        return f"{resource}{part}" + (f" {self.name}" if self.name else "")

    def __str__(self) -> str:
        """Return the right as text for a sentence: `patch leaderelections.incumbent.dev`."""
        return f"{self.verb} {self.what}"


_EVENTS = "events.k8s.io"

USER_RIGHTS = (
    Right("get", PLURAL, GROUP, needed=("status", "who", "step-down", "suspend", "resume")),
    Right("list", PLURAL, GROUP, needed=("wait", "step-down", "doctor")),
    Right("watch", PLURAL, GROUP, needed=("wait", "step-down")),
    Right("patch", PLURAL, GROUP, needed=("step-down", "suspend", "resume")),
    Right("list", "pods", needed=("status", "step-down", "doctor")),
    Right("get", "pods", needed=("step-down --to",)),
    Right("list", "events", _EVENTS, needed=("status",)),
)
"""Rights that a user of the plugin needs in the namespace of the elections."""

HISTORY_RIGHT = Right("get", "services", subresource="proxy", needed=("history",))
"""The right that a user needs in the namespace of the operator."""

OPERATOR_RIGHTS = (
    *(Right(verb, PLURAL, GROUP) for verb in ("get", "list", "watch", "patch")),
    Right("patch", PLURAL, GROUP, subresource="status"),
    *(Right(verb, "pods") for verb in ("get", "list", "watch", "patch")),
    Right("create", "events", _EVENTS),
)
"""Rights that the operator needs in each namespace that it serves."""

CLUSTER_RIGHTS = (
    Right("get", "namespaces", name="kube-system"),
    Right("list", "customresourcedefinitions", "apiextensions.k8s.io"),
    Right("watch", "customresourcedefinitions", "apiextensions.k8s.io"),
)
"""Rights that the operator also needs if it serves all namespaces."""


def about_rights(
    topic: str, who: str, where: str, missing: Iterable[Right], *, level: Level, todo: str
) -> list[Finding]:
    """Say which rights are missing."""
    verbs: dict[str, list[Right]] = {}
    for right in missing:
        verbs.setdefault(right.what, []).append(right)
    findings = []
    for what, rights in verbs.items():
        needed = dict.fromkeys(name for r in rights for name in r.needed)
        text = f"{who} may not {', '.join(r.verb for r in rights)} {what} in {where}"
        text += f"; {', '.join(needed)} will not work" if needed else ""
        findings.append(Finding(topic, level, text, todo))
    return findings or [Finding(topic, Level.OK, f"{who} may do all that is needed in {where}")]


def number(count: int, what: str) -> str:
    """Return a number of things: `no problems`, `1 problem`, `2 problems`."""
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def _few(names: Sequence[str]) -> str:
    if len(names) <= MOST_FIELDS:
        return ", ".join(names)
    return f"{', '.join(names[:MOST_FIELDS])} and {len(names) - MOST_FIELDS} more fields"
