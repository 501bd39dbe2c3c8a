"""What configures a campaign: the spec of its election and the settings of its bucket. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from incumbent.campaign.records import BucketInfo, Profile, Promotion
from incumbent.campaign.timing import MAXIMUM_TTL, Backoff, Timing, timing_for


@dataclass(frozen=True, slots=True)
class CampaignSpec:
    """The campaign settings of an election. None means the default of the profile."""

    profile: Profile = Profile.PROMPT
    interval: float | None = None
    """Seconds between renewals."""
    splay: float | None = None
    """Longest random delay of the first campaign, in seconds."""
    promotion: Promotion | None = None
    backoff: Backoff | None = None

    def timing(self, ttl: float) -> Timing:
        """Return the durations in a bucket with this TTL, in seconds.

        Raises:
            CampaignInvalid: the interval or the splay breaks a limit.
            ConfigurationError: the TTL breaks a limit.
        """
        return timing_for(
            ttl,
            profile=self.profile,
            interval=self.interval,
            splay=self.splay,
            promotion=self.promotion,
            backoff=self.backoff,
        )


class BucketSettings:
    """The settings of a bucket as last seen, and what their changes mean for a campaign."""

    def __init__(self) -> None:
        self.info: BucketInfo | None = None
        """None: not seen yet."""
        self._settled_at = 0.0

    def observe(self, info: BucketInfo | None, now: float) -> bool:
        """Record the present settings; return whether they belong to another bucket than before."""
        before, self.info = self.info, info
        if info is None or before is None:
            return False
        if info.ttl < before.ttl <= MAXIMUM_TTL:
            # A member elsewhere may still count on the old TTL. Nobody can count on a TTL above
            # the maximum.
            self._settled_at = now + before.ttl
        return before.created != info.created

    def forget(self) -> None:
        """Forget the settings, because the bucket is not watched any more."""
        self.info = None

    def unsettled_for(self, now: float) -> float:
        """Return for how many more seconds nobody may campaign because the TTL was lowered."""
        return max(0.0, self._settled_at - now)


def unfit_reason(info: BucketInfo) -> str:
    """Return why a bucket cannot hold any election; empty if it can."""
    if info.mirror:
        return f"bucket {info.name} is a mirror or an aggregate, which cannot hold an election"
    return f"bucket {info.name} cannot hold an election: {info.unfit}" if info.unfit else ""


def untaken_reason(info: BucketInfo, key: str) -> str:
    """Return why the stream of a bucket cannot store records of a key; empty if it can."""
    if info.takes(key):
        return ""
    return (
        f"the stream of bucket {info.name} does not take key {key}: its subjects are"
        f" {', '.join(info.subjects)}; add $KV.{info.name}.>"
    )


def unsettled_reason(info: BucketInfo) -> str:
    """Return the message that explains why nobody campaigns in a bucket whose TTL was lowered."""
    return (
        f"the TTL of bucket {info.name} was lowered to {info.ttl:g} s:"
        " no campaign until the old one has passed"
    )
