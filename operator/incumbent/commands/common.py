"""What the commands have in common: flags, the connection, exit codes, output."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import click

from incumbent.access import NatsAccess, access_from
from incumbent.bucket import Nats
from incumbent.errors import BucketUnreachable, ConfigurationError, IncumbentError
from incumbent.flags import DEFAULTS, Refusal, Text, bucket_name, check, flag, nats_flags
from incumbent.settings import Settings

CONNECT_WITHIN = 5.0
"""Seconds for which a command that only looks waits for NATS."""
FAILED = 1

KEY = r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*"


class Failure(click.ClickException):
    """Ends the program with one sentence and exit code 1."""

    exit_code = FAILED


@dataclass(frozen=True, slots=True)
class Session:
    """Where a command looks, and how it answers."""

    access: NatsAccess
    bucket: str
    json: bool

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Nats]:
        """Connect for as long as the context lasts.

        Raises:
            BucketUnreachable: NATS does not answer within 5 s.
        """
        async with Nats(self.access) as nats:
            try:
                async with asyncio.timeout(CONNECT_WITHIN):
                    await nats.wait_connected()
            except TimeoutError as error:
                raise BucketUnreachable(nats.problem) from error
            yield nats

    def show(self, value: Any, text: str) -> None:
        """Print a result, as JSON if that was asked for."""
        click.echo(json.dumps(value) if self.json else text)


def key_name(text: str) -> str:
    """Return the key of an election.

    Raises:
        ConfigurationError: NATS allows no such key.
    """
    if re.fullmatch(KEY, text) and len(text) <= 255:  # noqa: PLR2004  # as in the CRD
        return text
    msg = (
        f"{text!r} is not a valid key; it must consist of parts of letters, digits, '-', '_', '='"
        " and '/', with dots between them."
    )
    raise ConfigurationError(msg)


KEY_ARGUMENT = Text("KEY", key_name)


def command(work: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., None]:
    """Turn a coroutine function into what click calls: with NATS flags, `--bucket` and `-o`.

    It gets a `Session` first, and returns the exit code (None: 0).
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
        try:
            check(settings)
        except ConfigurationError as error:
            raise Refusal(str(error)) from error
        access = access_from(settings, name="incumbent " + work.__name__.replace("_", " "))
        session = Session(access, bucket, json=output == "json")
        try:
            code = asyncio.run(work(session, **options))
        except ConfigurationError as error:
            raise Refusal(str(error)) from error
        except IncumbentError as error:
            raise Failure(str(error)) from error
        except KeyboardInterrupt:
            sys.exit(130)
        sys.exit(code or 0)

    return called


__all__ = ["DEFAULTS", "KEY_ARGUMENT", "Failure", "Session", "command", "key_name"]
