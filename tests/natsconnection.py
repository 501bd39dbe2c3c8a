"""A connection to NATS that is up."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from incumbent.nats.connection import NatsAccess, NatsConnection
from waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def connected(*urls: str, **access: Any) -> AsyncIterator[NatsConnection]:
    """Connect to one of the servers; `access` has the other fields of `NatsAccess`."""
    async with NatsConnection(NatsAccess(list(urls), **access)) as connection:
        async with asyncio.timeout(PATIENCE):
            await connection.wait_connected()
        yield connection
