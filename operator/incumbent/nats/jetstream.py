"""The JSON API of JetStream: its requests and its answers.

A bucket is the stream `KV_<bucket>` over the subjects `$KV.<bucket>.<key>` (ADR-8 of NATS).
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome
from incumbent.campaign.records import BucketInfo, Entry, Peer
from incumbent.errors import BucketError, BucketInvalid, BucketNotFound, BucketUnreachable

_WRONG_LAST_SEQUENCE = 10071
_NO_ROOM = frozenset({10002, 10023, 10028, 10047, 10054, 10077})
"""Errors for a limit that is reached: of an account, of a server's memory or disk, or of a bucket's
bytes in total or in one message."""
_STREAM_NOT_FOUND = 10059
_NO_MESSAGE = 10037
_MAX_BYTES_REQUIRED = 10113
NEARLY_FULL = 1.25
"""A bucket is nearly full if its limit is less than this number times its present size."""
_NO_JETSTREAM = frozenset({10039, 10076})
_DOMAIN_TOKENS = 11
"""An acknowledgement's subject with this number of tokens or more contains domain and account."""

DEFAULT_MAX_BYTES = 64 * 1024 * 1024
"""The limit of a new bucket if the account requires one and the user gave none. It has room for
35,000 records of the longest kind, and is small enough that a small account can reserve it three
times."""

Json = Mapping[str, Any]


class NoMessage(BucketError):
    """There is no message on the subject."""


class MaxBytesRequired(BucketInvalid):
    """The account accepts a stream only with a limit of its bytes."""


class Delivery(NamedTuple):
    """The facts about a delivered message in its reply subject."""

    revision: int
    number: int
    """The number of the message among all messages of the consumer, from 1."""
    stored_at: float
    """When the message was stored, by the server's clock in seconds since 1970."""
    pending: int
    """How many messages remained to be delivered after this one."""


def api_of(domain: str | None) -> str:
    """Return the prefix of JetStream's API subjects in a domain; None: the server's own domain."""
    return f"$JS.{domain}.API" if domain else "$JS.API"


def delivery_from(reply: str) -> Delivery:
    """Decode `$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<tries>.<…the four above>`."""
    tokens = reply.split(".")
    first = 7 if len(tokens) >= _DOMAIN_TOKENS else 5
    revision, number, stored_at, pending = map(int, tokens[first : first + 4])
    return Delivery(revision, number, stored_at / 1e9, pending)


def consumer_request(bucket: str, inbox: str, heartbeat: float) -> Json:
    """Return the request for a consumer that delivers each key's latest entry, then each change."""
    return {
        "stream_name": f"KV_{bucket}",
        "config": {
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "filter_subject": f"$KV.{bucket}.>",
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "idle_heartbeat": int(heartbeat * 1e9),
            # The server removes the consumer this long after our subscription is gone.
            "inactive_threshold": int(5e9),
        },
    }


def clock_request(bucket: str) -> Json:
    """Return the request for a consumer that nobody reads; the answer tells the server's time.

    NATS puts a consumer without replicas onto a random server among those that hold the stream, and
    that server answers (nats-server `createGroupForConsumer`). The consumer is gone after a second.
    """
    return {
        "stream_name": f"KV_{bucket}",
        "config": {
            "deliver_policy": "new",
            "filter_subject": f"$KV.{bucket}.>",
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(1e9),
        },
    }


def clock_from(answer: Json) -> tuple[str, float]:
    """Return the name of the server that answered (empty without a cluster), and its time."""
    name = (answer.get("cluster") or {}).get("leader", "")
    return name, timestamp(answer["ts"]) if "ts" in answer else time.time()


def stream_request(bucket: str, *, ttl: float, replicas: int, max_bytes: int | None = None) -> Json:
    """Return the request for a bucket with markers and history 1.

    A marker lives at least 1 s, and the window for duplicates may not exceed the age (ADR-43,
    nats-server's `checkStreamCfg`).
    """
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "max_msgs_per_subject": 1,
        "max_bytes": -1 if max_bytes is None else max_bytes,
        "max_age": int(ttl * 1e9),
        "duplicate_window": int(min(ttl, 120) * 1e9),
        "subject_delete_marker_ttl": int(max(1.0, ttl) * 1e9),
        "allow_msg_ttl": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "retention": "limits",
    }


def error_from(answer: Json, bucket: str) -> BucketError | None:
    """Return the error in an answer, in words for a person; None if there is no error."""
    error = answer.get("error")
    if error is None:
        return None
    code, said = error.get("err_code"), error.get("description", "unknown error")
    if code == _STREAM_NOT_FOUND:
        return BucketNotFound(
            f"there is no bucket {bucket}: correct its name, or create it as docs/nats.md says"
        )
    if code == _NO_MESSAGE:
        return NoMessage(said)
    if code == _MAX_BYTES_REQUIRED:
        return MaxBytesRequired(f"JetStream refuses what was asked of bucket {bucket}: {said}")
    if code in _NO_JETSTREAM:
        return BucketUnreachable(
            f"JetStream is not enabled for this account on the NATS server: {said}"
        )
    if error.get("code") in {503, 504}:
        return BucketUnreachable(f"JetStream cannot answer now: {said}")
    return BucketInvalid(f"JetStream refuses what was asked of bucket {bucket}: {said}")


