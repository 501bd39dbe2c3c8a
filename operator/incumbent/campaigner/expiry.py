"""Whether NATS removes the records of one election when they expire."""

from __future__ import annotations

from datetime import UTC, datetime

from incumbent import clock
from incumbent.campaign.machine import Campaign
from incumbent.campaigner.context import ElectionContext
from incumbent.display import shown
from incumbent.kubernetes.resource import Resource
from incumbent.status.situation import Problem

EXPIRES_WITHIN = 5.0
"""Seconds that a server has to remove what has expired. It takes 0.4, or 2 if replicated."""


class Expiry:
    """Reads records that should have expired.

    Without markers no watch tells that a record has expired.

    Args:
        context: of the election.
    """

    def __init__(self, context: ElectionContext) -> None:
        self._bucket = context.bucket
        self._driver = context.driver
        self._schedule = context.schedule
        self._outlived = 0
        """The revision that was read although it should have expired."""

    async def check(self, campaign: Campaign) -> None:
        """Read the record if it should have expired, or have a pass made when it should have."""
        record = self._driver.record
        if record is None or campaign.lease is not None:
            return
        revision, _, stored_at = campaign.stored
        if revision != record.revision or revision == self._outlived:
            return
        left = stored_at + campaign.timing.ttl + EXPIRES_WITHIN - clock.now()
        if left > 0:
            self._schedule.wake_in(left)
        elif self._bucket.problem is None and await self._driver.look():
            self._outlived = revision  # of no meaning if the record is gone

    def problem(self, resource: Resource) -> Problem | None:
        """Return what to say of a record that the server keeps for longer than the TTL."""
        campaign, record = self._driver.campaign, self._driver.record
        if campaign is None or record is None or campaign.lease is not None:
            return None
        revision, stored_at, _ = campaign.stored
        if revision != record.revision or revision != self._outlived or not stored_at:
            return None
        renewed = datetime.fromtimestamp(int(stored_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        message = (
            f"{shown(record.holder)} holds the record, but has not renewed it since {renewed}, and"
            f" records live {campaign.timing.ttl:g} s. Nobody leads by it, and NATS does not remove"
            f" it: `incumbent evict {resource.record_key} --bucket {resource.bucket}`"
        )
        return Problem("RecordOutdated", message, of_bucket=False)
