"""Answer each path: health, metrics, elections and their histories, as JSON or as a stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from aiohttp import web

from incumbent import clock, display
from incumbent.server import page
from incumbent.server.bodies import SHORTEST_PAUSE, Body, Content
from incumbent.server.feed import without_countdown
from incumbent.server.gate import BUSY, LONG, PIECE, RETRY_AFTER, Entrance, Limits
from incumbent.server.mirror import NEWS_AT_A_TIME, Mirror, SilentError

KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream gets a comment: proxies close what is silent for 30."""

PULSE = 2.0
"""Seconds between events with the remaining seconds of the leases, in a stream of changes."""

TERMS = 20
"""How many terms are shown of an election if nothing else is asked for."""

EVENT_STREAM = "text/event-stream"


class Views:
    """The answers to all paths."""

    def __init__(self, mirror: Mirror, limits: Limits) -> None:
        self._mirror = mirror
        self._limits = limits
        self._streams = 0
        self._histories = 0
        self._ending = asyncio.Event()

    def add_to(self, router: web.UrlDispatcher, part: str) -> None:
        """Serve one of `PARTS`."""
        if part in {"http", "probes"}:
            router.add_get("/livez", self.livez)
            router.add_get("/readyz", self.readyz)
        if part in {"http", "metrics"}:
            router.add_get("/metrics", self.metrics)
        if part == "http":
            router.add_get("/v1/elections", self.elections, allow_head=False)
            router.add_get("/v1/elections/{namespace}/{name}", self.election, allow_head=False)
            router.add_get("/v1/elections/{namespace}/{name}/history", self.history)
            page.add_to(router)

    def end(self) -> None:
        """Let the streams end."""
        self._ending.set()

    async def livez(self, _request: web.Request) -> web.Response:
        """Say that the event loop that renews runs; a restart would mend nothing else."""
        try:
            await self._mirror.health()
        except SilentError:
            text = "the event loop that renews has stood still for seconds\n"
            return web.Response(status=503, text=text)
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether there was contact with everything, and if not, with what there was none."""
        health = await self._mirror.health()
        problems = health["problems"].items()
        lines = [f"{name}: {wrong}" for name, wrong in problems if wrong]
        status = 503 if lines else 200
        if "verbose" in request.query:
            lines = [
                f"[{'-' if wrong else '+'}]{name}: {wrong or 'ok'}" for name, wrong in problems
            ]
            notes = health["notes"].items()
            lines += [f"[{'!' if wrong else '+'}]{name}: {wrong or 'ok'}" for name, wrong in notes]
        # Servers and webhooks chose some of these words, and people read them in a terminal.
        text = "\n".join(map(display.line, lines or ["ok"]))
        return web.Response(status=status, text=f"{text}\n")

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Return the metrics."""
        return await self._send(request, await self._mirror.metrics())

    async def elections(self, request: web.Request) -> web.StreamResponse:
        """Return all elections; as a stream with `?changes` only what has changed."""
        if EVENT_STREAM in request.headers.get("Accept", ""):
            changes = "changes" in request.query
            return await self._stream(request, self._changes if changes else self._wholes)
        body = await self._mirror.all_elections()
        return unknown() if self._mirror.pending else await self._send(request, body)

    async def election(self, request: web.Request) -> web.StreamResponse:
        """Return one election."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        answer = await self._mirror.election(namespace, name)
        if (found := answer["found"]) is None:
            return none(request, pending=answer["pending"])
        if EVENT_STREAM in request.headers.get("Accept", ""):
            return await self._stream(request, self._ones)
        return web.json_response(found)

    async def history(self, request: web.Request) -> web.StreamResponse:
        """Return the latest terms of one election."""
        limit = request.query.get("limit", str(TERMS))
        if not re.fullmatch(r"[1-9]\d{0,3}", limit):
            msg = f"limit has to be a number from 1 to 9999, not {limit!r}."
            return web.json_response({"error": msg}, status=400)
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        long = int(limit) > LONG
        if long and self._histories >= self._limits.histories:
            return busy()
        self._histories += long
        try:
            body, pending = await self._mirror.history(namespace, name, int(limit))
            if body is None:
                return none(request, pending=pending)
            return await self._send(request, body)
        finally:
            self._histories -= long

    async def _send(self, request: web.Request, body: Body) -> web.StreamResponse:
        """Send a body that all clients share, in pieces, so that none of them holds a copy."""
        headers = {"Content-Type": body.kind, "ETag": body.tag, "Vary": "Accept-Encoding"}
        if body.tag in request.headers.get("If-None-Match", ""):
            return web.Response(status=304, headers=headers)
        content = body.content
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            content = await body.compressed()
            headers["Content-Encoding"] = "gzip"
        if request.method == "HEAD":
            return web.Response(headers=headers)
        response = web.StreamResponse(headers={**headers, "Content-Length": str(len(content))})
        async with reading(body, request):
            await response.prepare(request)
            await self._write(request, response, content)
            await response.write_eof()
        return response

    async def _write(
        self, request: web.Request, response: web.StreamResponse, content: Content
    ) -> None:
        """Write in pieces; a reader that takes too long for one of them is not waited for."""
        view = memoryview(content)
        try:
            for start in range(0, len(view), PIECE):
                async with asyncio.timeout(self._limits.stall_seconds):
                    await response.write(view[start : start + PIECE])
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError from None

    async def _stream(
        self, request: web.Request, events: Callable[[web.Request], AsyncGenerator[Content, None]]
    ) -> web.StreamResponse:
        """Send events until there are none any more, or the server ends."""
        if self._streams >= self._limits.streams:
            return busy()
        self._streams += 1
        end = self._mirror.follow()
        try:
            await self._mirror.update()
            if self._mirror.pending and "name" not in request.match_info:
                return unknown()
            response = web.StreamResponse(
                headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"}
            )
            await response.prepare(request)
            entrance = request.transport.get_protocol() if request.transport else None
            if isinstance(entrance, Entrance):
                entrance.stay()
            async with contextlib.aclosing(events(request)) as news:
                async for one in news:
                    await self._write(request, response, one)
            await response.write_eof()
            return response
        finally:
            self._streams -= 1
            end()

    async def _wholes(self, request: web.Request) -> AsyncGenerator[Content, None]:
        """Yield all elections, now and after each change, at most once a second."""
        sent, spoke = -1, clock.now()
        while not self._ending.is_set() and not self._mirror.pending:
            step = self._mirror.step
            if step != sent:
                body = await self._mirror.all_elections(step)
                async with reading(body, request):
                    for part in (b"data: ", body.content, b"\n\n"):
                        yield part
                sent, spoke = body.step, clock.now()
            elif clock.now() >= spoke + KEEP_ALIVE:
                yield b": keep-alive\n\n"
                spoke = clock.now()
            await self._change(sent, timeout=spoke + KEEP_ALIVE - clock.now())

    async def _ones(self, request: web.Request) -> AsyncGenerator[bytes, None]:
        """Yield one election, now and after each change, until it is gone.

        What changes while the reader is slow is one event, the latest.
        """
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        sent, spoke = "", clock.now()
        while not self._ending.is_set():
            step = self._mirror.step
            shown = self._mirror.elections.get(f"{namespace}/{name}")
            if shown != sent:
                answer = await self._mirror.election(namespace, name)
                if answer["found"] is None:
                    if not answer["pending"]:
                        yield event({"error": no_such(request)}, kind="gone")
                    break
                yield event(answer["found"])
                sent = json.dumps(without_countdown(answer["found"]))
                spoke = clock.now()
            elif clock.now() >= spoke + KEEP_ALIVE:
                yield b": keep-alive\n\n"
                spoke = clock.now()
            await self._change(step, timeout=spoke + KEEP_ALIVE - clock.now())

    async def _changes(self, request: web.Request) -> AsyncGenerator[Content, None]:
        """Yield all elections once, and then only those that have changed.

        With a thousand of them, all would be a megabyte for each change. Now and then an event
        tells what is left of the leases, which is no change.
        """
        mirror = self._mirror
        sent, pulse = -1, 0.0
        while not self._ending.is_set() and not mirror.pending:
            step = mirror.step
            if (news := mirror.news(sent)) is None:
                left, body = await mirror.all_remaining(), await mirror.all_elections()
                async with reading(body, request):
                    yield b'data: {"full": true, "changed": '
                    yield body.content
                    yield b', "gone": [], "remaining": %b}\n\n' % left
                sent, pulse = body.step, clock.now() + PULSE
            else:
                for start in range(0, len(news), NEWS_AT_A_TIME):
                    told = mirror.told(news[start : start + NEWS_AT_A_TIME])
                    yield b'data: {"full": false, %b}\n\n' % told
                if clock.now() >= pulse:
                    pulse = clock.now() + PULSE
                    yield b'data: {"full": false, "changed": [], "gone": [], "remaining": '
                    yield await mirror.all_remaining()
                    yield b"}\n\n"
                sent = step
            await asyncio.sleep(SHORTEST_PAUSE)
            await self._change(sent, timeout=pulse - clock.now())

    async def _change(self, step: int, *, timeout: float) -> None:
        """Wait for a change after a step, the end, or until `timeout` seconds have passed."""
        waits = [
            asyncio.ensure_future(self._mirror.changed(step)),
            asyncio.ensure_future(self._ending.wait()),
        ]
        try:
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


@contextlib.asynccontextmanager
async def reading(body: Body, request: web.Request) -> AsyncIterator[None]:
    """Keep track of who reads a body."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError
    body.readers.add(transport)
    try:
        yield
    finally:
        body.readers.discard(transport)


def event(data: Any, *, kind: str = "") -> bytes:
    """Encode a server-sent event, of the kind `message` if none is given."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


def unknown() -> web.Response:
    """Say that it is not known which elections there are."""
    return _later("The operator starts or ends, and does not know all elections now; ask again.")


def silent() -> web.Response:
    """Say that the process that renews does not answer."""
    return _later("The part of the operator that renews does not answer now; ask again.")


def busy() -> web.Response:
    """Say that there are too many streams, or long histories."""
    return _later(BUSY)


def _later(message: str) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER)}
    return web.json_response({"error": message}, status=503, headers=headers)


def none(request: web.Request, *, pending: bool) -> web.Response:
    """Say that the election does not exist, if that is certain."""
    return unknown() if pending else web.json_response({"error": no_such(request)}, status=404)


def no_such(request: web.Request) -> str:
    """Say that the election of a request does not exist."""
    wanted = "{namespace}/{name}".format_map(request.match_info)
    return f"There is no LeaderElection {wanted}, or this operator does not look after it."
