"""What anybody sees of many elections: which pods are labelled, and who holds the records.

All is looked at from outside, by a watch of all pods and one of the bucket.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from bench.report import patience
from bench.scene import Scene, Usage, election_path, pod_path
from controlplane.kube import ApiError, has_condition
from controlplane.processes import Process
from elections import LEADER
from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Cause, Marker, Record
from incumbent.nats.connection import NatsConnection
from incumbent.nats.login import NatsAccess

BUCKET = "LEADER_ELECTION"
_PODS = "/api/v1/pods"
_TEMPLATE = "pod-template-hash"
_POLL = 0.1


@dataclass(frozen=True)
class Seen:
    """A pod as the watch showed it last."""

    key: str
    """Of its election: `<namespace>.<name>`."""
    namespace: str
    name: str
    uid: str
    labelled: bool
    ready: bool


class Crowd:
    """Elections and their pods, and what happened to them since `begin`.

    Times are those of `time.monotonic`. A pod that is about to be deleted by `replace` counts as
    doomed: only a term that ends without that was lost.

    Args:
        scene: where; its elections are over pods labelled `app`, as `Scene.pods` makes them.
    """

    def __init__(self, scene: Scene) -> None:
        self.pods: dict[str, dict[str, Seen]] = {}
        """By the key of their election and their UID."""
        self.wrong: set[str] = set()
        """Elections without exactly one label, on the pod that the record names."""
        self.listeners: list[Callable[[Seen], None]] = []
        """Called with each pod that the watch shows."""
        self._scene = scene
        self._names = itertools.count(100)
        self._known: dict[str, Seen] = {}
        self._labelled: dict[str, set[str]] = {}
        self._records: dict[str, Record] = {}
        self._last: dict[str, Record] = {}
        self._bare: dict[str, float] = {}
        self._doomed: set[str] = set()
        self._absent: set[str] = set()
        self._work: set[asyncio.Task[None]] = set()
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self.right_since = time.monotonic()
        """When the last election became right; means nothing while there are wrong ones."""
        self.written_at = self.right_since
        self.terms: Counter[str] = Counter()
        """By key: terms that began."""
        self.lost: Counter[str] = Counter()
        """By key: terms that ended although their pod was still there, and nobody gave them up."""
        self.markers: Counter[str] = Counter()
        """By cause: records that were released, evicted or expired."""
        self.twice: set[str] = set()
        """Elections of which two pods were labelled at the same time."""
        self._gaps: dict[str, float] = {}
        self._unwritten: set[str] = set()
        self._bare = dict.fromkeys(self._bare, self.right_since)

    def await_writes(self) -> None:
        """Note from now on when `all_written` becomes true."""
        self._unwritten = set(self.pods)
        self.written_at = time.monotonic()

    @property
    def all_written(self) -> bool:
        """Whether the record of each election was written since `await_writes`.

        It was at `written_at`, as soon as this is true.
        """
        return not self._unwritten

    @property
    def gaps(self) -> list[float]:
        """Seconds without a label, for each election that was without one for a time; sorted."""
        now, gaps = time.monotonic(), dict(self._gaps)
        for key, since in self._bare.items():
            gaps[key] = gaps.get(key, 0.0) + now - since
        return sorted(gaps.values())

    def leader(self, key: str) -> Seen | None:
        """Return the pod that is labelled, or one of them."""
        return next((pod for pod in self.pods.get(key, {}).values() if pod.labelled), None)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Crowd]:
        """Look, from the first list of pods and of records on."""
        listed, shown = asyncio.Event(), asyncio.Event()

        def seen(key: str, sighting: Sighting) -> None:
            if key:
                self._take_record(key, sighting)
            else:
                shown.set()

        async with NatsConnection(NatsAccess([self._scene.nats.url])) as nats:
            end = nats.bucket(BUCKET).follow(seen)
            following = asyncio.create_task(self._follow(listed))
            try:
                await asyncio.wait(
                    [following, asyncio.create_task(_both(listed, shown))],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                yield self
                if following.done():
                    await following
            finally:
                end()
                for task in (following, *self._work):
                    task.cancel()
                await asyncio.gather(following, *self._work, return_exceptions=True)

    async def until_right(self, *, limit: float) -> bool:
        """Wait until no election is wrong, so many seconds at most; return whether none is."""
        deadline = time.monotonic() + limit
        async with patience("waiting until all are led as they should be"):
            while self.wrong and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(_POLL)
        return not self.wrong

    # What is done to them

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the background."""
        self._work.add(asyncio.create_task(work))

    async def done(self) -> None:
        """Wait for what is done in the background; raises what went wrong there."""
        work, self._work = self._work, set()
        await asyncio.gather(*work)

    async def delete(self, pod: Seen) -> None:
        """Delete a pod at once."""
        self._doomed.add(pod.uid)
        await self._scene.kube.delete(pod_path(pod.namespace, pod.name), grace=0)

    @contextlib.contextmanager
    def excused(self, pod: Seen) -> Iterator[None]:
        """Let a term of this pod end meanwhile without counting as lost."""
        self._doomed.add(pod.uid)
        try:
            yield
        finally:
            self._doomed.discard(pod.uid)

    async def create(self, key: str, *, template: str = "") -> None:
        """Create one more pod of an election, as its controller would; of a template, if given."""
        namespace, _, election = key.partition(".")
        name = f"{election}-{next(self._names)}"
        await self._scene.pod(namespace, election, name)
        if template:
            labels = {"metadata": {"labels": {_TEMPLATE: template}}}
            await self._scene.kube.patch(pod_path(namespace, name), labels)

    async def recreate(self, key: str) -> None:
        """Delete an election, and create it anew when it is gone."""
        namespace, _, name = key.partition(".")
        path = election_path(namespace, name)
        self._absent.add(key)
        self.wrong.discard(key)
        self._bare.pop(key, None)
        await self._scene.kube.delete(path)
        await self._scene.kube.until(path, lambda found: found is None, timeout=60)
        self._absent.discard(key)
        await self._scene.election(namespace, name)
        self._judge(key)

    # What is seen

    async def _follow(self, listed: asyncio.Event) -> None:
        """Follow the pods, from one loss of the watch to the next."""
        version = ""
        while True:
            try:
                if not version:
                    found = await self._scene.kube.get(_PODS)
                    self._replace(found["items"])
                    version = found["metadata"]["resourceVersion"]
                    listed.set()
                watch = self._scene.kube.watch(
                    _PODS, resourceVersion=version, allowWatchBookmarks="true"
                )
                async with contextlib.aclosing(watch):
                    async for kind, pod in watch:
                        if kind == "ERROR":
                            version = ""
                            break
                        version = pod["metadata"]["resourceVersion"]
                        if kind != "BOOKMARK":
                            self._take_pod(kind, pod)
            except ApiError:
                version = ""
                await asyncio.sleep(_POLL)
            except (aiohttp.ClientError, OSError, ValueError):  # it is killed, or begins
                await asyncio.sleep(_POLL)

    def _replace(self, pods: list[Any]) -> None:
        there = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._known if uid not in there]:
            self._drop(uid)
        for pod in pods:
            self._take_pod("ADDED", pod)

    def _take_pod(self, kind: str, pod: Mapping[str, Any]) -> None:
        metadata = pod["metadata"]
        uid, namespace, labels = metadata["uid"], metadata["namespace"], metadata.get("labels", {})
        if "app" not in labels:
            return
        key = f"{namespace}.{labels['app']}"
        if kind == "DELETED":
            self._drop(uid)
            return
        labelled = labels.get(f"incumbent.dev/{labels['app']}") == LEADER
        ready = has_condition(pod, "Ready")
        seen = Seen(key, namespace, metadata["name"], uid, labelled, ready)
        self._known[uid] = self.pods.setdefault(key, {})[uid] = seen
        holders = self._labelled.setdefault(key, set())
        if labelled:
            holders.add(uid)
        else:
            holders.discard(uid)
        if len(holders) > 1:
            self.twice.add(key)
        self._judge(key)
        for listener in self.listeners:
            listener(seen)

    def _drop(self, uid: str) -> None:
        pod = self._known.pop(uid, None)
        if pod is not None:
            self.pods[pod.key].pop(uid, None)
            self._labelled[pod.key].discard(uid)
            self._judge(pod.key)

    def _take_record(self, key: str, sighting: Sighting) -> None:
        entry = sighting.entry
        if isinstance(entry, Record):
            before, known = self._last.get(key), self._records.get(key)
            if known is None or known.revision != entry.revision:
                self._note_write(key)
            if before is None or before.term != entry.term:
                self.terms[key] += 1
                if before is not None and before.pod_uid not in self._doomed:
                    self.lost[key] += 1
            self._records[key] = self._last[key] = entry
        else:
            gone = self._records.pop(key, None)
            if isinstance(entry, Marker) and gone is not None:
                self.markers[entry.cause.value] += 1
                if entry.cause is Cause.RELEASED:
                    self._last.pop(key, None)
        self._judge(key)

    def _note_write(self, key: str) -> None:
        if key in self._unwritten:
            self._unwritten.discard(key)
            self.written_at = time.monotonic()

    def _judge(self, key: str) -> None:
        """Note whether an election is led as it should be, and since when it has no label."""
        if key in self._absent:
            return
        now, labelled = time.monotonic(), self._labelled.get(key, set())
        if not labelled:
            self._bare.setdefault(key, now)
        elif key in self._bare:
            self._gaps[key] = self._gaps.get(key, 0.0) + now - self._bare.pop(key)
        record = self._records.get(key)
        if record is None or labelled != {record.pod_uid}:
            self.wrong.add(key)
        elif key in self.wrong:
            self.wrong.discard(key)
            self.right_since = now


async def _both(*events: asyncio.Event) -> None:
    for event in events:
        await event.wait()


class Meter:
    """Samples of what a process uses, taken in the background."""

    def __init__(self, process: Process, *, every: float) -> None:
        self.samples = [Usage.of(process)]
        self._process = process
        self._every = every

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Meter]:
        """Sample."""
        sampling = asyncio.create_task(self._sample())
        try:
            yield self
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        self.samples.append(Usage.of(self._process))

    @property
    def cpu(self) -> float:
        """Seconds of CPU from the first sample to the last."""
        return self.samples[-1].cpu - self.samples[0].cpu

    @property
    def memory(self) -> dict[str, float]:
        """Resident MB at the first sample, at most, and at the last."""
        resident = [sample.resident / 2**20 for sample in self.samples]
        return {"before": resident[0], "peak": max(resident), "after": resident[-1]}

    def curve(self, *, points: int = 200) -> list[tuple[float, float]]:
        """Return seconds since the first sample, and resident MB."""
        step, began = math.ceil(len(self.samples) / points), self.samples[0].at
        return [(one.at - began, one.resident / 2**20) for one in self.samples[::step]]

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self.samples.append(Usage.of(self._process))
