"""The interface that a bucket, and the stream of a history, need from a connection to NATS.

`connection.NatsConnection` implements it. The tests have their own scripted implementations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Take = Callable[[str, str, bytes, Mapping[str, str]], None]
"""A function that receives a message: subject, reply subject, data, headers. Must not block."""


class Connection(Protocol):
    """A connection that can request and subscribe. Every method may raise a `BucketError`."""

    domain: str | None
    """The JetStream domain; None: the server's own domain."""

    async def wait_connected(self) -> None:
        """Wait until there is a connection."""
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
        """Subscribe to a new inbox. The value of the context is the name of the inbox."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it ends, or until the connection is closed for good."""
        ...
