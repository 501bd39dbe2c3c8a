"""Stand-ins for what is outside the process. They pass the contract suites of the real things."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome, Sighting
from incumbent.campaign.records import BucketInfo, Cause, Entry, Marker, Nothing, Record
from incumbent.errors import BucketDenied, BucketError, BucketInvalid, BucketUnreachable

INFO_TIMEOUT = 2.0
SERVER_AHEAD = 1_800_000_000.0
"""Seconds by which the server's clock, since 1970, is ahead of the loop's, which begins at 0."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the bucket, recorded before anything happened to it."""

    name: str
    """`create`, `renew`, `transfer`, `release`, `evict`, `read` or `info`."""
    key: str = ""
    value: str = ""
    expected: int = 0
    headers: Mapping[str, str] | None = None
    at: float = 0.0
    """By the loop's clock."""


@dataclass(frozen=True, slots=True)
class _Message:
    entry: Entry
    stored_at: float


class FakeBucket:
    """A bucket in memory, on the clock of the running loop, so looptime can speed it up.

    It shows a change to the watchers one turn of the loop after it is stored, and answers after
    that. The faults are context managers; they can be combined, and last as long as their block.
    """

    def __init__(
        self,
        name: str = "LEADER_ELECTION",
        *,
        ttl: float = 5.0,
        markers: bool = True,
        replicas: int = 1,
        clustered: bool = False,
    ) -> None:
        self.name = name
        self.ttl = ttl
        self.markers = markers
        self.replicas = replicas
        self.clustered = clustered
        self.problem: BucketError | None = None
        self.settings: BucketInfo | None = None
        self.server_ahead: float | None = None
        self.denied: dict[str, BucketDenied | BucketInvalid] = {}
        self.calls: list[Operation] = []
        self._generation = 1
        """How many buckets of this name there were."""
        self._epoch = 0
        """How often the watchers were shown the latest entries."""
        self._revision = 0
        self._messages: dict[str, _Message] = {}
        self._values: dict[int, str] = {}
        self._watchers: dict[str, dict[object, Callable[[Sighting], None]]] = {}
        self._listeners: dict[object, Callable[[], None]] = {}
        self._synchronised = False
        self._shown_to = -1
        """The revision up to which the watchers were shown everything; -1: they were not."""
        self._lost_at = 0.0
        self._drop_requests = self._drop_answers = self._unreachable = False
        self._delay = 0.0

    @property
    def operations(self) -> list[str]:
        """What was called, for example `["create", "renew", "release"]`."""
        return [call.name for call in self.calls]

    def operations_on(self, key: str) -> list[str]:
        """What was called for a key."""
        return [call.name for call in self.calls if call.key == key]

    # The port

    async def info(self) -> BucketInfo:
        """Return the settings."""
        self._record("info")
        await self._reach(INFO_TIMEOUT)
        return self._info()

    async def write(
        self, key: str, value: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Store a record if the last revision of the key is the expected one."""
        held = self._values.get(expected)
        name = "create" if held is None else "renew" if held == value else "transfer"
        self._record(name, key, value, expected, headers)
        return await self._publish(key, value, expected, headers, timeout)

    async def remove(
        self, key: str, *, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        """Store a delete marker if the last revision of the key is the expected one."""
        name = "release" if wire.RELEASE in headers else "evict"
        self._record(name, key, "", expected, headers)
        return await self._publish(key, "", expected, headers, timeout)

    async def read(self, key: str, *, timeout: float) -> Sighting:
        """Return the latest entry of the key."""
        self._record("read", key)
        await self._reach(timeout)
        return self._latest(key)

    def watch(self, key: str, seen: Callable[[Sighting], None]) -> Callable[[], None]:
        """Show the latest entry of the key and every later one."""
        token = object()
        self._watchers.setdefault(key, {})[token] = seen
        if self._synchronised:
            seen(self._latest(key))
        else:
            asyncio.get_running_loop().call_soon(self._synchronise)

        def end() -> None:
            self._watchers[key].pop(token, None)

        return end

    def listen(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Tell about changes of `problem` and `settings`."""
        token = object()
        self._listeners[token] = changed
        if not self._synchronised:
            asyncio.get_running_loop().call_soon(self._synchronise)

        def end() -> None:
            self._listeners.pop(token, None)

        return end

    # What strangers do

    def put(self, key: str, value: str, headers: Mapping[str, str] | None = None) -> int:
        """Store a record whatever there is, as `nats kv put` does; returns the revision."""
        return self._store(key, value, headers or {})

    def delete(self, key: str) -> int:
        """Put a delete marker, as `nats kv del` does; returns its revision."""
        return self._store(key, "", {wire.OPERATION: "DEL"})

    def purge(self, key: str) -> int:
        """Put a purge marker, as `nats kv purge` does; returns its revision."""
        return self._store(key, "", {wire.OPERATION: "PURGE", "Nats-Rollup": "sub"})

    def recreate(self, *, ttl: float | None = None) -> None:
        """Delete the bucket, and make it anew: no message, and revisions from 1 on."""
        self._generation += 1
        self._revision, self._shown_to = 0, -1
        self._messages.clear()
        self._values.clear()
        self.configure(ttl=ttl)
        if self._synchronised:
            self._show_all()

    def configure(self, *, ttl: float | None = None) -> None:
        """Change the settings; records that are stored already keep their time of expiry."""
        self.ttl = self.ttl if ttl is None else ttl
        if self._synchronised:
            self._take_settings()

    # Faults

    @contextmanager
    def dropping_requests(self) -> Iterator[None]:
        """Lose every request: nothing is stored, and no answer comes."""
        self._drop_requests = True
        try:
            yield
        finally:
            self._drop_requests = False

    @contextmanager
    def dropping_answers(self) -> Iterator[None]:
        """Lose every answer: writes are stored, and their outcome stays unknown."""
        self._drop_answers = True
        try:
            yield
        finally:
            self._drop_answers = False

    @contextmanager
    def delaying(self, seconds: float) -> Iterator[None]:
        """Deliver every request later; one that is given up before is delivered all the same."""
        before, self._delay = self._delay, seconds
        try:
            yield
        finally:
            self._delay = before

    @contextmanager
    def unreachable(self, problem: str = "NATS cannot be reached") -> Iterator[None]:
        """Lose the connection; afterwards the watchers are shown what there is by then."""
        self._unreachable, self._synchronised = True, False
        self._lost_at = self._now()
        self._set_problem(BucketUnreachable(problem))
        try:
            yield
        finally:
            self._unreachable = False
            self._synchronise()

    # Inside

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _record(
        self,
        name: str,
        key: str = "",
        value: str = "",
        expected: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.calls.append(Operation(name, key, value, expected, headers, self._now()))

    def _info(self) -> BucketInfo:
        return BucketInfo(
            name=self.name,
            ttl=self.ttl,
            history=1,
            replicas=self.replicas,
            created=f"2026-01-01T00:00:{self._generation:02}Z",
            markers=self.markers,
            mirror=False,
            clustered=self.clustered,
            server_time=self._now(),
        )

    async def _reach(self, timeout: float) -> None:
        """Let a request that asks for something reach the server, and the answer come back."""
        if self._unreachable and self.problem is not None:
            raise self.problem
        lost = self._drop_requests or self._drop_answers or self._delay > timeout
        await asyncio.sleep(timeout if lost else self._delay)
        if lost or self._unreachable:
            msg = f"no answer from NATS within {timeout:g} s"
            raise BucketUnreachable(msg)

    async def _publish(
        self, key: str, value: str, expected: int, headers: Mapping[str, str], timeout: float
    ) -> Answer:
        if self._unreachable:
            return Answer(Outcome.REFUSED, reason=str(self.problem))
        drop_request, drop_answer, delay = self._drop_requests, self._drop_answers, self._delay
        answers: list[Answer] = []

        def arrive() -> None:
            last = self._latest(key).entry.revision
            if last == expected:
                answers.append(Answer(Outcome.STORED, self._store(key, value, headers)))
            else:
                reason = f"wrong last sequence: {last}"
                answers.append(Answer(Outcome.REFUSED, reason=reason))

        if not drop_request and delay:
            asyncio.get_running_loop().call_later(delay, arrive)
        elif not drop_request:
            arrive()
        lost = drop_request or drop_answer or delay > timeout
        await asyncio.sleep(timeout if lost else delay)
        await asyncio.sleep(0)
        if lost or self._unreachable:
            return Answer(Outcome.UNKNOWN, reason=f"no answer from NATS within {timeout:g} s")
        return answers[0]

    def _store(self, key: str, value: str, headers: Mapping[str, str]) -> int:
        self._revision += 1
        revision = self._revision
        entry = wire.entry_from(value.encode(), headers, revision)
        self._messages[key] = _Message(entry, self._now())
        if isinstance(entry, Record):
            self._values[revision] = value
        loop = asyncio.get_running_loop()
        if self.ttl and headers.get("Nats-TTL") != "never":
            lifetime = self.ttl
            if wire.MARKER_REASON in headers:
                lifetime = max(1.0, self.ttl)
            loop.call_later(lifetime, self._expire, key, revision, self._generation)
        if self._synchronised:
            sighting = Sighting(entry, live=True, stored_at=SERVER_AHEAD + self._now())
            loop.call_soon(self._show, key, sighting, self._epoch)
        return revision

    def _expire(self, key: str, revision: int, generation: int) -> None:
        message = self._messages.get(key)
        if message is None or message.entry.revision != revision or generation != self._generation:
            return
        del self._messages[key]
        if self.markers and message.entry != Marker(revision, Cause.EXPIRED):
            self._store(key, "", {wire.MARKER_REASON: "MaxAge"})

    def _latest(self, key: str) -> Sighting:
        message = self._messages.get(key)
        if message is None:
            return Sighting(Nothing())
        age = self._now() - message.stored_at
        return Sighting(message.entry, age, stored_at=SERVER_AHEAD + message.stored_at)

    def _synchronise(self) -> None:
        if self._synchronised or self._unreachable:
            return
        self._synchronised = True
        self._take_settings()
        self._set_problem(None)
        self._show_all()

    def _show_all(self) -> None:
        self._epoch += 1
        latest = {message.entry.revision for message in self._messages.values()}
        missing = set(range(self._shown_to + 1, self._revision + 1)) - latest
        unseen_for = max(0.001, self._now() - self._lost_at) if missing else 0.0
        unseen_for = math.inf if self._shown_to < 0 else unseen_for
        for key in tuple(self._watchers):
            self._show(key, replace(self._latest(key), unseen_for=unseen_for), self._epoch)
        self._shown_to = self._revision

    def _show(self, key: str, sighting: Sighting, epoch: int) -> None:
        if not self._synchronised or epoch != self._epoch:
            return  # the watchers were, or will be, shown the latest since this was stored
        self._shown_to = max(self._shown_to, sighting.entry.revision)
        watchers = self._watchers.get(key, {})
        for token, seen in tuple(watchers.items()):
            if token in watchers:
                seen(sighting)

    def _take_settings(self) -> None:
        before, self.settings = self.settings, self._info()
        self.server_ahead = SERVER_AHEAD
        if (
            before is None
            or replace(before, server_time=self.settings.server_time) != self.settings
        ):
            self._tell()

    def _set_problem(self, problem: BucketError | None) -> None:
        before, self.problem = self.problem, problem
        if (type(before), str(before)) != (type(problem), str(problem)):
            self._tell()

    def _tell(self) -> None:
        for changed in tuple(self._listeners.values()):
            changed()
