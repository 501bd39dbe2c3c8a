"""The terms of an election: what is seen of its key, what is written down of it, and what it means.

Pure. An election's history is a list of *entries*, each a small JSON object: one for the beginning
of a term, one for its end unless the next term's beginning says that, and one for each time that a
pod got or lost the leader label. Every replica of every site sees the same records, every replica
of a site sees the same labels, and each of them may write; `missing` is how they write once.

A record outlives a label: while NATS is away nobody may lead, and nobody can take the record away.
So a term says who held the key, and its labels say when a pod led.

Times of entries are seconds since 1970 by the clock of the NATS server, from the moment when an
entry is made. Times on the clock of `incumbent.clock` are called so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Entry, Marker, Nothing, Record
from incumbent.display import shown
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.versions import number_of

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
"""How a term can end; the first three are those of `incumbent.campaign.records.Cause`."""

SETTLED = 5.0
"""Seconds between two observations of two replicas after which their order is certain."""

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


@dataclass(frozen=True, slots=True)
class Labelled:
    """A pod got the leader label, or lost it."""

    token: int
    """Of the term; 0 for a stranger's term before `missing` has found out which."""
    on: bool
    """Whether the pod has the label from now on."""
    at: float
    bucket: str
    site: str
    pod: str
    """Empty: no pod of the site had the label at that time."""
    version: int = 0
    """The pod's resourceVersion by then; 0 if it is not known."""
    exact: bool = True
    """Whether it happened at that time; else it happened before."""
    writer: str = ""


HistoryEntry = Began | Ended | Labelled


@dataclass(frozen=True, slots=True)
class LabelChange:
    """A change of the leader label as this process saw it; the fields are those of `Labelled`."""

    token: int
    on: bool
    at: float
    """On the clock of `incumbent.clock`."""
    pod: str
    version: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Lead:
    """A time during which a pod had the leader label."""

    began: float
    ended: float | None
    """None while it lasts, and if nobody saw the end."""
    exact: bool
    """False if it began or ended some time before it was seen."""

    def as_json(self) -> dict[str, Any]:
        """Return it as it is served."""
        ended = None if self.ended is None else _text(self.ended)
        return {"from": _text(self.began), "to": ended, "exact": self.exact}


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
    led: tuple[Lead, ...] = ()
    """When its pod had the leader label; empty if no entry tells."""

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
            "led": [lead.as_json() for lead in self.led] or None,
        }


class Tracker:
    """Turns what a watch shows of one key into entries. Not every one of them is news to others."""

    def __init__(self) -> None:
        self.latest: Entry | None = None
        """The latest sighting; None before the first one."""
        self._at = 0.0
        self._bucket = ""

    def observe(
        self, sighting: Sighting, now: float, *, ahead: float, bucket: str, ttl: float
    ) -> list[HistoryEntry]:
        """Return what a sighting says about terms, oldest first.

        Args:
            sighting: in the order in which the watch shows them.
            now: the time, on the clock of `incumbent.clock`.
            ahead: how many seconds the server's clock is ahead of that one.
            bucket: when the bucket was created.
            ttl: of the bucket, in seconds.
        """
        if bucket != self._bucket:
            self._bucket, self.latest = bucket, None
        at, found = now - sighting.age, sighting.entry
        before, before_at = self.latest, self._at
        self.latest, self._at = found, at
        return [
            replace(entry, at=entry.at + ahead)
            for entry in self._news(sighting, at, before, before_at, ttl)
        ]

    def _news(
        self, sighting: Sighting, at: float, before: Entry | None, before_at: float, ttl: float
    ) -> list[Began | Ended]:
        """Return the same, with times on the clock of `incumbent.clock`."""
        found, bucket = sighting.entry, self._bucket
        match found:
            case Record():
                if isinstance(before, Record) and _same_term(before, found):
                    return []
                news: list[Began | Ended] = []
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


class LabelTracker:
    """Turns what is seen of the pods of an election into changes of the leader label.

    A label without a token, which somebody set by hand, makes nobody lead, so it is no change.
    """

    def __init__(self) -> None:
        self._carriers: dict[str, tuple[Pod, int]] | None = None
        """The pods that have the label, by UID, with their tokens; None before the first look."""

    def observe(
        self, pods: Iterable[Pod], tokens: Mapping[str, int], now: float
    ) -> list[LabelChange]:
        """Return what has changed since the last look; the labels that are gone come first.

        Args:
            pods: all that concern the election, as last seen.
            tokens: by the UID of each of them that has the leader label.
            now: the time, on the clock of `incumbent.clock`.
        """
        seen = {pod.uid: pod for pod in pods}
        before = self._carriers
        self._carriers = carriers = {uid: (seen[uid], token) for uid, token in tokens.items()}
        if before is None:
            found = [_got_label(pod, token, now, exact=False) for pod, token in carriers.values()]
            return found or [LabelChange(0, on=False, at=now, pod="", exact=False)]
        changes = []
        for uid, (pod, token) in before.items():
            if tokens.get(uid) != token:
                # A pod that is not known any more has changed since it was seen last.
                version = (
                    number_of(seen[uid].resource_version)
                    if uid in seen
                    else number_of(pod.resource_version) + 1
                )
                changes.append(LabelChange(token, on=False, at=now, pod=pod.name, version=version))
        for uid, (pod, token) in carriers.items():
            if uid not in before or before[uid][1] != token:
                changes.append(_got_label(pod, token, now))
        return changes


