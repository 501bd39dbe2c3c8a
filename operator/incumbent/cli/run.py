"""`incumbent run`: a command that runs while this machine leads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import click
import structlog

from incumbent.campaign.events import Lost, Won
from incumbent.campaign.records import Profile
from incumbent.cli.flags import Failure, Text
from incumbent.cli.session import KEY_ARGUMENT, Session, command
from incumbent.election import Election
from incumbent.validation import duration, identity_name

log = structlog.get_logger(__name__)

START_TIME = 1.0
"""Seconds for a command to install its handler for SIGUSR1, as in Choria."""
NOT_FOUND, NOT_EXECUTABLE, SIGNALLED = 127, 126, 128
"""Exit codes, as in a shell."""


def member_options(work: Any) -> Any:
    """Add the options of all commands that campaign."""
    for option in (
        click.option(
            "--profile",
            type=click.Choice([profile.value for profile in Profile], case_sensitive=False),
            default=Profile.PROMPT.value,
            help="Manners: ours, or exactly those of a Choria member.",
        ),
        click.option(
            "--name",
            type=Text("NAME", identity_name),
            default=socket.gethostname,
            show_default="the host name",
            help="What the record says while this machine leads; different on each machine.",
        ),
    ):
        work = option(work)
    return work


@click.command(short_help="Run a command while this machine leads.")
@click.argument("key", type=KEY_ARGUMENT)
@click.argument("cmd", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--on-loss",
    type=click.Choice(["terminate", "signal"]),
    default="terminate",
    show_default=True,
    help="End the command, or tell it: SIGUSR1 when leadership is won, SIGUSR2 when it is lost.",
)
@click.option(
    "--grace",
    type=Text("DURATION", duration),
    default="10s",
    show_default=True,
    help="Time between SIGTERM and SIGKILL, on loss.",
)
@member_options
@command
async def run(
    session: Session,
    key: str,
    cmd: Sequence[str],
    on_loss: str,
    grace: float,
    name: str,
    profile: str,
) -> int:
    """Start CMD when this machine wins KEY, and end it when leadership is lost.

    Everything behind `--` is the command, which gets INCUMBENT_KEY and INCUMBENT_TOKEN in its
    environment. When it ends by itself, the key is released and its exit code is returned (128 + N
    if signal N ended it). SIGTERM and SIGINT are passed on to it, and then it may take its time.

    On loss it gets SIGTERM, after --grace SIGKILL, and is started anew when this machine wins
    again. With `--on-loss signal` it goes on, is told, and gets the token of the first term only.
    Whoever leads next does not wait for --grace: give the token to whatever must refuse the old
    command.

    While NATS or the bucket is away it waits, and says so.

    \b
    Exit codes: that of CMD; 126, 127 if it cannot be started; 2 bad usage or a bad bucket;
    143, 130 if SIGTERM, SIGINT came while CMD did not run.

    \b
    Examples:
      incumbent run nightly -- /usr/local/bin/nightly --verbose
      incumbent run gateway --on-loss signal -- gateway --standby
    """  # noqa: D301
    session.warn()
    async with Election(
        session.access, session.bucket, key, name, profile=Profile(profile)
    ) as election:
        child = _Child(cmd, key, grace)
        with _forwarded(child):
            if on_loss == "signal":
                return await _run_and_tell(election, child)
            return await _run_and_end(election, child)


async def _run_and_end(election: Election, child: _Child) -> int:
    while True:
        token = await _unless_ended(child, election.won())
        if token is None:
            return SIGNALLED + child.ended_by
        await child.start(token)
        lost = asyncio.create_task(election.lost())
        ended = asyncio.create_task(child.wait())
        try:
            await asyncio.wait({lost, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return ended.result()
            log.warning("run.leadership_lost", grace=child.grace)
            await child.end()
            if child.ended_by:
                return SIGNALLED + child.ended_by
        finally:
            await child.end()
            for task in (lost, ended):
                task.cancel()
            await asyncio.gather(lost, ended, return_exceptions=True)


async def _run_and_tell(election: Election, child: _Child) -> int:
    token = await _unless_ended(child, election.won())
    if token is None:
        return SIGNALLED + child.ended_by
    events = aiter(election)  # subscribe before the start, to miss no event
    await child.start(token)
    ended = asyncio.create_task(child.wait())

    async def tell() -> None:
        await asyncio.sleep(START_TIME)
        told = False
        if election.is_leader:
            child.send(signal.SIGUSR1)
            told = True
        async for event in events:
            if isinstance(event, Won) and not told:
                child.send(signal.SIGUSR1)
                told = True
            elif isinstance(event, Lost) and told:
                child.send(signal.SIGUSR2)
                told = False

    telling = asyncio.create_task(tell())
    try:
        return await ended
    finally:
        await child.end()
        for task in (telling, ended):
            task.cancel()
        await asyncio.gather(telling, ended, return_exceptions=True)


async def _unless_ended(child: _Child, won: Any) -> int | None:
    """Return the result of `won`; None if a signal tells us to end before that."""
    winning = asyncio.ensure_future(won)
    asked = asyncio.create_task(child.asked_to_end.wait())
    try:
        await asyncio.wait({winning, asked}, return_when=asyncio.FIRST_COMPLETED)
        return None if asked.done() else int(winning.result())
    finally:
        for task in (winning, asked):
            task.cancel()
        await asyncio.gather(winning, asked, return_exceptions=True)


@contextlib.contextmanager
def _forwarded(child: _Child) -> Any:
    """Pass SIGTERM and SIGINT on to the command while the context lasts."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, child.ask_to_end, number)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


class _Child:
    """The command."""

    def __init__(self, arguments: Sequence[str], key: str, grace: float) -> None:
        self.grace = grace
        self.asked_to_end = asyncio.Event()
        self.ended_by = 0
        """The signal that told us to end; 0 if there was none."""
        self._arguments = arguments
        self._key = key
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, token: int) -> None:
        """Start the command.

        Raises:
            Failure: it cannot be started; with the exit code of a shell, 126 or 127.
        """
        environment = {**os.environ, "INCUMBENT_KEY": self._key, "INCUMBENT_TOKEN": str(token)}
        try:
            self._process = await asyncio.create_subprocess_exec(*self._arguments, env=environment)
        except OSError as error:
            msg = f"{self._arguments[0]} cannot be started: {error.strerror}"
            missing = isinstance(error, FileNotFoundError)
            raise Failure(msg, NOT_FOUND if missing else NOT_EXECUTABLE) from error
        log.info("run.started", pid=self._process.pid, token=token)

    async def wait(self) -> int:
        """Wait until the command has ended; return its exit code as a shell does."""
        if self._process is None:
            return 0
        code = await self._process.wait()
        return SIGNALLED - code if code < 0 else code

    def send(self, number: int) -> None:
        """Send a signal to the command, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def ask_to_end(self, number: int) -> None:
        """Record the signal that tells us to end, and pass it on to the command."""
        self.ended_by = number
        self.asked_to_end.set()
        self.send(number)

    async def end(self) -> None:
        """End the command by SIGTERM, and by SIGKILL after the grace period."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.grace):
                await process.wait()
        except TimeoutError:
            log.warning("run.killed", pid=process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
