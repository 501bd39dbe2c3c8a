"""A TCP proxy that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from typing import Self

from controlplane.processes import free_port

_CHUNK = 65536


class Towards(enum.Enum):
    """A direction."""

    SERVER = "server"
    CLIENT = "client"


BOTH = (Towards.SERVER, Towards.CLIENT)


class _Link:
    """One proxied connection, and the task that serves it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.task = asyncio.current_task()
        self.torn = False
        """Whether bytes were swallowed, so that the rest of the stream would make no sense."""

    def abort(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        if self.task:
            self.task.cancel()


class Proxy:
    """Forwards a free port of 127.0.0.1 to a port there.

    The faults last until `resume`, and can be combined. New connections suffer from them, too.
    It runs in the event loop that entered it, so it stands still when that loop is blocked.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._target = port
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._delays = dict.fromkeys(Towards, 0.0)
        self._swallowing: set[Towards] = set()
        self._flowing = {towards: asyncio.Event() for towards in Towards}
        for event in self._flowing.values():
            event.set()

    @property
    def address(self) -> str:
        """Host and port where clients connect."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def cut(self) -> None:
        """Reset all open connections; new ones are served."""
        for link in self._links:
            link.abort()

    async def refuse(self) -> None:
        """Reset all open connections, and refuse new ones."""
        if self._server:
            self._server.close()
            self._server = None
        self.cut()

    def delay(self, seconds: float, *towards: Towards) -> None:
        """Deliver everything `seconds` later, in both directions by default."""
        for direction in towards or BOTH:
            self._delays[direction] = seconds

    def hold(self, *towards: Towards) -> None:
        """Deliver nothing, and deliver it all at `resume`: a network that comes back in time."""
        for direction in towards or BOTH:
            self._flowing[direction].clear()

    def black_hole(self, *towards: Towards) -> None:
        """Swallow everything without a sign.

        At `resume`, connections that lost something are reset: a network that comes back too late.
        """
        self._swallowing.update(towards or BOTH)

    async def resume(self) -> None:
        """End all faults."""
        self._swallowing.clear()
        for link in self._links:
            if link.torn:
                link.abort()
        self._delays = dict.fromkeys(Towards, 0.0)
        for event in self._flowing.values():
            event.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def __aenter__(self) -> Self:
        """Listen."""
        await self.resume()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Reset all connections, and stop listening."""
        await self.refuse()
        await asyncio.gather(*(link.task for link in self._links if link.task))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
                link.writers.append(to_writer)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, to_writer, link, Towards.SERVER))
                    group.create_task(self._pump(to_reader, writer, link, Towards.CLIENT))
        finally:
            link.task = None
            link.abort()
            self._links.discard(link)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        link: _Link,
        towards: Towards,
    ) -> None:
        clock = asyncio.get_running_loop().time
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            chunk = b"?"
            while chunk:
                try:
                    chunk = await reader.read(_CHUNK)
                except OSError:
                    chunk = b""
                queue.put_nowait((clock() + self._delays[towards], chunk))

        async def send() -> None:
            while True:
                due, chunk = await queue.get()
                await asyncio.sleep(due - clock())
                await self._flowing[towards].wait()
                if towards in self._swallowing:
                    link.torn = True
                    continue
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            receiving = group.create_task(receive())
            with contextlib.suppress(OSError):
                await send()
                writer.write_eof()
            receiving.cancel()
