"""Where the demo plays: a control plane of its own, or a cluster that somebody has."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from controlplane.build import programs
from controlplane.natsserver import NatsServer
from controlplane.nodes import NodeAgent
from controlplane.processes import Process, free_port, http_status
from controlplane.servers import ControlPlane

ROOT = Path(__file__).parents[1]
LABEL = "incumbent.dev/billing"
TTL = 12
"""Seconds: enough for a slow machine to start an operator anew within them."""
_POLL = 0.02
_Say = Callable[[str], None]

T = TypeVar("T")


class DemoError(Exception):
    """Something did not hold; the message is one sentence."""


@dataclass(frozen=True)
class Change:
    """A pod as a watch showed it, and when."""

    at: float
    deleted: bool
    name: str
    label: str
    ready: bool


@dataclass
class Stage:
    """A cluster, a NATS server and an operator process."""

    kubectl_command: list[str]
    environment: Mapping[str, str]
    namespace: str
    nats: NatsServer
    operator: Process
    api: aiohttp.ClientSession
    ready_is_ours: bool
    """Whether no kubelet will write the readiness of a pod again."""
    changes: list[Change] = field(default_factory=list)

    async def kubectl(self, *arguments: str) -> str:
        """Run kubectl in the namespace and return what it printed."""
        process = await asyncio.create_subprocess_exec(
            *self.kubectl_command,
            f"--namespace={self.namespace}",
            *arguments,
            env=dict(self.environment),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complaint = await process.communicate()
        if process.returncode:
            msg = f"kubectl {' '.join(arguments)} failed: {complaint.decode().strip()}"
            raise DemoError(msg)
        return printed.decode()

    async def get(self, path: str) -> Any:
        """Read something of the namespace; None if it is not there."""
        async with self.api.get(self._path(path)) as response:
            if response.status == 404:  # noqa: PLR2004
                return None
            response.raise_for_status()
            return await response.json()

    async def pods(self) -> list[Any]:
        """Return the pods of the namespace that are not being deleted."""
        pods = (await self.get("api/v1:pods"))["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    async def leader(self) -> Any | None:
        """Return the pod with the leader label; None if there is none.

        Raises:
            DemoError: there are two.
        """
        pods = (await self.get("api/v1:pods"))["items"]
        leaders = [pod for pod in pods if pod["metadata"].get("labels", {}).get(LABEL) == "leader"]
        if len(leaders) > 1:
            msg = f"two pods carry the leader label: {[pod['metadata']['name'] for pod in leaders]}"
            raise DemoError(msg)
        return next(iter(leaders), None)

    async def election(self) -> Any | None:
        """Return the LeaderElection."""
        return await self.get("apis/incumbent.dev/v1alpha1:leaderelections/billing")

    async def addresses(self) -> list[str]:
        """Return the addresses in the EndpointSlices of the Service, ready ones only."""
        slices = await self.get("apis/discovery.k8s.io/v1:endpointslices")
        return [
            address
            for found in slices["items"]
            if found["metadata"]["labels"].get("kubernetes.io/service-name") == "billing-leader"
            for endpoint in found.get("endpoints") or []
            if endpoint["conditions"].get("ready")
            for address in endpoint["addresses"]
        ]

    async def record(self) -> str | None:
        """Read the key as `nats kv get` does: the plain value; None if there is none."""
        import nats  # noqa: PLC0415
        from nats.js.errors import KeyNotFoundError  # noqa: PLC0415

        client = await nats.connect(self.nats.url)
        try:
            bucket = await client.jetstream().key_value("LEADER_ELECTION")
            entry = await bucket.get(f"{self.namespace}.billing")
        except KeyNotFoundError:
            return None
        else:
            # What is left after an expiry is a marker without a value.
            return (entry.value or b"").decode() or None
        finally:
            await client.close()

    async def set_ready(self, pod: Mapping[str, Any], *, ready: bool) -> None:
        """Say in the pod's status whether it is ready, as its kubelet would."""
        path = self._path(f"api/v1:pods/{pod['metadata']['name']}/status")
        condition = {"type": "Ready", "status": str(ready)}
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        body = json.dumps({"status": {"conditions": [condition]}})
        async with self.api.patch(path, data=body, headers=headers) as response:
            response.raise_for_status()

    async def until(
        self, seconds: float, sentence: str, look: Callable[[], Awaitable[T | None]]
    ) -> T:
        """Return the first thing that `look` finds.

        Raises:
            DemoError: it found nothing within so many seconds; `sentence` says what was expected.
        """
        deadline = time.monotonic() + seconds
        while not (found := await look()):
            if not self.operator.running:
                msg = f"the operator ended; see {self.operator.log}"
                raise DemoError(msg)
            if time.monotonic() > deadline:
                msg = f"{sentence}, but not within {seconds:g} s"
                raise DemoError(msg)
            await asyncio.sleep(_POLL)
        return found

    def _path(self, path: str) -> str:
        group, _, rest = path.partition(":")
        return f"/{group}/namespaces/{self.namespace}/{rest}"

    async def follow_pods(self) -> None:
        """Keep `changes`: every change of a pod, with the time at which it was seen."""
        version = (await self.get("api/v1:pods"))["metadata"]["resourceVersion"]
        query = {"watch": "true", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None)
        path = self._path("api/v1:pods")
        async with self.api.get(path, params=query, timeout=timeout) as response:
            async for line in response.content:
                event = json.loads(line)
                self._note(event["type"], event["object"])

    def _note(self, kind: str, pod: Any) -> None:
        metadata = pod["metadata"]
        conditions = pod.get("status", {}).get("conditions") or []
        self.changes.append(
            Change(
                at=time.monotonic(),
                deleted=kind == "DELETED" or "deletionTimestamp" in metadata,
                name=metadata["name"],
                label=metadata.get("labels", {}).get(LABEL, ""),
                ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
            )
        )


