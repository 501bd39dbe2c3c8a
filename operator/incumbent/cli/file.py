"""`incumbent file`: a file that exists while this machine leads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from incumbent import clock
from incumbent.campaign.records import Profile
from incumbent.campaign.timing import MAXIMUM_TTL
from incumbent.cli import trusted
from incumbent.cli.flags import Failure, Text
from incumbent.cli.run import member_options
from incumbent.cli.session import KEY_ARGUMENT, Session, command
from incumbent.election import Election
from incumbent.errors import ConfigurationError

NOT_FRESH = 1


@click.command(short_help="Keep a file while this machine leads.")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("key", required=False, type=KEY_ARGUMENT)
@click.option("--check", is_flag=True, help="Only say whether PATH says that this machine leads.")
@click.option(
    "--owner",
    "owners",
    multiple=True,
    type=Text("USER", trusted.user),
    help="With --check: whose file to believe, besides root's and one's own. Repeatable.",
)
@click.option(
    "--shared-folder",
    is_flag=True,
    help="With --check: believe it also where others may write to the folder, as in an emptyDir.",
)
@member_options
@command
async def file(
    session: Session,
    path: Path,
    key: str | None,
    *,
    check: bool,
    owners: tuple[int, ...],
    shared_folder: bool,
    name: str,
    profile: str,
) -> int:
    """Keep the file PATH while this machine holds KEY.

    The file is JSON with key, identity, token and deadline; each renewal replaces it at once, and
    losing leadership removes it. If this process dies the file stays: `--check` compares the
    deadline in it with the time since the machine was started, which no change of the time of day
    moves. So both have to run on one machine.

    `--check` believes no file that another user may have written: see --owner and --shared-folder.
    With a KEY it also says whether the file is about that key.

    While NATS or the bucket is away it waits, and says so. SIGTERM and SIGINT end it.

    \b
    Exit codes: 0, for --check if the deadline has not passed; 1 if it has, if there is no such
    file, or if it is not to be believed; 2 bad usage or a bad bucket.

    \b
    Examples:
      incumbent file /run/leader.json nightly
      incumbent file /run/leader.json --check && ./nightly
      incumbent file /run/leader.json nightly --check --owner daemon
    """  # noqa: D301
    if check:
        return _check(session, path, key, owners, shared_folder=shared_folder)
    if owners or shared_folder:
        msg = "--owner and --shared-folder go together with --check."
        raise ConfigurationError(msg)
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
    """Remove a file that an earlier process left at this path, but no other file.

    Raises:
        ConfigurationError: it is another's file, or the folder cannot be written.
    """
    folder = path.absolute().parent
    if not os.access(folder, os.W_OK):
        msg = f"{folder} cannot be written; choose another PATH."
        raise ConfigurationError(msg)
    try:
        _content(path, trusted.read(path, shared_folder=True))
    except FileNotFoundError:
        return
    except (trusted.Untrusted, Failure) as error:
        msg = f"{error}; remove it, or choose another PATH."
        raise ConfigurationError(msg) from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}; remove it, or choose another PATH."
        raise ConfigurationError(msg) from error
    _remove(path)


async def _keep(election: Election, path: Path) -> None:
    """Write the file again whenever the deadline moves."""
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
    deadline = election.deadline or 0.0
    day = clock.today() + timedelta(seconds=deadline - clock.now())
    content = {
        "key": election.key,
        "identity": election.identity,
        "token": election.token,
        # For people, and for versions that read only this. It is wrong after the clock steps.
        "deadline": day.isoformat(timespec="milliseconds"),
        "boot": clock.epoch(),
        "bootDeadline": deadline,
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


def _content(path: Path, text: bytes) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        Failure: it is not one of ours.
    """
    try:
        content = json.loads(text)
        if not isinstance(content["deadline"], str):
            raise TypeError  # noqa: TRY301  # reported below
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"{path} is not a file of `incumbent file`"
        raise Failure(msg) from error
    else:
        return dict(content)


def seconds_left(path: Path, content: Mapping[str, Any]) -> float:
    """Return the seconds until the deadline in a file.

    Raises:
        Failure: nobody can tell.
    """
    boot, deadline = content.get("boot"), content.get("bootDeadline")
    if boot is None:
        msg = (
            f"{path} gives its deadline by the time of day only, as an earlier version wrote it:"
            " start `incumbent file` of this version"
        )
        raise Failure(msg)
    if not boot or not clock.epoch():
        msg = f"{path} cannot be checked: this system has no /proc/sys/kernel/random/boot_id"
        raise Failure(msg)
    if boot != clock.epoch():
        msg = (
            f"{path} was written before this machine was started, on another machine, or in another"
            " time namespace: this machine does not lead"
        )
        raise Failure(msg)
    number: float = math.nan
    if isinstance(deadline, int | float) and not isinstance(deadline, bool):
        number = deadline
    left = number - clock.now()
    if not left <= MAXIMUM_TTL:  # also if it is NaN
        msg = f"{path} is not a file of `incumbent file`: no deadline is that far away"
        raise Failure(msg)
    return left


def _check(
    session: Session,
    path: Path,
    key: str | None,
    owners: tuple[int, ...],
    *,
    shared_folder: bool,
) -> int:
    try:
        content = _content(path, trusted.read(path, owners, shared_folder=shared_folder))
    except FileNotFoundError:
        session.show({"fresh": False}, f"there is no {path}: this machine does not lead")
        return NOT_FRESH
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise Failure(msg) from error
    if key is not None and content.get("key") != key:
        msg = f"{path} is about the key {content.get('key')}, not about {key}"
        raise Failure(msg)
    left = seconds_left(path, content)
    if left <= 0:
        text = f"{path} is stale: its deadline passed {abs(left):.1f} s ago"
        session.show({**content, "fresh": False}, text)
        return NOT_FRESH
    session.show({**content, "fresh": True}, f"{path} is fresh for another {left:.1f} s")
    return 0
