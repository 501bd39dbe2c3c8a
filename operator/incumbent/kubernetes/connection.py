"""The connection to an API server. It reads the access data again when their files change.

`incumbent.kubernetes.api` has the requests themselves.
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
"""TCP keep-alive of watches. It detects a lost peer or network path after 30 s. If a proxy answers
in front of a dead API server, `incumbent.kubernetes.watch.SILENCE` detects it."""

REFRESH = 60.0
"""Seconds after which the access data are read again, because tokens of exec plugins and files can
expire."""

LOOK_EVERY = 1.0
"""Seconds between checks whether the files have changed. Only requests cause a check."""

READ_BUFFER = 2**21
"""Bytes of an answer that aiohttp buffers before it stops reading. A line of a watch may have twice
as many. An object in etcd has at most 1.5 MiB."""

IN_NAMESPACE = re.compile(r"/namespaces/([^/?]+)/")
"""The part of a path that names the namespace."""

JSON = "application/json"

USED = "is used by transport"
"""Part of the message with which uvloop refuses a socket."""


class Body(aiohttp.payload.BytesPayload):
    """The JSON of a request that may not be sent after a deadline.

    The deadline is checked when aiohttp hands the first byte of the request to the kernel. A
    wait for a connection, a machine that slept, and a blocked event loop count, too.

    Args:
        value: the value to encode as JSON.
        until: time after which the request is not sent; None: no limit.
    """

    def __init__(self, value: object, *, until: float | None = None) -> None:
        super().__init__(json.dumps(value).encode())
        self._until = until
        self._dropped = False
        self.sent = False
        """Whether a part of the request may have reached the API server."""

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
    """The connection to one API server, with address and credentials.

    Creating it sends nothing, so it can be created while the API server is away. No request is
    retried.

    The files with the access data are read again when they change: kubeconfigs, tokens, the CA and
    the client certificate. If reading fails, the last data stay in use. A new certificate is used
    for new connections. Open connections, such as watches, go on.

    Args:
        configuration: the access data.
        default_namespace: the namespace of the context, or of the pod that this program runs in.
        source: the source from which to read the access data again; None: only the certificates
            are read again.
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
        """Turns for all requests except watches. Callers of `request` and `send` take the turn."""
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
        """Find the access data as kubectl does, without a request to the API server.

        The first of these is used: `kubeconfig`, the variable KUBECONFIG (each may list several
        files), ~/.kube/config, the service account of the pod. A kubeconfig is read, never written.
        `overrides` replace values from all of these. If they name a server, no kubeconfig is
        needed.

        Raises:
            ConfigurationError: the file or context does not exist or is broken, or there are no
                access data.
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
        """Send a request and return its answer as soon as it begins, if its status is good.

        Only the TCP connection has a time limit, so call this within a time limit. Also call it
        within `translated`, because it lets the exceptions of aiohttp through.

        Args:
            method: the HTTP method.
            path: the path.
            query: the query parameters.
            body: the body, which may have a deadline.
            content_type: the media type of the body.
            silence: seconds without a byte after which to give up the answer; None: never.

        Raises:
            ClusterError: the API server refused; see `error_for`.
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
        """Send a request and return its answer, with any status, as soon as it begins.

        Args:
            method: the HTTP method.
            path: the path, which may include a query.
            query: the query parameters.
            body: the body.
            headers: the headers, without those for authentication.
            limits: the time limits.
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
        try:
            response = await self._session.request(
                method,
                route.server + path,
                params=query,
                data=body,
                headers=route.signed(headers),
                timeout=limits,
                # aiohttp reuses a pooled connection only if it was opened with this TLS context.
                ssl=route.tls if route.tls is not None else True,
                server_hostname=route.server_name,
                proxy=route.proxy,
            )
        except RuntimeError as error:
            # uvloop refuses a new socket while an aborted connection with its number is not closed.
            if USED not in str(error):
                raise
            raise aiohttp.ClientConnectionError(str(error)) from error
        if response.status == UNAUTHORIZED:
            self._loaded_at = -math.inf  # read the token again, because it may have been replaced
        return response

    async def _look_again(self) -> None:
        """Read the access data again if they are too old, or if one of their files has changed."""
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
            except Exception as error:  # noqa: BLE001  # a broken file can cause any exception
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
    """Return the namespace in a path; empty for all namespaces or objects without one."""
    found = IN_NAMESPACE.search(path)
    return found[1] if found else ""


def keep_alive(response: aiohttp.ClientResponse) -> None:
    """Let the kernel find out when the other end of a connection is gone."""
    transport = response.connection and response.connection.transport
    link = transport and transport.get_extra_info("socket")
    if not link:  # an answer that has ended already
        return
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # not all systems have all of these options
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def drop(response: aiohttp.ClientResponse) -> None:
    """Close a connection at once, without waiting for the other end as TLS would."""
    transport = response.connection and response.connection.transport
    if transport:
        transport.abort()
    response.close()
