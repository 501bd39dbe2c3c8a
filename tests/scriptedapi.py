"""An API server that answers as a test has written down, and the JSON of its pods."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path

from aiohttp import web
from kubernetes.aio.client import Configuration

from incumbent.kubernetes import watch as kubernetes_watch
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.objects import Pod

CERTIFICATES = Path(__file__).parent / "unit" / "kubernetes" / "certificates"

SECONDS = 10
"""Longer than anything here takes, so that a test that would hang fails."""


def pod_json(name="a", version="1", **metadata):
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": version,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            **metadata,
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True"},
            ],
        },
    }


def pod(name="a", version="1", **changes):
    values = {
        "namespace": "shop",
        "name": name,
        "uid": f"uid-{name}",
        "resource_version": version,
        "node": "node-1",
        "ip": "10.0.0.1",
        "created": "2026-01-01T00:00:00Z",
    }
    return Pod(**{**values, **changes})


@contextlib.asynccontextmanager
async def connected(server):
    configuration = Configuration(host=server, api_key={"BearerToken": "Bearer t1"})
    api_server = ApiServer(Connection(configuration), replica="r1")
    try:
        yield api_server
    finally:
        await api_server.aclose()


@contextlib.asynccontextmanager
async def connected_by(kubeconfig=None, context=None):
    found = await Connection.find(kubeconfig, context=context)
    try:
        yield found
    finally:
        await found.aclose()


async def access_of(kubeconfig=None, context=None):
    async with connected_by(kubeconfig, context) as found:
        return await found.access()


def copy(name, to):
    """Replace a file by one of the certificates, as the kubelet does: at once, as a whole."""
    new = to.with_name(f"{to.name}.new")
    new.write_bytes((CERTIFICATES / name).read_bytes())
    new.replace(to)


def status_response(code, **headers):
    status = {"kind": "Status", "code": code, "message": "because", "details": {"name": "a"}}
    return web.json_response(status, status=code, headers=headers)


def changes(*events):
    """Return the lines of a watch."""
    return b"".join(json.dumps({"type": t, "object": o}).encode() + b"\n" for t, o in events)


def bookmark(version):
    return ("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": version}})


def error_event(code):
    return ("ERROR", {"kind": "Status", "code": code, "message": "because"})


class Script:
    """An API server that answers each list and each watch with the next part of a script.

    The last part of each is repeated. A watch is bytes, an HTTP status, or a function that gets the
    response. `requests` shows what was asked: "list", or the resourceVersion of a watch.
    """

    def __init__(self, *, lists, watches):
        self.lists = lists
        self.watches = watches
        self.requests = []
        self.opened = asyncio.Semaphore(0)
        self.closed = asyncio.Event()

    async def __call__(self, request):
        """Answer a request."""
        if "watch" not in request.query:
            self.requests.append("list")
            part = next_part(self.lists)
            if isinstance(part, int):
                return status_response(part)
            version, *pods = part
            return web.json_response({"metadata": {"resourceVersion": version}, "items": pods})
        assert request.query["allowWatchBookmarks"] == "true"
        shortest, longest = kubernetes_watch.WATCH_SECONDS
        assert shortest <= int(request.query["timeoutSeconds"]) <= longest
        self.requests.append(request.query["resourceVersion"])
        part = next_part(self.watches)
        if isinstance(part, int):
            return status_response(part)
        response = web.StreamResponse()
        await response.prepare(request)
        if isinstance(part, bytes):
            await response.write(part)
            return response
        self.opened.release()
        try:
            await part(response)
        finally:
            self.closed.set()
        return response


def next_part(parts):
    return parts.pop(0) if len(parts) > 1 else parts[0]


async def silence(_):
    await asyncio.Event().wait()


def patch(api_server, timeout=SECONDS):
    return api_server.patch_pod(
        pod(), labels={"l": "leader"}, annotations={"a": None}, timeout=timeout, within=timeout
    )
