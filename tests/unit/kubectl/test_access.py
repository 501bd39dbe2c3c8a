"""kubectl's flags that say where Kubernetes is: what they change of a kubeconfig."""

import pytest
import yaml

from incumbent.errors import ConfigurationError
from incumbent.kubernetes import connection
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.kubeconfig import Overrides

CONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "a",
    "clusters": [
        {"name": "one", "cluster": {"server": "https://one:6443"}},
        {"name": "two", "cluster": {"server": "https://two:6443"}},
    ],
    "users": [
        {"name": "me", "user": {"token": "mine"}},
        {"name": "robot", "user": {"token": "its", "as": "person", "as-groups": ["g", "h"]}},
    ],
    "contexts": [{"name": "a", "context": {"cluster": "one", "user": "me", "namespace": "shop"}}],
}


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """Return a coroutine function that connects with overrides, and closes at the end."""
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(CONFIG))
    monkeypatch.setenv("KUBECONFIG", str(file))

    async def run(*, context=None, **overrides):
        server = await Connection.find(context=context, overrides=Overrides(**overrides))
        access = await server.access()
        await server.aclose()
        return server, access, [*server._route.impersonation]

    return run


async def test_nothing_is_overridden(connect):
    """Without flags, the current context counts."""
    server, access, headers = await connect()
    assert (access.server, access.token) == ("https://one:6443", "mine")
    assert server.default_namespace == "shop"
    assert headers == []


async def test_cluster_and_user(connect):
    """Either is taken from elsewhere in the kubeconfig; the namespace stays that of the context."""
    server, access, _ = await connect(cluster="two", user="robot")
    assert (access.server, access.token) == ("https://two:6443", "its")
    assert server.default_namespace == "shop"
    _, access, _ = await connect(cluster="two")
    assert (access.server, access.token) == ("https://two:6443", "mine")


@pytest.mark.parametrize(
    ("overrides", "named"),
    (({"cluster": "none"}, "none"), ({"user": "nobody"}, "nobody"), ({"context": "no"}, "no")),
)
async def test_what_is_not_in_the_kubeconfig(connect, overrides, named):
    """A sentence names what is missing; nobody is logged in as somebody else, or as nobody."""
    with pytest.raises(ConfigurationError, match=f"name {named} in"):
        await connect(**overrides)


async def test_server_token_and_certificates(connect, monkeypatch):
    """They count more than what the kubeconfig says, also after its token was renewed."""
    monkeypatch.setattr(connection, "REFRESH", 0)
    server, access, _ = await connect(
        server="https://other:1/",
        token="given",
        insecure_skip_tls_verify=True,
        tls_server_name="name",
    )
    assert (access.server, access.token, access.insecure) == ("https://other:1", "given", True)
    assert server._route.server_name == "name"


async def test_a_server_needs_no_kubeconfig(connect, monkeypatch, tmp_path):
    """As with kubectl, a URL and a token are enough."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    server, access, _ = await connect(server="other:1", token="given")
    assert (access.server, access.token) == ("https://other:1", "given")
    assert server.default_namespace is None


async def test_acting_as_another(connect):
    """The flags say as whom, with several groups."""
    _, _, headers = await connect(as_user="person", as_groups=("g", "h"), as_uid="1")
    assert headers == [
        ("Impersonate-User", "person"),
        ("Impersonate-Group", "g"),
        ("Impersonate-Group", "h"),
        ("Impersonate-Uid", "1"),
    ]


async def test_acting_as_the_kubeconfig_says(connect):
    """Whoever is to act as somebody with fewer rights does so here, too."""
    _, _, headers = await connect(user="robot")
    assert headers == [
        ("Impersonate-User", "person"),
        ("Impersonate-Group", "g"),
        ("Impersonate-Group", "h"),
    ]
    _, _, headers = await connect(user="robot", as_user="other")
    assert headers == [("Impersonate-User", "other")]
