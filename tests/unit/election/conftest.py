"""A member of an election, its bucket, and what its callbacks were told."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from electionmembers import KEY, TTL, FakeNats
from fakes import FakeBucket
from incumbent import (
    Election,
)


@pytest.fixture(autouse=True)
def logs():
    """What is logged."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def bucket():
    return FakeBucket(ttl=TTL)


@pytest.fixture
def calls():
    """What the callbacks were called with, in order."""
    return []


@pytest.fixture
def member(bucket, calls):
    """Return a function that makes an election whose callbacks say so."""

    def make(identity="a", **options):
        options.setdefault("on_won", lambda: calls.append(f"{identity} won"))
        options.setdefault("on_lost", lambda: calls.append(f"{identity} lost"))
        return Election(FakeNats(bucket), "ELECTIONS", KEY, identity, **options)

    return make
