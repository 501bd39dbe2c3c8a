"""Fixtures of the tests of the adapter to the API server."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import yaml
from aiohttp import web
from kubernetes.aio.config import incluster_config

from incumbent.kubernetes import connection
from incumbent.kubernetes import kubeconfig as kubeconfig_module
from scriptedapi import connected, copy

# Without this, pytest-asyncio makes an event loop that nobody closes, when the first test of a run
# is no coroutine.
asyncio.set_event_loop(None)


@pytest.fixture
async def serve():
    """Return a function that makes an `ApiServer` in front of a function that answers requests."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(answer):
            runner = web.ServerRunner(
                web.Server(answer, handler_cancellation=True), shutdown_timeout=0.1
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return await stack.enter_async_context(
                connected(f"http://127.0.0.1:{runner.addresses[0][1]}")
            )

        yield start


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


@pytest.fixture
def look_at_once(monkeypatch):
    """Let the connection look at its files before each request."""
    monkeypatch.setattr(connection, "LOOK_EVERY", 0)


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
    monkeypatch.setattr(kubeconfig_module, "SERVICE_ACCOUNT_NAMESPACE", str(tmp_path / "namespace"))
    return tmp_path
