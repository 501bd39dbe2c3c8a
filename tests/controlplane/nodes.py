"""A node agent that plays the kubelet: pods get an address, become Ready, and end when deleted.

No container runs, unless its image is a program of this machine (`controlplane.containers`), and
that is asked for. `NodeAgent` is the one that plays; `PodControl` makes its pods misbehave, from
any process, because it speaks to both through the API only. People can do the same with kubectl
and the annotations below.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import logging
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from controlplane.kube import STRATEGIC, ApiError, Kube

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from controlplane.containers import Containers
    from controlplane.sites import Site

START_SECONDS = "node-agent/start-seconds"
"""Annotation: a pod becomes Ready so long after it was scheduled (default: the agent's)."""
STOP_SECONDS = "node-agent/stop-seconds"
"""Annotation: a deleted pod is gone so long after its deletion (default: the agent's)."""
STALLED = "node-agent/stalled"
"""Annotation: while it is there, the agent does nothing about the pod, as if its node were cut off.

What is already waiting for its time is carried out all the same.
"""

_log = logging.getLogger(__name__)
_CAPACITY = {"cpu": "10k", "memory": "10Ti", "pods": "60k"}
_AT_ONCE = 32
_POLL = 0.1


class NodeAgent:
    """Creates a Node, and plays the kubelet for the pods bound to it, while it is entered.

    Args:
        site: where.
        node: the Node's name.
        pod_subnet: for the pods' addresses; agents of one site need different ones, also one
            after another, for an agent begins at the first address.
        start_seconds: from a pod's binding to Ready.
        stop_seconds: from a pod's graceful deletion to its end.
        containers: runs the containers that are programs of this machine. Such a pod is as ready
            as its program says, and ends when, and as, its program does.
    """

    def __init__(
        self,
        site: Site,
        *,
        node: str = "node-1",
        pod_subnet: str = "10.244.0.0/16",
        start_seconds: float = 0,
        stop_seconds: float = 0.1,
        containers: Containers | None = None,
    ) -> None:
        self._kube = Kube(site, user="node-agent")
        self._node = node
        self._addresses = ipaddress.ip_network(pod_subnet).hosts()
        self._host = str(next(self._addresses))
        self._start_seconds = start_seconds
        self._stop_seconds = stop_seconds
        self._containers = containers
        self._begun: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._few = asyncio.Semaphore(_AT_ONCE)
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Create the Node, and start to play."""
        await self._kube.__aenter__()
        try:
            await self._join()
        except BaseException:
            await self._kube.__aexit__()
            raise
        self._watching = asyncio.create_task(self._watch(), name=f"node agent of {self._node}")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop playing; Node and pods stay as they are."""
        tasks = [*self._begun.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._containers:
            self._containers.kill()
        await self._kube.__aexit__()

    async def _join(self) -> None:
        status = {
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "conditions": [_condition("Ready")],
            "addresses": [{"type": "InternalIP", "address": self._host}],
            "nodeInfo": {"kubeletVersion": "v0.0.0-none"},
        }
        labels = {"kubernetes.io/hostname": self._node, "kubernetes.io/os": "linux"}
        node = {"metadata": {"name": self._node, "labels": labels}, "status": status}
        try:
            await self._kube.create("/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:
                raise
        # The API server taints a new node; a controller that we do not run would remove that.
        await self._kube.patch(f"/api/v1/nodes/{self._node}", {"spec": {"taints": None}})

    async def _watch(self) -> None:
        """Look at every pod of the node whenever it changes, for ever."""
        selector = {"fieldSelector": f"spec.nodeName={self._node}"}
        while True:
            try:
                pods = await self._kube.get("/api/v1/pods", **selector)
                for pod in pods["items"]:
                    self._look(pod)
                version = pods["metadata"]["resourceVersion"]
                async for kind, pod in self._kube.watch(
                    "/api/v1/pods", resourceVersion=version, **selector
                ):
                    if kind == "ERROR":
                        break
                    if kind == "DELETED":
                        self._forget(pod["metadata"]["uid"])
                    else:
                        self._look(pod)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                _log.info("the watch of %s ended: %s", self._node, error)
                await asyncio.sleep(0.2)

    def _look(self, pod: Mapping[str, Any]) -> None:
        annotations = pod["metadata"].get("annotations", {})
        if STALLED in annotations:
            return
        if "deletionTimestamp" in pod["metadata"]:
            seconds = float(annotations.get(STOP_SECONDS, self._stop_seconds))
            self._begin(pod, "stop", self._stop(pod, after=seconds))
        elif pod["status"].get("phase") == "Pending":
            seconds = float(annotations.get(START_SECONDS, self._start_seconds))
            self._begin(pod, "start", self._start(pod, after=seconds))

    def _begin(self, pod: Mapping[str, Any], what: str, work: Coroutine[Any, Any, None]) -> None:
        """Do something about a pod once."""
        key = (pod["metadata"]["uid"], what)
        if key in self._begun and not self._failed(key):
            work.close()
        else:
            self._begun[key] = asyncio.create_task(work, name=f"{what} {pod['metadata']['name']}")

    def _failed(self, key: tuple[str, str]) -> bool:
        task = self._begun[key]
        return task.done() and not task.cancelled() and task.exception() is not None

    def _forget(self, uid: str) -> None:
        for what in ("start", "stop"):
            if task := self._begun.pop((uid, what), None):
                task.cancel()

    async def _start(self, pod: Mapping[str, Any], *, after: float) -> None:
        await asyncio.sleep(after)
        address = str(next(self._addresses))
        if self._containers and self._containers.container_of(pod):
            await self._run(pod, address)
        else:
            await self._report(pod, address)

    async def _run(self, pod: Mapping[str, Any], address: str) -> None:
        """Run the program of a pod until it ends for good, and report what it does."""
        assert self._containers
        program = await self._containers.start(self._kube, pod)
        shown: tuple[bool, int] | None = None
        restarts = 0
        policy = pod["spec"].get("restartPolicy", "Always")
        while True:
            code = program.process.exit_code
            if code is not None and (policy == "Never" or (policy == "OnFailure" and not code)):
                phase = "Failed" if code else "Succeeded"
                terminated = {"exitCode": code, "startedAt": _now(), "finishedAt": _now()}
                state = {"terminated": terminated}
                await self._report(pod, address, phase=phase, ready=False, state=state)
                return
            if code is not None:
                await asyncio.sleep(1)  # the kubelet's first pause is 10 s
                restarts += 1
                program.process.start()
            if shown != (now := (await program.ready(), restarts)):
                shown = now
                await self._report(pod, address, ready=now[0], restarts=restarts)
            await asyncio.sleep(_POLL)

    async def _report(
        self,
        pod: Mapping[str, Any],
        address: str,
        *,
        phase: str = "Running",
        ready: bool = True,
        restarts: int = 0,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the status of a pod."""
        containers = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "none",
                "containerID": f"none://{pod['metadata']['uid']}",
                "ready": ready,
                "started": True,
                "restartCount": restarts,
                "state": state or {"running": {"startedAt": _now()}},
            }
            for container in pod["spec"]["containers"]
        ]
        conditions = [
            _condition(kind, ready=ready or kind == "Initialized")
            for kind in ("Initialized", "ContainersReady", "Ready")
        ]
        status = {
            "phase": phase,
            "hostIP": self._host,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "startTime": _now(),
            "conditions": conditions,
            "containerStatuses": containers,
        }
        async with self._few:
            with _unless_gone():
                await _set_status(self._kube, pod, status)

    async def _stop(self, pod: Mapping[str, Any], *, after: float) -> None:
        if self._containers and self._containers.container_of(pod):
            uid = pod["metadata"]["uid"]
            if start := self._begun.get((uid, "start")):
                start.cancel()
                await asyncio.wait([start])
            grace = pod["metadata"].get("deletionGracePeriodSeconds", 30)
            await self._containers.stop(uid, timeout=grace)
        else:
            await asyncio.sleep(after)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        async with self._few:
            with _unless_gone():
                await self._kube.request("DELETE", _path(pod), body=options)


class PodControl:
    """Switches for the pods of any node agent of a site; every method is one write.

    Pods are given as the API shows them: name and namespace are used, nothing else.
    """

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    async def set_ready(self, pod: Mapping[str, Any], *, ready: bool) -> Any:
        """Let the readiness probe fail, or succeed again."""
        return await self._report(pod, ready=ready)

    async def fail(self, pod: Mapping[str, Any]) -> Any:
        """Let the pod end as Failed; a ReplicaSet makes another one."""
        return await self._report(pod, ready=False, phase="Failed", reason="Crashed")

    async def stall(self, pod: Mapping[str, Any]) -> None:
        """Cut the pod's node off: nothing changes any more, and a deleted pod hangs."""
        await self._annotate(pod, {STALLED: "true"})

    async def resume(self, pod: Mapping[str, Any]) -> None:
        """Go on."""
        await self._annotate(pod, {STALLED: None})

    async def stop_slowly(self, pod: Mapping[str, Any], seconds: float) -> None:
        """Let the pod take its time when it is deleted."""
        await self._annotate(pod, {STOP_SECONDS: str(seconds)})

    async def _report(self, pod: Mapping[str, Any], *, ready: bool, **status: Any) -> Any:
        found = await self._kube.get(_path(pod))
        status["containerStatuses"] = [
            {**container, "ready": ready} for container in found["status"]["containerStatuses"]
        ]
        status["conditions"] = [
            _condition(kind, ready=ready) for kind in ("ContainersReady", "Ready")
        ]
        return await _set_status(self._kube, pod, status)

    async def _annotate(self, pod: Mapping[str, Any], values: Mapping[str, str | None]) -> None:
        await self._kube.patch(_path(pod), {"metadata": {"annotations": values}})


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    """Ignore that a pod is gone already (404), or that its name is another pod's now (409)."""
    try:
        yield
    except ApiError as error:
        if error.status not in {404, 409}:
            raise


def _path(pod: Mapping[str, Any]) -> str:
    about = pod["metadata"]
    return f"/api/v1/namespaces/{about['namespace']}/pods/{about['name']}"


async def _set_status(kube: Kube, pod: Mapping[str, Any], status: Mapping[str, Any]) -> Any:
    return await kube.patch(f"{_path(pod)}/status", {"status": status}, content_type=STRATEGIC)


def _condition(kind: str, *, ready: bool = True) -> dict[str, str]:
    return {"type": kind, "status": str(ready), "lastTransitionTime": _now()}


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
