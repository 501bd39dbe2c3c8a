"""URLs of NATS servers: how they are read, and what is wrong with one that cannot be used.

A URL is read by the rules of RFC 3986 and by no others: a password with an unescaped `@`, `/` or
`#` in it is refused. Readers that guess turn a part of such a password into a host name, which
then goes to DNS and into logs. No message of this module repeats any part of a URL.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import unquote

from incumbent.errors import ConfigurationError

SCHEMES = ("nats", "tls", "ws", "wss")
"""What nats-py can connect to."""

WEBSOCKET = frozenset({"ws", "wss"})
DEFAULT_PORTS = {"nats": 4222, "tls": 4222, "ws": 80, "wss": 443}

_ADVICE = (
    "percent-encode the user and the password in it (@ is %40, / is %2F, # is %23, % is %25), or"
    " leave them out and give --nats-user and --nats-password-file"
)
_PATTERN = (
    f"write it like nats://host:4222, with the scheme {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}"
)
_HOST = re.compile(r"[\w.-]+")
_BRACKETS = re.compile(r"\[([0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%(?:25)?[\w.-]+)?)\]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>.*))?")
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Login:
    """The login in a URL: a user and a password, or a token as the user alone."""

    user: str = field(repr=False)
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """One NATS server."""

    scheme: str
    host: str
    """A host name or an address, without brackets."""
    port: int
    path: str = ""
    """Of a websocket behind a proxy; it may hold a secret, and is not shown."""
    login: Login | None = field(default=None, repr=False, compare=False)
    certificate_name: str = field(default="", compare=False)
    """The name that its certificate must have; empty: the host."""

    @property
    def address(self) -> str:
        """Its host and port, for people; the only part of a URL that is shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Its URL without the login."""
        return f"{self.scheme}://{self.address}{self.path}"

    @property
    def websocket(self) -> bool:
        """Whether it is reached by a websocket, whose TLS is not that of NATS."""
        return self.scheme in WEBSOCKET


class ServerPool:
    """The servers to connect to: those that are configured, and those that NATS names.

    NATS names the servers of its cluster in each INFO, also in later ones when something changes
    there (`connect_urls`). The configured servers come first, because their URLs are known to be
    reachable from here; addresses that servers know of themselves may not be.
    """

    def __init__(self, configured: Iterable[Server]) -> None:
        self._configured = list(dict.fromkeys(configured))
        self._named: list[Server] = []

    def round(self) -> list[Server]:
        """Return all servers, in the order in which to try them."""
        return [*self._configured, *self._named]

    def tried(self, server: Server) -> None:
        """Let a server be the last of its kind in the next round."""
        for servers in (self._configured, self._named):
            if server in servers:
                servers.remove(server)
                servers.append(server)

    def learn(self, addresses: Iterable[str], *, by: Server, trusted: bool) -> bool:
        """Take the servers that one of them names, instead of those named before.

        No addresses: a server with `no_advertise` says nothing about the others, and what is known
        of them stays.

        Args:
            addresses: hosts with ports.
            by: who names them.
            trusted: False for what was read before a TLS handshake, in which anybody could have
                named a host of his own with a certificate of its own. Of such names only those of
                configured servers count, and IP addresses, because `server_named` checks these for
                a configured name.

        Returns whether the servers are others than before.
        """
        ours = {(server.host, server.port) for server in self._configured}
        hosts = {server.host for server in self._configured}
        found = [server_named(address, like=by) for address in addresses]
        named = {
            server: None
            for server in found
            if server is not None
            and (trusted or server.host in hosts or bool(server.certificate_name))
        }
        others = [server for server in named if (server.host, server.port) not in ours]
        if not named or set(others) == set(self._named):
            return False
        new = [server for server in others if server not in self._named]
        random.shuffle(new)
        self._named = [server for server in self._named if server in named] + new
        return True


def server_from(text: str) -> Server:
    """Read the URL of a server; without a scheme it is `nats`.

    Raises:
        ConfigurationError: it is no such URL, or could be read in two ways.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "nats", text
    scheme = scheme.lower()
    if any(letter.isspace() or not letter.isprintable() for letter in text):
        _refuse("it has a blank or an unprintable character", _PATTERN)
    before, at, behind = rest.rpartition("@")
    if scheme not in SCHEMES:
        _refuse("its scheme is none of NATS", _ADVICE if "://" in before else _PATTERN)
    if set(before) & set("@/?#"):
        _refuse("it has an @, /, ? or # before its host", _ADVICE)
    if "," in text:
        advice = f"give the flag once for each server; {_ADVICE}" if at else _PATTERN
        advice += "" if at else ", and give the flag once for each"
        _refuse("there is a comma in it", advice)
    if "#" in behind:
        _refuse("it has a fragment", _ADVICE if at else _PATTERN)
    authority = re.split(r"[/?]", behind, maxsplit=1)[0]
    path = behind[len(authority) :]
    if scheme not in WEBSOCKET:
        if path not in {"", "/"}:
            _refuse("it has a path, which only ws and wss may have", _PATTERN)
        path = ""
    host, port = _host_and_port(authority, scheme)
    return Server(scheme, host, port, path, _login(before) if at else None)


