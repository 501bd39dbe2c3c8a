"""Which site an operator is of: in a copy of a cluster, and in one whose operators change."""

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
from elections import LEADER, Election, LabelWatch, store_on, with_bucket
from operatorprocess import OperatorProcess
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


@pytest.fixture
async def original(private_plane):
    """An election, not created yet, in a cluster of the test's own."""
    async with cluster(private_plane) as election:
        for path in sorted(DEFINITIONS.glob("*.yaml")):
            await election.kube.apply_definitions(path.read_text())
        await election.kube.namespace(NAMESPACE)
        yield election


async def test_copied_cluster_stays_out_until_it_has_a_name(
    private_plane, private_nats, original, start, tmp_path
):
    """It says so, with its pods and with others; with `--site` it is another cluster."""
    async with store_on(private_nats) as store:
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


async def test_rolling_updates_that_change_what_is_served_change_no_leader(
    private_plane, private_nats, original, tmp_path
):
    """Neither another list of namespaces does, nor all of them; another name keeps the pod."""
    running = []

    async def replaced_by(name, *flags):
        """Start another operator, and end the one before in order."""
        operator = OperatorProcess(
            private_plane.site,
            tmp_path,
            nats_url=private_nats.url,
            arguments=(*with_bucket(TTL), *flags),
            replica=name,
        )
        running.append(operator)
        await operator.start()
        await asyncio.sleep(1)  # it meets the steward
        if len(running) > 1:
            await running[-2].process.stop()
            await original.kube.until(
                original.path, lambda f: f["status"]["steward"]["replica"] == name
            )

    try:
        await replaced_by("all-1", "--site=prod")
        leader = await original.lead()
        token = (await original.status())["token"]
        async with LabelWatch(original) as watch:
            await replaced_by("some-1", "--site=prod", f"--namespace={NAMESPACE}")
            more = ("--namespace=default", f"--namespace={NAMESPACE}")
            await replaced_by("some-2", "--site=prod", *more)
            await replaced_by("all-2", "--site=prod")
            assert (await original.status())["token"] == token
            assert [change.leaders for change in watch.changes] == [{leader: str(token)}]

            await replaced_by("renamed", "--site=other")
            await original.kube.until(original.path, lambda f: f["status"]["site"] == "other")
            assert await original.wait_leader() == leader
            assert watch.most == 1
            assert set(watch.leaders) == {leader}
        assert (await original.status())["holder"] == f"other/{NAMESPACE}/web-{leader}"
        assert [event["reason"] for event in await original.events()] == ["LeaderElected"] * 2
    finally:
        for operator in running:
            operator.kill()
    assert not any(operator.complaints for operator in running)
