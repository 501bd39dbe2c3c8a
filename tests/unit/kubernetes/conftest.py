"""Fixtures of the tests of the adapter to the API server."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiohttp import web

from scriptedapi import connected

# Without this, pytest-asyncio makes an event loop that nobody closes, when the first test of a run
# is no coroutine.
asyncio.set_event_loop(None)


@pytest.fixture
async def serve():
    """Return a function that makes an `ApiServer` in front of a function that answers requests."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer):
            runner = web.ServerRunner(
                web.Server(answer, handler_cancellation=True), shutdown_timeout=0.1
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return await stack.enter_async_context(
                connected(f"http://127.0.0.1:{runner.addresses[0][1]}")
            )

        yield start
