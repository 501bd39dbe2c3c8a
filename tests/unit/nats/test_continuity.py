"""What a watch has left out: the bookkeeping, against a stream that is searched in full."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from incumbent.nats.continuity import MOST_GAPS, TOGETHER, Continuity

KEYS = "abc"


def test_what_follows_without_a_gap_is_complete():
    """Whatever keys the messages are on."""
    watch = Continuity(5)
    watch.delivered(6, 10.0)
    watch.delivered(7, 20.0)

    assert watch.missing_since(known=5) == math.inf


def test_what_was_there_before_the_first_watch_is_unknown():
    """Nothing tells when it was stored."""
    assert Continuity(5).missing_since(known=4) == -math.inf


def test_a_gap_begins_no_earlier_than_what_was_delivered_before_it():
    """It concerns every key that was shown before the gap, and no key that was shown after it."""
    watch = Continuity(5)
    watch.delivered(6, 10.0)
    watch.delivered(8, 20.0)
    watch.delivered(9, 30.0)

    assert watch.missing_since(known=6) == 10.0
    assert watch.missing_since(known=8) == math.inf


def test_the_first_of_several_gaps_counts():
    """Each key has missed what was left out since it was shown."""
    watch = Continuity(5)
    for revision, at in ((6, 10.0), (8, 20.0), (10, 30.0)):
        watch.delivered(revision, at)

    assert watch.missing_since(known=6) == 10.0
    assert watch.missing_since(known=8) == 20.0


def test_gaps_in_quick_succession_are_one():
    """It began when the first of them did."""
    watch = Continuity(0)
    watch.delivered(1, 10.0)
    watch.delivered(3, 10.0 + TOGETHER / 2)
    watch.delivered(5, 20.0)

    assert watch.missing_since(known=3) == 10.0


def test_many_gaps_cost_no_more_than_some():
    """The oldest become one, which doubts more than before and not less."""
    watch = Continuity(0)
    for number in range(2 * MOST_GAPS):
        watch.delivered(2 * number + 2, float(number))

    assert watch.missing_since(known=2) == -math.inf
    assert watch.missing_since(known=4 * MOST_GAPS - 2) == 2.0 * MOST_GAPS - 2


def test_a_read_is_complete_only_next_to_what_the_watch_has_shown():
    """A revision in between may be of any key."""
    watch = Continuity(5)
    watch.delivered(6, 10.0)

    assert watch.missing_since(known=6, revision=7) == math.inf
    assert watch.missing_since(known=6, revision=8) == 10.0


def test_a_copy_that_is_thrown_away_changes_nothing():
    """What was delivered to a watch that ended before it showed anything is still missing."""
    watch = Continuity(5)
    watch.delivered(6, 10.0)
    watch.copy().delivered(9, 20.0)

    watch.delivered(10, 30.0)
    assert watch.missing_since(known=6) == 10.0


@dataclass
class Watched:
    """A stream with history 1, and a watch that is behind and is lost now and then."""

    stored: list[tuple[str, float]] = field(default_factory=list)
    """Key and time of each revision, from 1."""
    shown: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    """Up to which revision each key was shown."""
    watch: Continuity = field(default_factory=lambda: Continuity(0))

    @property
    def latest(self) -> dict[str, int]:
        """The revision of every key's latest message."""
        return {key: revision for revision, (key, _) in enumerate(self.stored, 1)}

    def deliver(self) -> None:
        """Deliver what is left, in its order, and check what is said of each message."""
        waiting = sorted(r for r in self.latest.values() if r > self.watch.reached)
        for revision in waiting:
            self.watch.delivered(revision, self.stored[revision - 1][1])
            self._check(revision)
            self.shown[self.stored[revision - 1][0]] = revision

    def restart(self, later: list[tuple[str, float]]) -> None:
        """Begin a new watch; while it catches up, more is stored and delivered."""
        twin, known_to = self.watch.copy(), self.watch.reached
        seen: dict[str, int] = {}
        for _ in range(2):
            for revision in sorted(r for r in self.latest.values() if r > twin.reached):
                key, at = self.stored[revision - 1]
                twin.delivered(revision, at)
                if key in seen and seen[key] > known_to:
                    twin.concealed(seen[key], self.stored[seen[key] - 1][1])
                seen[key] = revision
            self.stored += later
            later = []
        self.watch = twin
        for key in KEYS:
            if key in seen:
                self._check(seen[key])
        self.shown = {key: max(twin.reached, self.shown[key]) for key in KEYS}

    def _check(self, revision: int) -> None:
        key = self.stored[revision - 1][0]
        missing = [
            at
            for number, (other, at) in enumerate(self.stored, 1)
            if other == key and self.shown[key] < number < revision
        ]
        since = self.watch.missing_since(self.shown[key])
        assert since <= min(missing, default=math.inf)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(("store", "store", "store", "deliver", "restart")),
            st.lists(st.sampled_from(KEYS), min_size=1, max_size=4),
            st.sampled_from((0.1, 1.0)),
        ),
        max_size=30,
    )
)
def test_nothing_was_stored_on_a_key_before_the_moment_that_is_told(steps):
    """Whatever is left out, and whenever the watch begins anew."""
    stream, now = Watched(), 0.0
    for step, keys, seconds in steps:
        now += seconds
        messages = [(key, now + n / 100) for n, key in enumerate(keys)]
        match step:
            case "store":
                stream.stored += messages
            case "deliver":
                stream.deliver()
            case "restart":
                stream.restart(messages)
