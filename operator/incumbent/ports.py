"""What the operator needs from a bucket and from a cluster, in its own words.

`incumbent.bucket` and `incumbent.cluster` are the adapters; tests have fakes of both that pass
the same contract suites.
"""

from __future__ import annotations

import enum
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from incumbent.errors import BucketDenied, BucketError, BucketInvalid, BucketSilent
from incumbent.model import BucketInfo, Entry, Pod


class Outcome(enum.Enum):
    """The three ways in which a conditional write can end."""

    STORED = "stored"
    REFUSED = "refused"
    """Not stored: the last revision was not the expected one, or nothing was sent at all."""
    UNKNOWN = "unknown"
    """No answer, or one that does not tell; the write may have been or may yet be stored."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one write ended; `revision` counts only if it was stored."""

    outcome: Outcome
    revision: int = 0
    reason: str = ""
    """For people, when it was not stored."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An entry as a watch or a read showed it."""

    entry: Entry
    age: float = 0.0
    """Seconds since it was stored, by the server's clock."""
    live: bool = False
    """Whether a watch showed it as it happened, with nothing on the key left out before it."""
    unseen_for: float = field(default=math.inf, compare=False)
    """For how many seconds something on the key may have been stored that was not shown; 0 if
    nothing was, infinity if that is not known. What is `live` has nothing missing before it."""
    stored_at: float = field(default=0.0, compare=False)
    """When it was stored by the server's clock, in seconds since 1970; 0 if there is nothing."""


