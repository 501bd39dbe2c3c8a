"""Routing under random faults: two replicas, an API server and a bucket that misbehave."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from fakecluster import NAMESPACE, make_election, make_pod
from stage import KEY, TTL, Stage, View

pytestmark = [
    pytest.mark.looptime(noop_cycles=2),
    pytest.mark.usefixtures("clock_of_the_loop"),
]

NAME = "incumbent-billing-ipv4"
STEPS = 12


class Theatre(Stage):
    """A stage whose faults are thrown by dice, and where each write is judged."""

    def __init__(self, seed):
        super().__init__()
        self.dice = Random(seed)
        self.wrong = []
        self.cluster.put_service()
        self.cluster.put_election(make_election(spec={"routing": {"service": "web"}}))
        for name in "abc":
            self.cluster.add(make_pod(name, created=f"2026-01-01T00:00:0{ord(name) - 96}Z"))
        remove = self.bucket.remove

        async def judged(*arguments, **options):
            """A release says that nobody is reached any more."""
            if self.reached:
                self.wrong.append(f"released while {self.reached} is reached")
            return await remove(*arguments, **options)

        self.bucket.remove = judged

    @property
    def reached(self):
        """Return whom the slice leads to."""
        found = self.cluster.slices.get((NAMESPACE, NAME)) or {"endpoints": ()}
        return [one["targetRef"]["name"] for one in found["endpoints"]]

    async def begin(self, name, nonce):
        """Start a replica with a connection of its own."""
        self.views[name] = View(self.bucket)
        return await self.start(name, nonce=nonce, view=self.views[name])

    async def strike(self):
        """Do one thing, and undo it after a while."""
        dice, cluster = self.dice, self.cluster
        seconds = dice.choice((0.05, 0.5, 2.5, TTL, 2 * TTL)) * dice.random()
        match dice.randrange(10):
            case 0 | 1:
                pod = dice.choice("abc")
                cluster.change(pod, ready=False)
                await asyncio.sleep(seconds)
                cluster.change(pod, ready=True)
            case 2:
                with cluster.unreachable():
                    await asyncio.sleep(seconds)
            case 3:
                with cluster.dropping_answers():
                    await asyncio.sleep(seconds)
            case 4 | 5:
                with cluster.delaying_writes(dice.choice((1, 2, 3))):
                    cluster.change(dice.choice("abc"), ready=False)
                    await asyncio.sleep(seconds)
            case 6:
                with dice.choice(list(self.views.values())).blind():
                    await asyncio.sleep(seconds)
            case 7:
                self.change(suspend=True)
                await asyncio.sleep(seconds)
                self.change(suspend=False)
            case 8:
                victim = dice.choice(list(self.tasks))
                name = "one" if victim is self.first else "two"
                await self.kill(victim)
                await asyncio.sleep(seconds)
                again = await self.begin(name, f"nonce-{dice.random()}")
                self.first = again if name == "one" else self.first
            case 9:
                self.bucket.delete(KEY)
        for pod in "abc":
            if not cluster.pod(pod).ready:
                cluster.change(pod, ready=True)


@pytest.mark.parametrize("seed", range(40))
async def test_slice_never_holds_two_and_ends_with_the_leader(seed):
    """And it is empty whenever the record is released."""
    theatre = Theatre(seed)
    theatre.first = await theatre.begin("one", "nonce-1")
    await theatre.begin("two", "nonce-2")
    try:
        for _ in range(STEPS):
            await theatre.strike()
            await asyncio.sleep(theatre.dice.choice((0, 0.1, 1)))
        await theatre.until(
            lambda: (
                theatre.reached == theatre.leaders == [(theatre.record or "").rpartition("/")[2]]
            ),
            timeout=6 * TTL,
        )
    finally:
        for campaigner in list(theatre.tasks):
            await theatre.kill(campaigner)
    assert not theatre.wrong
    assert all(len(route) <= 1 for route in theatre.cluster.routes)
    assert theatre.most_at_once() == 1
