"""Who answered the clients, and what that says about a fault."""

from __future__ import annotations

import bisect
import itertools
import json
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from chaos.history import Entry, Message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Answer:
    """A request of a client, and what became of it. Times are those of `time.monotonic`."""

    sent: float
    done: float
    client: str
    """The node that the client is on."""
    target: str
    """The Service that it asked."""
    kept: bool
    """Whether it came over a connection that had been used before."""
    pod: str
    """Who answered; empty if nobody did."""
    write: str
    """What became of the write that it caused; or why nobody answered."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a client saw of a Service during a fault, on one kind of connection."""

    answers: int
    silence: float
    """The longest time between two answers, in seconds."""
    late: int
    """How many requests were answered by a pod that led neither when they were sent nor then."""
    late_until: float
    """How long after the fault the last of them was sent; 0 without one."""
    moved: float
    """How long after the fault the first answer of another pod came; 0 without one."""


@dataclass(frozen=True, slots=True)
class Route:
    """How long it took until the new leader answered, after the old one was deleted."""

    title: str
    seconds: list[float]
    """Of every client and hand-over."""


@dataclass(slots=True)
class Ledger:
    """What an application writes to: it refuses a token that is smaller than one it has seen."""

    entries: list[tuple[float, str, int, bool]] = field(default_factory=list)
    """When, which pod, with which token, and whether it was accepted."""
    greatest: int = 0

    async def write(self, request: web.Request) -> web.Response:
        """Take a write, or refuse it."""
        try:
            wish = await request.json()
        except OSError:  # who wrote it was killed in the middle
            return web.Response(status=400)
        accepted = int(wish["token"]) >= self.greatest
        self.greatest = max(self.greatest, int(wish["token"]))
        self.entries.append((time.monotonic(), wish["pod"], int(wish["token"]), accepted))
        return web.Response(status=200 if accepted else 409)

    def shared(self) -> list[int]:
        """Return tokens with which more than one pod has written: there has to be none."""
        pods: dict[int, set[str]] = {}
        for _, pod, token, _ in self.entries:
            pods.setdefault(token, set()).add(pod)
        return [token for token, names in pods.items() if len(names) > 1]


class Bucket:
    """Who led at which moment, by what the bucket held."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = sorted(messages, key=lambda message: message.revision)
        self._times = [message.at for message in self._messages]

    def leader(self, at: float) -> str:
        """Return the pod that led; empty if none did."""
        number = bisect.bisect_right(self._times, at)
        if not number or self._messages[number - 1].entry is not Entry.RECORD:
            return ""
        return self._messages[number - 1].pod

    def terms(self, since: float, until: float) -> list[Message]:
        """Return the first record that was seen of each term that began in between."""
        first: dict[int, Message] = {}
        for message in self._messages:
            if message.entry is Entry.RECORD:
                first.setdefault(message.term, message)
        return [message for message in first.values() if since <= message.at <= until]


def read(folder: Path, *, wall: float) -> list[Answer]:
    """Return what all clients wrote down; `wall` is what their clock is ahead of `monotonic`."""
    answers = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                row: list[Any] = json.loads(line)
            except ValueError:  # the client was killed, or is writing it
                continue
            sent, done, target, kept, pod, _, write = row
            answers.append(Answer(sent - wall, done - wall, path.stem, target, kept, pod, write))
    return sorted(answers, key=lambda answer: answer.done)


def figures(answers: Sequence[Answer], bucket: Bucket, *, since: float, until: float) -> Figures:
    """Return what a client saw between two moments; the fault was at the first one."""
    good = [a for a in answers if a.pod and since - 1 <= a.done <= until]
    times = [since - 1, *(answer.done for answer in good), until]
    silence = max(b - a for a, b in itertools.pairwise(times))
    before = bucket.leader(since)
    late = [
        answer
        for answer in good
        if answer.sent >= since
        and answer.pod not in {bucket.leader(answer.sent), bucket.leader(answer.done)}
    ]
    moved = next((a.done for a in good if a.done > since and a.pod != before), since)
    return Figures(
        answers=len(good),
        silence=silence,
        late=len(late),
        late_until=late[-1].sent - since if late else 0.0,
        moved=moved - since,
    )


def first_answers(
    answers: Sequence[Answer], target: str, moments: Sequence[tuple[float, str]]
) -> list[float]:
    """Return how long after each moment a client got its first answer from another pod.

    Args:
        answers: in the order in which they came.
        target: the Service that was asked, on new connections.
        moments: when each leader was deleted, and its name.
    """
    found = []
    for client in sorted({answer.client for answer in answers}):
        own = [
            answer
            for answer in answers
            if answer.pod and not answer.kept and (answer.client, answer.target) == (client, target)
        ]
        for number, (at, before) in enumerate(moments):
            end = moments[number + 1][0] if number + 1 < len(moments) else float("inf")
            first = next((a for a in own if at < a.sent < end and a.pod != before), None)
            if first is not None:
                found.append(first.done - at)
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
