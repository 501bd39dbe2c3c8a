"""Where the access to an API server comes from."""

from __future__ import annotations

import json
import sys

import pytest

from incumbent.errors import (
    ConfigurationError,
)
from incumbent.kubernetes import connection
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.route import KubernetesAccess
from scriptedapi import access_of, connected_by

pytestmark = pytest.mark.usefixtures("no_access_from_outside")


async def test_a_kubeconfig_gives_server_token_and_namespace(kubeconfig):
    """The current context is taken."""
    access = await access_of(kubeconfig())
    assert access == KubernetesAccess(
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
    async with connected_by(kubeconfig(user={"tokenFile": str(file)})) as found:
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
    async with connected_by(kubeconfig(user=user)) as found:
        issue("t2")
        assert (await found.access()).token == "t2"


async def test_an_exec_plugin_that_failed_is_asked_again(kubeconfig, tmp_path, monkeypatch):
    """A plugin that fails at the start does not leave us without a token for ever."""
    monkeypatch.setattr(connection, "REFRESH", 0)
    user, issue = exec_plugin(tmp_path)
    async with connected_by(kubeconfig(user=user)) as found:
        issue("t1")
        assert (await found.access()).token == "t1"


async def test_a_service_account_is_used_and_its_token_renewed(service_account, look_at_once):
    """In a pod the mounted token counts, and is read again when it changes."""
    async with connected_by() as found:
        assert await found.access() == KubernetesAccess(
            server="https://10.0.0.1:443",
            ca_path=str(service_account / "ca.crt"),
            scheme="bearer",
            token="t1",
            default_namespace="shop",
        )
        (service_account / "token").write_text("token-2")
        assert (await found.access()).token == "token-2"
