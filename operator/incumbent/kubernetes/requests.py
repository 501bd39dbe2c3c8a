"""Requests to the API server: each when it has its turn, with its JSON as the answer.

Nothing is retried: after a failure the caller has to look and decide again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, TypeVar

import aiohttp

from incumbent import clock
from incumbent.errors import ClusterUnreachable, NotFound, Overloaded, Unsent
from incumbent.kubernetes.answers import UnknownKind, translated
from incumbent.kubernetes.connection import JSON, Body, Connection, namespace_in
from incumbent.kubernetes.fairness import Rank

T = TypeVar("T")

TIMEOUT = 5.0
"""Seconds for a request from the first byte sent to the last one read, and for opening a watch."""

PAGE = 200
"""Pods in one answer to a list. Decoding holds the event loop: 200 pods of 4 KB for some 30 ms, and
3,000 at once for half a second, twice the smallest margin of a deadline (both measured)."""
LONGEST_PAGE = 4_000_000
"""Bytes of such an answer, at most. A pod may have 1.5 MB, and 200 of them would take a gigabyte
while they are decoded. If an answer is longer, a page of fewer is asked for."""
SMALLER = 8
"""So many times fewer."""

RETRY_AFTER = 60.0
"""Seconds to leave the API server alone when it asks for that (the header Retry-After), at most. It
asks for 1 s itself; what is in front of it may ask for anything."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class Requests:
    """The requests of one process to one API server, but for watches.

    Args:
        connection: how the API server is reached.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.timeout = TIMEOUT
        """Seconds for a request that is given no other limit."""

    async def find(self, path: str) -> dict[str, Any] | None:
        """Read one object; None if there is none, NotFound if there is no such kind."""
        try:
            found: dict[str, Any] = await self.ask("GET", path)
        except UnknownKind:
            raise
        except NotFound:
            return None
        return found

    async def collect(
        self,
        path: str,
        taken: Callable[[dict[str, Any]], T],
        selection: Mapping[str, str],
        *,
        since: str = "",
    ) -> tuple[list[T], str]:
        """Return what is taken of all objects of one resourceVersion, and that version.

        Nothing else of an object stays in memory. With `since`, a resourceVersion, the list is at
        least as new as that.
        """
        found: list[T] = []
        version = ""
        async for items, now in self.pages(path, selection, since=since):
            version = now
            found += map(taken, items)
        return found, version

    async def pages(
        self, path: str, selection: Mapping[str, str], *, since: str = ""
    ) -> AsyncGenerator[tuple[list[dict[str, Any]], str]]:
        """Yield what a list has, page by page, and the version that all pages are of."""
        limit, where = PAGE, dict(selection)
        if since:
            where |= {"resourceVersion": since, "resourceVersionMatch": "NotOlderThan"}
        more = None
        while more != "":
            query = {"limit": str(limit), **where}
            try:
                # A single object is never too long: etcd takes no more than 1.5 MB.
                page = await self.ask(
                    "GET", path, query=query, longest=LONGEST_PAGE if limit > 1 else None
                )
            except TooLong:
                limit = max(1, limit // SMALLER)
                continue
            more = page["metadata"].get("continue") or ""
            where = {**selection, "continue": more}
            yield page["items"], page["metadata"]["resourceVersion"]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        timeout: float | None = None,
        within: float | None = None,
        usual: Rank = Rank.ROUTINE,
        longest: int | None = None,
    ) -> Any:
        """Send a request, when it has its turn, and return the JSON of its answer.

        The wait for the turn counts against no limit but `within`: otherwise many that begin at
        once would all fail, be tried again, and make the wait longer (500 elections that started
        together did not come to rest).

        Args:
            method: of the request.
            path: of the request.
            query: of the request.
            body: of the request.
            content_type: of the body.
            timeout: seconds for it, once it has its turn; None: the attribute `timeout`.
            within: seconds for everything; None: no limit.
            usual: its rank, if `turns.urgent` gave it none.
            longest: bytes of the answer, at most; None: no limit.

        Raises:
            TooLong: the answer has more bytes. The rest of it is not read.
            Unsent: it had no turn, or no connection, in time.
        """
        until = None if within is None else clock.now() + within
        namespace = namespace_in(path)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(within):
                    turn = self.connection.turns.turn(usual, namespace=namespace)
                    await stack.enter_async_context(turn)
            except TimeoutError as error:
                sentence = "Other requests to the API server took too long"
                msg = f"{sentence}: {method} {path} was not sent"
                raise Unsent(msg) from error
            try:
                return await self._exchange(
                    method,
                    path,
                    query=query,
                    body=body,
                    content_type=content_type,
                    timeout=timeout,
                    until=until,
                    longest=longest,
                )
            except Overloaded as error:
                self.connection.turns.hold(namespace, min(error.retry_after, RETRY_AFTER))
                raise

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        timeout: float | None,
        until: float | None,
        longest: int | None,
    ) -> Any:
        """Send a request now, not after `until`, and return the JSON of its answer."""
        content = None if body is None else Body(body, until=until)
        try:
            limit = self.timeout if timeout is None else timeout
            if until is not None:
                limit = min(limit, until - clock.now())
            with translated(f"{method} {path}"):
                async with asyncio.timeout(limit):
                    response = await self.connection.send(
                        method,
                        path,
                        query=query,
                        body=content,
                        content_type=content_type,
                    )
                    async with response:
                        return json.loads(await _read(response, longest))
        except ClusterUnreachable as error:
            if content is None or content.sent or isinstance(error, Unsent):
                raise
            msg = f"There was no connection to the API server in time: {method} {path} was not sent"
            raise Unsent(msg) from error
        finally:
            if content is not None:
                content.drop()


class TooLong(Exception):
    """An answer is longer than its reader takes."""


async def _read(response: aiohttp.ClientResponse, longest: int | None) -> bytes:
    """Return the body of an answer.

    Raises:
        TooLong: it has more bytes than that.
    """
    if longest is None:
        return await response.read()
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > longest:
            raise TooLong
    return b"".join(parts)
