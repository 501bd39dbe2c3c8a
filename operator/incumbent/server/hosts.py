"""The names to which the HTTP server answers. Pure.

A web page can point a name of its own domain at an address inside the cluster (DNS rebinding). The
browser of a person who can reach the operator then sends the page's requests here, and lets the
page read the answers. The header `Host` still has the name of the page, and no script can change
it. So a name that nobody allowed is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from incumbent.errors import ConfigurationError

_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[-a-z0-9_.]*[a-z0-9_])?", re.IGNORECASE)
_LOCAL = ("localhost", ".localhost", ".svc", ".svc.cluster.local")
"""Names, or ends of names, that public DNS gives to nobody."""


def http_host(text: str) -> str:
    """Return a name for `--http-host`: `incumbent.example.com`, or `*.example.com`.

    Raises:
        ConfigurationError: it is none.
    """
    if _NAME.fullmatch(text) and ".." not in text:
        return text.lower().rstrip(".")
    msg = (
        f"{text!r} is not a host name; write it without scheme and port, like incumbent.example.com"
        " or *.example.com."
    )
    raise ConfigurationError(msg)


class Hosts:
    """The names that are answered to.

    Always allowed are addresses, `localhost`, names without a dot, and names of Services that end
    with `.svc` or `.svc.cluster.local`: none of them can belong to a page on the internet.

    Args:
        names: more names, as `http_host` returns them.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(name for name in names if not name.startswith("*."))
        self._ends = (*_LOCAL, *(name[1:] for name in names if name.startswith("*.")))

    def allow(self, header: str) -> bool:
        """Whether a request with this `Host` header is answered."""
        name = re.sub(r":\d*$", "", header.strip()).lower().rstrip(".")
        if name in self._names or name.endswith(self._ends):
            return True
        return bool(name) and ("." not in name.strip("[]") or _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
