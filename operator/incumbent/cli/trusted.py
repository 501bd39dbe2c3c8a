"""Check that only trusted users can have written a file, or put it in its place.

The rules are those of OpenSSH for its key files (`StrictModes`): the file and every folder above it
belong to a trusted user, and no other user may write to them. Everybody may write to a folder with
the sticky bit, like /tmp, because there a user cannot remove or rename files of other users.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path

from incumbent.errors import ConfigurationError, IncumbentError

LARGEST = 64 * 1024
"""Greatest number of bytes to read of a file. Our files are shorter."""

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(IncumbentError):
    """Another user may have written the file. The message gives the cause and the remedy."""


def user(text: str) -> int:
    """Return the number of a user, given by name or number.

    Raises:
        ConfigurationError: there is no such user.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError) as error:
        msg = f"there is no user {text!r} on this machine; name one, or give the number."
        raise ConfigurationError(msg) from error


def read(path: Path, owners: Collection[int] = (), *, shared_folder: bool = False) -> bytes:
    """Return the beginning of a file that only trusted users can have written.

    Trusted users are root, the user of this process, and `owners`.

    Args:
        path: the file. If the last part of the path is a symbolic link, it is not followed.
        owners: the numbers of other users to trust.
        shared_folder: whether others may write to the folders above it.

    Raises:
        FileNotFoundError: the file does not exist.
        Untrusted: another user may have written it or put it there.
        OSError: it cannot be read.
    """
    trusted = {0, os.geteuid(), *owners}
    # 1. Open the file first and check the open file, so that nobody can replace it in between.
    #    A FIFO or a device is opened without waiting.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if path.is_symlink():
            msg = f"{path} is a symbolic link, which somebody may have pointed at another file"
            raise Untrusted(msg) from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        # 2. Check the file itself.
        if not stat.S_ISREG(found.st_mode):
            msg = f"{path} is not a regular file"
            raise Untrusted(msg)
        _check_owner(path, found, trusted)
        if found.st_mode & _BY_OTHERS:
            msg = f"others may write to {path}: remove it; `incumbent file` writes it as 0644"
            raise Untrusted(msg)
        if found.st_nlink > 1:
            msg = f"{path} has a second name (a hard link), so it may be an old file: remove it"
            raise Untrusted(msg)
        # 3. Check who may put another file in its place.
        if not shared_folder:
            named, real = path.absolute(), path.parent.resolve() / path.name
            for folder in dict.fromkeys((*named.parents, *real.parents)):
                _check_folder(folder, trusted)
        return file.read(LARGEST)


def _check_folder(folder: Path, trusted: Collection[int]) -> None:
    _check_owner(folder, folder.lstat(), trusted)  # perhaps a symbolic link
    found = folder.stat()
    _check_owner(folder, found, trusted)
    if found.st_mode & _BY_OTHERS and not found.st_mode & stat.S_ISVTX:
        msg = (
            f"others may write to the folder {folder}, and put another file there: choose another"
            " folder, or give --shared-folder if you trust them"
        )
        raise Untrusted(msg)


def _check_owner(path: Path, found: os.stat_result, trusted: Collection[int]) -> None:
    if found.st_uid not in trusted:
        msg = (
            f"{path} belongs to the user {_name(found.st_uid)}: if you trust that user, give"
            f" --owner {_name(found.st_uid)}"
        )
        raise Untrusted(msg)


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
