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
"""Seconds for which one pass tries to have a strip confirmed, before the next pass tries. After
each pass that was too short the next one tries twice as long: the API server may be slow."""
BACKOFF = JitteredBackoff(first=1.0, longest=60.0)
"""Pauses between attempts to mark a candidate, or to find out whether the API server would accept
the leader label of a pod again."""
LOOK_AGAIN = 1.0
"""Seconds until the next attempt if it is not known what the API server would say."""
UNANSWERED = 6
"""Attempts after which the label of a pod is tried in earnest, if that cannot be found out."""


class ElectionLabels(Labels):
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
        self._able: Callable[[], list[Pod]] = list
        self._unmarked: dict[str, Refusal] = {}
        """By UID, the pods whose label as a candidate could not be written."""
        self._refused: dict[str, Refusal] = {}
        """By UID, the pods whose leader label the API server refused, until it would accept it."""
        self._accepting: set[str] = set()
        """The UIDs of pods whose leader label it would accept, asked while it refused others."""

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

    async def strip_one(self, pod: Pod, *, until: float, patient: bool = True) -> None:
        """Strip a pod, which stays a candidate if it can lead.

        Whoever is not `patient` hears at once that an admission webhook is away.
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
        """Strip several pods at once, each once."""
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
        """Strip all selected pods but one, as they are by now."""
        resource = self.resource
        selected = await self._cluster.list_pods(resource.key.namespace, str(resource.selector))
        await self.strip_all(one for one in (*self.suspects, *selected) if one.uid != pod.uid)

    async def mark_all(self, leader: Pod | None) -> None:
        """Label the candidates, and take the label from pods that are none any more."""
        changes = markings(self.known, self.resource, leader_uid=leader.uid if leader else "")
        await together(*(self.mark(change.pod, change.value) for change in changes))

    def mark_soon(self, leader: Callable[[], Pod | None], able: Callable[[], list[Pod]]) -> None:
        """Do what `mark_all` does, but in the background: no change of leader waits for it.

        What fails is tried again later, and `unmarked` says so meanwhile. Pods whose leader label
        was refused are looked at again, too.

        Args:
            leader: returns the pod that leads at that moment.
            able: returns the candidates, the best first.
        """
        self._mark_again, self._able = leader, able
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
                self._wake(0.0)  # for the report

    # Pods that refuse the leader label

    def refused(self, pod: Pod, error: ClusterError) -> None:
        """Take in that the API server refuses the leader label of a pod."""
        why = f"the API server refuses the leader label of pod {pod.name}: {error}"
        self._refused[pod.uid] = again(self._refused.get(pod.uid), why, error)
        self._accepting.discard(pod.uid)

    def accepted(self, pod: Pod) -> None:
        """Take in that it does not."""
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
        """Return those of these pods that may be given the label.

        While one was refused, that is who would certainly be accepted: a change of leader for a
        pod that is refused, too, would help nobody.
        """
        if not self._refused:
            return able
        return [pod for pod in able if pod.uid in self._accepting]

    async def probe(self, able: list[Pod]) -> None:
        """Ask whether the API server would accept the leader label of pods, if it refused any.

        That is of those that it refused, when it is time for that, and of the best of the others.
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
            # A webhook that cannot be asked without a write: the next term shows what it says.
            if refusal is None or refusal.failures > UNANSWERED:
                self.accepted(pod)
            else:
                self.refused(pod, refusal.error)
        except ClusterError:
            self._wake(LOOK_AGAIN)  # nobody knows
        else:
            self.accepted(pod)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A write that the API server did not accept."""

    why: str
    error: ClusterError
    failures: int
    """In a row."""
    again_at: float
    """When to try again."""


def again(before: Refusal | None, why: str, error: ClusterError) -> Refusal:
    """Return a refusal after another one, if any: the next try comes twice as late."""
    if before is not None and clock.now() < before.again_at:
        return replace(before, why=why, error=error)  # it was tried before it was time for that
    failures = before.failures + 1 if before is not None else 1
    return Refusal(why, error, failures, clock.now() + BACKOFF.pause(failures))


async def together(*works: Awaitable[object]) -> list[object]:
    """Do all of these at once, to the end; raise what the first of them raised that failed."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
