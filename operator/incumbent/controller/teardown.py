"""How the work for an election ends, and what may be left of it."""

from __future__ import annotations

import enum


class Ending(enum.Enum):
    """How a process stops serving an election."""

    RETIRE = "retire"
    """The resource is gone: labels, annotations and the record are taken back."""
    LEAVE = "leave"
    """This process ends, and another replica takes over."""
    RESIGN = "resign"
    """This process ends, and no replica goes on: the record is released."""


class Remainder(enum.Enum):
    """What is still there after an attempt to take an election back."""

    NOTHING = "nothing"
    LABELS = "labels"
    RECORD = "record"
    """Only the record, which lapses by itself."""
