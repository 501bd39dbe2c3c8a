"""Fixtures of the scenarios: replicas for any site, and a second site with its namespace."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from controlplane.kube import Kube
from elections import Election, with_bucket
from operatorprocess import OperatorProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from controlplane.sites import Site

TTL = 6.0


@pytest.fixture
def new_replica(tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Return a function that makes a replica for the site and the namespace of an election.

    Its arguments are the election, the URL of NATS and a name; as keywords those of
    `OperatorProcess`. All end with the test, and none may have logged an error of its own.
    """
    made: list[OperatorProcess] = []

    def make(
        election: Election,
        nats_url: str,
        name: str,
        *,
        arguments: Sequence[str] = (),
        **options: Any,
    ) -> OperatorProcess:
        flags = (f"--namespace={election.namespace}", *with_bucket(TTL), *arguments)
        replica = OperatorProcess(
            election.kube.site,
            tmp_path,
            nats_url=nats_url,
            arguments=flags,
            replica=name,
            **options,
        )
        made.append(replica)
        return replica

    yield make
    for replica in made:
        replica.kill()
    for replica in made:
        assert not replica.complaints


@pytest.fixture
async def start(
    new_replica: Callable[..., OperatorProcess],
) -> Callable[..., Awaitable[dict[str, OperatorProcess]]]:
    """Return a coroutine function that starts replicas of one site, and returns them by name."""

    async def start(
        election: Election, nats_url: str, *names: str, **options: Any
    ) -> dict[str, OperatorProcess]:
        replicas = {name: new_replica(election, nats_url, name, **options) for name in names}
        await asyncio.gather(*(replica.start() for replica in replicas.values()))
        return replicas

    return start


@pytest.fixture
async def elsewhere(second_site: Site) -> AsyncIterator[Election]:
    """An election called `web`, not created yet, in a namespace of the second site."""
    async with Kube(second_site) as kube:
        name = f"scenario-{secrets.token_hex(4)}"
        await kube.namespace(name)
        yield Election(kube, name)
        await kube.delete(f"/api/v1/namespaces/{name}")
