"""Requests to the API server. Each waits for its turn, and returns the JSON of the answer.

No request is retried. After a failure the caller must read and decide again.
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
"""Seconds from the first byte of a request to the last byte of its answer, or to open a watch."""

PAGE = 200
"""Number of pods in one page of a list. Decoding blocks the event loop: for about 30 ms with 200
pods of 4 KB, and for half a second with 3,000 pods (both measured). Half a second is twice the
smallest margin of a deadline."""
LONGEST_PAGE = 4_000_000
"""Greatest number of bytes of a page. A pod may have 1.5 MB, and decoding 200 such pods would take
a gigabyte of memory. If a page is longer, the request is sent again for fewer objects."""
SMALLER = 8
"""Factor by which the next page is smaller after a page that was too long."""

RETRY_AFTER = 60.0
"""Longest pause in seconds if an answer asks for a pause (the header Retry-After). An API server
asks for 1 s, but a proxy in front of it may ask for any time."""

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class Requests:
    """The requests of one process to one API server, except watches.

    Args:
        connection: the connection to the API server.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.timeout = TIMEOUT
        """Seconds for a request without another limit."""

    async def find(self, path: str) -> dict[str, Any] | None:
        """Read one object; None if it does not exist, `NotFound` if its kind does not exist."""
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
        """List objects; return `taken` of each object, and the resourceVersion of the list.

        Nothing else of an object stays in memory. With `since`, the list is at least as new as this
        resourceVersion.
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
        """Yield the pages of a list, each with the resourceVersion that all pages share."""
        limit, where = PAGE, dict(selection)
        if since:
            where |= {"resourceVersion": since, "resourceVersionMatch": "NotOlderThan"}
        more = None
        while more != "":
            query = {"limit": str(limit), **where}
            try:
                # A single object is never too long, because etcd stores at most 1.5 MB.
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
        """Wait for a turn, send a request, and return the JSON of its answer.

        The wait for the turn counts only against `within`. If it counted against `timeout`, many
        requests that begin together would fail, be tried again, and make the wait longer (500
        elections that started together never came to rest).

        Args:
            method: the HTTP method.
            path: the path.
            query: the query parameters.
            body: the body.
            content_type: the media type of the body.
            timeout: seconds for the request after it got its turn; None: the attribute `timeout`.
            within: seconds for the wait and the request; None: no limit.
            usual: the rank of the request if `turns.urgent` gave it none.
            longest: greatest number of bytes of the answer; None: no limit.

        Raises:
            TooLong: the answer has more than `longest` bytes. The rest of it is not read.
            Unsent: the request got no turn or no connection in time.
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
        """Send a request without waiting for a turn, but not after `until`; return the JSON."""
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
    """An answer is longer than the caller allows."""


async def _read(response: aiohttp.ClientResponse, longest: int | None) -> bytes:
    """Return the body of an answer.

    Raises:
        TooLong: it has more than `longest` bytes.
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
