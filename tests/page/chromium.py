"""A headless Chromium, driven by its DevTools protocol, as far as the tests need it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp

from controlplane.processes import Process

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
"""Where it is; None if this machine has none."""

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--remote-debugging-port=0", "--hide-scrollbars", "--disable-extensions", "--lang=en-GB"),
    *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
)
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}


class PageError(AssertionError):
    """The page threw an error, or something did not become true on it."""


class Chromium:
    """The process.

    Args:
        folder: for its profile and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._port = folder / "profile" / "DevToolsActivePort"
        self._process = Process(
            [PROGRAM or "chromium", *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            name="chromium",
            folder=folder,
            environment={**os.environ, "TZ": "UTC"},
        )

    def __enter__(self) -> Self:
        """Start it."""
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it."""
        self._process.kill()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Browser]:
        """Connect to it, when it is ready."""

        async def ready() -> bool:
            return self._port.exists() and len(self._port.read_text().split()) > 1

        await self._process.wait_until(ready, timeout=60)
        host = f"http://127.0.0.1:{self._port.read_text().split()[0]}"
        async with aiohttp.ClientSession(host) as session:
            yield Browser(session)


class Browser:
    """A running browser."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @contextlib.asynccontextmanager
    async def open(
        self, url: str, *, width: int = 1360, height: int = 860, dark: bool = False
    ) -> AsyncIterator[Tab]:
        """Open a tab with this page."""
        async with self._session.put("/json/new?about:blank") as answer:
            found = await answer.json()
        async with self._session.ws_connect(
            found["webSocketDebuggerUrl"], max_msg_size=0
        ) as socket:
            tab = Tab(socket)
            reading = asyncio.create_task(tab.read())
            try:
                await tab.prepare(width=width, height=height, dark=dark)
                await tab.call("Page.navigate", url=url)
                await tab.until(f"location.href === '{url}' && document.readyState === 'complete'")
                yield tab
            finally:
                reading.cancel()
                await asyncio.wait({reading})
        async with self._session.get(f"/json/close/{found['id']}"):
            pass


class Tab:
    """One page, and what went wrong on it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        """Errors and warnings of the console, among them those about the security policy."""
        self.requests: list[str] = []
        """The URLs of all requests."""
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def read(self) -> None:
        """Take in what the browser says, until the tab is closed."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said and not self._answers[said["id"]].done():
                self._answers[said["id"]].set_result(said)
            match said.get("method"):
                case "Runtime.exceptionThrown":
                    self.complaints.append(json.dumps(said["params"]["exceptionDetails"]))
                case "Log.entryAdded" if said["params"]["entry"]["level"] in {"error", "warning"}:
                    self.complaints.append(said["params"]["entry"]["text"])
                case "Network.requestWillBeSent":
                    self.requests.append(said["params"]["request"]["url"])

    async def call(self, method: str, **params: Any) -> Any:
        """Carry out a command of the protocol."""
        number, answer = next(self._numbers), asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(30):
            said = await answer
        if "error" in said:
            raise PageError(said["error"]["message"])
        return said["result"]

    async def prepare(self, *, width: int, height: int, dark: bool) -> None:
        """Set the window up."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def resize(self, width: int, height: int) -> None:
        """Change the size of the window."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def run(self, script: str) -> Any:
        """Return the value of an expression."""
        found = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise PageError(json.dumps(found["exceptionDetails"]))
        return found["result"].get("value")

    async def until(self, script: str, *, timeout: float = 30) -> None:
        """Wait until an expression is true."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not await self.run(f"Boolean({script})"):
            if asyncio.get_running_loop().time() > deadline:
                shown = await self.run("document.body ? document.body.innerText : ''")
                msg = f"not after {timeout} s: {script}; complaints {self.complaints}: {shown}"
                raise PageError(msg)
            await asyncio.sleep(0.05)

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other, as a person does."""
        for key in keys:
            code = KEYS.get(key, ord(key[0].upper()))
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            what = {"key": key, "windowsVirtualKeyCode": code}
            await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **what)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    async def names(self) -> list[tuple[str, str]]:
        """Return role and accessible name of everything in the accessibility tree."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored") and "role" in node
        ]

    async def screenshot(self) -> bytes:
        """Return what the window shows, as a PNG image."""
        found = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(found["data"])
