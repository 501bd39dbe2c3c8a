"""What the renewing event loop hands to the HTTP server, in small steps and only if it is asked.

The server runs in a process of its own (`frontend`), so that no client can hold a renewal up. The
two talk over a pair of connected sockets, in lines. A question is a JSON object with an `id`; every
line of the answer begins with this id, and the last one is `<id> .`, or `<id> !` if the question
could not be answered. The server may drop a question that no client waits for any more. Nothing is
remembered here about the server, and nothing is sent at rest.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog

from incumbent.logs import redact

T = TypeVar("T")

AT_A_TIME = 20
"""Elections that are read or encoded before the event loop goes on with renewals: about 1 ms."""

PAUSE = 0.002
"""Seconds between two such steps, so that they take no more than about a third of the loop."""

HISTORIES = 4
"""Histories that are read from NATS at the same time, for all clients."""

LINE = 1 << 24
"""Bytes of a line, at most: 10,000 terms of one election are 4 MB."""

ENDS = (".", "!")
"""The end of an answer, and of one that failed."""

DROPPED = "drop"
"""Asks for the end of the question with the same id."""

log = structlog.get_logger(__name__)


class Health(Protocol):
    """The parts that are missing before the process can work."""

    def problems(self) -> Mapping[str, str]:
        """Return why it is not ready, by dependency, in words; empty for one that is there."""
        ...


class Directory(Protocol):
    """The elections that this process takes part in."""

    version: int
    """Grows whenever what the methods return changes in anything but the time that is left."""

    def names(self) -> Iterable[tuple[str, str]]:
        """Return namespace and name of all of them."""
        ...

    def changes(self, since: int) -> Sequence[tuple[str, str]] | None:
        """Return which elections changed, began or ended after a version; None: nobody knows."""
        ...

    def election(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return one of them as it is served, None if there is none, or it is not known yet."""
        ...

    def deadline(self, namespace: str, name: str) -> float | None:
        """Return when the lease of one ends, on the clock of `incumbent.clock`, if it has one."""
        ...

    def pending(self, namespace: str = "", name: str = "") -> bool:
        """Whether nobody can say that there is no such election: the process starts, or ends.

        Without a name: whether `names` may lack some.
        """
        ...

    async def history(self, namespace: str, name: str, *, limit: int) -> Mapping[str, Any] | None:
        """Return the latest terms of an election; None if the election does not exist."""
        ...

    async def changed(self, since: int) -> None:
        """Return as soon as `version` is not `since`."""
        ...


class Measured(Protocol):
    """The metrics of this process."""

    def rows(self) -> Iterator[Any]:
        """Yield what is served of each election, as `metrics.Exposition` takes it."""
        ...

    def of_process(self) -> str:
        """Return the text of the metrics that belong to no election."""
        ...


class Feed:
    """Answers the questions of the HTTP server.

    Args:
        health: for /readyz.
        metrics: for /metrics.
        directory: for the elections.
        notes: what else is wrong, by part, and does not make the process unready.
    """

    def __init__(
        self,
        health: Health,
        metrics: Measured,
        directory: Directory,
        notes: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._directory = directory
        self._notes = notes
        self._histories = asyncio.Semaphore(HISTORIES)
        self._questions: dict[str, Callable[..., AsyncIterator[str]]] = {
            "health": self._tell_health,
            "metrics": self._tell_metrics,
            "changes": self._tell_changes,
            "deadlines": self._tell_deadlines,
            "election": self._tell_election,
            "history": self._tell_history,
            "change": self._tell_change,
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the server closes its end."""
        answers: dict[int, asyncio.Task[None]] = {}
        try:
            while line := await reader.readline():
                question = json.loads(line)
                number, kind = question.pop("id"), question.pop("ask")
                if kind == DROPPED:
                    if number in answers:
                        answers[number].cancel()
                    continue
                answer = asyncio.create_task(self._answer(writer, number, kind, question))
                answers[number] = answer
                answer.add_done_callback(partial(_forget, answers, number))
        except (OSError, ValueError) as error:
            log.debug("http.feed_broken", problem=str(error))
        finally:
            for answer in answers.values():
                answer.cancel()
            writer.close()

    async def _answer(
        self, writer: asyncio.StreamWriter, number: int, kind: str, details: dict[str, Any]
    ) -> None:
        try:
            async for line in self._questions[kind](**details):
                writer.write(f"{number} {line}\n".encode())
                await writer.drain()
            end = "."
        except OSError:
            return
        except Exception:
            log.exception("http.not_answered", question=kind)
            end = "!"
        writer.write(f"{number} {end}\n".encode())

    async def _tell_health(self) -> AsyncIterator[str]:
        yield json.dumps(
            {
                "problems": {name: redact(why) for name, why in self._health.problems().items()},
                "notes": {name: redact(why) for name, why in self._notes().items()},
            }
        )

    async def _tell_metrics(self) -> AsyncIterator[str]:
        async for rows in in_steps(self._metrics.rows()):
            yield json.dumps(rows)
        yield json.dumps(self._metrics.of_process())

    async def _tell_changes(self, since: int) -> AsyncIterator[str]:
        """Tell what changed after a version; of an election that is gone only its name."""
        directory = self._directory
        version, changed = directory.version, directory.changes(since)
        full = changed is None
        yield json.dumps({"version": version, "full": full, "pending": directory.pending()})
        async for names in in_steps(directory.names() if changed is None else changed):
            for name in names:
                yield self._line(*name)

    def _line(self, namespace: str, name: str) -> str:
        found = self._directory.election(namespace, name)
        shown = "" if found is None else json.dumps(without_countdown(found))
        return f"{namespace}/{name} {shown}"

    async def _tell_deadlines(self) -> AsyncIterator[str]:
        deadline = self._directory.deadline
        async for names in in_steps(self._directory.names(), at_a_time=10 * AT_A_TIME):
            yield json.dumps({f"{space}/{name}": deadline(space, name) for space, name in names})

    async def _tell_election(self, namespace: str, name: str) -> AsyncIterator[str]:
        found = self._directory.election(namespace, name)
        pending = self._directory.pending(namespace, name)
        yield json.dumps({"found": found, "pending": pending})

    async def _tell_history(self, namespace: str, name: str, limit: int) -> AsyncIterator[str]:
        async with self._histories:
            found = await self._directory.history(namespace, name, limit=limit)
        pending = self._directory.pending(namespace, name)
        if found is not None:
            found = {**found, "problem": redact(found["problem"] or "") or None}
        yield json.dumps({"found": found is not None, "pending": pending})
        if found is not None:
            yield json.dumps(found)

    async def _tell_change(self, since: int) -> AsyncIterator[str]:
        await self._directory.changed(since)
        yield "{}"


def _forget(
    answers: dict[int, asyncio.Task[None]], number: int, _answer: asyncio.Task[None]
) -> None:
    answers.pop(number, None)


async def in_steps(items: Iterable[T], *, at_a_time: int = AT_A_TIME) -> AsyncIterator[list[T]]:
    """Yield items in lists; the event loop does its other work in between."""
    step: list[T] = []
    for item in items:
        step.append(item)
        if len(step) == at_a_time:
            yield step
            step = []
            await asyncio.sleep(PAUSE)
    if step:
        yield step


def without_countdown(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an election without what differs at every look."""
    return {name: value for name, value in found.items() if name != "remainingSeconds"}
