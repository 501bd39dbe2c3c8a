"""How kopf sends its requests: through our connection, and never blind after an interruption.

kopf takes any aiohttp session. This one has the few things that kopf asks of it. It gives kopf what
`connection` has: certificates and tokens of now, the proxy, and watches whose silence is noticed.

A watch that was interrupted is not just resumed. Behind an interruption there may be an API server
whose etcd was restored from a backup: its versions went back, and a watch from a later version
shows nothing. So whoever serves the objects looks at all of them first, and kopf lists them again
if that is necessary.
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
"""Seconds after its time by which a watch has ended if nothing is wrong. There is no sooner sign of
silence: of a kind whose objects do not change, such as definitions of kinds, the API server sends
bookmarks only as often as etcd tells it about others, which may be every 10 minutes. A peer that is
gone is noticed by TCP's keep-alive."""

GONE = 410


@dataclass(slots=True)
class Watch:
    """The latest watch of a path."""

    listed: bool = False
    """Whether the path was listed since, so that the next watch begins with what is there."""
    opened: float = -math.inf
    """When it was opened, by the clock of the loop, which stands still while the machine sleeps."""
    ends: float = math.inf
    """When the API server ends it by itself."""
    failures: int = 0
    """How many watches before this one were interrupted soon after they had begun."""


class Session:
    """What kopf uses of an `aiohttp.ClientSession`.

    Args:
        connection: which sends the requests.
        interrupted: is called with the path of a watch that was interrupted, and the version that
            it came to; returns whether kopf has to list again. What it raises is tried again.
    """

    def __init__(
        self, connection: Connection, *, interrupted: Callable[[str, str], Awaitable[bool]]
    ) -> None:
        self.headers: dict[str, str] = {}
        """For all requests; kopf puts its name here."""
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
            method: of the request.
            url: its path and query.
            json: the body.
            headers: of the request.
            timeout: limits of its time.

        Raises:
            aiohttp.ClientConnectionError: there was no answer that counts. kopf tries again.
        """
        parts = urllib.parse.urlsplit(url)
        query = urllib.parse.parse_qs(parts.query)
        watch = self._watches.setdefault(parts.path, Watch())
        try:
            if "watch" in query:
                return await self._watch(watch, url, timeout)
            body = None if json is None else Body(json)
            # A watch takes no turn: it goes on for minutes.
            namespace, turns = namespace_in(parts.path), self._connection.turns
            with apart():
                async with turns.turn(_rank(method), namespace=namespace):
                    response = await self._send(method, url, body, headers or {}, timeout)
                    await response.read()  # here, so that the turn lasts until all of it is there
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
        """End it; the connection stays open."""
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
        watch.listed, watch.ends = False, math.inf  # for now: it may not come about
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
            # kopf would log in again at once, and for ever.
            response.close()
            msg = "The API server does not accept the credentials (401)"
            raise aiohttp.ClientConnectionError(msg)
        return response


def _rank(method: str) -> Rank:
    """Return how urgent a request is. The only thing that kopf writes is a finalizer.

    Slow requests of a namespace, such as its pods' patches at a webhook that hangs, keep others of
    their rank waiting. They must not keep kopf from the deletion of an election.
    """
    return Rank.FINALIZER if method.upper() == "PATCH" else Rank.ROUTINE


class ListAgain:
    """The answer to a watch by which an API server says that its version is too old."""

    status = 200
    closed = False

    def __init__(self) -> None:
        self.content = self

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        """Yield the one event."""
        problem = {"kind": "Status", "code": GONE, "message": "the watch was interrupted"}
        yield json.dumps({"type": "ERROR", "object": problem}).encode() + b"\n"

    def close(self) -> None:
        """Do nothing: there is no connection."""

    async def __aenter__(self) -> Self:
        """Begin to read it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
