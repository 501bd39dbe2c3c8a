"""A webhook that hangs in one namespace, on a real API server, and the elections of others."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import pytest

import admission
from elections import Election, LabelWatch, with_bucket

pytestmark = pytest.mark.timeout(300)

TTL = 10.0
MANY = 80
"""Elections whose labels hang: more than changes of leader go on at a time, twice over."""
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
