"""The history of an election on a real control plane, with two replicas and a real nats-server."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from datetime import datetime

import aiohttp
import pytest
from nats.js.api import StreamConfig

from elections import store_on, with_bucket

STREAM = "INCUMBENT_HISTORY"
TTL = 8.0
"""So long does a marker last, too: replicas that start meanwhile still see why a term ended."""
FLAGS = (f"--history-stream={STREAM}", *with_bucket(TTL))


async def history(operator, election, **query):
    """Return what an operator serves of an election's history."""
    url = f"{operator.url}/v1/elections/{election.namespace}/{election.name}/history"
    async with aiohttp.ClientSession() as session, session.get(url, params=query) as answer:
        return await answer.json()


async def until_causes(operator, election, expected, *, timeout=20):
    """Wait until the causes are as expected, the newest first, and return the terms."""
    deadline = time.monotonic() + timeout
    while True:
        # One that has just started may not know the election yet.
        terms = (await history(operator, election)).get("terms")
        if terms is not None and [term["cause"] for term in terms] == expected:
            return terms
        shown = [(term["token"], term["how"], term["cause"]) for term in terms or ()]
        assert time.monotonic() < deadline, shown
        await asyncio.sleep(0.1)


async def entries(store, election):
    """Return all entries of an election, as they are in the stream."""
    info = await store.jetstream.stream_info(STREAM)
    found = []
    for sequence in range(max(1, info.state.first_seq), info.state.last_seq + 1):
        message = await store.jetstream.get_msg(STREAM, sequence)
        assert message.subject.startswith(f"{STREAM}.")
        if message.subject.endswith(f".{election.key}"):
            found.append(json.loads(message.data))
    return found


async def make_stream(store):
    """Make the stream as docs/history.md says."""
    await store.jetstream.add_stream(
        StreamConfig(name=STREAM, subjects=[f"{STREAM}.>"], max_msgs_per_subject=200)
    )


@pytest.mark.timeout(150)
async def test_terms_survive_restarts_and_are_written_once(private_nats, election, new_operator):
    """Whatever ends a term, and whichever replica is left: one entry, and the same at both."""
    one = new_operator(private_nats.url, *FLAGS, replica="replica-1")
    two = new_operator(private_nats.url, *FLAGS, replica="replica-2")
    async with store_on(private_nats) as store:
        await make_stream(store)
        await asyncio.gather(one.start(), two.start())
        first = await election.lead("one", "two", "three")
        await until_causes(one, election, [None])

        await election.kube.delete(election.pod_path(first))  # a hand-over
        second = await election.wait_leader(other_than=first)
        await until_causes(two, election, [None, "handed over"])

        await store.put(election.key, "", **{"KV-Operation": "DEL"})  # an eviction
        await until_causes(one, election, [None, "evicted", "handed over"])
        third = await election.wait_leader(other_than=second)

        for operator in (one, two):
            operator.kill()
        await store.until(election.key, lambda message: not message or not message.value)
        await asyncio.gather(one.start(), two.start())
        causes = [None, "expired", "evicted", "handed over"]
        await asyncio.gather(*(until_causes(replica, election, causes) for replica in (one, two)))
        # Who held the record that expired is not known after the restart, so the label waits.
        await election.wait_leader()
        await asyncio.sleep(5)  # whoever did not write has looked by now
        terms, others = [(await history(replica, election))["terms"] for replica in (one, two)]
        assert terms == others

        holders = [term["holder"].rpartition("-")[2] for term in terms[::-1]]
        assert holders[:3] == [first, second, third]
        assert [term["how"] for term in terms[::-1]] == [
            *("Elected", "HandedOver", "Elected", "Elected"),
        ]
        assert all(older["to"] <= newer["from"] for newer, older in itertools.pairwise(terms))
        view = await one.election(election.namespace, election.name)
        assert terms[0]["token"] == view["token"]

        stored = await entries(store, election)
        began = [entry["token"] for entry in stored if entry["kind"] == "began"]
        ended = [entry["token"] for entry in stored if entry["kind"] == "ended"]
        assert began == [term["token"] for term in terms[::-1]]
        assert len(ended) == len(set(ended)) == 2
        labels = [(e["token"], e["kind"]) for e in stored if e["kind"].endswith("labelled")]
        assert len(labels) == len(set(labels))
        assert [len(term["led"]) for term in terms] == [1] * 4
        for newer, older in itertools.pairwise(terms):
            assert older["led"][0]["to"] <= newer["led"][0]["from"]
        assert (await history(one, election, limit=1))["terms"] == terms[:1]


@pytest.mark.timeout(120)
async def test_outage_of_nats_shows_as_a_time_without_a_leader(
    private_nats, election, new_operator
):
    """The record is there until NATS is back; the label was gone at the deadline."""
    operator = new_operator(private_nats.url, *FLAGS)
    async with store_on(private_nats) as store:
        await make_stream(store)
        await operator.start()
        leader = await election.lead("one", "two")
        await until_causes(operator, election, [None])
        await private_nats.stop()
        began = time.time()
        await election.wait_reason("BucketUnreachable", timeout=3 * TTL)
        stripped = time.time()
        await asyncio.sleep(TTL)
        await private_nats.restart()
        await election.wait_leader(timeout=60)
    deadline = time.monotonic() + 20
    while True:
        leads = [
            (term["holder"].rpartition("-")[2], lead)
            for term in (await history(operator, election))["terms"][::-1]
            for lead in term["led"] or ()
        ]
        if len(leads) > 1:
            break
        assert time.monotonic() < deadline, leads
        await asyncio.sleep(0.1)
    (holder, first), (_, second) = leads[0], leads[1]
    assert holder == leader
    ended, resumed = (
        datetime.fromisoformat(shown).timestamp() for shown in (first["to"], second["from"])
    )
    assert began < ended < stripped + 1
    assert resumed - ended >= TTL


async def test_term_is_written_although_its_steward_died_at_once(
    private_nats, election, new_operator
):
    """The other replica has seen the record."""
    one = new_operator(private_nats.url, *FLAGS, replica="replica-1")
    two = new_operator(private_nats.url, *FLAGS, replica="replica-2")
    async with store_on(private_nats) as store:
        await one.start()
        leader = await election.lead()  # no stream yet, so nothing is written
        await two.start()
        await two.wait_said("bucket.watched")
        one.kill()
        await make_stream(store)
        await until_causes(two, election, [None])
        await election.wait_leader()
        deadline = time.monotonic() + 40
        while len(found := await entries(store, election)) < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    assert [entry["kind"] for entry in found] == ["began", "labelled"]
    assert found[0]["holder"].endswith(f"-{leader}")
    assert found[0]["writer"].startswith("replica-2/")


async def test_without_the_stream_elections_go_on_and_it_is_said(
    private_nats, election, new_operator
):
    """In one sentence: in the log once, on /readyz?verbose, and with the history."""
    operator = new_operator(private_nats.url, *FLAGS)
    await operator.start()
    await election.lead()
    await operator.wait_said("history.unavailable")
    sentence = f"there is no stream {STREAM}: make it as docs/history.md says"
    await operator.wait_ready_line(f"[!]history: {sentence}")
    (term,) = await until_causes(operator, election, [None])  # what was seen is told all the same
    assert (await history(operator, election))["problem"] == sentence
    for shown in (term["from"], term["led"][0]["from"]):
        assert abs(datetime.fromisoformat(shown).timestamp() - time.time()) < 60
    assert len(operator.lines("history.unavailable")) == 1
