"""The connection to an API server: requests as whom its access says, over all changes of its files.

What the requests are about is said in `incumbent.kubernetes.api`.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
from collections.abc import Mapping
from typing import Self

import aiohttp
import structlog
from aiohttp.abc import AbstractStreamWriter

from incumbent import clock
from incumbent.errors import ClusterUnreachable, ConfigurationError, Unsent
from incumbent.kubernetes.answers import (
    UNAUTHORIZED,
    error_for,
    retry_after_in,
    status_from,
)
from incumbent.kubernetes.kubeconfig import (
    Configuration,
    Given,
    Overrides,
    Source,
    find_source,
    stamps_of,
)
from incumbent.kubernetes.route import KubernetesAccess, route_from
from incumbent.kubernetes.turns import REQUESTS, Turns

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT = 2.0
"""Seconds for a TCP connection: one lost SYN is sent again after 1 s."""

KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""TCP keep-alive of watches: a peer or a path that is gone is noticed after 30 s. An answering
proxy in front of a dead API server is what `incumbent.kubernetes.watch.SILENCE` is for."""

REFRESH = 60.0
"""Seconds after which the access is read again, for tokens that expire (exec plugins, token files).
"""

LOOK_EVERY = 1.0
"""Seconds between looks at the files of the access, for a change. Only requests look."""

READ_BUFFER = 2**21
"""Bytes of an answer that aiohttp keeps before it reads on. A line of a watch may have twice that;
an object has at most 1.5 MiB in etcd."""

IN_NAMESPACE = re.compile(r"/namespaces/([^/?]+)/")
"""What of a path tells the namespace."""

JSON = "application/json"


