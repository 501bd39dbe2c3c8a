"""The resourceVersions of the API server."""

from __future__ import annotations

import pytest

from incumbent.kubernetes.versions import newer, number_of, one_before


@pytest.mark.parametrize(
    ("version", "start"), (("7", "6"), ("2", "1"), ("1", "1"), ("0", "0"), ("opaque", "opaque"))
)
def test_a_watch_starts_one_version_before(version, start):
    """Never at 0, which stands for any version."""
    assert one_before(version) == start


@pytest.mark.parametrize(
    ("version", "other", "is_newer"),
    (("10", "9", True), ("9", "10", False), ("9", "9", False), ("", "9", False), ("9", "x", False)),
)
def test_versions_are_compared_as_numbers(version, other, is_newer):
    """What is no number cannot be compared."""
    assert newer(version, other) == is_newer


def test_a_version_is_a_number():
    """Or 0, which no object has."""
    assert (number_of("17"), number_of(""), number_of("x")) == (17, 0, 0)
