"""What somebody else undoes again and again is done ever more slowly."""

from __future__ import annotations

from itertools import pairwise

from incumbent.reconciler.brake import FORGIVEN_AFTER, FREE, Brake


def pulled(brake, times, *, at=0.0):
    """Make a correction as soon as the brake allows it, and return when each was made."""
    moments = []
    for _ in range(times):
        at = max(at, brake.free_at)
        brake.pull(at)
        moments.append(at)
    return moments


def test_first_corrections_are_made_at_once():
    """A label that a person changed by hand is corrected without a pause."""
    assert pulled(Brake(30), FREE) == [0.0] * FREE


def test_pauses_grow_to_the_longest():
    """Twice as long each time."""
    moments = pulled(Brake(30), FREE + 12)
    pauses = [after - before for before, after in pairwise(moments[FREE - 1 :])]
    assert [round(pause, 3) for pause in pauses[:4]] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == max(pauses) == 30


def test_brake_holds_until_it_is_forgiven():
    """That is what the condition says."""
    brake = Brake(30)
    assert not brake.holds(0.0)
    last = pulled(brake, FREE)[-1]
    assert brake.holds(last)
    assert brake.holds(last + FORGIVEN_AFTER - 0.1)
    assert not brake.holds(last + FORGIVEN_AFTER)


def test_forgiven_brake_begins_anew():
    """A quarrel of yesterday does not slow down what is corrected today."""
    brake = Brake(30)
    last = pulled(brake, 10)[-1]
    assert pulled(brake, FREE, at=last + FORGIVEN_AFTER) == [last + FORGIVEN_AFTER] * FREE
