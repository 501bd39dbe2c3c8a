"""The addresses at which the operator listens for HTTP, and the sockets that do."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from incumbent.errors import ConfigurationError

PARTS = ("http", "metrics", "probes")
"""What can be served at an address: everything, or one part of it."""

Sockets = Mapping[str, Sequence[socket.socket]]
"""By the names of `PARTS` the sockets at which they are served."""

SEND_BUFFER = 1 << 16
"""Bytes that the kernel keeps for a client that does not read; Linux doubles them."""

BACKLOG = 256
"""Connections that wait to be accepted."""


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port`, `:port` (no host: all addresses) or `[IPv6]:port`.

    Port 0 stands for any that is free.

    Raises:
        ConfigurationError: it is none of these.
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]/\s]*)):(\d{1,5})", address)
    if match and int(match[3]) < 1 << 16:
        return match[1] or match[2] or "", int(match[3])
    msg = f"{address!r} is not an address; write it like :8080, 127.0.0.1:8080 or [::1]:8080."
    raise ConfigurationError(msg)


async def bind(address: str, *, flag: str = "--http-address") -> list[socket.socket]:
    """Return sockets that listen at an address; the flag is the one to change if none can.

    Raises:
        ConfigurationError: this is no address, or one at which this process cannot listen.
    """
    host, port = parse_address(address)
    found: list[socket.socket] = []
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, *_, where in dict.fromkeys(infos):
            found.append(_listening(family, where))
    except OSError as error:
        for one in found:
            one.close()
        unknown = isinstance(error, socket.gaierror)
        why = error.strerror if unknown else os.strerror(error.errno or errno.EINVAL)
        msg = f"Cannot listen at {address}: {why}; set another {flag}."
        raise ConfigurationError(msg) from error
    return found


def _listening(family: int, where: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)  # noqa: FBT003  # it takes no name
        listening.bind(where)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def addresses_of(sockets: Iterable[socket.socket]) -> list[str]:
    """Return where sockets listen, each as `host:port`."""
    names = (one.getsockname() for one in sockets)
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in names]
