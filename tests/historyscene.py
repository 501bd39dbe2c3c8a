"""Replicas that write the history of one key, into one stream, with a clock of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter

from fakehistory import FakeHistory
from fakes import SERVER_AHEAD, FakeBucket
from incumbent.campaign import wire
from incumbent.campaign.records import Record
from incumbent.history.terms import (
    Began,
)
from incumbent.history.writer import HistoryWriter

KEY = "shop.billing"
BUCKET = "2026-01-01T00:00:01Z"
TTL = 10.0
ZERO = SERVER_AHEAD


def began(token, holder="a", at=0.0, how="Elected", **fields):
    return Began(token, holder, at, BUCKET, "east", how, **fields)


class Observer(Counter):
    """Counts what the writer of a history reports."""

    def history_entry(self, outcome):
        """See `HistoryObserver`."""
        self[outcome] += 1

    def term_began(self, how):
        """See `HistoryObserver`."""
        self[f"began {how}"] += 1

    def term_ended(self, cause):
        """See `HistoryObserver`."""
        self[f"ended {cause}"] += 1


class Scene:
    """A bucket, a history, and replicas that write it."""

    def __init__(self):
        self.bucket = FakeBucket(ttl=TTL)
        self.store = FakeHistory()
        self.running = {}

    def start(self, name):
        """Start a replica."""
        one = HistoryWriter(self.store.view(), replica=name, observer=Observer())
        end = one.follow(self.bucket, KEY)
        self.running[one] = asyncio.create_task(one.run()), end
        return one

    async def kill(self, one):
        """End a replica as SIGKILL does."""
        task, _ = self.running.pop(one)
        one._keys[self.bucket.name, KEY].end()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def write(self, replica, holder="a", *, term=0):
        """Let a replica write a record."""
        written = Record(0, holder, term=term, replica=replica, site="east/uid")
        return self.bucket.put(KEY, holder, wire.headers_of(written))

    @property
    def entries(self):
        """What is kept, as JSON."""
        return [json.loads(data) for data in self.store.messages(KEY)]

    @property
    def tokens(self):
        """The tokens of all beginnings that are kept."""
        return [entry["token"] for entry in self.entries if entry["kind"] == "began"]