def missing(entry: HistoryEntry, known: Iterable[HistoryEntry]) -> HistoryEntry | None:
    """Return the part of an entry that is not known yet; None if all of it is known."""
    known = [other for other in known if other.bucket == entry.bucket]
    if isinstance(entry, Labelled):
        return _missing_label(entry, known)
    limit = entry.token if isinstance(entry, Began) else entry.revision
    begun = [other for other in known if isinstance(other, Began) and other.token <= limit]
    ended = {other.token for other in known if isinstance(other, Ended)}
    last = max(begun, key=lambda other: other.token, default=None)
    if isinstance(entry, Ended):
        open_ = last is not None and last.token not in ended
        return replace(entry, token=last.token) if last is not None and open_ else None
    if any((other.token, other.holder) == (entry.token, entry.holder) for other in begun):
        return None
    # A replica that saw only a later record of a stranger takes it for the first one.
    goes_on = last is not None and last.stranger and last.token not in ended
    if entry.stranger and goes_on and last is not None and last.holder == entry.holder:
        return None
    return entry


def _missing_label(entry: Labelled, known: list[HistoryEntry]) -> Labelled | None:
    """Return the unknown part of a label entry; `known` has all entries of the bucket."""
    labels = [other for other in known if isinstance(other, Labelled) and other.site == entry.site]
    lasting = {(other.token, other.pod): other for other in labels}
    lasting = {one: other for one, other in lasting.items() if other.on}
    if not entry.pod:
        # A replica that has just started: the label of whoever had it is gone since.
        early = [one for one in lasting.values() if one.at < entry.at - SETTLED]
        if not early:
            return None
        lost = max(early, key=lambda one: one.at)
        return replace(entry, token=lost.token, pod=lost.pod, version=lost.version + 1)
    token = entry.token or _stranger_token(entry, known, lasting.values())
    if not token:
        return None
    last = next((one for one in reversed(labels) if one.token == token), None)
    if last is None:
        return replace(entry, token=token) if entry.on else None
    if (last.on, last.pod) == (entry.on, entry.pod) or (last.pod != entry.pod and not entry.on):
        return None
    if 0 < entry.version <= last.version:
        return None  # seen late: others have seen more, and written it
    return replace(entry, token=token)


def _stranger_token(entry: Labelled, known: list[HistoryEntry], lasting: Iterable[Labelled]) -> int:
    """Return the token of the stranger's term in which a pod got its label, or lost it; or 0."""
    if not entry.on:
        return next((one.token for one in lasting if one.pod == entry.pod), 0)
    terms = [one for one in known if isinstance(one, Began) and one.at < entry.at + SETTLED]
    last = max(terms, key=lambda one: one.token, default=None)
    return last.token if last is not None and last.stranger else 0


def known_by(entry: HistoryEntry, last: HistoryEntry | None) -> bool:
    """Whether the last entry that was written says the same, so that no other has to be read."""
    if isinstance(entry, Labelled | Began) and isinstance(last, Labelled) and last.on:
        # The replica that wrote the label wrote the term before.
        begun = isinstance(entry, Began) or (entry.on and entry.pod == last.pod)
        return begun and (entry.bucket, entry.token) == (last.bucket, last.token)
    if isinstance(entry, Began) and isinstance(last, Began):
        return (entry.bucket, entry.token, entry.holder) == (last.bucket, last.token, last.holder)
    if isinstance(entry, Ended) and isinstance(last, Ended):
        return (entry.bucket, entry.revision) == (last.bucket, last.revision)
    return False


def cause_before(entry: HistoryEntry) -> str:
    """Return why the term ended that an entry is the end of; empty if it is not one."""
    if isinstance(entry, Labelled):
        return ""
    return entry.cause if isinstance(entry, Ended) else _BY_SUCCESSOR.get(entry.how, "")


