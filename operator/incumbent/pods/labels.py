"""The functions that patch the pods of an election, and all preconditions of a patch.

Two pods must never carry the leader label at the same time, even if requests are late, lost or
carried out twice. A state search shows that this needs two preconditions, and that two pods get
labelled if either of them is missing:

Fence
    Every patch carries the UID and the resourceVersion of the pod that the decision was based on.
    A strip always changes something, even on a pod that shows no label, because the API server
    drops a patch that changes nothing. Therefore the API server refuses a label write that is still
    on its way when its pod is stripped.

Warrant
    A replica adds a label only with a resourceVersion that it read *before* the server stored one
    of this replica's bucket writes. A replica that stood still and has lost the record finds out,
    because its bucket write fails.

A strip is confirmed only by the API server: by its answer to the patch, by a read that does not
find the pod, or by the deletion of the pod in a watch without a selector. (In a watch with a
selector, the pod may only have stopped matching.) A list that no longer shows the pod confirms
nothing. A label write without an answer counts as done until a later strip is confirmed.

The pod in the answer decides whether a patch worked. A mutating webhook can put back a label that
the patch removes, or remove a label that it sets, and the API server still answers 200. Such a
patch counts as refused.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

from incumbent import clock
from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterError,
    ClusterUnreachable,
    Conflict,
    NotFound,
    Overloaded,
    Refused,
    Unsent,
)
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource
from incumbent.kubernetes.turns import urgent
from incumbent.pods.eligibility import LEADER, shows, why_not

T = TypeVar("T")

RESEND_AFTER = 2.0
"""Seconds without an answer after which a write is sent again on another connection."""
LONGEST_WRITE = 35.0
"""Longest wait in seconds for the answer to a write. An API server gives up a PATCH after 34 s
(`requestTimeoutUpperBound` in apiserver/pkg/endpoints/handlers/rest.go), webhooks included."""
LEAST = 0.1
"""Least seconds for a step of a strip. Each step is tried once, even if no time is left."""
TRIES = 5
"""How often a write starts over before its caller has to read everything again."""
NO_TOKEN = "0"  # noqa: S105
"""Value of the token annotation that means "no token". Real revisions begin at 1."""


class Labels:
    """The label of one election on the pods of its namespace.

    Args:
        cluster: the cluster of the pods.
        resource: the election; its namespace, UID and label key do not change.
        learn: is called with each pod that the API server returns.
    """

    def __init__(self, cluster: Cluster, resource: Resource, learn: Callable[[Pod], None]) -> None:
        self.resource = resource
        self._cluster = cluster
        self._learn = learn
        self.outlived = False
        """Whether the election was found to be gone."""
        self.written = ""
        """The resourceVersion of our latest leader label; empty before the first one."""
        self.took = 0.0
        """Seconds that recent patches of pods took: the latest time, or half the value before it if
        that is longer. A slow patch counts for a while, because the API server may ask a slow
        webhook about some of the pods only."""
        self._doubtful: dict[str, Pod] = {}

    @property
    def doubtful(self) -> list[Pod]:
        """The pods whose leader label was sent, but not answered so far.

        They count as labelled, even if they show no label, until a strip is confirmed.
        """
        return list(self._doubtful.values())

    async def strip(
        self, pod: Pod, value: str | None, *, until: float, patient: bool = True
    ) -> None:
        """Remove the leader label and the token of a pod, and wait for the confirmation.

        Args:
            pod: the pod as last seen. It may be gone or changed, or may never have carried the
                label. If it has no resourceVersion, it is read first.
            value: the new value of the label; None removes the label.
            until: time until which to try. There is always at least one try.
            patient: whether to try again while an admission webhook does not answer.

        Raises:
            ClusterUnreachable: the strip was not confirmed in time. The pod counts as labelled.
            Refused: the API server does not allow the patch.
        """
        with urgent(Rank.STRIP, due=until):
            await self._strip(pod, value, until=until, patient=patient)

    async def _strip(self, pod: Pod, value: str | None, *, until: float, patient: bool) -> None:
        current = pod if pod.resource_version else await self._read(pod, until)
        while current is not None:
            try:
                patched = await self._patch(
                    current, value, self._fence(current), within=time_left(until)
                )
                if patched.resource_version == current.resource_version:
                    msg = f"An admission webhook undid the patch of pod {pod.name}"
                    raise AdmissionDenied(msg)
            except (Conflict, NotFound) as error:
                _not_past(until, pod, error)
            except ClusterUnreachable as error:
                if isinstance(error, AdmissionUnavailable) and not patient:
                    raise
                _not_past(until, pod, error)
                await pause_after(error, until)
            else:
                return
            current = await self._read(pod, until)
        self._doubtful.pop(pod.uid, None)

    def forget(self, pod: Pod) -> None:
        """Record that a pod is gone for certain, so there is nothing to strip."""
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
            pod: the pod as last read.
            warrant: stores a bucket write and returns the token; None if it was not stored.
            until: returns the time after which no label may be sent.
            first: whether this is the first label of a term. Then the election must exist, and no
                other pod may carry the label. Later in the term this is not checked again,
                because it is known which pod leads.

        Returns:
            The labelled pod. None if the pod was not labelled, because there is no warrant or no
            time left, the pod is no longer a candidate or keeps changing, or another pod may carry
            the label.

        Raises:
            ClusterUnreachable: there was no answer. The pod may be labelled, see `doubtful`.
            Refused: the API server does not allow the patch.
        """
        with urgent(Rank.CHANGE):
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
                    # Any label write that expects an earlier state of the pod will now be refused.
                    self._doubtful.pop(pod.uid, None)
            return None

    async def mark(self, pod: Pod, value: Literal["candidate"] | None) -> None:
        """Set or remove the candidate label of a pod, unless the pod shows `leader`.

        Does nothing if the pod has changed since it was seen. The change itself leads to a new look
        at the pod.
        """
        if pod.labels.get(self.resource.label_key) == LEADER:
            return  # removing the leader label needs a strip
        try:
            patched = await self._patch(pod, value, None)
        except (Conflict, NotFound):
            return
        if patched.labels.get(self.resource.label_key) != value:
            msg = f"An admission webhook changed the label of pod {pod.name} as a candidate"
            raise AdmissionDenied(msg)

    async def unclaimed(self, *allowed: Pod, since: str = "") -> bool:
        """Whether the election exists, and only the allowed pods may carry the leader label.

        `since` has the meaning that it has for `carriers`.
        """
        wanted, carriers = await asyncio.gather(self.wanted(), self.carriers(since=since))
        uids = {pod.uid for pod in allowed}
        return wanted and all(carrier.uid in uids for carrier in carriers)

    async def wanted(self) -> bool:
        """Whether the election with this UID exists, and is not being deleted."""
        key = self.resource.key
        body = await self._cluster.get_election(key.namespace, key.name)
        metadata = body["metadata"] if body is not None else {}
        self.outlived = metadata.get("uid") != self.resource.uid
        return metadata.get("uid") == self.resource.uid and "deletionTimestamp" not in metadata

    async def carriers(self, *, since: str = "") -> list[Pod]:
        """Return all pods that carry the leader label, from a consistent list, and `doubtful` ones.

        The list selects by the label alone. With `since`, it is at least as new as that
        resourceVersion, which is quicker. This is enough if the version comes from a label write
        of this replica, and the replica has held the record without a gap since then, because no
        other replica of this site has set the label meanwhile.
        """
        query = f"{self.resource.label_key}={LEADER}"
        namespace = self.resource.key.namespace
        listed = await self._cluster.list_pods(namespace, query, since=since)
        return list({pod.uid: pod for pod in (*self.doubtful, *listed)}.values())

    async def _send(self, pod: Pod, token: int, *, within: float) -> Pod:
        """Send a leader label. It counts as set unless it was certainly refused or not sent."""
        doubtful = pod.uid in self._doubtful
        self._doubtful[pod.uid] = pod
        try:
            patched = await self._patch(pod, LEADER, str(token), within=within)
        except (Refused, Unsent) as error:
            if not doubtful:
                self._doubtful.pop(pod.uid, None)
            if isinstance(error, Refused | AdmissionUnavailable):
                self.refused(pod, error)
            raise
        self.accepted(pod)
        if patched.resource_version != pod.resource_version:
            self.written = patched.resource_version
        return patched

    def refused(self, pod: Pod, error: ClusterError) -> None:
        """Record that the API server refuses the leader label of a pod."""

    def accepted(self, pod: Pod) -> None:
        """Record that the API server accepts the leader label of a pod."""

    async def would_accept(self, pod: Pod) -> None:
        """Ask by a dry run whether the API server would accept the leader label of a pod.

        Raises:
            Refused: it would not accept the label.
            ClusterError: the answer is not known.
        """
        patched = await self._cluster.patch_pod(
            pod,
            labels={self.resource.label_key: LEADER},
            annotations={self.resource.token_key: NO_TOKEN},
            timeout=LONGEST_WRITE,
            dry_run=True,
        )
        self._check(patched, LEADER)

    async def _patch(
        self, pod: Pod, value: str | None, token: str | None, *, within: float | None = None
    ) -> Pod:
        async def send(limit: float) -> Pod:
            return await self._cluster.patch_pod(
                pod,
                labels={self.resource.label_key: value},
                annotations={self.resource.token_key: token},
                timeout=limit,
                within=None if within is None else limit,
            )

        doubt, started = self._doubtful.get(pod.uid), clock.now()
        try:
            patched = await insist(send, within=LONGEST_WRITE if within is None else within)
        except Unsent:
            raise
        except ClusterUnreachable as error:
            waited = clock.now() - started
            if waited < RESEND_AFTER:
                raise
            msg = (
                f"Pod {pod.name} was not patched within {waited:.1f} s: the API server is slow, or"
                f" an admission webhook that it asks. {error}"
            )
            raise ClusterUnreachable(msg) from error
        self.took = max(clock.now() - started, self.took / 2)
        if patched.resource_version != pod.resource_version and (
            self._doubtful.get(pod.uid) is doubt
        ):
            # Label writes that were on their way when this patch was sent will be refused.
            self._doubtful.pop(pod.uid, None)
        self._learn(patched)
        self._check(patched, value)
        return patched

    def _check(self, patched: Pod, value: str | None) -> None:
        """Raise `AdmissionDenied` if the answer does not show the leader label as requested."""
        leads = patched.labels.get(self.resource.label_key) == LEADER
        if leads == (value == LEADER):
            return
        if leads:
            msg = f"Pod {patched.name} has the leader label again: an admission webhook put it back"
        else:
            msg = f"An admission webhook took the leader label out of the patch of {patched.name}"
        raise AdmissionDenied(msg)

    def _fence(self, pod: Pod) -> str | None:
        """Return a value of the token annotation that differs from the present one."""
        return None if self.resource.token_key in pod.annotations else NO_TOKEN

    async def _look(self, pod: Pod) -> Pod | None:
        """Read a pod; return None if it is gone, or if another pod has its name."""
        current = await self._cluster.get_pod(pod.namespace, pod.name)
        if current is None or current.uid != pod.uid:
            return None
        self._learn(current)
        return current

    async def _read(self, pod: Pod, until: float) -> Pod | None:
        """Do what `_look` does, but try again until the given time."""
        while True:
            try:
                async with asyncio.timeout(time_left(until)):
                    return await self._look(pod)
            except (ClusterUnreachable, TimeoutError) as error:
                _not_past(until, pod, error)
                await pause_after(error, until)


