"""Strangers at the HTTP port, and a tenant who does what he can: no other election notices."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import secrets
import sys
import time
from pathlib import Path

import aiohttp
import nats
import pytest

from admission import until_asked, webhook
from controlplane.kube import has_condition
from controlplane.processes import Process
from elections import BUCKET, LEADER, Election
from scenarios.conftest import TTL

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
ELECTIONS = 200
CAPTIVES = 40
CLIENTS = 100
AT_ONCE = 16
PROBE_TIMEOUT = 5
"""Seconds, as in the chart."""


async def in_turns(work):
    """Await all, so many at a time."""
    few = asyncio.Semaphore(AT_ONCE)

    async def one(part):
        async with few:
            await part

    await asyncio.gather(*map(one, work))


async def lead(kube, namespace, count, *, pods=1):
    """Create elections, each with pods of its own, and return them."""
    elections = [Election(kube, namespace, f"e{number}") for number in range(count)]
    spec = {"containers": [{"name": "main", "image": "none.invalid/none"}], "nodeName": "node-1"}

    async def create(election, number):
        about = {"name": f"{election.name}-{number}", "labels": {"app": election.name}}
        await kube.create(election.pods_path, {"metadata": about, "spec": spec})

    await in_turns(create(one, number) for one in elections for number in range(pods))
    await kube.until(
        elections[0].pods_path,
        lambda found: all(has_condition(pod, "Ready") for pod in found["items"]),
        timeout=60,
    )
    await in_turns(one.create() for one in elections)
    return elections


async def until_led(elections):
    """Wait until all elections of a namespace are led."""
    await elections[0].kube.until(
        elections[0].collection,
        lambda found: sum(has_condition(one, "Ready") for one in found["items"]) == len(elections),
        timeout=120,
    )


async def marks(elections):
    """Return the leader pods: name, UID, token, and the version that is another after any write."""
    found = (await elections[0].kube.get(elections[0].pods_path))["items"]
    return sorted(
        (about["name"], about["uid"], about["resourceVersion"])
        for about in (pod["metadata"] for pod in found)
        if about["labels"].get(f"incumbent.dev/{about['labels']['app']}") == LEADER
    )


@contextlib.contextmanager
def program(name, folder, *arguments):
    """Run a program of the bench; its output is in its log when it has ended."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests"), str(ROOT / "operator")))
    process = Process(
        [sys.executable, "-m", f"bench.{name}", *map(str, arguments)],
        name=name,
        folder=folder,
        environment={**os.environ, "PYTHONPATH": path},
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()


async def ended(process):
    """End a program in order, and return what it printed as JSON."""
    assert process.running, process.log.read_text()
    await process.stop(timeout=20)
    return json.loads(process.log.read_text().splitlines()[-1])


async def probed(operator, *, seconds):
    """Probe an operator as a kubelet does for so long; return what was not answered in time."""
    until, missed = time.monotonic() + seconds, []
    while time.monotonic() < until:
        for path in ("livez", "readyz"):
            try:
                timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
                async with (
                    aiohttp.ClientSession(timeout=timeout) as session,
                    session.get(f"{operator.url}/{path}") as answer,
                ):
                    if not answer.ok:
                        missed.append((path, answer.status))
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                missed.append((path, repr(error)))
        await asyncio.sleep(1)
    return missed


@contextlib.asynccontextmanager
async def renewals(nats_server):
    """Note when each record is written; what this yields returns the longest pause so far."""
    written, longest = {}, 0.0

    async def take(message):
        nonlocal longest
        now = time.monotonic()
        longest = max(longest, now - written.get(message.subject, now))
        written[message.subject] = now

    client = await nats.connect(nats_server.url)
    await client.subscribe(f"$KV.{BUCKET}.>", cb=take)
    try:
        yield lambda: max(longest, time.monotonic() - min(written.values()))
    finally:
        await client.close()


async def test_strangers_at_the_http_port_change_no_leader(election, private_nats, start, tmp_path):
    """They ask for everything without a pause, and end nothing that they begin.

    Each record is renewed in time all the same, and probes are answered.
    """
    elections = await lead(election.kube, election.namespace, ELECTIONS)
    operator = (await start(election, private_nats.url, "replica-1"))["replica-1"]
    await until_led(elections)
    before = await marks(elections)
    assert len(before) == ELECTIONS
    arguments = (operator.url.removeprefix("http://"), CLIENTS, 0)
    async with renewals(private_nats) as longest_pause:
        await asyncio.sleep(TTL / 2)
        with program("hostile_clients", tmp_path, *arguments) as clients:
            missed = await probed(operator, seconds=4 * TTL)
            pause = longest_pause()
            done = await ended(clients)
    assert any(one["answers"] for one in done["kinds"].values()), done
    assert pause < TTL
    assert await marks(elections) == before
    assert not missed


async def test_a_hostile_namespace_delays_no_other(
    election, private_nats, new_replica, site, tmp_path
):
    """Its webhook hangs, its elections come and go, its buckets do not exist; others hand over."""
    kube, hostile = election.kube, f"hostile-{secrets.token_hex(4)}"
    await kube.namespace(hostile)
    captives = await lead(kube, hostile, CAPTIVES)
    elections = await lead(kube, election.namespace, 30, pods=2)
    flags = (f"--namespace={hostile}",)
    operator = new_replica(election, private_nats.url, "replica-1", arguments=flags)
    await operator.start()
    await until_led(captives)
    await until_led(elections)
    (tmp_path / "site.json").write_text(site.to_json())
    arguments = (tmp_path / "site.json", hostile, 10, 100, 0)
    try:
        async with webhook(kube, hostile, tmp_path) as hook:
            await until_asked(kube, captives[0].pod_path("0"), hook)
            hook.delay, hook.asked = 600, 0
            with program("hostile_tenant", tmp_path, *arguments) as tenant:
                async with asyncio.timeout(60):
                    while hook.asked < CAPTIVES:  # noqa: ASYNC110 - it has no event
                        await asyncio.sleep(0.1)
                slowest = 0.0
                for one in itertools.islice(elections, 10):
                    leader = await one.wait_leader()
                    began = time.monotonic()
                    await kube.delete(one.pod_path(leader), grace=0)
                    await one.wait_leader(other_than=leader)
                    slowest = max(slowest, time.monotonic() - began)
                done = await ended(tenant)
        assert slowest < 3
        assert done["gone"]
    finally:
        await kube.delete(f"/api/v1/namespaces/{hostile}")
