"""`kubectl incumbent history`: who led before, as the operator remembers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from incumbent import terminal
from incumbent.cli.flags import Failure, Text
from incumbent.errors import Forbidden, NotFound
from incumbent.kubectl.options import (
    OPERATOR_LABELS,
    SETTINGS,
    command,
    election_argument,
    output_flag,
    qualified,
)
from incumbent.kubectl.printing import lines, now, short

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client

PORT = "http"
"""The name of the port of an operator's Service."""


@click.command(short_help="List who led before, and why no longer.", context_settings=SETTINGS)
@election_argument
@click.option(
    "--service",
    type=Text("NAMESPACE/NAME", qualified),
    help="The operator's Service.  [default: that of the chart, wherever it is]",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 9999),
    default=20,
    show_default=True,
    help="Terms, the newest ones.",
)
@click.option("--no-headers", is_flag=True, help="Without the line of titles.")
@output_flag("table", "json", "yaml")
@command
async def history(
    client: Client,
    name: str,
    *,
    service: tuple[str, str] | None,
    limit: int,
    no_headers: bool,
    output: str,
) -> None:
    """List the terms of an election, the newest first: from, to, holder, token, and why it ended.

    A term lasts as long as its record of the holder. LED says for how long the holder's pod had the
    leader label in it: less if NATS was away, and unknown if the holder is no pod.

    The operator is asked through the API server, which needs the right to get services/proxy in
    its namespace, and without --service the right to list services. It remembers terms if it was
    given a stream for that (--history-stream). A time with ~ is that of the first sight of a term
    that may have begun before, and LED with ~ is not exact.

    \b
    Examples:
      kubectl incumbent history billing
      kubectl incumbent history billing --limit 100 -o json
      kubectl incumbent history billing --service incumbent/incumbent
    """  # noqa: D301
    await client.election(name)
    found = await _ask(client, name, [service] if service else await _services(client), limit)
    problem, terms = found.get("problem"), found["terms"]
    if problem and not terms:
        raise Failure(str(problem))
    if problem:
        terminal.show(f"Terms may be missing: {problem}", err=True)
    if output != "table":
        terminal.show_data(found, output)
    elif terms:
        rows = [_row(term) for term in terms]
        titles = [] if no_headers else [("FROM", "TO", "LED", "HOLDER", "TOKEN", "BEGAN", "ENDED")]
        terminal.show(*(line.rstrip() for line in lines([*titles, *rows])))
    else:
        terminal.show(f"No terms of {name} are known.", err=True)


async def _services(client: Client) -> list[tuple[str, str]]:
    """Return the namespace and the name of every Service of an operator.

    Raises:
        Failure: there is no such Service, or the user may not search for it.
    """
    try:
        found = await client.ask(
            "GET", "/api/v1/services", query={"labelSelector": OPERATOR_LABELS}
        )
    except Forbidden as error:
        msg = f"Name the operator's Service by --service, for you may not look for it: {error}"
        raise Failure(msg) from error
    services = [(s["metadata"]["namespace"], s["metadata"]["name"]) for s in found["items"]]
    if not services:
        msg = f"No Service has the labels {OPERATOR_LABELS}: name that of the operator by --service"
        raise Failure(msg)
    return services


async def _ask(
    client: Client, name: str, services: list[tuple[str, str]], limit: int
) -> dict[str, Any]:
    """Return the history from the first of these operators that serves the election.

    Raises:
        Failure: none of them serves it.
    """
    for namespace, service in services:
        path = (
            f"/api/v1/namespaces/{namespace}/services/{service}:{PORT}/proxy"
            f"/v1/elections/{client.namespace}/{name}/history"
        )
        try:
            found: dict[str, Any] = await client.ask("GET", path, query={"limit": str(limit)})
        except NotFound:
            continue
        return found
    asked = ", ".join(f"{namespace}/{service}" for namespace, service in services)
    msg = f"No operator knows of a history of {name}; asked were those behind {asked}"
    raise Failure(msg)


def _row(term: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a term as a row of the table."""
    about = "" if term["exact"] else "~"
    lasts = term["to"] is None and term["cause"] is None
    return (
        about + term["from"],
        "now" if lasts else term["to"] or "unknown",
        _led(term.get("led"), lasts=lasts),
        term["holder"],
        "none" if term["token"] is None else str(term["token"]),
        term["how"] or "unknown",
        term["cause"] or "",
    )


def _led(leads: Sequence[Mapping[str, Any]] | None, *, lasts: bool) -> str:
    """Return for how long a pod had the label; earlier versions do not report it."""
    if not leads or (not lasts and any(lead["to"] is None for lead in leads)):
        return "unknown"
    ends = [datetime.fromisoformat(lead["to"]) if lead["to"] else now() for lead in leads]
    began = [datetime.fromisoformat(lead["from"]) for lead in leads]
    seconds = sum(((to - start) for to, start in zip(ends, began, strict=True)), timedelta())
    return ("" if all(lead["exact"] for lead in leads) else "~") + short(seconds.total_seconds())
