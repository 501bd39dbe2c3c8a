"""Health, metrics and the list of elections over HTTP; the only user of `aiohttp.web`.

Nothing here asks who is asking, and nothing that is served is secret: names, states and tokens.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog
from aiohttp import web

from incumbent import clock, page
from incumbent.errors import ConfigurationError
from incumbent.logs import redact

KEEP_ALIVE = 15.0
"""Seconds of silence after which a stream gets a comment: proxies close what is silent for 30."""

PULSE = 2.0
"""Seconds between looks at what is left of the leases, for who asked for changes only."""

SHORTEST_PAUSE = 0.2
"""Seconds between two events of such a stream, at least, however much changes."""

SHUTDOWN = 1.0
"""Seconds that answers under way have at the end. A stream ends at once, if it is read."""

RETRY_AFTER = 2
"""Seconds after which to ask again for elections that are not known yet."""

TERMS = 20
"""How many terms are shown of an election if nothing else is asked for."""

EVENT_STREAM = "text/event-stream"

log = structlog.get_logger(__name__)


class Health(Protocol):
    """What the process still waits for."""

    def problems(self) -> Mapping[str, str]:
        """Return why it is not ready, by dependency, in words; empty for one that is there."""
        ...


class Directory(Protocol):
    """The elections that this process takes part in."""

    version: int
    """Changes whenever what the methods return changes in anything but `remainingSeconds`."""

    def elections(self) -> Sequence[Mapping[str, Any]]:
        """Return all of them, as they are to be served, each with its `remainingSeconds` of now."""
        ...

    def election(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return one of them, None if there is no such election, or it is not known yet."""
        ...

    def pending(self, namespace: str = "", name: str = "") -> bool:
        """Whether nobody can say that there is no such election: the process starts, or ends.

        Without a name: whether `elections` may lack some.
        """
        ...

    async def history(self, namespace: str, name: str, *, limit: int) -> Mapping[str, Any] | None:
        """Return the latest terms of an election, None if there is no such election."""
        ...

    async def changed(self, since: int) -> None:
        """Return as soon as `version` is not `since`."""
        ...


async def serve(
    address: str,
    *,
    health: Health,
    metrics: Callable[[], tuple[bytes, str]],
    directory: Directory,
    notes: Callable[[], Mapping[str, str]] = dict,
) -> Server:
    """Serve until `aclose()` of the result.

    Args:
        address: `host:port`, as for `parse_address`.
        health: for /readyz: ready when there is no problem.
        metrics: returns the body and the content type of /metrics.
        directory: for / and /v1/elections.
        notes: for /readyz?verbose: what else is wrong, by part, and does not make it unready.

    Raises:
        ConfigurationError: this is no address, or one at which this process cannot listen.
    """
    host, port = parse_address(address)
    views = Views(health, metrics, directory, notes)
    app = web.Application()
    app.router.add_get("/livez", views.livez)
    app.router.add_get("/readyz", views.readyz)
    app.router.add_get("/metrics", views.metrics)
    app.router.add_get("/v1/elections", views.elections, allow_head=False)
    app.router.add_get("/v1/elections/{namespace}/{name}", views.election, allow_head=False)
    app.router.add_get("/v1/elections/{namespace}/{name}/history", views.history)
    page.add_to(app.router)
    app.on_shutdown.append(views.shut_down)
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=SHUTDOWN,
        handler_cancellation=True,  # a stream whose reader is gone ends at once
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host or None, port).start()
    except OSError as error:
        await runner.cleanup()
        # asyncio puts a long sentence of its own there, unless the name cannot be resolved.
        unknown = isinstance(error, socket.gaierror)
        why = error.strerror if unknown else os.strerror(error.errno or errno.EINVAL)
        msg = f"Cannot listen at {address}: {why}; set another --http-address."
        raise ConfigurationError(msg) from error
    server = Server(runner)
    log.info("http.listening", addresses=server.addresses)
    return server


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `:port` (no host: all addresses) or `[IPv6]:port`.

    Port 0 stands for any that is free.

    Raises:
        ConfigurationError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/\s]*)):(\d{1,5})", address)
    if match and int(match[3]) < 1 << 16:
        return match[1] or match[2] or "", int(match[3])
    msg = f"{address!r} is not an address; write it like :8080, 127.0.0.1:8080 or [::1]:8080."
    raise ConfigurationError(msg)


class Server:
    """A server that listens."""

    def __init__(self, runner: web.AppRunner) -> None:
        self._runner = runner

    @property
    def addresses(self) -> list[str]:
        """Where, each as `host:port`."""
        return [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            for host, port, *_ in self._runner.addresses
        ]

    async def aclose(self) -> None:
        """End the streams, give other answers a second, and stop."""
        await self._runner.cleanup()


