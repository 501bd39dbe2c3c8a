"""What a campaign needs from a bucket, in its own words.

`incumbent.nats` is the adapter; tests have a fake that passes the same contract suite.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from incumbent.campaign.records import BucketInfo, Entry
from incumbent.errors import BucketDenied, BucketError, BucketInvalid, BucketSilent


class Outcome(enum.Enum):
    """The three ways in which a conditional write can end."""

    STORED = "stored"
    REFUSED = "refused"
    """Not stored: the last revision was not the expected one, or nothing was sent at all."""
    UNKNOWN = "unknown"
    """No answer, or one that does not tell; the write may have been or may yet be stored."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one write ended; `revision` counts only if it was stored."""

    outcome: Outcome
    revision: int = 0
    reason: str = ""
    """For people, when it was not stored."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An entry as a watch or a read showed it."""

    entry: Entry
    age: float = 0.0
    """Seconds since it was stored, by the server's clock."""
    live: bool = False
    """Whether a watch showed it as it happened, with nothing on the key left out before it."""
    unseen_for: float = field(default=math.inf, compare=False)
    """For how many seconds something on the key may have been stored that was not shown; 0 if
    nothing was, infinity if that is not known. What is `live` has nothing missing before it."""
    stored_at: float = field(default=0.0, compare=False)
    """When it was stored by the server's clock, in seconds since 1970; 0 if there is nothing."""


class Bucket(Protocol):
    """A key-value bucket with conditional writes.

    No method retries. Every method may raise a `BucketError` but `write` and `remove`, whose
    outcome is a value: an error would lose the difference between refused and unknown.
    """

    name: str

    async def info(self) -> BucketInfo:
        """Ask the server for the bucket's settings."""
        ...

    async def write(
        self, key: str, value: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put `value` if the last revision of the key is `expected` (0: no message at all)."""
        ...

    async def remove(
        self, key: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Put a delete marker if the last revision of the key is `expected`."""
        ...

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Read the latest entry of the key from the stream's leader."""
        ...

    def watch(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Call `seen` for the latest entry of the key and for every later one, in order.

        After a reconnect the latest entry is shown again, `Nothing` if there is none. Returns a
        function that ends the watch. `seen` must not block.
        """
        ...


class WatchedBucket(Bucket, Protocol):
    """A bucket that also tells when something about it changes."""

    @property
    def problem(self) -> BucketError | None:
        """Why it cannot be used now; None while it can."""
        ...

    @property
    def settings(self) -> BucketInfo | None:
        """What the server said last; None before the first answer."""
        ...

    @property
    def server_ahead(self) -> float | None:
        """How many seconds the server's clock is ahead of `incumbent.clock`.

        The server's clock counts from 1970, and nobody knows from when ours counts. None before the
        first answer.
        """
        ...

    @property
    def denied(self) -> Mapping[str, BucketDenied | BucketInvalid | BucketSilent]:
        """Keys of which no write was stored, as far as was tried, and why.

        We may not write them, there is no room, or for a whole TTL there was no answer.
        """
        ...

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when `problem`, `settings` or `denied` change; returns how to end that."""
        ...


class Observer(Protocol):
    """Who is told how long things took, in seconds."""

    def bucket_write(self, outcome: Outcome, seconds: float) -> None:
        """A write of the bucket was answered, or given up."""
        ...

    def label_write(self, seconds: float) -> None:
        """A leader label was written, or taken away, confirmed by the API server."""
        ...

    def slice_write(self, seconds: float) -> None:
        """An EndpointSlice was led to another pod, or to nobody, confirmed by the API server."""
        ...

    def handover(self, seconds: float) -> None:
        """A pod took over from a pod of the same site: from the reason to the new label."""
        ...

    def failover(self, seconds: float) -> None:
        """A pod took over a vacant key: from the vacancy to the new label."""
        ...
