"""Text for people in the formats of kubectl: pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from incumbent.display import LONGEST_SENTENCE, cell, shown

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_YEAR = 365 * _DAY
PADDING, NARROWEST = 3, 6
"""Spaces between columns and the smallest width of a column, as in kubectl's `printers`."""


def age(since: str, now: datetime) -> str:
    """Return how long ago a time was, in kubectl's format (`duration.HumanDuration`)."""
    if not since:
        return "<unknown>"
    seconds = (now - datetime.fromisoformat(since)).total_seconds()
    return "<invalid>" if seconds < -1 else short(seconds)


def short(duration: float) -> str:
    """Return a duration in seconds in kubectl's format (`duration.HumanDuration`)."""
    seconds = max(0, int(duration))
    units = (
        (2 * _MINUTE, ((1, "s"),)),
        (10 * _MINUTE, ((_MINUTE, "m"), (1, "s"))),
        (3 * _HOUR, ((_MINUTE, "m"),)),
        (8 * _HOUR, ((_HOUR, "h"), (_MINUTE, "m"))),
        (2 * _DAY, ((_HOUR, "h"),)),
        (8 * _DAY, ((_DAY, "d"), (_HOUR, "h"))),
        (2 * _YEAR, ((_DAY, "d"),)),
        (8 * _YEAR, ((_YEAR, "y"), (_DAY, "d"))),
    )
    parts = next((parts for limit, parts in units if seconds < limit), ((_YEAR, "y"),))
    text = ""
    for size, unit in parts:
        count, seconds = divmod(seconds, size)
        text += f"{count}{unit}" if count or not text else ""
    return text


def now() -> datetime:
    """Return the present time of this machine."""
    return datetime.now(UTC)


def lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text as lines, with the column widths that kubectl would use."""
    widths = [
        max(NARROWEST, PADDING + max(len(cell(row[column])) for row in rows))
        for column in range(len(rows[0]) - 1)
    ]
    return [
        "".join(cell(text).ljust(width) for text, width in zip(row[:-1], widths, strict=True))
        + shown(row[-1], LONGEST_SENTENCE)
        for row in rows
    ]