def terms(entries: Iterable[HistoryEntry], *, latest: Entry | None = None) -> list[Term]:
    """Return the terms that the entries describe, newest first.

    They may come in any order, for a replica that was cut off may have written late; only the
    labels of one pod have to be in order. What belongs to a term whose beginning is not kept any
    more is left out. No end comes before its beginning, although a server's clock may step back.

    Args:
        entries: all of one key.
        latest: what the key holds now, as far as known: on a vacant key no term lasts.
    """
    entries = list(entries)
    ends = {(e.bucket, e.token): e for e in entries if isinstance(e, Ended)}
    begun = sorted(
        (e for e in entries if isinstance(e, Began)), key=lambda e: (e.bucket, e.token, e.at)
    )
    labels: dict[tuple[str, int], list[Labelled]] = {}
    for label in entries:
        if isinstance(label, Labelled):
            labels.setdefault((label.bucket, label.token), []).append(label)
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
        ended = None if ended is None else max(ended, began.at)
        own = labels.get((began.bucket, began.token), [])
        term = Term(began.token, began.holder, began.site, began.at, began.how, began.exact)
        term = replace(term, ended=ended, cause=cause, stranger=began.stranger)
        found.append(replace(term, led=tuple(_leads(own))))
    return found[::-1]


def _leads(labels: Iterable[Labelled]) -> Iterator[Lead]:
    """Yield the times during which the pods of one term had the label."""
    start: Labelled | None = None
    for label in labels:
        if start is not None and label.pod == start.pod and not label.on:
            yield Lead(start.at, max(start.at, label.at), exact=start.exact and label.exact)
            start = None
        elif label.on:
            if start is not None:
                yield Lead(start.at, None, exact=start.exact)
            start = label
    if start is not None:
        yield Lead(start.at, None, exact=start.exact)


def encode(entry: HistoryEntry, *, writer: str) -> bytes:
    """Return an entry as it is stored.

    Members of the previous version skip kinds and fields that they do not know.
    """
    common = {"at": _text(entry.at), "bucketCreated": entry.bucket, "writer": writer}
    fields: dict[str, Any] = {"token": entry.token}
    if isinstance(entry, Began):
        fields = {"kind": "began", **fields, "holder": entry.holder}
        fields |= {"site": entry.site} if entry.site else {}
        fields |= {"how": entry.how} if entry.how else {}
        fields |= {"stranger": True} if entry.stranger else {}
    elif isinstance(entry, Labelled):
        fields = {"kind": "labelled" if entry.on else "unlabelled", **fields, "pod": entry.pod}
        fields |= {"site": entry.site, "resourceVersion": str(entry.version)}
    else:
        fields = {"kind": "ended", **fields, "cause": entry.cause, "revision": entry.revision}
    fields |= {} if entry.exact else {"approximate": True}
    return json.dumps({**fields, **common}, separators=(",", ":")).encode()


def decode(data: bytes) -> HistoryEntry | None:
    """Return a stored entry; None if it is not an entry, because others may write to the stream."""
    try:
        fields = json.loads(data)
        return _entry(fields) if isinstance(fields, Mapping) else None
    except (ValueError, KeyError, TypeError):
        return None


def _entry(fields: Mapping[str, Any]) -> HistoryEntry | None:
    at = datetime.fromisoformat(fields["at"]).timestamp()
    token, bucket = int(fields["token"]), _word(fields["bucketCreated"])
    exact, writer = not fields.get("approximate"), _word(fields.get("writer", ""))
    if fields["kind"] == "began":
        holder, site = _word(fields["holder"]), _word(fields.get("site", ""))
        began = Began(token, holder, at, bucket, site, _word(fields.get("how", "")), exact, False)  # noqa: FBT003
        return replace(began, stranger=bool(fields.get("stranger")), writer=writer)
    if fields["kind"] == "ended":
        revision, cause = int(fields["revision"]), _word(fields["cause"])
        return Ended(revision, cause, at, bucket, token, exact, writer)
    if fields["kind"] in {"labelled", "unlabelled"}:
        on, site, pod = fields["kind"] == "labelled", _word(fields["site"]), _word(fields["pod"])
        version = int(fields.get("resourceVersion", 0))
        return Labelled(token, on, at, bucket, site, pod, version, exact, writer)
    return None


def _word(text: Any) -> str:
    """Return the one copy of a string in memory: thousands of entries share most strings."""
    return sys.intern(str(text))


def _got_label(pod: Pod, token: int, at: float, *, exact: bool = True) -> LabelChange:
    return LabelChange(
        token, on=True, at=at, pod=pod.name, version=number_of(pod.resource_version), exact=exact
    )


def _same_term(one: Record, other: Record) -> bool:
    """Whether a record renews another. A stranger has no terms, so there its holder decides."""
    if one.stranger or other.stranger:
        return one.stranger and other.stranger and one.holder == other.holder
    return (one.term, one.holder) == (other.term, other.holder)


def _beginning(before: Entry, record: Record) -> str:
    """Return how a record began a term, when there was nothing in between."""
    if not isinstance(before, Record) or before.holder == record.holder:
        return ELECTED
    same_site = bool(record.site) and before.site == record.site
    return HANDED_OVER if same_site else OVERTAKEN


def _text(seconds: float) -> str:
    shown = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return shown.replace("+00:00", "Z")
