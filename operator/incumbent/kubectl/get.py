"""`kubectl incumbent get`: elections in a table, as kubectl shows them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from incumbent import terminal
from incumbent.cli.flags import Refusal
from incumbent.kubectl.completion import from_cluster
from incumbent.kubectl.options import (
    ELECTION,
    OBJECT_FORMATS,
    SETTINGS,
    command,
    kind_and_name,
    output_flag,
)
from incumbent.kubectl.printing import lines, widths
from incumbent.kubernetes.resource import API_VERSION, PLURAL, whole

if TYPE_CHECKING:
    from incumbent.kubectl.client import Client

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
"""Asks for the columns of the definition instead of the objects."""

PAGE = "500"
"""Elections in one answer to a list, as of kubectl."""


@click.command(short_help="List elections, as kubectl does.", context_settings=SETTINGS)
@click.argument(
    "names", metavar="[NAME]...", nargs=-1, type=ELECTION, shell_complete=from_cluster("elections")
)
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@click.option("-l", "--selector", metavar="QUERY", default="", help="Only those with these labels.")
@click.option("--field-selector", metavar="QUERY", default="", help="Only those with these fields.")
@click.option("-w", "--watch", is_flag=True, help="Go on, and show each change.")
@click.option("--no-headers", is_flag=True, help="Without the line of titles.")
@output_flag("table", "wide", *OBJECT_FORMATS)
@command
async def get(
    client: Client,
    names: tuple[str, ...],
    *,
    all_namespaces: bool,
    selector: str,
    field_selector: str,
    watch: bool,
    no_headers: bool,
    output: str,
) -> None:
    """List the elections of a namespace, or those that are named.

    The columns are those that the API server has for `kubectl get leaderelections`.

    \b
    Examples:
      kubectl incumbent get
      kubectl incumbent get -A -o wide
      kubectl incumbent get billing -w
      kubectl incumbent get -A --field-selector status.leader.podName=billing-1
    """  # noqa: D301
    if names and (all_namespaces or selector or field_selector):
        msg = "Names do not go together with --all-namespaces, --selector and --field-selector."
        raise Refusal(msg)
    if watch and len(names) > 1:
        msg = "--watch follows one election, or all of them: give one name, or none."
        raise Refusal(msg)
    namespace = f"/namespaces/{client.namespace}"
    path = f"/apis/{API_VERSION}{'' if all_namespaces else namespace}/{PLURAL}"
    query = {"labelSelector": selector, "fieldSelector": field_selector, "limit": PAGE}
    shown = _Shown(output, namespaced=all_namespaces, headers=not no_headers)
    if watch:
        if names:
            await client.election(names[0])  # says so if there is none
            query["fieldSelector"] = f"metadata.name={names[0]}"
        del query["limit"]
        async with contextlib.aclosing(client.follow(path, query, accept=shown.accept)) as changes:
            async for kind, found in changes:
                shown.show(found, listed=kind == "LIST")
        return
    if names:
        pages = [
            await client.ask(
                "GET",
                path,
                query={"fieldSelector": f"metadata.name={name}"},
                accept=shown.accept,
            )
            for name in names
        ]
        for name, page in zip(names, pages, strict=True):
            if not shown.items(page):
                raise client.missing(name)
    else:
        pages = [await client.ask("GET", path, query=query, accept=shown.accept)]
        while more := pages[-1]["metadata"].get("continue"):
            next_page = {**query, "continue": more}
            pages.append(await client.ask("GET", path, query=next_page, accept=shown.accept))
    shown.show_all(pages, single=len(names) == 1)
    if output in {"table", "wide", "name"} and not any(shown.items(page) for page in pages):
        where = "" if all_namespaces else f" in {client.namespace} namespace"
        terminal.show(f"No resources found{where}.", err=True)


class _Shown:
    """Prints what the API server answers."""

    def __init__(self, output: str, *, namespaced: bool, headers: bool) -> None:
        self._output = output
        self._table = output in {"table", "wide"}
        self._namespaced = namespaced
        self._headers = headers
        self._columns: Sequence[Mapping[str, Any]] = ()
        self._widths: list[int] = []
        self.accept = TABLE if self._table else "application/json"

    def items(self, page: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the rows or objects of a list."""
        found: list[dict[str, Any]] = page["rows" if self._table else "items"]
        return found or []

    def show_all(self, pages: Sequence[Mapping[str, Any]], *, single: bool) -> None:
        """Print whole lists as one; of a single object that object."""
        items = [item for page in pages for item in self.items(page)]
        if self._table:
            self.show({**pages[0], "rows": items}, listed=True)
            return
        objects = [whole(item) for item in items]
        if self._output == "name":
            terminal.show(*(kind_and_name(one["metadata"]["name"]) for one in objects))
            return
        value: Any = (
            objects[0]
            if single
            else {
                "apiVersion": "v1",
                "items": objects,
                "kind": "List",
                "metadata": {"resourceVersion": ""},
            }
        )
        terminal.show_data(value, self._output)

    def show(self, found: Mapping[str, Any], *, listed: bool) -> None:
        """Print a list, or one that changed, while more may follow."""
        if self._table:
            terminal.show(*self._lines(found))
            return
        for one in self.items(found) if listed else [found]:
            if self._output == "name":
                terminal.show(kind_and_name(one["metadata"]["name"]))
            else:
                terminal.show_data(whole(one), self._output, mark=True)

    def _lines(self, table: Mapping[str, Any]) -> list[str]:
        self._columns = table.get("columnDefinitions") or self._columns  # once per watch
        kept = [
            index
            for index, column in enumerate(self._columns)
            if self._output == "wide" or not column.get("priority")
        ]
        rows = [
            [row["object"]["metadata"]["namespace"]] * self._namespaced
            + ["" if (cell := row["cells"][index]) is None else str(cell) for index in kept]
            for row in table["rows"] or ()
        ]
        if not rows:
            return []
        titles = ["NAMESPACE"] * self._namespaced
        titles += [self._columns[index]["name"].upper() for index in kept]
        first, self._headers = self._headers, False
        rows = [titles, *rows] if first else rows
        self._widths = widths(rows, self._widths)
        return lines(rows, self._widths)
