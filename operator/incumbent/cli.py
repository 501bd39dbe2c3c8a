"""The command line.

What it imports is paid for by every `--help`, so nothing here imports the operator, or kopf, nats
and kubernetes with it, before it is known that they are needed. That includes aiohttp.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from incumbent.errors import ConfigurationError
from incumbent.settings import Settings
from incumbent.timing import MAXIMUM_TTL, MINIMUM_TTL

COMMANDS = {
    "operator": ("incumbent.cli:operator", "Run the operator."),
}
"""Name of each command, where its `click.Command` is, and what it does."""

DEFAULTS = Settings()

UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Units of durations, in seconds."""

SCHEMES = ("nats", "tls", "ws", "wss")
"""What nats-py can connect to."""

BUCKET = r"[a-zA-Z0-9_-]+"
"""The rule of NATS for bucket names, and for JetStream domains."""

DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
"""The rule of Kubernetes for DNS subdomain names."""


class Commands(click.Group):
    """The commands of a table, each imported when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return their names, in the order of the table."""
        return [*COMMANDS]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


class Refusal(click.ClickException):
    """Ends the program as a bad flag does, but without a word on its usage."""

    exit_code = 2


class Text(click.ParamType[Any, Any]):
    """Text that a function checks and perhaps converts, with a `ConfigurationError` if it must."""

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
        """Split a list from the environment, of which a comma at the end is no part."""
        return [part.strip() for part in rv.split(",") if part.strip()]


def duration(text: str) -> float:
    """Return the seconds in a text like `30s`, `1m30s`, `500ms` or `30`.

    Raises:
        ConfigurationError: it is none.
    """
    number = r"\d+(?:\.\d+)?"
    if re.fullmatch(rf"{number}|(?:{number}(?:ms|s|m|h))+", text):
        parts = re.findall(rf"({number})(ms|s|m|h|)", text)
        return sum(float(count) * UNITS[unit] for count, unit in parts)
    msg = f"{text!r} is not a duration; write it like 30s, 1m30s, 500ms, or 30 for seconds."
    raise ConfigurationError(msg)


def ttl(text: str) -> float:
    """Return the seconds of a bucket's TTL.

    Raises:
        ConfigurationError: it is none, or outside the limits that every election has.
    """
    seconds = duration(text)
    if MINIMUM_TTL <= seconds <= MAXIMUM_TTL:
        return seconds
    msg = f"{text} is no TTL for elections; it must be from 1 second to 1 hour."
    raise ConfigurationError(msg)


def nats_url(text: str) -> str:
    """Return the URL of a NATS server, with the scheme `nats` if there was none.

    Raises:
        ConfigurationError: nats-py would not understand it; the message has no password in it.
    """
    url = text if "://" in text else f"nats://{text}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in SCHEMES and parts.hostname and parts.port != 0 and "," not in url
    except ValueError:
        valid = False
    if valid:
        return url
    shown = text.rpartition("@")[2]
    msg = (
        f"{shown!r} is not the URL of a NATS server; write it like nats://host:4222, with the"
        f" scheme {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}, and give the flag once for each."
    )
    raise ConfigurationError(msg)


def bucket_name(text: str) -> str:
    """Return the name of a bucket, or of a JetStream domain.

    Raises:
        ConfigurationError: NATS allows no such name.
    """
    if re.fullmatch(BUCKET, text):
        return text
    msg = f"{text!r} is not a valid name; it must consist of letters, digits, '-' and '_'."
    raise ConfigurationError(msg)


def plain_name(text: str) -> str:
    """Return the name of a site or a replica, which becomes part of identities and headers.

    Raises:
        ConfigurationError: it is too long, or has characters that end a part.
    """
    if re.fullmatch(r"[a-zA-Z0-9._-]{1,253}", text):
        return text
    msg = (
        f"{text!r} is not a valid name; it must consist of at most 253 letters, digits,"
        " '.', '-' and '_'."
    )
    raise ConfigurationError(msg)


def namespace(text: str) -> str:
    """Return the name of a namespace.

    Raises:
        ConfigurationError: Kubernetes allows no such name.
    """
    if re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        return text
    msg = (
        f"{text!r} is not the name of a namespace; it must consist of at most 63 lower-case"
        " letters, digits and '-'. Give the flag once for each."
    )
    raise ConfigurationError(msg)


def label_prefix(text: str) -> str:
    """Return a prefix of label keys, without the slash.

    Raises:
        ConfigurationError: it is none, or belongs to Kubernetes.
    """
    prefix = text.removesuffix("/")
    if not re.fullmatch(DOMAIN, prefix) or len(prefix) > 253:  # noqa: PLR2004  # as in Kubernetes
        msg = f"{text!r} is not a prefix of label keys; write a domain name, like example.com."
        raise ConfigurationError(msg)
    if re.search(r"(^|\.)(kubernetes|k8s)\.io$", prefix):
        msg = f"{text!r} belongs to Kubernetes; use a domain of your own."
        raise ConfigurationError(msg)
    return prefix


def http_address(text: str) -> str:
    """Return an address to listen at.

    Raises:
        ConfigurationError: it is none.
    """
    from incumbent.http import parse_address  # noqa: PLC0415  # it imports aiohttp

    parse_address(text)
    return text


