"""`kubectl incumbent who` and `wait`: the leader, for scripts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from incumbent import terminal
from incumbent.cli.flags import Failure, Text
from incumbent.errors import ConfigurationError
from incumbent.kubectl.completion import from_cluster
from incumbent.kubectl.describe import about_leader, led_by, nobody
from incumbent.kubectl.options import (
    DURATION,
    SETTINGS,
    TIMED_OUT,
    Progress,
    command,
    election_argument,
    output_flag,
    pod_name,
)

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client


def condition(text: str) -> str:
    """Return the pod of `leader=POD`, empty for `leader`.

    Raises:
        ConfigurationError: it is neither.
    """
    kind, equals, pod = text.partition("=")
    if kind == "leader" and (pod or not equals):
        return pod_name(pod) if pod else ""
    msg = f"{text!r} cannot be waited for; write --for leader, or --for leader=POD."
    raise ConfigurationError(msg)


@click.command(short_help="Print the pod that leads.", context_settings=SETTINGS)
@election_argument
@output_flag("text", "name", "json", "yaml")
@command
async def who(client: Client, name: str, *, output: str) -> None:
    """Print the pod that leads, as the status of the election says.

    Exit code 1 and a sentence if no pod of this cluster leads, also if a pod of another cluster or
    another member does. With `-o name` the result is `pod/NAME`, for `kubectl exec` and the like.

    \b
    Examples:
      kubectl incumbent who billing
      kubectl logs "$(kubectl incumbent who billing -o name)"
      kubectl incumbent who billing -o json
    """  # noqa: D301
    election = await client.election(name)
    if not led_by(election):
        msg = nobody(name, election)
        raise Failure(msg)
    show_leader(election, output)


@click.command(short_help="Wait until a pod leads.", context_settings=SETTINGS)
@election_argument
@click.option(
    "--for",
    "wanted",
    type=Text("CONDITION", condition),
    required=True,
    metavar="leader[=POD]",
    shell_complete=from_cluster("pods"),
    help="What to wait for: a leader in this cluster, or this very pod.",
)
@click.option(
    "--timeout",
    "limit",
    type=DURATION,
    default="30s",
    show_default=True,
    help="The longest time to wait; 0 looks once.",
)
@output_flag("text", "name", "json", "yaml")
@command
async def wait(client: Client, name: str, *, wanted: str, limit: float, output: str) -> int | None:
    """Wait until a pod of this cluster leads, and print it like `who`.

    Exit code 124 if that is not so within the time, 1 if there is no such election, or not any
    more. After a second it says on standard error what is the matter.

    \b
    Examples:
      kubectl incumbent wait billing --for leader
      kubectl incumbent wait billing --for leader=billing-2 --timeout 2m
    """  # noqa: D301
    leader, why = "", ""
    with Progress() as progress, contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit or None):
            changes = client.watch_election(name)
            async with contextlib.aclosing(changes):
                async for election in changes:
                    if election is None:
                        raise client.missing(name)
                    leader = led_by(election)
                    if leader and wanted in {"", leader}:
                        show_leader(election, output)
                        return None
                    why = nobody(name, election)
                    progress.say(why)
                    if not limit:
                        break
    msg = f"Not within {limit:g} s: {why or 'the API server did not answer'}"
    raise Failure(msg, TIMED_OUT)


def show_leader(election: Mapping[str, Any], output: str) -> None:
    """Print the leader."""
    match output:
        case "text":
            terminal.show(led_by(election))
        case "name":
            terminal.show(f"pod/{led_by(election)}")
        case _:
            terminal.show_data(about_leader(election), output)
