"""The situation of one election, gathered from the parts that know it."""

from __future__ import annotations

from datetime import timedelta

from incumbent import clock
from incumbent.campaign.records import State
from incumbent.campaign.succession import Settlement
from incumbent.campaigner.answers import Answers
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.pass_failures import PassFailures
from incumbent.pods.eligibility import labelled
from incumbent.status.situation import Problem, Situation


class Situations:
    """Gathers the situation of one election.

    Args:
        context: of the election.
        configuration: of the campaign.
        answers: of this replica.
        failures: of the election's passes.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        configuration: Configuration,
        answers: Answers,
        failures: PassFailures,
    ) -> None:
        self._site = context.site
        self._replica = context.replica
        self._driver = context.driver
        self._reconciler = context.reconciler
        self._configuration = configuration
        self._answers = answers
        self._failures = failures
        self._pods = context.pods
        self._log = context.log
        self._waits: tuple[Settlement | None, str] = None, ""
        """What was waited for last, and until when in words."""

    def gather(self, problem: Problem | None, *, seen: bool) -> Situation:
        """Return the situation with this problem; `seen` as in `Situation`."""
        resource, reconciler = self._reconciler.resource, self._reconciler
        campaign, record = self._driver.campaign, self._driver.record
        ours = campaign is not None and record is not None and campaign.ours(record)
        state, leader = self._driver.state, reconciler.leader
        steward = self._replica.name if ours and seen else ""
        if resource.observed and campaign is not None:
            ours = leader is not None
            state = State.LEADER if ours else State.CANDIDATE
        waits = campaign.waits(clock.now()) if campaign is not None and seen else None
        late = campaign is not None and reconciler.took > campaign.timing.margin
        return Situation(
            waits=waits,
            waits_until=self._time_of(waits) if waits is not None else "",
            resource=resource,
            site=self._site,
            state=state,
            seen=seen,
            record=record,
            revision=campaign.latest.revision if campaign and campaign.latest else 0,
            ours=ours,
            leader=leader,
            total=sum(resource.selector.matches(pod.labels) for pod in self._pods.known),
            ready=len(reconciler.able),
            steward=steward,
            bucket=self._configuration.info,
            problem=problem,
            unlabelled=self._unlabelled(problem),
            unrecognised=reconciler.unrecognised,
            patch_seconds=reconciler.took,
            strip_late=late,
            routed=reconciler.routing.routed,
            obstacle=reconciler.routing.obstacle,
            unrouted=reconciler.routing.undone,
            pods_seen=self._pods.all is not None,
            stripped=reconciler.confirmation.stripped,
            answers=self._answers.answered,
            process=self._replica.nonce if self._answers.in_time else "",
            contested=reconciler.contested,
        )

    def _unlabelled(self, problem: Problem | None) -> str:
        """Return why the labels are not as they should be; empty if they are."""
        if self._failures.undone:
            return self._failures.undone
        if problem is not None and problem.bars and problem.owns_label:
            carriers = labelled(self._pods.known, self._reconciler.resource)
            if carriers:
                return f"pod {carriers[0].name} still carries the leader label"
        if strays := self._reconciler.strays:
            return f"pod {strays[0].name} carries the leader label without leading"
        refusal = self._reconciler.refusal
        return refusal.why if refusal is not None else self._reconciler.unmarked

    def _time_of(self, waits: Settlement) -> str:
        """Return the end of a wait, RFC 3339: the same text for as long as it lasts."""
        if self._waits[0] != waits:
            ends = clock.today() + timedelta(seconds=waits.at - clock.now() + 1)  # rounded up
            self._waits = waits, ends.strftime("%Y-%m-%dT%H:%M:%SZ")
            self._log.info(
                "election.waits",
                until=self._waits[1],
                awaited=waits.awaited.value,
                holder=waits.holder or None,
            )
        return self._waits[1]
