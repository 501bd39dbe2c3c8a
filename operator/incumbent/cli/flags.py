"""Flags of the command line: how they are read, checked and said to be wrong.

As for `incumbent.cli.main`, everything imported here is paid for by every `--help`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from incumbent.controller.locks import lock_rule
from incumbent.display import line
from incumbent.errors import ConfigurationError, IncumbentError
from incumbent.nats.servers import login_in, servers_from
from incumbent.settings import Settings
from incumbent.validation import bucket_name, connect_timeout, inbox_prefix, namespace, nats_url

DEFAULTS = Settings()
FAILED, INTERRUPTED = 1, 130
"""Exit codes besides 0, and 2 for bad usage. 130 is a shell's code for SIGINT."""


class Failure(click.ClickException):
    """Ends the program with one sentence."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(line(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


class Refusal(click.ClickException):
    """Ends the program as a bad flag does, but prints no usage text."""

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(line(message))


@contextlib.contextmanager
def said_by_click() -> Iterator[None]:
    """Turn our errors into errors that end the program with one sentence."""
    try:
        yield
    except ConfigurationError as error:
        raise Refusal(str(error)) from error
    except IncumbentError as error:
        raise Failure(str(error)) from error


class Text(click.ParamType[Any, Any]):
    """A text that a function checks and may convert, or refuse by a `ConfigurationError`."""

    envvar_list_splitter = ","

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check one value."""
        try:
            return self._parse(value)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Split a list from the environment, and ignore a comma at the end.

        Where there is nothing else, that is a value, too: no list at all would mean something else.
        """
        return [part.strip() for part in rv.split(",") if part.strip()] or [rv.strip()]


def lock(text: str) -> str:
    """Return a rule for locks.

    Raises:
        ConfigurationError: it is none.
    """
    lock_rule(text)
    return text


def http_address(text: str) -> str:
    """Return an address to listen at.

    Raises:
        ConfigurationError: it is none.
    """
    from incumbent.server.listen import parse_address  # noqa: PLC0415  # it imports asyncio

    parse_address(text)
    return text


def check(settings: Settings) -> None:
    """Check for settings that cannot be combined.

    Raises:
        ConfigurationError: there are some.
    """
    if (settings.nats_user is None) != (settings.nats_password_file is None):
        msg = "--nats-user and --nats-password-file must be given together."
        raise ConfigurationError(msg)
    if (settings.nats_tls_cert is None) != (settings.nats_tls_key is None):
        msg = "--nats-tls-cert and --nats-tls-key must be given together."
        raise ConfigurationError(msg)
    with_tls = bool(settings.nats_tls_ca or settings.nats_tls_cert or settings.nats_tls_first)
    servers = servers_from(settings.nats_urls, with_tls=with_tls)
    logins = {
        "--nats-creds": settings.nats_creds,
        "--nats-nkey": settings.nats_nkey,
        "--nats-user": settings.nats_user,
        "--nats-token-file": settings.nats_token_file,
        "a user in --nats-url": login_in(servers),
    }
    given = [name for name, value in logins.items() if value is not None]
    if len(given) > 1:
        msg = f"There can be only one way to log in to NATS: give {' or '.join(given)}, not both."
        if len(given) > 2:  # noqa: PLR2004  # two are "both"
            msg = f"There can be only one way to log in to NATS: give one of {', '.join(given)}."
        raise ConfigurationError(msg)


def flag(name: str, field: str | None = None, **attributes: Any) -> Callable[..., Any]:
    """Return a decorator for a flag that may also be given as INCUMBENT_<NAME>.

    Its value goes to that field of the settings (default: the one of the same name), and its
    default comes from there.
    """
    field = field or name.replace("-", "_")
    attributes.setdefault("default", getattr(DEFAULTS, field))
    return click.option(
        f"--{name}",
        field,
        envvar=f"INCUMBENT_{name.replace('-', '_').upper()}",
        show_envvar=True,
        **attributes,
    )


def namespaces_flag(text: str) -> Callable[..., Any]:
    """Return a decorator for the repeatable `--namespace`; `text` is its help text."""
    return flag(
        "namespace",
        "namespaces",
        multiple=True,
        type=Text("NAME", namespace),
        show_default="all",
        help=text,
    )


FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

_NATS = (
    flag(
        "nats-url",
        "nats_urls",
        multiple=True,
        type=Text("URL", nats_url),
        help="A NATS server; the others of its cluster are found. Repeatable.",
    ),
    flag("nats-creds", type=FILE, help="Credentials file, to log in to NATS."),
    flag("nats-nkey", type=FILE, help="File with an NKey seed, to log in to NATS."),
    flag("nats-user", metavar="NAME", help="User name, to log in to NATS."),
    flag("nats-password-file", type=FILE, help="File with the password of --nats-user."),
    flag("nats-token-file", type=FILE, help="File with a token, to log in to NATS."),
    flag("nats-tls-ca", type=FILE, help="Certificates to trust, instead of the system's."),
    flag("nats-tls-cert", type=FILE, help="Client certificate for NATS."),
    flag("nats-tls-key", type=FILE, help="Private key of --nats-tls-cert."),
    flag("nats-tls-first", is_flag=True, help="Begin with TLS before the server says anything."),
    flag("nats-domain", type=Text("NAME", bucket_name), help="JetStream domain of the bucket."),
    flag(
        "nats-inbox-prefix",
        type=Text("SUBJECT", inbox_prefix),
        help="What the subjects of answers begin with.",
    ),
    flag(
        "nats-connect-timeout",
        type=Text("DURATION", connect_timeout),
        default=f"{DEFAULTS.nats_connect_timeout:g}s",
        help="How long a server has for each step of connecting, before the next is tried.",
    ),
)

_CLUSTER = (
    flag(
        "kubeconfig",
        metavar="FILE",
        show_default="as for kubectl, or in-cluster",
        help="How to reach Kubernetes.",
    ),
    flag("context", metavar="NAME", help="Context in the kubeconfig, instead of its current one."),
)


def nats_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that say where NATS is and how to log in."""
    for decorate in reversed(_NATS):
        command = decorate(command)
    return command


def cluster_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags that say where Kubernetes is."""
    for decorate in reversed(_CLUSTER):
        command = decorate(command)
    return command
