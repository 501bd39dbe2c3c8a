"""Two sites contest one key: one of them leads, and the other one takes over only after it."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass

import pytest

from controlplane.processes import Process
from elections import BUCKET, LEADER, Election, store_on
from incumbent.nats.connection import NatsAccess, NatsConnection
from operatorprocess import SOURCES, OperatorProcess
from scenarios.conftest import TTL
from scenarios.timeline import Timeline, settled

pytestmark = pytest.mark.timeout(120)

KEY = "contested"
LONG_TTL = 15.0
PODS = ("one", "two")


@dataclass
class Side:
    """A site, as one of the two that contest the key."""

    election: Election
    replicas: list[OperatorProcess]
    nats: object
    """The proxy between its replicas and NATS."""


@pytest.fixture
async def sides(election, elsewhere, private_nats, start, proxy):
    """Return a coroutine function that sets up two sites, and returns the one that leads first.

    Without `pods` there is a Deployment of two in each.
    """

    async def sides(*, replicas=1, pods=PODS):
        async def side(name, of):
            link = await proxy(private_nats.port)
            names = (f"{name}-{number}" for number in range(replicas))
            allowed = (f"--allow-lock=*/*/{KEY}",)
            made = await start(of, f"nats://{link.address}", *names, arguments=allowed)
            return Side(of, list(made.values()), link)

        both = await asyncio.gather(side("east", election), side("west", elsewhere))
        await asyncio.gather(*(add_pods(s.election, pods) for s in both))
        await asyncio.gather(*(s.election.create(key=KEY) for s in both))
        reasons = {}
        while len(reasons) < 2:
            for s in both:
                reason = await first_reason(s.election)
                if reason in {"Leading", "LedElsewhere"}:
                    reasons[reason] = s
            await asyncio.sleep(0.05)
        await settled(reasons["Leading"].election)
        return reasons["Leading"], reasons["LedElsewhere"]

    return sides


async def make_bucket(server, *, ttl):
    """Make the bucket before an operator does."""
    async with NatsConnection(NatsAccess([server.url])) as connection:
        await asyncio.wait_for(connection.wait_connected(), timeout=5)
        await connection.create_bucket(BUCKET, ttl=ttl, replicas=1)


async def add_pods(election, names):
    if names:
        await election.add_pods(*names)
    else:
        await election.kube.deployment(election.namespace, election.name, replicas=2)


async def first_reason(election):
    """Return the reason of Ready."""
    conditions = (await election.status()).get("conditions") or []
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


async def test_one_of_two_sites_leads(sides):
    """Both campaign at once; one is led elsewhere, also when the other's leader is replaced."""
    leading, other = await sides()
    async with Timeline(leading.election, other.election) as timeline:
        (old,) = timeline.leaders
        assert old.of(leading.election)
        await leading.election.kube.delete(f"{leading.election.pods_path}/{old.pod}")
        await timeline.wait_for(leading.election, other_than=old.uid)
        await asyncio.sleep(TTL)
    assert timeline.most == 1
    (new,) = timeline.reigns
    assert new.of(leading.election)
    status = await other.election.status()
    assert status["holder"] == (await leading.election.status())["holder"]
    assert LEADER not in (await other.election.labels()).values()


async def test_all_replicas_of_the_leading_site_are_killed(sides):
    """The other site leads within two TTLs, and what comes back leaves it that.

    Not promised: the label of a site whose replicas are all dead. It stays, with a lower token,
    until one of them is back.
    """
    leading, other = await sides(replicas=2)
    async with Timeline(leading.election, other.election) as timeline:
        (old,) = timeline.leaders
        for replica in leading.replicas:
            replica.kill()
        new = await timeline.wait_for(other.election, timeout=2 * TTL)
        assert int(new.token) > int(old.token)
        assert {x.uid for x in timeline.leaders} == {old.uid, new.uid}

        await asyncio.gather(*(replica.start() for replica in leading.replicas))

        await timeline.wait(lambda leaders: [x.uid for x in leaders] == [new.uid])
        await leading.election.wait_reason("LedElsewhere")
        await asyncio.sleep(TTL)
    assert [x.uid for x in timeline.reigns] == [new.uid]
    assert [x.uid for x in timeline.leaders] == [new.uid]
    assert not await leading.election.events("HandedOver")


async def test_leading_site_is_cut_off_from_nats(sides):
    """Its label is gone before the other site's appears, and does not come back with the link."""
    leading, other = await sides(replicas=2)
    async with Timeline(leading.election, other.election) as timeline:
        (old,) = timeline.leaders
        leading.nats.black_hole()
        began = time.monotonic()
        stripped = await timeline.wait(lambda leaders: not leaders or leaders[0].uid != old.uid)
        assert not stripped
        assert time.monotonic() - began < TTL
        new = await timeline.wait_for(other.election, timeout=TTL)
        await leading.nats.resume()
        await leading.election.wait_reason("LedElsewhere")
        await asyncio.sleep(TTL)
    assert timeline.most == 1
    assert [x.uid for x in timeline.reigns] == [new.uid]


