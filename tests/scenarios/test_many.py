"""Many pods, many changes of them, and several elections over the same pods."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from controlplane.kube import has_condition
from elections import BUCKET, LEADER, Election, store_on
from scenarios.conftest import TTL
from scenarios.timeline import Timeline, settled

pytestmark = pytest.mark.timeout(180)

AT_ONCE = 32
INTERVAL = TTL / 3
PRIORITY = "incumbent.dev/priority"


async def add_pods(election, *, number, labels=None):
    """Create many pods, not by way of the scheduler, and wait until all are Ready."""
    few = asyncio.Semaphore(AT_ONCE)
    labels = labels or {"app": election.name}

    async def add(name):
        spec = {
            "containers": [{"name": "main", "image": "none.invalid/none"}],
            "nodeName": "node-1",
        }
        async with few:
            about = {"name": name, "labels": labels}
            await election.kube.create(election.pods_path, {"metadata": about, "spec": spec})

    names = [f"{labels['app']}-{n}" for n in range(number)]
    await asyncio.gather(*map(add, names))

    for name in names:
        path = f"{election.pods_path}/{name}"
        await election.kube.until(path, lambda pod: has_condition(pod, "Ready"))


async def test_two_elections_over_the_same_pods(election, private_nats, start):
    """Each has a leader and a label of its own, and correcting one leaves the other alone."""
    await start(election, private_nats.url, "replica-1")
    pods = {"app": "web"}
    await election.add_pods("one", "two", "three")
    await election.annotate_or_label("one", annotations={PRIORITY: "1"})
    await election.create()
    assert await settled(election) == "one"
    await election.annotate_or_label("two", annotations={PRIORITY: "2"})
    other = Election(election.kube, election.namespace, "second")
    await other.create(selector={"matchLabels": pods}, key=f"{election.namespace}.another")

    async with Timeline(other) as timeline:
        second = await timeline.wait_for(other)
    assert second.pod == "web-two"
    await other.wait_reason("Leading")
    await election.kube.until(
        election.pods_path,
        lambda found: all(other.label in pod["metadata"]["labels"] for pod in found["items"]),
    )

    for correct, spared, pod, value in (
        (election, other, "two", LEADER),
        (election, other, "one", None),
        (other, election, "one", LEADER),
        (other, election, "two", "candidate"),
    ):
        async with Timeline(correct) as corrected, Timeline(spared) as alone:
            (before,) = corrected.leaders
            patch = {"metadata": {"labels": {correct.label: value}}}
            await correct.kube.patch(election.pod_path(pod), patch)

            def right(leaders, before=before):
                return [(x.uid, x.token) for x in leaders] == [(before.uid, before.token)]

            await asyncio.sleep(1)
            await corrected.wait(right, timeout=1)
            assert len(corrected.changes) >= 2, "nobody changed it"
        assert not alone.changes, str(alone)
    for each in (election, other):
        assert (await each.status())["transitions"] == 1


async def test_250_candidates(election, private_nats, start):
    """One of them leads within a few seconds, and all others are marked as candidates."""
    number = 250
    await start(election, private_nats.url, "replica-1")
    await add_pods(election, number=number)
    async with Timeline(election) as timeline:
        await election.create()
        leader = await timeline.wait_for(election, timeout=5)

        def marked():
            return {change.uid for change in timeline.changes if change.label == "candidate"}

        deadline = time.monotonic() + 20
        while len(marked()) < number - 1:
            assert time.monotonic() < deadline, len(marked())
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    assert timeline.most == 1
    assert leader.uid not in marked()
    assert len(timeline.changes) == number
    assert (await election.status())["candidates"] == {"total": number, "ready": number}


async def test_storm_of_changes_of_pods(election, private_nats, start):
    """The leader stays, and every renewal comes in time, while pods change as fast as can be."""
    await start(election, private_nats.url, "replica-1")
    await add_pods(election, number=40, labels={"app": "other"})
    await election.lead("one", "two", "three", "four")
    await settled(election)
    token = str((await election.status())["token"])
    paths = [f"{election.pods_path}/{p['metadata']['name']}" for p in await every_pod(election)]
    renewals, patched = [], 0
    turns = itertools.count()

    async def patch_on_and_on(began, until):
        nonlocal patched
        for turn in turns:
            await asyncio.sleep(began + turn / 500 - time.monotonic())
            if time.monotonic() > until:
                break
            body = {"metadata": {"annotations": {"storm": str(turn)}}}
            await election.kube.patch(paths[turn % len(paths)], body)
            patched += 1

    async def take(message):
        renewals.append((message.metadata.timestamp.timestamp(), dict(message.headers)))

    async with Timeline(election) as timeline, store_on(private_nats) as store:
        subject = f"$KV.{BUCKET}.{election.key}"
        watch = await store.jetstream.subscribe(
            subject, stream=f"KV_{BUCKET}", cb=take, ordered_consumer=True
        )
        await asyncio.sleep(INTERVAL)
        began = time.monotonic()
        storm = (patch_on_and_on(began, began + 10) for _ in range(AT_ONCE))
        await asyncio.gather(*storm)
        await asyncio.sleep(INTERVAL + 1)
        await watch.unsubscribe()
    assert patched > 300, "that was no storm"
    assert not timeline.changes, str(timeline)
    assert {headers.get("Incumbent-Term", token) for _, headers in renewals} == {token}
    gaps = [b - a for (a, _), (b, _) in itertools.pairwise(renewals)]
    assert sum(gaps) > 10
    assert max(gaps) < INTERVAL + 1, (gaps, patched)


async def every_pod(election):
    """Return all pods of the namespace."""
    return (await election.kube.get(election.pods_path))["items"]
