"""Values that the rest of the package speaks about.

All of them are frozen. Times are floats in seconds on the clock of `incumbent.clock`, unless a
name says otherwise; times from Kubernetes stay the RFC 3339 strings that they are.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.IntEnum):
    """What a member of an election is, with the numbers that Choria gives them."""

    UNKNOWN = 0
    CANDIDATE = 1
    LEADER = 2

    def __str__(self) -> str:
        """Return the word: `unknown`, `candidate` or `leader`."""
        return self.name.lower()


class Profile(enum.Enum):
    """A set of manners: our own, or exactly those of a Choria member."""

    PROMPT = "Prompt"
    CHORIA = "Choria"


class Promotion(enum.Enum):
    """When the holder of a new record may act."""

    AUTO = "Auto"
    """As soon as nobody who held the key before can act any more."""
    NEXT_CAMPAIGN = "NextCampaign"
    """Not before the next stored write, as with a Choria member."""


@dataclass(frozen=True, slots=True)
class Nominee:
    """Who is to hold the record: an identity, and for a pod its UID."""

    identity: str
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A live record: the latest message on the key, and it names a holder.

    A record without our headers is a stranger's: `site` and `replica` are empty then, and `term`
    is the revision of the message itself.
    """

    revision: int
    holder: str
    term: int
    replica: str = ""
    site: str = ""
    pod_uid: str = ""
    promoted: bool = True
    leaving: bool = False
    sent_at: float = 0.0
    """On its writer's own clock: tells the writer which of its writes this is, others nothing."""
    wait: float = 0.0
    """Of one that is not promoted: how long after it was sent its holder may act; 0: not told."""

    @property
    def site_name(self) -> str:
        """The site without the UID of its cluster; empty for a stranger."""
        return self.site.partition("/")[0]

    @property
    def replica_name(self) -> str:
        """The replica without the nonce of its process; empty for a stranger."""
        return self.replica.partition("/")[0]

    @property
    def stranger(self) -> bool:
        """Whether this was written by a member that does not send our headers."""
        return not self.replica


class Cause(enum.Enum):
    """Why a key holds no record."""

    RELEASED = "released"
    """Its holder gave it up, after whatever it had to do first."""
    EVICTED = "evicted"
    """Somebody deleted or purged it; the holder may not know yet."""
    EXPIRED = "expired"
    """The server removed it after the bucket's TTL."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The latest message on the key says that there is no record."""

    revision: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Nothing:
    """The key holds no message at all: never used, or expired in a bucket without markers."""

    revision: int = 0


Entry = Record | Marker | Nothing
"""What can be at a key."""


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """What the server says about a bucket."""

    name: str
    ttl: float
    """Seconds until a record that is not renewed is removed; 0 means never."""
    history: int
    replicas: int
    created: str
    """RFC 3339; changes when a bucket is deleted and made anew."""
    markers: bool
    """Whether the server leaves a marker when a record expires."""
    mirror: bool
    """Whether this is a mirror or an aggregate, which cannot be written conditionally."""
    clustered: bool
    """Whether the bucket lives in a NATS cluster of several servers."""
    server_time: float
    """The server's clock when it answered, in seconds since 1970."""
    unfit: str = ""
    """Why it cannot hold an election, and what to do; empty if it can."""
    risks: tuple[str, ...] = ()
    """Other settings that work, but should not stay so."""
    subjects: tuple[str, ...] = ()
    """Which subjects its stream takes, with wildcards; empty if that is not known."""

    def takes(self, key: str) -> bool:
        """Whether its stream takes the records of a key."""
        subject = f"$KV.{self.name}.{key}".split(".")
        return not self.subjects or any(_covers(one.split("."), subject) for one in self.subjects)


def _covers(pattern: list[str], subject: list[str]) -> bool:
    """Whether a subject matches a pattern: `*` is one token, `>` at the end is one or more."""
    if pattern[-1] == ">":
        if len(subject) < len(pattern):
            return False
        pattern, subject = pattern[:-1], subject[: len(pattern) - 1]
    tokens = zip(pattern, subject, strict=False)
    return len(pattern) == len(subject) and all(one in {"*", token} for one, token in tokens)


@dataclass(frozen=True, slots=True)
class Peer:
    """A NATS server that holds a copy of a bucket."""

    name: str
    leader: bool = False
    current: bool = True
    offline: bool = False
    lag: int = 0
    """Operations that it is behind the leader."""
