"""Fixtures of the unit tests."""

from __future__ import annotations

import asyncio

import pytest

from incumbent import clock
from stage import two_candidates


@pytest.fixture
def clock_of_the_loop(monkeypatch):
    """Let the package's clock be the loop's, which looptime turns forward."""
    monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


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
