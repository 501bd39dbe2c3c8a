"""Who may be answered: the limits of the HTTP server, kept before a request is looked at.

A connection carries one request, which is a head without a body, and is closed behind the answer.
So it can hold nothing but its own place, and each kind of place is counted.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from incumbent import clock
from incumbent.ratelimit import RateLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the server for its clients. A request beyond them gets a 503, or is closed."""

    connections: int = 200
    """Requests that are answered at a time, streams among them; probes do not count."""

    per_address: int = 64
    """The same from one address: a single pod cannot take all places."""

    streams: int = 100
    """Event streams at a time."""

    histories: int = 8
    """Histories of more than `LONG` terms that are read or sent at a time."""

    probes: int = 64
    """Probes that are answered at a time; they have places of their own."""

    heads: int = 128
    """Connections without a complete request. Of more, the oldest is closed after `grace`, or if
    there are `most_heads`: a client that means it sends its request at once."""

    most_heads: int = 512
    """Connections without a complete request, also of those that have just been accepted. The event
    loop accepts all that wait, `BACKLOG` at most, before it reads from any; so it is twice that."""

    grace: float = 0.5
    """The time for which the server closes no new connection to make room for others."""

    head_bytes: int = 8192
    """The longest request."""

    head_seconds: float = 5.0
    """The time for a request to arrive."""

    rate: float = 50.0
    """Requests per second from one address, probes aside."""

    burst: int = 100
    """Requests that may come at once, after a time without any."""

    stall_seconds: float = 10.0
    """The time in which a reader has to take `PIECE` bytes."""

    answer_seconds: float = 30.0
    """The time for a whole answer that is not a stream."""


LONG = 100
"""Terms of a history that are about `PIECE` bytes."""

PIECE = 1 << 16
"""Bytes that are handed to the transport at a time."""

MOST_ADDRESSES = 1024
"""Addresses whose rate is remembered."""

_PROBE = re.compile(rb"(?:GET|HEAD) /(?:livez|readyz)(?:\?[^ ]*)? HTTP/1\.[01]\r?\n")
_BODY = re.compile(
    rb"\n(?:content-length[ \t]*:(?![ \t]*0[ \t]*\r?\n)|transfer-encoding)", re.IGNORECASE
)
_END = re.compile(rb"\r?\n\r?\n")

PROBES = "probes"
"""Under what the places of probes are counted."""

REFUSED_WITHIN = 1.0
"""Seconds that a refused client has to take the refusal."""

BUSY = "The operator answers as many requests as it may; ask again in a moment."
RETRY_AFTER = 2
"""Seconds after which a refused client is told to ask again."""


def refusal(status: str, sentence: str) -> bytes:
    """Return an answer for which nothing but this has to be done."""
    text = json.dumps({"error": sentence}).encode()
    retry = f"Retry-After: {RETRY_AFTER}\r\n" if status.startswith(("503", "429")) else ""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n{retry}"
        f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + text


_BUSY = refusal("503 Service Unavailable", BUSY)
_TOO_LONG = refusal("431 Request Header Fields Too Large", "The request is too long.")
_NO_BODY = refusal("413 Content Too Large", "Requests here have no body.")


