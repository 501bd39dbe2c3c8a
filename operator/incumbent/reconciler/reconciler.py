"""One pass over an election: what is known decides which role this replica has, and the role acts.

Each pass looks at everything again. The role follows from the record (`standing`): the `steward`
governs, a `standby` watches the steward, in a `vacancy` labels go and a record is created, and a
replica that cannot see the key asks the others (`unseen_key`). In the mode `Observed` there is one
role (`observed`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from incumbent import clock
from incumbent.campaign.machine import Campaign
from incumbent.campaign.records import Record
from incumbent.campaign.timing import Timing
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import Resource
from incumbent.pods.election_labels import Refusal
from incumbent.pods.eligibility import choose, labelled
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.candidates import Candidates
from incumbent.reconciler.leader_label import LeaderLabel
from incumbent.reconciler.observed import ObservedReconciler
from incumbent.reconciler.standby import Standby
from incumbent.reconciler.standing import Role, Standing
from incumbent.reconciler.step_down import StepDown
from incumbent.reconciler.steward import Notices, Steward
from incumbent.reconciler.teardown import Remainder, Teardown
from incumbent.reconciler.unseen_key import UnseenKey
from incumbent.reconciler.vacancy import Vacancy
from incumbent.replicas.confirmation import Confirmation, Inquiry, Stewards
from incumbent.replicas.site import Kinship


@dataclass(frozen=True, slots=True)
class Others:
    """How a replica knows the other replicas of its site, and asks them."""

    kin: Kinship
    """Tells which records are of this site."""
    inquiry: Inquiry
    """Where replicas ask each other while they cannot see the key."""
    stewards: Stewards
    """The stewards of all elections of this process, as last seen."""


class Reconciler:
    """Labels the right pod, and no pod while there is none.

    Args:
        adapters: of the election.
        others: the other replicas of this site.
        notices: who is told what people should know.
        may_label: says whether our record counts for anybody.
        timing: returns the durations, perhaps by what an earlier process knew; None: not known.
    """

    def __init__(
        self,
        adapters: Adapters,
        others: Others,
        notices: Notices,
        *,
        may_label: Callable[[], bool],
        timing: Callable[[], Timing | None],
    ) -> None:
        self.confirmation = Confirmation(clock.now(), others.stewards)
        self._labels, self.routing = adapters.labels, adapters.routing
        self._adapters = adapters
        self._driver = adapters.driver
        self._observed = ObservedReconciler(adapters)
        self._standing = standing = Standing(adapters, others.kin)
        self._candidates = candidates = Candidates(adapters, standing)
        self._leader_label = label = LeaderLabel(
            adapters, standing, candidates, self.confirmation, may_label=may_label
        )
        step_down = StepDown(adapters.cluster)
        self._steward = steward = Steward(adapters, candidates, label, step_down, notices)
        self._standby = Standby(adapters, standing, candidates, label)
        self._vacancy = Vacancy(adapters, standing, candidates, label, step_down, others.kin)
        self._unseen_key = UnseenKey(
            adapters, standing, label, self.confirmation, others.inquiry, timing
        )
        self._teardown = Teardown(
            adapters, standing, candidates, label, steward, leader=lambda: self.leader
        )

    @property
    def resource(self) -> Resource:
        """The election as last seen."""
        return self._adapters.resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        self._adapters.resource = resource

    @property
    def leader(self) -> Pod | None:
        """The pod that carries the leader label by right, if we are the steward."""
        return self._observed.leader if self.resource.observed else self._candidates.leader

    @property
    def able(self) -> list[Pod]:
        """The candidates, the best first."""
        return self._candidates.able

    @property
    def refusal(self) -> Refusal | None:
        """The first refusal of the leader label that still holds."""
        return self._labels.refusal

    @property
    def labelled(self) -> bool:
        """Whether a pod has the leader label as last seen, or may have it."""
        return bool(self._labels.suspects)

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

    @property
    def contested(self) -> str:
        """Why the labels do not stay as they should be; empty if they do."""
        return self._steward.contested

    @property
    def corrections_in_a_row(self) -> int:
        """How often somebody else has labelled a pod, one time soon after the other."""
        return self._steward.corrections_in_a_row

    @property
    def rests(self) -> bool:
        """Whether another replica of this site is the steward, so that its work is not ours."""
        return self._standing.rests

    @property
    def in_doubt(self) -> bool:
        """Whether it is not known yet if the record is of another replica of this site."""
        return self._standing.in_doubt

    @in_doubt.setter
    def in_doubt(self, in_doubt: bool) -> None:
        self._standing.in_doubt = in_doubt

    @property
    def unrecognised(self) -> str:
        """In the mode `Observed`, why the holder of the record means none of our pods."""
        return self._observed.unrecognised if self.resource.observed else ""

    @property
    def strays(self) -> list[Pod]:
        """The pods that carry the leader label while another pod of this site leads."""
        if self.resource.observed:
            leader = self._observed.leader
            uid = leader.uid if leader is not None else ""
        else:
            lease = self._driver.lease
            uid = lease.record.pod_uid if lease is not None and self._driver.leads else ""
        carriers = labelled(self._labels.known, self.resource)
        return [pod for pod in carriers if uid not in {"", pod.uid}]

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
        self._leader_label.heed_restores()
        # 1. The record, the labels and the slices.
        settled = await self._settle(withdrawn=withdrawn, blind=blind, since=since)
        # 2. Is a record still renewed that cannot be seen?
        if blind or self._driver.latest is None:
            await self._unseen_key.seek_confirmation(withdrawn=withdrawn)
        else:
            self.confirmation.see(clock.now())
        # 3. Do what is not urgent: end a condition, and remove slices that the spec dropped.
        # No strip waits for this.
        self._steward.expect_calm()
        if self.routing.routed and not (self.resource.service or self._standing.rests):
            await self.routing.take_back()
        return settled

    async def _settle(self, *, withdrawn: bool, blind: bool, since: float) -> bool:
        campaign = self._driver.campaign
        if campaign is None or self._standing.role is Role.UNINFORMED:
            await self._unseen_key.keep_or_strip(withdrawn=withdrawn)
            return True
        if self.resource.observed:
            return await self._observed.settle(campaign, withdrawn=withdrawn, blind=blind)
        kept = None if withdrawn else self._candidates.kept
        aside = self._standing.vacant and self._vacancy.stands_aside(campaign.timing.interval)
        chosen = None
        if not (withdrawn or aside):
            chosen = kept or choose(self._candidates.eligible, campaign.evicted)
        self._driver.nominate(self._candidates.nominee(chosen) if chosen is not None else None)
        match self._standing.role:
            case Role.UNDECIDED:
                return await self._standby.bide(campaign, withdrawn=withdrawn)
            case Role.STEWARD:
                settled = await self._govern(campaign, chosen, withdrawn=withdrawn, since=since)
            case Role.STANDBY:
                settled = await self._standby.watch(withdrawn=withdrawn)
            case _:
                settled = await self._vacancy.fill(
                    chosen, kept, aside=aside, blind=blind, since=since
                )
        if not self._standing.rests:
            self._labels.mark_soon(lambda: self.leader, lambda: self.able)
        return settled

    async def _govern(
        self, campaign: Campaign, chosen: Pod | None, *, withdrawn: bool, since: float
    ) -> bool:
        """Act as the steward; what a standby or a vacancy counted ends with that."""
        self._vacancy.note_record()
        self._standby.note_own_work()
        interval = campaign.timing.interval
        settled = await self._steward.govern(chosen, interval, withdrawn=withdrawn, since=since)
        if settled:
            self._standby.note_success()
        return settled

    def hear(self, record: Record | None) -> None:
        """Observe the latest record."""
        self._standing.hear(record)

    async def vacate(self) -> None:
        """See `Teardown`."""
        await self._teardown.vacate()

    async def abstain(self) -> None:
        """See `Teardown`."""
        await self._teardown.abstain()

    async def successor(self) -> Resource | None:
        """See `Teardown`."""
        return await self._teardown.successor()

    async def make_way(self, successor: Resource) -> None:
        """See `Teardown`."""
        await self._teardown.make_way(successor)

    async def take_back(self) -> Remainder:
        """See `Teardown`."""
        return await self._teardown.take_back()

    async def close(self) -> None:
        """End what goes on in the background."""
        await self._labels.stop_marking()
