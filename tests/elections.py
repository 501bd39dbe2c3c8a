"""Elections for tests on a control plane: pods, a resource, its record, and every label change."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import nats
from nats.js.errors import NotFoundError

from controlplane.kube import has_condition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from nats.aio.client import Client

    from controlplane.kube import Kube
    from controlplane.natsserver import NatsServer

LEADER = "leader"
BUCKET = "ELECTIONS"
"""The bucket of tests that need no other."""


def with_bucket(ttl: float) -> tuple[str, ...]:
    """Return the operator's flags that create the bucket."""
    return (f"--bucket={BUCKET}", "--create-bucket", f"--bucket-ttl={ttl:g}s")


LED_STATUS = {
    "observedGeneration": 1,
    "state": "Leader",
    "key": "shop.billing",
    "token": 7,
    "leader": {"podName": "web-one", "podUID": "x", "acquiredTime": "2026-11-24T06:41:09Z"},
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-24T06:41:09Z",
            "reason": "Leading",
            "message": "",
        }
    ],
}
"""The status of an election as an operator leaves it that was killed."""

WHOLE_STATUS = {
    "observedGeneration": 1,
    "state": "Leader",
    "holder": "7f3a91c2/shop/billing-6f9-abcde",
    "leader": {
        "podName": "billing-6f9-abcde",
        "podUID": "0b3ae1d6-6b0f-4a4e-9f1e-000000000001",
        "nodeName": "node-1",
        "podIP": "10.0.0.7",
        "acquiredTime": "2026-11-24T06:41:09.123456Z",
    },
    "token": 2**53,
    "transitions": 3,
    "candidates": {"total": 3, "ready": 2},
    "steward": {
        "replica": "incumbent-7c9f-x.5f2b",
        "revision": 4711,
        "process": "5d41a0b2",
        "admitted": "incumbent-7c9f8d7c9-fghij/9e1c4f7a",
    },
    "newcomer": "incumbent-7c9f8d7c9-klmno/0b7c2d3e",
    "unconfirmed": {"replica": "replica-2", "renewedTime": "2026-11-24T06:41:09Z"},
    "bucket": {
        "name": "LEADER_ELECTION",
        "ttlSeconds": 30,
        "replicas": 3,
        "createdTime": "2026-11-24T06:00:00Z",
    },
    "key": "shop.billing",
    "site": "7f3a91c2",
    "labelKey": "incumbent.dev/billing",
    "routing": {"service": "billing-leader"},
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-24T06:41:09Z",
            "reason": "Leading",
            "message": "",
        }
    ],
}
"""A status with every field of the definition."""


