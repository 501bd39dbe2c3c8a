"""An API server in memory, with the faults of a real one; implements `kubernetes.ports.Cluster`."""

from __future__ import annotations

import asyncio
import copy
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from incumbent.errors import (
    ClusterError,
    ClusterUnreachable,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
    Unsent,
)
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodEvent, PodsReplaced, PodsUnwatched
from incumbent.kubernetes.resource import API_VERSION, KIND, SERVICE_NAME
from incumbent.status.events import KubernetesEvent

NAMESPACE = "shop"
TIMEOUT = 5.0
"""Seconds after which the real adapter gives up any request."""
CLUSTER_UID = "7f3a91c2-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the cluster, recorded before anything happened to it."""

    name: str
    """The method."""
    target: str = ""
    """The name of what it is about, or the label selector of a list."""
    version: str = ""
    """The resourceVersion that a write expects, or than which a list may not be older."""
    labels: Mapping[str, str | None] = field(default_factory=dict)
    annotations: Mapping[str, str | None] = field(default_factory=dict)
    timeout: float = 0.0
    """Seconds for which the caller of a patch waits."""


def make_pod(name: str, **values: Any) -> Pod:
    """Return a candidate of the election `billing`, unless `values` say otherwise."""
    defaults: dict[str, Any] = {
        "namespace": NAMESPACE,
        "name": name,
        "uid": f"uid-{name}",
        "resource_version": "",
        "labels": {"app": "billing"},
        "node": "node-1",
        "ip": "10.0.0.1",
        "created": "2026-01-01T00:00:00Z",
    }
    return Pod(**{**defaults, **values})


