"""Requests, and how they bear a server that misbehaves."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from incumbent import clock
from incumbent.errors import (
    AdmissionDenied,
    ClusterUnreachable,
    Conflict,
    NotFound,
    Overloaded,
    Unconnected,
    Unsent,
)
from incumbent.kubernetes import requests as kubernetes_requests
from incumbent.kubernetes.fairness import Limits, Rank
from incumbent.kubernetes.turns import REQUESTS, Turns
from scriptedapi import (
    SECONDS,
    connected,
    patch,
    pod,
    pod_json,
    status_response,
)

pytestmark = pytest.mark.usefixtures("no_access_from_outside")


@pytest.mark.parametrize(
    ("code", "kind"),
    ((403, AdmissionDenied), (404, NotFound), (409, Conflict), (500, ClusterUnreachable)),
)
async def test_refusals_become_our_errors(code, kind, serve):
    """The message of the API server is in the sentence."""

    async def answer(_):
        return status_response(code)

    with pytest.raises(kind, match="because"):
        await patch(await serve(answer))


async def test_too_many_requests_tells_how_long_to_wait(serve):
    """429 is an unreachable cluster that names a time."""

    async def answer(_):
        return status_response(429, **{"Retry-After": "7"})

    with pytest.raises(Overloaded) as caught:
        await patch(await serve(answer))
    assert caught.value.retry_after == 7


async def test_a_hanging_answer_ends_in_time(serve):
    """After the timeout the outcome is unknown, be it the headers or the body that hang."""

    async def hang_before(_):
        await asyncio.Event().wait()

    async def hang_within(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"metadata": ')
        await asyncio.Event().wait()

    for answer in (hang_before, hang_within):
        with pytest.raises(ClusterUnreachable, match="in time"):
            await patch(await serve(answer), timeout=0.1)


async def test_a_write_whose_connection_broke_is_not_sent_again(serve):
    """Only the caller may decide that the write is to be repeated."""
    requests = []

    async def answer(request):
        requests.append(request.method)
        if request.method == "GET":
            return web.json_response(pod_json())
        request.transport.abort()
        await asyncio.Event().wait()
        return None

    api_server = await serve(answer)
    await api_server.get_pod("shop", "a")  # opens the connection that breaks
    with pytest.raises(ClusterUnreachable, match="PATCH") as caught:
        await patch(api_server)
    assert not isinstance(caught.value, Unsent)
    with pytest.raises(ClusterUnreachable, match="PATCH"):
        await api_server.replace_status("shop", "billing", resource_version="1", status={})
    assert requests == ["GET", "PATCH", "PATCH"]


@pytest.mark.parametrize("body", ("<html>", '{"metadata": '))
async def test_an_answer_that_is_no_json_counts_as_none(body, serve):
    """A proxy that answers in place of the API server is no answer."""

    async def answer(_):
        return web.Response(text=body)

    with pytest.raises(ClusterUnreachable):
        await (await serve(answer)).get_pod("shop", "a")


@pytest.fixture
async def busy(serve):
    """Return an API server to which one request goes at a time, the first of which hangs."""
    asked, came, go_on = [], asyncio.Event(), asyncio.Event()

    async def answer(request):
        asked.append(request.method)
        came.set()
        await go_on.wait()
        return web.json_response(pod_json())

    api_server = await serve(answer)
    api_server.connection.turns = Turns(Limits(turns=1, everything=1, patience=SECONDS))
    first = asyncio.create_task(api_server.get_pod("shop", "a"))
    await came.wait()
    yield api_server, asked, go_on
    go_on.set()
    await first


async def test_a_request_whose_time_is_over_before_its_turn_is_not_sent(busy):
    """A label must not come late, and one that was not sent is not in doubt."""
    api_server, asked, _ = busy
    with pytest.raises(Unsent, match="was not sent") as caught:
        await patch(api_server, timeout=0.05)
    assert not isinstance(caught.value, Unconnected)
    assert asked == ["GET"]


WRITES = {
    "patch_pod": lambda api_server, **limits: api_server.patch_pod(
        pod(), labels={"l": "leader"}, annotations={}, **limits
    ),
    "create_slice": lambda api_server, **limits: api_server.create_slice(pod_json(), **limits),
    "patch_slice": lambda api_server, **limits: api_server.patch_slice(
        pod_json(), {"endpoints": []}, **limits
    ),
}


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_whose_time_is_over_just_before_it_is_sent_is_not_sent(
    write, serve, monkeypatch
):
    """The machine slept, or the event loop stood still, after the deadline was looked at last."""
    asked, looks, jump_after = [], [], 100
    before_it_came = 0

    async def answer(request):
        nonlocal before_it_came
        before_it_came = len(looks)
        asked.append(request.method)
        return web.json_response(pod_json())

    api_server = await serve(answer)
    await api_server.get_pod("shop", "a")  # so that there is a connection
    real = clock.now

    def now():
        looks.append(1)
        return real() + (60 if len(looks) > jump_after else 0)

    monkeypatch.setattr(clock, "now", now)
    await WRITES[write](api_server, timeout=2, within=1.5)
    sent, times = list(asked), before_it_came
    for jump_after in range(1, times):  # noqa: B007  # `now` reads it
        looks.clear()
        with pytest.raises(Unsent, match="was not sent"):
            await WRITES[write](api_server, timeout=2, within=1.5)
    assert times > 2
    assert asked == sent


async def test_a_write_that_got_no_connection_in_time_is_not_in_doubt():
    """Whoever listens there says nothing, so that TLS does not begin."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with connected(f"https://127.0.0.1:{silent.getsockname()[1]}") as api_server:
            with pytest.raises(Unsent, match="was not sent"):
                await patch(api_server, timeout=0.1)


