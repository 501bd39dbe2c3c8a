"""The steps that a campaign asks its driver for, and its writes and lease, as values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from incumbent.campaign.records import Record

NEVER = math.inf


class Kin(Protocol):
    """Tells which records were written by replicas of this site."""

    def ours(self, record: Record) -> bool:
        """Whether another replica of this site certainly wrote a record."""
        ...

    def doubtful(self, record: Record) -> bool:
        """Whether another replica of this site may have written a record."""
        ...

    def inherited(self, record: Record) -> bool:
        """Whether we may take over a record that is not renewed.

        This site probably wrote it, but that is not certain.
        """
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A process that campaigns, and its site."""

    replica: str
    """A name and a nonce. Each process has another one."""
    site: str = ""
    """The site, as the header of a record names it; empty for a member outside Kubernetes."""
    holders: str = ""
    """The prefix of the identities of all holders for whom this process and its peers campaign."""
    kin: Kin | None = None
    """Recognises records of our site; None: all records with our site in the header are ours."""


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to do before `until`, unless the member observes something."""

    until: float


@dataclass(frozen=True, slots=True)
class Look:
    """Read the latest entry from the stream's leader and `observe` it with this step."""

    known: int
    """The latest revision known when the read is sent. The read shows an older revision only if the
    bucket went back to an older state."""
    timeout: float
    """Seconds to wait for the answer, at most until our deadline, because we must act then."""


@dataclass(frozen=True, slots=True)
class Renew:
    """A renewal is due. The driver calls `begin_renewal`."""


@dataclass(frozen=True, slots=True)
class Create:
    """The key is vacant and there is a nominee. The driver calls `begin_create`."""


Step = Wait | Look | Renew | Create


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """One conditional write that was begun."""

    record: Record | None
    """The record to store; its revision is 0, and its term if it begins one. None: a release."""
    expected: int
    timeout: float
    """Seconds to wait for the answer, at most until our deadline."""
    sent_at: float
    headers: Mapping[str, str]
    """The headers of the message; its value is the identity."""
    promotable_at: float = NEVER
    """The holder of the record may not act before this time."""

    def stored_as(self, revision: int) -> Record | None:
        """Return the record that exists if this write is stored with the given revision."""
        if self.record is None:
            return None
        return replace(self.record, revision=revision, term=self.record.term or revision)


@dataclass(frozen=True, slots=True)
class Lease:
    """Our own record, and the deadline until which it counts."""

    record: Record
    sent_at: float
    deadline: float
    promotable_at: float
    acts_from: float
    """The holder may act from this time on; NEVER while the record is not promoted."""
