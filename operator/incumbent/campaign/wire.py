"""The format on the wire: the value and the headers of a message in the bucket.

The value is only the identity in UTF-8, so `choria election info` and `nats kv get` show it.
Everything else is in headers, which strangers neither send nor need.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from incumbent.campaign.records import Cause, Entry, Marker, Record

TERM = "Incumbent-Term"
"""The revision that began the term; absent in the write that begins the term."""
REPLICA = "Incumbent-Replica"
"""The process that wrote the record: its name and a nonce, because host names collide."""
SITE = "Incumbent-Site"
"""The site's name and the full UID of its cluster, or of the election if that is not known."""
POD_UID = "Incumbent-Pod-UID"
PROMOTED = "Incumbent-Promoted"
"""Present if the holder may act; absent while an earlier holder may still believe that it leads."""
RELEASE = "Incumbent-Release"
"""Present on the delete marker of a holder that gave the record up by itself, when nobody who held
the key before can act any more. A deletion without this header is an eviction."""
LEAVING = "Incumbent-Leaving"
"""Present on the last renewal of a replica that is about to end."""
SENT_AT = "Incumbent-Sent-At"
"""When the record was sent, in seconds on the writer's own clock. The writer recognises by it which
of its writes was stored."""

WAIT = "Incumbent-Wait"
"""How many seconds after the sending the holder may act; absent if the record is promoted."""

OPERATION = "KV-Operation"
MARKER_REASON = "Nats-Marker-Reason"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"

_DIGITS = 20
"""Number of digits of the largest revision, an unsigned integer of 64 bits."""


def entry_from(value: bytes, headers: Mapping[str, str], revision: int) -> Entry:
    """Decode a message. Never fails: what is neither a marker nor ours is a stranger's record."""
    if MARKER_REASON in headers:
        expired = headers[MARKER_REASON] == "MaxAge"
        return Marker(revision, Cause.EXPIRED if expired else Cause.EVICTED)
    if headers.get(OPERATION) in {"DEL", "PURGE"}:
        return Marker(revision, Cause.RELEASED if RELEASE in headers else Cause.EVICTED)
    holder = value.decode(errors="replace")
    replica = headers.get(REPLICA, "")
    if not replica:
        return Record(revision, holder, term=revision)
    return Record(
        revision,
        holder,
        term=_term(headers.get(TERM, ""), revision),
        replica=replica,
        site=headers.get(SITE, ""),
        pod_uid=headers.get(POD_UID, ""),
        promoted=PROMOTED in headers,
        leaving=LEAVING in headers,
        sent_at=_seconds(headers.get(SENT_AT, "")),
        wait=max(0.0, _seconds(headers.get(WAIT, ""))),
    )


def headers_of(record: Record) -> dict[str, str]:
    """Encode everything but the identity of a record that has no revision yet.

    `entry_from` decodes it. A term of 0 means that this write begins a term.
    """
    headers = {REPLICA: record.replica}
    if record.term:
        headers[TERM] = str(record.term)
    if record.site:
        headers[SITE] = record.site
    if record.pod_uid:
        headers[POD_UID] = record.pod_uid
    if record.promoted:
        headers[PROMOTED] = "true"
    if record.leaving:
        headers[LEAVING] = "true"
    if record.sent_at:
        headers[SENT_AT] = repr(record.sent_at)
    if record.wait:
        headers[WAIT] = repr(record.wait)
    return headers


def release_headers(replica: str, *, promoted: bool = True) -> dict[str, str]:
    """Return the headers of the delete marker with which a holder gives up its record.

    A record that was not promoted says that an earlier holder may still act. Giving the record up
    does not change that, so its marker does not count as a release.
    """
    headers = {OPERATION: "DEL", REPLICA: replica}
    return headers | {RELEASE: "true"} if promoted else headers


def _term(value: str, revision: int) -> int:
    """Return the term in a header; `revision` if the header is invalid, 0 or above `revision`."""
    plain = value.isascii() and value.isdecimal() and len(value) <= _DIGITS
    term = int(value) if plain else 0
    return term if 0 < term <= revision else revision


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0