def answer_from(answer: Json) -> Answer:
    """Return how a conditional write ended."""
    error = answer.get("error")
    if error is None and isinstance(answer.get("seq"), int):
        return Answer(Outcome.STORED, answer["seq"])
    error = error or {"description": "an acknowledgement without a sequence"}
    refused = error.get("err_code") == _WRONG_LAST_SEQUENCE
    # One of the other errors is 10164: another message on the subject, perhaps ours, is in flight.
    outcome = Outcome.REFUSED if refused else Outcome.UNKNOWN
    return Answer(outcome, reason=error.get("description", "unknown error"))


def refusal_from(name: str, answer: Json) -> BucketInvalid | None:
    """Return why a bucket cannot store a record, if the cause will last; else None."""
    error = answer.get("error") or {}
    if error.get("err_code") not in _NO_ROOM:
        return None
    what = error.get("description", "unknown error")
    return BucketInvalid(f"bucket {name} does not take a record: {what}; raise that limit")


def info_from(name: str, answer: Json) -> BucketInfo:
    """Decode the answer of STREAM.INFO."""
    config = answer["config"]
    return BucketInfo(
        name=name,
        ttl=config.get("max_age", 0) / 1e9,
        history=config.get("max_msgs_per_subject", 1),
        replicas=config.get("num_replicas", 1),
        created=answer["created"],
        markers=bool(config.get("subject_delete_marker_ttl")),
        mirror=bool(config.get("mirror") or config.get("sources")),
        clustered=bool((answer.get("cluster") or {}).get("name")),
        server_time=timestamp(answer["ts"]) if "ts" in answer else time.time(),
        unfit=_unfit(config),
        risks=tuple(_risks(config, answer.get("state") or {})),
        subjects=tuple(config.get("subjects") or ()),
    )


def _unfit(config: Json) -> str:
    """Return which setting prevents a stream from holding records, and what to do; "" for none.

    Other code reports a mirror and a wrong TTL.
    """
    retention = config.get("retention", "limits")
    if config.get("sealed"):
        return "it is sealed, so it takes no record: delete it, and make a new one"
    if retention != "limits":
        return f"it removes records that were read (retention {retention}): make it anew"
    if config.get("no_ack"):
        return "it acknowledges no write: set no_ack to false"
    if config.get("discard_new_per_subject"):
        return "it refuses every renewal: set discard_new_per_subject to false"
    if config.get("subject_transform"):
        return "it stores records under other subjects: remove subject_transform"
    if config.get("allow_msg_counter"):
        return "it counts instead of storing records: make it anew without allow_msg_counter"
    return ""


def _risks(config: Json, state: Json) -> Iterator[str]:
    limited = config.get("max_msgs", -1) > 0 or config.get("max_bytes", -1) > 0
    if limited and config.get("discard", "old") == "old":
        yield "when it is full it drops records of leaders: set discard to new"
    elif 0 < config.get("max_bytes", -1) < state.get("bytes", 0) * NEARLY_FULL:
        yield "it is nearly full, and may take no records when it is: raise its max_bytes"
    if config.get("persist_mode") == "async":
        yield "it acknowledges writes before they are stored: set persist_mode to default"


def peers_from(answer: Json) -> list[Peer]:
    """Return the servers that hold the stream, the leader first; empty without a cluster."""
    cluster = answer.get("cluster") or {}
    peers = [
        Peer(
            peer["name"],
            current=peer.get("current", False),
            offline=peer.get("offline", False),
            lag=peer.get("lag", 0),
        )
        for peer in cluster.get("replicas") or ()
    ]
    if cluster.get("leader"):
        peers.insert(0, Peer(cluster["leader"], leader=True))
    return peers


def entry_from(message: Json) -> tuple[Entry, float]:
    """Decode the answer of STREAM.MSG.GET: the entry, and when the server stored it."""
    headers = dict(_header_lines(_decode64(message.get("hdrs"))))
    entry = wire.entry_from(_decode64(message.get("data")), headers, message["seq"])
    return entry, timestamp(message["time"])


def data_from(message: Json) -> bytes:
    """Return the data of the message in an answer of STREAM.MSG.GET."""
    return _decode64(message.get("data"))


def timestamp(text: str) -> float:
    """Convert an RFC 3339 time with up to nine decimals to seconds since 1970."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


def _decode64(text: str | None) -> bytes:
    return base64.b64decode(text) if text else b""


def _header_lines(block: bytes) -> Iterator[tuple[str, str]]:
    for line in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            yield name.strip(), value.strip()
