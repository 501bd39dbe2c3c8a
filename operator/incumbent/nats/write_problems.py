"""The keys of a bucket whose writes are not stored, and the reasons."""

from __future__ import annotations

from datetime import timedelta

import structlog

from incumbent import clock
from incumbent.errors import BucketDenied, BucketInvalid, BucketSilent
from incumbent.nats.subscribers import Subscribers

Problem = BucketDenied | BucketInvalid | BucketSilent

log = structlog.get_logger(__name__)


class WriteProblems:
    """Remembers the keys of one bucket whose writes are not stored.

    Args:
        bucket: the name of the bucket.
        subscribers: the subscribers of the bucket. The listeners are told of each change.
    """

    def __init__(self, bucket: str, subscribers: Subscribers) -> None:
        self.denied: dict[str, Problem] = {}
        """The keys whose writes are not stored since NATS is connected, each with the reason. A
        later write may succeed."""
        self._answered_at: dict[str, float] = {}
        """When a write of a watched key was last answered, or first tried, since NATS is
        connected."""
        self._bucket = bucket
        self._subscribers = subscribers

    def began(self, key: str) -> None:
        """Record that a write is about to be sent."""
        if self._subscribers.watches(key):
            self._answered_at.setdefault(key, clock.now())

    def refused(self, key: str, problem: BucketDenied | BucketInvalid) -> None:
        """Record that the server refuses writes of a key."""
        self._change(key, problem)

    def permitted(self, key: str) -> None:
        """Record an answer that is not a refusal. It ends every problem except silence."""
        if not isinstance(self.denied.get(key), BucketSilent):
            self._change(key, None)

    def stored(self, key: str) -> None:
        """Record that a write was stored, or refused only because of the expected revision."""
        self._change(key, None)
        if self._subscribers.watches(key):
            self._answered_at[key] = clock.now()

    def unanswered(self, key: str, why: str, *, ttl: float | None) -> None:
        """Record a write that got no answer, or an answer that does not tell its outcome.

        After a TTL without a better answer the key has a problem.

        Args:
            key: the key that was written.
            why: why there is no better answer.
            ttl: the bucket's TTL in seconds; None if it is not known.
        """
        silence = clock.now() - self._answered_at.get(key, clock.now())
        known = isinstance(self.denied.get(key), BucketSilent)
        if ttl is None or silence < ttl or known:
            return
        since = (clock.today() - timedelta(seconds=silence)).strftime("%Y-%m-%dT%H:%M:%SZ")
        msg = (
            f"NATS has stored no write of key {key} in bucket {self._bucket} since {since} ({why}):"
            " look at the disk and the log of its servers"
        )
        self._change(key, BucketSilent(msg))

    def forget(self, key: str) -> None:
        """Forget a key, because nobody watches it any more."""
        self.denied.pop(key, None)
        self._answered_at.pop(key, None)

    def clear(self) -> None:
        """Forget all keys, because the connection was lost. The next server may store writes."""
        self.denied.clear()
        self._answered_at.clear()

    def _change(self, key: str, problem: Problem | None) -> None:
        """Set or remove the problem of a key, and notify the listeners if it has changed."""
        if str(problem or "") == str(self.denied.get(key, "")):
            return
        if not self._subscribers.watches(key):
            # Commands write without watching, so nothing else would remove their problems.
            for other in self.denied.keys() - set(self._subscribers.keys) - {key}:
                del self.denied[other]
        if problem is None:
            del self.denied[key]
        else:
            self.denied[key] = problem
            log.warning("bucket.denied", bucket=self._bucket, problem=str(problem))
        self._subscribers.notify()
