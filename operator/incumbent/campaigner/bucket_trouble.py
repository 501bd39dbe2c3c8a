"""The problem of a bucket, as one election shows it. Pure."""

from __future__ import annotations

from incumbent.campaign.configuration import unfit_reason
from incumbent.campaign.machine import NEVER
from incumbent.campaign.ports import WatchedBucket
from incumbent.campaign.records import BucketInfo
from incumbent.errors import (
    BucketDenied,
    BucketError,
    BucketInvalid,
    BucketNotFound,
    BucketSilent,
    BucketUnreachable,
)
from incumbent.status.situation import Problem, problem_from


class BucketTrouble:
    """The problem of a bucket as people see it. A short outage and a new wording change nothing.

    Otherwise each attempt to connect to one of several servers would change every status.
    """

    def __init__(self) -> None:
        self._since = NEVER
        self._kind: type[BucketError] | None = None
        self._told: Problem | None = None
        self._wordings: set[str] = set()

    def observe(self, error: BucketError | None, now: float, *, patience: float) -> Problem | None:
        """Observe the present error, and return the error for the status.

        Args:
            error: the present error; None: there is no error.
            now: the time.
            patience: seconds for which NATS may be away before the status says so.
        """
        kind = None if error is None else type(error)
        if kind is not self._kind:
            self._kind, self._told = kind, None
            self._since = NEVER if error is None else now
            self._wordings.clear()
        if error is None:
            return None
        if isinstance(error, BucketUnreachable) and now < self._since + patience:
            return None
        if str(error) not in self._wordings:
            self._wordings.add(str(error))
            self._told = problem_from(error)
        return self._told

    def missing_for(self, now: float) -> float:
        """Return for how many seconds there was no bucket, as last observed; -1 if there is one."""
        return now - self._since if self._kind is BucketNotFound else -1.0


def error_of(bucket: WatchedBucket, key: str) -> BucketError | None:
    """Return what is wrong with a bucket for one key at this moment."""
    return bucket.problem or bucket.denied.get(key)


def trouble_for_a_person(bucket: WatchedBucket, key: str, info: BucketInfo | None) -> str:
    """Return why a bucket is of no use until a person acts; empty if it is of use."""
    if info is not None and (unfit := unfit_reason(info)):
        return unfit
    error = error_of(bucket, key)
    return str(error) if isinstance(error, BucketDenied | BucketInvalid | BucketSilent) else ""
