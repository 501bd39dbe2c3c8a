"""The adapter to a Kubernetes API server: what is read there, watched and written.

The models of the Kubernetes library are left alone: they take a second of CPU for 3,000 pods, of
which an election looks at a dozen fields each. The JSON becomes a slim `Pod` in the pure functions
at the end.

Nothing is retried but the watch: after a failure the caller has to look and decide again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import random
import sys
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Self

import aiohttp
import structlog

from incumbent import clock
from incumbent.display import shown
from incumbent.errors import (
    ClusterError,
    ClusterUnreachable,
    NotFound,
    Overloaded,
    Unconnected,
    Unsent,
)
from incumbent.kubernetes.connection import (
    JSON,
    Body,
    Connection,
    Expired,
    Interrupted,
    Overrides,
    UnknownKind,
    drop,
    error_for,
    keep_alive,
    namespace_in,
    translated,
)
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodEvent, PodsReplaced, PodsUnwatched
from incumbent.kubernetes.resource import API_VERSION, GROUP, PLURAL, SERVICE_NAME, lean, whole
from incumbent.kubernetes.turns import apart, working_for
from incumbent.ratelimit import RateLimit

log = structlog.get_logger(__name__)

TIMEOUT = 5.0
"""Seconds for a request from the first byte sent to the last one read, and for opening a watch."""

STATUS_TIMEOUT = 15.0
"""Seconds for a write of a status. Nothing waits for it, and admission webhooks have 10 s, unless
they are given more."""

PAGE = 200
"""Pods in one answer to a list. Decoding holds the event loop: 200 pods of 4 KB for some 30 ms, and
3,000 at once for half a second, twice the smallest margin of a deadline (both measured)."""
LONGEST_PAGE = 4_000_000
"""Bytes of such an answer, at most. A pod may have 1.5 MB, and 200 of them would take a gigabyte
while they are decoded. If an answer is longer, a page of fewer is asked for."""
SMALLER = 8
"""So many times fewer."""

WATCH_SECONDS = (240, 360)
"""How long the API server is asked to keep a watch open; random, so that watches spread out."""

SILENCE = 75.0
"""Seconds without a byte after which a watch is taken for dead. The API server sends a bookmark
after a minute at the latest (`defaultBookmarkFrequency` of its watch cache), and the rest is slack.
At rest it does so only for watches from an earlier version than its newest: see `one_before`.
"""

SLACK = 2.0
"""Seconds by which a watch may end before its time, and has not been interrupted."""

HEALTHY = 10.0
"""Seconds after which a watch that ends counts as having worked."""

PAUSES = (0.1, 2.0)
"""The first and the longest pause in seconds before a failed watch is opened again. For so long an
API server that is back goes unnoticed, and with it what was done to the labels meanwhile."""

QUIET = 60.0
"""Seconds in which it is said once that etcd was restored, however many namespaces find out."""

RETRY_AFTER = 60.0
"""Seconds to leave the API server alone when it asks for that (the header Retry-After), at most. It
asks for 1 s itself; what is in front of it may ask for anything."""

EVENTS_BURST, EVENTS_RATE = 1000, 2.0
"""Events of one namespace at once, and then each second. An API server keeps an event for an hour,
and this keeps what one namespace makes us store below 20 MB. client-go is stricter: 25 for an
object, and then one in 5 minutes (its `EventCorrelator`)."""

CONTROLLER = "incumbent.dev/operator"
"""Who reports events."""

LONGEST_HOSTNAME = 63
"""Letters of a host name that Linux and DNS allow."""
NOTE_BYTES = 1024
INSTANCE_BYTES = 128
"""Limits of an event's fields in the API server's validation."""

MOST_PORTS = 100
"""Named ports of a pod that are kept: as many as an EndpointSlice is made for."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class ApiServer:
    """A Kubernetes API server; implements `incumbent.campaign.ports.Cluster`.

    Nothing is sent before the first request, and it may be made while the API server is away.

    Args:
        connection: how it is reached.
        replica: signs the events.
        watches: how many namespaces can be watched at a time; None: any number.
    """

    request_timeout: float = TIMEOUT
    """Seconds for a request that is given no other limit."""

    def __init__(self, connection: Connection, *, replica: str, watches: int | None = None) -> None:
        self.connection = connection
        self._most_watches = watches
        self._watches = asyncio.Semaphore(sys.maxsize if watches is None else watches)
        self._waiting = 0
        """How many watches wait until another one ends."""
        self._replica = replica
        self._events = RateLimit(burst=EVENTS_BURST, rate=EVENTS_RATE)
        self._quiet_until = 0.0

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
        """Find the access as `Connection.find` does, which sends nothing."""
        connection = await Connection.find(kubeconfig, context=context, overrides=overrides)
        return cls(connection, replica=replica, watches=watches)

    async def aclose(self) -> None:
        """Close all connections. Whoever still waits for an answer gets `ClusterUnreachable`."""
        await self.connection.aclose()

    async def cluster_uid(self, namespace: str = "kube-system") -> str:
        """Return the UID of a namespace that is never deleted: it identifies the cluster."""
        found = await self._ask("GET", f"/api/v1/namespaces/{namespace}")
        return str(found["metadata"]["uid"])

    async def get_pod(self, namespace: str, name: str) -> Pod | None:
        """Read a pod, consistently; None if there is none."""
        pod = await self._find(f"{pods_path(namespace)}/{name}")
        return pod_from(pod) if pod is not None else None

    async def list_pods(self, namespace: str, label_selector: str, *, since: str = "") -> list[Pod]:
        """List pods, consistently.

        The API server answers from its watch cache when that has caught up with etcd, for which it
        waits up to 100 ms after any write to anything else (measured with 1.37). With `since`, the
        resourceVersion of a pod that was just written, there is no such wait: the list is then at
        least as new as that write.
        """
        pods, _ = await self._list(pods_path(namespace), label_selector, since=since)
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
        """Set labels and annotations (None removes), if UID and resourceVersion are still `pod`'s.

        A patch that changes nothing is accepted and writes nothing: the resourceVersion stays.

        Args:
            pod: as it was read.
            labels: to set.
            annotations: to set.
            timeout: seconds for the answer, once it is sent.
            within: seconds after which it is not sent any more; None: it waits for its turn.
            dry_run: whether to ask admission only, and write nothing.
        """
        metadata = {
            "uid": pod.uid,
            "resourceVersion": pod.resource_version,
            "labels": dict(labels),
            "annotations": dict(annotations),
        }
        return pod_from(
            await self._ask(
                "PATCH",
                f"{pods_path(pod.namespace)}/{pod.name}",
                query={"dryRun": "All"} if dry_run else None,
                body={"metadata": metadata},
                content_type=MERGE_PATCH,
                timeout=timeout,
                within=within,
            )
        )

    async def watch_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        """List, then watch, all pods of a namespace, for ever.

        Nothing is lost while the consumer is slow: the stream waits, and is resumed from the last
        event taken. Close it (`contextlib.aclosing`) to close its connection.

        If there are as many watches as there may be, this one waits until another one is closed.
        """
        if self._watches.locked():
            problem = self._too_many()
            self._waiting += 1
            try:
                yield PodsUnwatched(problem)
                await self._watches.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._watches.acquire()
        try:
            async with contextlib.aclosing(self._follow_pods(namespace)) as events:
                async for event in events:
                    yield event
        finally:
            self._watches.release()

    def _too_many(self) -> str:
        """Say that there are as many watches as there may be; log it once for all that wait."""
        problem = (
            f"the operator may open too few files to watch more than {self._most_watches}"
            " namespaces: raise the hard limit (ulimit -Hn, LimitNOFILE), or give some of the"
            " namespaces to another operator (--namespace)"
        )
        if not self._waiting:
            log.warning("cluster.too_many_namespaces", watched=self._most_watches, problem=problem)
        return problem

    async def _follow_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        path = pods_path(namespace)
        version, listed, refused = "", False, ""
        failures = 0
        while True:
            opened = math.inf
            problem: ClusterError | None = None
            try:
                if not listed:
                    with working_for(namespace, ""), apart(Rank.ROUTINE):
                        pods, now = await self._list(path)
                    restored = self.went_back(version, now)
                    version, listed = now, True
                    yield PodsReplaced(tuple(pods), restored=restored)
                    del pods  # they would stay in memory as they were, for as long as the watch
                opened = clock.now()
                start = version if version == refused else one_before(version)
                async with contextlib.aclosing(self._watch(path, start)) as changes:
                    async for kind, pod in changes:
                        known, version = version, pod["metadata"]["resourceVersion"]
                        if known == version:
                            continue  # seen before this watch
                        match kind:
                            case "ADDED" | "MODIFIED":
                                yield PodChanged(pod_from(pod))
                            case "DELETED":
                                yield PodDeleted(pod_from(pod))
            except Expired:
                listed, refused = False, version
            except ClusterError as error:
                problem = error
                listed = listed and not isinstance(error, Interrupted | Unconnected)
            failures = 0 if clock.now() - opened > HEALTHY else failures + 1
            # The end of its time, and a version too old, are what every watch comes to.
            if problem is not None or failures > 1:
                pause = pause_before(failures, problem)
                log.warning(
                    "cluster.watch_interrupted",
                    namespace=namespace,
                    reason=str(problem or "The API server ended the watch early"),
                    pause=round(pause, 3),
                )
                await asyncio.sleep(pause)

    async def get_service(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a Service as JSON, consistently; None if there is none."""
        return await self._find(f"/api/v1/namespaces/{namespace}/services/{name}")

    async def get_slice(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read an EndpointSlice as JSON, consistently; None if there is none."""
        return await self._find(f"{slices_path(namespace)}/{name}")

    async def list_slices(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return the EndpointSlices of a Service: as many as Kubernetes makes, so one page."""
        query = {"labelSelector": f"{SERVICE_NAME}={service}"}
        answer: dict[str, Any] = await self._ask("GET", slices_path(namespace), query=query)
        return list(answer["items"])

    async def create_slice(
        self, body: Mapping[str, Any], *, timeout: float, within: float | None = None
    ) -> dict[str, Any]:
        """Create an EndpointSlice; a `Conflict` if there is one of this name."""
        path = slices_path(body["metadata"]["namespace"])
        answer: dict[str, Any] = await self._ask(
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

        A merge patch, for a PUT would be sent a second time by aiohttp if the connection broke.
        """
        metadata = seen["metadata"]
        condition = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        answer: dict[str, Any] = await self._ask(
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
        await self._ask(
            "DELETE",
            f"{slices_path(metadata['namespace'])}/{metadata['name']}",
            body={"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": condition},
        )

    async def get_election(self, namespace: str, name: str) -> dict[str, Any] | None:
        """Read a `LeaderElection` as JSON, consistently; None if there is none.

        Raises:
            NotFound: the kind is not installed.
        """
        found = await self._find(f"{elections_path(namespace)}/{name}")
        return lean(found) if found is not None else None

    async def list_elections(self, namespace: str | None) -> list[dict[str, Any]]:
        """Return all elections of a namespace (None: of all).

        Raises:
            NotFound: the kind is not installed.
        """
        pages = self.election_pages(namespace)
        return [body async for page, _ in pages for body in page]

    async def election_pages(
        self, namespace: str | None
    ) -> AsyncGenerator[tuple[list[dict[str, Any]], str]]:
        """Yield all elections of a namespace (None: of all), and the version that they are of.

        Raises:
            NotFound: the kind is not installed.
        """
        path = elections_path(namespace) if namespace else f"/apis/{API_VERSION}/{PLURAL}"
        async for items, version in self._pages(path, {}):
            yield [lean(whole(item)) for item in items], version

    def went_back(self, before: str, now: str) -> bool:
        """Return whether a consistent list is of an earlier version than what was seen before it.

        Versions of one kind only grow (Kubernetes, KEP-5504), unless etcd is restored. This is
        logged, but not for each namespace.
        """
        if not (before.isdecimal() and now.isdecimal()) or int(now) >= int(before):
            return False
        if clock.now() >= self._quiet_until:
            self._quiet_until = clock.now() + QUIET
            log.warning("cluster.restored", version_before=before, version=now)
        return True

    async def annotate_election(
        self,
        namespace: str,
        name: str,
        *,
        resource_version: str,
        annotations: Mapping[str, str | None],
    ) -> None:
        """Set annotations of an election (None removes), if it is at this resourceVersion."""
        metadata = {"resourceVersion": resource_version, "annotations": dict(annotations)}
        await self._ask(
            "PATCH",
            f"{elections_path(namespace)}/{name}",
            body={"metadata": metadata},
            content_type=MERGE_PATCH,
        )

    async def replace_status(
        self, namespace: str, name: str, *, resource_version: str, status: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace the whole status, if the resourceVersion still is the given one.

        A JSON patch, for a merge patch would keep keys that `status` no longer has, and a PUT
        would be sent a second time by aiohttp if the connection broke.
        """
        answer: dict[str, Any] = await self._ask(
            "PATCH",
            f"{elections_path(namespace)}/{name}/status",
            body=[
                # Not the operation "test", which would fail with 422 and not with 409.
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
            ClusterError: it was not created, or its namespace has had too many of late.
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
        await self._ask("POST", path, body=event, usual=Rank.REPORT)

    async def _find(self, path: str) -> dict[str, Any] | None:
        """Read one object; None if there is none, NotFound if there is no such kind."""
        try:
            found: dict[str, Any] = await self._ask("GET", path)
        except UnknownKind:
            raise
        except NotFound:
            return None
        return found

    async def _list(
        self, path: str, label_selector: str = "", *, since: str = ""
    ) -> tuple[list[Pod], str]:
        """Return all pods as of one resourceVersion, and that version; all pages are of it."""
        pods: list[Pod] = []
        version = ""
        pages = self._pages(path, {"labelSelector": label_selector}, since=since)
        async for items, now in pages:
            version = now
            pods += map(pod_from, items)
        return pods, version

    async def _pages(
        self, path: str, selection: Mapping[str, str], *, since: str = ""
    ) -> AsyncGenerator[tuple[list[dict[str, Any]], str]]:
        """Yield what a list has, page by page, and the version that all pages are of."""
        limit, where = PAGE, dict(selection)
        if since:
            where |= {"resourceVersion": since, "resourceVersionMatch": "NotOlderThan"}
        more = None
        while more != "":
            query = {"limit": str(limit), **where}
            try:
                # A single object is never too long: etcd takes no more than 1.5 MB.
                page = await self._ask(
                    "GET", path, query=query, longest=LONGEST_PAGE if limit > 1 else None
                )
            except _TooLong:
                limit = max(1, limit // SMALLER)
                continue
            more = page["metadata"].get("continue") or ""
            where = {**selection, "continue": more}
            yield page["items"], page["metadata"]["resourceVersion"]

    def _watch(self, path: str, version: str) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Yield type and object of each event after `version`, until the API server ends it."""
        return self._changes(path, version, query={})

    async def _changes(
        self, path: str, version: str, *, query: Mapping[str, str], accept: str = JSON
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """Do so of what a query selects, in the form that is asked for.

        Raises:
            Expired: the version is too old, or the API server ended the watch early. Behind its end
                there may be another one, whose versions went back: list again.
            Interrupted: the same, after an error.
        """
        seconds, loop = random.randint(*WATCH_SECONDS), asyncio.get_running_loop()  # noqa: S311
        query = {
            **query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        with translated(f"The watch of {path}"):
            async with asyncio.timeout(TIMEOUT):
                response = await self.connection.send(
                    "GET", path, query=query, silence=SILENCE, accept=accept
                )
        opened = loop.time()  # which stands still while the machine sleeps
        try:
            with translated(f"The watch of {path}"):
                keep_alive(response)
                async for line in response.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        problem = event["object"]
                        raise error_for(problem.get("code", 0), problem, request=f"watch {path}")
                    yield event["type"], event["object"]
        except Expired:
            raise
        except ClusterError as error:
            raise Interrupted(str(error)) from error
        finally:
            drop(response)
        if loop.time() - opened < seconds - SLACK:
            msg = "The API server ended the watch early"
            raise Expired(msg)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
        timeout: float | None = None,
        within: float | None = None,
        usual: Rank = Rank.ROUTINE,
        longest: int | None = None,
    ) -> Any:
        """Send a request, when it has its turn, and return the JSON of its answer.

        The wait for the turn counts against no limit but `within`: otherwise many that begin at
        once would all fail, be tried again, and make the wait longer (500 elections that started
        together did not come to rest).

        Args:
            method: of the request.
            path: of the request.
            query: of the request.
            body: of the request.
            content_type: of the body.
            accept: what the answer may be.
            timeout: seconds for it, once it has its turn; None: `request_timeout`.
            within: seconds for everything; None: no limit.
            usual: its rank, if `turns.urgent` gave it none.
            longest: bytes of the answer, at most; None: no limit.

        Raises:
            _TooLong: the answer has more bytes. The rest of it is not read.
            Unsent: it had no turn, or no connection, in time.
        """
        until = None if within is None else clock.now() + within
        namespace = namespace_in(path)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(within):
                    turn = self.connection.turns.turn(usual, namespace=namespace)
                    await stack.enter_async_context(turn)
            except TimeoutError as error:
                sentence = "Other requests to the API server took too long"
                msg = f"{sentence}: {method} {path} was not sent"
                raise Unsent(msg) from error
            try:
                return await self._exchange(
                    method,
                    path,
                    query=query,
                    body=body,
                    content_type=content_type,
                    accept=accept,
                    timeout=timeout,
                    until=until,
                    longest=longest,
                )
            except Overloaded as error:
                self.connection.turns.hold(namespace, min(error.retry_after, RETRY_AFTER))
                raise

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        accept: str,
        timeout: float | None,
        until: float | None,
        longest: int | None,
    ) -> Any:
        """Send a request now, not after `until`, and return the JSON of its answer."""
        content = None if body is None else Body(body, until=until)
        try:
            limit = self.request_timeout if timeout is None else timeout
            if until is not None:
                limit = min(limit, until - clock.now())
            with translated(f"{method} {path}"):
                async with asyncio.timeout(limit):
                    response = await self.connection.send(
                        method,
                        path,
                        query=query,
                        body=content,
                        content_type=content_type,
                        accept=accept,
                    )
                    async with response:
                        return json.loads(await _read(response, longest))
        except ClusterUnreachable as error:
            if content is None or content.sent or isinstance(error, Unsent):
                raise
            msg = f"There was no connection to the API server in time: {method} {path} was not sent"
            raise Unsent(msg) from error
        finally:
            if content is not None:
                content.drop()


class _TooLong(Exception):  # not an error: a smaller page is asked for
    """An answer is longer than its reader takes."""


async def _read(response: aiohttp.ClientResponse, longest: int | None) -> bytes:
    """Return the body of an answer.

    Raises:
        _TooLong: it has more bytes than that.
    """
    if longest is None:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > longest:
            raise _TooLong
    return b"".join(parts)


def pause_before(attempt: int, problem: ClusterError | None = None) -> float:
    """Return the seconds to wait: growing with jitter, or what the server asks for, if longer."""
    first, longest = PAUSES
    # The exponent is bounded, for a float overflows after a thousand attempts.
    pause = min(longest, first * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1)  # noqa: S311
    asked = problem.retry_after if isinstance(problem, Overloaded) else 0.0
    return max(pause, min(asked, RETRY_AFTER))


def one_before(version: str) -> str:
    """Return the version from which to watch, if everything up to `version` is known.

    The API server sends bookmarks only if they are newer than the version that a watch started
    from (`cacheWatcher.process` in its watch cache). While no pod of the cluster changes, its
    newest version may be just that one; then nothing would be sent, and a watch that works could
    not be told from a dead one. A watch from the version before gets a bookmark every minute
    (observed with Kubernetes 1.32, 1.33 and 1.37), and the last known change at most once more.
    Versions are integers (Kubernetes, KEP-5504); 0 would mean "any".
    """
    return str(int(version) - 1) if version.isdecimal() and int(version) > 1 else version


def pods_path(namespace: str) -> str:
    """Return the path of the pods of a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods"


def slices_path(namespace: str) -> str:
    """Return the path of the EndpointSlices of a namespace."""
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def elections_path(namespace: str) -> str:
    """Return the path of the elections of a namespace."""
    return f"/apis/incumbent.dev/v1alpha1/namespaces/{namespace}/leaderelections"


def pod_from(pod: Mapping[str, Any]) -> Pod:
    """Take what an election looks at from a pod's JSON."""
    metadata, spec, status = pod["metadata"], pod.get("spec", {}), pod.get("status", {})
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        labels=metadata.get("labels", {}),
        annotations={
            key: value
            for key, value in metadata.get("annotations", {}).items()
            if key.startswith(f"{GROUP}/")
        },
        phase=status.get("phase", "Unknown"),
        ready=any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for condition in status.get("conditions", ())
        ),
        terminating="deletionTimestamp" in metadata,
        node=spec.get("nodeName", ""),
        hostname=hostname_from(metadata["name"], spec),
        domain=domain_from(metadata["namespace"], spec),
        ip=status.get("podIP", ""),
        ips=tuple(address["ip"] for address in status.get("podIPs", ())),
        ports=tuple(itertools.islice(named_ports(spec), MOST_PORTS)),
        created=metadata.get("creationTimestamp", ""),
    )


def hostname_from(name: str, spec: Mapping[str, Any]) -> str:
    """Return the host name of a pod, if that is not its name, as the kubelet sets it.

    It cuts names to 63 letters, and what is left never ends in a hyphen or a period
    (`truncatePodHostnameIfNeeded` in pkg/kubelet/kubelet_pods.go).
    """
    if override := spec.get("hostnameOverride"):
        return str(override)
    if spec.get("hostNetwork"):
        return str(spec.get("nodeName", ""))
    hostname = str(spec.get("hostname") or name)[:LONGEST_HOSTNAME].rstrip("-.")
    return hostname if hostname != name else ""


def domain_from(namespace: str, spec: Mapping[str, Any]) -> str:
    """Return what follows the host name of a pod with a subdomain, but for the cluster's domain."""
    subdomain = spec.get("subdomain")
    if not subdomain or spec.get("hostnameOverride") or spec.get("hostNetwork"):
        return ""
    return f"{subdomain}.{namespace}.svc"


def named_ports(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Yield the named ports of the containers that run beside each other in a pod."""
    sidecars = (
        one for one in spec.get("initContainers", ()) if one.get("restartPolicy") == "Always"
    )
    for container in (*spec.get("containers", ()), *sidecars):
        for port in container.get("ports", ()):
            if "name" in port:
                yield port["name"], port.get("protocol", "TCP"), port["containerPort"]


def event_about(
    election: Mapping[str, Any],
    *,
    kind: str,
    reason: str,
    action: str,
    note: str,
    replica: str,
    time: datetime,
) -> dict[str, Any]:
    """Return the JSON of an event; the limits are those of the API server's validation."""
    metadata = election["metadata"]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{uuid.uuid4().hex}",
            "namespace": metadata["namespace"],
        },
        "regarding": {
            "apiVersion": election["apiVersion"],
            "kind": election["kind"],
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "type": kind,
        "reason": reason,
        "action": action,
        "note": cut(shown(note, NOTE_BYTES), NOTE_BYTES),
        "reportingController": CONTROLLER,
        "reportingInstance": cut(replica, INSTANCE_BYTES),
        "eventTime": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
    }


def cut(text: str, limit: int) -> str:
    """Return the beginning of a text that has at most `limit` bytes in UTF-8."""
    return text.encode()[:limit].decode(errors="ignore")
