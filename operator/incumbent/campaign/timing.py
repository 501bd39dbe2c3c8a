"""The durations of an election: pure arithmetic over the bucket's TTL.

This chain of times makes the algorithm safe. A member counts all of them on its own clock::

    0 ── interval ──────────── deadline = TTL − margin ── TTL
    │    a renewal is due;      the leader has stepped    the server may give
    │    retried until …        down, whatever happens    the key to somebody else
    send time of the last stored write
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from incumbent.campaign.records import Profile, Promotion
from incumbent.errors import CampaignInvalid, ConfigurationError

MINIMUM_TTL = 1.0
MAXIMUM_TTL = 3600.0
MINIMUM_INTERVAL = 1.0
MINIMUM_SLACK = 1.0
"""Seconds that must be left between the interval and the TTL. The four limits are Choria's."""

MINIMUM_SCOPE = 0.5
"""Seconds that must be left between the interval and the deadline, for two attempts at a renewal.
All defaults leave more time."""

LEAST_SCOPE = 0.25
"""Reserve that an early deadline must leave: this share of an interval after the renewal is due,
and this share of a patch after the time that the patch of a label takes."""

LONGEST_WRITE = 2.0
"""Seconds after which a write counts as unanswered at the latest."""

STAND_DOWN = 0.2
"""Seconds that Choria gives the previous leader after its successor's second campaign."""

MAXIMUM_SPLAY = 5.0
"""Seconds over which Choria spreads the first campaigns of its members."""

FAST_TRIES = 8
"""Attempts at a vacancy before a member returns to one attempt per interval.

The server removes an expired record up to 0.4 s late, and up to 2 s late if the removal is
replicated (nats-server: the expiry timer fires every 0.25 s at most, and every 2 s while a
replicated removal is pending). Eight tries cover 1.2 to 2.3 s.
"""

TOGETHER = 0.02
"""Distance between the moments at which renewals are sent, as a share of the interval."""

Backoff = Callable[[int], float]
"""Returns the seconds until the next try from the number of tries that did not succeed."""

_MOST_GROWTH = 100
"""Number of tries after which an `ExponentialBackoff` stops growing. With any noticeable factor it
has reached its maximum long before, and the power still fits into a float."""


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """A pause that a factor multiplies with each try, up to a maximum."""

    initial: float
    factor: float
    maximum: float

    def __call__(self, tries: int) -> float:
        """Return the seconds until the next try, after this number of tries (1 for the first)."""
        return min(self.maximum, self.initial * self.factor ** min(tries - 1, _MOST_GROWTH))


@dataclass(frozen=True, slots=True)
class Timing:
    """The durations of one election, in seconds. Made by `timing_for`, which checks them."""

    profile: Profile
    ttl: float
    interval: float
    """Time between renewals."""
    margin: float
    """Time between our deadline and the moment when the server may remove the record."""
    splay: float = 0.0
    """Longest random delay of the first campaign."""
    promotion: Promotion = Promotion.AUTO
    backoff: Backoff | None = None

    @property
    def write_timeout(self) -> float:
        """How long to wait for an answer: two tries fit between a due renewal and the deadline."""
        return min(LONGEST_WRITE, self._scope / 2)

    @property
    def relay_after(self) -> float:
        """How long a standby sees no renewal before it renews the record itself.

        The steward has time to retry before that. The standby has time to retry between that and
        the deadline.
        """
        return max(self.ttl / 2, self.interval + self._scope / 3)

    @property
    def stranger_after(self) -> float:
        """How long after a vacancy a Choria member may still believe that it leads.

        Such a member has no deadline. It learns of its loss at its next tick, after 0.75 TTL at
        most. TTL/3 would be too early: at a TTL of 6 s, an evicted Choria leader was measured to
        continue for 4 s.
        """
        return 0.75 * self.ttl + STAND_DOWN

    @property
    def lease(self) -> float:
        """How long a stored write counts for its writer, from the moment before it was sent."""
        return self.ttl - self.margin

    @property
    def _scope(self) -> float:
        return self.lease - self.interval

    def renewal_after(self, sent_at: float) -> float:
        """Return when to renew a record that was sent at `sent_at`: after an interval, or sooner.

        It is sooner by up to the share `TOGETHER` of the interval, at one of the moments that all
        elections with this interval share. Then one packet carries many renewals, which costs both
        ends less than one packet for each.
        """
        due = sent_at + self.interval
        if self.profile is not Profile.PROMPT:
            return due
        step = self.interval * TOGETHER
        return max(math.floor(due / step) * step, due - step)

    def pause(self, tries: int, jitter: float) -> float:
        """Return the time from one attempt to the next.

        Args:
            tries: attempts at the present vacancy until now; 0 for a member that holds the record.
            jitter: a random number in [0, 1).
        """
        prompt = self.profile is Profile.PROMPT
        if prompt and tries < FAST_TRIES:
            return retry_pause(tries, jitter)
        if self.backoff is not None and tries:
            return max(MINIMUM_INTERVAL, self.backoff(tries - FAST_TRIES + 1 if prompt else tries))
        return self.interval * (1 + jitter / 10) if prompt else self.interval


