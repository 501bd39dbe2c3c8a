"""Parses the URLs of NATS servers, and says what is wrong with a URL that cannot be used.

Only the rules of RFC 3986 apply, so a URL whose password contains an unescaped `@`, `/` or `#` is
refused. A parser that guesses would turn a part of such a password into a host name, which then
goes to DNS and into logs. No message of this module repeats any part of a URL.
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
"""The URL schemes that nats-py supports."""

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
    """The login in a URL: a user and a password, or a token as the user without a password."""

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
    """The path of a websocket behind a proxy. It may contain a secret, so it is not shown."""
    login: Login | None = field(default=None, repr=False, compare=False)
    certificate_name: str = field(default="", compare=False)
    """The name that the server's certificate must contain; empty: the host."""

    @property
    def address(self) -> str:
        """The host and port, for people. No other part of a URL is shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL without the login."""
        return f"{self.scheme}://{self.address}{self.path}"

    @property
    def websocket(self) -> bool:
        """Whether we connect by a websocket, which has its own TLS instead of NATS's TLS."""
        return self.scheme in WEBSOCKET


class ServerPool:
    """The servers to connect to: the configured servers, and the servers that NATS names.

    NATS names the servers of its cluster in each INFO message (`connect_urls`), and sends another
    one when the cluster changes. The configured servers come first, because they can be reached
    from here. The addresses that servers know of each other may not be reachable.
    """

    def __init__(self, configured: Iterable[Server]) -> None:
        self._configured = list(dict.fromkeys(configured))
        self._named: list[Server] = []

    def round(self) -> list[Server]:
        """Return all servers, in the order in which to try them."""
        return [*self._configured, *self._named]

    def tried(self, server: Server) -> None:
        """Move a server to the end of the configured or of the named servers."""
        for servers in (self._configured, self._named):
            if server in servers:
                servers.remove(server)
                servers.append(server)

    def learn(self, addresses: Iterable[str], *, by: Server, trusted: bool) -> bool:
        """Replace the named servers with those that a server names now.

        If there are no addresses, the named servers stay, because a server with `no_advertise`
        does not tell about the others.

        Args:
            addresses: hosts with ports.
            by: the server that names them.
            trusted: False if the names were read before the TLS handshake, where an attacker could
                have named a host of his own with a valid certificate. Then only the names of
                configured servers count, and IP addresses, because a server at an IP address must
                have a certificate for a configured name (`server_named`).

        Returns whether the set of named servers has changed.
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
    """Parse the URL of a server. The default scheme is `nats`.

    Raises:
        ConfigurationError: the text is not such a URL, or is ambiguous.
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
    """Return the server at an address that NATS names. It inherits the scheme and login of `like`.

    None if the address cannot be used. If the address is a host name, the server's certificate must
    contain it. If it is an IP address, the certificate must contain the configured name, as in
    other clients of NATS (nats.go `addURLToPool`), because certificates rarely contain the
    addresses of pods. If the configured host is an IP address, too, there is no such name, and each
    certificate must contain the address of its server.
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
    """Parse the URLs of the servers; `with_tls` says whether other settings ask for TLS.

    Raises:
        ConfigurationError: there is no URL, one cannot be used, or they contradict each other.
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

    There can be only one login, because it is also used for the servers that NATS names.

    Raises:
        ConfigurationError: the URLs have different logins, or only some have a login.
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
    """Decode the login, which is the part before the `@`."""
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
