"""Fixtures of the unit tests."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from incumbent import clock
from stage import two_candidates


@pytest.fixture(autouse=True)
def logging_as_before():
    """Undo what a test has set up, as a command does that it calls: the next one reads lines."""
    root, ours = logging.getLogger(), logging.getLogger("incumbent")
    handlers, levels, config = root.handlers[:], (root.level, ours.level), structlog.get_config()
    yield
    logging.captureWarnings(capture=False)
    structlog.configure(**config)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def clock_of_the_loop(monkeypatch):
    """Let the package's clocks be the loop's, which looptime turns forward."""
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def now():
        return asyncio.get_running_loop().time()

    monkeypatch.setattr(clock, "now", now)
    monkeypatch.setattr(clock, "today", lambda: began + timedelta(seconds=now()))


@pytest.fixture
async def stage():
    """A site with two candidates, `a` and `b`, and no replica."""
    async with two_candidates() as stage:
        yield stage


@pytest.fixture
def no_access_from_outside(monkeypatch, tmp_path):
    """Hide the kubeconfig and the proxies of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme.upper()}_PROXY", raising=False)
