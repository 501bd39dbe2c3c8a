"""Plain, TLS and websocket listeners of one server, each with its own idea of TLS."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from certificates import Authority
from controlplane.natsserver import NatsServer
from controlplane.processes import free_port
from incumbent.campaign.ports import Outcome
from incumbent.nats.connection import NatsAccess, NatsConnection
from natsconnection import connected
from waiting import until

PASSWORD = "p@ss/w#1:%,?"
ENCODED = "p%40ss%2Fw%231%3A%25%2C%3F"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signed the certificates of this file's servers and clients."""
    return Authority(tmp_path_factory.mktemp("authority"))


class Listeners:
    """A server with a TCP and a websocket listener.

    Args:
        tcp, websocket: what TLS they have: "", "tls", or "mtls" for one that asks for a
            certificate.
        more: more text for the configuration.
    """

    def __init__(
        self, folder: Path, authority: Authority, *, tcp: str, websocket: str, more: str = ""
    ) -> None:
        certificate, key = authority.sign("server", "DNS:localhost", "IP:127.0.0.1")
        self._tls = f'cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority.file}",'
        self._websocket_port = free_port()
        inside = self._block(websocket) or "no_tls: true"
        config = f"websocket {{ listen: 127.0.0.1:{self._websocket_port}, {inside} }}\n{more}\n"
        self.server = NatsServer(folder, config=config + self._block(tcp))

    def _block(self, kind: str) -> str:
        verify = {"mtls": "verify: true,", "first": "handshake_first: true,"}.get(kind, "")
        verify = "verify: true, handshake_first: true," if kind == "mtls first" else verify
        return f"tls {{ {self._tls} {verify} }}" if kind else ""

    def url(self, scheme: str) -> str:
        """Return the URL of the listener for a scheme."""
        websocket = scheme.startswith("ws")
        return f"{scheme}://127.0.0.1:{self._websocket_port if websocket else self.server.port}"


def given(authority: Authority, *what: str) -> dict[str, Any]:
    """Return what a client is given: "ca", "certificate", "first"."""
    certificate, key = authority.sign("client")
    options: dict[str, Any] = {}
    if "ca" in what:
        options["tls_ca"] = authority.file
    if "certificate" in what:
        options |= {"tls_cert": certificate, "tls_key": key}
    if "first" in what:
        options["tls_first"] = True
    return options


NAMES = (f"ELECTIONS_{number}" for number in itertools.count())

WANTED = "asks for a client certificate: give one and its key"
NO_TLS = "offers no TLS: enable it there, or ask for none here"
NOT_TRUSTED = "its certificate is not accepted, unable to get local issuer certificate"
ALLOW = "allow_non_tls: true"

# What the TCP listener and the websocket have, more configuration, the scheme of the URL, what the
# client is given, and what it says; "" if it connects.
MATRIX = (
    ("", "", "", "nats", "", ""),
    ("", "", "", "ws", "", ""),
    ("", "tls", "", "nats", "", ""),
    ("", "tls", "", "wss", "ca", ""),
    ("", "tls", "", "wss", "", NOT_TRUSTED),
    ("", "mtls", "", "nats", "", ""),
    ("", "mtls", "", "wss", "ca", WANTED),
    ("", "mtls", "", "wss", "ca certificate", ""),
    ("", "", "", "tls", "ca", NO_TLS),
    ("tls", "", "", "nats", "ca", ""),
    ("tls", "", "", "tls", "ca", ""),
    ("tls", "", "", "nats", "", NOT_TRUSTED),
    ("tls", "", "", "ws", "", ""),
    ("tls", "mtls", "", "tls", "ca", ""),
    ("mtls", "", "", "ws", "", ""),
    ("mtls", "", ALLOW, "ws", "", ""),
    ("mtls", "", ALLOW, "nats", "", ""),
    ("mtls", "", ALLOW, "nats", "ca", WANTED),
    ("mtls", "", ALLOW, "tls", "ca certificate", ""),
    ("mtls", "", "", "nats", "ca", WANTED),
    ("mtls", "", "", "nats", "ca certificate", ""),
    ("mtls", "tls", "", "wss", "ca", ""),
    ("mtls", "tls", "", "wss", "ca certificate", ""),
    ("mtls", "mtls", "", "wss", "ca", WANTED),
    ("mtls", "mtls", "", "wss", "ca certificate", ""),
    ("first", "", "", "tls", "ca first", ""),
    ("first", "", "", "ws", "", ""),
    ("mtls first", "", "", "tls", "ca first", WANTED),
    ("mtls first", "", "", "tls", "ca certificate first", ""),
    ("mtls first", "", "", "ws", "", ""),
    ("mtls first", "tls", "", "wss", "ca", ""),
    ("mtls first", "tls", "", "wss", "ca first", ""),
)


