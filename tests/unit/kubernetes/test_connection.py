"""How an API server is reached, also when what its access says changes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from controlplane.httpproxy import HttpProxy
from incumbent.errors import (
    ClusterUnreachable,
    Forbidden,
)
from incumbent.kubernetes import connection
from incumbent.kubernetes.answers import (
    translated,
)
from scriptedapi import CERTIFICATES, access_of, connected_by, copy

pytestmark = pytest.mark.usefixtures("no_access_from_outside")


# What changes while the process runs


class TlsServer:
    """An API server that shows the old or the new certificate, and trusts clients of that age."""

    def __init__(self):
        self.clients = []
        """Whose certificates it was shown, one for each request."""
        self._runner = None
        self.port = 0

    async def start(self, age):
        """Serve, from now on with certificates of an age."""
        await self.stop()
        context = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=CERTIFICATES / f"{age}-authority.pem"
        )
        context.load_cert_chain(
            CERTIFICATES / f"{age}-server.pem", CERTIFICATES / f"{age}-server.key"
        )
        context.verify_mode = ssl.CERT_OPTIONAL
        self._runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self):
        """End everything."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request):
        shown = request.transport.get_extra_info("peercert") or {"subject": [[("", "nobody")]]}
        self.clients.append(shown["subject"][0][0][1])
        return web.json_response({})


@pytest.fixture
async def tls_server():
    """An API server with the old certificate."""
    server = TlsServer()
    await server.start("old")
    yield server
    await server.stop()


async def get(found):
    async with asyncio.timeout(10):
        with translated("GET /x"):
            response = await found.send("GET", "/x")
            async with response:
                await response.read()


async def test_the_authority_of_a_pod_is_read_again_when_it_changes(
    service_account, look_at_once, tls_server, monkeypatch
):
    """The cluster's CA is rotated: until its file has changed, the server is not trusted."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(tls_server.port))
    async with connected_by() as found:
        await get(found)
        await tls_server.start("new")
        with pytest.raises(ClusterUnreachable, match="certificate"):
            await get(found)
        copy("new-authority.pem", service_account / "ca.crt")
        await get(found)


async def test_a_broken_authority_leaves_the_old_one(
    service_account, look_at_once, tls_server, monkeypatch, capsys
):
    """Whoever writes the file may be in the middle of it. It is said once, and tried again."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(tls_server.port))
    async with connected_by() as found:
        (service_account / "ca.crt").write_text("-----BEGIN CERT")
        for _ in range(3):
            await get(found)
        assert capsys.readouterr().out.count("cluster.access_not_read") == 1
        await tls_server.start("new")
        copy("new-authority.pem", service_account / "ca.crt")
        await get(found)


async def test_client_certificates_and_authorities_of_a_kubeconfig_are_read_again(
    kubeconfig, look_at_once, tls_server, tmp_path
):
    """Also on a connection that is open: the next request shows the new certificate."""
    names = {"ca": "authority.pem", "cert": "client.pem", "key": "client.key"}
    files = {name: tmp_path / name for name in names}

    def install(age):
        for name, file in names.items():
            copy(f"{age}-{file}", files[name])

    install("old")
    user = {"client-certificate": str(files["cert"]), "client-key": str(files["key"])}
    server = f"https://localhost:{tls_server.port}"
    async with connected_by(kubeconfig(server=server, user=user, ca=str(files["ca"]))) as found:
        await get(found)
        await tls_server.start("new")
        copy("new-client.pem", files["cert"])  # without its key it is of no use yet
        with pytest.raises(ClusterUnreachable):
            await get(found)
        install("new")
        await get(found)
        assert tls_server.clients == ["old client", "new client"]


async def test_a_kubeconfig_is_read_again_when_it_changes(kubeconfig, look_at_once):
    """Another server, another token: whatever it says now."""
    path = kubeconfig()
    async with connected_by(path) as found:
        kubeconfig(server="http://other.example", user={"token": "token-2"})
        access = await found.access()
        assert (access.server, access.token) == ("http://other.example", "token-2")
        kubeconfig(used="nobody")
        assert await found.access() == access


