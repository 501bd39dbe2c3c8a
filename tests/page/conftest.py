"""The page, served by the real server for elections that a test makes up, in a real browser."""

from __future__ import annotations

import pytest

from incumbent.server import http
from page.chromium import PROGRAM, Chromium
from page.directory import Elections


@pytest.fixture(scope="session", autouse=True)
def browser_exists():
    """Skip where there is no browser."""
    if PROGRAM is None:
        pytest.skip("no chromium on this machine: install the package `chromium`")


@pytest.fixture
async def elections():
    """Elections, none at first."""
    return Elections()


@pytest.fixture
async def serve(elections):
    """Return a function that starts the server, on the port that it had before."""
    servers = []

    async def start(address="127.0.0.1:0"):
        server = await http.serve(address, health=elections, metrics=elections, directory=elections)
        servers.append(server)
        return server

    yield start
    for server in servers:
        await server.aclose()


@pytest.fixture
async def url(serve):
    """Where the page is."""
    return f"http://{(await serve()).addresses[0]}/"


@pytest.fixture(scope="session")
def running(tmp_path_factory):
    """A browser that all tests of a worker share."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as process:
        yield process


@pytest.fixture
async def browser(running):
    """A connection to the browser."""
    async with running.connect() as connection:
        yield connection
