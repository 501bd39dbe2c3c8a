"""All ways to log in to NATS: what a server is configured with, and the files of its client."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

GENERATIONS = (1, 2)


@dataclass
class Login:
    """One generation of one way to log in: the server takes this one and no other.

    The fields of `NatsAccess` are the keys of `files` and `options`.
    """

    config: str
    files: dict[str, Path] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    userinfo: str = ""
    """What stands before the host in the URL."""
    secrets: list[str] = field(default_factory=list)
    """Nobody must ever be shown these."""
    refusal: str = "refuses the login"
    """What is said when the server, or we, do not take another generation."""

    def install(self, folder: Path) -> dict[str, Any]:
        """Put the files where a client reads them, over others; return its `NatsAccess` fields."""
        folder.mkdir(exist_ok=True)
        for option, file in self.files.items():
            shutil.copy(file, folder / option)
        return {**self.options, **{option: folder / option for option in self.files}}

    def url(self, url: str) -> str:
        """Return the URL of a server with what belongs into it."""
        return url.replace("//", f"//{self.userinfo}@") if self.userinfo else url


def flags_from(access: Mapping[str, Any]) -> list[str]:
    """Return the same as flags of the operator and the commands."""
    shown = {name.replace("_", "-"): value for name, value in access.items()}
    return [
        f"--nats-{name}" if value is True else f"--nats-{name}={value}"
        for name, value in shown.items()
    ]


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _password(folder: Path, generation: int) -> Login:
    secret = f"planted-password-{generation}"
    return Login(
        f'authorization {{ user: op, password: "{secret}" }}',
        {"password_file": _write(folder, "password", f"{secret}\n")},
        {"user": "op"},
        secrets=[secret],
    )


def _token(folder: Path, generation: int) -> Login:
    secret = f"planted-token-{generation}"
    file = _write(folder, "token", f"{secret}\n")
    return Login(f'authorization {{ token: "{secret}" }}', {"token_file": file}, secrets=[secret])


def _password_in_url(_: Path, generation: int) -> Login:
    secret = f"planted-password-{generation}"
    config = f'authorization {{ user: op, password: "{secret}" }}'
    return Login(config, userinfo=f"op:{secret}", secrets=[secret])


def _token_in_url(_: Path, generation: int) -> Login:
    secret = f"planted-token-{generation}"
    return Login(f'authorization {{ token: "{secret}" }}', userinfo=secret, secrets=[secret])


def key(number: int, prefix: int) -> nkeys.KeyPair:
    """Return a pair of keys, always the same for a number."""
    seed = nkeys.encode_seed(bytes([number]) * 32, prefix)
    return nkeys.from_seed(bytearray(seed))


def _nkey(folder: Path, generation: int) -> Login:
    pair = key(generation, nkeys.PREFIX_BYTE_USER)
    seed = pair.seed.decode()
    return Login(
        f"authorization {{ users: [ {{ nkey: {pair.public_key.decode()} }} ] }}",
        {"nkey": _write(folder, "user.nk", f"# of the operator\n{seed}\n")},
        secrets=[seed],
    )


def _jwt(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, **claims: Any) -> str:
    """Sign claims as `nsc` does."""
    body = {
        "jti": "J",
        "iat": 1,
        "iss": issuer.public_key.decode(),
        "sub": subject.public_key.decode(),
        "name": claims["type"],
        "nats": {"version": 2, **claims},
    }
    parts = [{"typ": "JWT", "alg": "ed25519-nkey"}, body]
    encoded = [_base64(json.dumps(part).encode()) for part in parts]
    text = ".".join(encoded)
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


_UNLIMITED = dict.fromkeys(("subs", "data", "payload"), -1)


def operator_mode(*, revoked: nkeys.KeyPair | None = None) -> tuple[str, nkeys.KeyPair]:
    """Return a server's configuration with an account from JWTs, and the account's key."""
    operator = key(11, nkeys.PREFIX_BYTE_OPERATOR)
    system, account = (key(number, nkeys.PREFIX_BYTE_ACCOUNT) for number in (12, 13))
    more = ("imports", "exports", "conn", "leaf")
    more += ("mem_storage", "disk_storage", "streams", "consumer")
    limits = {"wildcards": True, **_UNLIMITED, **dict.fromkeys(more, -1)}
    revocations = {revoked.public_key.decode(): 2} if revoked is not None else {}
    claims = (
        (system, {"limits": _UNLIMITED | {"conn": -1}}),
        (account, {"limits": limits, "revocations": revocations}),
    )
    accounts = [
        f"{pair.public_key.decode()}: {_jwt(operator, pair, type='account', **said)}"
        for pair, said in claims
    ]
    config = (
        f"operator: {_jwt(operator, operator, type='operator')}\n"
        f"system_account: {system.public_key.decode()}\n"
        f"resolver: MEMORY\nresolver_preload: {{ {', '.join(accounts)} }}"
    )
    return config, account


def credentials(account: nkeys.KeyPair, user: nkeys.KeyPair, **permissions: Any) -> str:
    """Return the content of a credentials file; `pub={"allow": […]}` and so on limit the user."""
    token = _jwt(account, user, type="user", **_UNLIMITED, **permissions)
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )


def _creds(folder: Path, generation: int) -> Login:
    users = {number: key(20 + number, nkeys.PREFIX_BYTE_USER) for number in GENERATIONS}
    user = users.pop(generation)
    config, account = operator_mode(revoked=next(iter(users.values())))
    content = credentials(account, user)
    file = _write(folder, "op.creds", content)
    return Login(config, {"creds": file}, secrets=[user.seed.decode(), content.splitlines()[1]])


def _certificates(folder: Path, generation: int) -> Path:
    """Make a certificate authority, a server's certificate and a client's."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE"]
    for name, signer in (("ca", []), ("server", signed), ("client", signed)):
        subprocess.run(
            [*make, "-nodes", "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem",
             "-subj", f"/CN={name}-{generation}", "-addext", "subjectAltName=IP:127.0.0.1",
             *signer],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
    return folder


def _tls(folder: Path, generation: int, *, first: bool = False, settings: str = "") -> Login:
    files = _certificates(folder, generation)
    settings += "handshake_first: true," if first else ""
    return Login(
        f'tls {{ {settings} cert_file: "{files}/server.pem", key_file: "{files}/server.key",'
        f' ca_file: "{files}/ca.pem" }}',
        {"tls_ca": files / "ca.pem"},
        {"tls_first": True} if first else {},
        refusal="its certificate is not accepted",
    )


def _tls_if_asked(folder: Path, generation: int) -> Login:
    login = _tls(folder, generation)
    login.config += "\nallow_non_tls: true"
    return login


def _client_certificate(folder: Path, generation: int, *, first: bool = False) -> Login:
    login = _tls(folder, generation, first=first, settings="verify: true,")
    login.files |= {"tls_cert": folder / "client.pem", "tls_key": folder / "client.key"}
    login.secrets = (folder / "client.key").read_text().splitlines()[1:-1]
    return login


def _certificate_as_login(folder: Path, generation: int) -> Login:
    login = _client_certificate(folder, generation)
    login.config = login.config.replace("verify: true", "verify_and_map: true")
    login.config += f'\nauthorization {{ users: [ {{ user: "CN=client-{generation}" }} ] }}'
    return login


def _password_over_tls(folder: Path, generation: int) -> Login:
    login, inner = _client_certificate(folder, generation), _password(folder, generation)
    login.config += f"\n{inner.config}"
    login.files |= inner.files
    login.options |= inner.options
    login.secrets += inner.secrets
    return login


LOGINS: dict[str, Callable[[Path, int], Login]] = {
    "password": _password,
    "token": _token,
    "nkey": _nkey,
    "creds": _creds,
    "password in the URL": _password_in_url,
    "token in the URL": _token_in_url,
    "TLS": _tls,
    "TLS first": lambda folder, generation: _tls(folder, generation, first=True),
    "TLS if asked": _tls_if_asked,
    "client certificate": _client_certificate,
    "client certificate, TLS first": lambda folder, generation: _client_certificate(
        folder, generation, first=True
    ),
    "client certificate as login": _certificate_as_login,
    "client certificate and password": _password_over_tls,
}


def login(kind: str, folder: Path, *, generation: int = 1) -> Login:
    """Return a login, with its files in a folder of their own."""
    own = folder / f"generation-{generation}"
    own.mkdir()
    return LOGINS[kind](own, generation)
