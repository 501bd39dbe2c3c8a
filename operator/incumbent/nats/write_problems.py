"""Which writes of a bucket are not stored, and why."""

from __future__ import annotations

from datetime import timedelta

import structlog

from incumbent import clock
from incumbent.errors import BucketDenied, BucketInvalid, BucketSilent
from incumbent.nats.subscribers import Subscribers

Problem = BucketDenied | BucketInvalid | BucketSilent

log = structlog.get_logger(__name__)


class WriteProblems:
    """The keys of one bucket of which no write was stored, as far as was tried.

    Args:
        bucket: its name.
        subscribers: of the bucket; those that listen are told of each change.
    """

    def __init__(self, bucket: str, subscribers: Subscribers) -> None:
        self.denied: dict[str, Problem] = {}
        """Keys of which no write was stored since NATS is connected; a later one may succeed."""
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
        """Record an answer that is no refusal, which ends every problem but silence."""
        if not isinstance(self.denied.get(key), BucketSilent):
            self._change(key, None)

    def stored(self, key: str) -> None:
        """Record that a write was stored, or refused only because of the expected revision."""
        self._change(key, None)
        if self._subscribers.watches(key):
            self._answered_at[key] = clock.now()

    def unanswered(self, key: str, why: str, *, ttl: float | None) -> None:
        """Record a write that was not answered as a write should be.

        After a TTL without a good answer this is a problem of the key.

        Args:
            key: that was written.
            why: there is no good answer.
            ttl: of the bucket, in seconds; None if it is not known.
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
        """Drop what is known of a key, because nobody watches it any more."""
        self.denied.pop(key, None)
        self._answered_at.pop(key, None)

    def clear(self) -> None:
        """Drop everything, because the connection was lost: the next server may store writes."""
        self.denied.clear()
        self._answered_at.clear()

    def _change(self, key: str, problem: Problem | None) -> None:
        """Set or remove the problem of a key, and notify those that listen if that is news."""
        if str(problem or "") == str(self.denied.get(key, "")):
            return
        if not self._subscribers.watches(key):
            # A command looks at once, and nobody else would forget it.
            for other in self.denied.keys() - set(self._subscribers.keys) - {key}:
                del self.denied[other]
        if problem is None:
            del self.denied[key]
        else:
            self.denied[key] = problem
            log.warning("bucket.denied", bucket=self._bucket, problem=str(problem))
        self._subscribers.notify()
