"""What several files of tests on a control plane share."""

from __future__ import annotations

import secrets

import pytest_asyncio

from controlplane.kube import Kube


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared_namespace(site, request):
    """The namespace of the operator that the tests of a file share."""
    file = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    async with Kube(site) as kube:
        name = f"{file}-{secrets.token_hex(4)}"
        await kube.namespace(name)
        yield name
        await kube.delete(f"/api/v1/namespaces/{name}")
