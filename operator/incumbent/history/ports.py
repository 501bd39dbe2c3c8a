"""What the history wants from the stream behind it, and from whoever counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from incumbent.campaign.ports import Answer


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of the history."""

    sequence: int
    data: bytes


class HistoryStore(Protocol):
    """Where the terms of elections are written down: a list of messages for each key.

    Every method raises a `BucketError` where the store cannot be used, or does not answer; a
    message may have been added all the same.
    """

    name: str
    kept: int
    """How many messages of each key are kept, the newest."""

    async def look(self) -> bool:
        """Find out about the store, and whether it still is the one of the last look."""
        ...

    async def last(self, bucket: str, key: str) -> Stored | None:
        """Return the last message of a key, None if there is none."""
        ...

    async def next(self, bucket: str, key: str, *, after: int) -> Stored | None:
        """Return the first message of a key behind a sequence, None if there is none."""
        ...

    async def append(self, bucket: str, key: str, data: bytes, *, expected: int) -> Answer:
        """Add a message, if the sequence of the key's last one is `expected` (0: there is none).

        The answer is stored or refused, never unknown.
        """
        ...


class HistoryObserver(Protocol):
    """Who is told what became of the entries of the history."""

    def history_entry(self, outcome: str) -> None:
        """An entry was `stored`, was `known` already, `failed` once more, or was `dropped`."""
        ...

    def term_began(self, how: str) -> None:
        """This replica wrote down the beginning of a term; empty: it is not known how."""
        ...

    def term_ended(self, cause: str) -> None:
        """This replica wrote down the end of a term."""
        ...
