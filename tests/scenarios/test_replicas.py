"""Replicas of one site come, go and stand still, and nobody who uses the leader notices."""

from __future__ import annotations

import asyncio

import pytest

from elections import store_on
from scenarios.conftest import TTL
from scenarios.timeline import settled, undisturbed

pytestmark = pytest.mark.timeout(120)


async def steward_of(election):
    return (await election.status())["steward"]["replica"]


async def wait_steward(election, name):
    await election.kube.until(
        election.path, lambda found: found["status"]["steward"]["replica"] == name, timeout=2 * TTL
    )


async def test_rolling_update_of_the_operator(election, private_nats, start):
    """Three replicas are replaced one after the other, as a Deployment does it: nothing changes."""
    old = await start(election, private_nats.url, "old-1", "old-2", "old-3")
    await election.lead("one", "two", "three")
    await settled(election)
    async with undisturbed(election), store_on(private_nats) as store:
        before = await store.latest(election.key)
        for number, replica in enumerate(old.values(), start=1):
            await start(election, private_nats.url, f"new-{number}")
            await replica.process.stop()
        await election.kube.until(
            election.path, lambda found: "new-" in found["status"]["steward"]["replica"]
        )
        await asyncio.sleep(TTL)
        after = await store.latest(election.key)
    assert "new-" in after.headers["Incumbent-Replica"]
    assert after.headers["Incumbent-Term"] == str((await election.status())["token"])
    assert after.revision > before.revision + 2


@pytest.mark.parametrize("who", ("steward", "standby"))
async def test_killed_replica(election, private_nats, start, who):
    """The other replica goes on with what there is, and so does the one that is started anew."""
    replicas = await start(election, private_nats.url, "replica-1", "replica-2")
    await election.lead()
    await settled(election)
    steward = await steward_of(election)
    (standby,) = replicas.keys() - {steward}
    killed, survivor = (steward, standby) if who == "steward" else (standby, steward)
    async with undisturbed(election), store_on(private_nats) as store:
        replicas[killed].kill()
        await wait_steward(election, survivor)
        before = await store.latest(election.key)
        await asyncio.sleep(TTL)
        after = await store.latest(election.key)
        assert after.revision > before.revision
        assert after.headers["Incumbent-Replica"].startswith(f"{survivor}/")
        await start(election, private_nats.url, "replica-3")
        replicas[survivor].kill()
        await wait_steward(election, "replica-3")


async def test_steward_that_stands_still_for_longer_than_a_ttl(election, private_nats, start):
    """It is relieved, finds that out when it goes on, and relieves its successor later."""
    replicas = await start(election, private_nats.url, "replica-1", "replica-2")
    await election.lead()
    await settled(election)
    steward = await steward_of(election)
    (standby,) = replicas.keys() - {steward}
    async with undisturbed(election):
        replicas[steward].process.pause()
        await wait_steward(election, standby)
        await asyncio.sleep(TTL)
        replicas[steward].process.resume()
        await asyncio.sleep(TTL / 2)
        assert await steward_of(election) == standby
        replicas[standby].process.pause()
        await wait_steward(election, steward)
        await asyncio.sleep(TTL)
        replicas[standby].process.resume()
        await asyncio.sleep(TTL / 2)


async def test_a_replica_that_starts_cut_off_from_nats(
    election, private_nats, start, new_replica, proxy
):
    """It asks again and again, the steward answers each time, and the leader stays."""
    await start(election, private_nats.url, "replica-1")
    await election.lead()
    await settled(election)
    link = await proxy(private_nats.port)
    await link.refuse()
    asked = []
    async with undisturbed(election):
        await new_replica(election, f"nats://{link.address}", "replica-2").start(ready=False)
        async for _, found in election.kube.watch(election.collection):
            asked.append("unconfirmed" in found["status"])
            if asked[-4:] == [False, True, False, True]:
                break
        await election.wait_reason("Leading")
