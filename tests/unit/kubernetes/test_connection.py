"""How an API server is found and reached, and what its answers mean."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from aiohttp import web
from kubernetes.aio.config import incluster_config

from controlplane.httpproxy import HttpProxy
from incumbent.errors import (
    AdmissionDenied,
    AdmissionUnavailable,
    ClusterUnreachable,
    ConfigurationError,
    Conflict,
    Forbidden,
    NotFound,
    Refused,
)
from incumbent.kubernetes import connection
from incumbent.kubernetes.connection import Connection, Expired, UnknownKind

# Without this, pytest-asyncio makes an event loop that nobody closes, when the first test of a run
# is no coroutine.
asyncio.set_event_loop(None)

pytestmark = pytest.mark.usefixtures("no_access_from_outside")

CERTIFICATES = Path(__file__).parent / "certificates"


# Access


@pytest.fixture
def kubeconfig(tmp_path):
    """Return a function that writes a kubeconfig and returns its path."""

    def write(name="config", *, server="http://one.example", user=None, ca=None, used="user"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "one",
            "clusters": [
                {
                    "name": "one",
                    "cluster": {"server": server, **({"certificate-authority": ca} if ca else {})},
                },
                {"name": "two", "cluster": {"server": "http://two.example"}},
            ],
            "users": [{"name": "user", "user": user or {"token": "t1"}}],
            "contexts": [
                {"name": "one", "context": {"cluster": "one", "user": used, "namespace": "n1"}},
                {"name": "two", "context": {"cluster": "two", "user": "user"}},
            ],
        }
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@contextlib.asynccontextmanager
async def connected(kubeconfig=None, context=None):
    found = await Connection.find(kubeconfig, context=context)
    try:
        yield found
    finally:
        await found.aclose()


async def access_of(kubeconfig=None, context=None):
    async with connected(kubeconfig, context) as found:
        return await found.access()


async def test_a_kubeconfig_gives_server_token_and_namespace(kubeconfig):
    """The current context is taken."""
    access = await access_of(kubeconfig())
    assert access == connection.KubernetesAccess(
        server="http://one.example", scheme="Bearer", token="t1", default_namespace="n1"
    )


async def test_the_token_is_not_in_the_representation(kubeconfig):
    """A log line about the access shows no secret."""
    assert "t1" not in repr(await access_of(kubeconfig()))


async def test_a_context_can_be_chosen(kubeconfig):
    """A named context wins over the current one."""
    access = await access_of(kubeconfig(), "two")
    assert access.server == "http://two.example"
    assert access.default_namespace is None


async def test_kubeconfig_is_read_when_connecting(kubeconfig, monkeypatch):
    """KUBECONFIG may be set after the import of the library, and may name missing files."""
    monkeypatch.setenv("KUBECONFIG", f"/nowhere:{kubeconfig()}")
    assert (await access_of()).server == "http://one.example"


async def test_an_explicit_kubeconfig_wins(kubeconfig, monkeypatch):
    """The flag is stronger than KUBECONFIG."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig("other", server="http://other.example"))
    assert (await access_of(kubeconfig())).server == "http://one.example"


async def test_the_home_directory_is_looked_at_last(kubeconfig, tmp_path):
    """Without any hint, ~/.kube/config counts, as for kubectl."""
    (tmp_path / "home").mkdir()
    kubeconfig("home/.kube/config")
    assert (await access_of()).server == "http://one.example"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        ({}, "No access to Kubernetes is configured"),
        ({"kubeconfig": "/nowhere/config"}, "/nowhere/config does not exist"),
        ({"context": "one"}, "no kubeconfig to take the context one from"),
    ),
)
async def test_no_configuration_is_one_sentence(arguments, sentence):
    """Nothing to connect to is an error of configuration."""
    with pytest.raises(ConfigurationError, match=sentence):
        await access_of(**arguments)


async def test_an_unknown_context_is_one_sentence(kubeconfig):
    """A context that the file does not have is named."""
    with pytest.raises(ConfigurationError, match="the context three"):
        await access_of(kubeconfig(), "three")


async def test_an_unknown_user_is_one_sentence(kubeconfig):
    """A context may name one that is not there."""
    with pytest.raises(ConfigurationError, match="name nobody in"):
        await Connection.find(kubeconfig(used="nobody"))


@pytest.mark.parametrize("content", ("", "[", "a: b", "contexts: 3", "\0"))
async def test_a_broken_kubeconfig_is_one_sentence(content, tmp_path):
    """Whatever the library makes of it, it is an error of configuration."""
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="is of no use with its current context"):
        await access_of(str(path))


@pytest.mark.parametrize(
    "wrong",
    (
        {"server": "https://[::1"},
        {"server": "https://one.example", "ca": "none"},
        {
            "server": "https://one.example",
            "user": {"client-certificate": "none", "client-key": "none"},
        },
    ),
)
async def test_what_cannot_be_connected_with_is_one_sentence(wrong, kubeconfig, tmp_path):
    """A broken address or certificate is found when connecting, and no traceback."""
    (tmp_path / "none").write_text("no certificate")
    with pytest.raises(ConfigurationError, match="cannot be reached as configured"):
        await Connection.find(kubeconfig(**wrong))


