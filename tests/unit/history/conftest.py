"""Fixtures for the writers of the history."""

from __future__ import annotations

import asyncio

import pytest

from historyscene import Scene
from incumbent import clock


@pytest.fixture(autouse=True)
def fake_clock(request, monkeypatch):
    """Let the package's clock follow the loop's."""
    monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


@pytest.fixture
async def scene():
    made = Scene()
    yield made
    for one in list(made.running):
        await made.kill(one)