@pytest.mark.parametrize("restarted", (True, False), ids=("restarted", "its standby is left"))
async def test_steward_is_killed_while_its_site_is_cut_off_from_nats(
    sides, private_nats, restarted
):
    """Whoever is left strips the label in time, though it never saw the record, or long ago.

    The TTL leaves time for a process to start on a busy machine.
    """
    await make_bucket(private_nats, ttl=LONG_TTL)
    leading, other = await sides(replicas=1 if restarted else 2)
    steward = (await leading.election.status())["steward"]["replica"]
    async with Timeline(leading.election, other.election) as timeline:
        (old,) = timeline.leaders
        await leading.nats.refuse()
        for replica in leading.replicas:
            if restarted:
                replica.kill()
                await replica.start(ready=False)
            elif replica.process.name == steward:
                replica.kill()
        stripped = await timeline.wait(
            lambda leaders: not leaders or leaders[0].uid != old.uid, timeout=LONG_TTL + 2
        )
        assert not stripped
        new = await timeline.wait_for(other.election, timeout=LONG_TTL)
        await leading.election.wait_reason("BucketUnreachable")
        await leading.nats.resume()
        await leading.election.wait_reason("LedElsewhere")
        assert "unconfirmed" not in await leading.election.status()
    assert timeline.most == 1
    assert [x.uid for x in timeline.reigns] == [new.uid]


async def test_leading_site_is_scaled_to_zero(sides):
    """It releases, so the other site leads at once, and keeps that when the pods are back."""
    leading, other = await sides(pods=())
    async with Timeline(leading.election, other.election) as timeline:
        (old,) = timeline.leaders
        deployment = f"/apis/apps/v1/namespaces/{leading.election.namespace}/deployments/web"
        began = time.monotonic()
        await leading.election.kube.patch(deployment, {"spec": {"replicas": 0}})
        new = await timeline.wait_for(other.election, other_than=old.uid)
        assert time.monotonic() - began < TTL / 2
        await leading.election.kube.patch(deployment, {"spec": {"replicas": 2}})
        await leading.election.wait_reason("LedElsewhere")
        await asyncio.sleep(TTL / 2)
    assert timeline.most == 1
    assert [x.uid for x in timeline.reigns] == [new.uid]


async def test_only_candidate_of_the_leading_site_steps_down(sides):
    """The other site leads, and the request is gone when its time has passed."""
    leading, other = await sides(pods=("one",))
    async with Timeline(leading.election, other.election) as timeline:
        (old,) = timeline.leaders
        request = {"metadata": {"annotations": {"incumbent.dev/step-down": ""}}}
        await leading.election.kube.patch(leading.election.path, request)
        new = await timeline.wait_for(other.election, other_than=old.uid, timeout=TTL / 2)
        await leading.election.kube.until(
            leading.election.path, lambda found: not found["metadata"].get("annotations")
        )
        await leading.election.wait_reason("LedElsewhere")
        await asyncio.sleep(TTL)
    assert timeline.most == 1
    assert [x.uid for x in timeline.reigns] == [new.uid]


async def test_member_outside_leads_when_both_sites_are_suspended(sides, private_nats, tmp_path):
    """A command on some machine waits for its turn like any site, and both wait for its end."""
    member = Process(
        [
            *(sys.executable, "-m", "incumbent", "run", KEY, "--name=machine"),
            *(f"--nats-url={private_nats.url}", f"--bucket={BUCKET}", "--", "sleep", "60"),
        ],
        name="machine",
        folder=tmp_path,
        environment={**os.environ, "PYTHONPATH": str(SOURCES)},
    )
    leading, other = await sides()
    both = (leading.election, other.election)
    try:
        async with Timeline(*both) as timeline, store_on(private_nats) as store:
            (old,) = timeline.leaders
            member.start()
            await asyncio.sleep(TTL / 2)
            assert not timeline.changes

            await other.election.patch(suspend=True)
            await leading.election.patch(suspend=True)
            await store.until(KEY, lambda found: found.value == "machine", timeout=TTL)
            assert not timeline.leaders
            for election in both:
                await election.patch(suspend=False)
                await election.wait_reason("LedElsewhere")
                assert (await election.status())["holder"] == "machine"
            await asyncio.sleep(TTL)
            assert not timeline.reigns

            await member.stop()
            (new,) = await timeline.wait(lambda leaders: leaders, timeout=TTL / 2)
            assert int(new.token) > int(old.token)
            await asyncio.sleep(TTL / 2)
        assert timeline.most == 1
        assert [x.uid for x in timeline.reigns] == [new.uid]
    finally:
        member.kill()
