"""The guard of the fencing tokens. It makes sure that the tokens which this site sees only grow.

The token of a term is a revision of the bucket's stream. A bucket that was created again, or
restored from an old copy, counts from a lower number again. A system that was told a higher token
would then refuse the next leader for a long time. It could even mistake a former leader for the
present one, which is worse.
"""

from __future__ import annotations

from incumbent.campaign.steps import Lease

_KEPT = 16
"""How many of the latest tokens to remember with the time when each was learnt. That is enough for
those that are learnt while one write is under way."""


class TokenGuard:
    """Remembers the highest token, and compares each of our own stored writes with it.

    The guard never judges what a watch or a status shows, because that may be older than what is
    known already. A stored write of ours is newer than everything that was known when it was sent.
    """

    def __init__(self) -> None:
        self._learnt: tuple[tuple[float, int], ...] = ()

    @property
    def highest(self) -> int:
        """The highest token of any term of the election that was seen; 0 if none was."""
        return self._learnt[-1][1] if self._learnt else 0

    def learn(self, token: int, now: float) -> None:
        """Record that there was a term with this token."""
        if token > self.highest:
            self._learnt = (*self._learnt[1 - _KEPT :], (now, token))

    def refuses(self, lease: Lease) -> bool:
        """Whether the token of a lease is lower than one that was known before its write.

        A lease that begins a term must have a higher token than those.
        """
        record = lease.record
        known = max((token for at, token in self._learnt if at < lease.sent_at), default=0)
        begins = record.term == record.revision
        return record.term < known or (begins and record.term == known)

    def accept(self, lease: Lease) -> None:
        """Forget all higher tokens, so that tokens continue from the token of this lease."""
        self._learnt = ((lease.sent_at, lease.record.term),)
