"""The common parts of the commands: flags, the connection, exit codes, output."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import click

from incumbent import logs, terminal
from incumbent.cli.flags import INTERRUPTED, Text, check, flag, nats_flags, said_by_click
from incumbent.errors import BucketUnreachable
from incumbent.nats.connection import NatsConnection
from incumbent.nats.login import NatsAccess, access_from
from incumbent.settings import Settings
from incumbent.validation import bucket_name, key_name


@dataclass(frozen=True, slots=True)
class Session:
    """The bucket that a command uses, and the format of its output."""

    access: NatsAccess
    bucket: str
    json: bool

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[NatsConnection]:
        """Connect while the context lasts.

        Raises:
            BucketUnreachable: NATS does not answer in time.
        """
        async with NatsConnection(self.access) as nats:
            try:
                async with asyncio.timeout(self.access.patience):
                    await nats.wait_connected()
            except TimeoutError as error:
                raise BucketUnreachable(nats.problem) from error
            yield nats

    def warn(self) -> None:
        """Show warnings from now on, because this command runs for a long time."""
        logs.configure("text", level="warning")

    def show(self, value: Any, *lines: str) -> None:
        """Print a result, as JSON if the user asked for it."""
        if self.json:
            terminal.show_data(value, "line")
        else:
            terminal.show(*lines)


KEY_ARGUMENT = Text("KEY", key_name)


def command(work: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Turn a coroutine function into a function for click, with NATS flags, `--bucket` and `-o`.

    It gets a `Session` first, and returns the exit code (None: 0). Log lines go to standard error,
    and only errors do: a command that looks says what is wrong itself.
    """

    @nats_flags
    @flag("bucket", type=Text("NAME", bucket_name), help="The bucket.")
    @click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        help="How to print results.",
    )
    @functools.wraps(work)
    def called(*, bucket: str, output: str, **options: Any) -> None:
        names = [name for name in options if name.startswith("nats_")]
        settings = Settings(**{name: options.pop(name) for name in names})
        with said_by_click():
            check(settings)
        access = access_from(settings, name="incumbent " + work.__name__.replace("_", " "))
        session = Session(access, bucket, json=output == "json")
        logs.configure("text", level="error")
        try:
            with said_by_click():
                code = asyncio.run(work(session, **options))
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        sys.exit(code or 0)

    return called
