"""The interface that the operator needs from a cluster.

`incumbent.kubernetes.api` implements it. The tests have a fake, and one contract suite tests both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from incumbent.kubernetes.objects import Pod


@dataclass(frozen=True, slots=True)
class PodsReplaced:
    """All pods of the namespace, from a consistent list. A pod that is not in it is gone."""

    pods: tuple[Pod, ...]
    restored: bool = False
    """Whether resourceVersions went back, as after a restore of etcd from a backup."""


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
    """One sentence that also says what to do."""


PodEvent = PodsReplaced | PodChanged | PodDeleted | PodsUnwatched


class Cluster(Protocol):
    """The part of a Kubernetes API server that an election uses.

    Every method can raise a `ClusterError`. After `ClusterUnreachable` a write may have happened.
    Only `watch_pods` retries, and it never ends by itself.
    """

    async def cluster_uid(self, namespace: str = "kube-system") -> str:
        """Return the UID of a namespace that is never deleted: it identifies the cluster."""
        ...

    async def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Read a pod, consistently; None if there is none."""
        ...

    async def list_pods(self, namespace: str, label_selector: str, *, since: str = "") -> list[Pod]:
        """List pods, consistently.

        With `since`, the list is at least as new as this resourceVersion. The API server then does
        not wait until its cache has caught up with all other writes.
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
        """Set labels and annotations (None removes), if UID and resourceVersion have not changed.

        With `dry_run`, the API server only says whether it would accept the patch. The request may
        wait before it is sent, but it is not sent after `within` seconds.

        Raises:
            Conflict: the pod changed, or another pod has its name.
            NotFound: the pod is gone.
            Unsent: it was not sent in time.
            ClusterUnreachable: no answer within `timeout` seconds; it may yet be carried out.
        """
        ...

    def watch_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        """List and then watch all pods of a namespace, forever.

        The first event is `PodsReplaced`. It comes again after each loss of the watch that cannot
        be resumed: a 410, an interruption, a restart of the API server. Errors are logged, and the
        watch tries again after growing, jittered pauses. If too many namespaces are watched
        already, `PodsUnwatched` comes first.
        """
        ...

    async def get_service(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a Service as JSON, consistently; None if there is none."""
        ...

    async def get_slice(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read an EndpointSlice as JSON, consistently; None if there is none."""
        ...

    async def list_slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return all EndpointSlices of a Service, regardless of their writers."""
        ...

    async def create_slice(
        self, body: Mapping[str, Any], *, timeout: float, within: float | None = None
    ) -> dict[str, Any]:
        """Create an EndpointSlice. The time limits are as in `patch_pod`.

        Raises:
            Conflict: the name is taken.
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

        Lists are replaced as a whole. The time limits are as in `patch_pod`.

        Raises:
            Conflict: the slice changed.
            NotFound: the slice is gone.
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
        """Set annotations of an election (None removes), if it has this resourceVersion."""
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