class Election:
    """One `LeaderElection` and the pods around it.

    Pods are called `one`, `two`, … here; their full names begin with that of the election, so that
    elections may share a namespace.

    Args:
        kube: an administrator's connection.
        namespace: where.
        name: of the resource; its pods carry the label `app` with the same value.
    """

    def __init__(self, kube: Kube, namespace: str, name: str = "web") -> None:
        self.kube = kube
        self.namespace = namespace
        self.name = name
        self.label = f"incumbent.dev/{name}"
        self.token = f"{self.label}.token"
        self.collection = f"/apis/incumbent.dev/v1alpha1/namespaces/{namespace}/leaderelections"
        self.path = f"{self.collection}/{name}"
        self.pods_path = f"/api/v1/namespaces/{namespace}/pods"
        self.key = f"{namespace}.{name}"

    async def create(self, **spec: Any) -> Any:
        """Create the resource."""
        body = {
            "apiVersion": "incumbent.dev/v1alpha1",
            "kind": "LeaderElection",
            "metadata": {"name": self.name},
            "spec": {"selector": {"matchLabels": {"app": self.name}}, **spec},
        }
        return await self.kube.create(self.collection, body)

    def pod_path(self, pod: str) -> str:
        """Return the path of a pod."""
        return f"{self.pods_path}/{self.name}-{pod}"

    async def add_pods(self, *names: str, labels: Mapping[str, str] | None = None) -> None:
        """Create pods that match the selector, and wait until they are Ready."""
        for name in names:
            spec = {"containers": [{"name": "main", "image": "none.invalid/none"}]}
            about = {"name": f"{self.name}-{name}", "labels": labels or {"app": self.name}}
            await self.kube.create(self.pods_path, {"metadata": about, "spec": spec})
        for name in names:
            await self.kube.until(self.pod_path(name), lambda p: has_condition(p, "Ready"))

    async def lead(self, *pods: str, **spec: Any) -> str:
        """Create pods (by default `one` and `two`) and the resource, and wait for a leader."""
        await self.add_pods(*(pods or ("one", "two")))
        await self.create(**spec)
        return await self.wait_leader()

    async def pods(self) -> dict[str, Any]:
        """Return all pods by their short names."""
        found = await self.kube.get(self.pods_path)
        return {short: pod for pod in found["items"] if (short := self.short(pod))}

    def short(self, pod: Mapping[str, Any]) -> str:
        """Return the short name of a pod, empty if it is not one of ours."""
        name: str = pod["metadata"]["name"]
        prefix = f"{self.name}-"
        return name.removeprefix(prefix) if name.startswith(prefix) else ""

    async def labels(self) -> dict[str, str]:
        """Return the label of every pod that has one."""
        shown = {name: label_of(pod, self.label) for name, pod in (await self.pods()).items()}
        return {name: value for name, value in shown.items() if value}

    async def wait_labels(self, expected: Mapping[str, str], *, timeout: float = 20) -> None:
        """Wait until exactly these pods carry exactly these labels."""
        shown: dict[str, str] = {}
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            shown = await self.labels()
            if shown == expected:
                return
            await asyncio.sleep(0.02)
        msg = f"after {timeout} s the labels are {shown}, not {expected}: {await self.status()}"
        raise TimeoutError(msg)

    async def wait_leader(self, *, other_than: str = "", timeout: float = 20) -> str:
        """Wait until one pod carries the leader label and the status names it; return its name."""

        def led(found: Any) -> object:
            return leader_of(found) not in {"", other_than} and has_condition(found, "Ready")

        def leader_of(found: Any) -> str:
            name: str = (found or {}).get("status", {}).get("leader", {}).get("podName", "")
            return name.removeprefix(f"{self.name}-")

        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            leader = leader_of(await self.kube.until(self.path, led, timeout=left))
            leaders = [name for name, value in (await self.labels()).items() if value == LEADER]
            if leaders == [leader]:
                return leader
            # The status follows the labels, so it may still name who led before.
            assert len(leaders) <= 1, leaders
            assert left > 0, f"{leader} is in the status, and the label is on {leaders}"
            await asyncio.sleep(0.02)

    async def wait_reason(
        self, reason: str, *, kind: str = "Ready", timeout: float = 20
    ) -> dict[str, Any]:
        """Wait until a condition has this reason, and return the condition."""
        found = await self.kube.until(
            self.path, lambda f: condition_of(f, kind)["reason"] == reason, timeout=timeout
        )
        return condition_of(found, kind)

    async def status(self) -> dict[str, Any]:
        """Return the present status."""
        found: dict[str, Any] = (await self.kube.get(self.path)).get("status", {})
        return found

    async def patch(self, **spec: Any) -> None:
        """Change the spec."""
        await self.kube.patch(self.path, {"spec": spec})

    async def set_label(self, pod: str, value: str | None) -> None:
        """Set the election's label of a pod by hand; None removes it."""
        await self.annotate_or_label(pod, labels={self.label: value})

    async def annotate_or_label(self, pod: str, **metadata: Any) -> None:
        """Change a pod's labels or annotations by hand."""
        await self.kube.patch(self.pod_path(pod), {"metadata": metadata})

    async def delete(self) -> None:
        """Delete the resource, not waiting for its finalizer."""
        await self.kube.delete(self.path)

    async def wait_gone(self, *, timeout: float = 20) -> None:
        """Wait until the resource is gone."""
        await self.kube.until(self.path, lambda found: found is None, timeout=timeout)

    async def events(self, reason: str = "") -> list[Any]:
        """Return the events about the resource, oldest first."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events"
        found = (await self.kube.get(path))["items"]
        regarding = {"kind": "LeaderElection", "name": self.name}
        about = [e for e in found if regarding.items() <= e.get("regarding", {}).items()]
        about.sort(key=lambda e: e.get("eventTime") or "")
        return [event for event in about if reason in {"", event["reason"]}]

    async def wait_event(self, reason: str, *, times: int = 1, timeout: float = 20) -> Any:
        """Wait for so many events of this reason, which follow the status; return the latest."""
        deadline = time.monotonic() + timeout
        while len(found := await self.events(reason)) < times:
            assert time.monotonic() < deadline, f"no event {reason} after {timeout} s"
            await asyncio.sleep(0.05)
        return found[-1]


def label_of(pod: Mapping[str, Any], label: str) -> str:
    """Return a label's value, empty if there is none."""
    value: str = pod["metadata"].get("labels", {}).get(label, "")
    return value


