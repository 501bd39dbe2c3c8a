"""What is asked of the API server, and how it is written."""

from __future__ import annotations

import pytest
from aiohttp import web

from incumbent.errors import (
    ClusterError,
)
from incumbent.kubernetes import api as kubernetes_api
from incumbent.kubernetes.answers import UnknownKind
from scriptedapi import (
    SECONDS,
    patch,
    pod,
    pod_json,
    status_response,
)

pytestmark = pytest.mark.usefixtures("no_access_from_outside")


async def test_a_patch_carries_its_preconditions(serve):
    """UID and resourceVersion are in the body, so that the API server compares them."""
    seen = []

    async def answer(request):
        seen.append((request.method, request.path, request.content_type, await request.json()))
        assert request.headers["Authorization"] == "Bearer t1"
        return web.json_response(pod_json(version="2"))

    assert await patch(await serve(answer)) == pod(version="2")
    body = {
        "metadata": {
            "uid": "uid-a",
            "resourceVersion": "1",
            "labels": {"l": "leader"},
            "annotations": {"a": None},
        }
    }
    path = "/api/v1/namespaces/shop/pods/a"
    assert seen == [("PATCH", path, "application/merge-patch+json", body)]


async def test_a_missing_object_is_none_and_a_missing_kind_is_an_error(serve):
    """The absence of one object says nothing about its kind."""

    async def answer(request):
        if "leaderelections/" in request.path:
            return web.Response(status=404, text="404 page not found\n")
        return status_response(404)

    api_server = await serve(answer)
    assert await api_server.get_pod("shop", "a") is None
    with pytest.raises(UnknownKind):
        await api_server.get_election("shop", "billing")


async def test_a_dry_run_asks_and_writes_nothing(serve):
    """The request says so."""
    asked = []

    async def answer(request):
        asked.append(dict(request.query))
        return web.json_response(pod_json())

    api_server = await serve(answer)
    await api_server.patch_pod(pod(), labels={}, annotations={}, timeout=SECONDS, dry_run=True)
    assert asked == [{"dryRun": "All"}]


async def test_a_namespace_gets_so_many_events_and_no_more(serve, monkeypatch):
    """One whose leaders change all the time fills no etcd; others get all of theirs."""
    monkeypatch.setattr(kubernetes_api, "EVENTS_BURST", 5)
    asked = []

    async def answer(request):
        asked.append(request.path.split("/")[5])
        return web.json_response({})

    def emit(namespace):
        metadata = {"namespace": namespace, "name": "a", "uid": "u", "resourceVersion": "1"}
        about = {"apiVersion": "incumbent.dev/v1alpha1", "kind": "X", "metadata": metadata}
        words = {"reason": "LeaderElected", "action": "Elect", "note": "A note"}
        return api_server.emit_event(about, kind="Normal", **words)

    api_server = await serve(answer)
    for _ in range(kubernetes_api.EVENTS_BURST):
        await emit("shop")
    with pytest.raises(ClusterError, match="Namespace shop has had"):
        await emit("shop")
    await emit("bank")
    assert asked.count("shop") == kubernetes_api.EVENTS_BURST
    assert asked.count("bank") == 1
