"""The reads and writes of pods, slices and elections at a Kubernetes API server.

This module does not use the models of the Kubernetes library. They take a second of CPU for 3,000
pods, and an election looks at only a dozen fields of each pod. The JSON of a pod becomes a slim
`Pod` (see `objects`).

Only the watch is retried. After any other failure the caller must read and decide again.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from incumbent import clock
from incumbent.errors import ClusterError
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.events import event_about
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.kubeconfig import Overrides
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.pod_json import pod_from
from incumbent.kubernetes.ports import PodEvent
from incumbent.kubernetes.requests import JSON_PATCH, MERGE_PATCH, Requests
from incumbent.kubernetes.resource import (
    API_VERSION,
    PLURAL,
    SERVICE_NAME,
    elections_path,
    lean,
    pods_path,
    slices_path,
    whole,
)
from incumbent.kubernetes.watch import PodWatches
from incumbent.ratelimit import RateLimit

STATUS_TIMEOUT = 15.0
"""Seconds for a write of a status. Nothing waits for it, and admission webhooks have 10 s by
default."""

EVENTS_BURST, EVENTS_RATE = 1000, 2.0
"""How many events a namespace may have at once, and how many more each second. An API server keeps
an event for an hour, so the events of one namespace take less than 20 MB. client-go is stricter: it
allows 25 events for an object, and then one in 5 minutes (its `EventCorrelator`)."""


class ApiServer:
    """A Kubernetes API server; implements `incumbent.campaign.ports.Cluster`.

    Creating it sends nothing, so it can be created while the API server is away.

    Args:
        connection: the connection to the API server.
        replica: the name with which events are signed.
        watches: how many namespaces can be watched at a time; None: any number.
    """

    def __init__(self, connection: Connection, *, replica: str, watches: int | None = None) -> None:
        self.connection = connection
        self.requests = Requests(connection)
        self.watches = PodWatches(self.requests, watches)
        self._replica = replica
        self._events = RateLimit(burst=EVENTS_BURST, rate=EVENTS_RATE)

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None = None,
        *,
        context: str | None = None,
        replica: str,
        overrides: Overrides | None = None,
        watches: int | None = None,
    ) -> Self:
        """Create it with the access data that `Connection.find` finds. Nothing is sent."""
        connection = await Connection.find(kubeconfig, context=context, overrides=overrides)
        return cls(connection, replica=replica, watches=watches)

    async def aclose(self) -> None:
        """Close all connections. Requests without an answer raise `ClusterUnreachable`."""
        await self.connection.aclose()

    async def cluster_uid(self, namespace: str = "kube-system") -> str:
        """Return the UID of a namespace that is never deleted: it identifies the cluster."""
        found = await self.requests.ask("GET", f"/api/v1/namespaces/{namespace}")
        return str(found["metadata"]["uid"])

    async def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Read a pod, consistently; None if there is none."""
        pod = await self.requests.find(f"{pods_path(namespace)}/{name}")
        return pod_from(pod) if pod is not None else None

    async def list_pods(self, namespace: str, label_selector: str, *, since: str = "") -> list[Pod]:
        """List pods, consistently.

        The API server answers from its watch cache when the cache has caught up with etcd. After a
        write to any other object it waits up to 100 ms for that (measured with 1.37). With `since`,
        the resourceVersion of a pod that was just written, it does not wait for more than that
        write, and the list is at least as new as the write.
        """
        pods, _ = await self.requests.collect(
            pods_path(namespace), pod_from, {"labelSelector": label_selector}, since=since
        )
        return pods

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

        The API server accepts a patch that changes nothing, but writes nothing, and the
        resourceVersion stays.

        Args:
            pod: the pod as it was read.
            labels: the labels to set.
            annotations: the annotations to set.
            timeout: seconds to wait for the answer after the request was sent.
            within: seconds after which the request is no longer sent; None: no limit.
            dry_run: whether to ask only if the API server would accept it, and write nothing.
        """
        metadata = {
            "uid": pod.uid,
            "resourceVersion": pod.resource_version,
            "labels": dict(labels),
            "annotations": dict(annotations),
        }
        return pod_from(
            await self.requests.ask(
                "PATCH",
                f"{pods_path(pod.namespace)}/{pod.name}",
                query={"dryRun": "All"} if dry_run else None,
                body={"metadata": metadata},
                content_type=MERGE_PATCH,
                timeout=timeout,
                within=within,
            )
        )

    def watch_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        """List and then watch all pods of a namespace, forever; see `PodWatches.watch`."""
        return self.watches.watch(namespace)

    async def get_service(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a Service as JSON, consistently; None if there is none."""
        return await self.requests.find(f"/api/v1/namespaces/{namespace}/services/{name}")

    async def get_slice(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read an EndpointSlice as JSON, consistently; None if there is none."""
        return await self.requests.find(f"{slices_path(namespace)}/{name}")

    async def list_slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return the EndpointSlices of a Service. They are few, so one page is enough."""
        query = {"labelSelector": f"{SERVICE_NAME}={service}"}
        answer: dict[str, Any] = await self.requests.ask("GET", slices_path(namespace), query=query)
        return list(answer["items"])

    async def create_slice(
        self, body: Mapping[str, Any], *, timeout: float, within: float | None = None
    ) -> dict[str, Any]:
        """Create an EndpointSlice; raise `Conflict` if the name is taken."""
        path = slices_path(body["metadata"]["namespace"])
        answer: dict[str, Any] = await self.requests.ask(
            "POST", path, body=body, timeout=timeout, within=within
        )
        return answer

    async def patch_slice(
        self,
        seen: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        timeout: float,
        within: float | None = None,
    ) -> dict[str, Any]:
        """Change an EndpointSlice, if UID and resourceVersion are still those of `seen`.

        This is a merge patch, because aiohttp sends a PUT a second time if the connection breaks.
        """
        metadata = seen["metadata"]
        condition = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        answer: dict[str, Any] = await self.requests.ask(
            "PATCH",
            f"{slices_path(metadata['namespace'])}/{metadata['name']}",
            body={**change, "metadata": {**change.get("metadata", {}), **condition}},
            content_type=MERGE_PATCH,
            timeout=timeout,
            within=within,
        )
        return answer

    async def delete_slice(self, seen: Mapping[str, Any]) -> None:
        """Delete an EndpointSlice, if UID and resourceVersion are still those of `seen`."""
        metadata = seen["metadata"]
        condition = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        await self.requests.ask(
            "DELETE",
            f"{slices_path(metadata['namespace'])}/{metadata['name']}",
            body={"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": condition},
        )

    async def get_election(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a `LeaderElection` as JSON, consistently; None if there is none.

        Raises:
            NotFound: the kind is not installed.
        """
        found = await self.requests.find(f"{elections_path(namespace)}/{name}")
        return lean(found) if found is not None else None

    async def list_elections(self, namespace: str | None) -> list[dict[str, Any]]:
        """Return all elections of a namespace (None: all namespaces).

        Raises:
            NotFound: the kind is not installed.
        """
        pages = self.election_pages(namespace)
        return [body async for page, _ in pages for body in page]

    async def election_pages(
        self, namespace: str | None
    ) -> AsyncGenerator[tuple[list[dict[str, Any]], str]]:
        """Yield pages of all elections of a namespace (None: all namespaces), and their version.

        Raises:
            NotFound: the kind is not installed.
        """
        path = elections_path(namespace) if namespace else f"/apis/{API_VERSION}/{PLURAL}"
        async for items, version in self.requests.pages(path, {}):
            yield [lean(whole(item)) for item in items], version

    async def annotate_election(
        self,
        namespace: str,
        name: str,
        *,
        resource_version: str,
        annotations: Mapping[str, str | None],
    ) -> None:
        """Set annotations of an election (None removes), if it has this resourceVersion."""
        metadata = {"resourceVersion": resource_version, "annotations": dict(annotations)}
        await self.requests.ask(
            "PATCH",
            f"{elections_path(namespace)}/{name}",
            body={"metadata": metadata},
            content_type=MERGE_PATCH,
        )

    async def replace_status(
        self, namespace: str, name: str, *, resource_version: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace the whole status, if the resourceVersion still is the given one.

        This is a JSON patch, because a merge patch would keep keys that `status` no longer has, and
        aiohttp sends a PUT a second time if the connection breaks.
        """
        answer: dict[str, Any] = await self.requests.ask(
            "PATCH",
            f"{elections_path(namespace)}/{name}/status",
            body=[
                # The operation "test" would fail with 422 instead of 409.
                {"op": "add", "path": "/metadata/resourceVersion", "value": resource_version},
                {"op": "add", "path": "/status", "value": dict(status)},
            ],
            content_type=JSON_PATCH,
            timeout=STATUS_TIMEOUT,
            usual=Rank.REPORT,
        )
        return lean(answer)

    async def emit_event(
        self, election: Mapping[str, Any], *, kind: str, reason: str, action: str, note: str
    ) -> None:
        """Create an `events.k8s.io/v1` event about a `LeaderElection`; kind: Normal or Warning.

        Raises:
            ClusterError: it was not created, or its namespace has had too many recently.
        """
        event = event_about(
            election,
            kind=kind,
            reason=reason,
            action=action,
            note=note,
            replica=self._replica,
            time=datetime.now(UTC),
        )
        namespace = event["metadata"]["namespace"]
        if not self._events.take(namespace, clock.now()):
            msg = (
                f"Namespace {namespace} has had {EVENTS_BURST} events, and now gets"
                f" {EVENTS_RATE:g} a second; read the status instead."
            )
            raise ClusterError(msg)
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
        await self.requests.ask("POST", path, body=event, usual=Rank.REPORT)
