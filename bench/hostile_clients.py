"""Clients that nobody has invited, in a process of their own: see `bench.hostile`.

``python -m bench.hostile_clients HOST:PORT COUNT NICE`` asks an operator for whatever it serves,
without a pause, until SIGTERM. Then it prints what it got as JSON. On Linux each client has an
address of its own in 127.0.0.0/8, as each pod has. NICE is how much the process yields to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import uvloop

MIX = {
    "metrics": 0.30,
    "elections": 0.23,
    "readiness": 0.05,
    "changes": 0.10,
    "stream": 0.05,
    "history": 0.05,
    "slow readers": 0.06,
    "endless headers": 0.05,
    "wrong host": 0.05,
    "connections": 0.03,
    "half-open": 0.03,
}
"""The share of the clients that do each; every kind has at least one client."""
PATHS = {
    "metrics": "/metrics",
    "elections": "/v1/elections",
    "readiness": "/readyz?verbose",
    "changes": "/v1/elections?changes",
    "stream": "/v1/elections",
    "history": "/v1/elections/bench-0/e0/history?limit=9999",
    "wrong host": "/v1/elections",
    "slow readers": "/v1/elections",
}
STREAMED = ("changes", "stream")
HELD = 200
"""Connections that one client of the kinds `connections` and `half-open` holds."""
AFTER_REFUSAL = 0.01
"""Seconds before the next attempt where nobody answers at all."""
PATIENCE = 30.0
"""Seconds that an answer may take before its client gives it up and asks again."""
SLOW = 1.0
"""Seconds between two bytes that a slow reader takes, and between two of endless headers."""
_SMALL = 4096
_READ = 1 << 16


@dataclass
class Tally:
    """What the clients of one kind got."""

    clients: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """By status; `closed` if the connection ended without an answer, `late` if none came."""
    bytes: int = 0
    slowest: float = 0.0
    """Seconds until the last byte of an answer with a length."""

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "clients": self.clients,
            "answers": dict(sorted(self.answers.items())),
            "bytes": self.bytes,
            "slowest": round(self.slowest, 3),
        }


class Client:
    """One client, with an address of its own where the system allows that."""

    def __init__(self, number: int, kind: str, tally: Tally, server: tuple[str, int]) -> None:
        self.kind, self.tally, self.server = kind, tally, server
        usable = sys.platform == "linux" and server[0].startswith("127.")
        self._source = f"127.1.{number >> 8}.{number % 250 + 1}" if usable else None

    async def run(self) -> None:
        """Do what this kind does, again and again."""
        act: Callable[[], Coroutine[Any, Any, None]] = {
            "slow readers": self._read_slowly,
            "endless headers": self._never_ask,
            "connections": self._hold,
            "half-open": self._hold,
        }.get(self.kind, self._ask)
        while True:
            try:
                await act()
            except TimeoutError:
                self.tally.answers["late"] += 1
            except (OSError, EOFError, ValueError, IndexError):
                self.tally.answers["closed"] += 1
                await asyncio.sleep(AFTER_REFUSAL)

    @contextlib.asynccontextmanager
    async def _connected(
        self, *, buffer: int = 0
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        connection = socket.socket()
        try:
            connection.settimeout(0)
            if buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            if self._source:
                connection.bind((self._source, 0))
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(connection, self.server)
            reader, writer = await asyncio.open_connection(sock=connection, limit=_READ)
        except BaseException:
            connection.close()
            raise
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    def _request(self) -> bytes:
        host = "rebound.example.com" if self.kind == "wrong host" else "127.0.0.1"
        accept = "text/event-stream" if self.kind in STREAMED else "*/*"
        lines = (f"GET {PATHS[self.kind]} HTTP/1.1", f"Host: {host}", f"Accept: {accept}", "", "")
        return "\r\n".join(lines).encode()

    async def _ask(self) -> None:
        """Ask on one connection for as long as that lasts."""
        async with self._connected() as (reader, writer):
            while True:
                began = time.monotonic()
                writer.write(self._request())
                async with asyncio.timeout(PATIENCE):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                    status = head.split(" ", 2)[1]
                    _, named, length = head.partition("content-length:")
                    if named:
                        await self._take(reader, int(length.split("\r\n", 1)[0]))
                self.tally.answers[status] += 1
                if not named:  # a stream: as long as the other side lets it go on
                    while chunk := await reader.read(_READ):
                        self.tally.bytes += len(chunk)
                    return
                self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
                if "connection: close" in head:
                    return

    async def _take(self, reader: asyncio.StreamReader, length: int) -> None:
        while length:
            chunk = await reader.read(min(length, _READ))
            if not chunk:
                raise EOFError
            length -= len(chunk)
            self.tally.bytes += len(chunk)

    async def _read_slowly(self) -> None:
        """Ask for everything several times, and take one byte a second of it."""
        async with self._connected(buffer=_SMALL) as (_, writer):
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # we take it
            writer.write(self._request() * 20)
            self.tally.answers["held"] += 1
            connection = writer.get_extra_info("socket")
            while True:
                await asyncio.sleep(SLOW)
                if _ended(connection):
                    raise EOFError

    async def _never_ask(self) -> None:
        """Begin a request whose headers have no end: half of the clients fast, half slowly."""
        async with self._connected() as (reader, writer):
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            self.tally.answers["held"] += 1
            fast = self.tally.answers["held"] % 2
            while not reader.at_eof():
                writer.write(b"X-%d: %s\r\n" % (time.monotonic_ns(), b"x" * (4000 if fast else 1)))
                await writer.drain()
                await asyncio.sleep(0 if fast else SLOW)
            raise EOFError

    async def _hold(self) -> None:
        """Hold connections and ask for nothing, or for half a line; replace those that end."""

        async def one() -> None:
            while True:
                try:
                    async with self._connected() as (reader, writer):
                        self.tally.answers["held"] += 1
                        if self.kind == "half-open":
                            writer.write(b"GET /met")
                        await reader.read()
                except (OSError, TimeoutError):
                    pass
                self.tally.answers["closed"] += 1
                await asyncio.sleep(AFTER_REFUSAL)

        async with asyncio.TaskGroup() as group:
            for _ in range(HELD):
                group.create_task(one())


def _ended(connection: socket.socket) -> bool:
    """Take one byte of what has come, and return whether the other side has closed."""
    with socket.socket(fileno=os.dup(connection.fileno())) as twin:
        twin.settimeout(0)
        try:
            return not twin.recv(1)
        except BlockingIOError:
            return False


def kinds(count: int) -> list[str]:
    """Return what each of so many clients does."""
    found = [kind for kind, share in MIX.items() for _ in range(max(1, round(share * count)))]
    return (found + ["metrics"] * count)[:count]


async def main(address: str, count: int) -> None:
    """Ask until SIGTERM, and print what came of it."""
    host, _, port = address.rpartition(":")
    tallies = {kind: Tally() for kind in MIX}
    stop, began = asyncio.Event(), time.monotonic()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    clients = []
    for number, kind in enumerate(kinds(count)):
        tallies[kind].clients += 1
        client = Client(number, kind, tallies[kind], (host, int(port)))
        clients.append(asyncio.create_task(client.run()))
    await stop.wait()
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    seconds = time.monotonic() - began
    found = {"seconds": seconds, "kinds": {kind: one.as_json() for kind, one in tallies.items()}}
    print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    os.nice(int(sys.argv[3]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
