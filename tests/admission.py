"""Admission plugins that get in the operator's way: policies and webhooks on a real API server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fnmatch
import json
import secrets
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from controlplane.kube import ApiError

if TYPE_CHECKING:
    from pathlib import Path

    from controlplane.kube import Kube

RULES = "/apis/admissionregistration.k8s.io/v1"
UPDATES = {
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "resources": ["pods"],
    "operations": ["UPDATE"],
}
SLICES = {
    "apiGroups": ["discovery.k8s.io"],
    "apiVersions": ["v1"],
    "resources": ["endpointslices"],
    "operations": ["CREATE", "UPDATE"],
}
SOON = 20.0
"""Seconds within which an API server knows a new policy or webhook; mostly it takes one."""


@dataclass
class Webhook:
    """What a webhook answers; change it as you like."""

    delay: float = 0.0
    """Seconds before each answer."""
    refuses: str = ""
    """The names of the objects that it refuses, as a pattern: `*` for all; empty for none."""
    status: dict[str, Any] = field(default_factory=lambda: {"message": "not signed"})
    """What it says then."""
    down: bool = False
    """Whether it answers 500 instead of a review."""
    keeps: str = ""
    """The names of the objects whose labels and annotations it leaves as they were, as a pattern;
    only a mutating webhook can."""
    asked: int = 0
    """How many requests came."""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer one review."""
        review = await request.json()
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.down:
            return web.Response(status=500)
        asked = review["request"]
        refused = bool(self.refuses) and fnmatch.fnmatchcase(asked.get("name", ""), self.refuses)
        response = {"uid": asked["uid"], "allowed": not refused}
        if refused:
            response["status"] = self.status
        elif self.keeps and fnmatch.fnmatchcase(asked.get("name", ""), self.keeps):
            before = asked["oldObject"]["metadata"]
            patch = [
                {"op": "add", "path": f"/metadata/{name}", "value": before.get(name) or {}}
                for name in ("labels", "annotations")
            ]
            encoded = base64.b64encode(json.dumps(patch).encode()).decode()
            response |= {"patchType": "JSONPatch", "patch": encoded}
        return web.json_response({**review, "response": response})


@contextlib.asynccontextmanager
async def webhook(
    kube: Kube,
    namespace: str,
    folder: Path,
    *,
    rule: dict[str, Any] | None = None,
    mutating: bool = False,
    user: str | None = None,
) -> AsyncIterator[Webhook]:
    """Have the API server ask a webhook before each update of a pod in a namespace.

    Args:
        kube: where.
        namespace: whose pods.
        folder: for the certificate.
        rule: about what it is asked instead.
        mutating: whether it may change what is stored.
        user: about whose requests it is asked; None: of everybody.
    """
    _certify(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "hook.pem", folder / "hook.key")
    hook = Webhook()
    app = web.Application()
    app.router.add_post("/", hook.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    name = f"test-{secrets.token_hex(4)}"
    whose = f"request.userInfo.username == {json.dumps(user)}"
    conditions = [] if user is None else [{"name": "user", "expression": whose}]
    body = {
        "metadata": {"name": name},
        "webhooks": [
            {
                "matchConditions": conditions,
                "name": "slow.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "timeoutSeconds": 10,
                "clientConfig": {
                    "url": f"https://127.0.0.1:{port}/",
                    "caBundle": base64.b64encode((folder / "hook.pem").read_bytes()).decode(),
                },
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [rule or UPDATES],
            }
        ],
    }
    path = f"{RULES}/{'mutating' if mutating else 'validating'}webhookconfigurations"
    await kube.create(path, body)
    try:
        yield hook
    finally:
        await kube.delete(f"{path}/{name}")
        await runner.cleanup()


@contextlib.asynccontextmanager
async def policy(
    kube: Kube,
    namespace: str,
    expression: str,
    *,
    rule: dict[str, Any] | None = None,
    reason: str | None = None,
) -> AsyncIterator[None]:
    """Have a policy refuse whatever does not meet an expression, in one namespace."""
    name = f"test-{secrets.token_hex(4)}"
    validation = {"expression": expression, "message": "image not signed"}
    spec = {
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceRules": [rule or UPDATES],
        },
        "validations": [{**validation, **({"reason": reason} if reason else {})}],
    }
    policies = f"{RULES}/validatingadmissionpolicies"
    bindings = f"{RULES}/validatingadmissionpolicybindings"
    await kube.create(policies, {"metadata": {"name": name}, "spec": spec})
    binding = {"policyName": name, "validationActions": ["Deny"]}
    await kube.create(bindings, {"metadata": {"name": name}, "spec": binding})
    try:
        yield
    finally:
        await kube.delete(f"{bindings}/{name}")
        await kube.delete(f"{policies}/{name}")


async def until_refused(kube: Kube, path: str) -> None:
    """Wait until the API server knows what it has to ask, which refuses updates of this object."""
    await _until(kube, path, refused=True)


async def until_allowed(kube: Kube, path: str) -> None:
    """Wait until nothing refuses updates of this object any more."""
    await _until(kube, path, refused=False)


async def until_asked(kube: Kube, path: str, hook: Webhook) -> None:
    """Wait until the API server asks a webhook about updates of this object."""
    async with asyncio.timeout(SOON):
        while not hook.asked:
            await _touch(kube, path)
            await asyncio.sleep(0.1)


async def _until(kube: Kube, path: str, *, refused: bool) -> None:
    async with asyncio.timeout(SOON):
        while await _touch(kube, path) is not refused:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.1)


async def _touch(kube: Kube, path: str) -> bool:
    """Update an object; return whether that was refused."""
    try:
        await kube.patch(path, {"metadata": {"annotations": {"touched": secrets.token_hex(4)}}})
    except ApiError:
        return True
    return False


def _certify(folder: Path) -> None:
    """Make a certificate for 127.0.0.1 that signs itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-keyout", "hook.key", "-out", "hook.pem",
         "-subj", "/CN=hook", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
