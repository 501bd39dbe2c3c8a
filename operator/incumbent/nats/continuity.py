"""What a watch of a stream has left out, and since when: pure bookkeeping over revisions.

A stream numbers its messages without gaps, and a bucket keeps the latest message of each key. A
revision that a watch does not deliver was replaced or removed before its turn, on whatever key. So
a gap on one key casts doubt on all keys that were shown last before it, but only since the moment
before which the missing message cannot have been stored.

A busy machine makes such gaps: a record expires, somebody creates the next one, and the server
replaces the marker before it delivers it. So does every loss of a watch.
"""

from __future__ import annotations

import bisect
import copy
import math
from typing import NamedTuple

MOST_GAPS = 256
"""How many gaps are kept apart; the oldest two become one then, which doubts more, not less."""
TOGETHER = 0.25
"""Seconds within which gaps count as one that began with the first."""


class _Gap(NamedTuple):
    revision: int
    """The last one that is missing."""
    since: float
    """Nothing of it was stored before."""


class Continuity:
    """Which revisions of one stream a watch has left out, over all its losses and restarts.

    Args:
        revision: what the stream held at least when the first watch began: of all that was stored
            up to there, only what is delivered is known.
    """

    def __init__(self, revision: int) -> None:
        self._reached = revision
        """All revisions up to this one were delivered, or lie in a gap."""
        self._since = -math.inf
        """What has a higher revision was not stored before this moment."""
        self._gaps = [_Gap(revision, -math.inf)]
        """The earliest first. What was stored later is missing since a later moment, so the first
        gap that concerns a key tells enough."""

    @property
    def reached(self) -> int:
        """The revision up to which everything was delivered or is known to be missing."""
        return self._reached

    def copy(self) -> Continuity:
        """Return an independent copy, to be thrown away if nothing of it was shown to anybody."""
        return copy.deepcopy(self)

    def delivered(self, revision: int, not_before: float) -> None:
        """Observe a delivery; the server sends messages in the order of their revisions.

        Args:
            revision: of the message.
            not_before: a moment before which it cannot have been stored.
        """
        if revision <= self._reached:
            return
        self.ended(revision - 1)
        self._reached, self._since = revision, max(self._since, not_before)

    def ended(self, revision: int) -> None:
        """Observe that nothing up to a revision will be delivered any more."""
        if revision <= self._reached:
            return
        last = self._gaps[-1]
        if self._since - last.since < TOGETHER:
            self._gaps[-1] = _Gap(revision, last.since)
        else:
            self._gaps.append(_Gap(revision, self._since))
        if len(self._gaps) > MOST_GAPS:
            self._gaps[:2] = [_Gap(self._gaps[1].revision, self._gaps[0].since)]
        self._reached = revision

    def concealed(self, revision: int, not_before: float) -> None:
        """Observe that a delivered message was replaced before anybody was shown it."""
        bisect.insort(self._gaps, _Gap(revision, not_before))

    def missing_since(self, known: int, revision: int = 0) -> float:
        """Return since when something on a key may be missing; infinity if nothing is.

        Args:
            known: the revision up to which the key was shown.
            revision: what is known of the key now, if that is not from the watch.
        """
        at = bisect.bisect_right(self._gaps, known, key=lambda gap: gap.revision)
        if at < len(self._gaps):
            return self._gaps[at].since
        return self._since if revision > self._reached + 1 else math.inf
