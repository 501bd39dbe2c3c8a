"""Fixtures of the tests of the adapter to NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from incumbent.nats.bucket import NatsBucket
from scriptednats import Server


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server; its stream is empty."""
    running = Server()
    yield running
    await running.aclose()


@pytest.fixture
def bucket(server: Server) -> NatsBucket:
    """The bucket B of the server."""
    return NatsBucket(server, "B")
