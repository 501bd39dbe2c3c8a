"""`kubectl incumbent status`: everything about one election on one screen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import click

from incumbent import terminal
from incumbent.errors import ClusterError
from incumbent.kubectl import describe
from incumbent.kubectl.options import SETTINGS, command, election_argument, output_flag
from incumbent.kubectl.printing import now
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.resource import Resource, resource_from

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client


@click.command(short_help="Show all about one election on one screen.", context_settings=SETTINGS)
@election_argument
@output_flag("text", "json", "yaml")
@command
async def status(client: Client, name: str, *, output: str) -> None:
    """Show who leads and since when, every pod with why it can lead or not, and what happened.

    A pod is shown if the selector matches it or it carries the election's label. `next` is who
    would lead if the leader went now. Pods or events that you may not read are left out, with a
    sentence.

    \b
    Examples:
      kubectl incumbent status billing
      kubectl incumbent status billing -o json
    """  # noqa: D301
    election = await client.election(name)
    resource = resource_from(election, default_bucket="")
    pods, events = await asyncio.gather(
        _or_why(pods_of(client, resource)), _or_why(client.events(election))
    )
    if output == "text":
        terminal.show(*describe.screen(election, resource, pods, events, now()))
    else:
        terminal.show_data(describe.data(election, resource, pods, events), output)


async def pods_of(client: Client, resource: Resource) -> list[Pod]:
    """Return the pods that the selector matches, and other pods that carry the label."""
    found = await asyncio.gather(
        client.list_pods(resource.key.namespace, str(resource.selector)),
        client.list_pods(resource.key.namespace, resource.label_key),
    )
    return [*{pod.uid: pod for pods in found for pod in pods}.values()]


async def _or_why(answer: Awaitable[Any]) -> Any:
    """Return an answer, or a text that says why there is no answer."""
    try:
        return await answer
    except ClusterError as error:
        return str(error)
