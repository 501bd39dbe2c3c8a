"""One election as people and programs see it at a moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from incumbent import clock
from incumbent.campaign.records import State
from incumbent.campaigner.bucket_trouble import trouble_for_a_person
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.election_events import Counts
from incumbent.campaigner.election_history import ElectionHistory
from incumbent.campaigner.permission import Permission
from incumbent.kubernetes.objects import ElectionKey
from incumbent.pods.eligibility import labelled, why_not


@dataclass(frozen=True, slots=True)
class Reading:
    """The gauges of one election."""

    leads: bool
    interval: float
    token: int
    candidates: int
    remaining: float
    labelled: int
    conditions: list[tuple[str, str, str]]


class View:
    """Shows one election; of one that is barred, nothing of its lock.

    Args:
        context: of the election.
        configuration: of the campaign.
        permission: of the election.
        history: of the election.
        counts: of the election.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        configuration: Configuration,
        permission: Permission,
        history: ElectionHistory,
        counts: Counts,
    ) -> None:
        self.counts = counts
        self._bucket = context.bucket
        self._driver = context.driver
        self._configuration = configuration
        self._reconciler = context.reconciler
        self._status_writer = context.status_writer
        self._permission = permission
        self._pods = context.pods
        self._history = history

    @property
    def key(self) -> ElectionKey:
        """Return the namespace and name."""
        return self._reconciler.resource.key

    @property
    def deadline(self) -> float | None:
        """The deadline of our lease, or by the last renewal seen of somebody else's; or None."""
        campaign, lease = self._driver.campaign, self._driver.lease
        if campaign is None or campaign.record is None:
            return None
        return campaign.latest_at + campaign.timing.lease if lease is None else lease.deadline

    @property
    def barred(self) -> bool:
        """Whether the election is not served, so that nothing of its lock may be told."""
        return self._permission.barred is not None

    @property
    def bucket_trouble(self) -> str:
        """Why the bucket is of no use to this election until a person acts; empty if it is."""
        if self.barred:
            return ""
        key = self._reconciler.resource.record_key
        return trouble_for_a_person(self._bucket, key, self._configuration.info)

    def row(self) -> dict[str, Any]:
        """Return what can be told, as JSON can carry it."""
        status, record = self._status_writer.status, self._driver.record
        if (problem := self._permission.barred) is not None:
            # An earlier version may have put a record of others into the status.
            told = any(one["reason"] == problem.reason for one in status.get("conditions", ()))
            kept = {"candidates", "transitions"} | ({"conditions"} if told else set())
            status = {name: status[name] for name in status if name in kept}
            record = None
        return {
            "namespace": self.key.namespace,
            "name": self.key.name,
            "state": (self._driver.state if problem is None else State.UNKNOWN).name.capitalize(),
            "holder": status.get("holder"),
            "leader": status.get("leader"),
            "token": status.get("token"),
            "site": record.site_name or None if record is not None else None,
            "steward": record.replica_name or None if record is not None else None,
            "candidates": status.get("candidates"),
            "transitions": status.get("transitions"),
            "remainingSeconds": self._remaining if problem is None else None,
            "conditions": status.get("conditions", []),
        }

    async def history(self, *, limit: int) -> dict[str, Any]:
        """Return the latest terms, newest first, and why there may be none or not all."""
        key = self.key
        problem: str | None
        if (barred := self._permission.barred) is not None:
            terms, problem = list[dict[str, Any]](), barred.message
        else:
            terms, problem = await self._history.terms(limit=limit)
        return {"namespace": key.namespace, "name": key.name, "problem": problem, "terms": terms}

    def reading(self) -> Reading:
        """Return what the gauges show."""
        campaign, record, lease = self._driver.campaign, self._driver.record, self._driver.lease
        pods, resource = self._pods.known, self._reconciler.resource
        conditions = self._status_writer.status.get("conditions", ())
        return Reading(
            leads=self._driver.leads,
            interval=campaign.timing.interval if campaign is not None else 0.0,
            token=record.term if record is not None and not record.stranger else 0,
            candidates=sum(not why_not(pod, resource.selector) for pod in pods),
            remaining=max(0.0, lease.deadline - clock.now()) if lease is not None else 0.0,
            labelled=len(labelled(pods, resource)),
            conditions=[(one["type"], one["status"], one["reason"]) for one in conditions],
        )

    @property
    def _remaining(self) -> float | None:
        """Seconds to the deadline."""
        deadline = self.deadline
        return None if deadline is None else round(max(0.0, deadline - clock.now()), 3)
