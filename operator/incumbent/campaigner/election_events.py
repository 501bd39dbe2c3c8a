"""The events of one election, and the parts of this replica that hear of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from incumbent.campaign.events import CampaignEvent, Loss, Lost, Relieved, Won
from incumbent.campaign.machine import Campaign
from incumbent.campaign.records import State
from incumbent.campaigner.answers import Answers
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.report import Report
from incumbent.campaigner.retirement import Retirement
from incumbent.campaigner.token_regress import TokenRegress
from incumbent.kubernetes.objects import Pod
from incumbent.status.events import KubernetesEvent

NOTED_CORRECTIONS = frozenset({1, 2, 3, 10, 100})
"""Which corrections in a row are worth an event and a line in the log."""


@dataclass(slots=True)
class Counts:
    """The counters of the metrics."""

    campaigns: Mapping[State, int] = field(default_factory=dict)
    transitions: int = 0
    corrections: int = 0


class ElectionEvents:
    """Passes on what the campaign and the reconciler of one election report.

    Args:
        context: of the election.
        tokens: judges the tokens of new records.
        answers: of this replica.
        retirement: of the election.
        report: of the election.
        changed: is called when anybody may be shown something else.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        tokens: TokenRegress,
        answers: Answers,
        retirement: Retirement,
        report: Report,
        changed: Callable[[], None],
    ) -> None:
        self.counts = Counts(context.driver.attempts)
        self._driver = context.driver
        self._reconciler = context.reconciler
        self._tokens = tokens
        self._answers = answers
        self._retirement = retirement
        self._report = report
        self._status_writer = context.status_writer
        self._schedule = context.schedule
        self._changed = changed
        self._log = context.log
        self._known: object = None
        """What a pass depended on when one was last asked for."""
        self._begun = 0
        """The last term that began with this replica as the steward."""

    def of_campaign(self, events: list[CampaignEvent]) -> None:
        """Pass on what follows from anything that the campaign was told, and its events."""
        # 1. The events, in their order.
        for event in events:
            self._pass_on(event)
        # 2. A token that went back, before a pass could label by it.
        self._tokens.check(self._driver, self._reconciler.resource)
        # 3. The record.
        self._reconciler.hear(self._driver.record)
        lease, campaign = self._driver.lease, self._driver.campaign
        if lease is not None and lease.record.revision == lease.record.term != self._begun:
            self._begun = lease.record.term
            self.counts.transitions += 1
        # 4. A pass, if it would find something else.
        known = _known(campaign) if campaign is not None else None
        if known != self._known:
            self._known = known
            if self._reconciler.resource.observed:
                # A label may be on its way to a pod that holds the record no more.
                self._schedule.interrupt()
            self._schedule.wake()
            self._changed()

    def label_corrected(self, pod: Pod) -> None:
        """Tell that a pod carried the leader label without leading."""
        self.counts.corrections += 1
        if self._reconciler.corrections_in_a_row not in NOTED_CORRECTIONS:
            return  # the condition says that it goes on
        self._log.warning("label.corrected", pod=pod.name)
        note = f"pod {pod.name} carried the leader label without leading; it was removed"
        self._status_writer.announce(KubernetesEvent("Warning", "LabelCorrected", "Strip", note))

    def step_down_refused(self, why: str) -> None:
        """Tell that a request to step down cannot be carried out."""
        self._log.warning("step_down.refused", why=why)
        self._status_writer.announce(KubernetesEvent("Warning", "StepDownRefused", "StepDown", why))

    def _pass_on(self, event: CampaignEvent) -> None:
        match event:
            case Won(record):
                self._log.info("election.won", holder=record.holder, token=record.term)
            case Lost(record, loss):
                self._log.info(
                    "election.lost", holder=record.holder, token=record.term, loss=loss.value
                )
                if loss is Loss.EVICTED:
                    self._report.evicted()
                if loss not in {Loss.RELEASED, Loss.HANDED_OVER}:
                    # Whatever the API server keeps a pass waiting for, the strip comes first.
                    self._schedule.interrupt()
            case Relieved(record):
                self._log.info("election.relieved", steward=record.replica)
                self._schedule.interrupt()  # what was begun as the steward may not go on
                self._retirement.relieved()
                self._answers.relieved()
        self._schedule.wake()


def _known(campaign: Campaign) -> object:
    """Return what of a campaign's knowledge a pass depends on: not the revision of a renewal."""
    record, lease = campaign.record, campaign.lease
    reign = None
    if record is not None:
        term = 0 if record.stranger else record.term
        reign = (record.holder, record.pod_uid, term, record.replica, record.promoted)
    vacant = None if record is not None else campaign.latest
    return reign, vacant, lease is not None, campaign.unanswered, campaign.sure
