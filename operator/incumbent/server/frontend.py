"""The process that serves HTTP, beside the one that renews.

Whatever clients do, they take time from this process and not from the event loop that renews: the
two share neither a loop nor an interpreter lock, and the system prefers the one that renews. See
"Strangers at the door" in docs/architecture.md for the alternatives and their figures.

`python -m incumbent.server.frontend` is this process; `Frontend` starts it, and again when
it ends. The sockets are made by the process that renews, so an address that cannot be used is known
at the start, and clients only wait while there is no server.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from incumbent import clock
from incumbent.backoff import JitteredBackoff
from incumbent.server.feed import LINE, Feed
from incumbent.server.listen import Sockets, addresses_of

NICE = 10
"""By how much the process that renews is preferred where both want a CPU."""

OOM_SCORE = 300
"""How much sooner the system ends this process than the one that renews when memory is short."""

BACKOFF = JitteredBackoff(first=0.1, longest=5.0)
"""Pauses before it is started again."""

FORGIVEN_AFTER = 60.0
"""Seconds after which an end counts as the first one."""

END_WITHIN = 3.0
"""Seconds that it has to end."""

MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 17)}
"""For glibc: what was a large body goes back to the system at once. By default glibc keeps it, and
puts the next one elsewhere if anything small lies between."""

log = structlog.get_logger(__name__)


class Frontend:
    """Keeps the process that serves HTTP running.

    Args:
        sockets: by the names of `listen.PARTS`; they listen already, and stay open.
        feed: answers what it asks.
        hosts: names to answer to.
        log_format: how its log lines look.
        log_level: the least important of them.
    """

    def __init__(
        self,
        sockets: Sockets,
        feed: Feed,
        *,
        hosts: Sequence[str] = (),
        log_format: str = "json",
        log_level: str = "info",
    ) -> None:
        self._sockets = sockets
        self._feed = feed
        self._options = {"hosts": [*hosts], "log": [log_format, log_level]}
        self._ending = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._keeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it; clients that connect before it runs wait for it."""
        self._keeping = asyncio.create_task(self._keep(), name="HTTP server")
        found = {part: addresses_of(sockets) for part, sockets in self._sockets.items()}
        addresses = found.pop("http")
        log.info("http.listening", addresses=addresses, **found)

    async def aclose(self) -> None:
        """End it: streams at once, other answers within a second."""
        self._ending.set()
        if self._writer is not None:
            self._writer.close()
        if self._keeping is not None:
            await asyncio.wait({self._keeping}, timeout=END_WITHIN)
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        for sockets in self._sockets.values():
            for one in sockets:
                one.close()

    async def _keep(self) -> None:
        failures = 0
        while True:
            began = clock.now()
            try:
                code: object = await self._run()
            except OSError as error:
                code = str(error)
            if self._ending.is_set():
                return
            failures = 1 if clock.now() > began + FORGIVEN_AFTER else failures + 1
            log.warning("http.ended", code=code)
            await asyncio.sleep(BACKOFF.pause(failures))

    async def _run(self) -> int:
        """Run it once; return its exit code."""
        ours, theirs = socket.socketpair()
        with theirs:
            numbers = {
                part: [one.fileno() for one in sockets] for part, sockets in self._sockets.items()
            }
            options = {**self._options, "link": theirs.fileno(), "sockets": numbers}
            command = [sys.executable, "-P", "-m", __spec__.name, json.dumps(options)]
            inherited = [theirs.fileno(), *(one for some in numbers.values() for one in some)]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=inherited,
                env=MALLOC | os.environ,
            )
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=LINE)
        feeding = asyncio.create_task(self._feed.serve(reader, self._writer))
        try:
            return await process.wait()
        finally:
            feeding.cancel()
            if process.returncode is None:
                process.kill()
                await process.wait()


def main(options: Mapping[str, Any]) -> None:
    """Serve until the process that renews has gone."""
    # Ctrl-C and a supervisor's signal may reach both processes; the other one decides.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))

    import uvloop  # noqa: PLC0415  # these four are not for the process that renews

    from incumbent import logs  # noqa: PLC0415
    from incumbent.server import http  # noqa: PLC0415
    from incumbent.server.mirror import Link  # noqa: PLC0415

    form, level = options["log"]
    logs.configure(form, level=level)

    async def serve() -> None:
        sockets = {
            part: [socket.socket(fileno=number) for number in numbers]
            for part, numbers in options["sockets"].items()
        }
        connection = socket.socket(fileno=options["link"])
        link = Link(*await asyncio.open_unix_connection(sock=connection, limit=LINE))
        server = http.Server(sockets, link, hosts=options["hosts"])
        await server.start()
        await link.over.wait()
        await server.aclose()

    uvloop.run(serve())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