async def test_without_a_change_nothing_is_read_again(kubeconfig, look_at_once, monkeypatch):
    """Files are only looked at; a context of TLS is not made for each request."""
    async with connected_by(kubeconfig()) as found:
        monkeypatch.setattr(connection, "route_from", None)
        await found.access()


async def test_a_token_that_is_refused_is_read_again_at_once(serve_once, kubeconfig, tmp_path):
    """Not only a minute after it was read last."""
    file = tmp_path / "token"
    file.write_text("t1")
    server, seen = await serve_once(lambda token: 401 if token == "Bearer t1" else 200)
    async with connected_by(kubeconfig(server=server, user={"tokenFile": str(file)})) as found:
        file.write_text("t2")
        with pytest.raises(Forbidden):
            await found.send("GET", "/x")
        (await found.send("GET", "/x")).release()
    assert seen == ["Bearer t1", "Bearer t2"]


@pytest.mark.parametrize(
    ("message", "raised"),
    (
        ("File descriptor 14 is used by transport <TCPTransport>", aiohttp.ClientConnectionError),
        ("Session is closed", RuntimeError),
    ),
)
async def test_a_socket_whose_number_is_in_use_is_a_connection_that_failed(
    kubeconfig, monkeypatch, message, raised
):
    """The event loop refuses such a socket while an aborted connection is not closed yet."""

    async def refuse(*_, **__):
        raise RuntimeError(message)

    async with connected_by(kubeconfig()) as found:
        monkeypatch.setattr(aiohttp.ClientSession, "_request", refuse)
        with pytest.raises(raised, match=message.partition("<")[0]):
            await found.send("GET", "/x")


@pytest.fixture
async def serve_once():
    """Return a function that serves what a function of the token says; returns URL and tokens."""
    runners = []

    async def start(status):
        seen = []

        async def answer(request):
            seen.append(request.headers.get("Authorization"))
            return web.json_response({}, status=status(seen[-1]))

        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}", seen

    yield start
    for runner in runners:
        await runner.cleanup()


# Proxies


async def test_requests_go_through_the_proxy_of_the_environment(
    kubeconfig, tls_server, monkeypatch
):
    """The tunnel ends at the API server, whose name is the one of its URL."""
    server = "https://kube.example.com:6443"
    async with HttpProxy(tls_server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        authority = str(CERTIFICATES / "old-authority.pem")
        async with connected_by(kubeconfig(server=server, ca=authority)) as found:
            await get(found)
            assert proxy.asked == ["CONNECT kube.example.com:6443 HTTP/1.1"]
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,.example.com:6443")
        async with connected_by(kubeconfig(server=server, ca=authority)) as found:
            assert (await found.access()).proxy_url is None


@pytest.mark.parametrize(
    ("environment", "proxy"),
    (
        ({}, None),
        ({"http_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"http_proxy": "http://proxy:3128", "no_proxy": ".example"}, None),
        ({"https_proxy": "http://proxy:3128"}, None),
    ),
)
async def test_a_proxy_comes_from_the_environment(environment, proxy, kubeconfig, monkeypatch):
    """The usual variables count; how they are read is in `test_proxies`."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (await access_of(kubeconfig())).proxy_url == proxy


def test_the_kernel_looks_after_the_connection_of_a_watch():
    """TCP keep-alive is on, with times of our own where the system has them."""
    with socket.socket() as link:
        transport = SimpleNamespace(get_extra_info=lambda name: {"socket": link}[name])
        connection.keep_alive(SimpleNamespace(connection=SimpleNamespace(transport=transport)))
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15


def test_a_watch_that_has_ended_already_needs_no_keep_alive():
    """An answer that is complete has given its connection back."""
    connection.keep_alive(SimpleNamespace(connection=None))
