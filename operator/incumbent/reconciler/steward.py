"""The steward: this replica holds the record, and governs the election.

It keeps the leader, hands the record over to another pod, or gives it up. The order of every change
of leader: strip the old pod, confirmed; write to the bucket, stored; label the new pod. If the
operator writes the EndpointSlices of a Service, one write of them, after the bucket's, moves the
traffic, and the labels follow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from incumbent import clock
from incumbent.campaign.records import Record
from incumbent.errors import AdmissionUnavailable, Refused, Unconnected
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.turns import urgent
from incumbent.pods.election_labels import together
from incumbent.pods.eligibility import identity, labelled, priority, shows, why_not
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.brake import Brake
from incumbent.reconciler.candidates import Candidates
from incumbent.reconciler.leader_label import LeaderLabel
from incumbent.reconciler.step_down import StepDown

log = structlog.get_logger(__name__)

LONGEST_RESTORING = 30.0
"""Seconds between attempts to give a leader back the label that somebody else takes, at most."""
LONGEST_CORRECTING = 1.0
"""Seconds between strips of pods that somebody else labels, at most: each is a second leader."""


@dataclass(frozen=True, slots=True)
class Notices:
    """Who is told what people should know."""

    corrected: Callable[[Pod], None]
    """Is told of each pod that carried the leader label without leading."""
    refused: Callable[[str], None]
    """Is told why a request to step down cannot be carried out."""


class Steward:
    """Governs an election while this replica holds the record.

    Args:
        adapters: of the election.
        candidates: the pods of the election.
        leader_label: of the election.
        step_down: the request of a person, if there is one.
        notices: who is told what people should know.
    """

    def __init__(
        self,
        adapters: Adapters,
        candidates: Candidates,
        leader_label: LeaderLabel,
        step_down: StepDown,
        notices: Notices,
    ) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels, self._routing = adapters.labels, adapters.routing
        self._candidates = candidates
        self._leader_label = leader_label
        self._step_down = step_down
        self._notices = notices
        self._restoring = Brake(LONGEST_RESTORING)
        self._correcting = Brake(LONGEST_CORRECTING)

    @property
    def contested(self) -> str:
        """Why the labels do not stay as they should be; empty if they do."""
        now, culprit = clock.now(), "`kubectl get pods -o yaml --show-managed-fields` shows who"
        if self._restoring.holds(now):
            return f"somebody else takes the label from the leader again and again: {culprit}"
        if self._correcting.holds(now):
            return f"somebody else labels another pod as leader again and again: {culprit}"
        return ""

    @property
    def corrections_in_a_row(self) -> int:
        """How often somebody else has labelled a pod, one time soon after the other."""
        return self._correcting.times

    def expect_calm(self) -> None:
        """Have another pass when the labels are not `contested` any more."""
        for brake in (self._restoring, self._correcting):
            if brake.holds(clock.now()):
                self._adapters.look_again_at(brake.forgiven_at)

    async def govern(
        self, chosen: Pod | None, interval: float, *, withdrawn: bool, since: float
    ) -> bool:
        """Keep the leader, hand over, or release.

        Args:
            chosen: the best candidate; None: there is none, or nobody is to lead.
            interval: between renewals, in seconds.
            withdrawn: whether nobody of this site is to lead, whoever could.
            since: when the reason for this pass came up.

        Returns:
            Whether there is nothing left to try again soon.

        Raises:
            ClusterError: the API server did not do its part; what was done so far stays.
        """
        try:
            return await self._govern(chosen, interval, withdrawn=withdrawn, since=since)
        except (Unconnected, AdmissionUnavailable, Refused):
            await self._give_way(interval)
            raise

    async def give_up(self) -> bool:
        """Strip everybody, confirmed, then release the record; return whether that was stored.

        Raises:
            ClusterError: a strip was not confirmed; the record is not released.
        """
        lease, tenure = self._driver.lease, self._driver.tenure
        until = self._adapters.deadline()
        # 1. The Service reaches nobody.
        await self._routing.empty(until=until)
        # 2. No pod has the label: neither one that is listed or known, nor the holder.
        with urgent(Rank.STRIP, due=until):
            listed = await self._labels.carriers()
        carriers = {pod.uid: pod for pod in (*listed, *self._labels.suspects)}
        strips: list[Awaitable[object]] = [self._labels.strip_all(carriers.values(), until=until)]
        if lease is not None and lease.record.pod_uid not in carriers:
            holder = self._candidates.pod_of(lease.record)
            strips.append(self._leader_label.strip_former(holder, until=until))
        await together(*strips)
        self._leader_label.note_withdrawn()
        # 3. Others may lead.
        return await self._driver.release(tenure=tenure)

    # The leader stays, or another pod leads

    async def _govern(
        self, chosen: Pod | None, interval: float, *, withdrawn: bool, since: float
    ) -> bool:
        lease = self._driver.lease
        if lease is None:
            return False
        if withdrawn:
            return await self.give_up()
        record = lease.record
        # 1. A leader that may not go on is replaced.
        pod = self._candidates.holder(record) or await self._candidates.find(record)
        refused = chosen is not None and self._leader_label.refused_for(record, interval)
        if pod is None or refused or not self._candidates.may_stay(pod):
            if chosen is not None:
                return await self._hand_over(record, chosen, since=since)
            return await self._candidates.confirm_none() and await self.give_up()
        # 2. The traffic goes to the leader.
        if self._driver.leads and not await self._keep_routed(pod):
            return False
        # 3. No other pod carries the label.
        if not await self._correct(pod):
            return False
        if not self._driver.leads:
            return True  # an earlier holder may still act, and ours may not yet
        # 4. Another pod takes over if that is wanted; otherwise the leader has its label.
        return await self._keep_or_replace(record, pod, chosen, since=since)

    async def _keep_routed(self, pod: Pod) -> bool:
        """Let the Service lead to the leader, if somebody changed that; return whether it does."""
        await self._routing.prepare(self._driver.tenure)
        await self._routing.look()
        return await self._leader_label.route(pod)

    async def _keep_or_replace(
        self, record: Record, pod: Pod, chosen: Pod | None, *, since: float
    ) -> bool:
        """Hand over from a leader that may stay, if that is wanted, or see that it has its label.

        Returns whether there is nothing left to try again soon.
        """
        resource = self._adapters.resource
        able = not why_not(pod, resource.selector)
        if able and record.holder != identity(self._adapters.site, pod):
            # The site was renamed. In its own term, because a holder's identity never changes.
            return await self._hand_over(record, pod, since=since)
        if resource.preempts and chosen is not None and priority(chosen) > priority(pod):
            return await self._hand_over(record, chosen, since=since)
        wanted = await self._step_down.wanted(resource, record.term)
        if wanted is not None:
            return await self._step_aside(record, wanted, since=since)
        if shows(pod, self._adapters.resource, record.term):
            self._leader_label.note_term(record.term)
            return True
        if not able:
            return True  # it keeps what it has
        return await self._restore(pod, record.term)

    async def _restore(self, pod: Pod, term: int) -> bool:
        """Label the leader; not at once if somebody else takes its label again and again."""
        if term != self._leader_label.term:
            return await self._leader_label.give(pod)
        if not self._adapters.reached(self._restoring.free_at):
            return True
        restored = await self._leader_label.give(pod)
        if restored:
            self._restoring.pull(clock.now())
            log.warning("label.restored", pod=pod.name, times=self._restoring.times)
        return restored

    async def _correct(self, leader: Pod) -> bool:
        """Strip others that carry the label; return false if that is not ours to do any more."""
        others = any(pod.uid != leader.uid for pod in self._labels.suspects)
        if self._leader_label.unswept or others:
            # 1. Read before the write, as a warrant has to be, and not from a watch that may lag.
            carriers = await self._labels.carriers()
            strays = [pod for pod in carriers if pod.uid != leader.uid]
            if strays and not self._adapters.reached(self._correcting.free_at):
                return True
            # 2. Prove that we are still the steward.
            if strays and not await self._driver.renew():
                return False
            # 3. Strip them.
            await self._labels.strip_all(strays)
            for stray in labelled(strays, self._adapters.resource):
                self._correcting.pull(clock.now())
                self._notices.corrected(stray)
        self._leader_label.note_swept()
        return True

    async def _step_aside(self, record: Record, wanted: str, *, since: float) -> bool:
        """Carry out a request to step down; return whether there is nothing left to try again."""
        able = [pod for pod in self._candidates.able if wanted in {"", pod.name}]
        await self._labels.probe(able)
        others = [pod for pod in self._candidates.eligible if pod.uid != record.pod_uid]
        successors = [pod for pod in others if wanted in {"", pod.name}]
        if successors:
            return await self._hand_over(record, successors[0], since=since)
        if not wanted:
            return await self.give_up()
        if wanted != self._candidates.pod_of(record).name:
            why = (
                "the API server refuses its label"
                if any(pod.name == wanted for pod in self._candidates.able)
                else "it is no candidate of this election"
            )
            self._notices.refused(f"pod {wanted} cannot lead instead: {why}")
        await self._step_down.clear(self._adapters.resource)
        return True

    async def _give_way(self, interval: float) -> None:
        """Let another pod, or another site, lead if ours could not be labelled for an interval.

        A pod could not be labelled if there is no connection to the API server, or if the API
        server refuses the label. A slow API server is not a reason, because its answer comes. An
        outage after which the pod may have the label is not a reason either: it changes no leader.

        Another pod leads if the API server would accept its label. Otherwise the steward releases
        the record.
        """
        lease, tenure = self._driver.lease, self._driver.tenure
        if lease is None or not self._leader_label.fails(lease.record, interval):
            return
        log.warning("term.unlabelled", holder=lease.record.holder, token=lease.record.term)
        if self._labels.refuses(lease.record.pod_uid):
            await self._labels.probe(self._candidates.able)
            if self._candidates.eligible:
                self._adapters.wake(0.0)  # the next pass hands over
                return
        self._leader_label.forgive()
        if await self._driver.release(tenure=tenure):
            self._leader_label.note_withdrawn()

    # Handing over

    async def _hand_over(self, record: Record, to: Pod, *, since: float) -> bool:
        """Move the record from a pod that cannot lead any more to another, when it is our turn."""
        async with self._adapters.turns.turn():
            lease, current = self._driver.lease, self._candidates.still(to)
            if current is None or lease is None or lease.record.term != record.term:
                return False  # it was a long wait
            with urgent(Rank.CHANGE):
                done = await self._hand_over_now(record, current)
        if done:
            self._adapters.observer.handover(clock.now() - since)
        return done

    async def _hand_over_now(self, record: Record, to: Pod) -> bool:
        """Strip the old leader, move the record, and label the new leader.

        With a Service the strip comes after the record and the one write of its slices. What is
        promised of labels holds in this order, too: no other pod has one when the new leader gets
        it, and a site that loses the record before strips both. But only while the old leader shows
        its label: one that is still on its way could come between another replica's look around
        and its label for the new leader (found by `make model`).
        """
        old = self._candidates.pod_of(record)
        # 1. Read the slices, so that the write to the bucket is later than that.
        await self._routing.prepare(self._driver.tenure)
        slice_first = self._routing.asked_for and self._labels.certain(old, record.term)
        # 2. Prove that we are still the steward. Anybody may strip a terminating pod, because no
        # replica wants it to lead again.
        if not (slice_first or old.terminating or await self._driver.renew()):
            return False  # not our business any more, perhaps
        tenure = self._driver.tenure
        # 3. Strip the old leader.
        clear = not slice_first and await self._strip_for(old, to)
        if old.uid == to.uid:
            to = self._candidates.still(to) or to  # the strip has changed it
        # 4. Move the record.
        if not await self._driver.transfer(self._candidates.nominee(to), tenure=tenure):
            return False
        self._leader_label.note_beginning()
        # 5. Move the traffic.
        if not await self._leader_label.route(to, stored=True):
            return False
        # 6. With a Service, strip the old leader now.
        if slice_first:
            clear = await self._strip_for(old, to)
        # 7. Label the new leader.
        return await self._leader_label.give(to, stored=True, clear=clear)

    async def _strip_for(self, old: Pod, to: Pod) -> bool:
        """Strip the old leader; return whether no pods but these two may carry the label.

        The list of other carriers is read while the strip runs. Another steward may have labelled
        pods before this tenure. Therefore the list must be as new as a label that we wrote in this
        tenure, or consistent.
        """
        stripped, clear = await together(
            self._leader_label.strip_former(old, until=self._adapters.deadline()),
            self._labels.unclaimed(old, to, since=self._leader_label.version),
        )
        return bool(stripped and clear)
