"""A webhook that hangs in one namespace, on a real API server, and the elections of others."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import aiohttp
import pytest

import admission
from elections import Election, LabelWatch, with_bucket

pytestmark = pytest.mark.timeout(300)

TTL = 10.0
MANY = 80
"""Elections whose labels hang: more than changes of leader go on at a time, twice over."""
PASSING = 200
"""Elections that are deleted as soon as they are created."""
STEP_DOWN = {"metadata": {"annotations": {"incumbent.dev/step-down": ""}}}


async def test_a_webhook_that_hangs_delays_no_other_namespace(
    kube, namespace, election, private_nats, new_operator, tmp_path
):
    """Its own elections cannot label. Others change hands meanwhile, and not without need."""
    bad = f"bad-{secrets.token_hex(4)}"
    await kube.namespace(bad)
    stuck = [Election(kube, bad, f"web-{number}") for number in range(MANY)]
    for one in stuck:
        await one.add_pods("one")
    operator = new_operator(private_nats.url, f"--namespace={bad}", *with_bucket(TTL))
    await operator.start()
    steady = Election(kube, namespace, "steady")
    first = await election.lead()
    kept = await steady.lead()
    async with (
        contextlib.AsyncExitStack() as hooks,
        LabelWatch(election) as watch,
        LabelWatch(steady) as others,
    ):
        hook = await hooks.enter_async_context(admission.webhook(kube, bad, tmp_path))
        await admission.until_asked(kube, stuck[0].pod_path("one"), hook)
        hook.delay, hook.asked = 9.0, 0
        for one in stuck:
            await one.create()
        async with asyncio.timeout(6 * TTL):
            while hook.asked < 20:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.1)
        await kube.patch(election.path, STEP_DOWN)
        second = await election.wait_leader(other_than=first, timeout=TTL)
        await kube.delete(election.pod_path(second))
        await election.wait_leader(other_than=second, timeout=TTL)
        assert await stuck[0].labels() == {}
        assert watch.most == 1
        assert len(watch.leaders) == 3
        assert others.leaders == [kept]
        hook.delay = 0
        await stuck[0].wait_leader(timeout=70)
    await kube.delete(f"/api/v1/namespaces/{bad}")


async def test_elections_that_are_deleted_at_once_are_not_served(
    kube, private_nats, new_operator, tmp_path
):
    """Also where labels hang, the operator hears of each deletion soon, and keeps nothing."""
    bad = f"bad-{secrets.token_hex(4)}"
    await kube.namespace(bad)
    stuck = [Election(kube, bad, f"web-{number}") for number in range(MANY // 2)]
    for one in stuck:
        await one.add_pods("one")
    operator = new_operator(private_nats.url, f"--namespace={bad}", *with_bucket(TTL))
    await operator.start()
    passing = [Election(kube, bad, f"passing-{number}") for number in range(PASSING)]

    async def pass_by(elections):
        for one in elections:
            await one.create()
            await kube.delete(one.path)

    async def served_without_being_there():
        served = await _served(operator, bad)
        there = {one["metadata"]["name"] for one in (await kube.get(stuck[0].collection))["items"]}
        return served - there

    async with admission.webhook(kube, bad, tmp_path) as hook:
        await admission.until_asked(kube, stuck[0].pod_path("one"), hook)
        hook.delay, hook.asked = 9.0, 0
        for one in stuck:
            await one.create()
        async with asyncio.timeout(30):
            while hook.asked < 20:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.1)
        await asyncio.gather(*(pass_by(passing[n::10]) for n in range(10)))
        assert len(await served_without_being_there()) < PASSING / 10
    await kube.delete(f"/api/v1/namespaces/{bad}")


async def _served(operator, namespace):
    """Return the names of the elections of a namespace that an operator serves."""
    async with (
        aiohttp.ClientSession(operator.url) as session,
        session.get("/v1/elections") as answer,
    ):
        found = await answer.json()
    return {one["name"] for one in found if one["namespace"] == namespace}