def condition_of(found: Mapping[str, Any] | None, kind: str) -> dict[str, Any]:
    """Return a condition of a resource; without one, an empty reason."""
    conditions = ((found or {}).get("status") or {}).get("conditions") or []
    missing = {"status": "", "reason": "", "message": ""}
    return next((condition for condition in conditions if condition["type"] == kind), missing)


@dataclass(frozen=True, slots=True)
class Change:
    """Which pods carried the leader label from some moment on, and with what token."""

    at: float
    """On the monotonic clock of this process, when we heard of it."""
    leaders: Mapping[str, str]


class LabelWatch:
    """Records every change of the leader labels of an election, in the order of the API server.

    The API server shows all pods' changes in one order, so what is never seen here never was.
    """

    def __init__(self, election: Election) -> None:
        self._election = election
        self._leaders: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self.changes: list[Change] = []
        """Begins with the state at the start."""

    @property
    def most(self) -> int:
        """The most pods that ever carried the label at the same time."""
        return max(len(change.leaders) for change in self.changes)

    @property
    def leaders(self) -> list[str]:
        """Who led, one after the other; a pod that lost the label in between, twice."""
        return [name for change in self.changes for name in change.leaders]

    async def wait(self, condition: Callable[[Change], object], *, timeout: float = 20) -> Change:
        """Wait until the latest change is as expected, and return it."""
        deadline = time.monotonic() + timeout
        while not condition(self.changes[-1]):
            assert time.monotonic() < deadline, f"not after {timeout} s: {self.changes}"
            await asyncio.sleep(0.005)
        return self.changes[-1]

    async def __aenter__(self) -> Self:
        """Begin."""
        found = await self._election.kube.get(self._election.pods_path)
        for pod in found["items"]:
            self._take("ADDED", pod)
        self.changes.append(Change(time.monotonic(), dict(self._leaders)))
        version = found["metadata"]["resourceVersion"]
        self._task = asyncio.create_task(self._follow(version))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self, version: str) -> None:
        while True:  # a busy API server ends watches that cannot keep up
            changes = self._election.kube.watch(self._election.pods_path, resourceVersion=version)
            async with contextlib.aclosing(changes):
                async for kind, pod in changes:
                    assert kind != "ERROR", pod
                    version = pod["metadata"]["resourceVersion"]
                    self._take(kind, pod)
                    if self._leaders != self.changes[-1].leaders:
                        self.changes.append(Change(time.monotonic(), dict(self._leaders)))

    def _take(self, kind: str, pod: Mapping[str, Any]) -> None:
        name = self._election.short(pod)
        self._leaders.pop(name, None)
        if name and kind != "DELETED" and label_of(pod, self._election.label) == LEADER:
            token = pod["metadata"].get("annotations", {}).get(self._election.token, "")
            self._leaders[name] = token


@dataclass(frozen=True, slots=True)
class Message:
    """The latest message of a key."""

    revision: int
    value: str
    headers: dict[str, str] = field(default_factory=dict)


class Store:
    """A bucket as any other NATS client sees it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jetstream = client.jetstream()

    async def latest(self, key: str) -> Message | None:
        """Return the latest message of a key, None without one."""
        try:
            found = await self.jetstream.get_msg(
                f"KV_{BUCKET}", subject=f"$KV.{BUCKET}.{key}", direct=False
            )
        except NotFoundError:
            return None
        return Message(found.seq or 0, (found.data or b"").decode(), dict(found.headers or {}))

    async def until(
        self, key: str, condition: Callable[[Message | None], object], *, timeout: float = 20
    ) -> Message | None:
        """Wait until the latest message of a key is as expected."""
        deadline = time.monotonic() + timeout
        while not condition(message := await self.latest(key)):
            assert time.monotonic() < deadline, f"{key} is {message} after {timeout} s"
            await asyncio.sleep(0.02)
        return message

    async def put(self, key: str, value: str, **headers: str) -> None:
        """Put a record, whatever there is."""
        await self.jetstream.publish(f"$KV.{BUCKET}.{key}", value.encode(), headers=headers)


@contextlib.asynccontextmanager
async def store_on(server: NatsServer) -> AsyncIterator[Store]:
    """Connect to the bucket on a server."""
    client = await nats.connect(server.url)
    try:
        yield Store(client)
    finally:
        await client.close()
