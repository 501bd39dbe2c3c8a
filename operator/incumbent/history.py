"""The terms of an election: what is seen of its key, what is written down of it, and what it means.

Pure. An election's history is a list of *entries*, each a small JSON object: one for the beginning
of a term, and one for its end unless the next term's beginning says that. Every replica of every
site sees the same records, and each of them may write; `missing` is how they write once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from incumbent.model import Entry as Latest
from incumbent.model import Marker, Nothing, Record
from incumbent.names import shown
from incumbent.ports import Sighting

ELECTED = "Elected"
"""A term that began on a vacant key."""
HANDED_OVER = "HandedOver"
"""A term that began with one write over another pod's record of the same site."""
OVERTAKEN = "Overtaken"
"""A term that began over a live record of somebody else, as `nats kv put` does."""
BEGINNINGS = (ELECTED, HANDED_OVER, OVERTAKEN)

LOST = "lost"
"""The cause of an end that nobody saw."""
CAUSES = ("released", "evicted", "expired", "handed over", "overtaken", LOST)
"""How a term can end; the first three are those of `incumbent.model.Cause`."""

LAPSED = 0.9
"""Of a TTL: its own site writes no longer over a record that is so old (see `Timing.lease`)."""

_BY_SUCCESSOR = {HANDED_OVER: "handed over", OVERTAKEN: "overtaken"}


@dataclass(frozen=True, slots=True)
class Began:
    """A term began."""

    token: int
    """Its first revision; of a stranger's, the first that was seen with this holder."""
    holder: str
    at: float
    """On the clock of `incumbent.clock` when it was seen, in seconds since 1970 when stored."""
    bucket: str
    """When the bucket was created: in another one tokens count anew."""
    site: str = ""
    how: str = ""
    """One of `BEGINNINGS`; empty if that was not seen."""
    exact: bool = True
    """Whether the term began at that time; else it did before."""
    stranger: bool = False
    writer: str = ""
    """The replica that wrote this down."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A term ended, and none followed at once."""

    revision: int
    """Every term with a lower token had ended by then."""
    cause: str
    at: float
    bucket: str
    token: int = 0
    """Of the term; 0 before `missing` has found out."""
    exact: bool = True
    writer: str = ""


Entry = Began | Ended


