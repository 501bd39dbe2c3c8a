"""Servers that NATS names: one URL is enough, and a server that shuts down is left in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.typing import EventDict

from certificates import Authority
from controlplane.natsserver import NatsServer
from controlplane.processes import free_port
from elections import Election
from incumbent.campaign.ports import Outcome, Sighting
from incumbent.nats.connection import NatsConnection
from natsconnection import connected
from operatorprocess import OperatorProcess
from waiting import PATIENCE, until

BUCKET = "ELECTIONS"
LAME = "lame_duck_duration: 30s\nlame_duck_grace_period: 1s\n"


@asynccontextmanager
async def running(
    folder: Path, configs: Sequence[str] = ("",) * 3, *, cluster: str = "", host: str = "127.0.0.1"
) -> AsyncIterator[list[NatsServer]]:
    """Servers of one cluster, each with its own configuration."""
    routes = [free_port() for _ in configs]
    peers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
    servers = [
        NatsServer(
            folder,
            name=f"nats-{number}",
            host=host,
            config=f"{LAME} cluster {{ name: test, listen: 127.0.0.1:{route}, routes: [{peers}],"
            f" {cluster} }}\n{config}",
        )
        for number, (route, config) in enumerate(zip(routes, configs, strict=True))
    ]
    with contextlib.ExitStack() as stack:
        for server in servers:
            server.spawn()
            stack.callback(server.kill)
        await asyncio.gather(*(server.wait_ready() for server in servers))
        yield servers


def servers_known(connection: NatsConnection) -> set[str]:
    """Return the addresses of the servers that the connection would try."""
    return {server.address for server in connection._pool.round()}


def address(server: NatsServer) -> str:
    return server.url.partition("//")[2]


def say_goodbye(server: NatsServer) -> None:
    """Let a server enter the lame duck mode."""
    os.kill(server.process.pid, signal.SIGUSR2)


async def works(connection: NatsConnection) -> None:
    """Wait until a write is stored: the bucket's leader may just have gone."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = await connection.bucket(BUCKET).write(
            f"key-{time.monotonic_ns()}", "a", expected=0, headers={}, timeout=2
        )
        if answer.outcome is Outcome.STORED:
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"nothing is stored: {answer}")


async def test_one_url_is_enough_for_a_cluster(tmp_path: Path) -> None:
    """Its server goes, and the others are found; it comes back, they go, and it is found again."""
    async with running(tmp_path) as servers, connected(servers[0].url) as connection:
        await until(lambda: servers_known(connection) == {address(one) for one in servers})
        await connection.create_bucket(BUCKET, ttl=60, replicas=3)
        seen: list[Sighting] = []
        end = connection.bucket(BUCKET).watch("shop.billing", seen.append)
        await until(lambda: seen)
        servers[0].kill()
        await until(lambda: not connection.connected)
        await until(lambda: connection.connected)
        await works(connection)
        await until(lambda: len(seen) > 1)
        # The two that are left tell of each other only.
        gone = address(servers[0])
        others = {address(one) for one in servers[1:]}
        await until(lambda: {one.address for one in connection._pool._named} == others)
        assert gone in servers_known(connection), "it is configured"

        await servers[0].start()
        used = connection._client.server.address
        (last,) = (one for one in servers if address(one) == used)
        last.kill()
        await until(lambda: not connection.connected)
        await until(lambda: connection.connected)
        await works(connection)
        end()


async def test_servers_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """What a server names is what there is, and not what there was."""
    async with running(tmp_path) as servers, connected(servers[0].url) as connection:
        await until(lambda: len(servers_known(connection)) == 3)
        servers[2].kill()
        await until(lambda: servers_known(connection) == {address(one) for one in servers[:2]})
        await servers[2].start()
        await until(lambda: len(servers_known(connection)) == 3)


async def test_when_all_are_away_each_is_told(tmp_path: Path) -> None:
    """In one problem that does not change with each attempt."""
    async with running(tmp_path) as servers, connected(servers[0].url) as connection:
        await until(lambda: len(servers_known(connection)) == 3)
        for server in servers:
            server.kill()
        await until(
            lambda: all(
                f"NATS at {address(one)} cannot be reached: connection refused"
                in connection.problem
                for one in servers
            )
        )
        told = connection.problem
        for _ in range(50):
            await asyncio.sleep(0.02)
            assert connection.problem == told


