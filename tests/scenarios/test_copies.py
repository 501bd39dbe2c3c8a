"""A cluster and its copy, with the same UIDs, names, pods and status, on one bucket."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.kube import Kube
from controlplane.nodes import NodeAgent
from controlplane.servers import ControlPlane
from elections import LEADER, Election, LabelWatch, store_on
from scenarios.conftest import TTL

pytestmark = pytest.mark.timeout(240)

DEFINITIONS = Path(__file__).parents[2] / "crds"
NAMESPACE = "shop"


@contextlib.asynccontextmanager
async def cluster(plane: ControlPlane) -> AsyncIterator[Election]:
    """An election in a cluster that runs pods."""
    async with NodeAgent(plane.site), Kube(plane.site) as kube:
        yield Election(kube, NAMESPACE)


@contextlib.asynccontextmanager
async def copy_of(plane: ControlPlane, folder: Path) -> AsyncIterator[Election]:
    """A control plane with a copy of another one's etcd, as a clone or a restored backup has it."""
    copy = ControlPlane(folder / "copy", name=plane.site.name)
    shutil.copytree(await plane.back_up(), copy.etcd.data)
    async with copy, cluster(copy) as election:
        yield election


async def leads(election):
    """Whether a pod has the label."""
    return LEADER in (await election.labels()).values()


async def neither_leads_beside_the_other(one, other, *, seconds):
    """Look for so long whether both clusters have a leader."""
    until = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until:
        assert not (await leads(one) and await leads(other) and await leads(one))
        await asyncio.sleep(0.05)


async def test_copied_cluster_stays_out_until_it_has_a_name(
    private_plane, private_nats, start, tmp_path
):
    """It says so, with its pods and with others; with `--site` it is another cluster."""
    async with cluster(private_plane) as original, store_on(private_nats) as store:
        for path in sorted(DEFINITIONS.glob("*.yaml")):
            await original.kube.apply_definitions(path.read_text())
        await original.kube.namespace(NAMESPACE)
        await start(original, private_nats.url, "replica-1", "replica-2")
        leader = await original.lead()
        token = (await original.status())["token"]
        async with copy_of(private_plane, tmp_path) as copy, LabelWatch(original) as watch:
            assert await copy.labels() == await original.labels()

            # As it was copied
            replicas = await start(copy, private_nats.url, "replica-1", "replica-2")
            await copy.wait_reason("SiteInUse", timeout=30)
            await copy.wait_reason("SiteInUse", kind="Stalled")
            await copy.wait_event("SiteInUse")
            assert not await leads(copy)
            await neither_leads_beside_the_other(original, copy, seconds=2 * TTL)

            # With pods of its own, and with processes that see it for the first time
            for name in await copy.pods():
                await copy.kube.delete(copy.pod_path(name))
            await copy.add_pods("three")
            await asyncio.gather(*(replica.restart() for replica in replicas.values()))
            await neither_leads_beside_the_other(original, copy, seconds=10 + 2 * TTL)
            await copy.wait_reason("SiteInUse")
            assert await copy.labels() == {"three": "candidate"}

            # The original has noticed nothing
            status = await original.status()
            assert (status["leader"]["podName"], status["token"]) == (f"web-{leader}", token)
            assert watch.leaders == [leader]
            assert watch.most == 1

            # The way out
            for replica in replicas.values():
                replica.kill()
            options = ("--site=copy",)
            await start(copy, private_nats.url, "replica-3", arguments=options)
            await copy.wait_reason("LedElsewhere")
            await original.patch(suspend=True)
            await copy.wait_leader()
            assert (await store.latest(copy.key)).value == f"copy/{NAMESPACE}/web-three"
            assert not await leads(original)
