"""The events of a campaign, as values. The driver passes them to a listener.

Exactly one `Lost` or `Relieved` follows each `Won`. Neither of them comes without a `Won`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from incumbent.campaign.records import Record


class Loss(enum.Enum):
    """Why a member no longer leads. Each `Cause` of a vacancy has a `Loss` with an equal value."""

    DEADLINE = "deadline"
    """No renewal was stored in time."""
    OVERTAKEN = "overtaken"
    """The record names somebody else."""
    EVICTED = "evicted"
    """Somebody deleted or purged the record."""
    EXPIRED = "expired"
    """The server removed the record, or the bucket is gone or new."""
    RELEASED = "released"
    """The member gave the record up by itself. It stops leading before it asks the bucket to
    release the record. The bucket may refuse that, for example because another replica has written
    the record since."""
    HANDED_OVER = "handed over"
    """The member handed the record to another nominee of its site, which began a new term."""


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
    """Another replica of this site wrote the record and is the steward now.

    The site has lost nothing. The record may name another pod than before.
    """

    record: Record


CampaignEvent = Won | Lost | Relieved
