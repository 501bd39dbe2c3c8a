"""What the HTTP server knows of the elections, asked from the process that renews (`feed`).

Everything is asked for only when a client wants it, at most once a second, and shared by all
clients that want it meanwhile.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from incumbent import clock
from incumbent.server import bodies
from incumbent.server.bodies import Bodies, Body, Content, Shared
from incumbent.server.changelog import ChangeLog
from incumbent.server.feed import DROPPED, ENDS
from incumbent.server.metrics import CONTENT_TYPE, Exposition

JSON = "application/json; charset=utf-8"

PATIENCE = 3.0
"""Seconds that the renewing loop has to show that it runs, before /livez denies it. A garbage
collection with 10,000 elections, or a start with as many, takes less."""

STOOD_STILL = 1.0
"""Seconds by which a late timer here shows that this process stood still as well."""

FORGOTTEN_AFTER = 60.0
"""Seconds without a reader after which the elections are forgotten here."""

NEWS_AT_A_TIME = 50
"""Elections in one event of a stream of changes, about 100 kB: each reader may hold its own."""

MOST_HISTORIES = 8
"""Histories that are kept to be shared; one of 10,000 terms is 4 MB."""


class SilentError(Exception):
    """The process that renews has not answered."""


class Link:
    """The server's end of the connection to the process that renews."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._answers: dict[int, asyncio.Queue[str]] = {}
        self._last = 0
        self.over = asyncio.Event()
        """Set when the process that renews has gone."""

    async def run(self) -> None:
        """Read answers until the other process has gone."""
        try:
            while line := await self._reader.readline():
                number, _, rest = line.decode().rstrip("\n").partition(" ")
                if answer := self._answers.get(int(number)):
                    answer.put_nowait(rest)
        except OSError:
            pass
        finally:
            self.over.set()
            for answer in self._answers.values():
                answer.put_nowait("!")
            self._writer.close()

    async def ask(self, kind: str, **details: Any) -> AsyncIterator[str]:
        """Yield the lines of an answer.

        Raises:
            SilentError: there is none.
        """
        if self.over.is_set():
            raise SilentError
        self._last += 1
        number = self._last
        answer = self._answers[number] = asyncio.Queue()
        try:
            question = json.dumps({"id": number, "ask": kind, **details})
            self._writer.write(f"{question}\n".encode())
            while (line := await answer.get()) not in ENDS:
                yield line
            if line == "!":
                raise SilentError
        except (asyncio.CancelledError, GeneratorExit):
            self._writer.write(f"{json.dumps({'id': number, 'ask': DROPPED})}\n".encode())
            raise
        finally:
            del self._answers[number]

    async def ask_one(self, kind: str, **details: Any) -> Any:
        """Return an answer of one line, decoded."""
        found = None
        async for line in self.ask(kind, **details):
            found = json.loads(line)
        return found


