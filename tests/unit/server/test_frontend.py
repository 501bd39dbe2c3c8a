"""The process that serves HTTP, with the real one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import aiohttp
import pytest
import structlog

from fakedirectory import FakeProcess
from incumbent.server.feed import Feed
from incumbent.server.frontend import OOM_SCORE, Frontend
from incumbent.server.listen import addresses_of, bind


@pytest.fixture
async def process():
    return FakeProcess()


@pytest.fixture
async def start(process):
    """Return a function that starts a server process at each of these parts."""
    started = []

    async def start(*parts):
        sockets = {part: await bind("127.0.0.1:0") for part in ("http", *parts)}
        addresses = {part: addresses_of(some)[0] for part, some in sockets.items()}
        feed = Feed(process, process, process, lambda: process.notes)
        frontend = Frontend(sockets, feed, hosts=["a.example.com"], log_level="error")
        frontend.start()
        started.append(frontend)
        return frontend, addresses

    yield start
    for frontend in started:
        await frontend.aclose()


async def get(address, path, **headers):
    """Return status and text of an answer, for which the process has time to start."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}{path}", headers=headers) as answer,
    ):
        return answer.status, await answer.text()


def children():
    """Return the process ids of the servers that this process has started."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid() and b"incumbent.server.frontend" in command:
            found.append(int(folder.name))
    return found


def memory(process, what):
    """Return kB of memory of a process: `VmRSS` now, `VmHWM` at most."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0])


def oom_score(process):
    """Return what the system adds to the chance of a process when memory is short."""
    return int(Path(f"/proc/{process}/oom_score_adj").read_text())


async def test_serves_what_this_process_knows(start, process):
    """Elections, metrics, health and page, under the names that were allowed."""
    process.put("billing")
    process.waiting = {"nats": "not connected"}
    _, addresses = await start()
    where = addresses["http"]
    assert await get(where, "/livez") == (200, "ok\n")
    assert await get(where, "/readyz") == (503, "nats: not connected\n")
    assert (await get(where, "/metrics"))[1].endswith("\nup 1\n")
    assert '"billing"' in (await get(where, "/v1/elections", Host="a.example.com"))[1]
    assert (await get(where, "/v1/elections", Host="b.example.com"))[0] == 421
    assert "<html" in (await get(where, "/"))[1]


async def test_parts_have_ports_of_their_own(start):
    """Each serves its part and nothing else; everything is served with everything, too."""
    _, addresses = await start("metrics", "probes")
    expected = {
        "http": {"/livez": 200, "/readyz": 200, "/metrics": 200, "/v1/elections": 200, "/": 200},
        "metrics": {"/livez": 404, "/metrics": 200, "/v1/elections": 404, "/": 404},
        "probes": {"/livez": 200, "/readyz": 200, "/metrics": 404, "/v1/elections": 404},
    }
    for part, paths in expected.items():
        for path, status in paths.items():
            assert (await get(addresses[part], path))[0] == status, (part, path)


async def test_it_is_started_again_when_it_ends(start):
    """Clients that connect meanwhile wait for it."""
    _, addresses = await start()
    assert (await get(addresses["http"], "/livez"))[0] == 200
    [before] = children()
    with structlog.testing.capture_logs() as lines:
        os.kill(before, signal.SIGKILL)
        while not any(line["event"] == "http.ended" for line in lines):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (await get(addresses["http"], "/livez"))[0] == 200
    assert children() != [before]


async def test_signals_to_the_whole_group_do_not_end_it(start):
    """It serves until the process that renews has ended."""
    _, addresses = await start()
    assert (await get(addresses["http"], "/livez"))[0] == 200
    [server] = children()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(server, number)
    assert (await get(addresses["http"], "/livez"))[0] == 200
    assert children() == [server]


async def test_clients_that_read_nothing_take_little_memory(start, process):
    """Each asks for another long history, which nobody shares with it."""
    process.put("billing")
    process.terms = [{"token": number, "holder": "x" * 250} for number in range(4000)]
    _, addresses = await start()
    path = "/v1/elections/shop/billing/history"
    assert (await get(addresses["http"], f"{path}?limit=4000"))[0] == 200
    [server] = children()
    before = memory(server, "VmRSS")
    host, port = addresses["http"].split(":")
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for number in range(60):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.setblocking(False)  # noqa: FBT003  # it takes no name
            query = f"GET {path}?limit={3900 + number} HTTP/1.1\r\nHost: {host}\r\n\r\n"
            await loop.sock_sendall(client, query.encode())
            assert await loop.sock_recv(client, 1)  # it is answered, one way or the other
        assert memory(server, "VmHWM") < 2 * before


async def test_ends_with_this_process(start):
    """And gives the port back."""
    frontend, addresses = await start()
    assert (await get(addresses["http"], "/livez"))[0] == 200
    await frontend.aclose()
    assert children() == []
    host, _, port = addresses["http"].partition(":")
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind((host, int(port)))
        again.listen()


async def test_the_system_prefers_the_process_that_renews(start):
    """For the CPU, and where memory is short."""
    _, addresses = await start()
    await get(addresses["http"], "/livez")
    [server] = children()
    assert os.getpriority(os.PRIO_PROCESS, server) > os.getpriority(os.PRIO_PROCESS, 0)
    assert oom_score(server) == OOM_SCORE
