"""The labels of one election on all pods that concern it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Literal

from incumbent import clock
from incumbent.labels import Labels
from incumbent.model import Pod
from incumbent.pods import ElectionPods
from incumbent.ports import Cluster, Observer
from incumbent.resource import Resource
from incumbent.verdict import CANDIDATE, labelled, markings, shows, why_not

STRIP_WITHIN = 5.0
"""Seconds for which one pass tries to have a strip confirmed, before the next pass tries."""


class LabelSet(Labels):
    """`Labels`, with the pods as last seen.

    Args:
        cluster: where the pods are.
        resource: the election.
        pods: that concern it.
        observer: is told how long a strip took.
    """

    def __init__(
        self, cluster: Cluster, resource: Resource, pods: ElectionPods, observer: Observer
    ) -> None:
        super().__init__(cluster, resource, pods.learn)
        self._pods = pods
        self._observer = observer

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
        until = clock.now() + STRIP_WITHIN if until is None else until
        each = {pod.uid: pod for pod in pods}
        await together(*(self.strip_one(pod, until=until) for pod in each.values()))

    async def mark_all(self, leader: Pod | None) -> None:
        """Label the candidates, and take the label from who is none any more."""
        changes = markings(self.known, self.resource, leader_uid=leader.uid if leader else "")
        await together(*(self.mark(change.pod, change.value) for change in changes))


async def together(*works: Awaitable[object]) -> list[object]:
    """Do all of these at once, to the end; raise what the first of them raised that failed."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
