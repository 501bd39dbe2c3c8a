"""Serve over HTTP what the renewing process knows.

`views` answers the requests from a `Mirror`. A `Gate` limits what a client may take. The server
does not ask who a client is, because nothing that it serves is secret: names, states and tokens.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)

import structlog
from aiohttp import hdrs, web

from incumbent.kubernetes.resource import PROGRAM_HEADER
from incumbent.server.feed import LINE, Directory, Feed, Health, Measured
from incumbent.server.gate import Gate, Limits
from incumbent.server.hosts import Hosts
from incumbent.server.listen import BACKLOG, Sockets, addresses_of, bind
from incumbent.server.mirror import Link, Mirror, SilentError
from incumbent.server.views import Views, silent

SHUTDOWN = 1.0
"""Seconds that answers under way have at the end. A stream ends at once, if it is read."""

TIDY = 5.0
"""Seconds between looks for what nobody wants any more."""

WRONG_HOST = 421

log = structlog.get_logger(__name__)


async def serve(
    address: str,
    *,
    health: Health,
    metrics: Measured,
    directory: Directory,
    notes: Callable[[], Mapping[str, str]] = dict,
    limits: Limits | None = None,
    hosts: Iterable[str] = (),
) -> Server:
    """Serve in this process and event loop until `aclose()` of the result.

    The operator does not: it serves from a process of its own, see `frontend`.

    Args:
        address: `host:port`, as for `listen.parse_address`.
        health: for /readyz: ready when there is no problem.
        metrics: for /metrics.
        directory: for / and /v1/elections.
        notes: for /readyz?verbose: what else is wrong, by part, and does not make it unready.
        limits: of what clients may take.
        hosts: names to answer to, besides those that `Hosts` always allows.

    Raises:
        ConfigurationError: this is no address, or one at which this process cannot listen.
    """
    sockets = {"http": await bind(address)}
    ours, theirs = socket.socketpair()
    feed = Feed(health, metrics, directory, notes)
    feeding = asyncio.create_task(
        feed.serve(*await asyncio.open_unix_connection(sock=theirs, limit=LINE))
    )
    link = Link(*await asyncio.open_unix_connection(sock=ours, limit=LINE))
    server = Server(sockets, link, limits=limits, hosts=hosts, also=[feeding])
    await server.start()
    log.info("http.listening", addresses=server.addresses)
    return server


class Server:
    """Serves at sockets what the process at the other end of a link knows.

    Args:
        sockets: they listen already.
        link: to the process that renews.
        limits: of what clients may take, at each part for itself.
        hosts: names to answer to, besides those that `Hosts` always allows.
        also: tasks that end with the server.
    """

    def __init__(
        self,
        sockets: Sockets,
        link: Link,
        *,
        limits: Limits | None = None,
        hosts: Iterable[str] = (),
        also: Iterable[asyncio.Task[None]] = (),
    ) -> None:
        self._sockets = sockets
        self._link = link
        self._limits = limits or Limits()
        self._hosts = Hosts(hosts)
        self._tasks = [*also]
        self._mirror = Mirror(link)
        self._views = Views(self._mirror, self._limits)
        self._runners: list[web.AppRunner] = []
        self._gates: list[Gate] = []
        self._servers: list[asyncio.Server] = []
        self.addresses = addresses_of(sockets.get("http", ()))
        """Where everything is served, each as `host:port`."""

    async def start(self) -> None:
        """Begin to serve."""
        self._tasks += [asyncio.create_task(self._link.run()), asyncio.create_task(self._tidy())]
        loop = asyncio.get_running_loop()
        for part, sockets in self._sockets.items():
            runner = web.AppRunner(
                self._application(part),
                access_log=None,
                shutdown_timeout=SHUTDOWN,
                handler_cancellation=True,  # a stream whose reader is gone ends at once
                lingering_time=0,
            )
            await runner.setup()
            self._runners.append(runner)
            assert runner.server is not None  # noqa: S101  # it was set up
            gate = Gate(self._limits, runner.server)
            self._gates.append(gate)
            for one in sockets:
                self._servers.append(await loop.create_server(gate, sock=one, backlog=BACKLOG))

    async def aclose(self) -> None:
        """End the streams, give other answers a second, and stop."""
        for server in self._servers:
            server.close()
        self._views.end()
        await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        for gate in self._gates:
            gate.close()
        self._mirror.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY)
            self._mirror.forget()

    def _application(self, part: str) -> web.Application:
        @web.middleware
        async def check_host(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            host = request.headers.get(hdrs.HOST)  # None in HTTP/1.0, which no browser speaks
            allowed = host is None or self._hosts.allow(host) or _by_program(request)
            if not allowed:
                return web.json_response({"error": wrong_host(request)}, status=WRONG_HOST)
            try:
                return await handler(request)
            except SilentError:
                return silent()
            except ConnectionError:
                # The client has gone, or was let go. That is not worth a line in the log: clients
                # could fill a disk with such lines.
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=503)

        application = web.Application(middlewares=[check_host])
        self._views.add_to(application.router, part)
        application.on_response_prepare.append(_close_behind)
        return application


async def _close_behind(_request: web.Request, response: web.StreamResponse) -> None:
    """Let a connection carry one request only; and share no answer with other origins."""
    response.force_close()
    response.headers[hdrs.CONNECTION] = "close"
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")


def _by_program(request: web.Request) -> bool:
    """Whether a request comes from a program: no script in a page can set such a header.

    Behind the proxy of an API server, `Host` is the name of that server, which nobody knows here.
    """
    return PROGRAM_HEADER in request.headers


def wrong_host(request: web.Request) -> str:
    """Say that a name is not answered to, and what to do."""
    name = re.sub(r":\d*$", "", request.headers.get(hdrs.HOST, ""))[:253]
    return (
        f"This operator does not answer to the name {name!r}: to allow it, start the operator with"
        " --http-host and the name."
    )
