"""The pods of a namespace, as last seen: one watch for all its elections.

Each election keeps a list of the few pods that concern it. If a thousand elections share a
namespace, looking through all of its pods at each change would take seconds of every pass.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import structlog

from incumbent.errors import NotWatched
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster, PodDeleted, PodEvent, PodsReplaced, PodsUnwatched
from incumbent.kubernetes.resource import ANY, EXCLUDE, PRIORITY, Anchor, Resource
from incumbent.kubernetes.versions import newer

log = structlog.get_logger(__name__)

PAUSE = 1.0
"""Seconds until a watch that broke is started again. No watch should break."""

WHOLE = 4096
"""Characters of labels and annotations up to which all of them are kept for a pod. If a pod has
more, only those that the elections of its namespace ask for are kept."""
REMEMBERED = 2000
"""Greatest number of deleted pods to remember. About others the API server must be asked."""


class NamespacePods:
    """Follows the pods of one namespace while somebody listens.

    `pods` is None until the first list. It may lag behind the API server, and a pod that it does
    not show may still exist. A caller that needs certainty reads the pod from the API server.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.namespace = namespace
        self.pods: dict[str, Pod] | None = None
        self._unwatched = ""
        """Why the pods are not watched; empty if they are watched, or will be in a moment."""
        self.restores = 0
        """How often the resourceVersions of the API server went back."""
        self._cluster = cluster
        self._listeners: dict[ElectionPods, Callable[[], None]] = {}
        self._anchored: dict[Anchor, set[ElectionPods]] = {}
        """The elections that listen, by each of their anchors."""
        self._asked: Counter[str] = Counter({EXCLUDE: 1, PRIORITY: 1})
        """The number of elections that ask for each key of a label or an annotation."""
        self._cut: set[str] = set()
        """The names of existing pods whose other labels and annotations were not kept."""
        self._untold: set[ElectionPods] = set()
        """Elections whose keys may not have been kept before the next list."""
        self._relisting: asyncio.TimerHandle | None = None
        self._gone: dict[str, None] = {}
        """The UIDs of pods whose deletion the watch has reported, the latest last."""
        self._task: asyncio.Task[None] | None = None
        self._probing = asyncio.Lock()

    def listen(self, election: ElectionPods, changed: Callable[[], None]) -> None:
        """Call `changed` after each change of a pod that concerns the election."""
        self._listeners[election] = changed
        self.anchor(election)
        if self._task is None:
            self._begin()

    def leave(self, election: ElectionPods) -> None:
        """Stop calling the listener of an election."""
        self.unanchor(election)
        election.replace(())
        if self._listeners.pop(election, None) and not self._listeners and self._task is not None:
            self._task.cancel()
            self._task, self.pods = None, None
            self._cut.clear()
            if self._relisting is not None:
                self._relisting.cancel()
                self._relisting = None

    def anchor(self, election: ElectionPods) -> None:
        """Index an election that listens by its anchors, and give it the pods that concern it."""
        if election in self._listeners:
            news = any(key not in self._asked for key in election.resource.keys)
            self._asked.update(election.resource.keys)
            for anchor in election.resource.anchors:
                self._anchored.setdefault(anchor, set()).add(election)
            if news and self._cut:
                self._untold.add(election)
                self._list_again()
            election.replace((self.pods or {}).values() if self.told(election) else ())

    def unanchor(self, election: ElectionPods) -> None:
        """Remove an election from the index, before its selector or keys change."""
        self._untold.discard(election)
        if election in self._listeners:
            self._asked.subtract(election.resource.keys)
            self._asked = +self._asked
        for anchor in election.resource.anchors:
            if elections := self._anchored.get(anchor):
                elections.discard(election)
                if not elections:
                    del self._anchored[anchor]

    def told(self, election: ElectionPods) -> bool:
        """Whether the pods were stored with all the keys that an election asks for."""
        return election not in self._untold

    def gone(self, uid: str) -> bool:
        """Whether a pod is gone for certain: the watch, which has no selector, reported its end."""
        return uid in self._gone

    def learn(self, pod: Pod) -> None:
        """Record a pod from the answer to a write, which can arrive before the watch event."""
        known, pod = (self.pods or {}).get(pod.name), self._kept(pod)
        if self.pods and known and known.uid == pod.uid and not _newer(known, pod):
            self.pods[pod.name] = pod
            for election in self._elections(pod, known):
                election.take(pod)

    async def probe(self, label_selector: str) -> None:
        """Find out why no pods were seen, because a watch does not tell. One caller asks at a time.

        Raises:
            NotWatched: too many namespaces are watched.
            ClusterError: the reason why no pods were seen.
        """
        if self._unwatched:
            raise NotWatched(self._unwatched)
        async with self._probing:
            if self.pods is None:
                await self._cluster.list_pods(self.namespace, label_selector)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._follow(), name=f"pods of {self.namespace}")

    def _list_again(self) -> None:
        """Start the watch again in a moment, with all keys that elections ask for by then."""
        if self._relisting is None:
            self._relisting = asyncio.get_running_loop().call_later(PAUSE, self._begin_again)

    def _begin_again(self) -> None:
        self._relisting = None
        if self._task is not None:
            self._task.cancel()
            self._begin()

    def _kept(self, pod: Pod) -> Pod:
        """Return a pod as it is stored: if it is too large, only with the keys asked for."""
        size = sum(len(k) + len(v) for k, v in (*pod.labels.items(), *pod.annotations.items()))
        if size <= WHOLE:
            self._cut.discard(pod.name)
            return pod
        self._cut.add(pod.name)
        return replace(
            pod,
            labels={key: pod.labels[key] for key in pod.labels.keys() & self._asked.keys()},
            annotations={
                key: pod.annotations[key] for key in pod.annotations.keys() & self._asked.keys()
            },
        )

    async def _follow(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._cluster.watch_pods(self.namespace)) as events:
                    async for event in events:
                        self._take(event)
            except Exception:
                # An election that no longer sees its pods would do harm, and nobody would notice.
                log.exception("pods.watch_broke", namespace=self.namespace)
            await asyncio.sleep(PAUSE)

    def _take(self, event: PodEvent) -> None:
        if isinstance(event, PodsUnwatched):
            self._unwatched = event.reason
            return
        if isinstance(event, PodsReplaced):
            self._unwatched = ""
            self.restores += event.restored
            self._replace(event.pods)
            return
        if self.pods is None:
            return  # wait for the list with which a watch begins
        pod, before = self._kept(event.pod), self.pods.get(event.pod.name)
        gone = isinstance(event, PodDeleted)
        if gone:
            self._remember_end(pod.uid)
            if before and before.uid == pod.uid:
                del self.pods[pod.name]
            if pod.name not in self.pods:
                self._cut.discard(pod.name)
        elif before and _newer(before, pod):
            return
        else:
            self.pods[pod.name] = pod
        for election in self._elections(pod, before):
            matters = election.drop(pod) if gone else election.take(pod)
            if matters and election in self._listeners:
                self._listeners[election]()

    def _remember_end(self, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > REMEMBERED:
            del self._gone[next(iter(self._gone))]

    def _replace(self, pods: Iterable[Pod]) -> None:
        """Store a new list of pods, and tell all elections, because any pod may be missing now."""
        self._cut.clear()
        self.pods = {pod.name: self._kept(pod) for pod in pods}
        self._untold.clear()
        for pod in self.pods.values():
            self._gone.pop(pod.uid, None)  # after a restore of etcd a deleted pod can exist again
        theirs: dict[ElectionPods, list[Pod]] = {election: [] for election in self._listeners}
        for pod in self.pods.values():
            for election in self._elections(pod):
                theirs[election].append(pod)
        for election, some in theirs.items():
            election.replace(some)
        for election, changed in tuple(self._listeners.items()):
            if election in self._listeners:
                changed()

    def _elections(self, *views: Pod | None) -> set[ElectionPods]:
        """Return the elections that at least one of these pods may concern."""
        found = set(self._anchored.get(ANY, ()))
        for pod in filter(None, views):
            anchors: Iterable[Anchor] = (*pod.labels, *pod.annotations, *pod.labels.items())
            for anchor in anchors:
                if elections := self._anchored.get(anchor):
                    found |= elections
        return found


class ElectionPods:
    """The pods of a namespace, as one election sees them.

    Args:
        namespace: the pods of the namespace.
        resource: the election.
    """

    def __init__(self, namespace: NamespacePods, resource: Resource) -> None:
        self._namespace = namespace
        self._resource = resource
        self._known: dict[str, Pod] = {}
        self.seen: Callable[[], None] = lambda: None
        """Called after each change of `known`, also if an answer to our own write changed it."""

    @property
    def resource(self) -> Resource:
        """The election, as last seen."""
        return self._resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        before = self._resource
        if (before.selector, before.keys) == (resource.selector, resource.keys):
            self._resource = resource
            return
        self._namespace.unanchor(self)
        self._resource = resource
        self._namespace.anchor(self)

    @property
    def all(self) -> dict[str, Pod] | None:
        """All pods of the namespace by name; None before they are listed with the needed keys."""
        return self._namespace.pods if self._namespace.told(self) else None

    @property
    def known(self) -> Collection[Pod]:
        """The pods that concern the election."""
        return self._known.values()

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change of these pods; return a function that stops this."""
        self._namespace.listen(self, changed)
        return lambda: self._namespace.leave(self)

    @property
    def restores(self) -> int:
        """How often the API server's versions went back. What was read before must not be used."""
        return self._namespace.restores

    def gone(self, uid: str) -> bool:
        """Whether a pod is gone for certain. If not, the pod may exist, or be gone unnoticed."""
        return self._namespace.gone(uid)

    def learn(self, pod: Pod) -> None:
        """Record a pod from the answer to a write."""
        self._namespace.learn(pod)

    async def probe(self) -> None:
        """Find out why no pods were seen.

        Raises:
            ClusterError: the reason why no pods were seen.
        """
        await self._namespace.probe(str(self._resource.selector))

    # Called by the namespace's cache

    def replace(self, pods: Iterable[Pod]) -> None:
        """Replace the known pods by those of these that concern the election."""
        self._known = {pod.name: pod for pod in pods if self._resource.concerns(pod)}
        self.seen()

    def take(self, pod: Pod) -> bool:
        """Record a pod's present state; return whether the pod concerns the election, or did."""
        concerns, mattered = self._resource.concerns(pod), pod.name in self._known
        if concerns:
            self._known[pod.name] = pod
        else:
            self._known.pop(pod.name, None)
        if concerns or mattered:
            self.seen()
        return concerns or mattered

    def drop(self, pod: Pod) -> bool:
        """Record that a pod is gone; return whether it, or a pod of its name, matters."""
        known = self._known.get(pod.name)
        if known is not None and known.uid == pod.uid:
            del self._known[pod.name]
            self.seen()
        return known is not None or self._resource.concerns(pod)


def _newer(known: Pod, other: Pod) -> bool:
    """Whether the known view of a pod is newer than the other; False if that is unclear."""
    return known.uid == other.uid and newer(known.resource_version, other.resource_version)
