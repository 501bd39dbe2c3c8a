"""The labels of one election on all pods that concern it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from incumbent import clock
from incumbent.backoff import JitteredBackoff
from incumbent.campaign.ports import Observer
from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterError,
    ClusterUnreachable,
    Forbidden,
    Refused,
)
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource
from incumbent.kubernetes.turns import apart, urgent
from incumbent.pods.cache import ElectionPods
from incumbent.pods.eligibility import CANDIDATE, Marking, labelled, markings, shows, why_not
from incumbent.pods.labels import LONGEST_WRITE, Labels

log = structlog.get_logger(__name__)

STRIP_WITHIN = 5.0
"""Seconds for which one pass tries to get a strip confirmed, before the next pass tries. If a pass
was too short, the next pass tries twice as long, because the API server may be slow."""
BACKOFF = JitteredBackoff(first=1.0, longest=60.0)
"""Pauses between attempts to mark a candidate, or to find out whether the API server would accept
the leader label of a pod again."""
LOOK_AGAIN = 1.0
"""Seconds until the next attempt if it is not known what the API server would say."""
UNANSWERED = 6
"""Dry runs without a clear answer after which the leader label may be written for real."""


class ElectionLabels(Labels):
    """`Labels`, with the pods as last seen.

    Args:
        cluster: where the pods are.
        resource: the election.
        pods: the pods that concern the election.
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
        self._able: Callable[[], list[Pod]] = list
        self._unmarked: dict[str, Refusal] = {}
        """Failed writes of the candidate label, by the pod's UID."""
        self._refused: dict[str, Refusal] = {}
        """Refusals of the leader label by the pod's UID, until the API server would accept it."""
        self._accepting: set[str] = set()
        """UIDs of pods whose leader label the API server accepts, while it refuses other pods'."""

    @property
    def known(self) -> Iterable[Pod]:
        """The pods that concern the election, as last seen."""
        return self._pods.known

    @property
    def suspects(self) -> list[Pod]:
        """The pods that carry the leader label as last seen, and those that may carry it."""
        return [*self.doubtful, *labelled(self.known, self.resource)]

    def certain(self, pod: Pod, token: int) -> bool:
        """Whether a pod was seen with the label of this term, and no label write is in doubt."""
        return shows(pod, self.resource, token) and pod.uid not in self._doubtful

    async def strip_one(self, pod: Pod, *, until: float, patient: bool = True) -> None:
        """Strip a pod. It gets the candidate label if it can lead.

        Without `patient`, the caller learns at once that an admission webhook does not answer.
        """
        if self._pods.gone(pod.uid):
            self.forget(pod)
            return
        started = clock.now()
        unwanted = self.resource.deleting or why_not(pod, self.resource.selector)
        value: Literal["candidate"] | None = None if unwanted else CANDIDATE
        try:
            await self.strip(pod, value, until=until, patient=patient)
        except (AdmissionUnavailable, Refused) as error:
            msg = (
                f"Pod {pod.name} may carry the leader label and cannot be stripped, so no other pod"
                f" may lead: {error}. Let the operator change this pod, or delete it"
            )
            raise type(error)(msg) from error
        self._observer.label_write(clock.now() - started)

    async def strip_all(self, pods: Iterable[Pod], *, until: float | None = None) -> None:
        """Strip several pods at the same time; a pod that is named twice is stripped once."""
        each = {pod.uid: pod for pod in pods}
        if until is not None:
            await together(*(self.strip_one(pod, until=until) for pod in each.values()))
            return
        until = clock.now() + self._strip_within
        try:
            with urgent(Rank.STRIP):
                await together(*(self.strip_one(pod, until=until) for pod in each.values()))
        except ClusterUnreachable:
            self._strip_within = min(LONGEST_WRITE, 2 * self._strip_within)
            raise
        self._strip_within = STRIP_WITHIN

    async def strip_others(self, pod: Pod) -> None:
        """List the selected pods now, and strip all of them but one."""
        resource = self.resource
        selected = await self._cluster.list_pods(resource.key.namespace, str(resource.selector))
        await self.strip_all(one for one in (*self.suspects, *selected) if one.uid != pod.uid)

    async def mark_all(self, leader: Pod | None) -> None:
        """Label the candidates, and remove the label from pods that are no longer candidates."""
        changes = markings(self.known, self.resource, leader_uid=leader.uid if leader else "")
        await together(*(self.mark(change.pod, change.value) for change in changes))

    def mark_soon(self, leader: Callable[[], Pod | None], able: Callable[[], list[Pod]]) -> None:
        """Do what `mark_all` does, but in the background, so that no change of leader waits.

        A write that fails is tried again later, and until then `unmarked` says why. It also asks
        again about pods whose leader label was refused.

        Args:
            leader: returns the pod that leads at that moment.
            able: returns the candidates, the best first.
        """
        self._mark_again, self._able = leader, able
        if self._marking is None or self._marking.done():
            self._marking = asyncio.create_task(self._mark(), name=f"marks of {self.resource.key}")

    async def stop_marking(self) -> None:
        """Stop the work that `mark_soon` started."""
        self._mark_again = None
        if self._marking is not None:
            self._marking.cancel()
            await asyncio.wait([self._marking])

    @property
    def unmarked(self) -> str:
        """Why a pod does not have the right candidate label; empty if all pods do."""
        return next((one.why for one in self._unmarked.values()), "")

    async def _mark(self) -> None:
        try:
            with apart(Rank.ROUTINE):
                await self._mark_while_asked_to()
        except Exception:
            log.exception("marks.broke", election=str(self.resource.key))

    async def _mark_while_asked_to(self) -> None:
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
            if self._refused:
                await self.probe(self._able())
            waiting = [*self._unmarked.values(), *self._refused.values()]
            if waiting:
                self._wake(min(one.again_at for one in waiting) - clock.now())

    async def _try_to_mark(self, change: Marking) -> None:
        uid = change.pod.uid
        try:
            await self.mark(change.pod, change.value)
        except ClusterError as error:
            why = f"pod {change.pod.name} could not be marked as a candidate: {error}"
            self._unmarked[uid] = again(self._unmarked.get(uid), why, error)
        else:
            if self._unmarked.pop(uid, None) is not None:
                self._wake(0.0)  # so that the status is written again

    # Pods that refuse the leader label

    def refused(self, pod: Pod, error: ClusterError) -> None:
        """Record that the API server refuses the leader label of a pod."""
        why = f"the API server refuses the leader label of pod {pod.name}: {error}"
        self._refused[pod.uid] = again(self._refused.get(pod.uid), why, error)
        self._accepting.discard(pod.uid)

    def accepted(self, pod: Pod) -> None:
        """Record that the API server accepts the leader label of a pod."""
        if self._refused:
            self._accepting.add(pod.uid)
        if self._refused.pop(pod.uid, None) is not None:
            self._wake(0.0)
        if not self._refused:
            self._accepting.clear()

    def refuses(self, uid: str) -> bool:
        """Whether the leader label of a pod was refused."""
        return uid in self._refused

    @property
    def refusal(self) -> Refusal | None:
        """The first refusal that still holds."""
        return next(iter(self._refused.values()), None)

    def accepting(self, able: list[Pod]) -> list[Pod]:
        """Return those of these pods that may get the leader label.

        While the API server refuses the label of any pod, only pods that it would certainly accept
        may get it. A change of leader to another refused pod would help nobody.
        """
        if not self._refused:
            return able
        return [pod for pod in able if pod.uid in self._accepting]

    async def probe(self, able: list[Pod]) -> None:
        """If the API server refused the leader label of any pod, ask what it would accept now.

        Ask about each refused pod when its next try is due. Ask about the other pods, the best
        first, until the API server would accept one.
        """
        known = {pod.uid for pod in self.known}
        self._refused = {uid: one for uid, one in self._refused.items() if uid in known}
        if not self._refused:
            self._accepting.clear()
            return
        for pod in able:
            refusal = self._refused.get(pod.uid)
            if refusal is None and any(one.uid in self._accepting for one in able):
                continue
            if refusal is None or clock.now() >= refusal.again_at:
                await self._ask(pod)

    async def refuses_now(self, pod: Pod) -> bool:
        """Ask whether the API server refuses the leader label of a pod."""
        await self._ask(pod)
        return self.refuses(pod.uid)

    async def _ask(self, pod: Pod) -> None:
        refusal = self._refused.get(pod.uid)
        try:
            await self.would_accept(pod)
        except (Forbidden, AdmissionDenied, AdmissionUnavailable) as error:
            self.refused(pod, error)
        except Refused:
            # Such a webhook cannot be asked by a dry run; the next term shows what it answers.
            if refusal is None or refusal.failures > UNANSWERED:
                self.accepted(pod)
            else:
                self.refused(pod, refusal.error)
        except ClusterError:
            self._wake(LOOK_AGAIN)  # the answer is not known
        else:
            self.accepted(pod)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A write that the API server did not accept."""

    why: str
    error: ClusterError
    failures: int
    """Number of failures in a row."""
    again_at: float
    """Time of the next try."""


def again(before: Refusal | None, why: str, error: ClusterError) -> Refusal:
    """Return a refusal that may follow another; each failure doubles the pause until the next."""
    if before is not None and clock.now() < before.again_at:
        return replace(before, why=why, error=error)  # this try came before it was due
    failures = before.failures + 1 if before is not None else 1
    return Refusal(why, error, failures, clock.now() + BACKOFF.pause(failures))


async def together(*works: Awaitable[object]) -> list[object]:
    """Run all of these at the same time, to the end; then raise the first error in their order."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
