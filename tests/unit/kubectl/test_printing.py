"""Ages and columns, as kubectl has them."""

from datetime import UTC, datetime, timedelta

import pytest

from incumbent.kubectl.printing import age, lines

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    (
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (599, "9m59s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (11100, "3h5m"),
        (28799, "7h59m"),
        (28800, "8h"),
        (172799, "47h"),
        (172800, "2d"),
        (176400, "2d1h"),
        (691200, "8d"),
        (63071999, "729d"),
        (63072000, "2y"),
        (66000000, "2y33d"),
        (260000000, "8y"),
        (-1, "0s"),
        (-5, "<invalid>"),
    ),
)
def test_ages(seconds, text):
    """They are those of kubectl's AGE column (the cases are of its own test, where it has them)."""
    since = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert age(since, NOW) == text


def test_an_age_without_a_beginning():
    """What has no time yet has no age."""
    assert age("", NOW) == "<unknown>"


def test_columns():
    """Three spaces lie between columns, none is narrower than six, and the last is not padded."""
    assert lines([("A", "LONGER", "C"), ("12345678", "", "c")]) == [
        "A          LONGER   C",
        "12345678            c",
    ]
    assert lines([("A", "B")]) == ["A     B"]