@pytest.mark.parametrize(("tcp", "websocket", "more", "scheme", "what", "problem"), MATRIX)
async def test_each_listener_is_met_on_its_own_terms(
    tmp_path: Path,
    authority: Authority,
    tcp: str,
    websocket: str,
    more: str,
    scheme: str,
    what: str,
    problem: str,
) -> None:
    """What the TCP listener asks of its clients is no matter of the websocket's, or the reverse."""
    listeners = Listeners(tmp_path, authority, tcp=tcp, websocket=websocket, more=more)
    url, access = listeners.url(scheme), given(authority, *what.split())
    async with listeners.server:
        if problem:
            async with NatsConnection(NatsAccess([url], **access)) as connection:
                await until(lambda: "NATS at" in connection.problem)
                assert problem in connection.problem
                assert connection.problem.startswith(f"NATS at {url.partition('//')[2]} ")
            return
        async with connected(url, **access) as connection:
            name = next(NAMES)
            await connection.create_bucket(name, ttl=5, replicas=1)
            bucket = connection.bucket(name)
            answer = await bucket.write("a", "b", expected=0, headers={}, timeout=2)
            assert answer.outcome is Outcome.STORED


@pytest.mark.parametrize("scheme", ("nats", "ws", "wss"))
async def test_a_password_in_the_url_is_decoded(
    tmp_path: Path, authority: Authority, logs: list[EventDict], scheme: str
) -> None:
    """Whatever is in it; and neither of its forms is shown."""
    more = f'authorization {{ user: "o/p", password: "{PASSWORD}" }}'
    tls = "tls" if scheme == "wss" else ""
    listeners = Listeners(tmp_path, authority, tcp="", websocket=tls, more=more)
    url = listeners.url(scheme).replace("//", f"//o%2Fp:{ENCODED}@")
    access = given(authority, "ca") if tls else {}
    async with listeners.server:
        async with connected(url, **access) as connection:
            assert connection.connected
        wrong = url.replace(ENCODED, f"not{ENCODED}")
        async with NatsConnection(NatsAccess([wrong], **access)) as refused:
            await until(lambda: "refuses the login" in refused.problem)
            said = f"{refused.problem} {logs} {refused.access}"
    assert not [secret for secret in (PASSWORD, ENCODED, "o%2Fp", "w#1") if secret in said]


@pytest.mark.parametrize("scheme", ("ws", "wss"))
async def test_a_websocket_leaves_nothing_behind(
    tmp_path: Path, authority: Authority, logs: list[EventDict], scheme: str
) -> None:
    """Neither when the server goes, nor when it comes back, nor at the end."""
    tls = "tls" if scheme == "wss" else ""
    listeners = Listeners(tmp_path, authority, tcp="", websocket=tls)
    access = given(authority, "ca") if tls else {}
    async with listeners.server as server, connected(listeners.url(scheme), **access) as connection:
        server.kill()
        await until(lambda: "connection refused" in connection.problem)
        await server.start()
        await until(lambda: connection.connected)
        server.process.pause()
        started = time.monotonic()
        await connection.aclose()
        assert time.monotonic() - started < 2
        server.process.resume()
    assert {entry["log_level"] for entry in logs} <= {"info", "warning"}


async def test_a_port_that_is_no_websocket_is_told(tmp_path: Path) -> None:
    """A web server may stand there."""
    async with NatsServer(tmp_path) as server:
        url = server._monitor.replace("http", "ws")
        async with NatsConnection(NatsAccess([url])) as connection:
            await until(lambda: "there is no websocket" in connection.problem)
