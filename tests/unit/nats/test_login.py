"""Where NATS is, and what is said when it is not there."""

from __future__ import annotations

import errno
import socket
import ssl

import nats.errors
import nkeys
import pytest

from incumbent.errors import ConfigurationError
from incumbent.nats.login import NatsAccess, words
from incumbent.nats.servers import server_from

SECRET = "s3cr3t-of-the-test"
URL = f"nats://op:{SECRET}@nats.example.org:4222"


def test_a_url_is_not_shown() -> None:
    """It may hold a login."""
    access = NatsAccess([URL])
    assert SECRET not in f"{access} {access.servers}"


@pytest.mark.parametrize(
    ("url", "options"),
    (
        ("nats://a", {}),
        ("nats://op:p%40ss%2Fw%231@a", {"user": "op", "password": "p@ss/w#1"}),
        ("nats://t%3Ak@a", {"token": "t:k"}),
    ),
)
def test_a_login_in_the_url_is_decoded(url: str, options: dict[str, str]) -> None:
    """Percent-encoded as any URL's, and given to the server as it was before that."""
    assert NatsAccess([url]).login() == options


def _verification() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] (_ssl.c:1006)")
    error.verify_message = "self-signed certificate"
    return error


def _alert() -> ssl.SSLError:
    error = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] (_ssl.c:2576)")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    return error


REFUSED = "Connect call failed ('127.0.0.1', 4222)"


@pytest.mark.parametrize(
    ("error", "sentence"),
    (
        (
            ConnectionRefusedError(errno.ECONNREFUSED, REFUSED),
            "cannot be reached: connection refused",
        ),
        (
            OSError(f"Multiple exceptions: [Errno {errno.ECONNREFUSED}] …, [Errno 1] …"),
            "cannot be reached: connection refused",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "cannot be reached: name or service not known",
        ),
        (ConnectionResetError("Connection lost"), "cannot be reached: connection lost"),
        (nats.errors.UnexpectedEOF(), "cannot be reached: the server closed it"),
        (
            nats.errors.Error("nats: 'Maximum Connections Exceeded'"),
            "cannot be reached: maximum connections exceeded",
        ),
        (
            nats.errors.Error("nats: 'Authorization Violation'"),
            "refuses the login: authorization violation",
        ),
        (
            nats.errors.Error("nats: 'Authentication Timeout'"),
            "refuses the login: authentication timeout",
        ),
        (TimeoutError(), "does not answer"),
        (nats.errors.TimeoutError(), "does not answer"),
        (
            _verification(),
            "cannot be reached: its certificate is not accepted, self-signed certificate",
        ),
        (_alert(), "asks for a client certificate: give one and its key"),
        (nkeys.ErrInvalidSeed(), "cannot be reached: invalid seed"),
        (ValueError(SECRET), "cannot be reached: ValueError"),
    ),
)
def test_every_failure_is_one_sentence(error: Exception, sentence: str) -> None:
    """It names the server and the reason, and neither numbers nor logins."""
    assert words(error, server_from(URL)) == f"NATS at nats.example.org:4222 {sentence}"


def test_a_sentence_of_our_own_stays_as_it_is() -> None:
    """It says already what is wrong, and what to do next."""
    assert words(ConfigurationError("give a login"), server_from(URL)) == "give a login"


@pytest.mark.parametrize(
    ("access", "url", "info", "required"),
    (
        ({}, "nats://a", {}, None),
        ({}, "nats://a", {"tls_required": True}, True),
        ({}, "nats://a", {"tls_available": True}, None),
        ({}, "tls://a", {"tls_available": True}, True),
        ({"tls_ca": "ca"}, "nats://a", {"tls_required": True}, True),
        ({"tls_ca": "ca"}, "wss://a", {}, None),
        ({"tls_cert": "c"}, "nats://a", {"tls_required": True, "tls_verify": True}, True),
        ({}, "nats://a", {"tls_available": True, "tls_verify": True}, None),
        ({}, "ws://a", {"tls_verify": True}, None),
        ({}, "ws://a", {"tls_required": True, "tls_verify": True}, True),
        ({}, "wss://a", {"tls_required": True, "tls_verify": True}, True),
    ),
)
def test_tls_is_used_when_one_side_asks(
    access: dict[str, object], url: str, info: dict[str, object], required: object
) -> None:
    """A server that leaves the choice is taken at its word when TLS is wanted here."""
    info["version"] = "2.12.1"
    assert NatsAccess([url], **access).check(info, server_from(url)) == "2.12.1"
    assert info.get("tls_required") is required


@pytest.mark.parametrize(
    ("access", "url", "info", "sentence"),
    (
        ({}, "nats://a", {}, "NATS at a:4222 has version unknown: upgrade it to 2.11 or newer"),
        ({}, "nats://a", {"version": "2.10.29"}, "has version 2.10.29: upgrade it"),
        ({}, "tls://a", {"version": "2.12.0"}, "NATS at a:4222 offers no TLS: enable it there"),
        ({"tls_first": True}, "a", {"version": "2.12.0"}, "NATS at a:4222 offers no TLS"),
        ({"tls_cert": "c"}, "a", {"version": "2.12.0"}, "NATS at a:4222 offers no TLS"),
        (
            {},
            "a",
            {"version": "2.12.0", "tls_required": True, "tls_verify": True},
            "NATS at a:4222 asks for a client certificate: give one and its key",
        ),
    ),
)
def test_a_server_that_does_not_fit_is_refused(
    access: dict[str, object], url: str, info: dict[str, object], sentence: str
) -> None:
    """The sentence says what to change."""
    with pytest.raises(ConfigurationError, match=sentence):
        NatsAccess([url], **access).check(info, server_from(url))
