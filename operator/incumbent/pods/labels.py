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

An answer counts for what it shows. A mutating webhook can put a label back that a patch removes, or
take out one that it sets, and the API server answers 200 all the same. Such a patch counts as
refused.
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
"""Seconds to wait for the answer to a write, at most. An API server gives a PATCH up after 34 s
(`requestTimeoutUpperBound` in apiserver/pkg/endpoints/handlers/rest.go), webhooks included."""
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
        """The resourceVersion of our latest leader label; empty before the first one."""
        self.took = 0.0
        """Seconds that the API server took for the last patches; a longer one counts for a while,
        because not every pod is one that a slow webhook is asked about."""
        self._doubtful: dict[str, Pod] = {}

    @property
    def doubtful(self) -> list[Pod]:
        """The pods to which the leader label was sent, without an answer so far.

        They count as labelled, whatever they show, until a strip of them is confirmed.
        """
        return list(self._doubtful.values())

    async def strip(
        self, pod: Pod, value: str | None, *, until: float, patient: bool = True
    ) -> None:
        """Take the leader label and the token from a pod, confirmed by the API server.

        Args:
            pod: as last seen; it may be gone, changed, or never have carried the label. Without
                a resourceVersion it is read first.
            value: what the label says from now on; None removes it.
            until: time until which to try; it is tried once in any case.
            patient: whether to try again while an admission webhook is away.

        Raises:
            ClusterUnreachable: not confirmed in time: the pod counts as labelled.
            Refused: the API server does not allow it.
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
            patched = await self._patch(pod, value, None)
        except (Conflict, NotFound):
            return
        if patched.labels.get(self.resource.label_key) != value:
            msg = f"An admission webhook changed the label of pod {pod.name} as a candidate"
            raise AdmissionDenied(msg)

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
        """Take in that the API server refuses the leader label of a pod."""

    def accepted(self, pod: Pod) -> None:
        """Take in that it does not."""

    async def would_accept(self, pod: Pod) -> None:
        """Ask whether the API server would let a pod have the leader label; nothing is written.

        Raises:
            Refused: it would not.
            ClusterError: it is not known.
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
            # What was on its way to this pod when the patch was sent will be refused.
            self._doubtful.pop(pod.uid, None)
        self._learn(patched)
        self._check(patched, value)
        return patched

    def _check(self, patched: Pod, value: str | None) -> None:
        """Raise `AdmissionDenied` if the leader label is not there as it was asked for."""
        leads = patched.labels.get(self.resource.label_key) == LEADER
        if leads == (value == LEADER):
            return
        if leads:
            msg = f"Pod {patched.name} has the leader label again: an admission webhook put it back"
        else:
            msg = f"An admission webhook took the leader label out of the patch of {patched.name}"
        raise AdmissionDenied(msg)

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
                await pause_after(error, until)


async def insist(send: Callable[[float], Awaitable[T]], *, within: float) -> T:
    """Send a write that expects one state of its object, and send it again if no answer comes.

    A slow admission webhook answers late, and a connection that broke without a word never does.
    So the first request is not given up when the second one is sent. At most one of the two is
    carried out, because both expect the same state.

    Args:
        send: sends the write; it is told how many seconds to wait for the answer.
        within: seconds for everything.

    Raises:
        ClusterError: the answer to the last request, or an unknown outcome if one had no answer.
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
            # All are asked for: asyncio complains of a failure that nobody looks at.
            errors = {request: request.exception() for request in done}
            for request, error in errors.items():
                if error is None:
                    return request.result()
                if not isinstance(error, ClusterError):
                    raise error
                failures.append(error)
            if any(isinstance(error, Conflict | NotFound) for error in failures):
                break  # the object is in another state now, so the other request comes too late
        raise min(failures, key=_certainty)
    finally:
        for request in pending:
            request.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def _certainty(error: ClusterError) -> int:
    """Order failures of one write: the first says the most about what became of it."""
    if isinstance(error, Conflict | NotFound):
        return 0
    unknown = isinstance(error, ClusterUnreachable) and not isinstance(error, Unsent)
    return 1 if unknown else 2


def time_left(until: float) -> float:
    """Return the seconds that a step of a strip has, which is always tried once."""
    return max(LEAST, until - clock.now())


async def pause_after(error: Exception, until: float) -> None:
    """Wait before another try of what has to be done until a time.

    For a moment, which is not the same for all replicas. If the API server asks for a longer pause,
    then for that, but at most for half of the time that is left: the last tries come shortly before
    it is over, whatever the API server asks for.
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