def check(settings: Settings) -> None:
    """Look for settings that do not go together.

    Raises:
        ConfigurationError: there are some.
    """
    if (settings.nats_user is None) != (settings.nats_password_file is None):
        msg = "--nats-user and --nats-password-file must be given together."
        raise ConfigurationError(msg)
    if (settings.nats_tls_cert is None) != (settings.nats_tls_key is None):
        msg = "--nats-tls-cert and --nats-tls-key must be given together."
        raise ConfigurationError(msg)
    logins = {
        "--nats-creds": settings.nats_creds,
        "--nats-nkey": settings.nats_nkey,
        "--nats-user": settings.nats_user,
        "--nats-token-file": settings.nats_token_file,
        "a user in --nats-url": next((url for url in settings.nats_urls if "@" in url), None),
    }
    given = [name for name, value in logins.items() if value is not None]
    if len(given) > 1:
        msg = f"There can be only one way to log in to NATS: give {' or '.join(given)}, not both."
        if len(given) > 2:  # noqa: PLR2004  # "both" is two
            msg = f"There can be only one way to log in to NATS: give one of {', '.join(given)}."
        raise ConfigurationError(msg)


def version() -> str:
    """Return the version of the installed package."""
    try:
        return importlib.metadata.version("incumbent")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


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


def shown_version() -> Callable[..., Any]:
    """Return a decorator for `--version`, which looks the version up only if it is asked for."""

    def show(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
        if value and not ctx.resilient_parsing:
            click.echo(f"incumbent {version()}")
            ctx.exit()

    return click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and exit.",
    )


FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@shown_version()
def main() -> None:
    """Keep exactly one pod of a set in office, with the lock in NATS JetStream.

    \b
    Examples:
      incumbent operator --nats-url nats://nats.nats:4222 --create-bucket
      incumbent operator --nats-url tls://a:4222 --nats-url tls://b:4222 --nats-creds user.creds
      INCUMBENT_NATS_URL=tls://a:4222,tls://b:4222 incumbent operator
      incumbent operator --help
    """  # noqa: D301  # not an escape but click's mark for "do not wrap"


@click.command(
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
    short_help="Run the operator.",
)
@flag(
    "nats-url",
    "nats_urls",
    multiple=True,
    type=Text("URL", nats_url),
    help="A NATS server, any of which will do. Repeatable.",
)
@flag("nats-creds", type=FILE, help="Credentials file, to log in to NATS.")
@flag("nats-nkey", type=FILE, help="File with an NKey seed, to log in to NATS.")
@flag("nats-user", metavar="NAME", help="User name, to log in to NATS.")
@flag("nats-password-file", type=FILE, help="File with the password of --nats-user.")
@flag("nats-token-file", type=FILE, help="File with a token, to log in to NATS.")
@flag("nats-tls-ca", type=FILE, help="Certificates to trust, instead of the system's.")
@flag("nats-tls-cert", type=FILE, help="Client certificate for NATS.")
@flag("nats-tls-key", type=FILE, help="Private key of --nats-tls-cert.")
@flag("nats-tls-first", is_flag=True, help="Begin with TLS before the server says anything.")
@flag("nats-domain", type=Text("NAME", bucket_name), help="JetStream domain of the bucket.")
@flag("bucket", type=Text("NAME", bucket_name), help="Bucket of elections that name none.")
@flag("create-bucket", is_flag=True, help="Create that bucket if there is none.")
@flag(
    "bucket-ttl",
    type=Text("DURATION", ttl),
    default=f"{DEFAULTS.bucket_ttl:g}s",
    help="TTL of a bucket that is created: how long a leader that fell silent stays in office.",
)
@flag(
    "bucket-replicas",
    type=click.Choice([1, 3, 5]),
    help="On how many NATS servers a bucket that is created is stored.",
)
@flag(
    "site",
    type=Text("NAME", plain_name),
    show_default="from the UID of the namespace kube-system",
    help="Name of this cluster, different from all others that use the bucket.",
)
@flag(
    "replica",
    type=Text("NAME", plain_name),
    show_default="the host name",
    help="Name of this process.",
)
@flag(
    "namespace",
    "namespaces",
    multiple=True,
    type=Text("NAME", namespace),
    show_default="all",
    help="Namespace in which to look for elections. Repeatable.",
)
@flag(
    "label-prefix",
    "label_prefixes",
    multiple=True,
    type=Text("DOMAIN", label_prefix),
    help="Prefix of label keys to allow besides incumbent.dev. Repeatable.",
)
@flag(
    "http-address",
    type=Text("[HOST]:PORT", http_address),
    help="Where to serve health, metrics and the list of elections.",
)
@flag("log-format", type=click.Choice(["json", "text"]), help="How log lines look.")
@flag(
    "log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    help="The least important log lines to write.",
)
@flag(
    "release-on-exit",
    is_flag=True,
    help="Give everything up at the end. Only for a single replica.",
)
@flag(
    "kubeconfig",
    metavar="FILE",
    show_default="as for kubectl, or in-cluster",
    help="How to reach Kubernetes.",
)
@flag("context", metavar="NAME", help="Context in the kubeconfig, instead of its current one.")
@shown_version()
def operator(**options: Any) -> None:
    """Run the operator, until SIGTERM or SIGINT.

    If NATS or the Kubernetes API server is away it waits, and says so in the log and on /readyz.
    Every flag can be given as an environment variable, a repeatable one with commas between its
    values; the flag wins.

    \b
    Examples:
      incumbent operator --nats-url nats://nats.nats:4222 --create-bucket --bucket-ttl 30s
      incumbent operator --namespace shop --namespace billing --http-address 127.0.0.1:8080
      incumbent operator --kubeconfig ~/.kube/config --context kind-a --log-format text
    """  # noqa: D301  # see `main`
    settings = Settings(**options)
    try:
        check(settings)
        from incumbent import logs, operation  # noqa: PLC0415  # the long imports

        logs.configure(settings.log_format, level=settings.log_level)
        status = operation.run(settings)
    except ConfigurationError as error:
        raise Refusal(str(error)) from error
    sys.exit(status)
