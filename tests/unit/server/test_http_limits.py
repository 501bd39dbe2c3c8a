"""What the HTTP server does for clients that want too much, with real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from unittest.mock import ANY

import aiohttp
import pytest

from fakedirectory import FakeProcess
from incumbent.server import http
from incumbent.server.feed import AT_A_TIME
from incumbent.server.gate import MOST_ADDRESSES, Gate, Limits
from incumbent.server.mirror import Mirror

FEW = {
    "connections": 4,
    "per_address": 4,
    "streams": 2,
    "histories": 1,
    "probes": 4,
    "heads": 50,
    "head_bytes": 2048,
    "rate": 1000.0,
    "burst": 1000,
}


@pytest.fixture
async def process():
    return FakeProcess()


@pytest.fixture
async def serve(process):
    """Return a function that starts a server with few places, and returns host and port."""
    servers = []

    async def start(**limits):
        server = await http.serve(
            "127.0.0.1:0",
            health=process,
            metrics=process,
            directory=process,
            limits=Limits(**(FEW | limits)),
        )
        servers.append(server)
        host, _, port = server.addresses[0].partition(":")
        return host, int(port)

    yield start
    for server in servers:
        await server.aclose()


@contextlib.asynccontextmanager
async def connected(address, sent=b""):
    """Connect as a client of which nobody knows what it wants, and send something."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(sent)
    try:
        yield reader
    finally:
        writer.close()


def request(path="/v1/elections", *lines, host="127.0.0.1"):
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode()


NONE = "/v1/elections/shop/none"
"""Of an election that is not there, which costs nothing."""

STREAM = request("/v1/elections?changes", "Accept: text/event-stream")


async def answered(address, sent):
    """Return the status of the answer and all of it; 0 if the connection was only closed."""
    async with connected(address, sent) as reader:
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
    return int(answer.split()[1]) if answer else 0, answer


async def closed(reader):
    """Return when the server has closed a connection."""
    with contextlib.suppress(ConnectionResetError):
        while await reader.read(1 << 16):
            pass


async def until_status(address, path, expected, *, meanwhile=lambda: None):
    """Ask until the status is as expected; the test's time limit is the only one."""
    while await status(address, path) != expected:
        meanwhile()
        await asyncio.sleep(0.01)


async def status(address, path):
    return (await answered(address, request(path)))[0]


async def test_connection_carries_one_request(serve):
    """What is sent behind it counts for nothing."""
    address = await serve()
    _, answer = await answered(address, request("/livez") + request("/metrics") * 50)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer
    assert answer.endswith(b"ok\n")


@pytest.mark.parametrize(
    ("sent", "expected"),
    (
        (b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n", 413),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 200),
        (b"DELETE /livez HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /livez HTTP/1.1\r\nX: " + b"x" * 2100 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 2100, 431),
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ),
)
async def test_no_body_no_long_head_no_nonsense(serve, caplog, sent, expected):
    """It is refused at once, and not worth a line in the log."""
    address = await serve()
    assert (await answered(address, sent))[0] == expected
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_head_that_never_ends_is_closed(serve):
    """Byte by byte, it has as much time as any other."""
    address = await serve(head_seconds=0.2)
    async with connected(address, b"GET /metrics HTTP/1.1\r\nHost: a\r\n") as reader:
        await closed(reader)


@pytest.mark.parametrize("more", ({"grace": 0}, {"most_heads": 3}))
async def test_idle_connections_make_room_for_who_asks(serve, more):
    """Of connections without a request only so many stay: the oldest go first."""
    address = await serve(heads=3, head_seconds=600, **more)
    async with contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(address)) for _ in range(50)]
        await asyncio.gather(*(closed(reader) for reader in idle[:-3]))
        assert await status(address, "/v1/elections") == 200


async def test_beyond_the_places_there_is_a_fast_refusal_and_probes_are_answered(serve, process):
    """With a time after which to ask again; a place that is given back is there for the next."""
    address = await serve(connections=2)
    async with connected(address, STREAM) as one, connected(address, STREAM) as two:
        await asyncio.gather(one.readuntil(b"\n\n"), two.readuntil(b"\n\n"))
        code, answer = await answered(address, request("/metrics"))
        assert code == 503
        assert b"Retry-After: 2\r\n" in answer
        assert b"ask again" in answer
        assert process.renders == 0
        assert await status(address, "/livez") == 200
        assert await status(address, "/readyz?verbose") == 200
    await until_status(address, "/metrics", 200)


async def test_streams_have_fewer_places(serve):
    """So that they leave some for other requests."""
    address = await serve()
    async with connected(address, STREAM) as one, connected(address, STREAM) as two:
        await asyncio.gather(one.readuntil(b"\n\n"), two.readuntil(b"\n\n"))
        code, answer = await answered(address, STREAM)
        assert (code, b"Retry-After" in answer) == (503, True)
        assert await status(address, "/v1/elections") == 200


