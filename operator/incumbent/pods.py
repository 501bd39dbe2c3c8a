"""The pods of a namespace, as last seen, shared by all its elections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from incumbent.model import Pod
from incumbent.ports import Cluster, PodChanged, PodDeleted, PodsReplaced

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
        known = self._known.get(pod.name)
        if known is not None and known.uid == pod.uid and not _newer(known, pod):
            self._known[pod.name] = pod

    async def _follow(self) -> None:
        async with contextlib.aclosing(self._cluster.watch_pods(self.namespace)) as changes:
            async for change in changes:
                match change:
                    case PodsReplaced(pods):
                        self.pods = {pod.name: pod for pod in pods}
                        self._tell(None, None)
                    case PodChanged(pod):
                        before = self._known.get(pod.name)
                        if before is None or not _newer(before, pod):
                            self._known[pod.name] = pod
                            self._tell(before, pod)
                    case PodDeleted(pod):
                        self._tell(self._known.pop(pod.name, None), pod)

    @property
    def _known(self) -> dict[str, Pod]:
        if self.pods is None:
            self.pods = {}
        return self.pods

    def _tell(self, before: Pod | None, after: Pod | None) -> None:
        for interest, changed in tuple(self._listeners.values()):
            if after is None or interest(after) or (before is not None and interest(before)):
                changed()


def _newer(known: Pod, other: Pod) -> bool:
    """Whether of two views of one pod the known one is newer; False if that cannot be told.

    Resource versions of one kind are integers that grow (Kubernetes, KEP-5504).
    """
    versions = known.resource_version, other.resource_version
    if known.uid != other.uid or not all(version.isdecimal() for version in versions):
        return False
    return int(versions[0]) > int(versions[1])
