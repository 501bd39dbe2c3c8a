"""The client of the API server for the plugin's commands, and a function to run a command."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from incumbent import clock, logs, terminal
from incumbent.cli.flags import INTERRUPTED, Failure, said_by_click
from incumbent.errors import ClusterUnreachable
from incumbent.kubernetes.answers import Expired
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.kubeconfig import Overrides
from incumbent.kubernetes.requests import MERGE_PATCH
from incumbent.kubernetes.resource import KIND, elections_path
from incumbent.kubernetes.watch import changes

REQUEST_TIMEOUT = 10.0
"""Seconds for one request, unless --request-timeout says otherwise."""

AGAIN = 1.0
"""Seconds until the next try if the API server goes away during a watch."""

Work = Callable[..., Awaitable[int | None]]


def run(work: Work, connection: Mapping[str, Any], options: Mapping[str, Any]) -> int:
    """Run the work of a command and return its exit code; `said_by_click` reports errors."""
    logs.configure("text", level="error")
    try:
        with said_by_click():
            return asyncio.run(_run(work, connection, options)) or 0
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


async def _run(work: Work, connection: Mapping[str, Any], options: Mapping[str, Any]) -> int | None:
    given = dict(connection)
    kubeconfig, context = given.pop("kubeconfig"), given.pop("context")
    namespace, limit = given.pop("namespace"), given.pop("request_timeout")
    if given["certificate_authority"]:
        given["certificate_authority"] = str(given["certificate_authority"])
    overrides = Overrides(**{name: value for name, value in given.items() if value})
    client = await Client.connect(
        kubeconfig, context=context, replica="kubectl", overrides=overrides
    )
    client.namespace = namespace or client.connection.default_namespace or "default"
    client.requests.timeout = REQUEST_TIMEOUT if limit is None else limit or math.inf
    try:
        return await work(client, **options)
    finally:
        await client.aclose()


class Client(ApiServer):
    """An API server, with the requests that only the plugin sends."""

    namespace: str = ""
    """The namespace of the elections."""

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """Send a request and return the JSON of its answer, as `Requests.ask` does."""
        return await self.requests.ask(method, path, **options)

    async def election(self, name: str) -> dict[str, Any]:
        """Read an election of the namespace.

        Raises:
            Failure: there is no election of that name.
        """
        found = await self.get_election(self.namespace, name)
        if found is None:
            raise self.missing(name)
        return found

    def missing(self, name: str) -> Failure:
        """Return the error that there is no such election."""
        return Failure(
            f"There is no LeaderElection {name} in the namespace {self.namespace}:"
            " `kubectl get leaderelections -A` lists all of them"
        )

    async def patch_election(self, name: str, patch: Any, *, dry_run: bool) -> dict[str, Any]:
        """Change an election of the namespace by a merge patch, and return it."""
        path = f"{elections_path(self.namespace)}/{name}"
        query = {"fieldManager": "kubectl-incumbent"} | ({"dryRun": "All"} if dry_run else {})
        found: dict[str, Any] = await self.requests.ask(
            "PATCH", path, query=query, body=patch, content_type=MERGE_PATCH
        )
        return found

    async def follow(
        self, path: str, query: Mapping[str, str]
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        """List and then watch objects, forever.

        Yields `LIST` with the list, at first and whenever changes may have been missed. Then yields
        each change: its type (`ADDED`, `MODIFIED`, `DELETED`) and the object. If the API server
        goes away later, it prints a sentence to standard error and waits.
        """
        listed = await self.requests.ask("GET", path, query=query)
        while True:
            yield "LIST", listed
            opened = clock.now()
            try:
                async with contextlib.aclosing(
                    self._watched(path, listed["metadata"]["resourceVersion"], query)
                ) as watched:
                    async for change in watched:
                        yield change
            except Expired:
                if clock.now() - opened < AGAIN:
                    await asyncio.sleep(AGAIN)
            except ClusterUnreachable as error:
                terminal.show(f"{error}; waiting for it", err=True)
            listed = await self._list_again(path, query)

    async def _watched(
        self, path: str, version: str, query: Mapping[str, str]
    ) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
        while True:
            async with contextlib.aclosing(
                changes(self.connection, path, version, query=query)
            ) as following:
                async for kind, found in following:
                    version = found["metadata"]["resourceVersion"] or version
                    if kind != "BOOKMARK":
                        yield kind, found

    async def _list_again(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        while True:
            try:
                found: dict[str, Any] = await self.requests.ask("GET", path, query=query)
            except ClusterUnreachable:
                await asyncio.sleep(AGAIN)
            else:
                return found

    async def watch_election(self, name: str) -> AsyncGenerator[dict[str, Any] | None]:
        """Yield an election now and after each change; None if it does not exist."""
        query = {"fieldSelector": f"metadata.name={name}"}
        async with contextlib.aclosing(
            self.follow(elections_path(self.namespace), query)
        ) as following:
            async for kind, found in following:
                match kind:
                    case "LIST":
                        yield next(iter(found["items"]), None)
                    case "DELETED":
                        yield None
                    case _:
                        yield found

    async def events(self, election: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the events about an election, oldest first."""
        metadata = election["metadata"]
        selector = f"regarding.kind={KIND},regarding.uid={metadata['uid']}"
        path = f"/apis/events.k8s.io/v1/namespaces/{metadata['namespace']}/events"
        found: list[dict[str, Any]] = (
            await self.requests.ask("GET", path, query={"fieldSelector": selector})
        )["items"]
        return sorted(found, key=lambda event: event.get("eventTime") or "")
