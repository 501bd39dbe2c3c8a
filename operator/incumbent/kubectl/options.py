"""The common parts of the plugin's commands: kubectl's flags, names, exit codes, output."""

from __future__ import annotations

import asyncio
import functools
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self

import click

from incumbent import terminal
from incumbent.cli.flags import FILE, Refusal, Text
from incumbent.errors import ConfigurationError
from incumbent.kubectl.completion import from_cluster, from_kubeconfig
from incumbent.kubernetes.resource import GROUP, KIND, PLURAL
from incumbent.validation import DOMAIN, duration, namespace

PROGRAM = "kubectl incumbent"
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

UNWELL, TIMED_OUT = 4, 124
"""Exit codes in addition to those of `incumbent.cli.flags`. 124 is the code of timeout(1)."""

SAY_AFTER = 1.0
"""Seconds after which a waiting command says what it waits for."""

OPERATOR_LABELS = "app.kubernetes.io/part-of=incumbent,app.kubernetes.io/component=operator"
"""Labels that the chart puts on all objects of the operator, regardless of their names."""

OBJECT_FORMATS = ("json", "yaml", "name")

_TYPES = {"leaderelection", PLURAL, "lelec", f"leaderelection.{GROUP}", f"{PLURAL}.{GROUP}"}


def election_name(text: str) -> str:
    """Return the name of an election, without what kubectl's `-o name` puts before it.

    Raises:
        ConfigurationError: Kubernetes allows no such name.
    """
    kind, slash, name = text.rpartition("/")
    if re.fullmatch(DOMAIN, name) and (not slash or kind.lower() in _TYPES):
        return name
    msg = (
        f"{text!r} is not the name of a LeaderElection; it must consist of lower-case letters,"
        " digits, '-' and '.'."
    )
    raise ConfigurationError(msg)


def pod_name(text: str) -> str:
    """Return the name of a pod, without what kubectl's `-o name` puts before it.

    Raises:
        ConfigurationError: Kubernetes allows no such name.
    """
    name = re.sub(r"^(pods?|po)/", "", text)
    if re.fullmatch(DOMAIN, name):
        return name
    msg = f"{text!r} is not the name of a pod."
    raise ConfigurationError(msg)


def qualified(text: str) -> tuple[str, str]:
    """Return the namespace and the name of an object that is not an election.

    Raises:
        ConfigurationError: one of them is missing, or Kubernetes allows no such name.
    """
    where, _, name = text.partition("/")
    if re.fullmatch(DOMAIN, name):
        return namespace(where), name
    msg = f"{text!r} names nothing; write it like incumbent/incumbent: NAMESPACE/NAME."
    raise ConfigurationError(msg)


ELECTION = Text("NAME", election_name)
POD = Text("POD", pod_name)
DURATION = Text("DURATION", duration)

election_argument = click.argument("name", type=ELECTION, shell_complete=from_cluster("elections"))
dry_run_flag = click.option(
    "--dry-run",
    type=click.Choice(["none", "client", "server"]),
    default="none",
    show_default=True,
    help="Only say what would be done; with `server`, let the API server check it.",
)


def output_flag(*formats: str) -> Callable[..., Any]:
    """Return a decorator for `-o`; the first format is the default."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(formats),
        default=formats[0],
        show_default=True,
        help="How to print the result.",
    )


_FLAGS = (
    click.option(
        "-n",
        "--namespace",
        type=Text("NAME", namespace),
        shell_complete=from_cluster("namespaces"),
        help="The namespace, instead of that of the context.",
    ),
    click.option("--kubeconfig", metavar="FILE", type=click.Path(), help="The kubeconfig."),
    click.option(
        "--context",
        metavar="NAME",
        shell_complete=from_kubeconfig("contexts"),
        help="Its context, instead of the current one.",
    ),
    click.option(
        "--cluster",
        metavar="NAME",
        shell_complete=from_kubeconfig("clusters"),
        help="A cluster of the kubeconfig.",
    ),
    click.option(
        "--user",
        metavar="NAME",
        shell_complete=from_kubeconfig("users"),
        help="A user of the kubeconfig.",
    ),
    click.option("-s", "--server", metavar="URL", help="The API server."),
    click.option("--token", metavar="TOKEN", help="The bearer token to log in with."),
    click.option(
        "--certificate-authority", type=FILE, help="Certificates to trust at the API server."
    ),
    click.option("--insecure-skip-tls-verify", is_flag=True, help="Trust any certificate."),
    click.option("--tls-server-name", metavar="NAME", help="The name in its certificate."),
    click.option("--as", "as_user", metavar="NAME", help="Act as another user."),
    click.option(
        "--as-group", "as_groups", metavar="NAME", multiple=True, help="With a group. Repeatable."
    ),
    click.option("--as-uid", metavar="UID", help="With a UID."),
    click.option(
        "--request-timeout",
        type=Text("DURATION", duration),
        help="Longest time for one request; 0 is no limit.  [default: 10s]",
    ),
)
NAMES = (
    *("namespace", "kubeconfig", "context", "cluster", "user", "server", "token"),
    *("certificate_authority", "insecure_skip_tls_verify", "tls_server_name", "as_user"),
    *("as_groups", "as_uid", "request_timeout"),
)
"""The parameters of the connection flags."""


def connection_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add kubectl's flags that say where Kubernetes is and as whom to act."""
    for decorate in reversed(_FLAGS):
        command = decorate(command)
    return command


def connection_from(context: click.Context, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the connection flags, given before or after the command.

    Raises:
        Refusal: some flags cannot be combined.
    """
    before: Mapping[str, Any] = context.find_root().obj or {}
    values = {name: own.get(name) or before.get(name) for name in NAMES}
    if own.get("request_timeout") is not None:
        values["request_timeout"] = own["request_timeout"]  # 0 is a value
    if (values["as_groups"] or values["as_uid"]) and not values["as_user"]:
        msg = "--as-group and --as-uid need --as: say as which user to act."
        raise Refusal(msg)
    return values


def command(work: Callable[..., Awaitable[int | None]]) -> Callable[..., None]:
    """Turn a coroutine function into a function for click, with kubectl's connection flags.

    Its first argument is a `Client`, and it returns the exit code (None: 0).
    """

    @connection_flags
    @functools.wraps(work)
    def called(**options: Any) -> None:
        connection = connection_from(click.get_current_context(), options)
        rest = {name: value for name, value in options.items() if name not in NAMES}
        from incumbent.kubectl.client import run  # noqa: PLC0415  # its imports take long

        sys.exit(run(work, connection, rest))

    return called


def kind_and_name(name: str) -> str:
    """Return a name as kubectl's `-o name` prints it."""
    return f"{KIND.lower()}.{GROUP}/{name}"


class Progress:
    """Says on standard error what a command waits for, if that takes longer than a second.

    A context manager of a running event loop. Each sentence is said once.
    """

    def __init__(self) -> None:
        self._latest, self._said, self._open = "", "", False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Start the timer."""
        self._timer = asyncio.get_running_loop().call_later(SAY_AFTER, self._begin)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the timer, so that nothing is printed later."""
        if self._timer is not None:
            self._timer.cancel()

    def say(self, text: str) -> None:
        """Print a text, unless it was printed last; before the timer ends, only remember it."""
        self._latest = text
        if self._open and text != self._said:
            self._said = text
            terminal.show(f"Waiting: {text}", err=True)

    def _begin(self) -> None:
        self._open = True
        if self._latest:
            self.say(self._latest)
