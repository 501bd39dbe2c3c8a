"""Pauses before something is tried again."""

from __future__ import annotations

import pytest

from incumbent.backoff import JitteredBackoff, jittered

BACKOFF = JitteredBackoff(first=0.1, longest=2.0)


@pytest.mark.parametrize(
    ("failures", "most"), ((0, 0.1), (1, 0.2), (4, 1.6), (5, 2.0), (10**6, 2.0))
)
def test_pauses_double_up_to_a_limit(failures: int, most: float) -> None:
    """However many failures there were."""
    assert BACKOFF.most(failures) == pytest.approx(most)
    pauses = {BACKOFF.pause(failures) for _ in range(100)}
    assert most / 2 <= min(pauses) <= max(pauses) <= most


def test_jitter_takes_away_up_to_a_half() -> None:
    """Those that fail at one moment do not try again at one moment."""
    parts = {jittered(1.0) for _ in range(100)}
    assert 0.5 <= min(parts) < 0.7
    assert 0.8 < max(parts) <= 1.0