class Body(aiohttp.payload.BytesPayload):
    """The JSON of a request that may not be sent after a deadline.

    The deadline is compared with the clock where aiohttp hands the first byte of the request to the
    kernel: a wait for a connection, a machine that slept, or an event loop that stood still count.

    Args:
        value: what becomes JSON.
        until: time after which the request is not sent; None: no limit.
    """

    def __init__(self, value: object, *, until: float | None = None) -> None:
        super().__init__(json.dumps(value).encode())
        self._until = until
        self._dropped = False
        self.sent = False
        """Whether something of the request may have reached the API server."""

    def drop(self) -> None:
        """Prevent the request from being sent from now on."""
        self._dropped = True

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Send the request: aiohttp sends headers and body together."""
        if self._dropped or (self._until is not None and clock.now() >= self._until):
            msg = "its time was over before it could be sent"
            raise Unsent(msg)
        self.sent = True
        await super().write_with_length(writer, content_length)


class Connection:
    """How one API server is reached, and as whom.

    Nothing is sent before the first request, and it may be made while the API server is away.
    Nothing is retried.

    The files that describe the access are read again when they change: kubeconfigs, tokens, the CA
    and the client certificate. What cannot be read leaves everything as it was. A new certificate
    counts for new connections; those that are open, such as watches, go on.

    Args:
        configuration: the access.
        default_namespace: that of the context, or of the pod that this runs in.
        source: where to read the access again; None: only certificates are.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        default_namespace: str | None = None,
        source: Source | None = None,
    ) -> None:
        self.default_namespace = default_namespace
        self.turns = Turns(REQUESTS)
        """For requests but watches. `request` and `send` need none: their callers take it."""
        self._source = source or Given(configuration)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._turn = asyncio.Lock()
        self._problem = ""
        self._read = stamps_of(self._source.files)
        self._route = route_from(configuration)
        self._looked_at = self._loaded_at = clock.now()

    @classmethod
    async def find(
        cls,
        kubeconfig: str | None = None,
        *,
        context: str | None = None,
        overrides: Overrides | None = None,
    ) -> Self:
        """Find it as kubectl does, without asking the API server anything.

        In this order: `kubeconfig`, the variable KUBECONFIG (each may list several files),
        ~/.kube/config, the service account of the pod. A kubeconfig is read, never written.
        `overrides` count more than any of these; with a server among them no kubeconfig is needed.

        Raises:
            ConfigurationError: there is no such file or context, it is broken, or there is nothing.
        """
        source, configuration = await find_source(kubeconfig, context, overrides)
        try:
            return cls(configuration, default_namespace=source.namespace, source=source)
        except (OSError, ValueError) as error:
            msg = (
                f"The API server {configuration.host} cannot be reached as configured: {error};"
                " correct its address or the certificates"
            )
            raise ConfigurationError(msg) from error

    async def access(self) -> KubernetesAccess:
        """Return how to reach the API server, with a token that is valid now."""
        await self._look_again()
        return self._route.access(self.default_namespace)

    async def aclose(self) -> None:
        """Close all connections. Whoever still waits for an answer gets `ClusterUnreachable`."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = JSON,
        silence: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send a request and return its answer as soon as it begins, if it is a good one.

        Only the TCP connection has a time limit, so call it within one, and within `translated`:
        what breaks on the way comes as aiohttp raises it.

        Args:
            method: of the request.
            path: of the request.
            query: of the request.
            body: of the request; with a deadline, if it has one.
            content_type: of the body.
            silence: seconds without a byte after which the answer is given up; None: never.

        Raises:
            ClusterError: the API server refused, as `error_for` says.
        """
        response = await self.request(
            method,
            path,
            query=query,
            body=body,
            headers={"Accept": JSON, "Content-Type": content_type},
            limits=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_TIMEOUT, sock_read=silence
            ),
        )
        if response.ok:
            return response
        async with response:
            content = await response.read()
        raise error_for(
            response.status,
            status_from(content),
            request=f"{method} {path}",
            retry_after=retry_after_in(response.headers),
        )

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str],
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Send a request and return its answer, whatever it is, as soon as it begins.

        Args:
            method: of the request.
            path: of the request; it may have a query of its own.
            query: of the request.
            body: of the request.
            headers: of the request, beside those that say who asks.
            limits: of the time.
        """
        await self._look_again()
        if self._closed:
            msg = "The connection to the API server is closed"
            raise ClusterUnreachable(msg)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # Watches would use up any limit, and requests have their turns.
                connector=aiohttp.TCPConnector(limit=0),
                # Otherwise aiohttp looks for a proxy and a .netrc in two threads per request.
                trust_env=False,
                read_bufsize=READ_BUFFER,
            )
        route = self._route
        response = await self._session.request(
            method,
            route.server + path,
            params=query,
            data=body,
            headers=route.signed(headers),
            timeout=limits,
            # Part of the key of a pooled connection: none that trusted another CA is used again.
            ssl=route.tls if route.tls is not None else True,
            server_hostname=route.server_name,
            proxy=route.proxy,
        )
        if response.status == UNAUTHORIZED:
            self._loaded_at = -math.inf  # a token that was replaced may be there already
        return response

    async def _look_again(self) -> None:
        """Read the access again if it is time to, or if a file of it has changed."""
        if not self._due(clock.now()):
            return
        async with self._turn:
            now = clock.now()
            if not self._due(now):
                return
            self._looked_at = now
            read = stamps_of(self._source.files)
            changed = read != self._read or self._route.outdated
            if not changed and now - self._loaded_at < REFRESH:
                return
            self._loaded_at = now
            try:
                self._route = route_from(await self._source.load(), before=self._route)
            except Exception as error:  # noqa: BLE001  # whatever a file leads to in the library
                self._complain(str(error))
            else:
                self._read, self._problem = read, ""
                if changed:
                    log.info("cluster.access_read", server=self._route.server)

    def _due(self, now: float) -> bool:
        return now - self._looked_at >= LOOK_EVERY or now - self._loaded_at >= REFRESH

    def _complain(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            log.warning("cluster.access_not_read", problem=problem)


def namespace_in(path: str) -> str:
    """Return the namespace of the objects at a path; empty if they are of all, or of none."""
    found = IN_NAMESPACE.search(path)
    return found[1] if found else ""


def keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel find out when nobody is left at the other end of a connection."""
    transport = response.connection and response.connection.transport
    link = transport and transport.get_extra_info("socket")
    if not link:  # an answer that has ended already
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not everywhere
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def drop(response: aiohttp.ClientResponse) -> None:
    """Close a connection at once, where TLS would wait for the other end, beyond our own end."""
    transport = response.connection and response.connection.transport
    if transport:
        transport.abort()
    response.close()
