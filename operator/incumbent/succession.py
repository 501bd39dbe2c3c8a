"""Who held a key before, and from when on nobody of them can act any more.

That depends on how the key became vacant and on who held it, and only the watch can tell: a read
does not show what lay between it and the one before. What is not known counts as the worst case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from incumbent.model import Cause, Entry, Marker, Nothing, Record
from incumbent.timing import Timing


@dataclass(frozen=True, slots=True)
class _Holder:
    record: Record | None
    """None: somebody, it is not known who."""
    renewed_at: float


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
        """The latest that the watch showed."""

    def held(self, record: Record, at: float) -> None:
        """Take in a record, and when it was stored."""
        self._holder = _Holder(record, at)

    def watched(self, entry: Entry, at: float, *, live: bool) -> None:
        """Take in what the watch shows, in its order; `live`: with nothing left out before it."""
        if isinstance(entry, Record):
            self.held(entry, at)
        elif isinstance(entry, Nothing):
            # The first answer of a new watch. The record may be gone for long, or the server lag.
            if self._holder is not None:
                self._holder = _Holder(None, at)
        elif live and self._holder is None and self._vacancy is not None:
            # A marker after a marker: a second deletion, or the expiry of the first marker.
            self._vacancy = replace(self._vacancy, revision=entry.revision)
        else:
            last = self._holder if live else None
            self._vacancy = _Vacancy(entry.revision, entry.cause, at, last or _Holder(None, at))
            self._holder = None

    def forget(self, now: float) -> None:
        """Take in that all records are gone at once, which their holders may not know yet."""
        if self._holder is not None or self._vacancy is not None:
            self._vacancy = _Vacancy(0, Cause.EVICTED, now, _Holder(None, now))
        self._holder = None

    def settled_at(self, latest: Entry, at: float, timing: Timing) -> float:
        """Return when nobody who held the key before can act any more, if it is vacant now.

        Args:
            latest: the latest entry; a record is presumed to expire, for then the server need not
                say anything.
            at: when that was stored.
            timing: the durations.
        """
        vacancy = self._vacancy
        if isinstance(latest, Record):
            vacancy = _Vacancy(0, Cause.EXPIRED, at + timing.ttl, _Holder(latest, at))
        elif isinstance(latest, Marker):
            if vacancy is None or vacancy.revision != latest.revision:  # known from a read only
                vacancy = _Vacancy(latest.revision, latest.cause, at, _Holder(None, at))
        elif self._holder is not None:  # without markers the watch shows no expiry
            vacancy = _Vacancy(0, Cause.EXPIRED, at, self._holder)
        return -math.inf if vacancy is None else self._settled(vacancy, timing)

    def _settled(self, vacancy: _Vacancy, timing: Timing) -> float:
        """Apply the rules.

        Members with a deadline have stopped a TTL after their last renewal, whether they heard of
        the vacancy or not. So have those before them if the last record was not promoted: their
        last renewals are older than it. A stranger learns of the vacancy at its next tick.
        """
        at, record = vacancy.at, vacancy.last.record
        if vacancy.cause is Cause.RELEASED:
            return at
        if record is not None and record.promoted and self._ours(record):
            return at
        expired = vacancy.cause is Cause.EXPIRED
        settled_at = at if expired else vacancy.last.renewed_at + timing.ttl
        if record is None or record.stranger:
            settled_at = max(settled_at, at + timing.stranger_after)
        return settled_at
