"""`incumbent cleanup` where there is more to do than an API server answers at once."""

from __future__ import annotations

import asyncio

from fakecluster import make_election
from incumbent.cluster import CONCURRENCY
from incumbent.commands import cleanup


class Busy:
    """An API server with many elections that counts how many are being let go of."""

    def __init__(self):
        self.begun = self.done = self.most = 0

    async def list_elections(self, namespace):
        """Return all."""
        return [make_election(name=f"e-{number}") for number in range(200)]

    async def list_pods(self, namespace, label_selector):
        """Begin with one."""
        self.begun += 1
        self.most = max(self.most, self.begun - self.done)
        await asyncio.sleep(0)
        return []

    async def end_service(self, namespace, name):
        """End with one."""
        await asyncio.sleep(0)
        self.done += 1

    async def aclose(self):
        """Do nothing."""


async def test_few_elections_are_let_go_of_at_a_time(monkeypatch):
    """Otherwise a strip waits behind the lists of thousands of others for longer than it may."""
    busy = Busy()

    async def connect(*_, **__):
        return busy

    monkeypatch.setattr(cleanup._Cluster, "connect", connect)
    assert await cleanup._clean_up(None, (), None, None) == 200
    assert busy.done == 200
    assert busy.most == CONCURRENCY
