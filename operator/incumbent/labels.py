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

Only the API server confirms a strip: its answer to the patch, a read that finds no such pod, or the
end of this very pod in a watch without a selector (with one, the pod may only have left that). That
a list no longer shows a pod confirms nothing. A label write without an answer counts as done, until
a later strip is confirmed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal

from incumbent import clock
from incumbent.errors import ClusterUnreachable, Conflict, NotFound, Refused, Unsent
from incumbent.model import Pod
from incumbent.ports import Cluster
from incumbent.resource import Resource
from incumbent.verdict import LEADER, shows, why_not

PATCH_TIMEOUT = 2.0
"""Seconds to wait for the answer to a patch, at most."""
LEAST = 0.1
"""Seconds that a step of a strip has, also when there is no time left: it is always tried once."""
TRIES = 5
"""How often a write starts over, before its caller has to look at everything anew."""
NO_TOKEN = "0"  # noqa: S105
"""Value of the token annotation that means none: revisions begin at 1."""


class Labels:
    """The label of one election on the pods of its namespace.

    Args:
        cluster: where the pods are.
        resource: the election; its namespace, UID and label key stay what they are.
        learn: is told each state of a pod that the API server answers with.
    """

    def __init__(self, cluster: Cluster, resource: Resource, learn: Callable[[Pod], None]) -> None:
        self.resource = resource
        self._cluster = cluster
        self._learn = learn
        self.outlived = False
        """Whether the election was found to be gone."""
        self.written = ""
        """The resourceVersion of our latest write of a pod; empty before the first one."""
        self._doubtful: dict[str, Pod] = {}

    @property
    def doubtful(self) -> list[Pod]:
        """The pods to which the leader label was sent, without an answer so far.

        They count as labelled, whatever they show, until a strip of them is confirmed.
        """
        return list(self._doubtful.values())

    async def strip(self, pod: Pod, value: str | None, *, until: float) -> None:
        """Take the leader label and the token from a pod, confirmed by the API server.

        Args:
            pod: as last seen; it may be gone, changed, or never have carried the label. Without
                a resourceVersion it is read first.
            value: what the label says from now on; None removes it.
            until: time until which to try; it is tried once in any case.

        Raises:
            ClusterUnreachable: not confirmed in time: the pod counts as labelled.
            Refused: the API server does not allow it.
        """
        current = pod if pod.resource_version else await self._read(pod, until)
        while current is not None:
            try:
                await self._patch(current, value, self._fence(current), within=time_left(until))
            except (Conflict, NotFound) as error:
                _not_past(until, pod, error)
            except ClusterUnreachable as error:
                _not_past(until, pod, error)
                await pause_briefly()
            else:
                return
            current = await self._read(pod, until)
        self._doubtful.pop(pod.uid, None)

    def forget(self, pod: Pod) -> None:
        """Take in that a pod is gone for certain: there is nothing to strip."""
        self._doubtful.pop(pod.uid, None)

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
            first: whether this is the first label of a term: then the election must exist, and no
                other pod may carry a label. Asking is left out later, for who leads is known then.

        Returns:
            The pod as labelled; None if it was not, and then there is no warrant, the pod is no
            candidate any more, it keeps changing, or another pod may carry the label.

        Raises:
            ClusterUnreachable: no answer: the pod may be labelled, see `doubtful`.
            Refused: the API server does not allow it.
        """
        current: Pod | None = pod
        for _ in range(TRIES):
            if current is None or why_not(current, self.resource.selector):
                return None
            if first and not await self.unclaimed(pod):
                return None
            if not self._doubtful.keys() <= {pod.uid}:
                return None
            token = await warrant()
            left = until() - clock.now()
            if token is None or left <= 0:
                return None
            if shows(current, self.resource, token):
                return current
            try:
                return await self._send(current, token, within=left)
            except (Conflict, NotFound):
                current = await self._look(pod)
                # A label write that was decided on an earlier state has come to its end by now.
                self._doubtful.pop(pod.uid, None)
        return None

    async def mark(self, pod: Pod, value: Literal["candidate"] | None) -> None:
        """Set the label of a pod, as it was last seen, unless it shows `leader`.

        Does nothing if the pod has changed since: then another look is due anyway.
        """
        if pod.labels.get(self.resource.label_key) == LEADER:
            return  # that takes a strip
        try:
            await self._patch(pod, value, None)
        except (Conflict, NotFound):
            return

    async def unclaimed(self, *allowed: Pod, since: str = "") -> bool:
        """Whether the election exists, and no pods but the allowed ones may carry the label.

        `since` as for `carriers`.
        """
        wanted, carriers = await asyncio.gather(self.wanted(), self.carriers(since=since))
        uids = {pod.uid for pod in allowed}
        return wanted and all(carrier.uid in uids for carrier in carriers)

    async def wanted(self) -> bool:
        """Whether this very election exists, and is not being deleted."""
        key = self.resource.key
        body = await self._cluster.get_election(key.namespace, key.name)
        metadata = body["metadata"] if body is not None else {}
        self.outlived = metadata.get("uid") != self.resource.uid
        return metadata.get("uid") == self.resource.uid and "deletionTimestamp" not in metadata

    async def carriers(self, *, since: str = "") -> list[Pod]:
        """List the pods that carry the leader label, consistently, by the label alone.

        Those that are `doubtful` are among them. With `since` the list is at least as new as that
        resourceVersion, which is quicker. It is enough if the version is one of our own writes
        since we hold the record without a gap: nobody else of this site has labelled since then.
        """
        query = f"{self.resource.label_key}={LEADER}"
        namespace = self.resource.key.namespace
        listed = await self._cluster.list_pods(namespace, query, since=since)
        return list({pod.uid: pod for pod in (*self.doubtful, *listed)}.values())

    async def _send(self, pod: Pod, token: int, *, within: float) -> Pod:
        """Send a leader label, which counts as done from now on unless it certainly was not."""
        doubtful = pod.uid in self._doubtful
        self._doubtful[pod.uid] = pod
        try:
            return await self._patch(pod, LEADER, str(token), within=within)
        except (Refused, Unsent):
            if not doubtful:
                del self._doubtful[pod.uid]
            raise

    async def _patch(
        self, pod: Pod, value: str | None, token: str | None, *, within: float | None = None
    ) -> Pod:
        patched = await self._cluster.patch_pod(
            pod,
            labels={self.resource.label_key: value},
            annotations={self.resource.token_key: token},
            timeout=PATCH_TIMEOUT if within is None else min(PATCH_TIMEOUT, within),
            within=within,
        )
        if patched.resource_version != pod.resource_version:
            # What is still on its way to this pod will be refused.
            self._doubtful.pop(pod.uid, None)
            self.written = patched.resource_version
        self._learn(patched)
        return patched

    def _fence(self, pod: Pod) -> str | None:
        """Return a value of the token annotation that is not the present one."""
        return None if self.resource.token_key in pod.annotations else NO_TOKEN

    async def _look(self, pod: Pod) -> Pod | None:
        """Read a pod; None if it is gone, or another pod has its name."""
        current = await self._cluster.get_pod(pod.namespace, pod.name)
        if current is None or current.uid != pod.uid:
            return None
        self._learn(current)
        return current

    async def _read(self, pod: Pod, until: float) -> Pod | None:
        """As `_look`, but try until then."""
        while True:
            try:
                async with asyncio.timeout(time_left(until)):
                    return await self._look(pod)
            except (ClusterUnreachable, TimeoutError) as error:
                _not_past(until, pod, error)
                await pause_briefly()


def time_left(until: float) -> float:
    """Return the seconds that a step of a strip has, which is always tried once."""
    return max(LEAST, until - clock.now())


async def pause_briefly() -> None:
    """Wait a moment before another try; not all replicas the same."""
    await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311


def _not_past(until: float, pod: Pod, error: Exception) -> None:
    if clock.now() >= until:
        why = str(error) or "no answer"
        msg = f"Pod {pod.name} counts as labelled, for no strip was confirmed in time: {why}"
        raise ClusterUnreachable(msg) from error
