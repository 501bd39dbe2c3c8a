"""What elections of one namespace can reach of others: their locks, and the operator's time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

import aiohttp
import nats
import pytest
import yaml

from controlplane.kube import ApiError
from elections import Election, LabelWatch, store_on, with_bucket

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
TTL = 6
SECRET = "sess=9f8e7d6c-SECRET"
NOT_ALLOWED = "LockNotAllowed"
EVERYTHING = "--allow-lock=*/*/*"


@contextlib.asynccontextmanager
async def sessions_on(server):
    """A bucket of an application, with a secret; it must be as it was at the end."""
    client = await nats.connect(server.url)
    try:
        bucket = await client.jetstream().create_key_value(bucket="SESSIONS", ttl=900)
        await bucket.put("user.42", SECRET.encode())
        yield bucket
        state = (await client.jetstream().stream_info("KV_SESSIONS")).state
        assert (state.last_seq, state.consumer_count) == (1, 0)
    finally:
        await client.close()


async def everything_served(operator, elections):
    """Return the text of all that an operator serves about elections."""
    paths = ["/metrics", "/v1/elections", "/readyz?verbose"]
    for one in elections:
        path = f"/v1/elections/{one.namespace}/{one.name}"
        paths += [path, f"{path}/history"]
    async with aiohttp.ClientSession() as session:
        texts = []
        for path in paths:
            async with session.get(operator.url + path) as answer:
                texts.append(await answer.text())
    return "\n".join(texts)


@pytest.mark.timeout(120)
async def test_election_neither_reads_nor_takes_the_locks_of_others(
    private_nats, election, new_operator
):
    """Whatever its mode, bucket and key are; and the refusal is said wherever somebody looks."""
    operator = new_operator(private_nats.url, *with_bucket(TTL))
    peek, grab, scribble = (
        Election(election.kube, election.namespace, name) for name in ("peek", "grab", "scribble")
    )
    asked = {
        peek: {"mode": "Observed", "bucket": "SESSIONS", "key": "user.42"},
        grab: {"key": "payments.ledger"},
        scribble: {"bucket": "SESSIONS", "key": f"{election.namespace}.scribble"},
    }
    async with sessions_on(private_nats), store_on(private_nats) as store:
        await operator.start()
        for one, spec in asked.items():
            await one.add_pods("one")
            await one.create(**spec)
        await election.lead()
        for one in asked:
            condition = await one.wait_reason(NOT_ALLOWED)
            assert condition["status"] == "False"
            assert "--allow-lock" in condition["message"]
            stalled = await one.wait_reason(NOT_ALLOWED, kind="Stalled")
            assert stalled["status"] == "True"
            event = await one.wait_event(NOT_ALLOWED)
            assert (event["type"], event["note"]) == ("Warning", condition["message"])
            await operator.wait_said(json.dumps(condition["message"])[1:-1])
            assert "holder" not in await one.status()
            assert not await one.labels()
        await asyncio.sleep(TTL)
        assert await store.latest("payments.ledger") is None
        served = await everything_served(operator, asked)
        assert SECRET not in served
        assert served.count(f'reason="{NOT_ALLOWED}"') == 2 * len(asked)
        assert SECRET not in operator.log
        for one in asked:
            await one.delete()
            await one.wait_gone()


@pytest.mark.timeout(180)
async def test_rule_that_is_taken_back_strips_in_time_and_never_leaves_two_leaders(
    private_nats, election, new_operator
):
    """In a rolling update one replica allows what the other one refuses; the dispute is bounded."""
    before = new_operator(private_nats.url, *with_bucket(TTL), EVERYTHING, replica="before")
    after = new_operator(private_nats.url, *with_bucket(TTL), replica="after")
    await before.start()
    await election.lead(key="global.web")
    async with LabelWatch(election) as watch:
        await after.start()
        await election.wait_event(NOT_ALLOWED)
        await asyncio.sleep(10)
        changes = len(watch.changes)
        await asyncio.sleep(15)
        assert len(watch.changes) - changes <= 12
        await before.process.stop()
        await election.wait_reason(NOT_ALLOWED, timeout=40)
        await asyncio.sleep(TTL)
        assert watch.changes[-1].leaders == {}
        assert watch.most == 1
        status = await election.status()
        assert not {"holder", "leader", "token", "steward"} & status.keys()
        async with store_on(private_nats) as store:
            latest = await store.latest("global.web")
            assert latest is None or not latest.value, "the record has expired"
        allowed = new_operator(private_nats.url, *with_bucket(TTL), EVERYTHING, replica="allowed")
        await after.process.stop()
        await allowed.start()
        await election.wait_leader(timeout=30)
    assert watch.most == 1


@pytest.mark.timeout(120)
async def test_operator_that_refuses_a_lock_strips_and_lets_go_without_touching_the_record(
    private_nats, election, new_operator
):
    """It was allowed before a restart: the label goes, and the deletion is not held up."""
    operator = new_operator(private_nats.url, *with_bucket(TTL), EVERYTHING)
    await operator.start()
    await election.lead(key="global.web")
    operator.kill()
    strict = new_operator(private_nats.url, *with_bucket(TTL), replica="strict")
    await strict.start()
    async with store_on(private_nats) as store:
        seen = await store.latest("global.web")
        await election.wait_reason(NOT_ALLOWED)
        await election.wait_labels({"one": "candidate", "two": "candidate"})
        later = await store.latest("global.web")
        assert later is None or later.revision == seen.revision or not later.value
    await election.delete()
    await election.wait_gone(timeout=10)
    assert not await election.labels()


@pytest.mark.timeout(120)
async def test_elections_beyond_the_quota_say_so_and_begin_when_one_is_deleted(
    private_nats, election, new_operator
):
    """Which ones are beyond does not change with a restart."""
    flags = (*with_bucket(TTL), "--max-elections-per-namespace=2")
    operator = new_operator(private_nats.url, *flags)
    await operator.start()
    many = [Election(election.kube, election.namespace, name) for name in ("d", "c", "b", "a")]
    for one in many:
        await one.add_pods("one")
        await one.create()
        await asyncio.sleep(1)  # the age has seconds
    for served in many[:2]:
        await served.wait_leader()
    for beyond in many[2:]:
        condition = await beyond.wait_reason("QuotaExceeded")
        assert "more than 2 elections" in condition["message"]
    async with contextlib.AsyncExitStack() as stack:
        watches = [await stack.enter_async_context(LabelWatch(one)) for one in many]
        await operator.restart()
        await asyncio.sleep(TTL)
        assert [len(watch.changes) for watch in watches] == [1, 1, 1, 1]
        await many[0].delete()
        await many[0].wait_gone()
        await many[2].wait_leader()
        await many[3].wait_reason("QuotaExceeded")
        assert len(watches[3].changes) == 1


@pytest.mark.timeout(180)
async def test_resource_quota_limits_elections(kube, namespace):
    """The one of docs/operations.md, with a smaller number."""
    text = OPERATIONS.read_text()
    block = text[text.index("kind: ResourceQuota") - len("apiVersion: v1\n") :].partition("```")[0]
    quota = yaml.safe_load(block)
    quota["spec"]["hard"] = dict.fromkeys(quota["spec"]["hard"], "1")
    await counted(kube, namespace, quota)
    await accepted(Election(kube, namespace, "first"))
    with pytest.raises(ApiError, match="exceeded quota"):
        await Election(kube, namespace, "second").create()


async def counted(kube, namespace, quota):
    """Create a quota that Kubernetes keeps.

    It looks for new kinds each half a minute. A quota for one that it does not know yet is looked
    at again after 5 minutes, so here it is made anew.
    """
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    made = f"{path}/{quota['metadata']['name']}"
    async with asyncio.timeout(120):
        while True:
            await kube.create(path, quota)
            with contextlib.suppress(TimeoutError):
                await kube.until(made, lambda found: "used" in found.get("status", {}), timeout=5)
                return
            await kube.delete(made)


async def accepted(election):
    """Create an election; what the API server knows of a quota may be a moment old."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await election.create()
            except ApiError as error:
                if "status unknown for quota" not in str(error):
                    raise
            await asyncio.sleep(0.1)
