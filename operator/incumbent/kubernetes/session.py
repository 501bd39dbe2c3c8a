"""The session through which kopf sends its requests over our connection.

kopf accepts any aiohttp session. This one implements the few methods that kopf uses. It gives kopf
the advantages of `connection`: current certificates and tokens, the proxy, and watches whose
silence is detected.

A watch that was interrupted is not simply resumed. During the interruption, etcd may have been
restored from a backup. Then the resourceVersions went back, and a watch from a later version shows
nothing. Therefore the session first asks the callback `interrupted`, which checks all objects, and
kopf lists them again if that is necessary.
"""

from __future__ import annotations

import asyncio
import json
import math
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp

from incumbent.errors import ClusterError
from incumbent.kubernetes.answers import UNAUTHORIZED, retry_after_in
from incumbent.kubernetes.connection import JSON, Body, Connection, keep_alive, namespace_in
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.requests import RETRY_AFTER
from incumbent.kubernetes.turns import apart
from incumbent.kubernetes.watch import HEALTHY, SLACK, pause_before

LATE = 10.0
"""Seconds after its planned end by which a healthy watch has ended. Silence cannot be detected
sooner: for a kind whose objects do not change, such as CustomResourceDefinitions, the API server
sends bookmarks only as often as etcd reports its progress, which may be every 10 minutes. TCP
keep-alive detects a peer that is gone."""

GONE = 410


@dataclass(slots=True)
class Watch:
    """The latest watch of a path."""

    listed: bool = False
    """Whether the path was listed since then, so that the next watch starts from that list."""
    opened: float = -math.inf
    """Time of its start on the event loop's clock, which stops while the machine sleeps."""
    ends: float = math.inf
    """Time at which the API server ends the watch as planned."""
    failures: int = 0
    """Number of watches in a row that were interrupted soon after their start."""


class Session:
    """The part of an `aiohttp.ClientSession` that kopf uses.

    Args:
        connection: the connection that sends the requests.
        interrupted: is called with the path of an interrupted watch and its last version. It
            returns whether kopf must list again. If it raises, kopf tries the watch again.
    """

    def __init__(
        self, connection: Connection, *, interrupted: Callable[[str, str], Awaitable[bool]]
    ) -> None:
        self.headers: dict[str, str] = {}
        """Headers for all requests. kopf adds its name here."""
        self.closed = False
        self._connection = connection
        self._interrupted = interrupted
        self._watches: dict[str, Watch] = {}

    async def request(
        self,
        *,
        method: str,
        url: str,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse | ListAgain:
        """Send a request.

        Args:
            method: the HTTP method.
            url: the path and query.
            json: the body.
            headers: the headers.
            timeout: the time limits.

        Raises:
            aiohttp.ClientConnectionError: there was no valid answer. kopf tries again.
        """
        parts = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qs(parts.query)
        watch = self._watches.setdefault(parts.path, Watch())
        try:
            if "watch" in query:
                return await self._watch(watch, url, timeout)
            body = None if json is None else Body(json)
            # Only this request takes a turn. A watch takes none, because it goes on for minutes.
            namespace, turns = namespace_in(parts.path), self._connection.turns
            with apart():
                async with turns.turn(_rank(method), namespace=namespace):
                    response = await self._send(method, url, body, headers or {}, timeout)
                    await response.read()  # keep the turn until the whole answer is read
            if (pause := retry_after_in(response.headers)) is not None:
                turns.hold(namespace, min(pause, RETRY_AFTER))
        except (ClusterError, aiohttp.ClientResponseError, OSError, ValueError) as error:
            if isinstance(error, (aiohttp.ClientConnectionError, TimeoutError)):
                raise
            msg = f"{method.upper()} {parts.path}: {error}"
            raise aiohttp.ClientConnectionError(msg) from error
        watch.listed = watch.listed or (method.upper() == "GET" and response.ok)
        return response

    async def close(self) -> None:
        """Close the session. The connection stays open."""
        self.closed = True

    async def _watch(
        self, watch: Watch, url: str, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse | ListAgain:
        parts = urllib.parse.urlsplit(url)
        query = dict(urllib.parse.parse_qsl(parts.query))
        now = asyncio.get_running_loop().time()
        if not (watch.listed or watch.ends - SLACK <= now <= watch.ends + LATE):
            watch.failures = 0 if now - watch.opened > HEALTHY else watch.failures + 1
            if watch.failures > 1:
                await asyncio.sleep(pause_before(watch.failures))
            if await self._interrupted(parts.path, query.get("resourceVersion", "")):
                return ListAgain()
        watch.listed, watch.ends = False, math.inf  # in case the watch cannot be opened
        seconds = float(query["timeoutSeconds"])
        limits = aiohttp.ClientTimeout(
            total=timeout.total, sock_connect=timeout.sock_connect, sock_read=seconds + 2 * LATE
        )
        response = await self._send("GET", url, None, {}, limits)
        if response.status == GONE:
            response.close()
            return ListAgain()
        if response.ok:
            keep_alive(response)
            watch.opened = asyncio.get_running_loop().time()
            watch.ends = watch.opened + seconds
        return response

    async def _send(
        self,
        method: str,
        url: str,
        body: Body | None,
        headers: Mapping[str, str],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        response = await self._connection.request(
            method.upper(),
            url,
            body=body,
            headers={"Accept": JSON, "Content-Type": JSON, **self.headers, **headers},
            limits=timeout,
        )
        if response.status == UNAUTHORIZED:
            # If kopf saw the 401, it would log in again at once, forever.
            response.close()
            msg = "The API server does not accept the credentials (401)"
            raise aiohttp.ClientConnectionError(msg)
        return response


def _rank(method: str) -> Rank:
    """Return the rank of a request. kopf writes only finalizers.

    Slow requests of a namespace, such as patches of pods at a webhook that hangs, make other
    requests of their rank wait. They must not delay the deletion of an election.
    """
    return Rank.FINALIZER if method.upper() == "PATCH" else Rank.ROUTINE


class ListAgain:
    """An answer to a watch that says, as an API server does, that its version is too old."""

    status = 200
    closed = False

    def __init__(self) -> None:
        self.content = self

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        """Yield the only event, an error."""
        problem = {"kind": "Status", "code": GONE, "message": "the watch was interrupted"}
        yield json.dumps({"type": "ERROR", "object": problem}).encode() + b"\n"

    def close(self) -> None:
        """Do nothing: there is no connection."""

    async def __aenter__(self) -> Self:
        """Start reading the answer."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop reading the answer."""