def allowing_for(timing: Timing, patch: float) -> Timing:
    """Return a timing that leaves time for a slow strip between the deadline and the TTL.

    Half of the usual margin covers clocks and a process that is late. The other half covers the
    strip, which removes the label. A slower strip makes the margin wider. The margin stays as
    usual if a wider one would leave too little time for a renewal, or too little time to write a
    label before the deadline.

    Args:
        timing: as `timing_for` returns it.
        patch: seconds that the API server takes to patch a pod.
    """
    usual = _margin(timing.ttl)
    margin = max(usual, usual / 2 + patch)
    lease = timing.ttl - margin
    fits = lease >= timing.interval * (1 + LEAST_SCOPE) and lease >= patch * (1 + LEAST_SCOPE)
    return replace(timing, margin=margin if fits else usual)


def retry_pause(tries: int, jitter: float) -> float:
    """Return a pause that grows from 100 to 500 ms, shortened at random by up to a half."""
    return min(0.5, 0.1 + 0.057 * tries) * (1 - jitter / 2)


def timing_for(
    ttl: float,
    *,
    profile: Profile = Profile.PROMPT,
    interval: float | None = None,
    splay: float | None = None,
    promotion: Promotion | None = None,
    backoff: Backoff | None = None,
) -> Timing:
    """Derive the durations from the bucket's TTL.

    Args:
        ttl: the bucket's TTL in seconds.
        profile: the profile, which gives the defaults of the other arguments.
        interval: seconds between renewals; None: the profile's default.
        splay: longest random delay of the first campaign in seconds; None: the profile's default.
        promotion: when a new holder may act; None: the profile's default.
        backoff: the pauses between tries at a vacancy; None: the interval. In the Prompt profile
            this applies from the eighth try on.

    Raises:
        CampaignInvalid: the requested interval or splay breaks a limit.
        ConfigurationError: the TTL breaks a limit. The message says in one sentence which limit.
    """
    if ttl == 0:
        msg = "bucket TTL must be at least 1 second, this bucket has none"
        raise ConfigurationError(msg)
    if not ttl >= MINIMUM_TTL:
        msg = f"bucket TTL must be at least 1 second, it is {_seconds(ttl)}"
        raise ConfigurationError(msg)
    if ttl > MAXIMUM_TTL:
        msg = f"bucket TTL must be at most 1 hour, it is {_seconds(ttl)}"
        raise ConfigurationError(msg)
    broken = ConfigurationError if interval is None else CampaignInvalid
    if interval is None:
        interval = max(MINIMUM_INTERVAL, ttl / 3) if profile is Profile.PROMPT else 0.75 * ttl
    if not interval >= MINIMUM_INTERVAL:
        msg = (
            f"campaign interval must be at least 1 second, it is {_seconds(interval)}"
            f" with a bucket TTL of {_seconds(ttl)}"
        )
        raise broken(msg)
    lease = ttl - _margin(ttl)
    longest = min(ttl - MINIMUM_SLACK, lease - MINIMUM_SCOPE)
    if interval > longest:
        msg = (
            f"campaign interval of {_seconds(interval)} is too close to the bucket TTL of"
            f" {_seconds(ttl)}: it must end {_seconds(MINIMUM_SLACK)} before the TTL and"
            f" {_seconds(MINIMUM_SCOPE)} before the leader's deadline at {_seconds(lease)}, so it"
            f" may be {_seconds(longest)} at most"
        )
        raise broken(msg)
    if splay is None:
        splay = MAXIMUM_SPLAY if profile is Profile.CHORIA else 0.0
    if not 0 <= splay < math.inf:
        msg = f"campaign splay must be 0 seconds or more, it is {_seconds(splay)}"
        raise CampaignInvalid(msg)
    if promotion is None:
        promotion = Promotion.NEXT_CAMPAIGN if profile is Profile.CHORIA else Promotion.AUTO
    return Timing(profile, ttl, interval, _margin(ttl), splay, promotion, backoff)


def _margin(ttl: float) -> float:
    return max(0.25, 0.1 * ttl)


def _seconds(value: float) -> str:
    return f"{value:g} s"