async def test_basic_authentication_is_handed_on(kubeconfig):
    """User and password become the scheme Basic and its token."""
    access = await access_of(kubeconfig(user={"username": "u", "password": "p"}))
    assert (access.scheme, access.token) == ("Basic", "dTpw")


async def test_a_token_file_is_read_again(kubeconfig, tmp_path, monkeypatch):
    """A token that somebody else renews in its file is used; the last one while there is none."""
    monkeypatch.setattr(connection, "REFRESH", 0)
    file = tmp_path / "token"
    file.write_text("t1")
    async with connected(kubeconfig(user={"tokenFile": str(file)})) as found:
        assert (await found.access()).token == "t1"
        file.write_text("t2")
        assert (await found.access()).token == "t2"
        file.unlink()
        assert (await found.access()).token == "t2"


def exec_plugin(tmp_path):
    """Return a user whose exec plugin prints the file `credential`, and that file."""
    file = tmp_path / "credential"
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": sys.executable,
        "args": ["-c", f"print(open({str(file)!r}).read())"],
    }

    def issue(token):
        status = {"token": token}
        credential = {"apiVersion": plugin["apiVersion"], "kind": "x", "status": status}
        file.write_text(json.dumps(credential))

    return {"exec": plugin}, issue


async def test_an_exec_plugin_gives_tokens(kubeconfig, tmp_path, monkeypatch):
    """The plugin is asked at the start, and later again."""
    monkeypatch.setattr(connection, "REFRESH", 0)
    user, issue = exec_plugin(tmp_path)
    issue("t1")
    async with connected(kubeconfig(user=user)) as found:
        issue("t2")
        assert (await found.access()).token == "t2"


async def test_an_exec_plugin_that_failed_is_asked_again(kubeconfig, tmp_path, monkeypatch):
    """A plugin that fails at the start does not leave us without a token for ever."""
    monkeypatch.setattr(connection, "REFRESH", 0)
    user, issue = exec_plugin(tmp_path)
    async with connected(kubeconfig(user=user)) as found:
        issue("t1")
        assert (await found.access()).token == "t1"


@pytest.fixture
def service_account(tmp_path, monkeypatch):
    """Return the folder of a pod's service account, which trusts the old authority."""
    copy("old-authority.pem", tmp_path / "ca.crt")
    for name, content in (("token", "t1\n"), ("namespace", "shop\n")):
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(connection, "SERVICE_ACCOUNT_NAMESPACE", str(tmp_path / "namespace"))
    return tmp_path


async def test_a_service_account_is_used_and_its_token_renewed(service_account, look_at_once):
    """In a pod the mounted token counts, and is read again when it changes."""
    async with connected() as found:
        assert await found.access() == connection.KubernetesAccess(
            server="https://10.0.0.1:443",
            ca_path=str(service_account / "ca.crt"),
            scheme="bearer",
            token="t1",
            default_namespace="shop",
        )
        (service_account / "token").write_text("token-2")
        assert (await found.access()).token == "token-2"


# What changes while the process runs


def copy(name, to):
    """Replace a file by one of the certificates, as the kubelet does: at once, as a whole."""
    new = to.with_name(f"{to.name}.new")
    new.write_bytes((CERTIFICATES / name).read_bytes())
    new.replace(to)


@pytest.fixture
def look_at_once(monkeypatch):
    """Let the connection look at its files before each request."""
    monkeypatch.setattr(connection, "LOOK_EVERY", 0)


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
        with connection.translated("GET /x"):
            response = await found.send("GET", "/x")
            async with response:
                await response.read()