async def test_few_long_histories_are_in_memory(serve, process):
    """More are refused while their readers are slow; short ones are not."""
    process.put("billing")
    process.terms = [{"token": number, "holder": "x" * 10_000} for number in range(1000)]
    address = await serve()
    path = "/v1/elections/shop/billing/history"
    with slow_reader(address, request(f"{path}?limit=1000")):
        await until_status(address, f"{path}?limit=999", 503)
        code, answer = await answered(address, request(f"{path}?limit=998"))
        assert (code, b"Retry-After" in answer) == (503, True)
        assert await status(address, f"{path}?limit=100") == 200
    await until_status(address, f"{path}?limit=999", 200)


async def test_one_address_does_not_take_all_places(serve):
    """Another one is still served."""
    address = await serve(per_address=1)
    async with connected(address, STREAM) as one:
        await one.readuntil(b"\n\n")
        assert await status(address, "/metrics") == 503
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://{address[0]}:{address[1]}/metrics") as answer,
        ):
            assert answer.status == 200


async def test_requests_per_second_are_limited_and_probes_are_not(serve):
    """What comes at once after a pause is a burst."""
    address = await serve(rate=0.001, burst=3)
    found = [await status(address, "/v1/elections") for _ in range(5)]
    assert found == [200, 200, 200, 503, 503]
    assert await status(address, "/livez") == 200


def test_rates_of_very_many_addresses_are_not_all_remembered():
    """A server that answers the whole internet takes no more memory for it."""
    gate = Gate(Limits(), asyncio.Protocol)
    for number in range(2 * MOST_ADDRESSES):
        assert gate.rates.take(str(number), 0.0)
    assert len(gate.rates) == MOST_ADDRESSES


@pytest.mark.parametrize("path", ("/v1/elections", "/metrics"))
async def test_reader_that_takes_too_long_is_let_go(serve, process, path, caplog):
    """A byte now and then keeps no place, and no body in memory; and leaves no line in the log."""
    process.put(*(f"e{number}" for number in range(20)), padding="x" * 1_000_000)
    process.process_text = "x" * 10_000_000
    address = await serve(stall_seconds=0.2, connections=1)
    with slow_reader(address, request(path)) as sock:
        await until_status(address, NONE, 503)  # it has the only place

        def read_a_byte():
            with contextlib.suppress(OSError):
                sock.recv(1)

        await until_status(address, NONE, 404, meanwhile=read_a_byte)
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_reader_of_a_stream_that_takes_too_long_is_let_go(serve, process):
    """The same where the answer never ends."""
    process.put(*(f"e{number}" for number in range(20)), padding="x" * 1_000_000)
    address = await serve(stall_seconds=0.2, connections=1)
    with slow_reader(address, STREAM):
        await until_status(address, NONE, 503)
        await until_status(address, NONE, 404)