def server_named(address: str, *, like: Server) -> Server | None:
    """Return a server that NATS names by host and port, reached like the one that names it.

    None if the address cannot be used. A name must be in the server's certificate. For an IP
    address it has to be the name that was asked for in the first place, as in other clients of
    NATS (nats.go `addURLToPool`): certificates rarely hold the addresses of pods. If an address
    was asked for, there is no such name, and each certificate has to hold its own address.
    """
    try:
        host, port = _host_and_port(address, like.scheme)
    except ConfigurationError:
        return None
    name = like.certificate_name or like.host
    use_name = is_address(host) and not is_address(name)
    return Server(
        like.scheme, host, port, like.path, like.login, certificate_name=name if use_name else ""
    )


def servers_from(urls: Iterable[str], *, with_tls: bool) -> tuple[Server, ...]:
    """Read the URLs of the servers; `with_tls`: other settings ask for TLS.

    Raises:
        ConfigurationError: there is none, one cannot be used, or they do not go together.
    """
    servers = tuple(server_from(url) for url in urls)
    if not servers:
        msg = "there is no URL of a NATS server: give one"
        raise ConfigurationError(msg)
    login_in(servers)
    if with_tls and any(server.scheme == "ws" for server in servers):
        msg = "A URL with the scheme ws has no TLS: write wss, or give no flag for TLS."
        raise ConfigurationError(msg)
    return servers


def login_in(servers: Iterable[Server]) -> Login | None:
    """Return the login in the URLs; None if there is none.

    It is used for the servers that NATS names, too, so there can be only one.

    Raises:
        ConfigurationError: the URLs have different logins, or only some have one.
    """
    logins = list(dict.fromkeys(server.login for server in servers))
    if len(logins) > 1:
        msg = (
            "the URLs of the NATS servers have different logins, or only some of them have one:"
            " give the same login in each of them, or in none and by --nats-user and"
            " --nats-password-file"
        )
        raise ConfigurationError(msg)
    return logins[0] if logins else None


def is_address(host: str) -> bool:
    """Whether a host is an IP address, not a name."""
    return ":" in host or re.fullmatch(r"\d+(\.\d+){3}", host) is not None


def _host_and_port(authority: str, scheme: str) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(authority)
    port = match["port"] if match else None
    if match is None or (port and not (port.isascii() and port.isdigit())):
        why = "what follows its host is no port"
        _refuse(why, f"{_PATTERN}, and an IPv6 address in brackets")
    if port and not 0 < int(port) <= _LARGEST_PORT:
        _refuse(f"its port is not from 1 to {_LARGEST_PORT}", _PATTERN)
    brackets = _BRACKETS.fullmatch(match["host"])
    if brackets is None and not _HOST.fullmatch(match["host"]):
        _refuse("it has no host, or one that cannot be", _PATTERN)
    host = unquote(brackets[1]) if brackets else match["host"]
    return host, int(port) if port else DEFAULT_PORTS[scheme]


def _login(text: str) -> Login:
    """Decode what stands before the host."""
    user, colon, password = text.partition(":")
    if not user:
        _refuse("there is no user before its @", _ADVICE)
    try:
        return Login(_decoded(user), _decoded(password) if colon else None)
    except ValueError:
        _refuse("a % in its login does not begin an encoded letter", _ADVICE)


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError
    return unquote(text, errors="strict")


def _refuse(why: str, advice: str) -> NoReturn:
    msg = f"This is not the URL of a NATS server: {why}; {advice}."
    raise ConfigurationError(msg)
