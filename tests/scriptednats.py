"""A NATS server that is scripted: it holds one bucket, and delivers when a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

from incumbent.campaign.ports import Sighting
from incumbent.errors import BucketDenied
from incumbent.nats.bucket import NatsBucket
from incumbent.nats.feed import HEARTBEAT_EVERY
from incumbent.nats.ports import Take

KEYS = ("a", "b", "c")
DENIED = BucketDenied("NATS refuses us the subject")


class Server:
    """A connection to a server that holds one stream and delivers when it is told to."""

    domain: str | None = None

    def __init__(self) -> None:
        self.created = "2026-01-01T00:00:00Z"
        self.ttl = 30.0
        self.revision = 0
        self.messages: dict[str, int] = {}
        """The latest revision of every key."""
        self.calls: list[str] = []
        self.consumers = 0
        self.beating = self.delivering = True
        self.failure: Exception | None = None
        self.on_call: Callable[[str], None] = lambda _: None
        self.up = asyncio.Event()
        self.up.set()
        self._take: Take | None = None
        self._number = 0
        self._stored: dict[int, float] = {}
        """When each revision was stored."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait_connected(self) -> None:
        """Return when it is up."""
        await self.up.wait()

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Answer what a bucket asks."""
        call = subject.removeprefix("$JS.API.").partition(".KV_")[0]
        self.calls.append(call)
        await asyncio.sleep(0.001)
        if self.failure is not None:
            raise self.failure
        self.on_call(call)
        if call == "CONSUMER.CREATE":
            self.consumers += 1
            pending = len(self.messages)
            self.spawn(self._deliver(dict(self.messages)), name="consumer")
            return {"num_pending": pending}
        if call == "STREAM.MSG.GET":
            revision = self.messages.get(json.loads(payload)["last_by_subj"].removeprefix("$KV.B."))
            if revision is None:
                return {"error": {"code": 404, "err_code": 10037}}
            stored_at = self._written(self._stored.get(revision, 0.0))
            return {"message": {"seq": revision, "time": stored_at}}
        return {
            "config": {"max_age": int(self.ttl * 1e9)},
            "created": self.created,
            "state": {"last_seq": self.revision},
            "ts": self._written(self._now),
        }

    @asynccontextmanager
    async def subscribe(self, take: Take) -> AsyncIterator[str]:
        """Deliver to this one from now on."""
        self._take, self._number = take, 0
        try:
            yield "_INBOX.x"
        finally:
            self._take = None

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run it until the end of the test."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _written(self, seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00") + "Z"

    async def aclose(self) -> None:
        """End all that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, snapshot: Mapping[str, int]) -> None:
        if not self.delivering:
            return
        for position, (key, revision) in enumerate(sorted(snapshot.items(), key=lambda kv: kv[1])):
            await asyncio.sleep(0.002)
            if self.messages.get(key) == revision:
                self.deliver(key, revision, pending=len(snapshot) - position - 1)
        mine = self.consumers
        while self.consumers == mine:
            await asyncio.sleep(HEARTBEAT_EVERY)
            if self.beating and self.consumers == mine:
                self.beat()

    def store(self, key: str, *, deliver: bool = True) -> int:
        """Put a record."""
        self.revision += 1
        self.messages[key] = self.revision
        self._stored[self.revision] = self._now
        if deliver:
            self.deliver(key, self.revision)
        return self.revision

    def deliver(self, key: str, revision: int, *, pending: int = 0, lost: bool = False) -> None:
        """Send a message to the watch, or lose it on the way."""
        self._number += 1
        stored_at = int(self._stored.get(revision, self._now) * 1e9)
        reply = f"$JS.ACK.KV_B.c.1.{revision}.{self._number}.{stored_at}.{pending}"
        if self._take is not None and not lost:
            self._take(f"$KV.B.{key}", reply, b"holder", {})

    def beat(self, delivered: int | None = None) -> None:
        """Send a heartbeat."""
        last = self._number if delivered is None else delivered
        if self._take is not None:
            self._take("_INBOX.x", "", b"", {"Status": "100", "Nats-Last-Consumer": str(last)})


@asynccontextmanager
async def watched(bucket: NatsBucket) -> AsyncIterator[dict[str, list[Sighting]]]:
    """What watches of three keys show once they have begun."""
    sightings: dict[str, list[Sighting]] = {key: [] for key in KEYS}
    ends = [bucket.watch(key, sightings[key].append) for key in KEYS]
    await asyncio.sleep(0.5)
    assert all(map(len, sightings.values()))
    for seen in sightings.values():
        seen.clear()
    yield sightings
    for end in ends:
        end()


def facts(sightings: list[Sighting]) -> list[tuple[int, bool]]:
    """Return the revisions and whether they were live."""
    return [(sighting.entry.revision, sighting.live) for sighting in sightings]


@contextmanager
def refusing(server: Server, refused: Mapping[str, Exception]) -> Iterator[None]:
    """Answer some calls with an error."""

    def refuse(call: str) -> None:
        if call in refused:
            raise refused[call]

    server.on_call = refuse
    yield
    server.on_call = lambda _: None
