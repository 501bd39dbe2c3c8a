"""What kopf asks of its session: requests as ours, and watches that do not stay blind."""

from __future__ import annotations

import asyncio
import contextlib
import json

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from incumbent.errors import ClusterUnreachable
from incumbent.kubernetes import session as kubernetes_session
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.fairness import Limits, Rank
from incumbent.kubernetes.session import ListAgain, Session
from incumbent.kubernetes.turns import Turns

pytestmark = pytest.mark.usefixtures("no_access_from_outside")

PATH = "/apis/incumbent.dev/v1alpha1/leaderelections"
WATCH = f"{PATH}?watch=true&allowWatchBookmarks=true&resourceVersion=7&timeoutSeconds=300"
LIMITS = aiohttp.ClientTimeout(total=5)


class Server:
    """An API server that keeps watches open until it is told to end them."""

    def __init__(self):
        self.asked = []
        self.end = asyncio.Event()
        self.status = 200
        self.headers = {}

    async def __call__(self, request):
        """Answer a request."""
        self.asked.append(request)
        if self.status != 200:
            about = {"status": self.status, "headers": self.headers}
            return web.json_response({"kind": "Status"}, **about)
        if "watch" not in request.query:
            return web.json_response({"items": []})
        response = web.StreamResponse()
        await response.prepare(request)
        await self.end.wait()
        return response


@pytest.fixture
async def server():
    return Server()


@pytest.fixture
async def interruptions():
    """Of which watches it was asked what there is; the answer is the last entry of `.answers`."""

    class Interruptions(list):
        answers = (True,)

        async def __call__(self, path, version):
            self.append((path, version))
            answer = self.answers[min(len(self), len(self.answers)) - 1]
            if isinstance(answer, Exception):
                raise answer
            return answer

    return Interruptions()