class Views:
    """What is answered to each path."""

    def __init__(
        self,
        health: Health,
        metrics: Callable[[], tuple[bytes, str]],
        directory: Directory,
        notes: Callable[[], Mapping[str, str]],
    ) -> None:
        self._notes = notes
        self._health = health
        self._metrics = metrics
        self._directory = directory
        self._ending = asyncio.Event()

    async def shut_down(self, _app: web.Application) -> None:
        """Let the streams end."""
        self._ending.set()

    async def livez(self, _request: web.Request) -> web.Response:
        """Say that the event loop runs; a restart would mend nothing else."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """Say whether there was contact with everything, and if not, with what there was none."""
        problems = self._health.problems().items()
        lines = [f"{name}: {wrong}" for name, wrong in problems if wrong]
        status = 503 if lines else 200
        if "verbose" in request.query:
            lines = [
                f"[{'-' if wrong else '+'}]{name}: {wrong or 'ok'}" for name, wrong in problems
            ]
            notes = self._notes().items()
            lines += [f"[{'!' if wrong else '+'}]{name}: {wrong or 'ok'}" for name, wrong in notes]
        return web.Response(status=status, text=redact("\n".join(lines or ["ok"])) + "\n")

    async def metrics(self, _request: web.Request) -> web.Response:
        """Return the metrics."""
        body, content_type = self._metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def elections(self, request: web.Request) -> web.StreamResponse:
        """Return all elections; as a stream with `?changes` only what has changed."""
        if self._directory.pending():
            return unknown()
        if "changes" in request.query and EVENT_STREAM in request.headers.get("Accept", ""):
            return await self._stream_changes(request)
        return await self._answer(request, self._directory.elections)

    async def election(self, request: web.Request) -> web.StreamResponse:
        """Return one election."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        return await self._answer(request, lambda: self._directory.election(namespace, name))

    async def history(self, request: web.Request) -> web.Response:
        """Return the latest terms of one election."""
        limit = request.query.get("limit", str(TERMS))
        if not re.fullmatch(r"[1-9]\d{0,3}", limit):
            msg = f"limit has to be a number from 1 to 9999, not {limit!r}."
            return web.json_response({"error": msg}, status=400)
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        found = await self._directory.history(namespace, name, limit=int(limit))
        if found is None:
            return self._none(request)
        return web.json_response({**found, "problem": redact(found["problem"] or "") or None})

    async def _answer(self, request: web.Request, look: Callable[[], Any]) -> web.StreamResponse:
        if (found := look()) is None:
            return self._none(request)
        if EVENT_STREAM in request.headers.get("Accept", ""):
            return await self._stream(request, look)
        return web.json_response(found)

    def _none(self, request: web.Request) -> web.Response:
        """Say that there is no such election, if that is certain."""
        if self._pending(request):
            return unknown()
        return web.json_response({"error": no_such(request)}, status=404)

    def _pending(self, request: web.Request) -> bool:
        where = request.match_info
        return self._directory.pending(where["namespace"], where["name"])

    async def _stream(self, request: web.Request, look: Callable[[], Any]) -> web.StreamResponse:
        """Send what `look` returns, now and after each change, until it returns None.

        Every event has the body that a plain answer would have. What changes while the reader is
        slow is sent as one event, the latest: at most one waits, in the buffer of the transport.
        """
        response = await self._begin_stream(request)
        sent, spoke = None, clock.now()
        while not self._ending.is_set():
            version = self._directory.version
            if (found := look()) is None:
                if not self._pending(request):
                    await response.write(event({"error": no_such(request)}, kind="gone"))
                break
            if (lasting := without_countdown(found)) != sent:
                await response.write(event(found))
                sent, spoke = lasting, clock.now()
            elif clock.now() >= spoke + KEEP_ALIVE:
                await response.write(b": keep-alive\n\n")
                spoke = clock.now()
            await self._change(version, timeout=spoke + KEEP_ALIVE - clock.now())
        await response.write_eof()
        return response

    async def _stream_changes(self, request: web.Request) -> web.StreamResponse:
        """Send all elections once, and then only those that have changed.

        With a thousand of them, all would be a megabyte for each change. Now and then an event
        tells what is left of the leases, which is no change.
        """
        response = await self._begin_stream(request)
        sent: dict[str, Any] = {}
        full, pulse = True, 0.0
        while not self._ending.is_set():
            version = self._directory.version
            if self._directory.pending():
                break  # the process ends, and not the elections
            found = {f"{e['namespace']}/{e['name']}": e for e in self._directory.elections()}
            lasting = {key: without_countdown(one) for key, one in found.items()}
            news: dict[str, Any] = {
                "full": full,
                "changed": [one for key, one in found.items() if lasting[key] != sent.get(key)],
                "gone": [key for key in sent if key not in found],
            }
            if clock.now() >= pulse:
                pulse = clock.now() + PULSE
                left = {key: one["remainingSeconds"] for key, one in found.items()}
                news["remaining"] = {key: seconds for key, seconds in left.items() if seconds}
            if len(news) > 3 or news["changed"] or news["gone"]:  # noqa: PLR2004 - it has a pulse
                await response.write(event(news))
            sent, full = lasting, False
            await asyncio.sleep(SHORTEST_PAUSE)
            await self._change(version, timeout=pulse - clock.now())
        await response.write_eof()
        return response

    async def _begin_stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": EVENT_STREAM, "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        return response

    async def _change(self, version: int, *, timeout: float) -> None:
        """Wait for a change, the end, or until `timeout` seconds have passed."""
        waits = [
            asyncio.ensure_future(self._directory.changed(version)),
            asyncio.ensure_future(self._ending.wait()),
        ]
        try:
            done, _ = await asyncio.wait(
                waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            for wait in done:
                wait.result()
        finally:
            for wait in waits:
                wait.cancel()


def event(data: Any, *, kind: str = "") -> bytes:
    """Encode a server-sent event, of the kind `message` if none is given."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(data)}\n\n".encode()


def without_countdown(found: Any) -> Any:
    """Return elections without what differs at every look."""
    if isinstance(found, Mapping):
        return {name: value for name, value in found.items() if name != "remainingSeconds"}
    return [without_countdown(one) for one in found]


def unknown() -> web.Response:
    """Say that it is not known which elections there are."""
    msg = "The operator starts or ends, and does not know all elections now; ask again."
    headers = {"Retry-After": str(RETRY_AFTER)}
    return web.json_response({"error": msg}, status=503, headers=headers)


def no_such(request: web.Request) -> str:
    """Say that the election of a request does not exist."""
    wanted = "{namespace}/{name}".format_map(request.match_info)
    return f"There is no LeaderElection {wanted}, or this operator does not look after it."