async def test_the_authority_of_a_pod_is_read_again_when_it_changes(
    service_account, look_at_once, tls_server, monkeypatch
):
    """The cluster's CA is rotated: until its file has changed, the server is not trusted."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(tls_server.port))
    async with connected() as found:
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
    async with connected() as found:
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
    async with connected(kubeconfig(server=server, user=user, ca=str(files["ca"]))) as found:
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
    async with connected(path) as found:
        kubeconfig(server="http://other.example", user={"token": "token-2"})
        access = await found.access()
        assert (access.server, access.token) == ("http://other.example", "token-2")
        kubeconfig(used="nobody")
        assert await found.access() == access


async def test_without_a_change_nothing_is_read_again(kubeconfig, look_at_once, monkeypatch):
    """Files are only looked at; a context of TLS is not made for each request."""
    async with connected(kubeconfig()) as found:
        monkeypatch.setattr(connection, "route_from", None)
        await found.access()


async def test_a_token_that_is_refused_is_read_again_at_once(serve_once, kubeconfig, tmp_path):
    """Not only a minute after it was read last."""
    file = tmp_path / "token"
    file.write_text("t1")
    server, seen = await serve_once(lambda token: 401 if token == "Bearer t1" else 200)
    async with connected(kubeconfig(server=server, user={"tokenFile": str(file)})) as found:
        file.write_text("t2")
        with pytest.raises(Forbidden):
            await found.send("GET", "/x")
        (await found.send("GET", "/x")).release()
    assert seen == ["Bearer t1", "Bearer t2"]


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
        async with connected(kubeconfig(server=server, ca=authority)) as found:
            await get(found)
            assert proxy.asked == ["CONNECT kube.example.com:6443 HTTP/1.1"]
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,.example.com:6443")
        async with connected(kubeconfig(server=server, ca=authority)) as found:
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


# Answers


@pytest.mark.parametrize(
    ("code", "kind"),
    (
        (0, ClusterUnreachable),
        (302, ClusterUnreachable),
        (400, Refused),
        (401, Forbidden),
        (403, Forbidden),
        (404, NotFound),
        (408, ClusterUnreachable),
        (409, Conflict),
        (410, Expired),
        (413, Refused),
        (415, Refused),
        (422, Refused),
        (429, ClusterUnreachable),
        (500, ClusterUnreachable),
        (503, ClusterUnreachable),
    ),
)
@pytest.mark.parametrize("message", ("pods is forbidden", "not found", "Timeout"))
def test_the_status_code_decides_which_error_it_is(code, kind, message):
    """The text of the answer is handed on, and decides nothing."""
    status = {"message": message, "details": {"name": "a"}}
    error = connection.error_for(code, status, request="GET /x")
    assert type(error) is kind
    assert message in str(error)
    assert "GET /x" in str(error)


POLICY = (
    "pods \"one\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"
)
WEBHOOK = 'admission webhook "hook.example.com" denied the request: no'
QUOTA = 'endpointslices "x" is forbidden: exceeded quota: q'
OUTAGE = 'Internal error occurred: failed calling webhook "hook.example.com": connection refused'
RIGHT = 'User "u" cannot patch resource "pods" in API group "" in the namespace "shop"'


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    (
        (422, POLICY, AdmissionDenied),
        (403, POLICY, AdmissionDenied),
        (401, POLICY, AdmissionDenied),
        (400, WEBHOOK, AdmissionDenied),
        (403, WEBHOOK, AdmissionDenied),
        (404, WEBHOOK, AdmissionDenied),
        (409, WEBHOOK, AdmissionDenied),
        (500, WEBHOOK, AdmissionDenied),
        (403, QUOTA, AdmissionDenied),
        (403, "endpoint address 10.0.0.1 is not allowed", AdmissionDenied),
        (403, f'pods "one" is forbidden: {RIGHT}', Forbidden),
        (403, f"pods is forbidden: {RIGHT}", Forbidden),
        (403, 'forbidden: User "u" cannot get path "/version"', Forbidden),
        (422, 'Pod "one" is invalid: metadata.labels: no', Refused),
        (500, OUTAGE, AdmissionUnavailable),
        (500, "Internal error occurred: etcdserver: request timed out", ClusterUnreachable),
        (500, f"etcdserver: something about {OUTAGE}", ClusterUnreachable),
    ),
)
def test_admission_is_told_from_a_missing_right(code, message, kind):
    """The API server tells them apart by the text alone; its own words come first in it."""
    status = {"kind": "Status", "message": message, "details": {"name": "one"}}
    error = connection.error_for(code, status, request="PATCH /x")
    assert type(error) is kind
    assert message in str(error)
    assert ("A right is missing" in str(error)) is (kind is Forbidden)


@pytest.mark.parametrize("message", (POLICY, WEBHOOK, OUTAGE))
def test_only_an_api_server_tells_of_admission(message):
    """A proxy in front of it may say anything after a write was carried out."""
    error = connection.error_for(500, {"message": message}, request="PATCH /x")
    assert type(error) is ClusterUnreachable


def test_a_path_that_is_not_served_is_an_unknown_kind():
    """A 404 without details of an object says that the kind is not installed."""
    status = connection.status_from(b"404 page not found\n")
    error = connection.error_for(404, status, request="GET /x")
    assert type(error) is UnknownKind
    assert "CustomResourceDefinition" in str(error)


@pytest.mark.parametrize(
    ("code", "retry_after", "wait"), ((429, "3", 3.0), (503, "1", 1.0), (429, "soon", None))
)
def test_a_wish_to_wait_is_kept(code, retry_after, wait):
    """Retry-After in seconds is kept; a date, or nonsense, is not."""
    asked = connection.retry_after_in({"Retry-After": retry_after})
    error = connection.error_for(code, {}, request="GET /x", retry_after=asked)
    assert isinstance(error, ClusterUnreachable)
    assert getattr(error, "retry_after", None) == wait


@pytest.mark.parametrize(
    ("content", "status"),
    (
        (b'{"message": "m"}', {"message": "m"}),
        (b"<html>", {"message": "<html>"}),
        (b"[1]", {"message": "[1]"}),
        (b"\xff", {"message": "\N{REPLACEMENT CHARACTER}"}),
        (b"", {"message": ""}),
    ),
)
def test_any_answer_explains_itself_as_well_as_it_can(content, status):
    """What is no `Status` becomes a message."""
    assert connection.status_from(content) == status


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
