"""The values that the rest of the package uses.

All of them are frozen. Times are floats in seconds on the clock of `incumbent.clock`, unless a
name says otherwise. Times from Kubernetes stay RFC 3339 strings.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.IntEnum):
    """The state of a member of an election. The numbers are Choria's."""

    UNKNOWN = 0
    CANDIDATE = 1
    LEADER = 2

    def __str__(self) -> str:
        """Return the word: `unknown`, `candidate` or `leader`."""
        return self.name.lower()


class Profile(enum.Enum):
    """A set of rules for a campaign: our own rules, or exactly the rules of a Choria member."""

    PROMPT = "Prompt"
    CHORIA = "Choria"


class Promotion(enum.Enum):
    """When the holder of a new record may act."""

    AUTO = "Auto"
    """As soon as nobody who held the key before can act any more."""
    NEXT_CAMPAIGN = "NextCampaign"
    """Not before the next stored write, as a Choria member does it."""


@dataclass(frozen=True, slots=True)
class Nominee:
    """The intended holder of the record: an identity, and the UID if the holder is a pod."""

    identity: str
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A live record: the latest message on the key, if it names a holder.

    A record without our headers was written by a stranger. Then `site` and `replica` are empty, and
    `term` is the revision of the message itself.
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
    """When the record was sent, on the clock of its writer. It tells the writer which of its writes
    this is. It means nothing to other members."""
    wait: float = 0.0
    """How many seconds after the sending the holder of a record that is not promoted may act. 0 if
    the record is promoted or does not say."""

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
    """The holder gave the record up, after it had stopped."""
    EVICTED = "evicted"
    """Somebody deleted or purged the record. The holder may not know that yet."""
    EXPIRED = "expired"
    """The server removed the record after the bucket's TTL."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The latest message on the key, if it says that the key holds no record."""

    revision: int
    cause: Cause


@dataclass(frozen=True, slots=True)
class Nothing:
    """The key holds no message: it was never used, or its last message has expired."""

    revision: int = 0


Entry = Record | Marker | Nothing
"""The possible contents of a key."""


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """The settings of a bucket, and facts about it, as the server reports them."""

    name: str
    ttl: float
    """Seconds until a record that is not renewed is removed; 0 means never."""
    history: int
    replicas: int
    created: str
    """When the bucket was created (RFC 3339). Changes if it is deleted and created again."""
    markers: bool
    """Whether the server leaves a marker when a record expires."""
    mirror: bool
    """Whether this is a mirror or an aggregate, which cannot be written conditionally."""
    clustered: bool
    """Whether the bucket lives in a NATS cluster of several servers."""
    server_time: float
    """The server's clock when it answered, in seconds since 1970."""
    unfit: str = ""
    """Why the bucket cannot hold an election, and what to do; empty if it can."""
    risks: tuple[str, ...] = ()
    """Settings that work but are a risk, each with what to do."""
    subjects: tuple[str, ...] = ()
    """The subjects of the bucket's stream, with wildcards; empty if they are not known."""

    def takes(self, key: str) -> bool:
        """Whether the bucket's stream stores the records of a key."""
        subject = f"$KV.{self.name}.{key}".split(".")
        return not self.subjects or any(_covers(one.split("."), subject) for one in self.subjects)


def _covers(pattern: list[str], subject: list[str]) -> bool:
    """Whether a pattern matches a subject. `*` is one token, `>` at the end is one or more."""
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
    """How many operations this server is behind the leader."""
