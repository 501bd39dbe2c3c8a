import asyncio
import json
import logging
import socket

import aiohttp
import pytest
import structlog

from fakedirectory import FakeProcess, election
from incumbent.errors import ConfigurationError
from incumbent.server import http, views
from incumbent.server.listen import parse_address


@pytest.fixture
async def process():
    return FakeProcess()


async def serve(process, address="127.0.0.1:0", **more):
    """Serve what a process knows."""
    return await http.serve(
        address,
        health=process,
        metrics=process,
        directory=process,
        notes=lambda: process.notes,
        **more,
    )


@pytest.fixture
async def server(process):
    server = await serve(process)
    yield server
    await server.aclose()


@pytest.fixture
async def client(server):
    async with aiohttp.ClientSession(f"http://{server.addresses[0]}") as client:
        yield client


async def text(client, path):
    async with client.get(path) as response:
        return response.status, await response.text()


async def events(stream):
    """Yield kind and data of each event, as a browser would, and comments as well."""
    kind = "message"
    async for line in stream.content:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        match field:
            case "event":
                kind = value
            case "data":
                yield kind, json.loads(value)
                kind = "message"
            case "" if value:
                yield "comment", value


def stream(client, path="/v1/elections/shop/billing"):
    return client.get(path, headers={"Accept": "text/event-stream"})


async def test_alive_whatever_else_is_not(client, process):
    """A process that waits for NATS must not be restarted for it."""
    process.waiting = {"nats": "not connected", "kubernetes": "not reached"}
    assert await text(client, "/livez") == (200, "ok\n")


async def test_not_ready_says_why(client, process):
    """Every reason is a line, and none shows a password."""
    process.waiting = {
        "nats": "not connected to nats://user:hidden@a:4222",
        "kubernetes": "connection refused",
        "bucket": "",
    }
    assert await text(client, "/readyz") == (
        503,
        "nats: not connected to nats://***@a:4222\nkubernetes: connection refused\n",
    )
    status, body = await text(client, "/readyz?verbose")
    assert status == 503
    assert body.splitlines() == [
        "[-]nats: not connected to nats://***@a:4222",
        "[-]kubernetes: connection refused",
        "[+]bucket: ok",
    ]


async def test_readiness_shows_no_control_characters_of_others(client, process):
    """A server's words can neither move the cursor of a terminal nor forge a line."""
    process.waiting = {"nats": "\x1b[2Jno\n[+]nats: ok"}
    for path in ("/readyz", "/readyz?verbose"):
        _, body = await text(client, path)
        assert len(body.splitlines()) == 1
        assert "\x1b" not in body


@pytest.mark.parametrize(
    ("waiting", "verbose"),
    (({}, "ok\n"), ({"nats": "", "bucket": ""}, "[+]nats: ok\n[+]bucket: ok\n")),
)
async def test_ready(client, process, waiting, verbose):
    """Without a reason against it the process is ready."""
    process.waiting = waiting
    assert await text(client, "/readyz") == (200, "ok\n")
    assert await text(client, "/readyz?verbose") == (200, verbose)


async def test_metrics(client):
    """Those of elections come first, then those of the process."""
    async with client.get("/metrics") as response:
        assert response.status == 200
        body = await response.read()
        assert body.startswith(b"# HELP incumbent_campaigns_total ")
        assert body.endswith(b"\nup 1\n")
        assert response.headers["Content-Type"] == "text/plain; version=1.0.0; charset=utf-8"


async def test_elections(client, process):
    """All elections are an array, one is an object; each says how much is left of its lease."""
    process.put("billing")
    process.put("alerts", leader=None)
    async with client.get("/v1/elections") as response:
        assert response.content_type == "application/json"
        found = await response.json()
        assert all(0 < one.pop("remainingSeconds") <= 5 for one in found)
        assert found == [election("shop", "alerts") | {"leader": None}, election("shop", "billing")]
    async with client.get("/v1/elections/shop/billing") as response:
        assert await response.json() == election("shop", "billing") | {"remainingSeconds": 5.0}


