"""A namespace that does what it can to keep an operator busy: see `bench.hostile`.

``python -m bench.hostile_tenant SITE NAMESPACE WORKERS MISSING NICE`` reads a site as JSON from a
file. It makes all pods of the namespace NotReady but those labelled `app: churn`, names so many
buckets that do not exist, and creates and deletes elections without a pause, so many at a time,
until SIGTERM. Then it prints as JSON how many. NICE is how much the process yields to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

import aiohttp
import uvloop

from controlplane.kube import ApiError, Kube
from controlplane.sites import Site
from incumbent.kubernetes.resource import API_VERSION, KIND, elections_path, pods_path

GIVE_UP = 60.0
"""Seconds after which a worker does not wait any longer for an election to be gone."""
LONG_NOTE = "x" * 200_000
"""What an annotation may hold at most is a little more, for all of an object together."""
_PAUSE = 0.5


class Tenant:
    """Whoever may create elections and pods in one namespace, and nothing else."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self._namespace = namespace
        self._path = elections_path(namespace)
        self._names = itertools.count()
        self._ends: dict[str, asyncio.Event] = {}
        self._created: set[str] = set()
        self.counts: Counter[str] = Counter(created=0, gone=0, stuck=0, refused=0)

    async def run(self, *, workers: int, missing: int) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._unready())
            group.create_task(self._name_missing_buckets(missing))
            for number in range(workers):
                group.create_task(self._churn(patient=bool(number % 2)))

    async def _churn(self, *, patient: bool) -> None:
        """Create an election and delete it, over and over.

        A patient one gives it a pod that could lead, and half a second.
        """
        while True:
            name = f"churn-{next(self._names)}"
            end = self._ends[name] = asyncio.Event()
            try:
                await self._create(name, app="churn" if patient else "nobody")
                self._created.add(name)
                self.counts["created"] += 1
                await asyncio.sleep(_PAUSE if patient else 0)
                await self._kube.delete(f"{self._path}/{name}")
                async with asyncio.timeout(GIVE_UP):
                    await end.wait()
                self.counts["gone"] += 1
            except TimeoutError:
                self.counts["stuck"] += 1
            except (ApiError, aiohttp.ClientError, OSError):
                self.counts["refused"] += 1
                await asyncio.sleep(_PAUSE)
            finally:
                self._created.discard(name)
                del self._ends[name]

    async def _create(
        self, name: str, *, app: str = "nobody", bucket: str = "", note: str = ""
    ) -> None:
        spec = {"selector": {"matchLabels": {"app": app}}}
        metadata = {"name": name, "annotations": {"note": note or name}}
        body = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": metadata,
            "spec": spec | ({"bucket": bucket} if bucket else {}),
        }
        await self._kube.create(self._path, body)

    async def _name_missing_buckets(self, count: int) -> None:
        for number in range(count):
            note = LONG_NOTE if number % 25 == 0 else ""
            with contextlib.suppress(ApiError, aiohttp.ClientError, OSError):
                await self._create(f"lost-{number}", bucket=f"MISSING-{number}", note=note)
                self.counts["missing"] += 1

    async def _unready(self) -> None:
        """Let no pod of a captive be able to lead, so that each label has to go."""
        conditions = [{"type": "Ready", "status": "False"}]
        pods = await self._kube.get(pods_path(self._namespace), labelSelector="app!=churn")
        for pod in pods["items"]:
            path = f"{pods_path(self._namespace)}/{pod['metadata']['name']}/status"
            with contextlib.suppress(ApiError, aiohttp.ClientError, OSError):
                await self._kube.patch(path, {"status": {"conditions": conditions}})

    async def _follow(self) -> None:
        while True:
            try:
                created = [name for name in self._ends if name in self._created]
                found = await self._kube.get(self._path)
                there = {one["metadata"]["name"] for one in found["items"]}
                for name in created:
                    if name not in there:
                        self._gone(name)
                version = found["metadata"]["resourceVersion"]
                watch = self._kube.watch(self._path, resourceVersion=version)
                async with contextlib.aclosing(watch):
                    async for kind, one in watch:
                        if kind == "ERROR":
                            break
                        if kind == "DELETED":
                            self._gone(one["metadata"]["name"])
            except (ApiError, aiohttp.ClientError, OSError, ValueError):
                await asyncio.sleep(_PAUSE)

    def _gone(self, name: str) -> None:
        if name in self._ends:
            self._ends[name].set()


async def main(site: Site, namespace: str, workers: int, missing: int) -> None:
    """Go on until SIGTERM, and print what was done."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Kube(site) as kube:
        tenant = Tenant(kube, namespace)
        work = asyncio.create_task(tenant.run(workers=workers, missing=missing))
        ending = asyncio.create_task(stop.wait())
        await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
    print(json.dumps(tenant.counts), flush=True)  # noqa: T201


if __name__ == "__main__":
    os.nice(int(sys.argv[5]))
    uvloop.run(
        main(
            Site.from_json(Path(sys.argv[1]).read_text()),
            sys.argv[2],
            int(sys.argv[3]),
            int(sys.argv[4]),
        )
    )
