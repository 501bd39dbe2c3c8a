"""A vacancy: no replica of this site holds a record, so no pod of this site may carry the label.

The replica strips labelled pods, unless another replica relieved it. Then it creates the record for
the best candidate, if nobody else holds the key and no request to step down keeps this site aside.
"""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from incumbent import clock
from incumbent.campaign.machine import NEVER
from incumbent.campaign.records import Cause, Marker
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.turns import urgent
from incumbent.pods.election_labels import together
from incumbent.pods.eligibility import shows
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.candidates import Candidates
from incumbent.reconciler.leader_label import LeaderLabel
from incumbent.reconciler.standing import Standing
from incumbent.reconciler.step_down import StepDown
from incumbent.replicas.site import Kinship

log = structlog.get_logger(__name__)


class Vacancy:
    """Ends what this site did as a holder, and becomes one again.

    Args:
        adapters: of the election.
        standing: which records this site had.
        candidates: the pods of the election.
        leader_label: of the election.
        step_down: the request of a person, if there is one.
        kin: is told of each process that labels pods here by right: it is a replica.
    """

    def __init__(
        self,
        adapters: Adapters,
        standing: Standing,
        candidates: Candidates,
        leader_label: LeaderLabel,
        step_down: StepDown,
        kin: Kinship,
    ) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels, self._routing = adapters.labels, adapters.routing
        self._standing = standing
        self._candidates = candidates
        self._leader_label = leader_label
        self._step_down = step_down
        self._kin = kin
        self._aside_since = NEVER
        """Since when a request to step down keeps this site from leading."""
        self._stripped = ("", 0)
        """The pod and the term that we stripped last because of a record of another site."""

    def stands_aside(self, interval: float) -> bool:
        """Whether a request to step down still keeps this site from leading.

        Other sites get an interval (seconds) to lead. Then the request has been carried out.
        """
        if self._adapters.resource.step_down is None:
            self._aside_since = NEVER
            return False
        self._aside_since = min(self._aside_since, clock.now())
        return not self._adapters.reached(self._aside_since + interval)

    def note_record(self) -> None:
        """Note that this replica holds a record: the next request counts from its own vacancy."""
        self._aside_since = NEVER

    async def fill(
        self, chosen: Pod | None, kept: Pod | None, *, aside: bool, blind: bool, since: float
    ) -> bool:
        """Strip what may not be labelled, and create a record if that is due.

        Args:
            chosen: the pod for which a record may be created.
            kept: the pod that keeps its label without a record, if the election holds its leader.
            aside: whether others still have their chance after a request to step down.
            blind: whether NATS is away, so that what we know of the record may be old.
            since: when the reason for this pass came up.

        Returns:
            Whether there is nothing left to try again soon.

        Raises:
            ClusterError: a strip was not confirmed, or the new leader may not have its label.
        """
        # 1. No pod carries the label but the one that is kept.
        settled = await self._strip(kept, blind=blind)
        # 2. The request to step down has been carried out.
        if self._adapters.resource.step_down is not None and not aside:
            await self._step_down.clear(self._adapters.resource)
        # 3. The next leader.
        if chosen is not None and self._driver.create_due:
            settled = await self._begin_term(chosen, since=since)
        return settled

    # Nobody leads

    async def _strip(self, kept: Pod | None, *, blind: bool) -> bool:
        """See to it that no pod carries the label, while no pod of this site leads.

        A replica that cannot see NATS strips the pods it labelled itself, once. A label that
        appears later was set by a replica with a better view.
        """
        if kept is not None:
            await self._labels.strip_all(
                pod for pod in self._labels.suspects if pod.uid != kept.uid
            )
            return True
        if await self._standing.find_relief():
            return True
        if self._standing.answers:
            await self._leader_label.withdraw()
        elif blind or self._standing.lapsed or not await self._leader_label.may_be_shown():
            if self._routing.doubtful:
                await self._routing.empty()
            await self._labels.strip_all(self._labels.doubtful)
        elif not await self._driver.look():
            # Our link is down, and that is not noticed yet: the label may be right.
            return False
        elif self._driver.lease is None and not self._standing.rests:
            await self._strip_foreign()
        return True

    async def _strip_foreign(self) -> None:
        """Strip pods that carry the label while a record is not ours.

        If the pod of that record gets the label of its term again, a replica that uses this API
        server has written the label, under whatever site name. Then we stop, because that replica
        would label the pod again and again.
        """
        record = self._driver.record
        shown = ("", 0)
        for pod in self._labels.suspects:
            if record is not None and pod.uid == record.pod_uid:
                its_term = shows(pod, self._adapters.resource, record.term)
                shown = (pod.uid, record.term) if its_term else shown
        if record is not None and shown == self._stripped != ("", 0):
            log.warning("replica.recognised", replica=record.replica, site=record.site)
            self._kin.peers.learn(record.replica)
            return
        await self._leader_label.withdraw()
        self._stripped = shown

    # A term begins

    async def _begin_term(self, pod: Pod, *, since: float) -> bool:
        """Create the record for a pod, when it is our turn; return whether that is done."""
        async with self._adapters.turns.turn():
            current = self._candidates.still(pod)
            if current is None or not self._driver.create_due:
                return False  # it was a long wait
            with urgent(Rank.CHANGE):
                return await self._begin_term_now(current, since=since)

    async def _begin_term_now(self, pod: Pod, *, since: float) -> bool:
        """Create the record for a pod, after everything that could carry the label is fenced."""
        standing = self._standing
        prepared = standing.last_held, self._driver.latest
        strips, clean = self._strips_before(pod)
        # 1. Strip the pods of earlier records. A replica that has none to strip reads the election,
        # because without the API server it could label no pod.
        if strips:
            await together(*strips)
        elif not await self._labels.wanted():
            return True
        # 2. Read the slices for the tenure that begins with this record.
        await self._routing.prepare(self._driver.tenure + 1)
        # 3. Create the record. The pod was read before this write, as the warrant of a label needs.
        created = await self._driver.create(
            self._candidates.nominee(pod),
            still=lambda: (standing.last_held, self._driver.latest) == prepared,
        )
        if not created:
            return True  # the campaign knows when to try again
        self._leader_label.note_beginning(clean=clean)
        if not self._driver.leads:
            return True
        # 4. Move the traffic.
        if not await self._leader_label.route(pod, stored=True):
            return False
        # 5. Label the leader.
        done = await self._leader_label.give(pod, stored=True)
        if done:
            self._adapters.observer.failover(clock.now() - since)
        return done

    def _strips_before(self, pod: Pod) -> tuple[list[Awaitable[object]], bool]:
        """Return the strips that a record for a pod waits for, and whether the pod begins clean.

        A pod begins clean if it has no label of an earlier term, and no such label is on its way.
        """
        held, doubted = self._standing.last_held, self._standing.last_doubted
        latest = self._driver.latest
        another = held is None or held.pod_uid != pod.uid
        released = isinstance(latest, Marker) and latest.cause is Cause.RELEASED
        strips: list[Awaitable[object]] = []
        if held is not None and another:
            strips.append(self._leader_label.strip_former(self._candidates.pod_of(held)))
        if doubted is not None and doubted.pod_uid != pod.uid:
            strips.append(self._labels.strip_all([self._candidates.pod_of(doubted)]))
        known = doubted is None or doubted.pod_uid != pod.uid
        return strips, (another or released) and known
