"""The command line.

What it imports is paid for by every `--help`, so nothing here imports the operator, or kopf, nats
and kubernetes with it, before it is known that they are needed. That includes aiohttp.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import click

from incumbent import terminal
from incumbent.cli.flags import (
    DEFAULTS,
    Refusal,
    Text,
    check,
    cluster_flags,
    flag,
    http_address,
    lock,
    namespaces_flag,
    nats_flags,
)
from incumbent.errors import ConfigurationError
from incumbent.server.hosts import http_host
from incumbent.settings import Settings
from incumbent.validation import bucket_name, label_prefix, namespace, plain_name, size, ttl

COMMANDS = {
    "operator": ("incumbent.cli.main:operator", "Run the operator."),
    "run": ("incumbent.cli.run:run", "Run a command while this machine leads."),
    "file": ("incumbent.cli.file:file", "Keep a file while this machine leads."),
    "list": ("incumbent.cli.bucket:list_keys", "List who holds which key."),
    "info": ("incumbent.cli.bucket:info", "Show a bucket, and what is risky about it."),
    "evict": ("incumbent.cli.bucket:evict", "Take a key from its holder."),
    "watch": ("incumbent.cli.bucket:watch", "Show changes of holders as they happen."),
    "cleanup": (
        "incumbent.cli.cleanup:cleanup",
        "Let go of all elections before an uninstall.",
    ),
}
"""Each command's name, the place of its `click.Command`, and its short description."""


class Commands(click.Group):
    """The commands of a table. A command is imported when it is called, not when it is listed."""

    table: ClassVar[Mapping[str, tuple[str, str]]] = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the table."""
        return [*self.table]

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        cmd_name: str,
    ) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.table:
            return None
        module, _, name = self.table[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.table.items()])


def version() -> str:
    """Return the version of the installed package; a checkout may run without installation."""
    try:
        return importlib.metadata.version("incumbent")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def shown_version() -> Callable[..., Any]:
    """Return a decorator for `--version`, which looks up the version only if it is used."""

    def show(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001
        if value and not ctx.resilient_parsing:
            terminal.show(f"incumbent {version()}")
            ctx.exit()

    return click.option(
        "--version",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the version and exit.",
    )


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
@nats_flags
@flag("bucket", type=Text("NAME", bucket_name), help="Bucket of elections that name none.")
@flag("create-bucket", is_flag=True, help="Create that bucket, and no other, if there is none.")
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
    "bucket-max-bytes",
    type=Text("SIZE", size),
    show_default="no limit, or 64MiB if the account requires one",
    help="The most bytes of a bucket that is created.",
)
@flag(
    "history-stream",
    type=Text("NAME", bucket_name),
    show_default="no history",
    help="JetStream stream that keeps the terms of elections. It must exist.",
)
@flag(
    "site",
    type=Text("NAME", plain_name),
    show_default="from the UID of the namespace kube-system",
    help="Name of this cluster, different from all others that use the bucket. A copy of a cluster"
    " needs one of its own.",
)
@flag(
    "replica",
    type=Text("NAME", plain_name),
    show_default="the host name",
    help="Name of this process.",
)
@namespaces_flag("Namespace in which to look for elections. Repeatable.")
@flag(
    "without-finalizer",
    multiple=True,
    type=Text("NAMESPACE", namespace),
    help="Namespace whose elections get no finalizer, because it may be deleted together with the"
    " operator or its rights. Repeatable.",
)
@flag(
    "label-prefix",
    "label_prefixes",
    multiple=True,
    type=Text("DOMAIN", label_prefix),
    help="Prefix of label keys to allow besides incumbent.dev. Repeatable.",
)
@flag(
    "allow-lock",
    "allow_locks",
    multiple=True,
    type=Text("NAMESPACE/BUCKET/KEY", lock),
    show_default="none",
    help="Let elections of a namespace use a key besides their own, which are those in --bucket"
    " that begin with the namespace and a dot. Each part may end with *; {namespace} in the key"
    " stands for that of the election. Repeatable.",
)
@flag(
    "max-elections-per-namespace",
    type=click.IntRange(min=0),
    help="How many elections of one namespace are served: those served before, then the oldest. 0:"
    " all.",
)
@flag(
    "http-address",
    type=Text("[HOST]:PORT", http_address),
    help="Where to serve health, metrics and the list of elections.",
)
@flag(
    "metrics-address",
    type=Text("[HOST]:PORT", http_address),
    show_default="only with everything else",
    help="One more address, for metrics alone.",
)
@flag(
    "probes-address",
    type=Text("[HOST]:PORT", http_address),
    show_default="only with everything else",
    help="One more address, for /livez and /readyz alone.",
)
@flag(
    "http-host",
    "http_hosts",
    multiple=True,
    type=Text("NAME", http_host),
    help="Name to answer to over HTTP, or *.DOMAIN, besides addresses, localhost and names of"
    " Services. Repeatable.",
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
@cluster_flags
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
        from incumbent import logs  # noqa: PLC0415  # the long imports
        from incumbent.controller import process as operator_process  # noqa: PLC0415  # the long imports

        logs.configure(settings.log_format, level=settings.log_level)
        status = operator_process.run(settings, version=version())
    except ConfigurationError as error:
        raise Refusal(str(error)) from error
    sys.exit(status)
