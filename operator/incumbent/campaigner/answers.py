"""How a replica that sees the key answers replicas that cannot see it (see `confirmation`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from incumbent import clock
from incumbent.backoff import JitteredBackoff
from incumbent.campaign.machine import NEVER, Campaign
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.context import ElectionContext
from incumbent.replicas.confirmation import LOOK_AGAIN, Steward, Stewards

ANSWER = JitteredBackoff(first=0.3, longest=19.2)
"""Seconds that a steward has to answer a replica that cannot see the key, before a standby does,
without jitter. They double each time when another replica takes over before we have answered. Two
replicas whose API server is slow would otherwise relieve each other without a pause."""


class Answers:
    """The answers of this replica to questions in the status of one election.

    Args:
        context: of the election.
        configuration: of the campaign.
        stewards: what this process knows about the stewards of all its elections.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        configuration: Configuration,
        stewards: Stewards,
    ) -> None:
        self.answered: Mapping[str, Any] | None = None
        """The question for which the record was renewed."""
        self._replica = context.replica
        self._bucket = context.bucket
        self._driver = context.driver
        self._configuration = configuration
        self._reconciler = context.reconciler
        self._status_writer = context.status_writer
        self._stewards = stewards
        self._schedule = context.schedule
        self._question: Mapping[str, Any] | None = None
        self._questioned_at = NEVER
        self._late_since = -NEVER
        """When the record was last found not to be renewed in time."""
        self._lost = 0
        """How often another replica has relieved us before our answer was written."""

    def serve(self) -> Callable[[], None]:
        """Take part in answers for all elections; returns a function that ends that."""
        return self._stewards.serve(self._due_by, self._note_late)

    @property
    def in_time(self) -> bool:
        """Whether the record is renewed in time, so that the status may name this process."""
        lease = self._driver.lease
        late = lease is None or lease.sent_at < self._late_since
        return self._late_since == -NEVER or not late

    def relieved(self) -> None:
        """Note that another replica has relieved us."""
        self._lost += 1

    def _note_late(self) -> None:
        """Note that the record was not renewed in time, so that the status says so."""
        self._late_since = clock.now()
        self._schedule.wake()

    def _due_by(self, steward: Steward) -> float:
        """Return when the record has to be renewed, if the status names this steward."""
        campaign, record, lease = self._driver.campaign, self._driver.record, self._driver.lease
        if self._reconciler.resource.deleting or self._status_writer.steward() != steward:
            return NEVER
        if campaign is None or record is None or not campaign.ours(record):
            return -NEVER
        return campaign.timing.interval + (campaign.latest_at if lease is None else lease.sent_at)

    def read_question(self) -> None:
        """Read the question in the status, whether or not it can be answered now."""
        question = self._status_writer.status.get("unconfirmed")
        if question != self._question:
            self._question, self._questioned_at, self.answered = question, clock.now(), None
            self._lost = 0

    async def answer(self, campaign: Campaign) -> None:
        """Renew the record if another replica, which cannot see it, asks; the report answers.

        A standby leaves the steward a moment for that, and then takes over.
        """
        question, lease = self._question, self._driver.lease
        if question is None or self._bucket.problem is not None or campaign.latest is None:
            return
        if lease is not None:
            if lease.sent_at >= self._questioned_at or await self._driver.renew():
                self._answer_if_all_are_renewed(question)
        elif self._reconciler.resource.observed:
            if question != self.answered and await self._driver.look():
                self.answered = question
        elif self._reconciler.rests:
            heard_at = max(self._questioned_at, campaign.latest_at)
            patience = ANSWER.most(self._lost)
            if clock.now() >= heard_at + patience:
                self._driver.urge()
            self._schedule.wake_in(patience)
        elif not self._reconciler.labelled:
            self._answer_if_all_are_renewed(question)  # nothing is in doubt here

    def _answer_if_all_are_renewed(self, question: Mapping[str, Any]) -> None:
        """Answer, because the answer counts for all elections that this process renews."""
        info = self._configuration.info
        if info is None or self.answered == question:
            return
        me = Steward(str(self._replica), self._bucket.name, info.created)
        if self._stewards.vouch(me, self._questioned_at, clock.now()):
            self.answered = question
        else:
            self._schedule.wake_in(LOOK_AGAIN)
