"""An operator with one fault on purpose, which the checker has to catch.

    python -m chaos.planted FAULT FOLDER operator --flags

Besides, files in the folder ask for what a network may do to it, with a fault or without:

========  =========================================================================
hold      JSON: `pod`, `what`, `lost` and `most`. So many writes are not sent before
          `release` is there: those of its `leader` label, of `other` labels, or of a
          `slice` that leads to it. If they are lost, whoever waits for the answer is
          told so when its time is up
release   what is held is sent
========  =========================================================================

The only module here that imports the operator, and nothing here imports it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from incumbent import clock
from incumbent.cli import main as cli
from incumbent.errors import ClusterError, ClusterUnreachable
from incumbent.kubernetes.api import ApiServer
from incumbent.kubernetes.connection import Connection
from incumbent.kubernetes.objects import Pod
from incumbent.kubernetes.ports import PodEvent, PodsReplaced
from incumbent.pods.cache import NamespacePods
from incumbent.pods.eligibility import LEADER
from incumbent.pods.labels import Labels
from incumbent.replicas.confirmation import Confirmation, Later

log = structlog.get_logger("incumbent.planted")

Written = TypeVar("Written")

POLL = 0.02
TOO_LATE = 0.5
"""Seconds after which a strip comes that should have come first."""

_tasks: set[asyncio.Task[None]] = set()


def label_first() -> None:
    """Label the new pod before the old one is stripped."""
    real = Labels.strip

    async def strip(
        self: Labels, pod: Pod, value: str | None, *, until: float, patient: bool = True
    ) -> None:
        async def late() -> None:
            await asyncio.sleep(TOO_LATE)
            with contextlib.suppress(ClusterError):
                await real(self, pod, value, until=until, patient=patient)

        _spawn(late())

    Labels.strip = strip  # type: ignore[method-assign]


def skip_confirmation() -> None:
    """Send the strip once, and go on whatever comes of it."""
    real = Labels.strip

    async def strip(
        self: Labels, pod: Pod, value: str | None, *, until: float, patient: bool = True
    ) -> None:
        with contextlib.suppress(ClusterError):
            await real(self, pod, value, until=clock.now())
        self._doubtful.pop(pod.uid, None)

    Labels.strip = strip  # type: ignore[method-assign]


def no_resource_version() -> None:
    """Write labels whatever became of the pod since it was looked at."""
    real = ApiServer.patch_pod

    async def patch_pod(self: ApiServer, pod: Pod, **change: Any) -> Pod:
        return await real(self, replace(pod, resource_version=""), **change)

    ApiServer.patch_pod = patch_pod  # type: ignore[method-assign]


def empty_strip() -> None:
    """Take a pod that shows no leader label for stripped."""
    real = Labels.strip

    async def strip(
        self: Labels, pod: Pod, value: str | None, *, until: float, patient: bool = True
    ) -> None:
        if pod.resource_version and pod.labels.get(self.resource.label_key) != LEADER:
            self._doubtful.pop(pod.uid, None)
        else:
            await real(self, pod, value, until=until, patient=patient)

    Labels.strip = strip  # type: ignore[method-assign]


def trust_status() -> None:
    """Take a patch that was answered with 200 for carried out as it was sent."""
    real = ApiServer.patch_pod

    async def patch_pod(
        self: ApiServer, pod: Pod, *, labels: Mapping[str, str | None], **more: Any
    ) -> Pod:
        patched = await real(self, pod, labels=labels, **more)
        if patched.resource_version != pod.resource_version:
            return patched
        asked = {name: value for name, value in labels.items() if value is not None}
        others = {name: value for name, value in patched.labels.items() if name not in labels}
        version = str(int(pod.resource_version) - 1)  # another one
        return replace(patched, labels=others | asked, resource_version=version)

    ApiServer.patch_pod = patch_pod  # type: ignore[method-assign]


def wall_clock() -> None:
    """Count deadlines on the wall clock."""
    clock.now = time.time


def no_doubt() -> None:
    """Take a record that cannot be seen for one that somebody renews."""
    Confirmation.act = lambda *_, **__: Later(math.inf)  # type: ignore[method-assign]


def no_warrant() -> None:
    """Label a pod again without a bucket write: it was allowed before."""
    real = Labels.add
    granted: dict[str, int] = {}

    async def add(
        self: Labels, pod: Pod, *, warrant: Callable[[], Awaitable[int | None]], **more: Any
    ) -> Pod | None:
        async def once() -> int | None:
            token = granted.get(pod.uid) or await warrant()
            if token is not None:
                granted[pod.uid] = token
            return token

        return await real(self, pod, warrant=once, **more)

    Labels.add = add  # type: ignore[method-assign]


def keep_deleted() -> None:
    """After a watch that broke, keep the pods that are not listed any more."""
    real = NamespacePods._take

    def take(self: NamespacePods, event: PodEvent) -> None:
        if isinstance(event, PodsReplaced):
            listed = {pod.name: pod for pod in event.pods}
            event = PodsReplaced(tuple(((self.pods or {}) | listed).values()))
        real(self, event)

    NamespacePods._take = take  # type: ignore[method-assign]


def trust_deleted() -> None:
    """Watch the selected pods only, and take one that the watch calls deleted for gone."""
    real, real_send = Labels.strip, Connection.send

    async def send(
        self: Connection,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Any:
        if query and "watch" in query and path.endswith("/pods"):
            query = {**query, "labelSelector": "app"}
        return await real_send(self, method, path, query=query, **more)

    async def strip(
        self: Labels, pod: Pod, value: str | None, *, until: float, patient: bool = True
    ) -> None:
        if pod.resource_version:
            await real(self, pod, value, until=until, patient=patient)

    Connection.send = send  # type: ignore[method-assign]
    Labels.strip = strip  # type: ignore[method-assign]


def slice_late() -> None:
    """Write slices whatever became of them since they were looked at."""
    real = ApiServer.patch_slice

    async def patch_slice(
        self: ApiServer, seen: Mapping[str, Any], change: Mapping[str, Any], **more: Any
    ) -> dict[str, Any]:
        metadata = {**seen["metadata"], "resourceVersion": None}
        return await real(self, {**seen, "metadata": metadata}, change, **more)

    ApiServer.patch_slice = patch_slice  # type: ignore[method-assign]


def slice_both() -> None:
    """Bring the new leader into the slice, and leave the old one in it for a moment."""
    real = ApiServer.patch_slice

    async def patch_slice(
        self: ApiServer, seen: Mapping[str, Any], change: Mapping[str, Any], **more: Any
    ) -> dict[str, Any]:
        both = [*(seen.get("endpoints") or ()), *change["endpoints"]]
        if len(both) > 1:
            seen = await real(self, seen, {**change, "endpoints": both}, **more)
        return await real(self, seen, change, **more)

    ApiServer.patch_slice = patch_slice  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "label-first": label_first,
    "skip-confirmation": skip_confirmation,
    "no-resource-version": no_resource_version,
    "empty-strip": empty_strip,
    "trust-status": trust_status,
    "wall-clock": wall_clock,
    "no-doubt": no_doubt,
    "no-warrant": no_warrant,
    "keep-deleted": keep_deleted,
    "trust-deleted": trust_deleted,
    "slice-late": slice_late,
    "slice-both": slice_both,
}


def obey(folder: Path) -> None:
    """Do to the operator's requests what the files of a folder ask for."""
    real, real_slice = ApiServer.patch_pod, ApiServer.patch_slice
    held = 0

    async def perhaps(
        pod: str, what: str, timeout: float, write: Callable[[], Awaitable[Written]]
    ) -> Written:
        """Send a write, unless it is to be held back."""
        nonlocal held
        asked: dict[str, Any] = {}
        with contextlib.suppress(OSError):
            asked = json.loads((folder / "hold").read_text())
        if not asked or (asked["pod"], asked["what"]) != (pod, what) or held >= asked["most"]:
            return await write()
        held += 1
        log.info("write.held", pod=pod)

        async def send() -> Written:
            while not (folder / "release").exists():  # noqa: ASYNC110
                await asyncio.sleep(POLL)
            return await write()

        async def deliver() -> None:
            outcome = "stored"
            try:
                await send()
            except ClusterError as error:
                outcome = str(error)
            log.info("write.delivered", pod=pod, outcome=outcome)

        if not asked["lost"]:
            return await send()
        _spawn(deliver())
        await asyncio.sleep(timeout)
        msg = "The network holds a write back"
        raise ClusterUnreachable(msg)

    async def patch_pod(
        self: ApiServer, pod: Pod, *, labels: Mapping[str, str | None], timeout: float, **more: Any
    ) -> Pod:
        what = "leader" if LEADER in labels.values() else "other"
        write = partial(real, self, pod, labels=labels, timeout=timeout, **more)
        return await perhaps(pod.name, what, timeout, write)

    async def patch_slice(
        self: ApiServer,
        seen: Mapping[str, Any],
        change: Mapping[str, Any],
        *,
        timeout: float,
        **more: Any,
    ) -> dict[str, Any]:
        leader = next((one["targetRef"]["name"] for one in change["endpoints"]), "")
        write = partial(real_slice, self, seen, change, timeout=timeout, **more)
        return await perhaps(leader, "slice", timeout, write)

    ApiServer.patch_pod = patch_pod  # type: ignore[method-assign]
    ApiServer.patch_slice = patch_slice  # type: ignore[method-assign]


def _spawn(work: Coroutine[Any, Any, None]) -> None:
    """Do something beside what goes on."""
    task = asyncio.create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def main() -> None:
    """Plant the fault, and be the operator."""
    fault, folder, *arguments = sys.argv[1:]
    FAULTS[fault]()
    obey(Path(folder))
    cli.main(arguments, prog_name="incumbent")


if __name__ == "__main__":
    main()
