"""The operator bears what happens to it, to NATS and to the API server."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from controlplane.sites import WRITES
from elections import BUCKET, LEADER, LabelWatch, store_on, with_bucket
from operatorprocess import series

TTL = 5.0
SHORT_TTL = 3.0
STORED = 'incumbent_bucket_write_seconds_count{outcome="stored"}'


@pytest.fixture
def start(new_operator):
    """Return a function that makes an operator on a server, whose bucket it creates."""

    def make(server, ttl=SHORT_TTL, **options):
        return new_operator(server.url, *with_bucket(ttl), **options)

    return make


# Restarts


@pytest.mark.parametrize(("how", "ttl"), (("SIGKILL", 12), ("SIGTERM", 30)))
async def test_restart_changes_nothing(election, private_nats, start, how, ttl):
    """The leader of a replica that ends is the leader of its successor, in the same term.

    The TTLs leave time for a process to start on a busy machine.
    """
    operator = start(private_nats, ttl)
    await operator.start()
    await election.lead()
    before = await election.status()
    async with LabelWatch(election) as watch, store_on(private_nats) as store:
        if how == "SIGKILL":
            operator.kill()
        else:
            began = time.monotonic()
            await operator.process.stop()
            assert time.monotonic() - began < 3
            latest = await store.latest(election.key)
            assert "Incumbent-Leaving" in latest.headers
            assert "operator.stopped" in operator.log
        await operator.start()
        view = {"remainingSeconds": None}
        while view.get("remainingSeconds") is None:
            await asyncio.sleep(0.05)
            view = await operator.election(election.namespace, election.name)
        await asyncio.sleep(1)

    assert len(watch.changes) == 1
    after = await election.status()
    assert after["leader"] == before["leader"]
    assert after["token"] == before["token"]
    assert after["transitions"] == 1
    assert [event["reason"] for event in await election.events()] == ["LeaderElected"]
    assert (await operator.metrics())[series("transitions_total", election)] == 0


async def test_leader_that_died_during_a_restart_is_replaced(election, private_nats, start):
    """A replica that starts takes the record of a pod that is gone, and hands it over."""
    operator = start(private_nats)
    await operator.start()
    leader = await election.lead()
    operator.kill()
    await election.kube.delete(election.pod_path(leader), grace=0)

    await operator.start()

    await election.wait_leader(other_than=leader, timeout=SHORT_TTL + 2)


# NATS or the API server away


async def test_leader_steps_down_when_nats_is_away_for_too_long(election, private_nats, start):
    """The label is gone before a TTL has passed, and back as soon as NATS is.

    Mostly in another term. A server that starts removes what expired meanwhile a moment later, and
    a record that is still there untouched is renewed.
    """
    operator = start(private_nats, TTL)
    await operator.start()
    leader = await election.lead("one")
    token = (await election.status())["token"]
    async with LabelWatch(election) as watch:
        await private_nats.stop()
        stopped = time.monotonic()
        condition = await election.wait_reason("BucketUnreachable", kind="BucketReady", timeout=2)
        assert "NATS" in condition["message"]
        assert watch.changes[-1].leaders
        change = await watch.wait(lambda c: not c.leaders)
        assert change.at - stopped < TTL
        await election.wait_reason("BucketUnreachable")
        await election.wait_event("BucketUnreachable")
        await election.wait_event("LeaderLost")
        await asyncio.sleep(1)

        await private_nats.start()

        await watch.wait(lambda c: c.leaders, timeout=5)
    assert await election.wait_leader() == leader
    assert (await election.status())["token"] >= token
    assert (await election.wait_reason("BucketFound", kind="BucketReady"))["status"] == "True"


async def test_leader_is_back_at_once_after_an_outage_of_nats_beyond_the_ttl(
    election, private_nats, start
):
    """Nothing was stored meanwhile but what time alone brings, so there is nobody to wait for."""
    ttl = 8
    await start(private_nats, ttl).start()
    leader = await election.lead()
    async with LabelWatch(election) as watch:
        await private_nats.stop()
        stopped = time.monotonic()
        await watch.wait(lambda c: not c.leaders)
        await asyncio.sleep(stopped + ttl + 1 - time.monotonic())

        await private_nats.start()
        started = time.monotonic()
        change = await watch.wait(lambda c: c.leaders)

    assert list(change.leaders) == [leader]
    assert change.at - started < ttl / 2, "as after a stranger, who is waited for 0.75 TTL"


async def test_leader_that_waits_says_why_and_until_when(election, private_nats, start):
    """Somebody whom this operator never saw held the key when it started."""
    async with store_on(private_nats) as store:
        operator = start(private_nats, 8)
        await operator.start()
        await election.lead()
        operator.kill()
        await store.put(election.key, "", **{"KV-Operation": "DEL"})
        await operator.start()
        told = await election.wait_reason("Vacant")
        while "until" not in told["message"]:
            told = await election.wait_reason("Vacant")
            await asyncio.sleep(0.05)
        assert re.search(r"waits until \d\d:\d\d:\d\dZ because somebody may lead", told["message"])
        await election.wait_leader()


async def test_short_absence_of_nats_changes_nothing(election, private_nats, start):
    """A restart of the NATS server leaves the leader where it is."""
    operator = start(private_nats, TTL)
    await operator.start()
    await election.lead()
    async with LabelWatch(election) as watch:
        await private_nats.restart()
        await operator.wait_said("bucket.watched", times=2)
        await asyncio.sleep(TTL / 3 + 0.5)
    assert len(watch.changes) == 1
    assert (await election.status())["transitions"] == 1
    assert not await election.events("LeaderLost")


async def test_deletion_does_not_wait_for_nats(election, private_nats, start):
    """While NATS is away the labels go at once, and the resource within 5 s."""
    operator = start(private_nats, TTL)
    await operator.start()
    await election.lead()
    await private_nats.stop()

    began = time.monotonic()
    await election.delete()

    await election.wait_labels({}, timeout=1)
    await election.wait_gone(timeout=6)
    assert time.monotonic() - began < 5


async def test_bucket_made_anew_is_used_when_lower_tokens_are_accepted(
    election, private_nats, start
):
    """Its revisions begin again, so the next token would be refused by what knows the last one."""
    operator = start(private_nats)
    await operator.start()
    await election.lead()
    async with store_on(private_nats) as store, LabelWatch(election) as watch:
        config = (await store.jetstream.stream_info(f"KV_{BUCKET}")).config
        await store.jetstream.delete_stream(f"KV_{BUCKET}")
        await election.wait_reason("BucketNotFound", timeout=SHORT_TTL + 2)
        assert not watch.changes[-1].leaders

        await store.jetstream.add_stream(config)
        await election.wait_reason("TokenRegressed", timeout=8)
        assert not watch.changes[-1].leaders

        await election.patch(onTokenRegress="Accept")
        await watch.wait(lambda c: c.leaders, timeout=8)
        await asyncio.sleep(1)
    assert len(watch.changes) == 3
    await election.wait_leader()


async def test_outage_of_the_api_server_changes_no_leader(
    site, election, private_nats, start, proxy
):
    """The record is renewed meanwhile, and what happened to the pods is taken in afterwards."""
    between = await proxy(int(site.url.rpartition(":")[2]))
    kubeconfig = site.kubeconfig_for("operator", server=between.address)
    operator = start(private_nats, kubeconfig=kubeconfig)
    await operator.start()
    leader = await election.lead()
    (other,) = {"one", "two"} - {leader}
    async with LabelWatch(election) as watch:
        await between.refuse()
        await asyncio.sleep(SHORT_TTL + 1)
        await election.set_label(other, None)
        await between.resume()
        await election.wait_labels({leader: LEADER, other: "candidate"})
        await election.patch(suspend=True)
        await election.wait_reason("Suspended")
        await watch.wait(lambda change: not change.leaders)
    assert [dict(c.leaders) for c in watch.changes][1:] == [{}]
    assert (await election.status())["transitions"] == 1


# Two replicas


async def test_two_replicas_share_the_work(site, election, private_nats, start):
    """The leader stays while either replica is killed, restarted, paused and resumed."""
    first, second = (start(private_nats, replica=name) for name in ("replica-1", "replica-2"))
    await asyncio.gather(first.start(), second.start())
    await election.lead()
    before = await election.status()
    replicas = {"replica-1": first, "replica-2": second}

    async def steward_is(name):
        await election.kube.until(
            election.path, lambda f: f["status"]["steward"]["replica"] == name, timeout=10
        )

    async with LabelWatch(election) as watch:
        steward = before["steward"]["replica"]
        (standby,) = replicas.keys() - {steward}
        await asyncio.sleep(1)
        since = site.audit.position()

        replicas[steward].kill()
        await steward_is(standby)
        await replicas[steward].start()
        await asyncio.sleep(1)

        replicas[standby].process.pause()
        await steward_is(steward)
        await asyncio.sleep(SHORT_TTL)
        replicas[standby].process.resume()
        await asyncio.sleep(1.5)

        await replicas[steward].process.stop()
        await steward_is(standby)

    assert len(watch.changes) == 1
    after = await election.status()
    assert (after["leader"], after["token"]) == (before["leader"], before["token"])
    assert [event["reason"] for event in await election.events()] == ["LeaderElected"]
    writes = site.audit.requests(
        since=since, user="operator", namespace=election.namespace, verbs=WRITES
    )
    assert {(write.resource, write.subresource) for write in writes} == {
        ("leaderelections", "status")
    }
    # One of each new steward, and two of the replica that started: its question, and the answer.
    assert len(writes) == 3 + 2


async def test_leader_that_dies_with_the_steward_is_replaced(election, private_nats, start):
    """The other replica takes the record at once, for its pod is gone, and hands it over."""
    replicas = {name: start(private_nats, replica=name) for name in ("replica-1", "replica-2")}
    await asyncio.gather(*(replica.start() for replica in replicas.values()))
    leader = await election.lead()
    steward = (await election.status())["steward"]["replica"]
    async with LabelWatch(election) as watch:
        replicas[steward].process.pause()
        await election.kube.delete(election.pod_path(leader), grace=0)
        await election.wait_leader(other_than=leader, timeout=3)
        await asyncio.sleep(SHORT_TTL)
        replicas[steward].process.resume()
        await asyncio.sleep(1)
    assert watch.most == 1
    assert len(watch.changes) == 3
    assert (await election.status())["transitions"] == 2


# An election that is gone without having been deleted in order


@pytest.mark.parametrize(
    "spec",
    (None, {}, {"key": "{namespace}.moved"}, {"label": {"key": "incumbent.dev/other"}}),
    ids=("gone", "same", "other key", "other label"),
)
async def test_election_that_was_removed_by_force_leaves_nothing_behind(
    election, private_nats, start, spec
):
    """Its finalizer is removed while the operator stands still, and it may be made anew at once."""
    operator = start(private_nats)
    await operator.start()
    await election.lead()
    operator.process.pause()
    await election.kube.patch(election.path, {"metadata": {"finalizers": None}})
    await election.kube.delete(election.path)
    if spec is not None:
        if "key" in spec:
            spec = {"key": spec["key"].format(namespace=election.namespace)}
        await election.create(**spec)
    async with LabelWatch(election) as watch:
        operator.process.resume()
        if spec is None:
            await election.wait_labels({}, timeout=10)
        else:
            await election.wait_reason("Leading", timeout=10)
        await asyncio.sleep(SHORT_TTL)
        changes = len(watch.changes)
        writes = (await operator.metrics()).get(STORED, 0)
        await asyncio.sleep(2)
        assert len(watch.changes) == changes
        assert (await operator.metrics()).get(STORED, 0) - writes < 10
    assert watch.most <= 1
    if spec is None:
        assert "status" not in await operator.election(election.namespace, election.name)
    for pod in (await election.pods()).values():
        label = election.label if not (spec and "label" in spec) else spec["label"]["key"]
        kept = {"app", label} if spec is not None else {"app"}
        assert pod["metadata"]["labels"].keys() <= kept