async def test_a_server_that_shuts_down_is_left_before_and_no_write_is_lost(
    tmp_path: Path, logs: list[EventDict]
) -> None:
    """One after the other, as in a rolling update: no write fails, and there is no outage."""
    async with running(tmp_path) as servers, connected(servers[0].url) as connection:
        await connection.create_bucket(BUCKET, ttl=60, replicas=1)
        bucket = connection.bucket(BUCKET)
        (leader,) = [p.name for p in await bucket.peers() if p.leader]
        await until(lambda: len(servers_known(connection)) == 3)
        seen: list[Sighting] = []
        ends = [bucket.watch("shop.billing", seen.append)]
        problems: list[str] = []
        ends.append(bucket.listen(lambda: problems.append(str(bucket.problem or ""))))
        await until(lambda: seen)
        told = len(problems)
        answers = []
        stop = asyncio.Event()

        async def renew() -> None:
            revision = 0
            while not stop.is_set():
                answer = await bucket.write(
                    "shop.billing", "a", expected=revision, headers={}, timeout=2
                )
                answers.append(answer)
                revision = answer.revision or revision
                await asyncio.sleep(0.001)

        renewing = asyncio.create_task(renew())
        # The bucket's one server stays: without it nobody could write.
        if connection._client.server.address == address(servers[int(leader[-1])]):
            used = connection._client.server
            connection._client.leaving.set_result(None)
            await until(lambda: connection._client.server != used)
        used = connection._client.server.address
        (going,) = (one for one in servers if address(one) == used)
        say_goodbye(going)
        await until(lambda: connection._client.server.address != used)
        assert going.process.running, "it was left before it went"
        await until(lambda: not going.process.running)
        count = len(answers)
        await until(lambda: len(answers) > count + 100)
        stop.set()
        await renewing
        await until(lambda: seen[-1].entry.revision == answers[-1].revision)
        for end in ends:
            end()
    assert {answer.outcome for answer in answers} == {Outcome.STORED}
    assert problems[told:] == []
    assert "nats.unreachable" not in [entry["event"] for entry in logs]
    assert "nats.leaving" in [entry["event"] for entry in logs]


async def test_a_server_without_others_is_used_to_its_end(tmp_path: Path) -> None:
    """And found again when it is back."""
    server = NatsServer(tmp_path, config=LAME)
    async with server, connected(server.url) as connection:
        await connection.create_bucket(BUCKET, ttl=60, replicas=1)
        say_goodbye(server)
        await until(lambda: connection._client and connection._client.leaving.done())
        assert connection.connected
        await until(lambda: not server.process.running)
        await until(lambda: "connection refused" in connection.problem)
        await server.start()
        await until(lambda: connection.connected)
        await works(connection)


async def test_a_server_that_does_not_advertise_names_nobody(tmp_path: Path) -> None:
    """So only the configured URLs count, and the sentence says which is away."""
    async with (
        running(tmp_path, cluster="no_advertise: true") as servers,
        connected(servers[0].url) as connection,
    ):
        servers[0].kill()
        problem = f"NATS at {address(servers[0])} cannot be reached: connection refused"
        await until(lambda: connection.problem == problem)
        await asyncio.sleep(0.5)
        assert connection.problem == problem
        assert servers_known(connection) == {address(servers[0])}


async def test_a_leaf_node_does_not_name_the_hub(tmp_path: Path) -> None:
    """Behind it is another bucket, or none, and another login."""
    port = free_port()
    hub = NatsServer(
        tmp_path, name="hub", domain="hub", config=f"leafnodes {{ listen: 127.0.0.1:{port} }}"
    )
    leaf = NatsServer(
        tmp_path, name="leaf", domain="leaf",
        config=f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}',
    )  # fmt: skip
    async with hub, leaf, connected(leaf.url) as connection:
        await asyncio.sleep(0.5)
        assert servers_known(connection) == {address(leaf)}