async def test_the_wait_for_a_turn_counts_against_no_limit_of_its_own(busy):
    """Many that begin at once would all fail otherwise, and be tried again."""
    api_server, _, go_on = busy
    api_server.requests.timeout = 0.5
    waiting = asyncio.create_task(api_server.get_pod("shop", "a"))
    await asyncio.sleep(0.7)
    go_on.set()
    assert (await waiting).name == "a"


async def test_nobody_listening_is_unreachable():
    """A refused connection is an unreachable cluster, and nothing was sent."""
    async with connected("http://127.0.0.1:1") as api_server:
        with pytest.raises(Unconnected, match=r"127\.0\.0\.1:1"):
            await patch(api_server)


@pytest.mark.parametrize("since", ("", "5"))
async def test_a_list_takes_all_pages_of_one_version(since, serve):
    """Only the first page names a version; the others are of the same one by their token."""
    queries = []

    async def answer(request):
        queries.append(dict(request.query))
        if "continue" in request.query:
            return web.json_response(
                {"metadata": {"resourceVersion": "9"}, "items": [pod_json("b")]}
            )
        metadata = {"resourceVersion": "9", "continue": "a+/="}
        return web.json_response({"metadata": metadata, "items": [pod_json("a")]})

    pods = await (await serve(answer)).list_pods("shop", "l=leader,x!=y", since=since)
    assert pods == [pod("a"), pod("b")]
    first = {"limit": "200", "labelSelector": "l=leader,x!=y"}
    version = {"resourceVersion": "5", "resourceVersionMatch": "NotOlderThan"} if since else {}
    assert queries == [{**first, **version}, {**first, "continue": "a+/="}]


async def test_a_page_of_large_pods_is_asked_for_again_with_fewer_of_them(serve, monkeypatch):
    """Whoever may write large pods could otherwise take the memory, and hold up the loop."""
    monkeypatch.setattr(kubernetes_requests, "LONGEST_PAGE", 20_000)
    large = {"incumbent.dev/much": "x" * 3000}
    names = [f"p-{number}" for number in range(20)]
    limits = []

    async def answer(request):
        limit, begin = int(request.query["limit"]), int(request.query.get("continue", "0"))
        limits.append((begin, limit))
        some = names[begin : begin + limit]
        more = str(begin + limit) if begin + limit < len(names) else ""
        items = [pod_json(name, annotations=large) for name in some]
        return web.json_response(
            {"metadata": {"resourceVersion": "9", "continue": more}, "items": items}
        )

    pods = await (await serve(answer)).list_pods("shop", "")
    assert [one.name for one in pods] == names
    assert limits == [(0, 200), (0, 25), *((begin, 3) for begin in range(0, 20, 3))]


async def test_one_pod_is_never_too_large(serve, monkeypatch):
    """Otherwise a list of it would never end."""
    monkeypatch.setattr(kubernetes_requests, "LONGEST_PAGE", 10)

    async def answer(request):
        return web.json_response({"metadata": {"resourceVersion": "9"}, "items": [pod_json("a")]})

    pods = await (await serve(answer)).list_pods("shop", "")
    assert pods == [pod("a")]


async def test_requests_in_flight_are_limited(serve):
    """A thousand elections that start at once do not open a thousand connections."""
    in_flight = most = 0
    arrived = asyncio.Semaphore(0)
    go_on = asyncio.Event()

    async def answer(_):
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        arrived.release()
        await go_on.wait()
        in_flight -= 1
        return web.json_response(pod_json())

    api_server = await serve(answer)
    limit = REQUESTS.ranks[Rank.ROUTINE].most
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as requests:
        for number in range(100):
            requests.create_task(api_server.get_pod(f"shop-{number}", "a"))
        for _ in range(limit):
            await arrived.acquire()
        go_on.set()
    assert most == limit
