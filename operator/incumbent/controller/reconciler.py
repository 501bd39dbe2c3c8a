"""Who is in office: record and labels of one election are brought in line with what is known.

Each pass looks at everything anew. The order of every change of leader: strip the old pod,
confirmed; write to the bucket, stored; label the new pod. Where a Service's EndpointSlices are
ours, one write of them, after the bucket's, moves the traffic, and the labels follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from incumbent import clock
from incumbent.campaign.driver import Driver
from incumbent.campaign.machine import NEVER, Campaign
from incumbent.campaign.ports import Observer
from incumbent.campaign.records import Cause, Marker, Nominee, Record
from incumbent.campaign.timing import Timing
from incumbent.controller.brake import Brake
from incumbent.controller.observed import ObservedReconciler
from incumbent.controller.step_down import StepDown
from incumbent.controller.teardown import Remainder
from incumbent.errors import AdmissionUnavailable, ClusterError, NotFound, Refused, Unconnected
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import Cluster
from incumbent.kubernetes.resource import Resource, resource_from
from incumbent.kubernetes.turns import Turns, urgent
from incumbent.pods.cache import ElectionPods
from incumbent.pods.election_labels import STRIP_WITHIN, ElectionLabels, Refusal, together
from incumbent.pods.eligibility import (
    candidates,
    choose,
    holder_pod,
    identity,
    labelled,
    priority,
    shows,
    why_not,
)
from incumbent.replicas.confirmation import Act, Confirmation, Inquiry, Later, Stewards
from incumbent.routing.writer import SliceWriter

log = structlog.get_logger(__name__)

UNDONE_AFTER = 1.0
"""Seconds for which a standby sees work undone before it takes the record: the steward may be
blind towards its API server."""
LONGEST_PATIENCE = 30.0
"""The same, at most, after it took the record and could not do the work either."""

LONGEST_RESTORING = 30.0
"""Seconds between attempts to give a leader back the label that somebody else takes, at most."""
LONGEST_CORRECTING = 1.0
"""Seconds between strips of pods that somebody else labels, at most: each is a second leader."""
PREDECESSORS = 4
"""Of so many earlier holders is known that they were ours; a hand-over has one of them."""


class Reconciler:
    """Puts the right pod in office, and nobody while there is none.

    Args:
        resource: the election; may be replaced when it changes.
        site: the name of the site, for identities.
        driver: of the election's campaign.
        cluster: where the pods are.
        pods: those that concern the election, as last seen.
        observer: is told how long things took.
        may_label: says whether our record counts for anybody.
        corrected: is told of each pod that carried the leader label without leading.
        refused: is told why a request to step down cannot be carried out.
        recognised: is told of each process that labels pods here by right: it is a replica.
        heard: is told of each status of the election that was read.
        wake: asks for another pass after so many seconds.
        turns: for changes of leader, of which only so many go on at a time.
        inquiry: where replicas ask each other while they cannot see the key.
        timing: returns the durations, perhaps by what an earlier process knew; None: not known.
        stewards: what this process knows about the stewards of all its elections.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        site: str,
        driver: Driver,
        cluster: Cluster,
        pods: ElectionPods,
        observer: Observer,
        may_label: Callable[[], bool],
        corrected: Callable[[Pod], None],
        refused: Callable[[str], None],
        recognised: Callable[[str], None],
        heard: Callable[[Mapping[str, Any]], None],
        wake: Callable[[float], None],
        turns: Turns,
        inquiry: Inquiry,
        timing: Callable[[], Timing | None],
        stewards: Stewards,
    ) -> None:
        self._site = site
        self._driver = driver
        self._cluster = cluster
        self._pods = pods
        self._observer = observer
        self._may_label = may_label
        self._corrected = corrected
        self._refused = refused
        self._recognised, self._heard = recognised, heard
        self._step_down = StepDown(cluster)
        self._wake = wake
        self._turns = turns
        self._inquiry = inquiry
        self._timing = timing
        self.confirmation = Confirmation(clock.now(), stewards)
        self._labels = ElectionLabels(cluster, resource, pods, observer, wake)
        self.routing = SliceWriter(cluster, resource, wake, observer)
        self._observed = ObservedReconciler(site, cluster, driver, self._labels, self.routing, wake)
        self._last_held: Record | None = None
        self._last_doubted: Record | None = None
        """The latest record of which it was not known whether another replica here wrote it."""
        self._held_before: tuple[str, ...] = ()
        """The pods of earlier records, by UID: in a hand-over one of them carries the label yet."""
        self._in_office = 0
        """The term whose pod was labelled by us, or seen to be."""
        self._begun = (0, 0)
        """The tenure and the term that we began last, if no label of it may have been written."""
        self._restores = pods.restores
        self._labelled = (0, "")
        """The tenure in which we labelled a pod last, and the resourceVersion of that write."""
        self._unshown_since = NEVER
        """Since when the API server does not let us label the pod of that term."""
        self._answers = False
        """Whether a pod may carry the label because we led, and were not relieved."""
        self._undone_since = NEVER
        self._patience = UNDONE_AFTER
        self._sweep = False
        self._relieved = False
        """Whether the status showed a record of our site that is newer than the last one known."""
        self._unready_since = NEVER
        """Since when the leader is not ready."""
        self._aside_since = NEVER
        """Since when a request to step down keeps this site out of office."""
        self.in_doubt = False
        """Whether it is not known yet if the record is of another replica of this site."""
        self._stripped = ("", 0)
        """The pod and the term of another site's record, or so it seemed, that we stripped last."""
        self._restoring = Brake(LONGEST_RESTORING)
        self._correcting = Brake(LONGEST_CORRECTING)
        self._doubted = NEVER
        """The end of a lease that we may have had, for which was stripped."""

    @property
    def resource(self) -> Resource:
        """The election as last seen."""
        return self._labels.resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        self._labels.resource = self._pods.resource = self.routing.resource = resource

    @property
    def leader(self) -> Pod | None:
        """The pod that carries the leader label by right, if we are the steward."""
        if self.resource.observed:
            return self._observed.leader
        lease = self._driver.lease
        if lease is None or not self._driver.leads:
            return self._kept
        pod = self._holder(lease.record)
        return pod if pod is not None and shows(pod, self.resource, lease.record.term) else None

    @property
    def able(self) -> list[Pod]:
        """The candidates, the best first.

        Where a leader failed, its node may be what failed, and the other pods there are next.
        """
        selector = self.resource.selector
        last = self._holder(self._last_held) if self._last_held is not None else None
        node = last.node if last is not None and why_not(last, selector) else ""
        return candidates(self._labels.known, selector, away_from=node)

    @property
    def eligible(self) -> list[Pod]:
        """The candidates, the best first, without those that the API server lets nobody label."""
        return self._labels.accepting(self.able)

    @property
    def unrecognised(self) -> str:
        """In the mode `Observed`, why the holder of the record means none of our pods."""
        return self._observed.unrecognised if self.resource.observed else ""

    @property
    def refusal(self) -> Refusal | None:
        """The first refusal of the leader label that still holds."""
        return self._labels.refusal

    @property
    def strays(self) -> list[Pod]:
        """The pods that carry the leader label while another pod of this site leads."""
        lease = self._driver.lease
        uid = lease.record.pod_uid if lease is not None and self._driver.leads else ""
        if self.resource.observed:
            leader = self._observed.leader
            uid = leader.uid if leader is not None else ""
        return [
            pod for pod in labelled(self._labels.known, self.resource) if uid not in {"", pod.uid}
        ]

    @property
    def labelled(self) -> bool:
        """Whether a pod carries the leader label, as far as known, or may do so."""
        return bool(self._labels.suspects)

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

    @property
    def rests(self) -> bool:
        """Whether another replica of this site is the steward, so that its work is not ours."""
        campaign = self._driver.campaign
        if self.in_doubt:
            return True
        if campaign is None or not campaign.stands_by:
            return False
        return self._relieved or not self.lapsed

    @property
    def lapsed(self) -> bool:
        """Whether our own record is the latest, and we gave it up at our deadline."""
        record, campaign = self._driver.record, self._driver.campaign
        if campaign is None or record is None:
            return False
        return campaign.lease is None and record.replica == campaign.member.replica

    def hear(self, record: Record | None) -> None:
        """Take in the latest record."""
        campaign = self._driver.campaign
        if campaign is None or record is None:
            return
        if not campaign.ours(record):
            kin = campaign.member.kin
            if kin is not None and kin.doubtful(record):
                self._last_doubted = record
            return
        last = self._last_held
        if record != last:
            self._relieved = False
        if last is not None and last.pod_uid != record.pod_uid:
            self._held_before = (*self._held_before[1 - PREDECESSORS :], last.pod_uid)
        self._last_held = record
        if campaign.lease is not None:
            self._answers = True
        elif not self.lapsed:
            self._answers = False

    async def settle(self, *, withdrawn: bool, blind: bool, since: float) -> bool:
        """Bring everything in line, as far as that is our work.

        Args:
            withdrawn: whether nobody of this site is to lead, whoever could.
            blind: whether NATS is away, so that what we know of the record may be old.
            since: when the reason for this pass came up.

        Returns:
            Whether there is nothing left to try again soon.

        Raises:
            ClusterError: the API server did not do its part; what was done so far stays.
        """
        if self._restores != self._pods.restores:
            # What we know of slices and versions is not what the API server has now.
            self._restores, self._labelled = self._pods.restores, (0, "")
            self.routing.forget()
        settled = await self._settle(withdrawn=withdrawn, blind=blind, since=since)
        if blind or self._driver.latest is None:
            await self._seek_confirmation(withdrawn=withdrawn)
        else:
            self.confirmation.see(clock.now())
        for brake in (self._restoring, self._correcting):
            if brake.holds(clock.now()):
                self._look_again_at(brake.forgiven_at)  # then the condition is over
        if self.routing.routed and not (self.resource.service or self.rests):
            await self.routing.take_back()  # not asked for any more, and no strip waits for it
        return settled

    async def _settle(self, *, withdrawn: bool, blind: bool, since: float) -> bool:
        campaign = self._driver.campaign
        if campaign is None or campaign.latest is None:
            await self._settle_blindly(withdrawn=withdrawn)
            return True
        if self.resource.observed:
            return await self._observed.settle(campaign, withdrawn=withdrawn, blind=blind)
        kept = None if withdrawn else self._kept
        chosen = None if withdrawn else kept or choose(self.eligible, campaign.evicted)
        vacant = campaign.lease is None and (self.lapsed or not campaign.stands_by)
        aside = vacant and self._stands_aside(campaign.timing.interval)
        if aside:
            chosen = None
        self._driver.nominate(self._nominee(chosen) if chosen is not None else None)
        if campaign.lease is None and self.in_doubt:
            return await self._bide(campaign, withdrawn=withdrawn)
        if campaign.lease is not None:
            self._aside_since = NEVER
            try:
                settled = await self._govern(chosen, withdrawn=withdrawn, since=since)
            except (Unconnected, AdmissionUnavailable, Refused):
                await self._give_way(campaign.timing.interval)
                raise
            self._patience = UNDONE_AFTER if settled else self._patience
        elif not vacant:
            settled = await self._stand_by(withdrawn=withdrawn)
        else:
            settled = await self._stand_down(kept, blind=blind)
            if self.resource.step_down is not None and not aside:
                await self._step_down.clear(self.resource)
            if chosen is not None and self._driver.create_due:
                settled = await self._take_office(chosen, since=since)
        if not self.rests:
            self._labels.mark_soon(lambda: self.leader, lambda: self.able)
        return settled

    async def give_up(self) -> bool:
        """Strip everybody, confirmed, then release the record; return whether that was stored."""
        lease, tenure, until = self._driver.lease, self._driver.tenure, self._deadline()
        await self.routing.empty(until=until)
        with urgent(Rank.STRIP, due=until):
            listed = await self._labels.carriers()
        carriers = {pod.uid: pod for pod in (*listed, *self._labels.suspects)}
        strips: list[Awaitable[object]] = [self._labels.strip_all(carriers.values(), until=until)]
        if lease is not None and lease.record.pod_uid not in carriers:
            strips.append(self._strip_former(self._pod_of(lease.record), until=until))
        await together(*strips)
        self._in_office, self._answers = 0, False
        return await self._driver.release(tenure=tenure)

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._labels.stop_marking()

    async def vacate(self) -> None:
        """Strip the pods that we labelled, if we did: this election may not go on.

        What another election has labelled by the same key is left alone.
        """
        await self._labels.stop_marking()
        ours = []
        if self._answers and self._last_held is not None:
            earlier = [pod for pod in self._labels.suspects if pod.uid in self._held_before]
            ours = [self._pod_of(self._last_held), *earlier]
        strip = self._labels.strip_all([*ours, *self._labels.doubtful])
        if self._answers or self.routing.doubtful:
            await together(strip, self.routing.empty())
        else:
            await strip
        self._in_office, self._answers = 0, False

    async def abstain(self) -> None:
        """Take the label from every pod, and see to it that the Service reaches none.

        For an election that is not served. Nothing is asked of the bucket, so a label of a replica
        that would serve it goes, too.
        """
        await self._labels.stop_marking()
        if self._answers or await self._suspect():
            await self._strip_known()
        if self.routing.routed and not self.resource.service:
            await self.routing.take_back()

    @property
    def unmarked(self) -> str:
        """Why a pod has not the label as a candidate that it should; empty if each has."""
        return self._labels.unmarked

    @property
    def took(self) -> float:
        """Seconds that the API server takes for a patch."""
        return self._labels.took

    @property
    def outlived(self) -> bool:
        """Whether this election was found to be gone."""
        return self._labels.outlived

    async def successor(self) -> Resource | None:
        """Return the election that has our name now, if it is another one."""
        key = self.resource.key
        try:
            body = await self._cluster.get_election(key.namespace, key.name)
        except NotFound:  # not even the kind is there
            return None
        if body is None or body["metadata"]["uid"] == self.resource.uid:
            return None
        return resource_from(body, default_bucket=self.resource.bucket)

    async def make_way(self, successor: Resource) -> None:
        """Of an election that is gone, take back what its successor of the same name does not use.

        The labels of both are the same, mostly, and their records: only what we did is undone.
        """
        await self._labels.stop_marking()
        if self._driver.lease is not None:
            await self.give_up()
        else:
            await self.vacate()
        if successor.label_key != self.resource.label_key:
            await self._labels.strip_all(self._labels.suspects)
            await self._labels.mark_all(None)
        if successor.service != self.resource.service:
            await self.routing.take_back()

    async def take_back(self) -> Remainder:
        """Of a deleted election, take back everything; return what is left for another try."""
        await self._labels.stop_marking()
        if self.rests:
            # Otherwise the steward could still label.
            await self._driver.renew()
        if self._driver.lease is not None:
            await self.give_up()
        else:
            await self._labels.strip_all(self._labels.suspects)
        await self._labels.mark_all(self.leader)
        await self.routing.take_back()
        if await self._cluster.list_pods(self.resource.key.namespace, self.resource.label_key):
            return Remainder.LABELS
        if any(self.resource.token_key in pod.annotations for pod in self._labels.known):
            return Remainder.LABELS
        record, campaign = self._driver.record, self._driver.campaign
        ours = campaign is not None and record is not None and campaign.ours(record)
        return Remainder.RECORD if ours else Remainder.NOTHING

    # As the steward

    async def _govern(self, chosen: Pod | None, *, withdrawn: bool, since: float) -> bool:
        """Keep the leader, or hand over, or release."""
        lease, self._undone_since = self._driver.lease, NEVER
        if lease is None:
            return False
        if withdrawn:
            return await self.give_up()
        pod = self._holder(lease.record) or await self._find(lease.record)
        passed_over = chosen is not None and self._passed_over(lease.record)
        if pod is None or passed_over or not self._may_stay(pod):
            if chosen is not None:
                return await self._hand_over(lease.record, chosen, since=since)
            return await self._confirmed_without_candidates() and await self.give_up()
        if self._driver.leads:
            await self.routing.prepare(self._driver.tenure)
            await self.routing.look()
            if not await self._route(pod):
                return False
        if not await self._correct(pod):
            return False
        if not self._driver.leads:
            return True  # nobody of the earlier holders may act any more before we may
        able = not why_not(pod, self.resource.selector)
        if able and lease.record.holder != identity(self._site, pod):
            # The site was renamed. In its own term, because a holder's identity never changes.
            return await self._hand_over(lease.record, pod, since=since)
        if self.resource.preempts and chosen is not None and priority(chosen) > priority(pod):
            return await self._hand_over(lease.record, chosen, since=since)
        wanted = await self._step_down.wanted(self.resource, lease.record.term)
        if wanted is not None:
            return await self._step_aside(lease.record, wanted, since=since)
        if shows(pod, self.resource, lease.record.term):
            self._in_office = lease.record.term
            return True
        if not able:
            return True  # it keeps what it has
        return await self._restore(pod, lease.record.term)

    async def _restore(self, pod: Pod, term: int) -> bool:
        """Label the leader; not at once if somebody else takes its label again and again."""
        if term != self._in_office:
            return await self._label(pod)
        if not self._reached(self._restoring.free_at):
            return True
        restored = await self._label(pod)
        if restored:
            self._restoring.pull(clock.now())
            log.warning("label.restored", pod=pod.name, times=self._restoring.times)
        return restored

    def _may_stay(self, pod: Pod) -> bool:
        """Whether a leader may go on: as a candidate, or for a while as one that is not ready."""
        if not why_not(pod, self.resource.selector):
            self._unready_since = NEVER
            return True
        if why_not(replace(pod, ready=True), self.resource.selector):
            return False
        self._unready_since = min(self._unready_since, clock.now())
        return not self._reached(self._unready_since + self.resource.unready_grace)

    async def _step_aside(self, record: Record, wanted: str, *, since: float) -> bool:
        """Carry out a request to step down; return whether there is nothing left to try again."""
        await self._labels.probe([pod for pod in self.able if wanted in {"", pod.name}])
        others = [pod for pod in self.eligible if pod.uid != record.pod_uid]
        successors = [pod for pod in others if wanted in {"", pod.name}]
        if successors:
            return await self._hand_over(record, successors[0], since=since)
        if not wanted:
            return await self.give_up()
        if wanted != self._pod_of(record).name:
            able = any(pod.name == wanted for pod in self.able)
            why = (
                "the API server refuses its label"
                if able
                else "it is no candidate of this election"
            )
            self._refused(f"pod {wanted} cannot lead instead: {why}")
        await self._step_down.clear(self.resource)
        return True

    async def _hand_over(self, record: Record, to: Pod, *, since: float) -> bool:
        """Move the record from a pod that cannot lead any more to another."""
        async with self._turns.turn():
            lease, current = self._driver.lease, self._still(to)
            if current is None or lease is None or lease.record.term != record.term:
                return False  # it was a long wait
            with urgent(Rank.CHANGE):
                done = await self._hand_over_now(record, current)
        if done:
            self._observer.handover(clock.now() - since)
        return done

    async def _hand_over_now(self, record: Record, to: Pod) -> bool:
        """Strip the old leader, move the record, and label the new leader.

        With a Service the strip comes after the record and the one write of its slices. What is
        promised of labels holds in this order, too: no other pod has one when the new leader gets
        it, and a site that loses the record before strips both. But only while the old leader shows
        its label: one that is still on its way could come between another replica's look around
        and its label for the new leader (found by `make model`).
        """
        old = self._pod_of(record)
        await self.routing.prepare(self._driver.tenure)
        slice_first = self.routing.asked_for and self._labels.certain(old, record.term)
        # A terminating pod may be stripped by anybody, for no replica wants it to lead again.
        if not (slice_first or old.terminating or await self._driver.renew()):
            return False  # not our business any more, perhaps
        tenure = self._driver.tenure
        clear = not slice_first and await self._strip_for(old, to)
        if old.uid == to.uid:
            to = self._still(to) or to  # the strip has changed it
        if not await self._driver.transfer(self._nominee(to), tenure=tenure):
            return False
        self._note_beginning()
        if not await self._route(to, stored=True):
            return False
        if slice_first:
            clear = await self._strip_for(old, to)
        return await self._label(to, stored=True, clear=clear)

    async def _strip_for(self, old: Pod, to: Pod) -> bool:
        """Strip the old leader; return whether no pods but these two may carry the label.

        The list that looks for others runs beside the strip. It has to be as new as this tenure,
        for another steward may have labelled before it: as new as a label of ours in this tenure,
        or consistent.
        """
        tenure, version = self._labelled
        since = version if tenure == self._driver.tenure else ""
        stripped, clear = await together(
            self._strip_former(old, until=self._deadline()),
            self._labels.unclaimed(old, to, since=since),
        )
        return bool(stripped and clear)

    async def _strip_former(self, old: Pod, *, until: float | None = None) -> bool:
        """Strip the pod of the last record, unless it refuses and certainly has no label.

        Returns whether it was stripped.

        Raises:
            Refused: it may have the label, so nobody else may get one.
        """
        lease, latest = self._driver.lease, self._driver.latest
        released = isinstance(latest, Marker) and latest.cause is Cause.RELEASED
        unlabelled = released or (lease is not None and self._unlabelled(lease.record))
        unlabelled = unlabelled and not self._labels.suspects
        until = clock.now() + STRIP_WITHIN if until is None else until
        try:
            await self._labels.strip_one(old, until=until, patient=not unlabelled)
        except (AdmissionUnavailable, Refused) as error:
            if not unlabelled or self._labels.suspects:
                raise
            log.warning("strip.left_out", pod=old.name, problem=str(error))
            return False
        return True

    def _passed_over(self, record: Record) -> bool:
        """Whether our holder refused its label for an interval, so that another pod is to lead."""
        campaign = self._driver.campaign
        if campaign is None or self._unshown_since == NEVER:
            return False
        refused = self._labels.refuses(record.pod_uid) and self._unlabelled(record)
        return refused and self._reached(self._unshown_since + campaign.timing.interval)

    def _unlabelled(self, record: Record) -> bool:
        """Whether the pod of our record certainly has no leader label, nor one on its way.

        So it is if we began its term, and no label that we sent in it may have been written.
        """
        return (
            self._begun == (self._driver.tenure, record.term)
            and record.term != self._in_office
            and not self._labels.suspects
            and not self.routing.may_reach
        )

    async def _route(self, pod: Pod, *, stored: bool = False) -> bool:
        """Let the Service lead to the holder of our record; return whether that is done.

        `stored`: whether a write was stored after the slices were read.
        """
        lease = self._driver.lease
        if lease is None or not self._driver.leads:
            return False
        return await self.routing.point(
            pod,
            token=lease.record.term,
            warrant=self._warrant(pod, lease.record.term, stored=stored),
            until=self._deadline,
        )

    async def _give_way(self, interval: float) -> None:
        """Let another pod, or another site, lead if ours could not be labelled for an interval.

        That is so while there is no connection to the API server, and if it refuses the label. A
        slow API server is no reason: one that many elections ask at once will come round. Nor is
        an outage after which the pod may carry the label: it changes no leader.

        Another pod leads then if the API server would let us label it, and otherwise the record is
        released.
        """
        lease, tenure = self._driver.lease, self._driver.tenure
        if lease is None or self._begun != (tenure, lease.record.term):
            return
        if not self._unlabelled(lease.record):
            self._begun = (0, 0)  # for good: what was in doubt once may be forgotten, but be there
            return
        self._unshown_since = min(self._unshown_since, clock.now())
        if not self._reached(self._unshown_since + interval):
            return
        log.warning("term.unlabelled", holder=lease.record.holder, token=lease.record.term)
        if self._labels.refuses(lease.record.pod_uid):
            await self._labels.probe(self.able)
            if self.eligible:
                self._wake(0.0)  # the next pass hands over
                return
        self._unshown_since = NEVER
        if await self._driver.release(tenure=tenure):
            self._answers = False

    def _note_beginning(self, *, clean: bool = True) -> None:
        """Remember that the present term is one that we began.

        Args:
            clean: whether its pod had no label of an earlier term, nor one on its way.
        """
        lease, self._unshown_since = self._driver.lease, NEVER
        term = lease.record.term if lease is not None else 0
        self._begun = (self._driver.tenure, term) if clean else (0, 0)

    async def _correct(self, leader: Pod) -> bool:
        """Strip others that carry the label, if we still are who may say so."""
        if self._sweep or any(pod.uid != leader.uid for pod in self._labels.suspects):
            # Read before the write, as a warrant has to be, and not from a watch that may lag.
            carriers = await self._labels.carriers()
            strays = [pod for pod in carriers if pod.uid != leader.uid]
            if strays and not self._reached(self._correcting.free_at):
                return True
            if strays and not await self._driver.renew():
                return False
            await self._labels.strip_all(strays)
            for stray in labelled(strays, self.resource):
                self._correcting.pull(clock.now())
                self._corrected(stray)
        self._sweep = False
        return True

    async def _label(self, pod: Pod, *, stored: bool = False, clear: bool = False) -> bool:
        """Label the holder of our record.

        Args:
            pod: the holder, as last seen.
            stored: whether a write was stored after `pod` was read.
            clear: whether it is known that no other pod carries the label.
        """
        lease, started = self._driver.lease, clock.now()
        if lease is None or not self._driver.leads:
            return False
        term, self._sweep = lease.record.term, True  # until we know that all went well
        first = not clear and term != self._in_office
        warrant = self._warrant(pod, term, stored=stored)
        tenure, before = self._driver.tenure, self._labels.written
        try:
            done = await self._labels.add(pod, warrant=warrant, until=self._deadline, first=first)
        finally:
            if self._labels.doubtful:
                self._begun = (0, 0)
        if done is None:
            return False
        if self._labels.written != before and self._driver.tenure == tenure:
            self._labelled = tenure, self._labels.written
        self._in_office, self._sweep = term, False
        self._observer.label_write(clock.now() - started)
        log.info("leader.labelled", namespace=done.namespace, pod=done.name, token=term)
        return True

    def _warrant(self, pod: Pod, term: int, *, stored: bool) -> Callable[[], Awaitable[int | None]]:
        """Return what stores a write and then says whether a pod leads in a term, with its token.

        Where one is `stored` already, that one counts the first time.
        """
        fresh = stored

        async def warrant() -> int | None:
            nonlocal fresh
            if not (fresh or await self._driver.renew()):
                return None
            fresh = False
            campaign = self._driver.campaign
            if campaign is None or campaign.lease is None or campaign.unanswered:
                return None
            if campaign.lease.record.pod_uid != pod.uid or not self._driver.leads:
                return None
            return term if campaign.lease.record.term == term and self._may_label() else None

        return warrant

    async def _confirmed_without_candidates(self) -> bool:
        selector = self.resource.selector
        pods = await self._cluster.list_pods(self.resource.key.namespace, str(selector))
        able = candidates(pods, selector)
        await self._labels.probe(able)
        return not self._labels.accepting(able)

    # As a standby

    async def _stand_by(self, *, withdrawn: bool) -> bool:
        """Watch whether the steward does its work, and do it if it does not."""
        record, now = self._driver.record, clock.now()
        if record is None:
            return False
        self.routing.forget()  # the steward writes the slices
        await self._end_doubt()
        carriers = labelled(self._labels.known, self.resource)
        if not (withdrawn or self._undone(record, self._holder(record), carriers)):
            self._undone_since, self._patience = NEVER, UNDONE_AFTER
            return True
        self._undone_since = min(self._undone_since, now)
        if not self._reached(self._undone_since + self._patience):
            return True
        self._undone_since = now
        self._wake(self._patience)
        # What we know may be old, as our watch may lag: only what was just read counts.
        pod, carriers = await self._find(record), await self._labels.carriers()
        if pod is not None and not withdrawn and await self._labels.refuses_now(pod):
            return True  # the steward is not blind, and it knows what it wrote
        if withdrawn or self._undone(record, pod, carriers):
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
            log.info("work.undone", steward=record.replica)
            self._driver.urge()
        return True

    async def _bide(self, campaign: Campaign, *, withdrawn: bool) -> bool:
        """Leave the labels alone while it is not known whether the steward is of this site.

        Not beyond the time of its record, nor beyond that of a lease that we lost to it.
        """
        self.routing.forget()  # another replica may write the slices
        until = campaign.latest_at + campaign.timing.lease
        if self._answers:
            until = min(until, campaign.ended_at)
        late = self._reached(until) and not self.resource.holds
        if not ((withdrawn or late) and (self._answers or self._labels.suspects)):
            return True
        if not withdrawn and self._answers and await self._relieved_by_status():
            # The steward answers for the label. The next pass knows it, or asks once more.
            self._answers = False
            return True
        await self._strip_known()
        return True

    async def _end_doubt(self) -> None:
        """Strip when the lease would end that a relay without an answer may have brought.

        The steward before may be dead, and then nobody else answers for the label.
        """
        campaign = self._driver.campaign
        until = campaign.doubtful_until if campaign is not None else NEVER
        if until in {NEVER, self._doubted} or not self._reached(until):
            return
        self._doubted = until
        if not (self.resource.holds or await self._relieved_by_status()):
            await self._strip_known()

    def _undone(self, record: Record, pod: Pod | None, carriers: Iterable[Pod]) -> bool:
        """Whether there is something that the steward of a record should do or have done."""
        if pod is None or not self._may_stay(pod):
            return True
        if why_not(pod, self.resource.selector):
            return False
        if record.promoted and not shows(pod, self.resource, record.term):
            return True
        return any(carrier.uid != pod.uid for carrier in carriers)

    # Without a record of our site

    async def _stand_down(self, kept: Pod | None, *, blind: bool) -> bool:
        """See to it that no pod carries the label, while none of this site leads.

        Who is blind strips what it answers for, once. A label that comes later is another
        replica's, which sees more. Where the leader is to be held, it is `kept`.
        """
        if kept is not None:
            await self._labels.strip_all(
                pod for pod in self._labels.suspects if pod.uid != kept.uid
            )
            return True
        self._relieved = self.lapsed and await self._relieved_by_status()
        if self._relieved:
            return True
        if self._answers:
            await self._strip_known()
        elif blind or self.lapsed or not await self._suspect():
            if self.routing.doubtful:
                await self.routing.empty()
            await self._labels.strip_all(self._labels.doubtful)
        elif not await self._driver.look():
            # Our link is down, and that is not noticed yet: the label may be right.
            return False
        elif self._driver.lease is None and not self.rests:
            await self._strip_foreign()
        return True

    async def _strip_foreign(self) -> None:
        """Strip pods that carry the label while a record is not ours.

        If its own pod is labelled for its term once more, a replica that reads and writes here has
        done that, whatever its site is called: we stop, because it would go on.
        """
        record = self._driver.record
        shown = ("", 0)
        for pod in self._labels.suspects:
            if record is not None and pod.uid == record.pod_uid:
                shown = (pod.uid, record.term) if shows(pod, self.resource, record.term) else shown
        if record is not None and shown == self._stripped != ("", 0):
            log.warning("replica.recognised", replica=record.replica, site=record.site)
            self._recognised(record.replica)
            return
        await self._strip_known()
        self._stripped = shown

    async def _suspect(self) -> bool:
        """Whether a pod may carry the label, or be reached by the Service."""
        return bool(self._labels.suspects) or await self.routing.may_reach_somebody()

    async def _settle_blindly(self, *, withdrawn: bool) -> None:
        """The same, before the key was seen: who leads is not known, so perhaps the label is right.

        Not if we led ourselves, or if nobody is to lead.
        """
        if withdrawn or (not self.resource.holds and self._doubtful):
            await self._strip_known()

    async def _seek_confirmation(self, *, withdrawn: bool) -> None:
        """While the key cannot be seen, ask who sees it, and strip if nobody answers.

        Not what this replica answers for: it strips that at its own deadline.
        """
        answers = self._driver.lease is not None or (self._answers and not self._relieved)
        if withdrawn or answers or self.resource.holds:
            return
        if self._pods.all is not None and not await self._suspect():
            return
        campaign, record = self._driver.campaign, self._driver.record
        renewed_at = None
        if campaign is not None and record is not None:
            ours = self.resource.observed or campaign.ours(record)
            renewed_at = campaign.latest_at if ours else None
        match self._next_act(renewed_at):
            case Later(at):
                self._look_again_at(at)
            case Act.ASK:
                await self._ask_others(renewed_at)
                self._wake(0)
            case Act.STRIP:
                with urgent(Rank.STRIP):
                    carriers = [*await self._labels.carriers(), *self._labels.suspects]
                    await together(self._reach_nobody(), self._labels.strip_all(carriers))
                self._in_office = 0
                self.confirmation.strip(clock.now())
                log.warning(
                    "leader.unconfirmed",
                    namespace=self.resource.key.namespace,
                    election=self.resource.key.name,
                    stripped=sorted({pod.name for pod in labelled(carriers, self.resource)}),
                )

    def _next_act(self, renewed_at: float | None) -> Act | Later:
        return self.confirmation.act(
            clock.now(),
            self._timing(),
            question=self._inquiry.question(),
            renewed_at=renewed_at,
            steward=self._inquiry.steward(),
        )

    async def _ask_others(self, renewed_at: float | None) -> None:
        """Write the question when it has its turn, if it is still needed then.

        A slow API server must not delay the strip of a label whose steward is known to be silent.
        """
        confirmation, known = self.confirmation, self.confirmation.renewal(renewed_at)
        steward, timing, asked = self._inquiry.steward(), self._timing(), False
        turn_by = confirmation.turn_by(clock.now(), known, timing, steward)
        try:
            async with asyncio.timeout(_left(turn_by)) as limit, confirmation.stewards.asking():
                if self._next_act(renewed_at) is not Act.ASK:
                    return
                known, steward = confirmation.renewal(renewed_at), self._inquiry.steward()
                left = _left(confirmation.strips_unasked_at(known, timing, steward))
                now = asyncio.get_running_loop().time()
                limit.reschedule(None if left is None else now + left)
                sent_at = clock.now()
                kept = await self._inquiry.ask(known)
            confirmation.ask(sent_at, clock.now(), kept=kept, steward=steward, known=known)
            asked = True
        except TimeoutError:
            pass  # the next pass strips, or sees that an answer has come
        finally:
            if not asked:
                confirmation.give_up_asking()

    @property
    def _doubtful(self) -> bool:
        """Whether a pod may carry the label, or be reached, because of us."""
        return bool(self._answers or self._labels.doubtful or self.routing.doubtful)

    @property
    def _kept(self) -> Pod | None:
        """The pod that keeps the label although its lease has run out, where that is wanted.

        Not if somebody else holds the record, or has deleted it, or it was released.
        """
        latest, lease = self._driver.latest, self._driver.lease
        if not self.resource.holds or latest is None:
            return None
        carriers = labelled(self._labels.known, self.resource)
        if len(carriers) != 1:
            return None
        again = lease is not None and lease.record.pod_uid == carriers[0].uid
        if isinstance(latest, Record) and not (self.lapsed or again):
            return None
        if isinstance(latest, Marker) and latest.cause is not Cause.EXPIRED:
            return None
        return None if why_not(carriers[0], self.resource.selector) else carriers[0]

    def _stands_aside(self, interval: float) -> bool:
        """Whether somebody has asked for a step-down, and others still have their chance.

        That is for an interval out of office; then the request has been carried out.
        """
        if self.resource.step_down is None:
            self._aside_since = NEVER
            return False
        self._aside_since = min(self._aside_since, clock.now())
        return not self._reached(self._aside_since + interval)

    async def _strip_known(self) -> None:
        """Strip all pods that carry the label as far as known, or may do so because we led."""
        carriers = self._labels.suspects
        if self._answers and self._last_held is not None:
            carriers.append(self._pod_of(self._last_held))  # our view of the pods may lag
        # At once, for there may be no time; the slices' write is sent first.
        with urgent(Rank.STRIP):
            await together(self._reach_nobody(), self._labels.strip_all(carriers))
        self._in_office, self._answers = 0, False
        self.confirmation.prove(clock.now())

    async def _reach_nobody(self) -> None:
        """Empty the slices, if we answer for them or they lead to somebody."""
        if self._answers or await self.routing.may_reach_somebody():
            await self.routing.empty()

    async def _take_office(self, pod: Pod, *, since: float) -> bool:
        """Create the record for a pod, after everything that could carry the label is fenced."""
        async with self._turns.turn():
            current = self._still(pod)
            if current is None or not self._driver.create_due:
                return False  # it was a long wait
            with urgent(Rank.CHANGE):
                return await self._take_office_now(current, since=since)

    async def _take_office_now(self, pod: Pod, *, since: float) -> bool:
        held = self._last_held
        prepared = held, self._driver.latest
        latest, doubted = self._driver.latest, self._last_doubted
        another = held is None or held.pod_uid != pod.uid
        clean = another or (isinstance(latest, Marker) and latest.cause is Cause.RELEASED)
        strips: list[Awaitable[object]] = []
        if held is not None and another:
            strips.append(self._strip_former(self._pod_of(held)))
        if doubted is not None and doubted.pod_uid != pod.uid:
            strips.append(self._labels.strip_all([self._pod_of(doubted)]))
        clean = clean and (doubted is None or doubted.pod_uid != pod.uid)
        if strips:
            await together(*strips)
        elif not await self._labels.wanted():
            return True  # and who cannot reach the API server could label nobody
        await self.routing.prepare(self._driver.tenure + 1)  # the one that begins with this record
        # The pod was read before this write, as the warrant of a label has to be.
        created = await self._driver.create(
            self._nominee(pod), still=lambda: (self._last_held, self._driver.latest) == prepared
        )
        if not created:
            return True  # the campaign knows when to try again
        self._note_beginning(clean=clean)
        if not self._driver.leads:
            return True
        if not await self._route(pod, stored=True):
            return False
        done = await self._label(pod, stored=True)
        if done:
            self._observer.failover(clock.now() - since)
        return done

    async def _relieved_by_status(self) -> bool:
        """Whether the status shows that another replica of this site has renewed the record.

        There is no time to wait for an answer: what we led has to be stripped within the margin.
        The status also proves that the steward it names is a replica of this site (`_heard`).
        """
        campaign, held, key = self._driver.campaign, self._last_held, self.resource.key
        if campaign is None or held is None:
            return False
        try:
            with urgent(Rank.STRIP):
                async with asyncio.timeout(campaign.timing.margin / 2):
                    election = await self._cluster.get_election(key.namespace, key.name)
        except (TimeoutError, ClusterError):
            return False
        status = (election or {}).get("status") or {}
        self._heard(status)
        return bool((status.get("steward") or {}).get("revision", 0) > held.revision)

    # Pods

    def _nominee(self, pod: Pod) -> Nominee:
        return Nominee(identity(self._site, pod), pod.uid)

    def _still(self, pod: Pod) -> Pod | None:
        """Return a candidate as last seen; None if it is none any more."""
        return next((one for one in self.able if one.uid == pod.uid), None)

    def _holder(self, record: Record) -> Pod | None:
        """Return the pod that a record names, as last seen."""
        return holder_pod(record, self._pods.all or {}, self.resource.key.namespace)

    def _pod_of(self, record: Record) -> Pod:
        """Return the pod that a record names, as last seen, or enough of it to be read."""
        name = record.holder.rpartition("/")[2]
        return self._holder(record) or Pod(
            self.resource.key.namespace, name, record.pod_uid, resource_version=""
        )

    async def _find(self, record: Record) -> Pod | None:
        """Read the pod that a record names, unless it is gone for certain."""
        if self._pods.gone(record.pod_uid):
            return None
        named = self._pod_of(record)
        pod = await self._cluster.get_pod(named.namespace, named.name)
        return pod if pod is not None and pod.uid == named.uid else None

    def _reached(self, when: float) -> bool:
        """Whether it is this late; if it is not, there will be another pass when it is."""
        left = when - clock.now()
        if left > 0:
            self._wake(left)
        return left <= 0

    def _look_again_at(self, when: float) -> None:
        """Have another pass at this time; at once if it came while this pass was deciding."""
        self._wake(max(0.0, when - clock.now()))

    def _deadline(self) -> float:
        lease = self._driver.lease
        return lease.deadline if lease is not None else clock.now()


def _left(until: float) -> float | None:
    """Return the seconds until a time, as `asyncio.timeout` takes them."""
    return None if until == NEVER else max(0.0, until - clock.now())
