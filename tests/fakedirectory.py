"""A process that the HTTP server asks, with elections that a test makes up."""

from __future__ import annotations

import asyncio

from incumbent import clock


class FakeProcess:
    """Health, metrics and a `Directory` of elections; what was read is counted."""

    def __init__(self):
        self.waiting = {}
        """What it still waits for."""
        self.notes = {}
        self.version = 0
        self.stored = {}
        """By namespace and name."""
        self.remaining = {}
        """What is left of leases, in the same way; 5 s by default."""
        self.awaited = set()
        """Names of elections that are not known yet; None: it is not known which there are."""
        self.terms = []
        self.problem = None
        """What is wrong with the history."""
        self.process_text = "up 1\n"
        self.looks = 0
        """How often an election was read."""
        self.renders = 0
        """How often the metrics of the process were made."""
        self.asked = []
        """Of which elections the history was read."""
        self._changes = {}
        self._news = asyncio.Event()

    # Health and metrics

    def problems(self):
        """See `Health`."""
        return self.waiting

    def rows(self):
        """See `Measured`."""
        return iter(())

    def of_process(self):
        """See `Measured`."""
        self.renders += 1
        return self.process_text

    # What a test does

    def put(self, *names, namespace="shop", **fields):
        """Add elections, or change them."""
        for name in names:
            key = namespace, name
            self.stored[key] = self.stored.get(key, election(namespace, name)) | fields
            self._changes[key] = self.version + 1
        self.tell()

    def remove(self, name, *, namespace="shop"):
        """Delete an election."""
        del self.stored[namespace, name]
        self._changes[namespace, name] = self.version + 1
        self.tell()

    def tell(self):
        """Say that something has changed."""
        self.version += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    # Directory

    def names(self):
        """See `Directory`."""
        return list(self.stored)

    def changes(self, since):
        """See `Directory`."""
        if since < 0:
            return None
        return [key for key, version in self._changes.items() if version > since]

    def election(self, namespace, name):
        """See `Directory`."""
        self.looks += 1
        found = self.stored.get((namespace, name))
        left = self.remaining.get((namespace, name), 5.0)
        return found and found | {"remainingSeconds": left}

    def deadline(self, namespace, name):
        """See `Directory`."""
        left = self.remaining.get((namespace, name), 5.0)
        return None if left is None else clock.now() + left

    def pending(self, namespace="", name=""):
        """See `Directory`."""
        if self.awaited is None:
            return True
        return name in self.awaited if name else bool(self.awaited)

    async def history(self, namespace, name, *, limit):
        """See `Directory`."""
        self.asked.append(f"{namespace}/{name}")
        if (namespace, name) not in self.stored:
            return None
        return {"problem": self.problem, "terms": self.terms[:limit]}

    async def changed(self, since):
        """See `Directory`."""
        while self.version == since:
            await self._news.wait()


def election(namespace, name):
    """Return an election as it is served, but for the time that is left."""
    return {
        "namespace": namespace,
        "name": name,
        "state": "Leader",
        "holder": f"east/{namespace}/{name}-0",
        "leader": {"podName": f"{name}-0"},
        "token": 4711,
        "conditions": [],
    }
