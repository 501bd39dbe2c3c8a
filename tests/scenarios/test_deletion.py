"""Elections are deleted in bad moments, and leave nothing behind that would stay."""

from __future__ import annotations

import asyncio
import time

import pytest

from elections import Election, store_on
from scenarios.conftest import TTL
from scenarios.timeline import Timeline, settled

pytestmark = pytest.mark.timeout(120)


async def test_deleted_while_nats_is_away(election, private_nats, start):
    """The label goes at once and stays away; when NATS is back the record lapses."""
    await start(election, private_nats.url, "replica-1", "replica-2")
    await election.lead()
    await settled(election)
    async with Timeline(election) as timeline:
        await private_nats.stop()
        began = time.monotonic()
        await election.delete()
        await timeline.wait(lambda leaders: not leaders, timeout=2)
        await election.wait_labels({}, timeout=2)
        await election.wait_gone(timeout=5)
        assert time.monotonic() - began < 5
        await private_nats.start()
        async with store_on(private_nats) as store:
            await store.until(
                election.key, lambda found: found is None or not found.value, timeout=TTL + 3
            )
            await asyncio.sleep(2)
            latest = await store.latest(election.key)
        assert latest is None or not latest.value
    assert not timeline.reigns


@pytest.mark.parametrize("nats", ("with NATS", "without NATS"))
async def test_deleted_after_all_its_pods(election, private_nats, start, nats):
    """Nothing that the pods would have to do keeps it."""
    await start(election, private_nats.url, "replica-1", "replica-2")
    await election.lead()
    await settled(election)
    if nats == "without NATS":
        await private_nats.stop()
    for pod in ("one", "two"):
        await election.kube.delete(election.pod_path(pod), grace=0)
    await election.delete()
    await election.wait_gone(timeout=5)


@pytest.mark.parametrize("nats", ("with NATS", "without NATS"))
async def test_namespace_is_deleted(kube, namespace, private_nats, start, nats):
    """It goes with all that is in it, and the record does not outlive it for long."""
    election = Election(kube, f"{namespace}-own")
    await kube.namespace(election.namespace)
    await start(election, private_nats.url, "replica-1", "replica-2")
    containers = [{"name": "main", "image": "none.invalid/none"}]
    # The namespace waits for half of the time that its pods have to end, the rest for the pods.
    spec = {"containers": containers, "terminationGracePeriodSeconds": 1}
    about = {"name": "web-one", "labels": {"app": "web"}}
    await kube.create(election.pods_path, {"metadata": about, "spec": spec})
    await election.create()
    await settled(election)
    if nats == "without NATS":
        await private_nats.stop()
    path = f"/api/v1/namespaces/{election.namespace}"
    await kube.delete(path)
    await kube.until(path, lambda found: found is None, timeout=20)
    if nats == "without NATS":
        await private_nats.start()
    async with store_on(private_nats) as store:
        await store.until(
            election.key, lambda found: found is None or not found.value, timeout=TTL + 3
        )