def make_election(
    name: str = "billing",
    *,
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """Return a `LeaderElection` as JSON."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "namespace": NAMESPACE,
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
        },
        "spec": {"selector": {"matchLabels": {"app": "billing"}}, **(spec or {})},
        "status": {"observedGeneration": -1} if status is None else dict(status),
    }


@dataclass(frozen=True, slots=True)
class Webhook:
    """What an admission webhook does with patches; see `FakeCluster.webhook`."""

    names: tuple[str, ...]
    seconds: float
    error: ClusterError | None
    change: Callable[[Pod, Pod], Pod]


class LateWrites:
    """Patches on their way, whose callers get no answer any more."""

    def __init__(self, quota: float) -> None:
        self.quota = quota
        """How many more will be held back."""
        self.pending: list[Callable[[], None]] = []
        self.refused: list[ClusterError] = []
        """What the callers would have been told of those that were refused when they arrived."""

    def carry_out(self) -> None:
        """Let all of them arrive, in the order in which they were sent."""
        while self.pending:
            try:
                self.pending.pop(0)()
            except ClusterError as error:
                self.refused.append(error)


class FakeCluster:
    """An API server in memory.

    A write gives an object a resourceVersion of its own; one that changes nothing leaves it alone.
    Every call takes `latency` seconds on its way, and at least a turn of the loop. The faults are
    context managers, which can be combined and last as long as their block; time-outs are waited
    for by the clock of the loop, so looptime can speed them up.
    """

    def __init__(self) -> None:
        self.calls: list[Operation] = []
        self.history: list[Pod] = []
        """Every state of a pod that was ever stored, in order."""
        self.events: list[KubernetesEvent] = []
        self.pods: dict[tuple[str, str], Pod] = {}
        self.elections: dict[tuple[str, str], dict[str, Any]] = {}
        self.services: dict[tuple[str, str], dict[str, Any]] = {}
        self.slices: dict[tuple[str, str], dict[str, Any]] = {}
        self.routes: list[tuple[str, ...]] = []
        """Whom a slice led to, after each write of one, in order."""
        self.unwatched = False
        """Whether watches of pods wait for others to end."""
        self.latency = 0.0
        self._version = 0
        self._watchers: dict[object, tuple[str, asyncio.Queue[PodEvent]]] = {}
        self._held: list[tuple[str, PodEvent]] | None = None
        self._late: LateWrites | None = None
        self._unreachable = self._drop_answers = False
        self._refusals: dict[str, ClusterError] = {}
        self._hanging: set[str] = set()
        self._lagging: tuple[int, tuple[Pod, ...]] | None = None
        self._webhooks: list[Webhook] = []
        self._interludes: dict[str, list[Callable[[], object]]] = {}

    @property
    def operations(self) -> list[str]:
        """What was called, for example `["get_pod", "patch_pod"]`."""
        return [call.name for call in self.calls]

    @property
    def patches(self) -> list[Operation]:
        """The patches among the calls."""
        return [call for call in self.calls if call.name == "patch_pod"]

    def pod(self, name: str, namespace: str = NAMESPACE) -> Pod:
        """Return a pod as it is now."""
        return self.pods[namespace, name]

    # The port

    async def cluster_uid(self, namespace: str = "kube-system") -> str:
        """Return the UID of the cluster."""
        await self._arrive(Operation("cluster_uid", namespace))
        return CLUSTER_UID

    async def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Return a pod, None if there is none."""
        await self._arrive(Operation("get_pod", name))
        return self.pods.get((namespace, name))

    async def list_pods(self, namespace: str, label_selector: str, *, since: str = "") -> list[Pod]:
        """Return the pods of a namespace that a label selector matches.

        They are as they are now, but from the API server that is `lagging`, which answers if its
        cache is new enough.
        """
        await self._arrive(Operation("list_pods", label_selector, since))
        pods = self._pods_of(namespace)
        if since and self._lagging and int(since) <= self._lagging[0]:
            pods = self._lagging[1]
        return [pod for pod in pods if selects(label_selector, pod.labels)]

    async def patch_pod(
        self,
        pod: Pod,
        *,
        labels: Mapping[str, str | None],
        annotations: Mapping[str, str | None],
        timeout: float,
        within: float | None = None,
        dry_run: bool = False,
    ) -> Pod:
        """Set labels and annotations; refused if it is another pod or resourceVersion."""
        _in_time(within)
        name = "dry_run" if dry_run else "patch_pod"
        await self._arrive(
            Operation(name, pod.name, pod.resource_version, labels, annotations, timeout)
        )

        def patched_by_all(current: Pod) -> Pod:
            patched = replace(
                current,
                labels=_merged(current.labels, labels),
                annotations=_merged(current.annotations, annotations),
            )
            for hook in self._webhooks_of(pod.name):
                patched = hook.change(current, patched)
            return patched

        if dry_run:
            if "patch_pod" in self._refusals:
                raise self._refusals["patch_pod"]
            await self._admit(pod.name, timeout)
            return patched_by_all(pod)

        def carry_out() -> Pod:
            current = self.pods.get((pod.namespace, pod.name))
            if current is None:
                msg = f"There is no pod {pod.name}"
                raise NotFound(msg)
            # Without a resourceVersion a patch is unconditional, as on a real API server.
            if pod.resource_version not in {"", current.resource_version}:
                msg = f"Pod {pod.name} changed in the meantime"
                raise Conflict(msg)
            if pod.uid != current.uid:
                msg = f"The UID of pod {pod.name} is immutable"
                raise Refused(msg)
            return self._store(patched_by_all(current))

        await self._admit(pod.name, timeout)
        if self._late is not None and self._late.quota > 0:
            self._late.quota -= 1
            self._late.pending.append(carry_out)
            await self._no_answer(timeout)
        patched = carry_out()
        if self._drop_answers:
            await self._no_answer(timeout)
        return patched

    async def _admit(self, name: str, timeout: float) -> None:
        """Ask the webhooks about a patch of a pod; one whose caller gives up is not carried out."""
        for hook in self._webhooks_of(name):
            if hook.seconds >= timeout:
                await self._no_answer(timeout)
            await asyncio.sleep(hook.seconds)
            if hook.error is not None:
                raise hook.error

    def _webhooks_of(self, name: str) -> list[Webhook]:
        return [hook for hook in self._webhooks if name in (hook.names or (name,))]

    async def get_service(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a Service, None if there is none."""
        await self._arrive(Operation("get_service", name))
        return copy.deepcopy(self.services.get((namespace, name)))

    async def get_slice(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return an EndpointSlice, None if there is none."""
        await self._arrive(Operation("get_slice", name))
        return copy.deepcopy(self.slices.get((namespace, name)))

    async def list_slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return the EndpointSlices of a Service."""
        await self._arrive(Operation("list_slices", service))
        return [
            copy.deepcopy(found)
            for (where, _), found in self.slices.items()
            if where == namespace
            and found["metadata"].get("labels", {}).get(SERVICE_NAME) == service
        ]

    async def create_slice(
        self, body: Mapping[str, Any], *, timeout: float, within: float | None = None
    ) -> dict[str, Any]:
        """Create an EndpointSlice; refused if there is one of this name."""
        _in_time(within)
        metadata = copy.deepcopy(dict(body["metadata"]))
        key = metadata["namespace"], metadata["name"]
        await self._arrive(Operation("create_slice", key[1], timeout=timeout))

        def carry_out() -> dict[str, Any]:
            if key in self.slices:
                msg = f"There is a slice {key[1]} already"
                raise Conflict(msg)
            metadata["uid"] = f"uid-{self._next_version()}"
            return self._store_slice({**copy.deepcopy(dict(body)), "metadata": metadata})

        return await self._carry_out_slice(carry_out, timeout)

    async def patch_slice(
        self,
        seen: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        timeout: float,
        within: float | None = None,
    ) -> dict[str, Any]:
        """Change an EndpointSlice; refused if it has changed."""
        _in_time(within)
        about, new = seen["metadata"], copy.deepcopy(dict(change))
        await self._arrive(
            Operation("patch_slice", about["name"], about["resourceVersion"], timeout=timeout)
        )

        def carry_out() -> dict[str, Any]:
            current = self._slice(seen)
            metadata = {**current["metadata"], **new["metadata"]}
            for kind in ("labels", "annotations"):
                old = current["metadata"].get(kind) or {}
                metadata[kind] = _merged(old, new["metadata"].get(kind) or {})
            changed = {**current, **new, "metadata": metadata}
            return self._store_slice(changed) if changed != current else current

        return await self._carry_out_slice(carry_out, timeout)

    async def delete_slice(self, seen: Mapping[str, Any]) -> None:
        """Delete an EndpointSlice; refused if it has changed."""
        await self._arrive(Operation("delete_slice", seen["metadata"]["name"]))
        self._slice(seen)
        del self.slices[seen["metadata"]["namespace"], seen["metadata"]["name"]]
        self.routes.append(())

    async def watch_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        """Show all pods of a namespace, and then every change."""
        self.calls.append(Operation("watch_pods", namespace))
        while self.unwatched:
            yield PodsUnwatched("too few files may be open")
            await asyncio.sleep(1)
        token, queue = object(), asyncio.Queue[PodEvent]()
        self._watchers[token] = namespace, queue
        if not self._unreachable:
            queue.put_nowait(PodsReplaced(self._pods_of(namespace)))
        try:
            while True:
                yield await queue.get()
        finally:
            del self._watchers[token]

    async def get_election(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Return a `LeaderElection`, None if there is none."""
        await self._arrive(Operation("get_election", name))
        return copy.deepcopy(self.elections.get((namespace, name)))

    async def annotate_election(
        self,
        namespace: str,
        name: str,
        *,
        resource_version: str,
        annotations: Mapping[str, str | None],
    ) -> None:
        """Set annotations of a `LeaderElection`."""
        await self._arrive(Operation("annotate_election", name, resource_version))
        metadata = self._election(namespace, name, resource_version)["metadata"]
        metadata["annotations"] = _merged(metadata.get("annotations") or {}, annotations)
        metadata["resourceVersion"] = self._next_version()

    async def replace_status(
        self, namespace: str, name: str, *, resource_version: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace the status of a `LeaderElection`."""
        await self._arrive(Operation("replace_status", name, resource_version))
        election = self._election(namespace, name, resource_version)
        if election["status"] != status:
            election["status"] = copy.deepcopy(dict(status))
            election["metadata"]["resourceVersion"] = self._next_version()
        return copy.deepcopy(election)

    async def emit_event(
        self, election: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str
    ) -> None:
        """Take in an event."""
        await self._arrive(Operation("emit_event", election["metadata"]["name"]))
        self.events.append(KubernetesEvent(kind, reason, action, note))

    # What others do

    def add(self, pod: Pod) -> Pod:
        """Create a pod, or replace one; returns it with its resourceVersion."""
        return self._store(pod)

    def change(self, name: str, *, namespace: str = NAMESPACE, **values: Any) -> Pod:
        """Change fields of a pod; without any it is touched, and gets a new resourceVersion."""
        pod = replace(self.pods[namespace, name], resource_version="", **values)
        return self._store(pod)

    def delete(self, name: str, *, namespace: str = NAMESPACE) -> Pod:
        """Delete a pod at once."""
        pod = replace(self.pods.pop((namespace, name)), resource_version=self._next_version())
        self._show(namespace, PodDeleted(pod))
        return pod

    def put_election(self, election: Mapping[str, Any]) -> dict[str, Any]:
        """Create a `LeaderElection`, or replace one; returns it with its resourceVersion."""
        stored = copy.deepcopy(dict(election))
        stored["metadata"]["resourceVersion"] = self._next_version()
        self.elections[stored["metadata"]["namespace"], stored["metadata"]["name"]] = stored
        return copy.deepcopy(stored)

    def put_service(self, name: str = "web", **spec: Any) -> None:
        """Create or replace a Service, without a selector unless `spec` says otherwise."""
        defaults = {"ipFamilies": ["IPv4"], "ports": [{"port": 80, "targetPort": 8080}]}
        body = {"metadata": {"namespace": NAMESPACE, "name": name}, "spec": {**defaults, **spec}}
        self.services[NAMESPACE, name] = body

    def put_slice(self, body: Mapping[str, Any]) -> None:
        """Change an EndpointSlice by hand."""
        self._store_slice(copy.deepcopy(dict(body)))

    def before_next(self, name: str, action: Callable[[], object]) -> None:
        """Do this when the next call of a method arrives, just before it is carried out.

        A `ClusterError` that the action raises is the answer to the call.
        """
        self._interludes.setdefault(name, []).append(action)

    # Faults

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Carry nothing out and show nothing; afterwards watchers are shown what there is then."""
        self._unreachable = True
        try:
            yield
        finally:
            self._unreachable = False
            for namespace, queue in self._watchers.values():
                queue.put_nowait(PodsReplaced(self._pods_of(namespace)))

    @contextmanager
    def restored(self, *pods: Pod) -> Iterator[None]:
        """Put pods back as they were, with their resourceVersions, as a restore of etcd does.

        Nothing is shown until the end of the block, and then everything.
        """
        self._unreachable = True
        for pod in pods:
            self.pods[pod.namespace, pod.name] = pod
            self.history.append(pod)
        try:
            yield
        finally:
            self._unreachable = False
            for namespace, queue in self._watchers.values():
                queue.put_nowait(PodsReplaced(self._pods_of(namespace), restored=True))

    @contextmanager
    def lagging(self, pods: Iterable[Pod]) -> Iterator[None]:
        """Let the cache of an API server stay at these pods, from an earlier moment.

        Only lists that may be old are answered from it.
        """
        frozen = tuple(pods)
        newest = max(int(pod.resource_version) for pod in frozen)
        self._lagging = newest, frozen
        try:
            yield
        finally:
            self._lagging = None

    @contextmanager
    def dropping_answers(self) -> Iterator[None]:
        """Carry patches out, but let their callers wait in vain."""
        self._drop_answers = True
        try:
            yield
        finally:
            self._drop_answers = False

    @contextmanager
    def delaying_writes(self, first: float = math.inf) -> Iterator[LateWrites]:
        """Hold patches back until their callers have given up: to the end, or `carry_out`.

        Only the `first` so many are, and later ones can overtake them.
        """
        self._late = late = LateWrites(first)
        try:
            yield late
        finally:
            self._late = None
            late.carry_out()

    @contextmanager
    def delaying_watches(self) -> Iterator[None]:
        """Hold back what watches show until the end."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            for namespace, event in held:
                self._show(namespace, event)

    @contextmanager
    def refusing(self, *names: str, error: ClusterError | None = None) -> Iterator[None]:
        """Answer these methods with an error, by default for want of a right."""
        wrong = error or Forbidden("A right is missing")
        self._refusals |= dict.fromkeys(names, wrong)
        try:
            yield
        finally:
            for name in names:
                del self._refusals[name]

    @contextmanager
    def webhook(
        self,
        *names: str,
        seconds: float = 0.0,
        error: ClusterError | None = None,
        change: Callable[[Pod, Pod], Pod] = lambda _, patched: patched,
    ) -> Iterator[None]:
        """Hold patches of these pods (none: of all) up for a time.

        Then refuse them if so asked, or change what is stored, given the pod without and with it.
        """
        one = Webhook(names, seconds, error, change)
        self._webhooks.append(one)
        try:
            yield
        finally:
            self._webhooks.remove(one)

    @contextmanager
    def hanging(self, *names: str) -> Iterator[None]:
        """Never answer these methods, until the callers or their adapter give up."""
        self._hanging |= set(names)
        try:
            yield
        finally:
            self._hanging -= set(names)

    # Inside

    def _election(self, namespace: str, name: str, resource_version: str) -> dict[str, Any]:
        """Return an election that is at this resourceVersion."""
        election = self.elections.get((namespace, name))
        if election is None:
            msg = f"There is no election {name}"
            raise NotFound(msg)
        if election["metadata"]["resourceVersion"] != resource_version:
            msg = f"Election {name} changed in the meantime"
            raise Conflict(msg)
        return election

    async def _arrive(self, operation: Operation) -> None:
        self.calls.append(operation)
        await asyncio.sleep(self.latency)
        if operation.name in self._hanging:
            await self._no_answer(operation.timeout or TIMEOUT)
        interludes = self._interludes.get(operation.name)
        if interludes:
            interludes.pop(0)()
        if self._unreachable:
            msg = "The API server cannot be reached"
            raise ClusterUnreachable(msg)
        if operation.name in self._refusals:
            raise self._refusals[operation.name]

    async def _no_answer(self, timeout: float) -> None:
        await asyncio.sleep(timeout)
        msg = "The API server did not answer in time"
        raise ClusterUnreachable(msg)

    async def _carry_out_slice(
        self, carry_out: Callable[[], dict[str, Any]], timeout: float
    ) -> dict[str, Any]:
        if self._late is not None and self._late.quota > 0:
            self._late.quota -= 1
            self._late.pending.append(carry_out)
            await self._no_answer(timeout)
        written = copy.deepcopy(carry_out())
        if self._drop_answers:
            await self._no_answer(timeout)
        return written

    def _slice(self, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Return a slice that has not changed since."""
        metadata = seen["metadata"]
        current = self.slices.get((metadata["namespace"], metadata["name"]))
        if current is None:
            msg = f"There is no slice {metadata['name']}"
            raise NotFound(msg)
        if current["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            msg = f"Slice {metadata['name']} changed in the meantime"
            raise Conflict(msg)
        return current

    def _store_slice(self, body: dict[str, Any]) -> dict[str, Any]:
        body["metadata"]["resourceVersion"] = self._next_version()
        self.slices[body["metadata"]["namespace"], body["metadata"]["name"]] = body
        self.routes.append(tuple(one["targetRef"]["name"] for one in body["endpoints"]))
        return body

    def _next_version(self) -> str:
        self._version += 1
        return str(self._version)

    def _pods_of(self, namespace: str) -> tuple[Pod, ...]:
        return tuple(pod for pod in self.pods.values() if pod.namespace == namespace)

    def _store(self, pod: Pod) -> Pod:
        if self.pods.get((pod.namespace, pod.name)) == pod:
            return pod
        stored = replace(pod, resource_version=self._next_version())
        self.pods[pod.namespace, pod.name] = stored
        self.history.append(stored)
        self._show(pod.namespace, PodChanged(stored))
        return stored

    def _show(self, namespace: str, event: PodEvent) -> None:
        if self._held is not None:
            self._held.append((namespace, event))
        elif not self._unreachable:
            for watched, queue in self._watchers.values():
                if watched == namespace:
                    queue.put_nowait(event)


def _in_time(within: float | None) -> None:
    """Refuse to send what may not be sent any more."""
    if within is not None and within <= 0:
        msg = "The time of this write is over: it was not sent"
        raise Unsent(msg)


def selects(label_selector: str, labels: Mapping[str, str]) -> bool:
    """Whether a label selector in the API server's syntax matches; an empty one always does."""
    parts = re.split(r",(?![^(]*\))", label_selector) if label_selector else []
    return all(_meets(part, labels) for part in parts)


def _meets(requirement: str, labels: Mapping[str, str]) -> bool:
    if match := re.fullmatch(r"(\S+) (in|notin) \((.*)\)", requirement):
        return (labels.get(match[1]) in match[3].split(",")) is (match[2] == "in")
    if match := re.fullmatch(r"([^=!]+)==?(.*)", requirement):
        return labels.get(match[1]) == match[2]
    if match := re.fullmatch(r"(!?)([\w./-]+)", requirement):
        return (match[2] in labels) is not bool(match[1])
    msg = f"not a label selector of this fake: {requirement}"
    raise AssertionError(msg)


def _merged(old: Mapping[str, str], new: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in {**old, **new}.items() if value is not None}
