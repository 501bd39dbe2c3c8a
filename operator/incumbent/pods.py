"""The pods of a namespace, as last seen, shared by all its elections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from incumbent.model import Pod
from incumbent.ports import Cluster, PodDeleted, PodEvent, PodsReplaced

log = structlog.get_logger(__name__)

PAUSE = 1.0
"""Seconds after which a watch that broke, which none should, is begun anew."""

Interest = Callable[[Pod], bool]
"""Whether a change of this pod matters; asked about the pod before and after the change."""


class NamespacePods:
    """Follows the pods of one namespace while somebody listens.

    `pods` is None until the first list. It may lag behind the API server, and a pod that it does
    not show may still exist: what must be certain is read, not looked up here.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.namespace = namespace
        self.pods: dict[str, Pod] | None = None
        self._cluster = cluster
        self._listeners: dict[object, tuple[Interest, Callable[[], None]]] = {}
        self._task: asyncio.Task[None] | None = None

    def listen(self, interest: Interest, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change that matters; returns how to end that."""
        token = object()
        self._listeners[token] = (interest, changed)
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name=f"pods of {self.namespace}")

        def end() -> None:
            self._listeners.pop(token, None)
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task, self.pods = None, None

        return end

    def learn(self, pod: Pod) -> None:
        """Take in a pod from the answer to a write, which can be faster than the watch."""
        known = (self.pods or {}).get(pod.name)
        if self.pods and known and known.uid == pod.uid and not _newer(known, pod):
            self.pods[pod.name] = pod

    async def _follow(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._cluster.watch_pods(self.namespace)) as events:
                    async for event in events:
                        self._take(event)
            except Exception:
                # Elections that see no pods any more would do harm in silence.
                log.exception("pods.watch_broke", namespace=self.namespace)
            await asyncio.sleep(PAUSE)

    def _take(self, event: PodEvent) -> None:
        if isinstance(event, PodsReplaced):
            self.pods = {pod.name: pod for pod in event.pods}
            self._tell()
            return
        if self.pods is None:
            return  # a watch begins with a list
        pod, before = event.pod, self.pods.get(event.pod.name)
        if isinstance(event, PodDeleted):
            if before and before.uid == pod.uid:
                del self.pods[pod.name]
        elif before and _newer(before, pod):
            return
        else:
            self.pods[pod.name] = pod
        self._tell(pod, before)

    def _tell(self, *views: Pod | None) -> None:
        """Tell the listeners that care about one of the views of a pod; no view: all of them."""
        pods = [pod for pod in views if pod]
        for interest, changed in tuple(self._listeners.values()):
            if not pods or any(map(interest, pods)):
                changed()


def _newer(known: Pod, other: Pod) -> bool:
    """Whether of two views of one pod the known one is newer; False if that cannot be told.

    Resource versions of one kind are integers that grow (Kubernetes, KEP-5504).
    """
    versions = known.resource_version, other.resource_version
    if known.uid != other.uid or not all(version.isdecimal() for version in versions):
        return False
    return int(versions[0]) > int(versions[1])