@pytest.mark.parametrize("accept", ("application/json", "text/event-stream"))
async def test_no_such_election(client, accept):
    """What is not there is not found, with a sentence, also for who would wait for it."""
    headers = {"Accept": accept}
    async with client.get("/v1/elections/shop/billing", headers=headers) as response:
        assert response.status == 404
        assert await response.json() == {
            "error": "There is no LeaderElection shop/billing, or this operator does not look"
            " after it."
        }


async def test_no_elections_yet(client):
    """A process without elections has an empty list."""
    async with client.get("/v1/elections") as response:
        assert (response.status, await response.json()) == (200, [])


async def test_a_stream_begins_with_what_is(client, process):
    """Nobody has to ask before listening."""
    process.put("billing")
    async with stream(client) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        first = await anext(events(response))
    assert first == ("message", election("shop", "billing") | {"remainingSeconds": 5.0})


async def test_a_stream_goes_on_with_changes(client, process):
    """Each change is an event with everything in it; the countdown is no change."""
    process.put("billing")
    async with stream(client) as response:
        events_ = events(response)
        await anext(events_)
        process.put("billing")
        process.put("other")
        process.put("billing", token=4712)
        kind, data = await anext(events_)
    assert (kind, data["token"]) == ("message", 4712)


async def test_a_stream_of_all_elections(client, process):
    """It has the same array as the plain answer, after each coming and going."""
    async with stream(client, "/v1/elections") as response:
        events_ = events(response)
        assert await anext(events_) == ("message", [])
        process.put("billing")
        _, [billing] = await anext(events_)
        assert billing["name"] == "billing"
        process.remove("billing")
        assert await anext(events_) == ("message", [])


async def test_a_stream_ends_with_its_election(client, process):
    """The last event says that the election is gone."""
    process.put("billing")
    async with stream(client) as response:
        events_ = events(response)
        await anext(events_)
        process.remove("billing")
        kind, data = await anext(events_)
        assert kind == "gone"
        assert "There is no LeaderElection shop/billing" in data["error"]
        assert [event async for event in events_] == []


async def test_a_silent_stream_is_kept_alive(client, process, monkeypatch):
    """Comments tell proxies and readers that it is still there, also while others change."""
    monkeypatch.setattr(views, "KEEP_ALIVE", 0.05)
    process.put("billing")

    async def change_another():
        while True:
            process.put("other")
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        others = tasks.create_task(change_another())
        async with stream(client) as response:
            events_ = events(response)
            await anext(events_)
            assert await anext(events_) == ("comment", "keep-alive")
            assert await anext(events_) == ("comment", "keep-alive")
        others.cancel()


async def test_streams_end_with_the_server(client, process, server):
    """A stream ends as it should, and does not hold the process up."""
    process.put("billing")
    async with stream(client) as one, stream(client, "/v1/elections") as all_of_them:
        both = events(one), events(all_of_them)
        for events_ in both:
            await anext(events_)
        await server.aclose()
        for events_ in both:
            assert [event async for event in events_] == []


async def until(condition):
    """Let time pass until something holds; the test's time limit is the only one."""
    while not condition():  # noqa: ASYNC110  # what it looks at has no event
        await asyncio.sleep(0.01)


async def test_a_reader_that_goes_leaves_nothing_behind(client, process):
    """A stream ends as soon as its reader is gone, not at the next change."""
    process.put("billing")
    before = asyncio.all_tasks()
    async with stream(client) as response:
        await anext(events(response))
        assert len(asyncio.all_tasks()) > len(before)
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


