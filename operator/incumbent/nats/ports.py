"""What a bucket, and the stream of a history, need from a connection to NATS.

`connection.NatsConnection` is the implementation; tests script their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Take = Callable[[str, str, bytes, Mapping[str, str]], None]
"""Takes a message: its subject, reply subject, data and headers. Must not block."""


class Connection(Protocol):
    """A connection that can request and subscribe; every method may raise a `BucketError`."""

    domain: str | None
    """The JetStream domain, if it is not the server's own."""

    async def wait_connected(self) -> None:
        """Return when there is a connection."""
        ...

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send a request and return the answer, which is a JSON object."""
        ...

    def subscribe(self, take: Take) -> AbstractAsyncContextManager[str]:
        """Subscribe to a new inbox, whose name is the value of the context."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run something until it ends, or until the connection is closed for good."""
        ...
