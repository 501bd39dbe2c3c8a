"""The earlier holders of a key, and the time from which none of them can act any more.

A new holder must not act while an earlier holder may still believe that it leads. For how long that
is possible depends on the earlier holder and on how the key became vacant:

* A member that keeps a deadline stops a TTL after its last renewal, whether it heard of the
  vacancy or not. The renewal was stored before we first saw it, so a TTL after that first sight on
  our own clock is late enough. The moment at which the server removed the record proves nothing.
  The servers of a bucket stamp and remove records by their own clocks, and another server may be
  the stream's leader by then.
* A stranger has no deadline. It learns of the vacancy at its next tick.
* A holder sends a release after it has stopped. A release also proves that nobody before this
  holder can act any more.

Whether the last holder is known depends on what the watch left out. A vacancy tells about the
record that we saw last only if nothing was stored between the two. There are two proofs of that:

* *No revision is missing.* A stream numbers its messages without gaps, so a message that was
  stored in between would have taken a number.
* *An expired record was stored a TTL before it expired.* Let the watch have shown everything that
  was stored before F, and let x be the moment at which the record expired. Any message stored after
  F would have expired a TTL after F, at the earliest. If x is earlier, then the record that expired
  was stored before F, so we saw it. The messages that were left out after F were on other keys. A
  tenth of the TTL is kept in reserve (`Timing.lease`) for clocks that differ or run at different
  rates.

The second proof does not work after a deletion: a record may have been created and deleted within
the gap, and its holder acts until its deadline. Without a proof the worst case counts: somebody
unknown held the key.
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
    """The reason why a new holder waits."""

    NOBODY = "nobody"
    MEMBER = "member"
    """A member that keeps a deadline and may not know yet that it lost its record."""
    STRANGER = "stranger"
    """A member without a deadline, which learns at its next tick that it lost its record."""
    UNKNOWN = "unknown"
    """Somebody whose record we may not have seen."""
    EARLIER = "earlier"
    """Holders before a record that was not promoted. The record does not say who they are."""
    CAMPAIGN = "campaign"
    """The next stored write, because the promotion is `NextCampaign`."""
    OTHERS = "others"
    """Other members, which get their chance first because our record was deleted."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """The time from which a new holder may act, and the reason why it must wait until then."""

    at: float
    """-inf if no earlier holder of the key is known."""
    awaited: Awaited = Awaited.NOBODY
    holder: str = ""
    """The identity in the record of a `MEMBER` or `STRANGER`."""


@dataclass(frozen=True, slots=True)
class _Holder:
    record: Record | None
    """None if it is not known who holds the key."""
    renewed_by: float
    """No member that keeps a deadline has renewed the key later than this."""


@dataclass(frozen=True, slots=True)
class _Vacancy:
    revision: int
    cause: Cause
    at: float
    last: _Holder


class Succession:
    """What one member knows about the earlier holders of the key.

    Args:
        ours: returns whether this member or its site wrote a record.
    """

    def __init__(self, ours: Callable[[Record], bool]) -> None:
        self._ours = ours
        self._holder: _Holder | None = None
        """The holder of the latest record; None while the key is vacant."""
        self._vacancy: _Vacancy | None = None
        """The latest vacancy that the watch has shown, or a read after which nothing is missing."""

    def held(self, record: Record, now: float) -> None:
        """Observe a record. If it is shown again, the first time still counts."""
        if self._holder is None or self._holder.record != record:
            self._holder = _Holder(record, now)

    def watched(self, sighting: Sighting, now: float, timing: Timing) -> None:
        """Observe an entry that the watch shows. The caller keeps the order of the watch."""
        entry, whole = sighting.entry, _nothing_is_missing(sighting, timing)
        if isinstance(entry, Record):
            at = now - min(max(sighting.age, 0.0), timing.ttl)
            self._follows(entry, at, now, whole=whole)
        elif isinstance(entry, Nothing):
            # This is the first answer of a new watch. The record may have been gone for long, or
            # the server may lag behind.
            if self._holder is not None and not whole:
                self._holder = _Holder(None, now)
        elif not self._knows(entry):
            self._vacated(entry, _vacant_at(sighting, now, timing), now, whole=whole)

    def looked(self, sighting: Sighting, now: float, timing: Timing) -> None:
        """Observe an entry that a read shows. The watch may show earlier entries later."""
        entry = sighting.entry
        if not isinstance(entry, Marker) or self._knows(entry):
            return
        if _nothing_is_missing(sighting, timing):
            self._vacated(entry, _vacant_at(sighting, now, timing), now, whole=True)

    def forget(self, now: float) -> None:
        """Forget all records, because they are gone. Their holders may not know that yet."""
        if self._holder is not None or self._vacancy is not None:
            self._vacancy = _Vacancy(0, Cause.EVICTED, now, _Holder(None, now))
        self._holder = None

    def settled(self, latest: Entry, at: float, seen_at: float, timing: Timing) -> Settlement:
        """Return from when on no earlier holder can act any more, if the key is vacant now.

        Args:
            latest: the latest entry. If it is a record, it is presumed to expire, because a server
                may not report that.
            at: when the entry was stored, by the age that the server reports.
            seen_at: when the entry was first seen.
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
            # A stranger keeps no deadline, so only renewals before its record count.
            self._holder = _Holder(record, max(before.renewed_by, at))

    def _knows(self, marker: Marker) -> bool:
        """Whether a marker was shown before, or is older than an entry that was shown."""
        if self._holder is not None and self._holder.record is not None:
            return marker.revision < self._holder.record.revision
        return self._vacancy is not None and marker.revision <= self._vacancy.revision

    def _vacated(self, marker: Marker, at: float, now: float, *, whole: bool) -> None:
        if whole and self._holder is None and self._vacancy is not None:
            # This marker follows a marker: a second deletion, or the expiry of the first marker.
            self._vacancy = replace(self._vacancy, revision=marker.revision)
            return
        last = self._holder if whole else None
        self._vacancy = _Vacancy(marker.revision, marker.cause, at, last or _Holder(None, now))
        self._holder = None

    def _settlement(self, vacancy: _Vacancy, timing: Timing) -> Settlement:
        """Apply the rules. docs/architecture.md has a table of them, in "Who acted before"."""
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
        # This is also late enough for holders before the last one, whose renewals are older.
        settled_at = vacancy.last.renewed_by + timing.ttl
        if not record.promoted:
            return Settlement(settled_at, Awaited.EARLIER)  # its own holder never acted
        if not record.stranger:
            return Settlement(settled_at, Awaited.MEMBER, record.holder)
        settled_at = max(settled_at, at + timing.stranger_after)
        return Settlement(settled_at, Awaited.STRANGER, record.holder)


def _nothing_is_missing(sighting: Sighting, timing: Timing) -> bool:
    """Whether no entry of the key is missing between the last one that was shown and this one."""
    if sighting.live or sighting.unseen_for <= 0:
        return True
    entry = sighting.entry
    expired = isinstance(entry, Nothing) or (
        isinstance(entry, Marker) and entry.cause is Cause.EXPIRED
    )
    return expired and sighting.unseen_for - sighting.age < timing.lease


def _vacant_at(sighting: Sighting, now: float, timing: Timing) -> float:
    """Return when a key became vacant, or a later moment.

    The server's age of a marker is used only for an expiry that the watch did not show as it
    happened. After an expiry, no member that keeps a deadline can act any more. Without the age, an
    operator that starts some time after an expiry would wait for as long as one that saw it.
    """
    entry = sighting.entry
    expired = isinstance(entry, Marker) and entry.cause is Cause.EXPIRED
    age = sighting.age if expired and not sighting.live else 0.0
    return now - min(max(age, 0.0), timing.ttl)
