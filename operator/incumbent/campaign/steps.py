"""What a campaign asks of its driver, and what it has, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from incumbent.campaign.records import Record

NEVER = math.inf


class Kin(Protocol):
    """Tells which records are of replicas of this site."""

    def ours(self, record: Record) -> bool:
        """Whether another replica of this site wrote a record, for certain."""
        ...

    def doubtful(self, record: Record) -> bool:
        """Whether another replica of this site may have written a record."""
        ...

    def inherited(self, record: Record) -> bool:
        """Whether a record may be taken over when it is not renewed, though that is not certain."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """Who campaigns: one process, and the site for which it does so."""

    replica: str
    """A name and a nonce; no two processes share it."""
    site: str = ""
    """The site as in the header of a record; empty for a member outside Kubernetes."""
    holders: str = ""
    """How the identities of all begin for whom this process and its peers campaign."""
    kin: Kin | None = None
    """Tells who the peers are; None: every process that writes the same site."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done before `until`, unless something is observed."""

    until: float


@dataclass(frozen=True, slots=True)
class Look:
    """Read the latest entry from the stream's leader and `observe` it with this step."""

    known: int
    """The latest revision known when the read is sent; what it shows may be older than that
    only if the bucket went back."""
    timeout: float
    """Seconds; never past the own deadline, when there is something else to do."""


@dataclass(frozen=True, slots=True)
class Renew:
    """A renewal is due: `begin_renewal`."""


@dataclass(frozen=True, slots=True)
class Create:
    """The key is vacant and a nominee waits: `begin_create`."""


Step = Wait | Look | Renew | Create


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One conditional write that was begun."""

    record: Record | None
    """What is to be stored, with revision 0 (and term 0 if it begins one); None: a release."""
    expected: int
    timeout: float
    """Seconds; never past the own deadline."""
    sent_at: float
    headers: Mapping[str, str]
    """What the message carries apart from the identity."""
    promotable_at: float = NEVER
    """Before then the holder of the record may not act."""

    def stored_as(self, revision: int) -> Record | None:
        """Return the record that this write makes if it is stored with that revision."""
        if self.record is None:
            return None
        return replace(self.record, revision=revision, term=self.record.term or revision)


@dataclass(frozen=True, slots=True)
class Lease:
    """Our own record, and until when it counts."""

    record: Record
    sent_at: float
    deadline: float
    promotable_at: float
    acts_from: float
    """From then on the holder may act; NEVER while the record is not promoted."""
