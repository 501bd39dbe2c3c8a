"""`incumbent file`: a file that exists while this machine leads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from incumbent.commands.common import KEY_ARGUMENT, Session, command
from incumbent.commands.run import member_options
from incumbent.election import Election
from incumbent.errors import ConfigurationError
from incumbent.flags import Failure
from incumbent.model import Profile

NOT_FRESH = 1


@click.command(short_help="Keep a file while this machine leads.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("key", required=False, type=KEY_ARGUMENT)
@click.option("--check", is_flag=True, help="Only say whether PATH says that this machine leads.")
@member_options
@command
async def file(
    session: Session, path: Path, key: str | None, *, check: bool, name: str, profile: str
) -> int:
    """Keep the file PATH while this machine holds KEY.

    The file is JSON with key, identity, token and deadline; each renewal replaces it at once, and
    losing leadership removes it. If this process dies the file stays: `--check` compares the
    deadline in it with the clock, so both have to run on one machine.

    While NATS or the bucket is away it waits, and says so. SIGTERM and SIGINT end it.

    \b
    Exit codes: 0, for --check if the deadline has not passed; 1 if it has, or if there is no such
    file; 2 bad usage or a bad bucket.

    \b
    Examples:
      incumbent file /run/leader.json nightly
      incumbent file /run/leader.json --check && ./nightly
    """  # noqa: D301
    if check:
        return _check(session, path)
    if key is None:
        msg = "name the KEY of the election, or give --check."
        raise ConfigurationError(msg)
    _claim(path)
    session.warn()
    election = Election(
        session.access,
        session.bucket,
        key,
        name,
        profile=Profile(profile),
        on_lost=lambda: _remove(path),
    )
    async with election:
        loop = asyncio.get_running_loop()
        keeping = asyncio.create_task(_keep(election, path))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, keeping.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await keeping
    return 0


def _claim(path: Path) -> None:
    """Remove what an earlier process left there, but nothing else.

    Raises:
        ConfigurationError: it is another's file, or the folder cannot be written.
    """
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK):
        msg = f"{folder} cannot be written; choose another PATH."
        raise ConfigurationError(msg)
    try:
        _read(path)
    except FileNotFoundError:
        return
    except Failure as error:
        msg = f"{error.message}; remove it, or choose another PATH."
        raise ConfigurationError(msg) from error
    _remove(path)


async def _keep(election: Election, path: Path) -> None:
    """Write the file anew whenever the deadline moves."""
    written = 0.0
    try:
        while True:
            deadline = election.deadline
            if deadline is not None and deadline != written:
                _write(election, path)
                written = deadline
            await election.changed()
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _write(election: Election, path: Path) -> None:
    deadline = datetime.fromtimestamp(time.time() + election.remaining, UTC)
    content = {
        "key": election.key,
        "identity": election.identity,
        "token": election.token,
        "deadline": deadline.isoformat(timespec="milliseconds"),
    }
    new = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.absolute().parent, prefix=f".{path.name}.", delete=False
        ) as file:
            new = Path(file.name)
            file.write(json.dumps(content) + "\n")
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        if new is not None:
            _remove(new)
        msg = f"{path} cannot be written: {error.strerror}"
        raise Failure(msg) from error


def _read(path: Path) -> tuple[dict[str, Any], float]:
    """Return what a file says, and the seconds to its deadline.

    Raises:
        FileNotFoundError: there is none.
        Failure: it is not one of ours.
    """
    try:
        content = json.loads(path.read_text())
        return content, datetime.fromisoformat(content["deadline"]).timestamp() - time.time()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{path} is not a file of `incumbent file`"
        raise Failure(msg) from error


def _check(session: Session, path: Path) -> int:
    try:
        content, left = _read(path)
    except FileNotFoundError:
        session.show({"fresh": False}, f"there is no {path}: this machine does not lead")
        return NOT_FRESH
    if left <= 0:
        text = f"{path} is stale: its deadline passed {-left:.1f} s ago"
        session.show({**content, "fresh": False}, text)
        return NOT_FRESH
    session.show({**content, "fresh": True}, f"{path} is fresh for another {left:.1f} s")
    return 0
