"""The watch of the pods of a namespace: a list, then its changes, and again after each loss."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import sys
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import structlog

from incumbent import clock
from incumbent.backoff import JitteredBackoff
from incumbent.errors import ClusterError, Overloaded, Unconnected
from incumbent.kubernetes.answers import Expired, Interrupted, error_for, translated
from incumbent.kubernetes.connection import Connection, drop, keep_alive
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.pod_json import pod_from
from incumbent.kubernetes.ports import PodChanged, PodDeleted, PodEvent, PodsReplaced, PodsUnwatched
from incumbent.kubernetes.requests import RETRY_AFTER, TIMEOUT, Requests
from incumbent.kubernetes.resource import pods_path
from incumbent.kubernetes.turns import apart, working_for
from incumbent.kubernetes.versions import newer, one_before

WATCH_SECONDS = (240, 360)
"""How long the API server is asked to keep a watch open; random, so that watches spread out."""

SILENCE = 75.0
"""Seconds without a byte after which a watch is taken for dead. The API server sends a bookmark
after a minute at the latest (`defaultBookmarkFrequency` of its watch cache), and the rest is slack.
At rest it does so only for watches from an earlier version than its newest: see `one_before`.
"""

SLACK = 2.0
"""Seconds by which a watch may end before its time, and has not been interrupted."""

HEALTHY = 10.0
"""Seconds after which a watch that ends counts as having worked."""

BACKOFF = JitteredBackoff(first=0.1, longest=2.0)
"""Pauses before a failed watch is opened again. For the longest an API server that is back goes
unnoticed, and with it what was done to the labels meanwhile."""

QUIET = 60.0
"""Seconds in which it is said once that etcd was restored, however many namespaces find out."""

log = structlog.get_logger(__name__)


class PodWatches:
    """The watches of pods, of which there may be so many at a time.

    Args:
        requests: to the API server.
        most: how many namespaces can be watched at a time; None: any number.
    """

    def __init__(self, requests: Requests, most: int | None = None) -> None:
        self._requests = requests
        self._most_watches = most
        self._watches = asyncio.Semaphore(sys.maxsize if most is None else most)
        self._waiting = 0
        """How many watches wait until another one ends."""
        self._quiet_until = 0.0

    async def watch(self, namespace: str) -> AsyncGenerator[PodEvent]:
        """List, then watch, all pods of a namespace, for ever.

        Nothing is lost while the consumer is slow: the stream waits, and is resumed from the last
        event taken. Close it (`contextlib.aclosing`) to close its connection.

        If there are as many watches as there may be, this one waits until another one is closed.
        """
        if self._watches.locked():
            problem = self._too_many()
            self._waiting += 1
            try:
                yield PodsUnwatched(problem)
                await self._watches.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._watches.acquire()
        try:
            async with contextlib.aclosing(self._follow_pods(namespace)) as events:
                async for event in events:
                    yield event
        finally:
            self._watches.release()

    def _too_many(self) -> str:
        """Say that there are as many watches as there may be; log it once for all that wait."""
        problem = (
            f"the operator may open too few files to watch more than {self._most_watches}"
            " namespaces: raise the hard limit (ulimit -Hn, LimitNOFILE), or give some of the"
            " namespaces to another operator (--namespace)"
        )
        if not self._waiting:
            log.warning("cluster.too_many_namespaces", watched=self._most_watches, problem=problem)
        return problem

    async def _follow_pods(self, namespace: str) -> AsyncGenerator[PodEvent]:
        path = pods_path(namespace)
        version, listed, refused = "", False, ""
        failures = 0
        while True:
            opened = math.inf
            problem: ClusterError | None = None
            try:
                if not listed:
                    with working_for(namespace, ""), apart(Rank.ROUTINE):
                        pods, now = await self._requests.collect(
                            path, pod_from, {"labelSelector": ""}
                        )
                    restored = self.went_back(version, now)
                    version, listed = now, True
                    yield PodsReplaced(tuple(pods), restored=restored)
                    del pods  # they would stay in memory as they were, for as long as the watch
                opened = clock.now()
                start = version if version == refused else one_before(version)
                async with contextlib.aclosing(
                    changes(self._requests.connection, path, start)
                ) as found:
                    async for kind, pod in found:
                        known, version = version, pod["metadata"]["resourceVersion"]
                        if known == version:
                            continue  # seen before this watch
                        match kind:
                            case "ADDED" | "MODIFIED":
                                yield PodChanged(pod_from(pod))
                            case "DELETED":
                                yield PodDeleted(pod_from(pod))
            except Expired:
                listed, refused = False, version
            except ClusterError as error:
                problem = error
                listed = listed and not isinstance(error, Interrupted | Unconnected)
            failures = 0 if clock.now() - opened > HEALTHY else failures + 1
            # The end of its time, and a version too old, are what every watch comes to.
            if problem is not None or failures > 1:
                pause = pause_before(failures, problem)
                log.warning(
                    "cluster.watch_interrupted",
                    namespace=namespace,
                    reason=str(problem or "The API server ended the watch early"),
                    pause=round(pause, 3),
                )
                await asyncio.sleep(pause)

    def went_back(self, before: str, now: str) -> bool:
        """Return whether a consistent list is of an earlier version than what was seen before it.

        That is so after a restore of etcd. It is logged, but not for each namespace.
        """
        if not newer(before, now):
            return False
        if clock.now() >= self._quiet_until:
            self._quiet_until = clock.now() + QUIET
            log.warning("cluster.restored", version_before=before, version=now)
        return True


async def changes(
    connection: Connection,
    path: str,
    version: str,
    *,
    query: Mapping[str, str] | None = None,
) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    """Yield type and object of each event after `version`, until the API server ends the watch.

    Args:
        connection: to the API server.
        path: of what is watched.
        version: the resourceVersion from which to go on.
        query: selects some of it; None: all.

    Raises:
        Expired: the version is too old, or the API server ended the watch early. Behind its end
            there may be another one, whose versions went back: list again.
        Interrupted: the same, after an error.
    """
    seconds, loop = random.randint(*WATCH_SECONDS), asyncio.get_running_loop()  # noqa: S311
    query = {
        **(query or {}),
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": version,
        "timeoutSeconds": str(seconds),
    }
    with translated(f"The watch of {path}"):
        async with asyncio.timeout(TIMEOUT):
            response = await connection.send("GET", path, query=query, silence=SILENCE)
    opened = loop.time()  # which stands still while the machine sleeps
    try:
        with translated(f"The watch of {path}"):
            keep_alive(response)
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    problem = event["object"]
                    raise error_for(problem.get("code", 0), problem, request=f"watch {path}")
                yield event["type"], event["object"]
    except Expired:
        raise
    except ClusterError as error:
        raise Interrupted(str(error)) from error
    finally:
        drop(response)
    if loop.time() - opened < seconds - SLACK:
        msg = "The API server ended the watch early"
        raise Expired(msg)


def pause_before(attempt: int, problem: ClusterError | None = None) -> float:
    """Return the seconds to wait: growing with jitter, or what the server asks for, if longer."""
    asked = problem.retry_after if isinstance(problem, Overloaded) else 0.0
    return max(BACKOFF.pause(attempt), min(asked, RETRY_AFTER))
