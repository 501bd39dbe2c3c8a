"""The labels of one election on all pods that concern it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from incumbent import clock
from incumbent.errors import ClusterError, ClusterUnreachable
from incumbent.labels import LONGEST_WRITE, Labels
from incumbent.model import Pod
from incumbent.pods import ElectionPods
from incumbent.ports import Cluster, Observer
from incumbent.resource import Resource
from incumbent.verdict import CANDIDATE, Marking, labelled, markings, shows, why_not

STRIP_WITHIN = 5.0
"""Seconds for which one pass tries to have a strip confirmed, before the next pass tries. After
each pass that was too short the next one tries twice as long: the API server may be slow."""
LONGEST_PAUSE = 60.0
"""Seconds between attempts to mark a candidate, at most."""


class LabelSet(Labels):
    """`Labels`, with the pods as last seen.

    Args:
        cluster: where the pods are.
        resource: the election.
        pods: that concern it.
        observer: is told how long a strip took.
        wake: asks for another pass after so many seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        pods: ElectionPods,
        observer: Observer,
        wake: Callable[[float], None],
    ) -> None:
        super().__init__(cluster, resource, pods.learn)
        self._pods = pods
        self._observer = observer
        self._wake = wake
        self._strip_within = STRIP_WITHIN
        self._marking: asyncio.Task[None] | None = None
        self._mark_again: Callable[[], Pod | None] | None = None
        self._unmarked: dict[str, Unmarked] = {}
        """By UID, the pods whose label as a candidate could not be written."""

    @property
    def known(self) -> Iterable[Pod]:
        """The pods that concern the election, as last seen."""
        return self._pods.known

    @property
    def suspects(self) -> list[Pod]:
        """The pods that carry the leader label, as far as known, or may do so."""
        return [*self.doubtful, *labelled(self.known, self.resource)]

    def certain(self, pod: Pod, token: int) -> bool:
        """Whether a pod is seen with the label of a term, and no write of ours is on its way."""
        return shows(pod, self.resource, token) and pod.uid not in self._doubtful

    async def strip_one(self, pod: Pod, *, until: float) -> None:
        """Strip a pod, which stays a candidate if it can lead."""
        if self._pods.gone(pod.uid):
            self.forget(pod)
            return
        started = clock.now()
        unwanted = self.resource.deleting or why_not(pod, self.resource.selector)
        value: Literal["candidate"] | None = None if unwanted else CANDIDATE
        await self.strip(pod, value, until=until)
        self._observer.label_write(clock.now() - started)

    async def strip_all(self, pods: Iterable[Pod], *, until: float | None = None) -> None:
        """Strip several pods at once, each once."""
        each = {pod.uid: pod for pod in pods}
        if until is not None:
            await together(*(self.strip_one(pod, until=until) for pod in each.values()))
            return
        until = clock.now() + self._strip_within
        try:
            await together(*(self.strip_one(pod, until=until) for pod in each.values()))
        except ClusterUnreachable:
            self._strip_within = min(LONGEST_WRITE, 2 * self._strip_within)
            raise
        self._strip_within = STRIP_WITHIN

    async def mark_all(self, leader: Pod | None) -> None:
        """Label the candidates, and take the label from pods that are none any more."""
        changes = markings(self.known, self.resource, leader_uid=leader.uid if leader else "")
        await together(*(self.mark(change.pod, change.value) for change in changes))

    def mark_soon(self, leader: Callable[[], Pod | None]) -> None:
        """Do what `mark_all` does, but in the background: no change of leader waits for it.

        What fails is tried again later, and `unmarked` says so meanwhile.

        Args:
            leader: returns the pod that leads at that moment.
        """
        self._mark_again = leader
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._mark(), name=f"marks of {self.resource.key}")

    async def stop_marking(self) -> None:
        """End what `mark_soon` began."""
        self._mark_again = None
        if self._marking is not None:
            self._marking.cancel()
            await asyncio.wait([self._marking])

    @property
    def unmarked(self) -> str:
        """Why a pod has not the label as a candidate that it should; empty if each has."""
        return next((one.why for one in self._unmarked.values()), "")

    async def _mark(self) -> None:
        while (leader := self._mark_again) is not None:
            self._mark_again = None
            now, pod = clock.now(), leader()
            uid = pod.uid if pod is not None else ""
            changes = markings(self.known, self.resource, leader_uid=uid)
            wanted = {change.pod.uid for change in changes}
            self._unmarked = {uid: one for uid, one in self._unmarked.items() if uid in wanted}
            due = [
                change
                for change in changes
                if (failed := self._unmarked.get(change.pod.uid)) is None or now >= failed.again_at
            ]
            await asyncio.gather(*map(self._try_to_mark, due))
            if self._unmarked:
                again_at = min(one.again_at for one in self._unmarked.values())
                self._wake(again_at - clock.now())

    async def _try_to_mark(self, change: Marking) -> None:
        uid = change.pod.uid
        try:
            await self.mark(change.pod, change.value)
        except ClusterError as error:
            failures = self._unmarked[uid].failures + 1 if uid in self._unmarked else 1
            pause = min(LONGEST_PAUSE, 2.0**failures) * random.uniform(0.5, 1.0)  # noqa: S311
            why = f"pod {change.pod.name} could not be marked as a candidate: {error}"
            self._unmarked[uid] = Unmarked(why, failures, clock.now() + pause)
        else:
            self._unmarked.pop(uid, None)


@dataclass(frozen=True, slots=True)
class Unmarked:
    """A label as a candidate that could not be written."""

    why: str
    failures: int
    """In a row."""
    again_at: float


async def together(*works: Awaitable[object]) -> list[object]:
    """Do all of these at once, to the end; raise what the first of them raised that failed."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
