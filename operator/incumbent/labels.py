"""The only functions that patch pods, and all preconditions of doing so.

Two pods must never carry the leader label, whatever is late, lost or done twice. A state search
shows that this takes two preconditions, and that without either of them two pods get labelled:

Fence
    Every patch carries the UID and the resourceVersion that it was decided on, and a strip is
    always a real write, also on a pod that shows no label: the API server drops a patch that
    changes nothing. So a label write that is still on its way when its pod is stripped is refused.

Warrant
    A label is added only with a resourceVersion that was read *before* a bucket write of our own
    was stored. So a replica that stood still and has lost its authority finds out first.

Only the API server confirms a strip: its answer to the patch, or a read that finds no such pod.
A watch that shows a pod as deleted does not, for the pod may only have left a selector. A patch
without an answer counts as done, until a later strip is confirmed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from incumbent import clock
from incumbent.errors import ClusterUnreachable, Conflict, NotFound
from incumbent.model import Pod
from incumbent.ports import Cluster
from incumbent.resource import Resource
from incumbent.verdict import LEADER, shows, why_not

PATCH_TIMEOUT = 2.0
NO_TOKEN = "0"  # noqa: S105
"""Value of the token annotation that means none: revisions begin at 1."""


class Labels:
    """The label of one election on the pods of its namespace."""

    def __init__(self, cluster: Cluster, resource: Resource, learn: Callable[[Pod], None]) -> None:
        self._cluster = cluster
        self._learn = learn
        self.resource = resource

    async def strip(self, pod: Pod, value: str | None, *, until: float) -> None:
        """Take the leader label and the token from a pod, confirmed by the API server.

        Args:
            pod: as last seen; it may be gone, changed, or never have carried the label. Without
                a resourceVersion it is read first.
            value: what the label says from now on; None removes it.
            until: time until which to try.

        Raises:
            ClusterUnreachable: not confirmed in time: the pod counts as labelled.
            Refused: the API server does not allow it.
        """
        namespace, name, uid = pod.namespace, pod.name, pod.uid
        current: Pod | None = pod
        if not pod.resource_version:
            current = await self._read(namespace, name, until)
        while current is not None and current.uid == uid:
            try:
                await self._patch(
                    current,
                    value,
                    self._fence(current),
                    timeout=max(0.1, min(PATCH_TIMEOUT, until - clock.now())),
                )
            except (NotFound, Conflict):
                pass
            except ClusterUnreachable:
                if clock.now() >= until:
                    raise
                await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311
            else:
                return
            current = await self._read(namespace, name, until)

    async def add(
        self,
        pod: Pod,
        *,
        warrant: Callable[[], Awaitable[int | None]],
        until: Callable[[], float],
        first: bool,
    ) -> Pod | None:
        """Give a pod the leader label.

        Args:
            pod: as last read.
            warrant: stores a bucket write and returns the token; None if it was not stored.
            until: returns the time after which no label may be sent.
            first: whether this is the first label of a term: then no other pod may carry one.

        Returns:
            The pod as labelled; None if it was not, and then there is no warrant, the pod is no
            candidate any more, or another pod carries the label.

        Raises:
            ClusterUnreachable: no answer: the pod may be labelled.
            Refused: the API server does not allow it.
        """
        current: Pod | None = pod
        if first and not await self._nobody_else(pod):
            return None
        while current is not None and current.uid == pod.uid:
            if why_not(current, self.resource.selector):
                return None
            token = await warrant()
            left = until() - clock.now()
            if token is None or left <= 0:
                return None
            if shows(current, self.resource, token):
                return current
            try:
                timeout = min(PATCH_TIMEOUT, left)
                return await self._patch(current, LEADER, str(token), timeout=timeout)
            except Conflict:
                current = await self._cluster.get_pod(pod.namespace, pod.name)
            except NotFound:
                return None
        return None

    async def mark(self, pod: Pod, value: str | None) -> None:
        """Set the label of a pod that does not show `leader`, as it was last seen.

        Does nothing if the pod has changed since: then another look is due anyway.
        """
        try:
            await self._patch(pod, value, None, timeout=PATCH_TIMEOUT)
        except (Conflict, NotFound):
            return

    async def carriers(self) -> list[Pod]:
        """List the pods that carry the leader label, consistently, by the label alone."""
        query = f"{self.resource.label_key}={LEADER}"
        return await self._cluster.list_pods(self.resource.key.namespace, query)

    async def _patch(
        self, pod: Pod, value: str | None, token: str | None, *, timeout: float
    ) -> Pod:
        patched = await self._cluster.patch_pod(
            pod,
            labels={self.resource.label_key: value},
            annotations={self.resource.token_key: token},
            timeout=timeout,
        )
        self._learn(patched)
        return patched

    def _fence(self, pod: Pod) -> str | None:
        """Return a value of the token annotation that is not the present one."""
        return None if self.resource.token_key in pod.annotations else NO_TOKEN

    async def _nobody_else(self, pod: Pod) -> bool:
        """Whether no other pod carries the label, and the election still exists."""
        key = self.resource.key
        carriers, election = await asyncio.gather(
            self.carriers(), self._cluster.get_election(key.namespace, key.name)
        )
        if election is None or election["metadata"]["uid"] != self.resource.uid:
            return False
        if "deletionTimestamp" in election["metadata"]:
            return False
        return all(carrier.uid == pod.uid for carrier in carriers)

    async def _read(self, namespace: str, name: str, until: float) -> Pod | None:
        while True:
            try:
                return await self._cluster.get_pod(namespace, name)
            except ClusterUnreachable:
                if clock.now() >= until:
                    raise
                await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311
