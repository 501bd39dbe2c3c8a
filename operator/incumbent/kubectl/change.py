"""`kubectl incumbent step-down`, `suspend` and `resume`: whatever changes an election."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from incumbent import terminal
from incumbent.cli.flags import Failure
from incumbent.kubectl.completion import from_cluster
from incumbent.kubectl.describe import condition, led_by, nobody, status_of
from incumbent.kubectl.options import (
    DURATION,
    OBJECT_FORMATS,
    POD,
    SETTINGS,
    TIMED_OUT,
    Progress,
    command,
    dry_run_flag,
    election_argument,
    kind_and_name,
    output_flag,
)
from incumbent.kubernetes.resource import STEP_DOWN, STEP_DOWN_TERM, Resource, resource_from
from incumbent.pods.eligibility import candidates, why_not

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client

SETTLED_WITHIN = 5.0
"""Seconds to wait for the status after the operator has finished a request."""

DONE = {
    "none": "",
    "client": " (dry run)",
    "server": " (server dry run)",
}


@click.command(short_help="Ask the leader to let another pod lead.", context_settings=SETTINGS)
@election_argument
@click.option(
    "--to",
    type=POD,
    shell_complete=from_cluster("pods"),
    help="Who is to lead instead; it has to be a candidate.  [default: the best of the others]",
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the result.")
@click.option(
    "--timeout",
    "limit",
    type=DURATION,
    default="1m",
    show_default=True,
    help="The longest time to wait for it.",
)
@dry_run_flag
@output_flag("text", *OBJECT_FORMATS)
@command
async def step_down(
    client: Client,
    name: str,
    *,
    to: str | None,
    wait: bool,
    limit: float,
    dry_run: str,
    output: str,
) -> None:
    """Move the office from the present leader to another pod.

    Where no other pod of this cluster can lead, nobody of it does for one interval, so that another
    cluster can take over; then the same pod may lead again. Exit code 1 if nobody leads here, or
    the office did not go where it should; 124 if nothing was seen of it within the time (the
    request stays).

    \b
    Examples:
      kubectl incumbent step-down billing
      kubectl incumbent step-down billing --to billing-2
      kubectl incumbent step-down billing --dry-run=server
    """  # noqa: D301
    before = await client.election(name)
    resource = resource_from(before, default_bucket="")
    leader = led_by(before)
    if resource.observed:
        msg = f"The members of {name} campaign themselves (mode Observed): ask {leader or 'them'}"
        raise Failure(msg)
    if not leader:
        msg = f"No pod of this cluster can step down: {nobody(name, before)}"
        raise Failure(msg)
    if to == leader:
        _show(before, f"{leader} leads {name} already", output)
        return
    await _check(client, resource, leader, to)
    patch = {"metadata": {"annotations": {STEP_DOWN: to or "", STEP_DOWN_TERM: None}}}
    after: Mapping[str, Any] = await _change(client, before, patch, dry_run)
    if dry_run != "none" or not wait:
        asked = f"asked to step down from {leader}" + (f" to {to}" if to else "")
        _show(after, f"{kind_and_name(name)} {asked}{DONE[dry_run]}", output)
        return
    after = await _moved(client, name, before, after, limit)
    _show(after, _result(name, before, after, to), output)


@click.command(short_help="Let nobody lead until it is resumed.", context_settings=SETTINGS)
@election_argument
@dry_run_flag
@output_flag("text", *OBJECT_FORMATS)
@command
async def suspend(client: Client, name: str, *, dry_run: str, output: str) -> None:
    """Let no pod of this cluster lead: the leader loses its label, and the record is released.

    Pods of other clusters that contest the same key may lead. Returns before that is done.

    \b
    Examples:
      kubectl incumbent suspend billing
      kubectl incumbent suspend billing --dry-run=client -o yaml
    """  # noqa: D301
    await _suspend(client, name, wanted=True, dry_run=dry_run, output=output)


@click.command(short_help="End a suspension.", context_settings=SETTINGS)
@election_argument
@dry_run_flag
@output_flag("text", *OBJECT_FORMATS)
@command
async def resume(client: Client, name: str, *, dry_run: str, output: str) -> None:
    """Let pods lead again. Returns before one does: see `kubectl incumbent wait`.

    \b
    Examples:
      kubectl incumbent resume billing && kubectl incumbent wait billing --for leader
    """  # noqa: D301
    await _suspend(client, name, wanted=False, dry_run=dry_run, output=output)


async def _suspend(client: Client, name: str, *, wanted: bool, dry_run: str, output: str) -> None:
    before = await client.election(name)
    after = await _change(client, before, {"spec": {"suspend": wanted}}, dry_run)
    done = "suspended" if wanted else "resumed"
    same = bool(before["spec"].get("suspend")) is wanted
    unchanged = " (no change)" if same and dry_run == "none" else ""
    _show(after, f"{kind_and_name(name)} {done}{unchanged}{DONE[dry_run]}", output)


async def _check(client: Client, resource: Resource, leader: str, to: str | None) -> None:
    """Check whether the wanted pod, or any other pod, can lead instead of the leader."""
    namespace = resource.key.namespace
    if to is not None:
        pod = await client.get_pod(namespace, to)
        why = why_not(pod, resource.selector) if pod else f"there is none in {namespace}"
        if why:
            msg = f"The pod {to} cannot lead {resource.key.name}: {why}"
            raise Failure(msg)
        return
    pods = await client.list_pods(namespace, str(resource.selector))
    if not [pod for pod in candidates(pods, resource.selector) if pod.name != leader]:
        terminal.show(
            f"No other pod of this cluster can lead {resource.key.name}: nobody of it will for one"
            f" interval, then perhaps {leader} again.",
            err=True,
        )


async def _change(
    client: Client, before: Mapping[str, Any], patch: Mapping[str, Any], dry_run: str
) -> dict[str, Any]:
    """Send a merge patch, or return its result without sending it."""
    if dry_run == "client":
        return merged(before, patch)
    name = before["metadata"]["name"]
    return await client.patch_election(name, patch, dry_run=dry_run == "server")


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object after a merge patch (RFC 7396)."""
    result = {**target}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            old = result.get(name)
            result[name] = merged(old if isinstance(old, Mapping) else {}, value)
        else:
            result[name] = value
    return result


