"""The watch of a namespace's pods: a list, then the changes, and a new list after some losses."""

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
"""Shortest and longest duration of a watch. It is random, so that the watches spread out."""

SILENCE = 75.0
"""Seconds without a byte after which a watch counts as dead. The API server sends a bookmark at
least every minute (`defaultBookmarkFrequency` of its watch cache), and 15 s are slack. While no pod
changes, it does so only for a watch that started before the newest version: see `one_before`.
"""

SLACK = 2.0
"""Seconds by which a watch may end early and still counts as not interrupted."""

HEALTHY = 10.0
"""Seconds that a watch must have lasted to count as a success."""

BACKOFF = JitteredBackoff(first=0.1, longest=2.0)
"""Pauses before a failed watch is opened again. For the longest pause, a returned API server and
changes to the labels can go unnoticed."""

QUIET = 60.0
"""Seconds in which a restore of etcd is logged only once, even if many namespaces detect it."""

log = structlog.get_logger(__name__)


class PodWatches:
    """The watches of pods, with a limit of their number.

    Args:
        requests: the requests to the API server.
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
        """List and then watch all pods of a namespace, forever.

        No event is lost while the consumer is slow: the stream waits, and resumes after the last
        event that the consumer took. Close the stream (`contextlib.aclosing`) to close its
        connection.

        If the greatest number of watches is open, this one waits until another one is closed.
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
        """Return a message that too many watches are open; log it for the first one that waits."""
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
                    del pods  # otherwise this list would stay in memory until the watch ends
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
            # The planned end of a watch and an old version are normal, so do not wait after them.
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
        """Return whether a consistent list has an earlier version than one that was seen before.

        This happens after a restore of etcd. It is logged, but not for each namespace.
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
        connection: the connection to the API server.
        path: the path to watch.
        version: the resourceVersion to continue from.
        query: parameters that select some of the objects; None: all objects.

    Raises:
        Expired: the version is too old, or the API server ended the watch early. List again,
            because the next API server's versions may have gone back.
        Interrupted: the watch ended with an error. List again for the same reason.
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
    opened = loop.time()  # this clock stops while the machine sleeps
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
    """Return the pause in seconds: growing with jitter, or as the server asks if that is longer."""
    asked = problem.retry_after if isinstance(problem, Overloaded) else 0.0
    return max(BACKOFF.pause(attempt), min(asked, RETRY_AFTER))
