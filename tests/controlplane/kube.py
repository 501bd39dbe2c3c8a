"""A small client of the Kubernetes API for tests, and kubectl.

It has nothing in common with the client of the operator, so neither hides a fault of the other.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from controlplane.sites import Site

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
_POLL = 0.02


class ApiError(Exception):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kube:
    """A connection to a site; use it as an asynchronous context manager.

    Paths are those of the API: `/api/v1/namespaces/default/pods`.
    """

    def __init__(self, site: Site, *, user: str = "admin") -> None:
        self.site = site
        self._user = user
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Connect lazily."""
        token = self.site.tokens[self._user]
        self._session = aiohttp.ClientSession(
            self.site.url,
            headers={"Authorization": f"Bearer {token}"},
            connector=aiohttp.TCPConnector(ssl=self.site.ssl_context(), limit=0),
            timeout=aiohttp.ClientTimeout(sock_connect=5),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._session:
            await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request, and return the answer's JSON.

        Raises:
            ApiError: the status is not a success.
        """
        assert self._session, "use it as an asynchronous context manager"
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": content_type}
        async with self._session.request(
            method, path, data=data, headers=headers, params=params
        ) as response:
            answer = await response.json(content_type=None)
            if not response.ok:
                raise ApiError(response.status, str((answer or {}).get("message")))
            return answer

    async def get(self, path: str, **params: str) -> Any:
        """Read an object, or a list of them."""
        return await self.request("GET", path, params=params)

    async def create(self, path: str, body: object) -> Any:
        """Create an object in the collection at `path`."""
        return await self.request("POST", path, body=body)

    async def patch(self, path: str, body: object, *, content_type: str = MERGE) -> Any:
        """Change an object."""
        return await self.request("PATCH", path, body=body, content_type=content_type)

    async def delete(self, path: str, *, grace: int | None = None) -> None:
        """Delete an object; not waiting for its finalizers, nor for a pod to end."""
        options = {} if grace is None else {"gracePeriodSeconds": grace}
        await self.request("DELETE", path, body=options | {"propagationPolicy": "Background"})

    async def watch(self, path: str, **params: str) -> AsyncGenerator[tuple[str, Any]]:
        """Yield type and object of every change, until the server ends the watch."""
        assert self._session, "use it as an asynchronous context manager"
        async with self._session.get(path, params=params | {"watch": "true"}) as response:
            if not response.ok:
                raise ApiError(response.status, await response.text())
            buffer, connection = b"", response.connection
            try:
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        yield event["type"], event["object"]
            finally:
                # To end TLS politely takes an answer, and may outlive the loop of a test.
                if connection and connection.transport:
                    connection.transport.abort()

    async def until(
        self, path: str, condition: Callable[[Any], object], *, timeout: float = 20, **params: str
    ) -> Any:
        """Read `path` over and over until `condition` holds; None stands for a missing object.

        Raises:
            TimeoutError: it does not hold after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                found = await self.get(path, **params)
            except ApiError as error:
                if error.status != 404:
                    raise
                found = None
            if condition(found):
                return found
            if time.monotonic() > deadline:
                ((found or {}).get("metadata") or {}).pop("managedFields", None)
                msg = f"{path} is not as expected after {timeout} s: {json.dumps(found)[:6000]}"
                raise TimeoutError(msg)
            await asyncio.sleep(_POLL)

    async def namespace(self, name: str) -> None:
        """Create a namespace, and wait until pods can be created in it."""
        await self.create("/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        await self.until(account, lambda found: found)

    async def deployment(
        self,
        namespace: str,
        name: str,
        *,
        replicas: int = 3,
        annotations: Mapping[str, str] | None = None,
    ) -> list[Any]:
        """Create a Deployment of pods labelled `app: name`, and return them once all are Ready.

        `annotations` go on the pods, for example those of `controlplane.nodes`.
        """
        labels = {"app": name}
        template = {
            "metadata": {"labels": labels, "annotations": dict(annotations or {})},
            "spec": {"containers": [{"name": "main", "image": "none.invalid/none"}]},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        body = {"metadata": {"name": name}, "spec": spec}
        await self.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", body)
        await self.until(
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}",
            lambda found: found["status"].get("readyReplicas", 0) == replicas,
        )
        return await self.pods(namespace, f"app={name}")

    async def pods(self, namespace: str, selector: str = "") -> list[Any]:
        """Return the pods with these labels."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        found: list[Any] = (await self.get(path, labelSelector=selector))["items"]
        return found

    async def apply(self, text: str) -> None:
        """Apply every document of a YAML text, as kubectl does."""
        await kubectl(self.site, "apply", "--server-side", "-f", "-", stdin=text)

    async def apply_definitions(self, text: str) -> None:
        """Apply a YAML text of CustomResourceDefinitions, and wait until they are served."""
        await self.apply(text)
        for document in yaml.safe_load_all(text):
            await self.until(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/"
                + document["metadata"]["name"],
                lambda found: has_condition(found, "Established"),
            )

    async def service_account_token(self, namespace: str, name: str) -> str:
        """Return a token of an existing service account; see `Site.kubeconfig_for`."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        return str((await self.create(path, {"spec": {}}))["status"]["token"])


def has_condition(thing: Mapping[str, Any] | None, kind: str, status: str = "True") -> bool:
    """Return whether an object has a condition of this type with this status."""
    conditions = ((thing or {}).get("status") or {}).get("conditions") or []
    return any(found["type"] == kind and found["status"] == status for found in conditions)


async def kubectl(site: Site, *arguments: str, stdin: str = "", user: str = "admin") -> str:
    """Run kubectl, and return what it printed.

    Raises:
        AssertionError: it failed; the message is what it said.
    """
    process = await asyncio.create_subprocess_exec(
        site.kubectl,
        f"--kubeconfig={site.kubeconfig_for(user)}",
        f"--cache-dir={site.folder}/kubectl-cache",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaint = await process.communicate(stdin.encode())
    assert process.returncode == 0, f"kubectl {' '.join(arguments)}: {complaint.decode()}"
    return printed.decode()
