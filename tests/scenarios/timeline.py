"""What the pods of elections showed: every change of a label or a token, also across sites."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from controlplane.kube import ApiError
from elections import LEADER, label_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from elections import Election


@dataclass(frozen=True, slots=True)
class Shown:
    """What one pod showed of an election, from some moment on."""

    at: float
    """On the monotonic clock of this process, when we heard of it."""
    election: tuple[str, str]
    """Namespace and name. The namespaces of a test differ between its sites."""
    pod: str
    uid: str
    label: str
    token: str

    @property
    def leads(self) -> bool:
        """Whether it is the leader label."""
        return self.label == LEADER

    def of(self, election: Election) -> bool:
        """Whether it is about this election."""
        return self.election == _name(election)


class Timeline:
    """Records changes of labels and tokens of elections; use it as an asynchronous context manager.

    Within a site the order is that of the API server, and complete: all changes since one list.
    Between sites it is the order in which we heard of the changes. A pod without the election's
    label counts as one without a token.

    Raises:
        RuntimeError: at the end, if a watch failed, so that changes may be missing.
    """

    def __init__(self, *elections: Election) -> None:
        self.changes: list[Shown] = []
        """Without the state at the start."""
        self.most = 0
        """The most pods that carried the leader label of any election here at one moment."""
        self._elections = elections
        self._shown: dict[tuple[tuple[str, str], str], Shown] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def leaders(self) -> list[Shown]:
        """The pods that carry a leader label now."""
        return [shown for shown in self._shown.values() if shown.leads]

    @property
    def reigns(self) -> list[Shown]:
        """The changes by which a pod got the leader label, or a new token with it."""
        return [change for change in self.changes if change.leads]

    async def wait(
        self, condition: Callable[[list[Shown]], object], *, timeout: float = 20
    ) -> list[Shown]:
        """Wait until the present leaders are as expected, and return them."""
        deadline = time.monotonic() + timeout
        while not condition(self.leaders):
            assert time.monotonic() < deadline, f"not after {timeout} s: {self}"
            await asyncio.sleep(0.005)
        return self.leaders

    async def wait_for(
        self, election: Election, *, other_than: str = "", timeout: float = 20
    ) -> Shown:
        """Wait until another pod carries the leader label of this election, and return that."""

        def led(leaders: Iterable[Shown]) -> list[Shown]:
            return [x for x in leaders if x.of(election) and x.uid != other_than]

        return led(await self.wait(led, timeout=timeout))[0]

    def __str__(self) -> str:
        """Return all changes, one a line."""
        return "\n".join((f"{len(self.changes)} changes", *map(str, self.changes)))

    async def __aenter__(self) -> Self:
        """Begin."""
        begun = []
        for election in self._elections:
            found = await election.kube.get(election.pods_path, labelSelector=election.label)
            for pod in found["items"]:
                self._take(election, "ADDED", pod)
            begun.append(self._follow(election, found["metadata"]["resourceVersion"]))
        self.changes.clear()
        self._tasks = [asyncio.create_task(work) for work in begun]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if any(not isinstance(result, asyncio.CancelledError) for result in results):
            msg = f"A watch failed: {results}"
            raise RuntimeError(msg)

    async def _follow(self, election: Election, version: str) -> None:
        while True:
            changes = election.kube.watch(
                election.pods_path, labelSelector=election.label, resourceVersion=version
            )
            async with contextlib.aclosing(changes):
                async for kind, pod in changes:
                    if kind == "ERROR":
                        raise ApiError(int(pod.get("code", 0)), str(pod.get("message")))
                    version = pod["metadata"]["resourceVersion"]
                    self._take(election, kind, pod)
            # A busy API server ends watches that cannot keep up; nothing is lost by going on.

    def _take(self, election: Election, kind: str, pod: Mapping[str, Any]) -> None:
        about = pod["metadata"]
        gone = kind == "DELETED"
        token = (about.get("annotations") or {}).get(election.token, "")
        shown = Shown(
            time.monotonic(),
            _name(election),
            about["name"],
            about["uid"],
            "" if gone else label_of(pod, election.label),
            "" if gone else token,
        )
        before = self._shown.get((shown.election, shown.uid))
        was = (before.label, before.token) if before else ("", "")
        if was == (shown.label, shown.token):
            return
        self._shown[shown.election, shown.uid] = shown
        self.changes.append(shown)
        self.most = max(self.most, len(self.leaders))


async def settled(election: Election) -> str:
    """Wait until there is a leader, and all others are candidates; return the leader."""
    leader = await election.wait_leader()
    others = dict.fromkeys((await election.pods()).keys() - {leader}, "candidate")
    await election.wait_labels({leader: LEADER} | others)
    return leader


async def versions(election: Election) -> dict[str, str]:
    """Return the resourceVersion of every pod: the same as before if nobody wrote to it."""
    return {
        name: pod["metadata"]["resourceVersion"] for name, pod in (await election.pods()).items()
    }


@contextlib.asynccontextmanager
async def undisturbed(election: Election, *, watch: bool = True) -> AsyncIterator[Timeline]:
    """Fail if anything changes for the pods of an election while this is entered.

    Args:
        election: has a leader, and is `settled`.
        watch: whether to record; not while the API server is away, but nothing can change unseen.
    """
    status, before = await election.status(), await versions(election)
    timeline = Timeline(election)
    async with timeline if watch else contextlib.nullcontext():
        yield timeline
    assert not timeline.changes, str(timeline)
    assert await versions(election) == before
    after = await election.status()
    for field in ("leader", "token", "holder", "transitions"):
        assert after[field] == status[field]
    events = await election.events()
    told = [f"{event['reason']}: {event['note']}" for event in events]
    assert [event["reason"] for event in events] == ["LeaderElected"], told


def _name(election: Election) -> tuple[str, str]:
    return election.namespace, election.name