async def insist(send: Callable[[float], Awaitable[T]], *, within: float) -> T:
    """Send a write that expects a certain state of its object, and once more if no answer comes.

    The answer may be late because of a slow admission webhook, or may never come because the
    connection broke unnoticed. Therefore the first request goes on while the second one is sent.
    The API server carries out at most one of them, because both expect the same state.

    Args:
        send: sends the write; its argument is the number of seconds to wait for the answer.
        within: seconds for both requests together.

    Raises:
        ClusterError: the failure that says most about the outcome: a conflict, then an unknown
            outcome, then a refusal.
    """
    within = min(within, LONGEST_WRITE)
    until = clock.now() + within
    pending = {asyncio.ensure_future(send(within))}
    may_resend = within > RESEND_AFTER
    failures: list[ClusterError] = []
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=RESEND_AFTER if may_resend else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            may_resend = may_resend and not done
            if not done:
                may_resend = False
                pending.add(asyncio.ensure_future(send(time_left(until))))
            # Read the exceptions of all requests: asyncio warns about exceptions that nobody reads.
            errors = {request: request.exception() for request in done}
            for request, error in errors.items():
                if error is None:
                    return request.result()
                if not isinstance(error, ClusterError):
                    raise error
                failures.append(error)
            if any(isinstance(error, Conflict | NotFound) for error in failures):
                break  # the object has changed, so the other request will be refused, too
        raise min(failures, key=_certainty)
    finally:
        for request in pending:
            request.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _certainty(error: ClusterError) -> int:
    """Return the sort key of a write's failures: the first one says most about the outcome."""
    if isinstance(error, Conflict | NotFound):
        return 0
    unknown = isinstance(error, ClusterUnreachable) and not isinstance(error, Unsent)
    return 1 if unknown else 2


def time_left(until: float) -> float:
    """Return the seconds for a step of a strip; at least `LEAST`, so that it is tried once."""
    return max(LEAST, until - clock.now())


async def pause_after(error: Exception, until: float) -> None:
    """Wait before the next try of something that has a deadline.

    The pause is short and random, so that replicas do not try at the same instant. If the API
    server asks for a longer pause, the pause is that long, but at most half of the time that is
    left. Therefore the last tries come shortly before the deadline in any case.
    """
    pause = random.uniform(0.02, 0.1)  # noqa: S311
    if isinstance(error, Overloaded):
        pause = max(pause, min(error.retry_after, (until - clock.now()) / 2))
    await asyncio.sleep(pause)


def _not_past(until: float, pod: Pod, error: Exception) -> None:
    if clock.now() >= until:
        why = str(error) or "no answer"
        msg = f"Pod {pod.name} counts as labelled, for no strip was confirmed in time: {why}"
        raise ClusterUnreachable(msg) from error