@contextlib.contextmanager
def slow_reader(address, sent):
    """A client that asks and reads nothing by itself."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address)
        sock.sendall(sent)
        sock.settimeout(0)
        yield sock


async def test_whole_answer_has_a_time_limit(serve, process):
    """A reader that is just fast enough for each piece is let go at the end of it."""
    process.put(*(f"e{number}" for number in range(20)), padding="x" * 1_000_000)
    address = await serve(answer_seconds=0.3, connections=1)
    async with connected(address, request()) as reader:
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(1024):  # noqa: ASYNC110  # it reads slowly
                await asyncio.sleep(0.01)


async def test_body_is_made_once_and_shared(serve, process, monkeypatch):
    """Whoever asks at about the same time gets the same, with the same tag."""
    monkeypatch.setattr("incumbent.server.bodies.SHARED_FOR", 60.0)
    process.put(*(f"e{number}" for number in range(5)))
    address = await serve(connections=50, per_address=50)
    found = await asyncio.gather(*(answered(address, request("/metrics")) for _ in range(40)))
    assert {code for code, _ in found} == {200}
    assert await status(address, "/metrics") == 200
    assert process.renders == 1
    looks = process.looks
    found = await asyncio.gather(*(answered(address, request()) for _ in range(40)))
    tags = {answer.partition(b"ETag: ")[2].partition(b"\r\n")[0] for _, answer in found}
    assert len(tags) == 1
    assert tags != {b""}
    assert len({answer.partition(b"\r\n\r\n")[2] for _, answer in found}) == 1
    assert process.looks == looks + 5


async def test_unchanged_elections_are_not_read_again(serve, process, monkeypatch):
    """Only those that have changed are, however often all are asked for."""
    monkeypatch.setattr("incumbent.server.bodies.SHARED_FOR", 0.0)
    monkeypatch.setattr("incumbent.server.bodies.SHORTEST_PAUSE", 0.0)
    process.put(*(f"e{number}" for number in range(100)))
    address = await serve()
    assert await status(address, "/v1/elections") == 200
    looks = process.looks
    for _ in range(3):
        process.put("e7", token=process.version)
        news = f'"token": {process.version - 1}'.encode()
        while news not in (await answered(address, request()))[1]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert process.looks == looks + 3


async def test_nothing_is_read_at_rest(serve, process):
    """Without a client there is no question to the process that renews."""
    address = await serve()
    async with connected(address, STREAM) as reader:
        await reader.readuntil(b"\n\n")
    await asyncio.sleep(0.3)
    looks = process.looks
    for number in range(20):
        process.put("billing", token=number)
        await asyncio.sleep(0.02)
    assert (process.looks, process.renders) == (looks, 0)


async def test_elections_are_read_in_small_steps(serve, process, monkeypatch):
    """The event loop that renews runs between any two of them."""
    process.put(*(f"e{number}" for number in range(10 * AT_A_TIME)))
    most, since = 0, 0

    async def renew():
        nonlocal most, since
        while True:
            most, since = max(most, process.looks - since), process.looks
            await asyncio.sleep(0)

    address = await serve()
    renewing = asyncio.create_task(renew())
    assert await status(address, "/v1/elections") == 200
    renewing.cancel()
    assert process.looks == 10 * AT_A_TIME
    assert most <= AT_A_TIME


async def test_compressed_for_who_asks(serve, process):
    """Made once, and the same content."""
    process.put("billing", padding="x" * 100_000)
    address = await serve()
    url = f"http://{address[0]}:{address[1]}/v1/elections"
    async with aiohttp.ClientSession() as session:
        async with session.get(url, headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert answer.headers["Vary"] == "Accept-Encoding"
            assert int(answer.headers["Content-Length"]) < 10_000
            assert (await answer.json())[0]["padding"] == "x" * 100_000
        tag = answer.headers["ETag"]
        async with session.get(url, headers={"If-None-Match": tag}) as answer:
            assert (answer.status, await answer.read()) == (304, b"")


async def test_loop_that_stands_still_is_not_alive(serve, process, monkeypatch):
    """And is alive again as soon as it answers."""
    monkeypatch.setattr("incumbent.server.mirror.PATIENCE", 0.2)
    address = await serve()
    stopped = asyncio.Event()

    async def stand_still(self):
        await stopped.wait()
        yield '{"problems": {}, "notes": {}}'

    monkeypatch.setattr("incumbent.server.feed.Feed._tell_health", stand_still)
    server_address = await serve()
    assert await status(address, "/livez") == 200
    code, answer = await answered(server_address, request("/livez"))
    assert (code, b"stood still" in answer) == (503, True)
    assert await status(server_address, "/readyz") == 503
    stopped.set()
    await until_status(server_address, "/livez", 200)


async def test_pause_of_the_machine_is_no_false_alarm(process, monkeypatch):
    """The process that renews is asked once more before it is denied."""
    monkeypatch.setattr("incumbent.server.mirror.PATIENCE", 0.1)
    now = 100.0
    monkeypatch.setattr("incumbent.server.mirror.clock.now", lambda: now)
    asked = []

    class Link:
        async def ask_one(self, kind, **_):
            nonlocal now
            asked.append(kind)
            now += 60  # the machine stood still
            await asyncio.sleep(0.15)
            return {"problems": {}, "notes": {}}

    assert await Mirror(Link()).health() == {"problems": {}, "notes": {}}
    assert asked == ["health"]


@pytest.mark.parametrize(
    ("host", "expected"),
    (
        ("10.244.0.7:8080", 200),
        ("[fd00::7]:8080", 200),
        ("localhost:8080", 200),
        ("incumbent:8080", 200),
        ("incumbent.incumbent.svc:8080", 200),
        ("incumbent.incumbent.svc.cluster.local", 200),
        ("incumbent.incumbent", 421),
        ("evil.example:8080", 421),
        ("10.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("svc.cluster.local.evil.example", 421),
        ("", 421),
    ),
)
@pytest.mark.parametrize("path", ("/livez", "/v1/elections", "/", "/metrics"))
async def test_names_that_a_page_elsewhere_could_have_are_not_answered_to(
    serve, path, host, expected
):
    """A browser that was led here by such a name gets nothing to read, but a sentence."""
    address = await serve()
    code, answer = await answered(address, request(path, host=host))
    assert code == expected
    assert (b"--http-host" in answer) == (expected == 421)
    assert b"Access-Control" not in answer


async def test_health_check_without_a_host_is_answered(serve):
    """Load balancers send such requests; a browser always says what it was asked for."""
    address = await serve()
    assert await answered(address, b"GET /livez HTTP/1.0\r\n\r\n") == (200, ANY)


async def test_program_behind_an_api_server_is_answered_whatever_the_name(serve):
    """No script in a page can send such a header."""
    address = await serve()
    sent = request("/v1/elections", "Sec-Incumbent-Client: kubectl", host="k8s.example.com")
    assert (await answered(address, sent))[0] == 200


async def test_names_that_were_allowed(process):
    """One by one, or all below a domain."""
    server = await http.serve(
        "127.0.0.1:0",
        health=process,
        metrics=process,
        directory=process,
        hosts=["incumbent.example.com", "*.example.org"],
    )
    host, _, port = server.addresses[0].partition(":")
    address = host, int(port)
    names = {"Incumbent.Example.com": 200, "a.b.example.org": 200, "example.org": 421, "b.com": 421}
    try:
        for name, expected in names.items():
            assert (await answered(address, request(host=name)))[0] == expected
    finally:
        await server.aclose()
