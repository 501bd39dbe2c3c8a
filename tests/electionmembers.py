"""What the tests of the library share: its times, and a NATS that is a fake bucket."""

from __future__ import annotations

import asyncio

from incumbent.nats.connection import NatsConnection

KEY = "jobs"
TTL = 6.0
LEASE = 5.4
"""Seconds for which a stored write counts: TTL less 10 %."""
INTERVAL = 2.0


class FakeNats(NatsConnection):
    """A connection that has one bucket, whatever name is asked for."""

    def __init__(self, bucket):
        self.fake = bucket

    def bucket(self, name):  # noqa: D102
        return self.fake


async def settle():
    """Let everything happen that needs no time."""
    await asyncio.sleep(0.05)


def errors(logs):
    return [entry["event"] for entry in logs if entry["log_level"] in {"error", "critical"}]