async def _moved(
    client: Client, name: str, before: Mapping[str, Any], after: Mapping[str, Any], limit: float
) -> Mapping[str, Any]:
    """Wait until the leader has changed, or until the operator has finished the request without it.

    `before` and `after` are the election before and after the request. Return the latest state.
    """
    done = False
    loop = asyncio.get_running_loop()
    with Progress() as progress, contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit) as timeout:
            changes = client.watch_election(name)
            async with contextlib.aclosing(changes):
                async for election in changes:
                    if election is None:
                        raise client.missing(name)
                    after = election
                    if _has_moved(before, after):
                        return after
                    if _requested(after):
                        progress.say(_pending(name, after))
                    elif not done:
                        done = True
                        timeout.reschedule(loop.time() + min(limit, SETTLED_WITHIN))
    if not _requested(after):
        return after
    msg = (
        f"Not within {limit:g} s: {_pending(name, after)}; the request stays until the operator has"
        " carried it out"
    )
    raise Failure(msg, TIMED_OUT)


def _requested(election: Mapping[str, Any]) -> bool:
    return STEP_DOWN in (election["metadata"].get("annotations") or {})


def _pending(name: str, election: Mapping[str, Any]) -> str:
    leader = led_by(election)
    return f"{leader} still leads {name}" if leader else nobody(name, election)


def _has_moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the status shows another term, of any holder."""
    old, new = status_of(before), status_of(after)
    if condition(after, "Ready")["reason"] == "LedElsewhere":
        return True
    return bool(led_by(after)) and (
        old.get("token") != new.get("token") or old["leader"]["podUID"] != new["leader"]["podUID"]
    )


def _result(name: str, before: Mapping[str, Any], after: Mapping[str, Any], to: str | None) -> str:
    """Say how the request ended.

    Raises:
        Failure: it did not end as requested.
    """
    old, new = led_by(before), led_by(after)
    if not new and condition(after, "Ready")["reason"] != "LedElsewhere":
        raise Failure(nobody(name, after))
    if not _has_moved(before, after):
        msg = f"{old} still leads {name}: the operator did not carry the request out, see its log"
        raise Failure(msg)
    if to is not None and new != to:
        msg = f"{nobody(name, after)}, and not {to}"
        raise Failure(msg)
    if not new:
        return nobody(name, after)
    token = status_of(after).get("token")
    if new == old:
        return f"{new} leads {name} again, with token {token}: no other pod could"
    return f"{new} leads {name} after {old}, with token {token}"


def _show(election: Mapping[str, Any], text: str, output: str) -> None:
    match output:
        case "text":
            terminal.show(text)
        case "name":
            terminal.show(kind_and_name(election["metadata"]["name"]))
        case _:
            terminal.show_data(election, output)
