"""What the operator needs from a cluster, in its own words.

`incumbent.kubernetes.api` is the adapter; tests have a fake that passes the same contract suite.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from incumbent.kubernetes.objects import Pod


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
