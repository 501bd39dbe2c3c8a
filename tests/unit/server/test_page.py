"""What the page needs of the HTTP server: files, the stream of changes, history, and notes."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import pytest

from fakedirectory import FakeProcess
from incumbent.server import http, views
from incumbent.server.mirror import NEWS_AT_A_TIME

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
async def process():
    return FakeProcess()


@pytest.fixture
async def client(process):
    server = await http.serve(
        "127.0.0.1:0",
        health=process,
        metrics=process,
        directory=process,
        notes=lambda: process.notes,
    )
    async with aiohttp.ClientSession(f"http://{server.addresses[0]}") as session:
        yield session
    await server.aclose()


async def get(client, path):
    async with client.get(path) as answer:
        return answer.status, await answer.json()


async def events(answer):
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


@pytest.mark.parametrize(
    ("path", "kind"),
    (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")),
)
async def test_page_is_three_files_that_load_nothing_from_elsewhere(client, path, kind):
    """And a policy that lets no browser do so either, nor run anything inline."""
    async with client.get(path) as answer:
        body = await answer.text()
        assert (answer.status, answer.content_type) == (200, kind)
        policy = answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert policy.startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in policy
    addresses = set(re.findall(r"https?://[^\s\"']+", body))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<[^>]+ (style|on\w+)=", body)


async def test_only_changes_are_sent_after_all_were(client, process):
    """With what is left of the leases now and then, which is no change."""
    process.put("a", "b")
    async with client.get("/v1/elections?changes", headers=EVENTS) as answer:
        stream = events(answer)
        first = await anext(stream)
        assert first["full"]
        assert [one["name"] for one in first["changed"]] == ["a", "b"]
        assert first["remaining"].keys() == {"shop/a", "shop/b"}

        process.put("b", token=7)
        second = await anext(stream)
        assert not second["full"]
        assert [one["token"] for one in second["changed"]] == [7]

        process.remove("a")
        third = await anext(stream)
        assert third["gone"] == ["shop/a"]

        process.remaining["shop", "b"] = 4.0
        pulse = await anext(stream)
        while pulse["remaining"]["shop/b"] > 4:
            pulse = await anext(stream)
        assert pulse["changed"] == pulse["gone"] == []
        await stream.aclose()


async def test_many_changes_are_told_in_small_events(client, process):
    """Each reader may hold an event of its own, so none has all elections but the first."""
    names = {f"e{number}" for number in range(3 * NEWS_AT_A_TIME)}
    process.put(*names)
    async with client.get("/v1/elections?changes", headers=EVENTS) as answer:
        stream = events(answer)
        assert len((await anext(stream))["changed"]) == len(names)
        process.put(*names, token=7)
        told = set()
        while told != names:
            changed = (await anext(stream))["changed"]
            assert len(changed) <= NEWS_AT_A_TIME
            told |= {one["name"] for one in changed if one["token"] == 7}
        await stream.aclose()


async def test_stream_of_changes_ends_with_the_server(process):
    """Its readers do not keep the process."""
    server = await http.serve("127.0.0.1:0", health=process, metrics=process, directory=process)
    async with (
        aiohttp.ClientSession(f"http://{server.addresses[0]}") as client,
        client.get("/v1/elections?changes", headers=EVENTS) as answer,
    ):
        await anext(events(answer))
        async with asyncio.timeout(5):
            await server.aclose()


async def test_history_is_served(client, process):
    """With a limit, and without passwords in what is wrong."""
    process.put("a")
    process.terms = [{"token": n} for n in range(100)]
    status, found = await get(client, "/v1/elections/shop/a/history")
    assert (status, len(found["terms"]), found["problem"]) == (200, views.TERMS, None)
    process.problem = "nats://user:hidden@a:4222 is away"
    _, found = await get(client, "/v1/elections/shop/a/history?limit=3")
    assert (len(found["terms"]), found["problem"]) == (3, "nats://***@a:4222 is away")


@pytest.mark.parametrize("limit", ("0", "-1", "ten", "10000", ""))
async def test_bad_limit_is_refused(client, process, limit):
    """With a sentence."""
    process.put("a")
    status, found = await get(client, f"/v1/elections/shop/a/history?limit={limit}")
    assert status == 400
    assert found["error"] == f"limit has to be a number from 1 to 9999, not {limit!r}."


async def test_history_of_no_election(client):
    """It is not there, which is something else than empty."""
    status, found = await get(client, "/v1/elections/shop/none/history")
    assert status == 404
    assert "There is no LeaderElection shop/none" in found["error"]


async def test_notes_are_told_and_do_not_make_it_unready(client, process):
    """Only to whoever asks for everything."""
    process.notes = {"history": "there is no stream"}
    async with client.get("/readyz?verbose") as answer:
        assert (answer.status, await answer.text()) == (200, "[!]history: there is no stream\n")
    process.notes = {"history": ""}
    text = ""
    while text != "[+]history: ok\n":  # what is known is shared by all who ask at a time
        async with client.get("/readyz?verbose") as answer:
            text = await answer.text()
    async with client.get("/readyz") as answer:
        assert await answer.text() == "ok\n"
