"""Turns for work that loads the API server, given in the order of `incumbent.kubernetes.fairness`.

What a request is for is known to its caller's callers: `urgent` says it once for everything that is
asked inside, also by tasks that are created there.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Generator
from contextvars import ContextVar
from dataclasses import dataclass, replace

from incumbent import clock
from incumbent.kubernetes.fairness import Bounds, FairQueue, Limits, Rank, Ticket

REQUESTS = Limits(
    turns=48,
    everything=128,
    patience=1.0,
    spare_turns=12,
    spare=64,
    ranks={
        Rank.STRIP: Bounds(8, 40),
        Rank.CHANGE: Bounds(4, 36),
        Rank.FINALIZER: Bounds(1, 33),
        Rank.ROUTINE: Bounds(1, 33),
        Rank.REPORT: Bounds(2, 8),
    },
)
"""Requests to the API server. After a start or a loss every election has some to make, and a TLS
handshake for each of them would cost more than the wait. Few reports go on at a time: otherwise the
labels of a thousand elections that lose their leaders together would share the API server with
every status. Watches are not counted."""

CHANGES = Limits(turns=32, everything=128, patience=5.0, spare_turns=8, spare=64)
"""Changes of leader. What thousands of elections begin together after a start or a storm, none of
them would end in time; one after the other they are soon done (measured)."""

QUESTIONS = Limits(turns=8, everything=32, patience=5.0, spare_turns=2, spare=16)
"""Questions to stewards (see `confirmation`). One answer may spare many others."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a task works on."""

    namespace: str = ""
    election: str = ""
    rank: Rank | None = None
    """None: it depends on what is asked."""
    due: float | None = None
    """When it has to be done; None: at once."""


_work: ContextVar[Work] = ContextVar("work", default=Work())  # noqa: B039  # it is frozen


def work() -> Work:
    """Return what this task works on."""
    return _work.get()


@contextlib.contextmanager
def working_for(namespace: str, election: str) -> Generator[None]:
    """Let what is asked inside take the share of an election."""
    with _doing(replace(work(), namespace=namespace, election=election)):
        yield


@contextlib.contextmanager
def urgent(rank: Rank, *, due: float | None = None) -> Generator[None]:
    """Let what is asked inside have a rank, or the more urgent one that it has already.

    Args:
        rank: how urgent it is.
        due: when it has to be done, None: at once; an earlier time of the same rank counts.
    """
    now = work()
    if now.rank is None or rank < now.rank:
        now = replace(now, rank=rank, due=due)
    elif rank == now.rank:
        now = replace(now, due=None if due is None or now.due is None else min(due, now.due))
    with _doing(now):
        yield


@contextlib.contextmanager
def apart(rank: Rank | None = None) -> Generator[None]:
    """Let what is asked inside have this rank, whatever it was called from; None: its usual one."""
    with _doing(replace(work(), rank=rank, due=None)):
        yield


@contextlib.contextmanager
def _doing(now: Work) -> Generator[None]:
    token = _work.set(now)
    try:
        yield
    finally:
        _work.reset(token)


class Turns:
    """Turns of one kind.

    Args:
        limits: how much goes on at a time.
    """

    def __init__(self, limits: Limits) -> None:
        self._queue = FairQueue(limits)
        self._began: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def turn(
        self, usual: Rank = Rank.CHANGE, *, namespace: str | None = None
    ) -> AsyncGenerator[None]:
        """Wait for a turn, and have it inside.

        Args:
            usual: the rank if `urgent` gave none.
            namespace: whose share it takes; None: that of `working_for`.
        """
        now = work()
        where = now.namespace if namespace is None else namespace
        rank = usual if now.rank is None else now.rank
        election = now.election if where == now.namespace else ""
        due = clock.now() if now.due is None else now.due
        ticket = self._queue.enter(rank, where, election, due=due)
        began = asyncio.get_running_loop().create_future()
        self._began[ticket] = began
        try:
            self._admit()
            await began
            yield
        finally:
            self._began.pop(ticket, None)
            self._queue.leave(ticket)
            self._admit()

    def hold(self, namespace: str, seconds: float) -> None:
        """Give no turns to a namespace for so long, but for strips."""
        self._queue.hold(namespace, clock.now() + seconds)

    def waiting(self) -> int:
        """Return how much waits for a turn."""
        return self._queue.waiting

    def under_way(self, rank: Rank | None = None) -> int:
        """Return how much goes on, of one rank or of all."""
        return self._queue.under_way(rank)

    def _admit(self) -> None:
        for ticket in self._queue.admit(clock.now()):
            began = self._began[ticket]
            if not began.done():  # otherwise its task was cancelled a moment ago, and leaves
                began.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        look_at = self._queue.look_at
        if look_at < math.inf:
            pause = max(0.0, look_at - clock.now())
            self._timer = asyncio.get_running_loop().call_later(pause, self._admit)
