"""The reference of the HTTP interface says what a real operator answers, and all of it."""

from __future__ import annotations

import asyncio
import json
import re

import aiohttp
import pytest
from nats.js.api import StreamConfig

from docpages import DOCS
from elections import store_on, with_bucket
from waiting import PATIENCE

PAGE = (DOCS / "reference" / "http.md").read_text()
HISTORY = "HTTP_HISTORY"
TTL = 6.0
STREAM = {"Accept": "text/event-stream"}
TYPES = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in {int, float},
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "null": lambda value: value is None,
}


def fields(heading):
    """Return the types of the fields that the first table of fields below a heading has."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = section.split("| field | type | |")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", table, re.MULTILINE))


def flat(found, prefix=""):
    """Yield path and value of everything in a JSON object, down to scalars."""
    for name, value in found.items():
        path = f"{prefix}{name}"
        yield path, value
        if isinstance(value, dict) and value:
            yield from flat(value, f"{path}.")
        for one in value if isinstance(value, list) else ():
            if isinstance(one, dict):
                yield from flat(one, f"{path}[].")


def assert_as_documented(found, heading):
    """Nothing is missing in the page, nothing is too much, and the types are right."""
    documented = fields(heading)
    answered = list(flat(found))
    assert {path for path, _ in answered} == documented.keys()
    for path, value in answered:
        types = documented[path].split(" or ")
        assert any(TYPES[one](value) for one in types), (path, value, types)


@pytest.fixture
async def ask(private_nats, election, new_operator):
    """Return a coroutine function that asks an operator with a history, which has a leader."""
    async with store_on(private_nats) as store:
        await store.jetstream.add_stream(StreamConfig(name=HISTORY, subjects=[f"{HISTORY}.>"]))
    operator = new_operator(
        private_nats.url, *with_bucket(TTL), f"--history-stream={HISTORY}", replica="replica-1"
    )
    await operator.start()
    await election.lead()
    where = f"/v1/elections/{election.namespace}/{election.name}"
    async with aiohttp.ClientSession(operator.url) as session:

        async def get(path="", *, base=where, **query):
            async with session.get(f"{base}{path}", params=query) as answer:
                return answer.status, await answer.json(content_type=None)

        get.session, get.where = session, where
        yield get


async def eventually(look, holds):
    """Ask again and again until an answer is as expected, and return it."""
    async with asyncio.timeout(PATIENCE):
        while not holds(found := await look()):  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0.1)
        return found


async def events(answer):
    """Yield kind and data of each event of a stream."""
    kind = ""
    async for line in answer.content:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)
            kind = ""


async def test_fields_of_an_election(ask):
    """Alone, in the list and in a stream."""
    _, one = await eventually(ask, lambda found: found[1]["leader"])
    assert_as_documented(one, "An election")
    status, every = await ask(base="/v1/elections")
    assert (status, [found["name"] for found in every]) == (200, [one["name"]])
    assert_as_documented(every[0], "An election")
    assert 0 < one["remainingSeconds"] <= 0.9 * TTL
    async with ask.session.get(ask.where, headers=STREAM) as answer:
        kind, first = await anext(events(answer))
    assert kind == ""
    assert_as_documented(first, "An election")


async def test_fields_of_the_history(ask, election):
    """With a term that has ended, and one that lasts."""
    await election.kube.delete(election.pod_path(await election.wait_leader()))

    def complete(found):
        terms = found[1]["terms"]
        return len(terms) == 2 and all(term["led"] for term in terms)

    _, found = await eventually(lambda: ask("/history"), complete)
    assert_as_documented(found, "The history")
    assert (await ask("/history", limit="1"))[1]["terms"] == found["terms"][:1]


async def test_events_of_a_stream_of_changes(ask, election):
    """The first has everything, a later one what has changed, and what is gone."""
    documented, name = fields("Changes as they happen"), f"{election.namespace}/{election.name}"
    async with (
        asyncio.timeout(PATIENCE),
        ask.session.get("/v1/elections?changes", headers=STREAM) as answer,
    ):
        news = events(answer)
        _, first = await anext(news)
        assert first["full"] is True
        assert [one["name"] for one in first["changed"]] == [election.name]
        seen = dict(first)
        await election.kube.delete(election.path)
        async for _, later in news:
            assert later["full"] is False
            seen |= later
            if later["gone"]:
                break
    assert later["gone"] == [name]
    assert seen.keys() == documented.keys()
    assert all(TYPES[documented[field]](value) for field, value in seen.items())


async def test_stream_of_a_deleted_election_ends(ask, election):
    """With an event of its own."""
    async with (
        asyncio.timeout(PATIENCE),
        ask.session.get(ask.where, headers=STREAM) as answer,
    ):
        await election.kube.delete(election.path)
        *_, (kind, last) = [event async for event in events(answer)]
    assert (kind, last.keys()) == ("gone", {"error"})
    assert "| `gone` |" in PAGE


async def test_status_codes(ask, site, new_operator, private_nats):
    """Each that the page names."""
    assert (await ask("/history", limit="0"))[0] == 400
    assert (await ask(base="/v1/elections/shop/none"))[0] == 404
    assert (await ask(base="/v1/elections/shop/none/history"))[1].keys() == {"error"}
    away = site.kubeconfig_for("operator", server="127.0.0.1:1")
    starting = new_operator(private_nats.url, replica="starting", kubeconfig=away)
    await starting.start(ready=False)

    async def look():
        try:
            async with ask.session.get(f"{starting.url}/v1/elections") as answer:
                return answer.status, answer.headers, await answer.json()
        except aiohttp.ClientError:
            return None

    status, headers, found = await eventually(look, lambda answer: answer is not None)
    assert (status, found.keys()) == (503, {"error"})
    assert int(headers["Retry-After"]) > 0
    codes = set(re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE))
    assert codes >= {"400", "404", "503"}


async def test_paths(ask):
    """Those of the first table are there, and nothing else is answered below /v1."""
    paths = re.findall(r"^\| `(/[^`]*)` \|", PAGE, re.MULTILINE)
    for path in paths:
        place = path.replace("/v1/elections/<namespace>/<name>", ask.where)
        async with ask.session.get(place) as answer:
            assert answer.status == 200, path
    async with ask.session.get("/v1") as answer:
        assert answer.status == 404
