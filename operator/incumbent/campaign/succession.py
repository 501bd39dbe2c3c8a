"""Who held a key before, and when none of them can act any more.

A new holder must not act while an earlier one may still believe that it leads. What the earlier
one believes depends on who it is and on how the key became vacant:

* A member that keeps a deadline stops a TTL after its last renewal, whether it heard of the
  vacancy or not. The renewal was stored before we first saw it, so a TTL after that first sight on
  our own clock is late enough. The moment at which the server removed the record proves nothing:
  the servers of a bucket stamp and remove by their own clocks, and another one may lead by then.
* A stranger has no deadline. It learns of the vacancy at its next tick.
* A release is sent after its holder has stopped, and vouches for everybody before it.

Whether the last holder is known depends on what the watch left out. A vacancy tells about the
record that we saw last only if nothing was stored between the two. There are two proofs of that:

* *No revision is missing.* A stream numbers its messages without gaps, so a message that was
  stored in between would have taken a number.
* *An expired record was stored a TTL before it expired.* Let the watch have shown everything that
  was stored before F, and let x be the moment at which the record expired. Any message stored after
  F would have expired a TTL after F, at the earliest. If x is earlier, then the record that expired
  was stored before F, so we saw it. What was left out after F was on other keys. A tenth of the TTL
  is kept in reserve (`Timing.lease`), for clocks that run at different rates or differ.

The second proof is worth nothing after a deletion: a record may have been created and deleted
within the gap, and its holder acts until its deadline. What neither proves counts as the worst
case: somebody unknown held the key.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Cause, Entry, Marker, Nothing, Record
from incumbent.campaign.timing import Timing


class Awaited(enum.Enum):
    """Whom or what a new holder waits for."""

    NOBODY = "nobody"
    MEMBER = "member"
    """A member that keeps a deadline and may not know yet that it lost its record."""
    STRANGER = "stranger"
    """A member without a deadline, which learns at its next tick that it lost its record."""
    UNKNOWN = "unknown"
    """Somebody whose record we may not have seen."""
    EARLIER = "earlier"
    """Those for whom the writer of a record had to wait; who that is, it does not say."""
    CAMPAIGN = "campaign"
    """The next stored write, as the promotion `NextCampaign` asks for."""
    OTHERS = "others"
    """Other members, which get their chance first because our record was deleted."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """When nothing stands in the way of a new holder any more, and what does until then."""

    at: float
    """-inf if nobody ever held the key, as far as is known."""
    awaited: Awaited = Awaited.NOBODY
    holder: str = ""
    """The identity in the record of a `MEMBER` or `STRANGER`."""


@dataclass(frozen=True, slots=True)
class _Holder:
    record: Record | None
    """None: somebody, it is not known who."""
    renewed_by: float
    """No member that keeps a deadline renewed the key later than this, as long as it is held."""


@dataclass(frozen=True, slots=True)
class _Vacancy:
    revision: int
    cause: Cause
    at: float
    last: _Holder


class Succession:
    """What one member knows about those who held the key before.

    Args:
        ours: tells whether a record was written by this member or its site.
    """

    def __init__(self, ours: Callable[[Record], bool]) -> None:
        self._ours = ours
        self._holder: _Holder | None = None
        """Of the latest record; None while the key is vacant."""
        self._vacancy: _Vacancy | None = None
        """The latest that was shown with what came before it."""

    def held(self, record: Record, now: float) -> None:
        """Observe a record. Its first sight counts, however often it is shown."""
        if self._holder is None or self._holder.record != record:
            self._holder = _Holder(record, now)

    def watched(self, sighting: Sighting, now: float, timing: Timing) -> None:
        """Observe what the watch shows, in its order."""
        entry, whole = sighting.entry, _nothing_is_missing(sighting, timing)
        if isinstance(entry, Record):
            at = now - min(max(sighting.age, 0.0), timing.ttl)
            self._follows(entry, at, now, whole=whole)
        elif isinstance(entry, Nothing):
            # The first answer of a new watch. The record may be gone for long, or the server lag.
            if self._holder is not None and not whole:
                self._holder = _Holder(None, now)
        elif not self._knows(entry):
            self._vacated(entry, _vacant_at(sighting, now, timing), now, whole=whole)

    def looked(self, sighting: Sighting, now: float, timing: Timing) -> None:
        """Observe what a read shows; the watch may show later what came before it."""
        entry = sighting.entry
        if not isinstance(entry, Marker) or self._knows(entry):
            return
        if _nothing_is_missing(sighting, timing):
            self._vacated(entry, _vacant_at(sighting, now, timing), now, whole=True)

    def forget(self, now: float) -> None:
        """Forget all records: they are gone at once, which their holders may not know yet."""
        if self._holder is not None or self._vacancy is not None:
            self._vacancy = _Vacancy(0, Cause.EVICTED, now, _Holder(None, now))
        self._holder = None

    def settled(self, latest: Entry, at: float, seen_at: float, timing: Timing) -> Settlement:
        """Return when nobody who held the key before can act any more, if it is vacant now.

        Args:
            latest: the latest entry; a record is presumed to expire, for then the server need not
                say anything.
            at: when that was stored, by what the server says of its age.
            seen_at: when it was first seen.
            timing: the durations.
        """
        vacancy = self._vacancy
        if isinstance(latest, Record):
            vacancy = _Vacancy(0, Cause.EXPIRED, at + timing.ttl, _Holder(latest, seen_at))
        elif isinstance(latest, Marker):
            if vacancy is None or vacancy.revision != latest.revision:  # known from a read only
                vacant_at = at if latest.cause is Cause.EXPIRED else seen_at
                unknown = _Holder(None, seen_at)
                vacancy = _Vacancy(latest.revision, latest.cause, vacant_at, unknown)
        elif self._holder is not None:  # without markers the watch shows no expiry
            vacancy = _Vacancy(0, Cause.EXPIRED, at, self._holder)
        return Settlement(-math.inf) if vacancy is None else self._settlement(vacancy, timing)

    def _follows(self, record: Record, at: float, now: float, *, whole: bool) -> None:
        """Observe a record that the watch shows."""
        before = self._holder or (self._vacancy.last if self._vacancy is not None else None)
        self.held(record, now)
        if record.stranger and whole and before is not None and before is not self._holder:
            # A stranger keeps no deadline; what counts is who renewed before it.
            self._holder = _Holder(record, max(before.renewed_by, at))

    def _knows(self, marker: Marker) -> bool:
        """Whether a marker is shown again, or after something newer."""
        if self._holder is not None and self._holder.record is not None:
            return marker.revision < self._holder.record.revision
        return self._vacancy is not None and marker.revision <= self._vacancy.revision

    def _vacated(self, marker: Marker, at: float, now: float, *, whole: bool) -> None:
        if whole and self._holder is None and self._vacancy is not None:
            # A marker after a marker: a second deletion, or the expiry of the first marker.
            self._vacancy = replace(self._vacancy, revision=marker.revision)
            return
        last = self._holder if whole else None
        self._vacancy = _Vacancy(marker.revision, marker.cause, at, last or _Holder(None, now))
        self._holder = None

    def _settlement(self, vacancy: _Vacancy, timing: Timing) -> Settlement:
        """Apply the rules; the table in docs/architecture.md, "Who acted before", has them, too."""
        at, record = vacancy.at, vacancy.last.record
        if vacancy.cause is Cause.RELEASED:
            return Settlement(at)
        if record is None:
            settled_at = at + timing.stranger_after
            if vacancy.cause is Cause.EVICTED:
                settled_at = max(settled_at, at + timing.ttl)
            return Settlement(settled_at, Awaited.UNKNOWN)
        if record.promoted and self._ours(record):
            return Settlement(at)
        # Also late enough for those before it, whose last renewals are older.
        settled_at = vacancy.last.renewed_by + timing.ttl
        if not record.promoted:
            return Settlement(settled_at, Awaited.EARLIER)  # its own holder never acted
        if not record.stranger:
            return Settlement(settled_at, Awaited.MEMBER, record.holder)
        settled_at = max(settled_at, at + timing.stranger_after)
        return Settlement(settled_at, Awaited.STRANGER, record.holder)


def _nothing_is_missing(sighting: Sighting, timing: Timing) -> bool:
    """Whether nothing was stored on the key between what was shown last and this."""
    if sighting.live or sighting.unseen_for <= 0:
        return True
    entry = sighting.entry
    expired = isinstance(entry, Nothing) or (
        isinstance(entry, Marker) and entry.cause is Cause.EXPIRED
    )
    return expired and sighting.unseen_for - sighting.age < timing.lease


def _vacant_at(sighting: Sighting, now: float, timing: Timing) -> float:
    """Return when a key became vacant, or later.

    A server's word for the age of a marker is taken only if we did not see it happen, and only
    after an expiry: then no member that keeps a deadline can act any more. Without it an operator
    that starts some time after an expiry would wait for as long as one that saw it.
    """
    entry = sighting.entry
    expired = isinstance(entry, Marker) and entry.cause is Cause.EXPIRED
    age = sighting.age if expired and not sighting.live else 0.0
    return now - min(max(age, 0.0), timing.ttl)
