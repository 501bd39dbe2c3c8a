"""What happened in a run: plain values, from which the checker judges.

All times are seconds on the monotonic clock of the recording process.
"""

from __future__ import annotations

import contextlib
import enum
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

GONE = "gone"


@dataclass(frozen=True, slots=True)
class PodEvent:
    """A pod as one event of the watch showed it."""

    at: float
    """When the event was received, which is later than the write by the delay of the watch."""
    site: str
    election: str
    pod: str
    uid: str
    labelled: bool
    """Whether it carries the leader label; never when it is gone."""
    token: int = 0
    """What its token annotation says; 0 without one."""
    unfit: str = ""
    """Why it is no candidate; empty if it is one."""
    hand: int = 0
    """Which change of its label by hand was the latest; the same write sets both."""


@dataclass(frozen=True, slots=True)
class SliceEvent:
    """Whom an EndpointSlice of ours leads to, as one event of the watch showed it."""

    at: float
    site: str
    election: str
    pods: tuple[tuple[str, str], ...] = ()
    """Names and UIDs; none when it is empty or gone."""
    token: int = 0


class Entry(enum.Enum):
    """What a message of the bucket is."""

    RECORD = "record"
    RELEASED = "release"
    EVICTED = "eviction"
    """Deleted or purged by somebody, without the header of a release."""
    EXPIRED = "expiry"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of the bucket."""

    at: float
    """When it was stored, as the server says: same machine, same clock."""
    election: str
    revision: int
    entry: Entry
    site: str = ""
    """Who wrote a record, and the replica's name and nonce."""
    replica: str = ""
    pod: str = ""
    uid: str = ""
    term: int = 0
    """Of a record; its own revision in the write that begins the term."""


class Trouble(enum.Enum):
    """What can be wrong with a replica, or with NATS."""

    DEAD = "dead"
    PAUSED = "paused"
    NO_NATS = "cut off from NATS"
    NO_API = "cut off from its API server"
    NATS_DOWN = "NATS is down"
    ADMISSION = "patches are delayed, refused or changed"
    """By a webhook, for all replicas of a site."""


@dataclass(slots=True)
class Spell:
    """A time during which something was wrong: with a replica, or with a site, or with NATS."""

    since: float
    trouble: Trouble
    site: str = ""
    replica: str = ""
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that the chaos did, for the timeline."""

    at: float
    words: str
    election: str = ""
    """Empty: it concerns all."""


@dataclass(frozen=True, slots=True)
class Delay:
    """How long the watch of a site took to show a write of our own, at most."""

    at: float
    site: str
    seconds: float


@dataclass(slots=True)
class History:
    """Everything about one run."""

    ttl: float
    """Of the bucket."""
    margin: float
    """Seconds between a leader's own deadline and the TTL."""
    relay_after: float
    """Seconds without a renewal after which a standby renews."""
    replicas: dict[str, tuple[str, ...]]
    """By site."""
    elections: tuple[str, ...]
    began: float = 0.0
    ended: float = math.inf
    pods: list[PodEvent] = field(default_factory=list)
    """The events of one site are in the order of its API server."""
    routing: bool = False
    """Whether the elections name Services."""
    slices: list[SliceEvent] = field(default_factory=list)
    """The same; empty without `routing`."""
    messages: list[Message] = field(default_factory=list)
    """In the order of the stream; those that were overwritten while nobody watched are missing."""
    spells: list[Spell] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    delays: list[Delay] = field(default_factory=list)
    lost_writes: list[float] = field(default_factory=list)
    """When the stream came back without messages that it had shown before."""

    @classmethod
    def of(
        cls, ttl: float, *, replicas: dict[str, tuple[str, ...]], elections: tuple[str, ...]
    ) -> Self:
        """Return an empty one. The operator documents its margin, and when a standby renews."""
        interval, margin = max(1.0, ttl / 3), max(0.25, ttl / 10)
        scope = ttl - margin - interval
        relay_after = max(ttl / 2, interval + scope / 3)
        return cls(ttl, margin, relay_after, replicas, elections)

    @contextlib.contextmanager
    def spell(self, trouble: Trouble, site: str = "", replica: str = "") -> Iterator[None]:
        """Write down that something is wrong while this is entered."""
        spell = Spell(time.monotonic(), trouble, site, replica)
        self.spells.append(spell)
        try:
            yield
        finally:
            spell.until = time.monotonic()

    def note(self, words: str, election: str = "") -> None:
        """Write down that something was done."""
        self.deeds.append(Deed(time.monotonic(), words, election))

    def save(self, path: Path) -> None:
        """Write it down, one JSON value a line."""
        lists = (self.pods, self.slices, self.messages, self.spells, self.deeds, self.delays)
        rows = [(type(row).__name__, asdict(row)) for rows in lists for row in rows]
        rows.sort(key=lambda row: float(row[1].get("at", row[1].get("since", 0.0))))
        about = {"ttl": self.ttl, "began": self.began, "ended": self.ended}
        lines = [about, *({"what": name} | row for name, row in rows)]
        path.write_text("".join(json.dumps(line, default=_value) + "\n" for line in lines))


def _value(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else str(value)