@pytest.fixture
async def session(server, interruptions, monkeypatch):
    """A session before the server; there are no pauses."""
    monkeypatch.setattr(kubernetes_session, "pause_before", lambda _: 0)
    runner = web.ServerRunner(web.Server(server, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    connection = Connection(Configuration(host=url, api_key={"BearerToken": "Bearer t1"}))
    yield Session(connection, interrupted=interruptions)
    await connection.aclose()
    await runner.cleanup()


async def ask(session, url, method="get", **options):
    return await session.request(method=method, url=url, timeout=LIMITS, **options)


async def read(response):
    """Read an answer to its end, as kopf does."""
    async with response:
        return b"".join([chunk async for chunk in response.content.iter_chunked(1024)])


async def test_requests_are_those_of_the_connection(session, server):
    """With its token, kopf's own headers, and the body as JSON."""
    session.headers["User-Agent"] = "kopf"
    kind = "application/merge-patch+json"
    patched = await ask(
        session, f"{PATH}/x?a=b%20c", "patch", json={"a": 1}, headers={"Content-Type": kind}
    )
    assert await patched.json() == {"items": []}
    [request] = server.asked
    assert request.method == "PATCH"
    assert request.query == {"a": "b c"}
    assert request.headers["User-Agent"] == "kopf"
    assert request.headers["Content-Type"] == kind
    assert request.headers["Authorization"] == "Bearer t1"


async def test_slow_patches_of_pods_keep_no_finalizer_waiting(session, server):
    """Until it is answered, kopf hears nothing more of that election."""
    limits = Limits(turns=4, everything=8, patience=0.0, spare=4)
    turns = session._connection.turns = Turns(limits)
    path = "/apis/incumbent.dev/v1alpha1/namespaces/shop/leaderelections/a"
    async with contextlib.AsyncExitStack() as slow, asyncio.timeout(5):
        for _ in range(2):
            await slow.enter_async_context(turns.turn(Rank.ROUTINE, namespace="shop"))
        other = asyncio.create_task(ask(session, path))
        await ask(session, path, method="patch")
        assert not other.done()
    await other
    assert [one.method for one in server.asked] == ["PATCH", "GET"]


async def test_a_request_takes_a_turn_and_a_watch_takes_none(session, server):
    """Watches go on for minutes. The turn of a list is over when all of it is there."""
    turns = session._connection.turns = Turns(Limits(turns=1, everything=1, patience=60))
    async with turns.turn(namespace="other"):
        waiting = asyncio.create_task(ask(session, PATH))
        await asyncio.sleep(0)
        assert turns.waiting() == 1
        assert server.asked == []
    response = await waiting
    assert turns.under_way() == 0
    assert await response.json() == {"items": []}
    async with turns.turn(namespace="other"):
        watch = await ask(session, WATCH)
    assert (turns.waiting(), turns.under_way()) == (0, 0)
    watch.close()


async def test_what_the_api_server_asks_of_kopf_counts_for_the_namespace(session, server):
    """Nobody else asks there before the time is over either."""
    turns = session._connection.turns
    held = []
    turns.hold = lambda namespace, seconds: held.append((namespace, seconds))
    server.status, server.headers = 429, {"Retry-After": "7"}
    path = "/apis/incumbent.dev/v1alpha1/namespaces/shop/leaderelections/billing"
    assert (await ask(session, path, "patch", json={})).status == 429
    assert held == [("shop", 7.0)]


async def test_a_watch_after_a_list_is_opened(session, server, interruptions):
    """As kopf asks for it."""
    await read(await ask(session, PATH))
    response = await ask(session, WATCH)
    assert server.asked[-1].query["resourceVersion"] == "7"
    response.close()
    assert interruptions == []


async def test_a_watch_that_ended_early_is_not_resumed(session, server, interruptions):
    """What there is is found out first; then kopf is told to list, once."""
    await read(await ask(session, PATH))
    watch = await ask(session, WATCH)
    server.end.set()
    assert await read(watch) == b""
    again = await ask(session, WATCH)
    assert interruptions == [(PATH, "7")]
    event = json.loads(await read(again))
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    await read(await ask(session, PATH))
    assert not isinstance(await ask(session, WATCH), ListAgain)
    assert len(interruptions) == 1


async def test_kopf_need_not_list_what_has_not_changed(session, server, interruptions):
    """Ten thousand elections would be handled again, each for nothing."""
    interruptions.answers = (False,)
    await read(await ask(session, PATH))
    server.end.set()
    await read(await ask(session, WATCH))
    assert not isinstance(await ask(session, WATCH), ListAgain)
    assert len(interruptions) == 1


async def test_a_watch_whose_time_is_over_goes_on(session, server, interruptions):
    """There is no request at rest but the watch itself."""
    url = WATCH.replace("300", "0")
    await read(await ask(session, PATH))
    server.end.set()
    for _ in range(3):
        response = await ask(session, url)
        assert not isinstance(response, ListAgain)
        await read(response)
    assert interruptions == []


async def test_other_paths_are_other_watches(session, server, interruptions):
    """The list of one does not vouch for another."""
    await read(await ask(session, PATH))
    await ask(session, WATCH.replace("leaderelections", "others"))
    assert [path for path, _ in interruptions] == [PATH.replace("leaderelections", "others")]


@pytest.mark.parametrize("status", (403, 429, 500, 504))
async def test_a_watch_that_is_refused_is_an_interruption(session, server, interruptions, status):
    """It is told, and tries again with the version that it has."""
    interruptions.answers = (False,)
    await read(await ask(session, PATH))
    server.status = status
    assert (await ask(session, WATCH)).status == status
    await ask(session, WATCH)
    assert len(interruptions) == 1


async def test_a_version_that_is_too_old_is_listed_again(session, server, interruptions):
    """As an event: by the status alone kopf would end."""
    await read(await ask(session, PATH))
    server.status = 410
    assert isinstance(await ask(session, WATCH), ListAgain)


@pytest.mark.parametrize("kind", ("credentials", "closed", "list"))
async def test_whatever_fails_is_tried_again_by_kopf(session, server, interruptions, kind):
    """As a connection that failed: anything else would end kopf."""
    if kind == "credentials":
        server.status = 401
    elif kind == "closed":
        await session._connection.aclose()
    else:
        interruptions.answers = (ClusterUnreachable("no list"),)
    with pytest.raises(aiohttp.ClientConnectionError):
        await ask(session, WATCH if kind == "list" else PATH)


async def test_a_watch_that_does_not_end_is_taken_for_dead(session, interruptions, monkeypatch):
    """By itself, kopf would wait for ever. It may be silent for as long as it is to last."""
    monkeypatch.setattr(kubernetes_session, "LATE", 0.1)
    monkeypatch.setattr(kubernetes_session, "SLACK", 0)
    await read(await ask(session, PATH))
    began = asyncio.get_running_loop().time()
    with pytest.raises(aiohttp.ClientConnectionError):
        await read(await ask(session, WATCH.replace("300", "1")))
    assert asyncio.get_running_loop().time() - began > 1
    assert isinstance(await ask(session, WATCH), ListAgain)
    assert len(interruptions) == 1


async def test_interruptions_in_a_row_are_followed_by_pauses(session, server, monkeypatch):
    """An API server whose watches never last is not flooded by lists."""
    pauses = []
    monkeypatch.setattr(
        kubernetes_session, "pause_before", lambda failures: pauses.append(failures) or 0
    )
    server.end.set()
    for _ in range(4):
        await read(await ask(session, PATH))
        await read(await ask(session, WATCH))
        await read(await ask(session, WATCH))
    assert pauses == [2, 3, 4]


async def test_closing_it_leaves_the_connection_open(session):
    """It is not kopf's."""
    await session.close()
    assert session.closed
    assert (await ask(session, PATH)).ok
