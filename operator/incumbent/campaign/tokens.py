"""The guard of the fencing tokens: they only grow, as far as this site has seen.

The token of a term is a revision of the bucket's stream. A bucket that was made anew, or restored
from an old copy, counts from an earlier number again, and whatever was told a higher token would
refuse the next leader for long, or worse, take a former one for the present.
"""

from __future__ import annotations

from incumbent.campaign.steps import Lease

_KEPT = 16
"""Tokens that are remembered with the time they were learnt at: those of one write's way."""


class TokenGuard:
    """Remembers the highest token, and judges each of our own stored writes by it.

    What a watch or a status shows is never judged, for it may be older than what is known. A write
    of ours that was stored is newer than all that was known when it was sent.
    """

    def __init__(self) -> None:
        self._learnt: tuple[tuple[float, int], ...] = ()

    @property
    def highest(self) -> int:
        """The highest token that was seen of the election, whoever led; 0 if none was."""
        return self._learnt[-1][1] if self._learnt else 0

    def learn(self, token: int, now: float) -> None:
        """Take in that there was a term with this token."""
        if token > self.highest:
            self._learnt = (*self._learnt[1 - _KEPT :], (now, token))

    def refuses(self, lease: Lease) -> bool:
        """Whether the token of a lease went back behind one that was known before its write."""
        record = lease.record
        known = max((token for at, token in self._learnt if at < lease.sent_at), default=0)
        begins = record.term == record.revision
        return record.term < known or (begins and record.term == known)

    def accept(self, lease: Lease) -> None:
        """Let tokens grow from that of a lease on."""
        self._learnt = ((lease.sent_at, lease.record.term),)
