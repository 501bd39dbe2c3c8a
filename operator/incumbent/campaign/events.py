"""What a campaign reports, as values. Who listens is the driver's business.

Each `Won` is followed by exactly one `Lost` or `Relieved`, and neither comes without it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from incumbent.campaign.records import Record


class Loss(enum.Enum):
    """Why a member no longer leads; a `Cause` of a vacancy is one of the same value."""

    DEADLINE = "deadline"
    """No renewal was stored in time."""
    OVERTAKEN = "overtaken"
    """The record names somebody else."""
    EVICTED = "evicted"
    """Somebody deleted or purged the record."""
    EXPIRED = "expired"
    """The server removed the record, or the bucket is gone or new."""
    RELEASED = "released"
    """It gave the record up by itself. It stops leading before the bucket is asked to release the
    record, which may be refused, for example because another replica has written it since."""
    HANDED_OVER = "handed over"
    """It handed the record to another nominee of its site: a new term."""


@dataclass(frozen=True, slots=True)
class Won:
    """This member leads, and its holder may act until the deadline."""

    record: Record


@dataclass(frozen=True, slots=True)
class Lost:
    """This member no longer leads."""

    record: Record
    loss: Loss


@dataclass(frozen=True, slots=True)
class Relieved:
    """Another replica of this site wrote the record, which need not name the same pod any more.

    It is the steward now; the site has lost nothing.
    """

    record: Record


CampaignEvent = Won | Lost | Relieved