@dataclass(frozen=True, slots=True)
class Term:
    """One reign of one holder; times are seconds since 1970."""

    token: int
    holder: str
    site: str
    began: float
    how: str
    exact: bool
    ended: float | None = None
    """None while it lasts, and if its end was not seen."""
    cause: str = ""
    """One of `CAUSES`; empty while it lasts."""
    stranger: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as it is served."""
        return {
            "token": None if self.stranger else self.token,
            "holder": self.holder,
            "site": self.site or None,
            "from": _text(self.began),
            "to": None if self.ended is None else _text(self.ended),
            "cause": self.cause or None,
            "how": self.how or None,
            "exact": self.exact,
        }


class Tracker:
    """Turns what a watch shows of one key into entries. Not every one of them is news to others."""

    def __init__(self) -> None:
        self.latest: Latest | None = None
        """What was seen last; None before the first sighting."""
        self._at = 0.0
        self._bucket = ""

    def observe(self, sighting: Sighting, now: float, *, bucket: str, ttl: float) -> list[Entry]:
        """Return what a sighting says about terms, oldest first.

        Args:
            sighting: in the order in which the watch shows them.
            now: the time, by `incumbent.clock`.
            bucket: when the bucket was created.
            ttl: of the bucket, in seconds.
        """
        if bucket != self._bucket:
            self._bucket, self.latest = bucket, None
        at, found = now - sighting.age, sighting.entry
        before, before_at = self.latest, self._at
        self.latest, self._at = found, at
        match found:
            case Record():
                if isinstance(before, Record) and _same_term(before, found):
                    return []
                news: list[Entry] = []
                how = ""
                if sighting.live and before is not None:
                    lapsed = isinstance(before, Record) and at >= before_at + LAPSED * ttl
                    how = ELECTED if lapsed else _beginning(before, found)
                    if lapsed:  # without markers nothing else tells
                        end = min(at, before_at + ttl)
                        news.append(Ended(found.revision, "expired", end, bucket))
                exact = found.revision == found.term and (sighting.live or not found.stranger)
                site, holder = shown(found.site_name), shown(found.holder)
                begun = Began(found.term, holder, at, bucket, site, how, exact=exact)
                return [*news, replace(begun, stranger=found.stranger)]
            case Marker(revision, cause):
                if before == found or (isinstance(before, Marker) and sighting.live):
                    return []
                return [Ended(revision, cause.value, at, bucket)]
            case Nothing() if isinstance(before, Record):
                end = min(at, before_at + ttl)
                return [Ended(before.revision + 1, "expired", end, bucket, exact=False)]
        return []


def missing(entry: Entry, known: Iterable[Entry]) -> Entry | None:
    """Return what is to be written down of an entry: nothing if all of it is known already."""
    known = [other for other in known if other.bucket == entry.bucket]
    limit = entry.token if isinstance(entry, Began) else entry.revision
    begun = [other for other in known if isinstance(other, Began) and other.token <= limit]
    ended = {other.token for other in known if isinstance(other, Ended)}
    last = max(begun, key=lambda other: other.token, default=None)
    if isinstance(entry, Ended):
        open_ = last is not None and last.token not in ended
        return replace(entry, token=last.token) if last is not None and open_ else None
    if any((other.token, other.holder) == (entry.token, entry.holder) for other in begun):
        return None
    # Who saw only a later record of a stranger takes that for the first one.
    goes_on = last is not None and last.stranger and last.token not in ended
    if entry.stranger and goes_on and last is not None and last.holder == entry.holder:
        return None
    return entry


def known_by(entry: Entry, last: Entry | None) -> bool:
    """Whether the last entry that was written says the same, so that no other has to be read."""
    if isinstance(entry, Began) and isinstance(last, Began):
        return (entry.bucket, entry.token, entry.holder) == (last.bucket, last.token, last.holder)
    if isinstance(entry, Ended) and isinstance(last, Ended):
        return (entry.bucket, entry.revision) == (last.bucket, last.revision)
    return False


def cause_before(entry: Entry) -> str:
    """Return why the term ended that an entry is the end of; empty if it is not one."""
    return entry.cause if isinstance(entry, Ended) else _BY_SUCCESSOR.get(entry.how, "")


def terms(entries: Iterable[Entry], *, latest: Latest | None = None) -> list[Term]:
    """Return the terms that the entries describe, newest first.

    They may come in any order: who was cut off may have written late. The end of a term whose
    beginning is not kept any more is left out.

    Args:
        entries: all of one key.
        latest: what the key holds now, as far as known: on a vacant key no term lasts.
    """
    entries = list(entries)
    ends = {(e.bucket, e.token): e for e in entries if isinstance(e, Ended)}
    begun = sorted(
        (e for e in entries if isinstance(e, Began)), key=lambda e: (e.bucket, e.token, e.at)
    )
    found = []
    for position, began in enumerate(begun):
        successor = begun[position + 1] if position + 1 < len(begun) else None
        ended, cause = None, ""
        if end := ends.get((began.bucket, began.token)):
            ended, cause = end.at, end.cause
        elif successor is not None:
            cause = _BY_SUCCESSOR.get(successor.how, LOST)
            ended = successor.at if cause != LOST else None
        elif latest is not None and not isinstance(latest, Record):
            cause = LOST
        term = Term(began.token, began.holder, began.site, began.at, began.how, began.exact)
        found.append(replace(term, ended=ended, cause=cause, stranger=began.stranger))
    return found[::-1]


def encode(entry: Entry, *, writer: str, ahead: float) -> bytes:
    """Return an entry as it is stored.

    Args:
        entry: with a time on the clock of this process.
        writer: the replica.
        ahead: what makes that the server's time, in seconds since 1970.
    """
    common = {"at": _text(entry.at + ahead), "bucketCreated": entry.bucket, "writer": writer}
    fields: dict[str, Any] = {"token": entry.token}
    if isinstance(entry, Began):
        fields = {"kind": "began", **fields, "holder": entry.holder}
        fields |= {"site": entry.site} if entry.site else {}
        fields |= {"how": entry.how} if entry.how else {}
        fields |= {"stranger": True} if entry.stranger else {}
    else:
        fields = {"kind": "ended", **fields, "cause": entry.cause, "revision": entry.revision}
    fields |= {} if entry.exact else {"approximate": True}
    return json.dumps({**fields, **common}, separators=(",", ":")).encode()


def decode(data: bytes) -> Entry | None:
    """Return a stored entry; None for what is none, as others may write to the stream, too."""
    try:
        fields = json.loads(data)
        return _entry(fields) if isinstance(fields, Mapping) else None
    except (ValueError, KeyError, TypeError):
        return None


def _entry(fields: Mapping[str, Any]) -> Entry | None:
    at = datetime.fromisoformat(fields["at"]).timestamp()
    token, bucket = int(fields["token"]), str(fields["bucketCreated"])
    exact, writer = not fields.get("approximate"), str(fields.get("writer", ""))
    if fields["kind"] == "began":
        holder, site = str(fields["holder"]), str(fields.get("site", ""))
        began = Began(token, holder, at, bucket, site, str(fields.get("how", "")), exact, False)  # noqa: FBT003
        return replace(began, stranger=bool(fields.get("stranger")), writer=writer)
    if fields["kind"] == "ended":
        revision, cause = int(fields["revision"]), str(fields["cause"])
        return Ended(revision, cause, at, bucket, token, exact, writer)
    return None


def stored(entries: Iterable[Entry], ahead: float) -> list[Entry]:
    """Return entries with the times that they would have when stored."""
    return [replace(entry, at=entry.at + ahead) for entry in entries]


def _same_term(one: Record, other: Record) -> bool:
    """Whether a record renews another. A stranger has no terms, so there its holder decides."""
    if one.stranger or other.stranger:
        return one.stranger and other.stranger and one.holder == other.holder
    return (one.term, one.holder) == (other.term, other.holder)


def _beginning(before: Latest, record: Record) -> str:
    """Return how a record began a term, when there was nothing in between."""
    if not isinstance(before, Record) or before.holder == record.holder:
        return ELECTED
    same_site = bool(record.site) and before.site == record.site
    return HANDED_OVER if same_site else OVERTAKEN


def _text(seconds: float) -> str:
    shown = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return shown.replace("+00:00", "Z")
