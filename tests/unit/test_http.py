import asyncio
import json
import logging
import socket

import aiohttp
import pytest
import structlog

from incumbent import http
from incumbent.errors import ConfigurationError


class FakeHealth:
    """A process that waits for what a test says."""

    def __init__(self):
        self.waiting = {}

    def problems(self):
        """Return what a test put there."""
        return self.waiting


class FakeDirectory:
    """Elections that a test changes."""

    def __init__(self):
        self.version = 0
        self.looks = 0
        self.stored = {}
        self.awaited = set()
        """Names of elections that are not known yet; None: it is not known which there are."""
        self._changed = asyncio.Condition()

    async def put(self, name, **fields):
        """Add an election, or change it."""
        self.stored["shop", name] = election(name) | fields
        await self._tell()

    async def remove(self, name):
        """Delete an election."""
        del self.stored["shop", name]
        await self._tell()

    async def _tell(self):
        async with self._changed:
            self.version += 1
            self._changed.notify_all()

    def elections(self):
        """Return all elections."""
        return [self.election(*key) for key in sorted(self.stored)]

    def election(self, namespace, name):
        """Return one election; less is left of it with every look."""
        self.looks += 1
        found = self.stored.get((namespace, name))
        return found and found | {"remainingSeconds": 1000 - self.looks}

    async def history(self, namespace, name, *, limit):
        """Return a history without terms."""
        return self.election(namespace, name) and {"terms": [], "problem": None}

    def pending(self, namespace="", name=""):
        """Say what a test says."""
        if self.awaited is None:
            return True
        return name in self.awaited if name else bool(self.awaited)

    async def changed(self, since):
        """Wait for another version."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.version != since)


def election(name):
    return {
        "namespace": "shop",
        "name": name,
        "state": "leader",
        "holder": f"east/shop/{name}-0",
        "leader": {"podName": f"{name}-0"},
        "token": 4711,
        "conditions": [],
    }


@pytest.fixture
def health():
    return FakeHealth()


@pytest.fixture
async def directory():
    return FakeDirectory()


@pytest.fixture
async def server(health, directory):
    metrics = lambda: (b"up 1\n", "text/plain; version=1.0.0; charset=utf-8")  # noqa: E731
    server = await http.serve("127.0.0.1:0", health=health, metrics=metrics, directory=directory)
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


async def test_alive_whatever_else_is_not(client, health):
    """A process that waits for NATS must not be restarted for it."""
    health.waiting = {"nats": "not connected", "kubernetes": "not reached"}
    assert await text(client, "/livez") == (200, "ok\n")


async def test_not_ready_says_why(client, health):
    """Every reason is a line, and none shows a password."""
    health.waiting = {
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


@pytest.mark.parametrize(
    ("waiting", "verbose"),
    (({}, "ok\n"), ({"nats": "", "bucket": ""}, "[+]nats: ok\n[+]bucket: ok\n")),
)
async def test_ready(client, health, waiting, verbose):
    """Without a reason against it the process is ready."""
    health.waiting = waiting
    assert await text(client, "/readyz") == (200, "ok\n")
    assert await text(client, "/readyz?verbose") == (200, verbose)


async def test_metrics(client):
    """Body and content type are those of the callable."""
    async with client.get("/metrics") as response:
        assert response.status == 200
        assert await response.read() == b"up 1\n"
        assert response.headers["Content-Type"] == "text/plain; version=1.0.0; charset=utf-8"


async def test_elections(client, directory):
    """All elections are an array, one is an object; how much is left is counted at each look."""
    await directory.put("billing")
    await directory.put("alerts", leader=None)
    async with client.get("/v1/elections") as response:
        assert response.content_type == "application/json"
        assert await response.json() == [
            election("alerts") | {"leader": None, "remainingSeconds": 999},
            election("billing") | {"remainingSeconds": 998},
        ]
    async with client.get("/v1/elections/shop/billing") as response:
        assert await response.json() == election("billing") | {"remainingSeconds": 997}


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


async def test_a_stream_begins_with_what_is(client, directory):
    """Nobody has to ask before listening."""
    await directory.put("billing")
    async with stream(client) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        first = await anext(events(response))
    assert first == ("message", election("billing") | {"remainingSeconds": 998})


async def test_a_stream_goes_on_with_changes(client, directory):
    """Each change is an event with everything in it; the countdown is no change."""
    await directory.put("billing")
    async with stream(client) as response:
        events_ = events(response)
        await anext(events_)
        await directory.put("billing")
        await directory.put("other")
        await directory.put("billing", token=4712)
        kind, data = await anext(events_)
    assert (kind, data["token"]) == ("message", 4712)


async def test_a_stream_of_all_elections(client, directory):
    """It has the same array as the plain answer, after each coming and going."""
    async with stream(client, "/v1/elections") as response:
        events_ = events(response)
        assert await anext(events_) == ("message", [])
        await directory.put("billing")
        _, [billing] = await anext(events_)
        assert billing["name"] == "billing"
        await directory.remove("billing")
        assert await anext(events_) == ("message", [])


async def test_a_stream_ends_with_its_election(client, directory):
    """The last event says that the election is gone."""
    await directory.put("billing")
    async with stream(client) as response:
        events_ = events(response)
        await anext(events_)
        await directory.remove("billing")
        kind, data = await anext(events_)
        assert kind == "gone"
        assert "There is no LeaderElection shop/billing" in data["error"]
        assert [event async for event in events_] == []


async def test_a_silent_stream_is_kept_alive(client, directory, monkeypatch):
    """Comments tell proxies and readers that it is still there, also while others change."""
    monkeypatch.setattr(http, "KEEP_ALIVE", 0.05)
    await directory.put("billing")

    async def change_another():
        while True:
            await directory.put("other")
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        others = tasks.create_task(change_another())
        async with stream(client) as response:
            events_ = events(response)
            await anext(events_)
            assert await anext(events_) == ("comment", "keep-alive")
            assert await anext(events_) == ("comment", "keep-alive")
        others.cancel()


async def test_streams_end_with_the_server(client, directory, server):
    """A stream ends as it should, and does not hold the process up."""
    await directory.put("billing")
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


async def test_a_reader_that_goes_leaves_nothing_behind(client, directory):
    """A stream ends as soon as its reader is gone, not at the next change."""
    await directory.put("billing")
    before = asyncio.all_tasks()
    async with stream(client) as response:
        await anext(events(response))
        assert len(asyncio.all_tasks()) > len(before)
    await until(lambda: asyncio.all_tasks() <= before | {asyncio.current_task()})


async def test_a_slow_reader_gets_the_latest(server, directory):
    """While nobody reads, changes are not kept: the next event is the latest state."""
    padding = "x" * 100_000
    await directory.put("billing", padding=padding, number=0)
    host, _, port = server.addresses[0].partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(
            b"GET /v1/elections/shop/billing HTTP/1.1\r\nHost: a\r\n"
            b"Accept: text/event-stream\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(0)
        await until(lambda: directory.looks >= 2)
        last = 300
        for number in range(1, last + 1):
            await directory.put("billing", padding=padding, number=number)
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


async def test_it_says_where_it_listens(health, directory):
    """With port 0 nobody could know otherwise."""
    with structlog.testing.capture_logs() as lines:
        server = await http.serve("127.0.0.1:0", health=health, metrics=None, directory=directory)
        addresses = server.addresses
        await server.aclose()
    assert {"event": "http.listening", "addresses": addresses, "log_level": "info"} in lines
    [address] = addresses
    assert http.parse_address(address)[1] > 0


async def test_without_a_host_it_listens_everywhere(health, directory):
    """Probes and scrapes come from outside the pod."""
    server = await http.serve(":0", health=health, metrics=None, directory=directory)
    try:
        assert any(address.startswith("0.0.0.0:") for address in server.addresses)
    finally:
        await server.aclose()


async def test_an_address_in_use_is_a_sentence(server, health, directory):
    """A second process on the address learns why it cannot start."""
    [address] = server.addresses
    with pytest.raises(ConfigurationError) as refusal:
        await http.serve(address, health=health, metrics=None, directory=directory)
    assert str(refusal.value) == (
        f"Cannot listen at {address}: Address already in use; set another --http-address."
    )


@pytest.mark.parametrize("address", ("no-such-host.invalid:1", "192.0.2.1:1"))
async def test_an_address_of_others_is_a_sentence(health, directory, address):
    """Nor can it listen at an address that is not this machine's."""
    with pytest.raises(ConfigurationError, match=rf"^Cannot listen at {address}: [A-Z].*; set"):
        await http.serve(address, health=health, metrics=None, directory=directory)


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
    assert http.parse_address(address) == (host, port)


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
        http.parse_address(address)


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
    client, directory, accept, awaited, path
):
    """A client that took an answer 404 for a deletion would act on it."""
    await directory.put("billing")
    directory.awaited = awaited
    async with client.get(path, headers={"Accept": accept}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert "ask again" in (await answer.json())["error"]


@pytest.mark.parametrize("path", ("/v1/elections?changes", "/v1/elections/shop/billing"))
async def test_process_that_ends_says_of_no_election_that_it_is_gone(client, directory, path):
    """It serves fewer and fewer then; the stream only ends."""
    await directory.put("billing")
    async with client.get(path, headers={"Accept": "text/event-stream"}) as stream:
        found = events(stream)
        await anext(found)
        directory.awaited = None
        await directory.remove("billing")
        assert [one async for one in found] == []


async def test_what_is_known_is_told_though_others_are_not(client, directory):
    """And 404 is said of what does not exist."""
    await directory.put("billing")
    directory.awaited = {"new"}
    assert (await text(client, "/v1/elections/shop/billing"))[0] == 200
    assert (await text(client, "/v1/elections/shop/none"))[0] == 404
