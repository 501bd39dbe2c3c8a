"""The addresses of NATS, the login, and messages without credentials if the login fails."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections import UserString
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incumbent.errors import ConfigurationError
from incumbent.nats.servers import Server, login_in, servers_from
from incumbent.settings import Settings

MINIMUM_SERVER = (2, 11)
"""The oldest version that works. From 2.11 on, a new stream leader answers only after it has caught
up with its log, and an expired record can leave a marker (release notes of nats-server 2.11)."""

LEAST_PATIENCE = 5.0
"""Shortest time in seconds for which a command waits for NATS."""

_CREDENTIALS = (
    re.compile(r"BEGIN NATS USER JWT-+\n+\S+\n"),
    re.compile(r"BEGIN USER NKEY SEED-+\n+\S+\n"),
)
_CLEARER = {
    "stale connection": "it does not answer pings",
    "unexpected eof": "the server closed it",
}
_NO_WEBSOCKET = "WSServerHandshakeError"
"""Name of the error that aiohttp raises if the server does not accept a websocket."""
_ERRNO = re.compile(r"\[Errno (\d+)\]")


@dataclass(frozen=True, slots=True)
class NatsAccess:
    """The addresses of NATS, and the login.

    The URLs are tried in turn, beginning with a random one. Files are read again for every
    connection, so credentials may be rotated.
    """

    urls: Sequence[str] = field(repr=False)
    """The URLs of the servers. They may contain credentials, percent-encoded, so they are not
    shown."""
    name: str = "incumbent"
    creds: Path | None = None
    nkey: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_first: bool = False
    domain: str | None = None
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 2.0
    """Seconds for each step of connecting to a server."""
    servers: tuple[Server, ...] = field(init=False, repr=False, compare=False)
    """The servers that the URLs name."""

    def __post_init__(self) -> None:
        """Read the URLs.

        Raises:
            ConfigurationError: there is no URL, one cannot be used, or they contradict each other.
        """
        servers = servers_from(self.urls, with_tls=self._wants_tls)
        object.__setattr__(self, "servers", servers)  # because the dataclass is frozen

    @property
    def patience(self) -> float:
        """Seconds within which a command that waits for a connection can expect to have one."""
        return max(LEAST_PATIENCE, 2 * self.connect_timeout + 1)

    @property
    def _wants_tls(self) -> bool:
        return bool(self.tls_ca or self.tls_cert or self.tls_first)

    def check(self, info: dict[str, Any], server: Server) -> str:
        """Check what a server says about itself before we send it anything.

        Returns its version. If we want TLS and the server makes it optional, `info` requires it
        afterwards. What a server says about TLS concerns only its TCP listener, not websockets.

        Raises:
            ConfigurationError: the server is too old, does not offer the TLS that we want, or asks
                for a certificate that we do not have.
        """
        version = str(info.get("version", "unknown"))
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if numbers is None or tuple(map(int, numbers.groups())) < MINIMUM_SERVER:
            least = ".".join(map(str, MINIMUM_SERVER))
            msg = f"NATS at {server.address} has version {version}: upgrade it to {least} or newer"
            raise ConfigurationError(msg)
        if server.websocket:
            return version
        if self._wants_tls or server.scheme == "tls":
            info["tls_required"] = info.get("tls_required") or info.get("tls_available", False)
            if not info["tls_required"]:
                msg = (
                    f"NATS at {server.address} offers no TLS: enable it there, or ask for none here"
                )
                raise ConfigurationError(msg)
        if info.get("tls_required") and info.get("tls_verify") and not self.tls_cert:
            raise ConfigurationError(_certificate_wanted(server))
        return version

    def login(self) -> dict[str, Any]:
        """Read the files, and return the options for nats-py's `connect`.

        Raises:
            OSError: a file cannot be read; the error names the file.
            ConfigurationError: the content of a file cannot be used.
        """
        options: dict[str, Any] = {}
        if in_url := login_in(self.servers):
            if in_url.password is None:
                options["token"] = in_url.user
            else:
                options |= {"user": in_url.user, "password": in_url.password}
        if self.creds:
            options["user_credentials"] = _credentials(self.creds)
        if self.nkey:
            options["nkeys_seed_str"] = _seed(self.nkey)
        if self.user is not None:
            options["user"] = self.user
        if self.password_file:
            options["password"] = self.password_file.read_text().strip()
        if self.token_file:
            options["token"] = self.token_file.read_text().strip()
        if self._wants_tls:
            options["tls"] = self._context()
            options["tls_handshake_first"] = self.tls_first
        return options

    def _context(self) -> ssl.SSLContext:
        for file in filter(None, (self.tls_ca, self.tls_cert, self.tls_key)):
            file.open().close()  # raises an error that names the file, which `ssl` does not
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key)
        except ssl.SSLError as error:
            msg = f"the files for TLS cannot be used: {said(error)}"
            raise ConfigurationError(msg) from error
        return context


def access_from(settings: Settings, *, name: str) -> NatsAccess:
    """Return the access to NATS from the settings. The servers show `name` as our client name."""
    return NatsAccess(
        urls=settings.nats_urls,
        name=name,
        creds=settings.nats_creds,
        nkey=settings.nats_nkey,
        user=settings.nats_user,
        password_file=settings.nats_password_file,
        token_file=settings.nats_token_file,
        tls_ca=settings.nats_tls_ca,
        tls_cert=settings.nats_tls_cert,
        tls_key=settings.nats_tls_key,
        tls_first=settings.nats_tls_first,
        domain=settings.nats_domain,
        inbox_prefix=settings.nats_inbox_prefix,
        connect_timeout=settings.nats_connect_timeout,
    )


def words(error: Exception, server: Server) -> str:
    """Return one sentence that says why there is no connection to a server."""
    error = _cause(error)
    why = said(error)
    if isinstance(error, ConfigurationError):
        return why
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} cannot be read: {why}"
    if isinstance(error, TimeoutError):
        return f"NATS at {server.address} does not answer"
    if "authorization" in why or "authentication" in why:
        return f"NATS at {server.address} refuses the login: {why}"
    if "alert certificate required" in why:
        return _certificate_wanted(server)
    return f"NATS at {server.address} cannot be reached: {why}"


def _certificate_wanted(server: Server) -> str:
    return f"NATS at {server.address} asks for a client certificate: give one and its key"


def _cause(error: Exception) -> Exception:
    """Return the error of the socket or of TLS that an error of a websocket wraps."""
    cause = error.__cause__
    if type(error).__module__.startswith("aiohttp") and isinstance(cause, OSError):
        return cause
    return error


def said(error: Exception) -> str:
    """Return the reason that an error gives, in words for a person."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or text).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return (error.strerror or text).lower()
    if isinstance(error, OSError):
        # asyncio's own text mentions sockets, and is a list if a name has two addresses.
        number = error.errno or int((_ERRNO.findall(text) or [0])[0])
        return os.strerror(number).lower() if number else text.lower()
    if isinstance(error, ConfigurationError):
        return text
    library, _, reason = text.partition(": ")
    if library in {"nats", "nkeys"}:
        reason = reason.strip("'").lower()
        return _CLEARER.get(reason, reason)
    if type(error).__name__ == _NO_WEBSOCKET:
        return "there is no websocket"
    return type(error).__name__  # not its text, which may quote what was read


def _credentials(file: Path) -> UserString:
    """Read a `.creds` file and check its two parts, because nats-py hangs if one is missing."""
    text = "\n".join((*file.read_text().splitlines(), ""))
    if not all(part.search(text) for part in _CREDENTIALS):
        msg = f"{file} is not a credentials file: it has to hold a user JWT and an nkey seed"
        raise ConfigurationError(msg)
    return UserString(text)


def _seed(file: Path) -> str:
    seed = re.search(r"^SU[A-Z2-7]+$", file.read_text(), re.MULTILINE)
    if seed is None:
        msg = f"{file} holds no nkey seed of a user: a line that begins with SU"
        raise ConfigurationError(msg)
    return seed.group()
