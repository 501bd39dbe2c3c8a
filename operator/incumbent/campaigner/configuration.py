"""The configuration of one election's campaign: its spec, and the settings of its bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from incumbent import clock
from incumbent.campaign.configuration import (
    BucketSettings,
    CampaignSpec,
    unfit_reason,
    unsettled_reason,
    untaken_reason,
)
from incumbent.campaign.machine import Lease
from incumbent.campaign.records import BucketInfo
from incumbent.campaign.timing import MAXIMUM_TTL, Timing, allowing_for
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.permission import Permission
from incumbent.errors import CampaignInvalid, ConfigurationError
from incumbent.status.situation import Problem, problem_from

NOTICED = 0.1
"""Seconds by which a margin has to change before the deadline is moved."""


class Configuration:
    """Begins, adjusts and ends the campaign of one election, as its configuration changes.

    Args:
        context: of the election.
        permission: of the election.
    """

    def __init__(self, context: ElectionContext, permission: Permission) -> None:
        self.invalid: Problem | None = None
        """Why the election cannot campaign as its spec and the bucket ask for; None if it can."""
        self._bucket = context.bucket
        self._driver = context.driver
        self._reconciler = context.reconciler
        self._status_writer = context.status_writer
        self._permission = permission
        self._schedule = context.schedule
        self._log = context.log
        self._settings = BucketSettings()
        self._kept: Timing | None = None
        """The durations that count, also after a change of the spec to some that cannot."""
        self._end_of_listening: Callable[[], None] | None = None

    @property
    def info(self) -> BucketInfo | None:
        """The settings of the bucket as last seen; None: not seen, or not looked at."""
        return self._settings.info

    @property
    def goes_on(self) -> bool:
        """Whether the election goes on although its spec asks for impossible durations."""
        invalid = self.invalid
        return invalid is not None and not invalid.of_bucket and self._kept is not None

    @property
    def known_ttl(self) -> float:
        """The TTL of the bucket as last known, perhaps by an earlier process, in seconds."""
        ttl = self._ttl
        return MAXIMUM_TTL if ttl is None else ttl

    def known_timing(self) -> Timing | None:
        """Return the durations as last known; None if the TTL is not known."""
        if self._driver.campaign is not None:
            return self._driver.campaign.timing
        ttl = self._ttl
        if ttl is None:
            return None
        try:
            return self._reconciler.resource.campaign.timing(ttl)
        except ConfigurationError as error:
            return self._timing_instead(ttl, error)

    def listen(self) -> None:
        """Observe changes of the bucket."""
        if self._end_of_listening is None:
            self._end_of_listening = self._bucket.listen(self.apply)

    def stop(self) -> None:
        """End the campaign, and forget what is known about the bucket."""
        self._driver.end()
        self._settings.forget()
        self.invalid = None
        if self._end_of_listening is not None:
            self._end_of_listening()
            self._end_of_listening = None

    def apply(self) -> None:
        """Bring the campaign in line with spec, bucket and permission."""
        if self._permission.barred is not None:
            # The next pass gives up in order; the pass under way may do nothing more.
            self._schedule.interrupt()
            self._schedule.wake()
            return
        if self._end_of_listening is None:
            return  # a timer was still on its way
        # 1. Observe the settings, also while the election may not campaign.
        info, now = self._bucket.settings, clock.now()
        recreated = self._settings.observe(info, now)
        if self._permission.problem is not None:
            # 2. Without permission there is no campaign, and no pass goes on.
            self._driver.end()
            self._schedule.interrupt()
        elif info is not None:
            # 3. Judge the configuration.
            timing, invalid = self._judge(info, now)
            if invalid is not None and invalid != self.invalid:
                self._log.warning("election.invalid", problem=invalid.message)
            self.invalid, self._kept = invalid, timing
            # 4. Forget what another bucket held.
            if recreated:
                self._log.warning("bucket.recreated", bucket=info.name)
                if not _is_in(info, self._driver.lease, now):
                    self._driver.forget()
            # 5. Begin the campaign, or go on with other durations.
            if timing is not None and self._driver.campaign is None:
                self._log.info("election.configured", bucket=info.name, ttl=timing.ttl)
                self._driver.begin(timing)
            elif timing is not None:
                self._driver.adjust(allowing_for(timing, self._reconciler.took))
        self._schedule.wake()

    def heed_slow_patches(self) -> None:
        """Move the deadline so that a strip at it ends before the TTL."""
        campaign = self._driver.campaign
        if campaign is not None and not self._reconciler.resource.observed:
            timing = allowing_for(campaign.timing, self._reconciler.took)
            if abs(timing.margin - campaign.timing.margin) > NOTICED:
                self._log.info("deadline.moved", patch=round(self._reconciler.took, 1))
                self._driver.adjust(timing)

    @property
    def _ttl(self) -> float | None:
        """The TTL of the bucket as last known, perhaps by an earlier process; None: not known."""
        if self.info is not None:
            return self.info.ttl
        shown = (self._status_writer.status.get("bucket") or {}).get("ttlSeconds")
        return None if shown is None else float(shown)

    def _judge(self, info: BucketInfo, now: float) -> tuple[Timing | None, Problem | None]:
        """Return the durations of the campaign, if there can be one, and what is wrong with it."""
        resource = self._reconciler.resource
        if reason := unfit_reason(info) or untaken_reason(info, resource.record_key):
            return None, Problem("BucketInvalid", reason)
        invalid = None
        try:
            timing = resource.campaign.timing(info.ttl)
        except ConfigurationError as error:
            invalid, instead = problem_from(error), self._timing_instead(info.ttl, error)
            if instead is None:
                return None, invalid
            timing = instead
            goes_on = f"the election goes on with an interval of {timing.interval:g} s until then"
            invalid = replace(invalid, message=f"{invalid.message}; {goes_on}")
        if (left := self._settings.unsettled_for(now)) > 0:
            asyncio.get_running_loop().call_later(left, self.apply)
            return timing, Problem("BucketInvalid", unsettled_reason(info))
        return timing, invalid

    def _timing_instead(self, ttl: float, error: ConfigurationError) -> Timing | None:
        """Return the durations for an election whose spec asks for impossible ones.

        A wrong spec changes no leader: the durations from before still count. A process that has
        just started does not know them, and takes the default interval. The result is None if
        nobody leads, or if the bucket's TTL is the cause: then no election begins.
        """
        kept = self._kept
        if not isinstance(error, CampaignInvalid) or (kept is not None and kept.ttl != ttl):
            return None
        if kept is not None or "leader" not in self._status_writer.status:
            return kept
        asked = self._reconciler.resource.campaign
        return CampaignSpec(asked.profile, promotion=asked.promotion, backoff=asked.backoff).timing(
            ttl
        )


def _is_in(info: BucketInfo, lease: Lease | None, now: float) -> bool:
    """Whether our record is in a bucket for certain: it was written after its creation."""
    created = datetime.fromisoformat(info.created).timestamp()
    return lease is not None and lease.sent_at > now - (info.server_time - created)