class Gate:
    """Counts the places of one server, whatever ports it has.

    Args:
        limits: of the places.
        open_: makes the protocol that answers a request that was let in.
    """

    def __init__(self, limits: Limits, open_: Callable[[], asyncio.Protocol]) -> None:
        self.limits = limits
        self.open = open_
        self.rates = RateLimit(burst=limits.burst, rate=limits.rate, most=MOST_ADDRESSES)
        self.heads: OrderedDict[Entrance, float] = OrderedDict()
        """Connections without a complete request, the oldest first, and since when."""
        self.inside: Counter[str] = Counter()
        """Places taken, by address; probes have `PROBES`."""
        self.everybody: set[Entrance] = set()

    def __call__(self) -> Entrance:
        """Make the protocol of a new connection."""
        return Entrance(self)

    @property
    def taken(self) -> int:
        """How many places are taken, without those of probes."""
        return self.inside.total() - self.inside[PROBES]

    def make_room(self) -> None:
        """Close connections without a request if there are too many."""
        while len(self.heads) >= self.limits.heads:
            oldest, since = next(iter(self.heads.items()))
            crowded = len(self.heads) >= self.limits.most_heads
            if not crowded and clock.now() < since + self.limits.grace:
                return
            del self.heads[oldest]
            oldest.abort()

    def admit(self, address: str, *, probe: bool) -> str | None:
        """Take a place; return under what it is counted, None if there is none."""
        if probe:
            if self.inside[PROBES] >= self.limits.probes:
                return None
            self.inside[PROBES] += 1
            return PROBES
        if (
            self.taken >= self.limits.connections
            or self.inside[address] >= self.limits.per_address
            or not self.rates.take(address, clock.now())
        ):
            return None
        self.inside[address] += 1
        return address

    def leave(self, place: str) -> None:
        """Give a place back."""
        self.inside[place] -= 1
        if not self.inside[place]:
            del self.inside[place]

    def close(self) -> None:
        """Close every connection at once."""
        for entrance in tuple(self.everybody):
            entrance.abort()


class Entrance(asyncio.Protocol):
    """One connection: reads a request, and hands it to who answers it if there is a place."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._transport: asyncio.Transport | None = None
        self._address = ""
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None
        self._inner: asyncio.Protocol | None = None
        self._place: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the request, and let the oldest one go that did not send any."""
        self._transport = cast("asyncio.Transport", transport)  # that of uvloop is no subclass
        peer = self._transport.get_extra_info("peername")
        self._address = peer[0] if peer else ""
        gate = self._gate
        gate.everybody.add(self)
        gate.make_room()
        gate.heads[self] = clock.now()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(gate.limits.head_seconds, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take a part of the request; what comes behind it counts for nothing."""
        if self._inner is not None or self._transport is None or self._transport.is_closing():
            return
        end = _END.search(self._head + data, max(0, len(self._head) - 3))
        self._head += data
        if end is None:
            if len(self._head) > self._gate.limits.head_bytes:
                self._refuse(_TOO_LONG)
            return
        head, self._head = self._head[: end.end()], b""
        if len(head) > self._gate.limits.head_bytes:
            self._refuse(_TOO_LONG)
        elif _BODY.search(head):
            self._refuse(_NO_BODY)
        else:
            self._enter(head)

    def _enter(self, head: bytes) -> None:
        self._place = self._gate.admit(self._address, probe=bool(_PROBE.match(head)))
        if self._place is None:
            self._refuse(_BUSY)
            return
        self._wait_no_more()
        assert self._transport is not None  # noqa: S101  # it delivered the request
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._gate.limits.answer_seconds, self.abort)
        self._inner = self._gate.open()
        self._inner.connection_made(self._transport)
        self._inner.data_received(head)

    def stay(self) -> None:
        """Let the answer take any time: it is a stream."""
        self._wait_no_more()

    def _refuse(self, answer: bytes) -> None:
        self._wait_no_more()
        if self._transport is not None:
            # The server does not wait for the kernel to take the rest.
            self._transport.write(answer)
            self._transport.close()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(REFUSED_WITHIN, self.abort)

    def _wait_no_more(self) -> None:
        self._gate.heads.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abort(self) -> None:
        """Close the connection at once, even in the middle of an answer."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool | None:
        """Pass on that the client sends nothing any more."""
        return self._inner.eof_received() if self._inner is not None else None

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on that the client reads again."""
        if self._inner is not None:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._wait_no_more()
        self._gate.everybody.discard(self)
        if self._place is not None:
            self._gate.leave(self._place)
            self._place = None
        inner, self._inner = self._inner, None
        if inner is not None:
            inner.connection_lost(exc)
        self._transport = None
