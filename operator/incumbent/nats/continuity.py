"""Remembers which revisions a watch of a stream has left out, and since when. Pure.

A stream numbers its messages without gaps, and a bucket keeps the latest message of each key. If a
watch does not deliver a revision, the message was replaced or removed before its turn, on any key.
Therefore every key whose last shown entry is older than the gap may have missed something. The
missing message has an earliest possible time, and the doubt begins at that time.

A busy machine makes such gaps: a record expires, somebody creates the next record, and the server
replaces the marker before it delivers the marker. Every loss of a watch makes a gap, too.
"""

from __future__ import annotations

import bisect
import copy
import math
from typing import NamedTuple

MOST_GAPS = 256
"""How many gaps to keep apart. If there are more, the two oldest ones are merged, which increases
the doubt and never reduces it."""
TOGETHER = 0.25
"""Gaps that begin within this many seconds are merged into one gap."""


class _Gap(NamedTuple):
    revision: int
    """The last missing revision."""
    since: float
    """No message in the gap was stored before this time."""


class Continuity:
    """The revisions of one stream that a watch has left out, over all its losses and restarts.

    Args:
        revision: a revision that the stream had reached when the first watch began. Of the messages
            up to it, only those that are delivered are known.
    """

    def __init__(self, revision: int) -> None:
        self._reached = revision
        """All revisions up to this one were delivered, or lie in a gap."""
        self._since = -math.inf
        """No message with a higher revision was stored before this time."""
        self._gaps = [_Gap(revision, -math.inf)]
        """The gaps, the earliest first. Later gaps began later, so the first gap that concerns a
        key is the only one that counts."""

    @property
    def reached(self) -> int:
        """The revision up to which everything was delivered or is known to be missing."""
        return self._reached

    def copy(self) -> Continuity:
        """Return an independent copy. The caller drops it if the new feed is never shown."""
        return copy.deepcopy(self)

    def delivered(self, revision: int, not_before: float) -> None:
        """Observe that a message was delivered. The server sends messages by ascending revision.

        Args:
            revision: the revision of the message.
            not_before: a time before which the message cannot have been stored.
        """
        if revision <= self._reached:
            return
        self.ended(revision - 1)
        self._reached, self._since = revision, max(self._since, not_before)

    def ended(self, revision: int) -> None:
        """Observe that no more messages up to this revision will be delivered."""
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
        """Return since when an entry of a key may be missing; infinity if none is missing.

        Args:
            known: the revision up to which the key was shown.
            revision: the revision of the latest entry of the key, if a read has shown it; 0 if the
                watch has.
        """
        at = bisect.bisect_right(self._gaps, known, key=lambda gap: gap.revision)
        if at < len(self._gaps):
            return self._gaps[at].since
        return self._since if revision > self._reached + 1 else math.inf