async def test_addresses_of_ipv6_are_used(tmp_path: Path) -> None:
    """In the brackets in which they are named."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no ::1")
    async with running(tmp_path, host="[::1]") as servers, connected(servers[0].url) as connection:
        await until(lambda: servers_known(connection) == {address(one) for one in servers})
        servers[0].kill()
        await until(lambda: not connection.connected)
        await until(lambda: connection.connected)


# Names in certificates


def _tls(authority: Authority, *alternatives: str, verify: str = "") -> str:
    certificate, key = authority.sign("-".join(alternatives).replace(":", "-"), *alternatives)
    files = f'cert_file: "{certificate}", key_file: "{key}", ca_file: "{authority.file}"'
    return f"{files}, {verify}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signed the certificates of this file's servers."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("scheme", ("tls", "nats", "wss", "ws"))
async def test_a_named_address_is_checked_by_the_name_that_was_asked_for(
    tmp_path: Path, authority: Authority, scheme: str
) -> None:
    """With `localhost` in the certificates and no address; websockets have ports of their own."""
    tls = _tls(authority, "DNS:localhost")
    ports = [free_port() for _ in range(3)]
    inside = "no_tls: true" if scheme == "ws" else f"tls {{ {tls} }}"
    outside = "" if scheme == "ws" else f"tls {{ {tls} }}\n"
    configs = [f"{outside}websocket {{ listen: 127.0.0.1:{port}, {inside} }}" for port in ports]
    access = {} if scheme == "ws" else {"tls_ca": authority.file}
    async with running(tmp_path, configs) as servers:
        if not scheme.startswith("ws"):
            ports = [server.port for server in servers]
        url = f"{scheme}://localhost:{ports[0]}"
        async with connected(url, **access) as connection:
            named = {f"127.0.0.1:{port}" for port in ports}
            await until(lambda: named <= servers_known(connection))
            servers[0].kill()
            await until(lambda: not connection.connected)
            await until(lambda: connection.connected)
            assert connection._client.server.address in named


@pytest.mark.parametrize("first", (False, True))
async def test_a_named_server_with_another_certificate_is_not_believed(
    tmp_path: Path, authority: Authority, *, first: bool
) -> None:
    """It may be one of the same authority: what counts is the name that was asked for."""
    handshake = "handshake_first: true" if first else ""
    right = f"tls {{ {_tls(authority, 'DNS:localhost', verify=handshake)} }}"
    wrong = f"tls {{ {_tls(authority, 'DNS:other.example.org', verify=handshake)} }}"
    access = {"tls_ca": authority.file, "tls_first": first}
    async with running(tmp_path, (right, wrong)) as servers:
        url = f"tls://localhost:{servers[0].port}"
        async with connected(url, **access) as connection:
            await until(lambda: f"127.0.0.1:{servers[1].port}" in servers_known(connection))
            servers[0].kill()
            await until(lambda: "its certificate is not accepted" in connection.problem)
            assert not connection.connected


async def test_where_an_address_was_asked_for_each_has_its_own_in_its_certificate(
    tmp_path: Path, authority: Authority
) -> None:
    """There is no other name to check it by."""
    tls = f"tls {{ {_tls(authority, 'IP:127.0.0.1')} }}"
    async with (
        running(tmp_path, (tls, tls)) as servers,
        connected(f"tls://127.0.0.1:{servers[0].port}", tls_ca=authority.file) as connection,
    ):
        await until(lambda: len(servers_known(connection)) == 2)
        servers[0].kill()
        await until(lambda: not connection.connected)
        await until(lambda: connection.connected)


# The operator


@pytest.mark.timeout(90)
@pytest.mark.parametrize("goodbye", (False, True))
async def test_an_operator_with_one_url_keeps_its_leader_when_that_server_goes(
    site,
    election: Election,
    new_operator: Callable[..., OperatorProcess],
    tmp_path: Path,
    *,
    goodbye: bool,
) -> None:
    """For longer than the record would have lived; with a goodbye there is no outage at all."""
    async with running(tmp_path / "nats") as servers:
        async with connected(servers[0].url) as admin:
            await admin.create_bucket("LEADER_ELECTION", ttl=5, replicas=1)
            (holding,) = await admin.bucket("LEADER_ELECTION").peers()
        seed = servers[(int(holding.name[-1]) + 1) % 3]
        operator = new_operator(seed.url)
        await operator.start()
        leader = await election.lead()
        token = (await election.status())["token"]
        if goodbye:
            say_goodbye(seed)
        else:
            seed.kill()
        await operator.wait_said("nats.connected", times=2)
        await asyncio.sleep(6)
        assert await election.wait_leader() == leader
        assert (await election.status())["token"] == token
        assert ("nats.unreachable" in operator.log) == (not goodbye)
        assert ("nats.leaving" in operator.log) == goodbye
