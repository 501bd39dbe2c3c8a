"""Watches pods and bucket, on connections of its own, and writes the history."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import nats
import nats.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from chaos.history import GONE, Delay, Entry, History, Message, PodEvent, SliceEvent
from controlplane.kube import ApiError, Kube, has_condition

LEADER = "leader"
GROUP = "incumbent.dev"
HAND = "chaos/by-hand"
"""Annotation that is set with every change of a label by hand, to a new number."""
BEACON = "beacon"
"""Annotation of a pod that only the recorder writes to, in a namespace that no operator watches."""
BEACON_EVERY = 0.2
EXPIRED = 410
"""Status of a watch that cannot go on where it ended."""
CONNECT_WITHIN = 5.0
SILENCE = 3.0
"""Seconds without any message after which the watch of the bucket begins anew, if that is longer
than half a TTL. The elections renew more often."""


class Recorder:
    """Writes down what it sees, for as long as its tasks run.

    Args:
        history: where.
        namespace: of all elections; their pods carry the label `app` with the election's name.
        bucket: of all elections, whose keys are the default ones.
        routing: whether they name Services, whose slices are to be watched.
    """

    def __init__(
        self, history: History, *, namespace: str, bucket: str, routing: bool = False
    ) -> None:
        self.history = history
        self._routing = routing
        self._namespace = namespace
        self._bucket = bucket
        self._beacon = f"{BEACON}-{namespace}"
        self._sites: dict[str, str] = {}
        self._elections: dict[str, str] = {}
        self._pods: dict[tuple[str, str], dict[str, PodEvent]] = {}
        self._beacons: dict[tuple[str, int], float] = {}
        self._records: dict[tuple[str, str], Message] = {}
        self._revision = 0
        self._wall = time.time() - time.monotonic()
        self._patience = max(SILENCE, history.ttl / 2)

    # What is known now

    def pods(self, site: str, election: str) -> list[PodEvent]:
        """Return the pods of a site that are there, as last seen."""
        return list(self._pods.get((site, election), {}).values())

    def leaders(self, election: str) -> list[PodEvent]:
        """Return the pods that carry the leader label."""
        known = [pod for site in self.history.replicas for pod in self.pods(site, election)]
        return [pod for pod in known if pod.labelled]

    def steward(self, site: str, election: str) -> str:
        """Return the replica that wrote the latest record of a site; the first before there is."""
        record = self._records.get((site, election))
        return record.replica.partition("/")[0] if record else self.history.replicas[site][0]

    def lose(self, site: str) -> None:
        """Write down that a whole site is gone, with all its pods, for good."""
        now = time.monotonic()
        for known in list(self._pods.values()):
            for event in [each for each in known.values() if each.site == site]:
                self._note(replace(event, at=now, labelled=False, token=0, unfit=GONE))
        for election in self.history.elections if self._routing else ():
            self.history.slices.append(SliceEvent(now, site, election))

    async def wait_led(self, seconds: float) -> bool:
        """Wait until every election has had one and the same leader for a second, or so long."""
        deadline, since, before = time.monotonic() + seconds, 0.0, ""
        while time.monotonic() < deadline:
            leaders = [self.leaders(election) for election in self.history.elections]
            now = str([(pod.uid, pod.token) for found in leaders for pod in found])
            if any(len(found) != 1 for found in leaders) or now != before:
                since, before = time.monotonic(), now
            elif time.monotonic() > since + 1:
                return True
            await asyncio.sleep(0.1)
        return False

    @contextlib.asynccontextmanager
    async def recording(
        self, kubes: Sequence[Kube], urls: Sequence[str], *, delays: bool = True
    ) -> AsyncIterator[None]:
        """Record while this is entered; it ends early if the recording fails.

        Args:
            kubes: of all sites.
            urls: of the NATS servers; read anew for each connection.
            delays: whether to measure how late a watch is, with a pod that no node runs.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow_bucket(urls))]
            for kube in kubes:
                started = asyncio.Event()
                tasks.append(group.create_task(self._follow_pods(kube, started)))
                await started.wait()
                if delays:
                    tasks.append(group.create_task(self._measure_delay(kube)))
                if self._routing:
                    tasks.append(group.create_task(self._follow_slices(kube)))
            yield
            for task in tasks:
                task.cancel()

    # Pods

    async def _follow_pods(self, kube: Kube, started: asyncio.Event) -> None:
        """Write down every change of the pods of a site.

        One watch shows them all, unless the API server dies: one that is new tells only what is
        there now. What changed last before it died may be seen late then, and only in sum.
        """
        site, about = kube.site.name, await kube.get("/api/v1/namespaces/kube-system")
        self._sites[about["metadata"]["uid"]] = site
        version, alive = "", time.monotonic()
        while True:
            try:
                if not version:
                    version = await self._list_pods(kube)
                    now = time.monotonic()
                    if started.is_set():
                        self.history.delays.append(Delay(now, site, now - alive))
                    started.set()
                async for kind, pod in kube.watch(
                    "/api/v1/pods", resourceVersion=version, allowWatchBookmarks="true"
                ):
                    if kind == "ERROR":
                        raise ApiError(int(pod.get("code", 0)), str(pod.get("message")))
                    version, alive = pod["metadata"]["resourceVersion"], time.monotonic()
                    if kind != "BOOKMARK":
                        self._take_pod(site, kind, pod)
            except ERRORS as error:
                if isinstance(error, ApiError) and error.status == EXPIRED:
                    version = ""
                await asyncio.sleep(BEACON_EVERY)

    async def _list_pods(self, kube: Kube) -> str:
        """Take in all pods of a site as they are now; return the resourceVersion."""
        site, listed = kube.site.name, await kube.get("/api/v1/pods")
        pods = {pod["metadata"]["uid"]: pod for pod in listed["items"]}
        for known in list(self._pods.values()):
            for event in list(known.values()):
                if event.site == site and event.uid not in pods:
                    gone = replace(event, at=time.monotonic(), labelled=False, token=0, unfit=GONE)
                    self._note(gone)
        # Those without a label first: the order of what was missed is not known.
        for pod in sorted(pods.values(), key=self._is_labelled):
            self._take_pod(site, "ADDED", pod)
        return str(listed["metadata"]["resourceVersion"])

    async def _follow_slices(self, kube: Kube) -> None:
        """Write down every change of the elections' slices of a site."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self._namespace}/endpointslices"
        site, version = kube.site.name, ""
        while True:
            try:
                if not version:
                    listed = await kube.get(path)
                    found = {each["metadata"]["name"] for each in listed["items"]}
                    for election in self.history.elections:
                        if _slice_name(election) not in found:
                            self.history.slices.append(SliceEvent(time.monotonic(), site, election))
                    for each in listed["items"]:
                        self._take_slice(site, "ADDED", each)
                    version = str(listed["metadata"]["resourceVersion"])
                async for kind, each in kube.watch(
                    path, resourceVersion=version, allowWatchBookmarks="true"
                ):
                    if kind == "ERROR":
                        raise ApiError(int(each.get("code", 0)), str(each.get("message")))
                    version = each["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        self._take_slice(site, kind, each)
            except ERRORS as error:
                if isinstance(error, ApiError) and error.status == EXPIRED:
                    version = ""
                await asyncio.sleep(BEACON_EVERY)

    def _take_slice(self, site: str, kind: str, found: Mapping[str, Any]) -> None:
        metadata = found["metadata"]
        names = {_slice_name(election): election for election in self.history.elections}
        election = names.get(metadata["name"])
        if election is None:
            return
        endpoints = () if kind == "DELETED" else found.get("endpoints") or ()
        targets = (endpoint["targetRef"] for endpoint in endpoints)
        token = (metadata.get("annotations") or {}).get(f"{GROUP}/{election}.token", "0")
        self.history.slices.append(
            SliceEvent(
                time.monotonic(),
                site,
                election,
                tuple((target["name"], target["uid"]) for target in targets),
                int(token),
            )
        )

    async def _measure_delay(self, kube: Kube) -> None:
        """Write to a pod all the time, to see how late the watch shows it."""
        container = {"name": "main", "image": "none.invalid/none"}
        pod = {"metadata": {"name": self._beacon}, "spec": {"containers": [container]}}
        await kube.create("/api/v1/namespaces/default/pods", pod)
        due, number = time.monotonic(), 0
        while True:
            # Counted from when it was due, so that a time when this process stood still counts.
            self._beacons[kube.site.name, number] = due
            body = {"metadata": {"annotations": {BEACON: str(number)}}}
            try:
                await kube.patch(f"/api/v1/namespaces/default/pods/{self._beacon}", body)
            except ERRORS:  # the API server is down: what is written then is seen in its time
                self._beacons.pop((kube.site.name, number), None)
            number += 1
            due += BEACON_EVERY
            await asyncio.sleep(due - time.monotonic())
            if due < time.monotonic() - 1:
                due = time.monotonic()

    def _take_pod(self, site: str, kind: str, pod: Mapping[str, Any]) -> None:
        now, metadata = time.monotonic(), pod["metadata"]
        annotations = metadata.get("annotations") or {}
        labels = metadata.get("labels") or {}
        if metadata["name"] == self._beacon:
            since = self._beacons.pop((site, int(annotations.get(BEACON, "-1"))), None)
            if since is not None:
                self.history.delays.append(Delay(now, site, now - since))
            return
        if metadata["namespace"] != self._namespace:
            return
        # A pod that leaves the selector may carry the label all the same.
        election = self._elections.setdefault(metadata["uid"], str(labels.get("app", "")))
        gone = kind == "DELETED"
        token = str(annotations.get(f"{GROUP}/{election}.token", ""))
        event = PodEvent(
            now,
            site,
            election,
            metadata["name"],
            metadata["uid"],
            labelled=not gone and self._is_labelled(pod),
            token=int(token) if token.isdecimal() else 0,
            unfit=GONE if gone else _unfit(pod, election),
            hand=int(annotations.get(HAND, "0")),
        )
        self._note(event)

    def _note(self, event: PodEvent) -> None:
        self.history.pods.append(event)
        known = self._pods.setdefault((event.site, event.election), {})
        known.pop(event.uid, None)
        if event.unfit != GONE:
            known[event.uid] = event

    def _is_labelled(self, pod: Mapping[str, Any]) -> bool:
        labels = pod["metadata"].get("labels") or {}
        election = self._elections.get(pod["metadata"]["uid"]) or labels.get("app", "")
        return bool(labels.get(f"{GROUP}/{election}") == LEADER)

    # The bucket

    async def _follow_bucket(self, urls: Sequence[str]) -> None:
        """Write down every message of the bucket, on one connection after another."""
        while True:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await self._watch_bucket(urls)
            await asyncio.sleep(0.2)

    async def _watch_bucket(self, urls: Sequence[str]) -> None:
        stream = f"KV_{self._bucket}"
        async with connection(urls) as client:
            jetstream = client.jetstream(timeout=2)
            last = (await jetstream.stream_info(stream)).state.last_seq
            if last < self._revision:
                self.history.lost_writes.append(time.monotonic())
                self._revision = 0
            config = ConsumerConfig(
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._revision + 1,
                ack_policy=AckPolicy.NONE,
                inactive_threshold=30,
                mem_storage=True,
            )
            subscription = await jetstream.subscribe(
                f"$KV.{self._bucket}.>", stream=stream, config=config, manual_ack=True
            )
            while True:
                self._take_message(await subscription.next_msg(timeout=self._patience))

    def _take_message(self, raw: Msg) -> None:
        headers, revision = raw.headers or {}, raw.metadata.sequence.stream
        if revision <= self._revision:
            return
        self._revision = revision
        election = raw.subject.removeprefix(f"$KV.{self._bucket}.{self._namespace}.")
        cluster = headers.get("Incumbent-Site", "").rpartition("/")[2]
        message = Message(
            raw.metadata.timestamp.timestamp() - self._wall,
            election,
            revision,
            _entry(headers),
            site=self._sites.get(cluster, ""),
            replica=headers.get("Incumbent-Replica", ""),
            pod=raw.data.decode().rpartition("/")[2],
            uid=headers.get("Incumbent-Pod-UID", ""),
            term=int(headers.get("Incumbent-Term", revision)),
        )
        self.history.messages.append(message)
        if message.entry is Entry.RECORD:
            self._records[message.site, election] = message


@contextlib.asynccontextmanager
async def connection(urls: Sequence[str]) -> Any:
    """Connect to NATS, once and silently."""

    async def silent(_: Exception) -> None: ...

    # By itself it tries a server that nothing answers for 60 times, in spite of `allow_reconnect`.
    async with asyncio.timeout(CONNECT_WITHIN):
        client = await nats.connect(
            list(urls), allow_reconnect=False, connect_timeout=2, error_cb=silent
        )
    try:
        yield client
    finally:
        with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
            await client.close()


async def evict(urls: Sequence[str], bucket: str, key: str) -> None:
    """Delete a key, as `nats kv del` does it."""
    async with connection(urls) as client:
        await client.jetstream(timeout=2).publish(
            f"$KV.{bucket}.{key}", headers={"KV-Operation": "DEL"}
        )


def _slice_name(election: str) -> str:
    return f"incumbent-{election}-ipv4"


def _entry(headers: Mapping[str, str]) -> Entry:
    if "Nats-Marker-Reason" in headers:
        expired = headers["Nats-Marker-Reason"] == "MaxAge"
        return Entry.EXPIRED if expired else Entry.EVICTED
    if headers.get("KV-Operation") in {"DEL", "PURGE"}:
        return Entry.RELEASED if "Incumbent-Release" in headers else Entry.EVICTED
    return Entry.RECORD


def _unfit(pod: Mapping[str, Any], election: str) -> str:
    """Say why a pod is no candidate, by the rules that people are told."""
    if (pod["metadata"].get("labels") or {}).get("app") != election:
        return "not selected"
    if "deletionTimestamp" in pod["metadata"]:
        return "terminating"
    if pod["status"].get("phase") != "Running":
        return "not running"
    if not has_condition(pod, "Ready"):
        return "not ready"
    excluded = (pod["metadata"].get("annotations") or {}).get(f"{GROUP}/exclude", "false")
    return "excluded" if excluded != "false" else ""


ERRORS = (ApiError, aiohttp.ClientError, nats.errors.Error, OSError, TimeoutError)
"""What may go wrong with a request to a server, while things break."""