@contextlib.asynccontextmanager
async def stage(context: str | None, folder: Path, say: _Say) -> AsyncIterator[Stage]:
    """Set everything up, and take everything down again, whatever happens.

    Args:
        context: of the user's kubeconfig; None: a control plane of our own.
        folder: for logs and data.
        say: is told what takes a while.

    Raises:
        DemoError: something is missing.
    """
    environment = dict(os.environ)
    async with contextlib.AsyncExitStack() as stack:
        if context is None:
            kubectl = [str(programs()["kubectl"])]
            say("starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler")
            plane = await stack.enter_async_context(ControlPlane(folder))
            await stack.enter_async_context(NodeAgent(plane.site))
            environment["KUBECONFIG"] = str(plane.site.kubeconfig)
            access = [f"--kubeconfig={plane.site.kubeconfig}"]
        else:
            found = shutil.which("kubectl")
            kubectl = [found or str(programs()["kubectl"])]
            access = [f"--context={context}"]
        say("starting nats-server with JetStream")
        nats = await stack.enter_async_context(NatsServer(folder / "nats"))
        namespace = f"incumbent-demo-{secrets.token_hex(3)}"
        proxy = await _proxy([*kubectl, *access], environment, folder)
        stack.callback(proxy[0].kill)
        api = await stack.enter_async_context(aiohttp.ClientSession(proxy[1], read_bufsize=2**20))
        operator = Process(
            [
                Path(sys.executable).with_name("incumbent"),
                "operator",
                *access,
                f"--nats-url={nats.url}",
                "--create-bucket",
                f"--bucket-ttl={TTL}s",
                f"--namespace={namespace}",
                f"--http-address=127.0.0.1:{free_port()}",
                "--log-format=text",
            ],
            name="operator",
            folder=folder,
            environment=environment,
        )
        play = Stage(
            [*kubectl, *access], environment, namespace, nats, operator, api, context is None
        )
        await play.kubectl("create", "namespace", namespace)
        stack.push_async_callback(_take_down, play)
        stack.callback(operator.kill)
        yield play


async def _take_down(play: Stage) -> None:
    """Delete the namespace. The election is gone by then, or its finalizer is taken away."""
    with contextlib.suppress(DemoError):
        patch = '{"metadata":{"finalizers":null}}'
        await play.kubectl("patch", "leaderelection", "billing", "--type=merge", f"--patch={patch}")
    with contextlib.suppress(DemoError):
        await play.kubectl("delete", "namespace", play.namespace, "--wait=false")


async def _proxy(
    kubectl: list[str], environment: Mapping[str, str], folder: Path
) -> tuple[Process, str]:
    """Let kubectl log in, in whatever way the context says, and give us plain HTTP."""
    port = free_port()
    process = Process(
        [*kubectl, "proxy", f"--port={port}", "--reject-paths=^$"],
        name="kubectl-proxy",
        folder=folder,
        environment=environment,
    )
    process.start()
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        return await http_status(f"{url}/version") == 200  # noqa: PLR2004

    await process.wait_until(answers, timeout=20)
    return process, url