class Mirror:
    """The elections, metrics and health that clients want."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.elections: dict[str, str] = {}
        """By `namespace/name` what is served of each, as JSON, but for the time that is left."""
        self.deadlines: dict[str, float] = {}
        self.pending = True
        """Whether `elections` may lack some."""
        self.step = 0
        """Grows with each change of `elections` or `pending`."""
        self._changes: ChangeLog[str] = ChangeLog()
        """Its versions are the steps."""
        self._stirred = asyncio.Event()
        self._told: tuple[int, tuple[str, ...], bytes] | None = None
        """The latest result of `told`, with its step and its elections."""
        self._version = -1
        self._wanted_at = clock.now()
        self._readers = 0
        self._following: asyncio.Task[None] | None = None
        self._updated = Shared(self._update, lasts=bodies.SHORTEST_PAUSE)
        self._health = Shared(self._ask_health, lasts=bodies.SHORTEST_PAUSE)
        self._timed = Shared(self._ask_deadlines)
        self._list = Bodies(self._make_list, "elections")
        self._remaining = Shared(self._make_remaining, lasts=bodies.SHORTEST_PAUSE)
        self._metrics = Bodies(self._make_metrics, "metrics")
        self._histories: OrderedDict[tuple[str, str, int], Shared[tuple[Body | None, bool]]] = (
            OrderedDict()
        )

    async def health(self) -> dict[str, dict[str, str]]:
        """Return `problems` and `notes` of the process that renews; so its event loop runs.

        Raises:
            SilentError: it has not answered in time.
        """
        while True:
            began = clock.now()
            try:
                async with asyncio.timeout(PATIENCE):
                    return await self._health.get()
            except TimeoutError:
                # After a pause of the machine both have just begun to run again: then it is asked
                # once more, or the pod would be killed for nothing.
                if clock.now() < began + PATIENCE + STOOD_STILL:
                    raise SilentError from None

    async def metrics(self) -> Body:
        """Return what a scrape gets."""
        return await self._metrics.get()

    async def all_elections(self, step: int = -1) -> Body:
        """Return all elections, as of a second ago; or as of a step as soon as that may be."""
        return await self._list.get(step)

    async def all_remaining(self) -> bytes:
        """Return as JSON what is left of every lease."""
        return await self._remaining.get()

    def news(self, step: int) -> list[str] | None:
        """Return which elections changed after a step.

        None: only the whole list can tell.
        """
        changed = self._changes.since(step)
        return None if changed is None else sorted(changed)

    def told(self, keys: Iterable[str]) -> bytes:
        """Return the fields of an event that tells of elections as they are now."""
        keys = tuple(keys)
        if self._told is None or self._told[:2] != (self.step, keys):
            whole = bytes(self.whole(key for key in keys if key in self.elections))
            gone = json.dumps([key for key in keys if key not in self.elections]).encode()
            self._told = self.step, keys, b'"changed": %b, "gone": %b' % (whole, gone)
        return self._told[2]

    async def changed(self, step: int) -> None:
        """Return as soon as there is a later step."""
        while self.step <= step:
            await self._stirred.wait()

    async def election(self, namespace: str, name: str) -> dict[str, Any]:
        """Return one election: `found`, and `pending` if nobody can say that there is none."""
        answer: dict[str, Any] = await self._link.ask_one(
            "election", namespace=namespace, name=name
        )
        return answer

    async def history(self, namespace: str, name: str, limit: int) -> tuple[Body | None, bool]:
        """Return the terms of one election, None if there is none, and `pending` as above."""
        key = namespace, name, limit
        shared = self._histories.pop(key, None)
        if shared is None:

            async def ask() -> tuple[Body | None, bool]:
                details = {"namespace": namespace, "name": name, "limit": limit}
                header, *rest = [line async for line in self._link.ask("history", **details)]
                # It is not decoded: objects take several times the memory of the text.
                tag = f'"history-{clock.now()}"'
                body = Body(rest[0].encode(), JSON, tag, 0) if rest else None
                return body, json.loads(header)["pending"]

            shared = Shared(ask)
        self._histories[key] = shared
        if len(self._histories) > MOST_HISTORIES:
            self._histories.popitem(last=False)
        return await shared.get()

    async def update(self) -> None:
        """Bring `elections` up to date, as of a moment ago."""
        self._wanted_at = clock.now()
        await self._updated.get()

    async def update_deadlines(self) -> None:
        """Bring `deadlines` up to date, as of a second ago."""
        await self._timed.get()

    def remaining(self, key: str) -> float | None:
        """Return how many seconds are left of a lease, None if there is none."""
        deadline = self.deadlines.get(key)
        return None if deadline is None else round(max(0.0, deadline - clock.now()), 3)

    def whole(self, keys: Iterable[str]) -> bytearray:
        """Return elections as a JSON list, each with the time that is left."""
        found, comma = bytearray(b"["), ""
        for key in keys:
            left = json.dumps(self.remaining(key))
            one = f'{comma}{self.elections[key][:-1]}, "remainingSeconds": {left}}}'
            found += one.encode()
            comma = ", "
        found += b"]"
        return found

    def follow(self) -> Callable[[], None]:
        """Keep `elections` up to date until the result is called."""
        self._readers += 1
        if self._following is None or self._following.done():
            self._following = asyncio.create_task(self._follow())

        def end() -> None:
            self._readers -= 1
            if not self._readers and self._following is not None:
                self._following.cancel()
                self._wanted_at = clock.now()

        return end

    def forget(self) -> None:
        """Let go of what is not shared any more, and of the elections if nobody wants them."""
        now = clock.now()
        for key in [key for key, one in self._histories.items() if one.made and now > one.until]:
            del self._histories[key]
        if self._readers or not self.elections or clock.now() < self._wanted_at + FORGOTTEN_AFTER:
            return
        self.elections, self.deadlines, self._version = {}, {}, -1
        self._changes.forget_gone(self.elections, self.step)
        self._told = self._remaining.made = None
        for kept in (self._list, self._metrics):
            kept.forget()

    def close(self) -> None:
        """Follow nothing any more."""
        if self._following is not None:
            self._following.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(max(0.0, self._updated.until - clock.now()))
            await self.update()
            async for _ in self._link.ask("change", since=self._version):
                pass

    async def _update(self) -> bool:
        header: dict[str, Any] = {}
        seen: set[str] = set()
        changed = False
        async for line in self._link.ask("changes", since=self._version):
            if not header:
                header = json.loads(line)
                continue
            key, _, shown = line.partition(" ")
            seen.add(key)
            changed = self._put(key, shown) or changed
        for key in [key for key in self.elections if key not in seen] if header["full"] else ():
            changed = self._put(key, "") or changed
        self._version = header["version"]
        if changed or self.pending != header["pending"]:
            self.pending = header["pending"]
            self.step += 1
            self._changes.trim(self.elections, self.step)
            stirred, self._stirred = self._stirred, asyncio.Event()
            stirred.set()
        return True

    def _put(self, key: str, shown: str) -> bool:
        if self.elections.get(key, "") == shown:
            return False
        if shown:
            self.elections[key] = shown
        else:
            del self.elections[key]
        self._changes.note(key, self.step + 1)
        return True

    async def _ask_health(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = await self._link.ask_one("health")
        return found

    async def _ask_deadlines(self) -> bool:
        found: dict[str, float | None] = {}
        async for line in self._link.ask("deadlines"):
            found.update(json.loads(line))
        self.deadlines = {key: at for key, at in found.items() if at is not None}
        return True

    async def _make_list(self) -> tuple[Content, str, int]:
        await asyncio.gather(self.update(), self.update_deadlines())
        return self.whole(sorted(self.elections)), JSON, self.step

    async def _make_remaining(self) -> bytes:
        await self.update_deadlines()
        left = ((key, self.remaining(key)) for key in sorted(self.deadlines))
        return json.dumps({key: seconds for key, seconds in left if seconds}).encode()

    async def _make_metrics(self) -> tuple[Content, str, int]:
        text, rest = Exposition(), ""
        async for line in self._link.ask("metrics"):
            found = json.loads(line)
            if isinstance(found, str):
                rest = found
            else:
                for row in found:
                    text.add(row)
        return text.render(rest), CONTENT_TYPE, 0
