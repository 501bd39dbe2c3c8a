"""The page, served by the real server for elections that a test makes up, in a real browser."""

from __future__ import annotations

import pytest
from playwright.async_api import async_playwright, expect

from incumbent.server import http
from page import browser as chromium
from page.directory import Elections

FLAGS = ("--no-proxy-server", "--disable-gpu", "--disable-dev-shm-usage")
PATIENCE = 30_000
"""How long an expectation may take to come true, in milliseconds."""


@pytest.fixture(scope="session", autouse=True)
def executable():
    """Return the path of Chromium; fail where there is none."""
    expect.set_options(timeout=PATIENCE)
    found = chromium.find()
    if found is None:
        pytest.fail(
            "Chromium is missing: run `make browser` as root, or install it.", pytrace=False
        )
    return found


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


@pytest.fixture
async def browser(executable):
    """A browser."""
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=executable, args=FLAGS) as running,
    ):
        yield running


@pytest.fixture
def complaints():
    """Errors of the page, and of its console, among them those about the security policy."""
    return []


@pytest.fixture
def requests():
    """The URLs of all requests."""
    return []


@pytest.fixture
def open_page(browser, complaints, requests):
    """Return a coroutine function that opens a page in a window of its own."""

    async def opened(url, *, width=1360, dark=False):
        context = await browser.new_context(
            viewport={"width": width, "height": 860},
            color_scheme="dark" if dark else "light",
            locale="en-GB",
            timezone_id="UTC",
        )
        context.set_default_timeout(PATIENCE)
        context.on("weberror", lambda thrown: complaints.append(str(thrown.error)))
        context.on("request", lambda request: requests.append(request.url))
        context.on("console", complain)
        page = await context.new_page()
        await page.goto(url)
        return page

    def complain(message):
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    return opened
