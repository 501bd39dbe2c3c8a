"""Looks for garbage, with Python's own."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest

from incumbent.controller import gc_pauses


class Cycle:
    """Refers to itself, so that only a look for garbage finds it."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def turnover():
    return SimpleNamespace(count=0)


@pytest.fixture
def looking(turnover):
    with gc_pauses.looked_for_briefly(lambda: turnover.count):
        yield


def cycle():
    """Return a cycle that is garbage as soon as `clear` is called, and what tells whether it is."""
    kept = [Cycle()]
    return kept.clear, weakref.ref(kept[0])


def is_found(first=2):
    """Whether what a look, at this generation at most, has left is found once it is garbage."""
    clear, found = cycle()
    gc.collect(first)
    clear()
    gc.collect()
    return found() is None


@pytest.mark.usefixtures("looking")
def test_what_a_long_look_has_left_is_not_looked_through_again(monkeypatch):
    """It was no garbage then; that it has become some is not found out."""
    monkeypatch.setattr(gc_pauses, "LONG", 0)
    assert not is_found()


@pytest.mark.usefixtures("looking")
def test_after_a_large_turnover_everything_is_looked_through_once_more(monkeypatch, turnover):
    """Not while elections begin and end: what of them stays will be known when that is over."""
    monkeypatch.setattr(gc_pauses, "LONG", 0)
    clear, found = cycle()
    gc.collect()
    clear()
    for _ in range(2):
        turnover.count += gc_pauses.MANY
        gc.collect()
        assert found() is not None
    gc.collect()
    assert found() is None
    assert not is_found()


@pytest.mark.usefixtures("looking")
def test_a_few_elections_that_come_and_go_hold_nobody_up(monkeypatch, turnover):
    """Whoever may create elections could otherwise stop all renewals again and again."""
    monkeypatch.setattr(gc_pauses, "LONG", 0)
    clear, found = cycle()
    gc.collect()
    clear()
    turnover.count += gc_pauses.MANY - 1
    for _ in range(5):
        gc.collect()
    assert found() is not None
    turnover.count += 1
    for _ in range(2):
        gc.collect()
    assert found() is None


@pytest.mark.usefixtures("looking")
def test_many_elections_that_come_and_go_hold_everybody_up_seldom(monkeypatch, turnover):
    """However many they are."""
    now = 1000.0
    monkeypatch.setattr(gc_pauses.clock, "now", lambda: now)
    monkeypatch.setattr(gc_pauses, "LONG", -1)

    def is_looked_through(*, after):
        nonlocal now
        clear, found = cycle()
        gc.collect()
        clear()
        now += after
        turnover.count += 10 * gc_pauses.MANY
        for _ in range(3):
            gc.collect()
        return found() is None

    assert is_looked_through(after=0)
    assert not is_looked_through(after=0)
    assert not is_looked_through(after=gc_pauses.SELDOM - 1)
    assert is_looked_through(after=1)


@pytest.mark.usefixtures("looking")
def test_short_looks_go_on_to_look_through_everything(monkeypatch):
    """Few elections need no care."""
    monkeypatch.setattr(gc_pauses, "LONG", 60)
    assert is_found()


@pytest.mark.usefixtures("looking")
def test_small_looks_are_as_they_were(monkeypatch):
    """Only those through everything take long."""
    monkeypatch.setattr(gc_pauses, "LONG", 0)
    assert is_found(first=1)


def test_what_was_there_before_is_passed_over_meanwhile(turnover):
    """Imports stay. Afterwards all is as before."""
    clear, found = cycle()
    with gc_pauses.looked_for_briefly(lambda: turnover.count):
        clear()
        gc.collect()
        assert found() is not None
        callbacks = len(gc.callbacks)
    assert len(gc.callbacks) == callbacks - 1
    gc.collect()
    assert found() is None
