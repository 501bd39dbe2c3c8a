"""Two replicas bear the absence of what they need."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from controlplane.kube import Kube
from controlplane.nodes import NodeAgent
from elections import Election, store_on
from scenarios.conftest import TTL
from scenarios.timeline import Timeline, settled, undisturbed

pytestmark = pytest.mark.timeout(180)

DEFINITIONS = Path(__file__).parents[2] / "crds"


@pytest_asyncio.fixture
async def own_election(private_plane):
    """An election on a control plane of the test's own, with a node for its pods."""
    async with Kube(private_plane.site) as kube, NodeAgent(private_plane.site):
        for path in sorted(DEFINITIONS.glob("*.yaml")):
            await kube.apply_definitions(path.read_text())
        await kube.namespace("own")
        yield Election(kube, "own")


async def test_api_server_is_down_for_a_minute(private_plane, own_election, private_nats, start):
    """The record is renewed, and no pod is written to: not meanwhile, and not afterwards."""
    await start(own_election, private_nats.url, "replica-1", "replica-2")
    await own_election.lead()
    await settled(own_election)
    token = str((await own_election.status())["token"])
    async with undisturbed(own_election, watch=False), store_on(private_nats) as store:
        before = await store.latest(own_election.key)
        private_plane.kill_api_server()
        await asyncio.sleep(60)
        during = await store.latest(own_election.key)
        assert during.revision > before.revision + 3
        assert during.headers["Incumbent-Term"] == token
        await private_plane.start_api_server()
        await asyncio.sleep(TTL)
    # Both see the pods again: what happens now is answered.
    async with Timeline(own_election) as timeline:
        (leader,) = timeline.leaders
        await own_election.kube.delete(own_election.pod_path(await own_election.wait_leader()))
        await timeline.wait_for(own_election, other_than=leader.uid)
    assert timeline.most == 1


async def test_nats_restarts_with_its_store(election, private_nats, start):
    """Both replicas come back to it, and the term goes on."""
    replicas = await start(election, private_nats.url, "replica-1", "replica-2")
    await election.lead()
    await settled(election)
    async with undisturbed(election), store_on(private_nats) as store:
        before = await store.latest(election.key)
        await private_nats.restart()
        for replica in replicas.values():
            await replica.wait_said("bucket.watched", times=2)
        await asyncio.sleep(TTL)
    async with store_on(private_nats) as store:
        after = await store.latest(election.key)
    assert after.revision > before.revision + 1
    assert after.headers["Incumbent-Term"] == str((await election.status())["token"])


async def test_wall_clock_of_a_replica_steps(tmp_path, election, private_nats, start):
    """An hour forth and back moves no deadline, and the office can still move."""
    step = tmp_path / "step"
    step.write_text("0")
    (replica,) = (await start(election, private_nats.url, "replica-1", clock_step=step)).values()
    leader = await election.lead("one", "two")
    await settled(election)
    for seconds in (3600, -3600):
        async with undisturbed(election):
            step.write_text(str(seconds))
            await asyncio.sleep(TTL + 1)
    assert replica.process.running
    await election.kube.delete(election.pod_path(leader))
    await election.wait_leader(other_than=leader)
    acquired = (await election.status())["leader"]["acquiredTime"]
    assert datetime.fromisoformat(acquired) < datetime.now(UTC) - timedelta(minutes=55)


@pytest.mark.parametrize("grace", (None, 0), ids=("politely", "at once"))
async def test_leader_is_deleted_while_its_steward_is_blind(
    site, election, private_nats, start, proxy, grace
):
    """The replica that sees it takes over, and labels another pod within a few seconds."""
    replicas, links = {}, {}
    for name in ("replica-1", "replica-2"):
        links[name] = await proxy(int(site.url.rpartition(":")[2]))
        kubeconfig = site.kubeconfig_for("operator", server=links[name].address)
        replicas |= await start(election, private_nats.url, name, kubeconfig=kubeconfig)
    await election.lead("one", "two", "three")
    leader = await settled(election)
    steward = (await election.status())["steward"]["replica"]
    async with Timeline(election) as timeline:
        (old,) = timeline.leaders
        links[steward].black_hole()
        await election.kube.delete(election.pod_path(leader), grace=grace)
        new = await timeline.wait_for(election, other_than=old.uid, timeout=5)
        await asyncio.sleep(TTL + 1)
        await links[steward].resume()
        await asyncio.sleep(TTL / 2)
    assert timeline.most == 1
    assert [change.uid for change in timeline.reigns] == [new.uid]
    status = await election.status()
    assert status["steward"]["replica"] != steward
    assert status["transitions"] == 2
    assert str(status["token"]) == new.token
