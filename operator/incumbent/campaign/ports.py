"""The interface that a campaign needs from a bucket.

`incumbent.nats` implements it. The tests have a fake that passes the contract suite, too.
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
    """The write was not stored: the last revision was not the expected one, or nothing was sent."""
    UNKNOWN = "unknown"
    """There was no answer, or none that tells. The write may be stored, now or later."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of one write; `revision` is valid only if the write was stored."""

    outcome: Outcome
    revision: int = 0
    reason: str = ""
    """Why the write was not stored, in words for a person."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """An entry as a watch or a read showed it."""

    entry: Entry
    age: float = 0.0
    """Seconds since the entry was stored, by the server's clock."""
    live: bool = False
    """Whether a watch showed the entry as it was stored, and left out nothing on the key before."""
    unseen_for: float = field(default=math.inf, compare=False)
    """Length in seconds of the time before this sighting in which an entry may have been stored on
    the key without being shown. 0: no entry is missing; infinity: not known. Does not matter if
    `live` is true, because then no entry is missing."""
    stored_at: float = field(default=0.0, compare=False)
    """When the entry was stored, by the server's clock in seconds since 1970; 0 for `Nothing`."""


class Bucket(Protocol):
    """A key-value bucket with conditional writes.

    No method retries. Every method may raise a `BucketError`, except `write` and `remove`. These
    return an outcome, because an error would not tell a refused write from an unknown result.
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
    """A bucket that also notifies its user of changes of its settings and problems."""

    @property
    def problem(self) -> BucketError | None:
        """Why the bucket cannot be used now; None while it can be used."""
        ...

    @property
    def settings(self) -> BucketInfo | None:
        """The settings in the server's last answer; None before the first answer."""
        ...

    @property
    def server_ahead(self) -> float | None:
        """How many seconds the server's clock is ahead of `incumbent.clock`.

        The server's clock counts from 1970; the start of `incumbent.clock` is arbitrary. None
        before the first answer.
        """
        ...

    @property
    def denied(self) -> Mapping[str, BucketDenied | BucketInvalid | BucketSilent]:
        """The keys whose writes are not stored, each with the reason.

        The reasons: we may not write the key, there is no room, or no write was answered for a
        whole TTL.
        """
        ...

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` when `problem`, `settings` or `denied` change.

        Returns a function that ends this.
        """
        ...


class Observer(Protocol):
    """The interface for measurements: each method receives a duration in seconds."""

    def bucket_write(self, outcome: Outcome, seconds: float) -> None:
        """A write to the bucket was answered, or the campaign stopped waiting for the answer."""
        ...

    def label_write(self, seconds: float) -> None:
        """The API server confirmed that a leader label was set or removed."""
        ...

    def slice_write(self, seconds: float) -> None:
        """The API server confirmed that an EndpointSlice holds another pod, or no pod, now."""
        ...

    def handover(self, seconds: float) -> None:
        """A pod took over from another pod of its site: from the reason to the new label."""
        ...

    def failover(self, seconds: float) -> None:
        """A pod took over a vacant key: from the vacancy to the new label."""
        ...
