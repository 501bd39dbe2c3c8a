"""What asks the leader through a Service all the time, and writes down who answered.

Each target is asked twice: on a new connection each time, at a steady pace whether there are
answers or not, and on one that is kept until it breaks. Needs nothing but Python.

A line is `[sent, done, target, kept, pod, token, write]`, with times of the machine's clock; where
nobody answered, `pod` is empty and `write` is the error.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path

TARGETS = os.environ["TARGETS"].split()
"""Of each a name, an address and a port, as `name=address:port`."""
PATH = os.environ["ASK_FOR"]
"""What to ask for: `/` causes a write, `/who` does not."""
EVERY = float(os.environ["EVERY"])
"""Seconds between two requests on new connections."""
KEPT_EVERY = 0.05
PATIENCE = 2.0
RECORD = os.environ["RECORD"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ask(streams: Streams, *, kept: bool) -> dict[str, object]:
    """Send one request, and return the answer's JSON."""
    reader, writer = streams
    connection = "keep-alive" if kept else "close"
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: leader\r\nConnection: {connection}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head.splitlines()[0]:
        raise OSError(head.splitlines()[0].decode())
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length")
    )
    found: dict[str, object] = json.loads(await reader.readexactly(length))
    return found


class Client:
    """Asks one target."""

    def __init__(self, target: str) -> None:
        self._target, _, address = target.partition("=")
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._record = Path(RECORD).open("a", buffering=1)  # noqa: SIM115 - it is kept

    async def run(self) -> None:
        """Ask for ever."""
        await asyncio.gather(self._ask_anew(), self._ask_kept())

    async def _ask_anew(self) -> None:
        due, running = time.monotonic(), set[asyncio.Task[None]]()
        while True:
            task = asyncio.create_task(self._once())
            running.add(task)
            task.add_done_callback(running.discard)
            due = max(due + EVERY, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())

    async def _once(self) -> None:
        sent, writer = time.time(), None
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                self._note(sent, await ask((reader, writer), kept=False), kept=False)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self._fail(sent, error, kept=False)
        finally:
            if writer:
                writer.close()

    async def _ask_kept(self) -> None:
        streams: Streams | None = None
        while True:
            sent = time.time()
            try:
                async with asyncio.timeout(PATIENCE):
                    if streams is None:
                        streams = await asyncio.open_connection(self._host, self._port)
                    self._note(sent, await ask(streams, kept=True), kept=True)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self._fail(sent, error, kept=True)
                if streams:
                    with suppress(OSError):
                        streams[1].close()
                streams = None
            await asyncio.sleep(KEPT_EVERY)

    def _note(self, sent: float, found: dict[str, object], *, kept: bool) -> None:
        answer = [found["pod"], found["token"], found["write"]]
        self._write([sent, time.time(), self._target, kept, *answer])

    def _fail(self, sent: float, error: Exception, *, kept: bool) -> None:
        why = str(error) or type(error).__name__
        self._write([sent, time.time(), self._target, kept, "", 0, why])

    def _write(self, line: list[object]) -> None:
        self._record.write(json.dumps(line) + "\n")


async def main() -> None:
    """Ask all targets."""
    await asyncio.gather(*(Client(target).run() for target in TARGETS))


asyncio.run(main())
