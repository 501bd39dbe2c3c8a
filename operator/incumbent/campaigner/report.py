"""Decide when this replica writes the status of one election, and which problem it shows."""

from __future__ import annotations

from dataclasses import replace

from incumbent import clock
from incumbent.campaigner.bucket_trouble import BucketTrouble, error_of
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.problems import Problems
from incumbent.campaigner.recognition import Recognition
from incumbent.campaigner.situations import Situations
from incumbent.errors import BucketError, BucketUnreachable
from incumbent.status.situation import Problem, problem_from

PATIENCE = 1.0
"""Seconds for which NATS may be away, or nothing be known yet, before the status says so."""
PATIENCE_WITH_PEERS = 10.0
"""The same while another replica is the steward, which will say so if it is true for all."""


class Report:
    """Has the status of one election written, unless that is another replica's work.

    Args:
        context: of the election.
        configuration: of the campaign.
        recognition: knows whether the writer of the record is in doubt.
        trouble: with the bucket, as people are told.
        problems: of the election.
        situations: gathers what to write.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        configuration: Configuration,
        recognition: Recognition,
        trouble: BucketTrouble,
        problems: Problems,
        situations: Situations,
    ) -> None:
        self._replica = context.replica.name
        self._bucket = context.bucket
        self._trouble = trouble
        self._driver = context.driver
        self._reconciler = context.reconciler
        self._configuration = configuration
        self._recognition = recognition
        self._problems = problems
        self._situations = situations
        self._status_writer = context.status_writer
        self._pods = context.pods
        self._schedule = context.schedule
        self._began_at = clock.now()
        self._evicted = False

    @property
    def begins(self) -> bool:
        """Whether this election has just begun, so that what is missing may come any moment."""
        return clock.now() < self._began_at + PATIENCE

    def evicted(self) -> None:
        """Note that a leader was evicted."""
        self._evicted = True

    def tell_barred(self, problem: Problem) -> None:
        """Have it written that the election is not served."""
        self._status_writer.tell(self._situations.gather(problem, seen=False))

    def tell(self) -> None:
        """Have the status written, or ask for a pass when the status may have to change."""
        resource, now = self._reconciler.resource, clock.now()
        # 1. Observe the bucket. A short outage does not reach the status.
        error = error_of(self._bucket, resource.record_key)
        patience = PATIENCE if self._alone else PATIENCE_WITH_PEERS
        trouble = self._trouble.observe(error, now, patience=patience)
        missing, ttl = self._trouble.missing_for(now), self._configuration.known_ttl
        if 0 <= missing < ttl:
            self._schedule.wake_in(ttl - missing)
        if trouble is None and error is not None:
            self._schedule.wake_in(patience)
            return
        # 2. Leave the status to the replica that writes it, also if the record came after the pass.
        rests = self._reconciler.rests or self._recognition.in_doubt
        if (rests and trouble is None) or self._is_for_others(error, now, patience):
            return
        # 3. Wait a moment for what is not known yet.
        problem = self._problem(trouble)
        campaign = self._driver.campaign
        seen = campaign is not None and campaign.latest is not None
        seen = seen and self._pods.all is not None and not rests
        if not seen and problem is None and self.begins:
            self._schedule.wake_in(self._began_at + PATIENCE - now)
            return
        # 4. Have it written.
        self._status_writer.tell(self._situations.gather(problem, seen=seen), evicted=self._evicted)
        self._evicted = False

    @property
    def _alone(self) -> bool:
        """Whether no other replica is known to be the steward."""
        steward = self._status_writer.status.get("steward") or {}
        alone = steward.get("replica", self._replica) == self._replica
        return alone or self._reconciler.confirmation.stripped

    def _is_for_others(self, error: BucketError | None, now: float, patience: float) -> bool:
        """Whether another replica perhaps sees the key, and writes the status."""
        if not isinstance(error, BucketUnreachable):
            return False
        confirmation = self._reconciler.confirmation
        if confirmation.answered:
            return True
        tells_at = confirmation.doubtful_at + patience
        if self._alone or now >= tells_at:
            return False
        self._schedule.wake_in(tells_at - now)  # thousands of statuses need not say this
        return True

    def _problem(self, trouble: Problem | None) -> Problem | None:
        """Return the problem to tell; None: there is none."""
        problem = self._problems.first(self._reconciler.resource, trouble)
        refusal = self._reconciler.refusal
        if problem is None and refusal is not None and self._driver.record is None:
            return replace(problem_from(refusal.error), message=refusal.why)
        return problem