async def test_a_slow_reader_gets_the_latest(server, process):
    """While nobody reads, changes are not kept: the next event is the latest state."""
    padding = "x" * 100_000
    process.put("billing", padding=padding, number=0)
    host, _, port = server.addresses[0].partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(
            b"GET /v1/elections/shop/billing HTTP/1.1\r\nHost: a\r\n"
            b"Accept: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(0)
        await until(lambda: process.looks >= 2)
        last = 300
        for number in range(1, last + 1):
            process.put("billing", padding=padding, number=number)
            await asyncio.sleep(0)
        loop, received = asyncio.get_running_loop(), b""
        while b'"number": %d,' % last not in received:
            received += await loop.sock_recv(connection, 1 << 20)
    assert received.count(b"data: ") < 150


async def test_requests_are_not_logged(client, caplog):
    """Probes come every few seconds."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as ours:
        await text(client, "/livez")
        await text(client, "/nothing")
    assert ours == []
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []


async def test_it_says_where_it_listens(process):
    """With port 0 nobody could know otherwise."""
    with structlog.testing.capture_logs() as lines:
        server = await serve(process)
        addresses = server.addresses
        await server.aclose()
    assert {"event": "http.listening", "addresses": addresses, "log_level": "info"} in lines
    [address] = addresses
    assert parse_address(address)[1] > 0


async def test_without_a_host_it_listens_everywhere(process):
    """Probes and scrapes come from outside the pod."""
    server = await serve(process, ":0")
    try:
        assert any(address.startswith("0.0.0.0:") for address in server.addresses)
    finally:
        await server.aclose()


async def test_an_address_in_use_is_a_sentence(server, process):
    """A second process on the address learns why it cannot start."""
    [address] = server.addresses
    with pytest.raises(ConfigurationError) as refusal:
        await serve(process, address)
    assert str(refusal.value) == (
        f"Cannot listen at {address}: Address already in use; set another --http-address."
    )


@pytest.mark.parametrize("address", ("no-such-host.invalid:1", "192.0.2.1:1"))
async def test_an_address_of_others_is_a_sentence(process, address):
    """Nor can it listen at an address that is not this machine's."""
    with pytest.raises(ConfigurationError, match=rf"^Cannot listen at {address}: [A-Z].*; set"):
        await serve(process, address)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    (
        (":8080", "", 8080),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:80", "localhost", 80),
        ("[::1]:8080", "::1", 8080),
        (":65535", "", 65535),
    ),
)
def test_addresses(address, host, port):
    """A host may be missing, a port may not."""
    assert parse_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    (
        "", "8080", ":", "host", "host:", ":http", "::1:80", "[::1]", "[x]:1", ":65536",
        "http://a:1", "a b:1",
    ),
)  # fmt: skip
def test_what_is_no_address(address):
    """A sentence shows how an address is written."""
    with pytest.raises(ConfigurationError, match=r"is not an address; write it like :8080"):
        parse_address(address)


@pytest.mark.parametrize("accept", ("application/json", "text/event-stream"))
@pytest.mark.parametrize("awaited", (None, {"new"}))
@pytest.mark.parametrize(
    "path",
    (
        "/v1/elections",
        "/v1/elections?changes",
        "/v1/elections/shop/new",
        "/v1/elections/shop/new/history",
    ),
)
async def test_nothing_is_said_to_be_missing_before_it_is_known(
    client, process, accept, awaited, path
):
    """A client that took an answer 404 for a deletion would act on it."""
    process.put("billing")
    process.awaited = awaited
    async with client.get(path, headers={"Accept": accept}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert "ask again" in (await answer.json())["error"]


@pytest.mark.parametrize("path", ("/v1/elections?changes", "/v1/elections/shop/billing"))
async def test_process_that_ends_says_of_no_election_that_it_is_gone(client, process, path):
    """It serves fewer and fewer then; the stream only ends."""
    process.put("billing")
    async with client.get(path, headers={"Accept": "text/event-stream"}) as stream:
        found = events(stream)
        await anext(found)
        process.awaited = None
        process.remove("billing")
        assert [one async for one in found] == []


async def test_what_is_known_is_told_though_others_are_not(client, process):
    """And 404 is said of what does not exist."""
    process.put("billing")
    process.awaited = {"new"}
    assert (await text(client, "/v1/elections/shop/billing"))[0] == 200
    assert (await text(client, "/v1/elections/shop/none"))[0] == 404