class Bucket(Protocol):
    """A key-value bucket with conditional writes.

    No method retries. Every method may raise a `BucketError` but `write` and `remove`, whose
    outcome is a value: an error would lose the difference between refused and unknown.
    """

    name: str

    async def info(self) -> BucketInfo:
        """Ask the server for the bucket's settings."""
        ...

    async def write(
        self, key: str, value: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put `value` if the last revision of the key is `expected` (0: no message at all)."""
        ...

    async def remove(
        self, key: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put a delete marker if the last revision of the key is `expected`."""
        ...

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Read the latest entry of the key from the stream's leader."""
        ...

    def watch(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Call `seen` for the latest entry of the key and for every later one, in order.

        After a reconnect the latest entry is shown again, `Nothing` if there is none. Returns a
        function that ends the watch. `seen` must not block.
        """
        ...


class WatchedBucket(Bucket, Protocol):
    """A bucket that also tells when something about it changes."""

    problem: BucketError | None
    """Why it cannot be used now; None while it can."""
    settings: BucketInfo | None
    """What the server said last; None before the first answer."""
    server_ahead: float | None
    """How many seconds the server's clock, which counts from 1970, is ahead of `incumbent.clock`,
    of which nobody knows from when it counts; None before the first answer."""
    denied: dict[str, BucketDenied | BucketInvalid | BucketSilent]
    """Keys of which no write was stored, as far as was tried, and why: we may not write them, there
    is no room, or for a whole TTL there was no answer."""

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when `problem`, `settings` or `denied` change; returns how to end that."""
        ...


class Observer(Protocol):
    """Who is told how long things took, in seconds."""

    def bucket_write(self, outcome: Outcome, seconds: float) -> None:
        """A write of the bucket was answered, or given up."""
        ...

    def label_write(self, seconds: float) -> None:
        """A leader label was written, or taken away, confirmed by the API server."""
        ...

    def slice_write(self, seconds: float) -> None:
        """An EndpointSlice was led to another pod, or to nobody, confirmed by the API server."""
        ...

    def handover(self, seconds: float) -> None:
        """A pod took over from a pod of the same site: from the reason to the new label."""
        ...

    def failover(self, seconds: float) -> None:
        """A pod took over a vacant key: from the vacancy to the new label."""
        ...


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of the history."""

    sequence: int
    data: bytes


class HistoryStore(Protocol):
    """Where the terms of elections are written down: a list of messages for each key.

    Every method raises a `BucketError` where the store cannot be used, or does not answer; a
    message may have been added all the same.
    """

    name: str
    kept: int
    """How many messages of each key are kept, the newest."""

    async def look(self) -> bool:
        """Find out about the store, and whether it still is the one of the last look."""
        ...

    async def last(self, bucket: str, key: str) -> Stored | None:
        """Return the last message of a key, None if there is none."""
        ...

    async def next(self, bucket: str, key: str, *, after: int) -> Stored | None:
        """Return the first message of a key behind a sequence, None if there is none."""
        ...

    async def append(self, bucket: str, key: str, data: bytes, *, expected: int) -> Answer:
        """Add a message, if the sequence of the key's last one is `expected` (0: there is none).

        The answer is stored or refused, never unknown.
        """
        ...


class HistoryObserver(Protocol):
    """Who is told what became of the entries of the history."""

    def history_entry(self, outcome: str) -> None:
        """An entry was `stored`, was `known` already, `failed` once more, or was `dropped`."""
        ...

    def term_began(self, how: str) -> None:
        """This replica wrote down the beginning of a term; empty: it is not known how."""
        ...

    def term_ended(self, cause: str) -> None:
        """This replica wrote down the end of a term."""
        ...


@dataclass(frozen=True, slots=True)
class PodsReplaced:
    """All pods of the namespace, from a consistent list: what is not in it is gone."""

    pods: tuple[Pod, ...]
    restored: bool = False
    """Whether the API server's versions went back, as after a restore of etcd from a backup."""


@dataclass(frozen=True, slots=True)
class PodChanged:
    """A pod was added or changed."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class PodDeleted:
    """A pod is gone."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class PodsUnwatched:
    """The watch has to wait until another one ends."""

    reason: str
    """In one sentence, with what to do."""


PodEvent = PodsReplaced | PodChanged | PodDeleted | PodsUnwatched


class Cluster(Protocol):
    """The part of a Kubernetes API server that an election uses.

    Every method raises a `ClusterError`. After `ClusterUnreachable` a write may have been carried
    out. Nothing is retried here, but for `watch_pods`, which never ends by itself.
    """

    async def cluster_uid(self, namespace: str = "kube-system") -> str:
        """Return the UID of a namespace that is never deleted: it identifies the cluster."""
        ...

    async def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Read a pod, consistently; None if there is none."""
        ...

    async def list_pods(self, namespace: str, label_selector: str, *, since: str = "") -> list[Pod]:
        """List pods, consistently; with `since`, at least as new as this resourceVersion.

        The latter does not wait for the API server's cache to catch up with everything else.
        """
        ...

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
        """Set labels and annotations (None removes), if UID and resourceVersion are still `pod`'s.

        With `dry_run` the API server only says whether it would. The request may have to wait
        before it is sent, and is not sent after `within` seconds.

        Raises:
            Conflict: the pod changed, or it is another pod of the same name.
            NotFound: it is gone.
            Unsent: it was not sent in time.
            ClusterUnreachable: no answer within `timeout` seconds; it may yet be carried out.
        """
        ...

    def watch_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        """List, then watch, all pods of a namespace, for ever.

        Starts with `PodsReplaced`, and again after each loss of the watch that is not resumed: 410,
        an interruption, a restart of the API server. Errors are logged, and retried with growing,
        jittered pauses. Where too many namespaces are watched already, `PodsUnwatched` comes first.
        """
        ...

    async def get_service(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a Service as JSON, consistently; None if there is none."""
        ...

    async def get_slice(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read an EndpointSlice as JSON, consistently; None if there is none."""
        ...

    async def list_slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return the EndpointSlices of a Service, whoever wrote them."""
        ...

    async def create_slice(
        self, body: Mapping[str, Any], *, timeout: float, within: float | None = None
    ) -> dict[str, Any]:
        """Create an EndpointSlice; the limits are those of `patch_pod`.

        Raises:
            Conflict: there is one of this name.
            Unsent: it was not sent in time.
            ClusterUnreachable: no answer within `timeout` seconds; it may yet be carried out.
        """
        ...

    async def patch_slice(
        self,
        seen: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        timeout: float,
        within: float | None = None,
    ) -> dict[str, Any]:
        """Change an EndpointSlice, if UID and resourceVersion are still those of `seen`.

        Lists are replaced as a whole. The limits are those of `patch_pod`.

        Raises:
            Conflict: it changed.
            NotFound: it is gone.
            Unsent: it was not sent in time.
            ClusterUnreachable: no answer within `timeout` seconds; it may yet be carried out.
        """
        ...

    async def delete_slice(self, seen: Mapping[str, Any]) -> None:
        """Delete an EndpointSlice, if UID and resourceVersion are still those of `seen`."""
        ...

    async def get_election(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a `LeaderElection` as JSON, consistently; None if there is none."""
        ...

    async def annotate_election(
        self,
        namespace: str,
        name: str,
        *,
        resource_version: str,
        annotations: Mapping[str, str | None],
    ) -> None:
        """Set annotations of an election (None removes), if it is at this resourceVersion."""
        ...

    async def replace_status(
        self, namespace: str, name: str, *, resource_version: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace the whole status, if the resourceVersion still is the given one."""
        ...

    async def emit_event(
        self, election: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str
    ) -> None:
        """Create an `events.k8s.io/v1` event about a `LeaderElection`; kind: Normal or Warning."""
        ...
