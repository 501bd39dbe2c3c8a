"""Turns for work that loads the API server, given in the order of `incumbent.kubernetes.fairness`.

The outer callers know the purpose of a request. They use `urgent`, which sets the rank of all
requests in its block, including those of tasks that are created there.
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
"""Limits of requests to the API server, without watches. After a start or an outage every election
sends requests, and opening a TLS connection for each would take longer than waiting for a turn. The
number of reports is small: otherwise, if a thousand elections lose their leaders together, their
label writes would compete with all their status writes."""

CHANGES = Limits(turns=32, everything=128, patience=5.0, spare_turns=8, spare=64)
"""Limits of changes of leader. If thousands of elections started a change at the same time after a
start or an outage, none would finish in time. With these limits they are soon done (measured)."""

QUESTIONS = Limits(turns=8, everything=32, patience=5.0, spare_turns=2, spare=16)
"""Limits of questions to stewards (see `confirmation`). One answer can save many questions."""


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a task: for which election, and how urgent."""

    namespace: str = ""
    election: str = ""
    rank: Rank | None = None
    """The rank; None: each request has its usual rank."""
    due: float | None = None
    """Time by which the work must be done; None: at once."""


_work: ContextVar[Work] = ContextVar("work", default=Work())  # noqa: B039  # it is frozen


def work() -> Work:
    """Return the work of this task."""
    return _work.get()


@contextlib.contextmanager
def working_for(namespace: str, election: str) -> Generator[None]:
    """Count the requests in this block against the share of an election."""
    with _doing(replace(work(), namespace=namespace, election=election)):
        yield


@contextlib.contextmanager
def urgent(rank: Rank, *, due: float | None = None) -> Generator[None]:
    """Give the requests in this block a rank, unless they have a more urgent one already.

    Args:
        rank: the rank.
        due: the time by which the work must be done; None: at once. If an outer block set the same
            rank, the earlier time counts.
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
    """Give the requests in this block this rank, even in an outer block; None: the usual rank."""
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
        limits: the limits of the work that goes on at the same time.
    """

    def __init__(self, limits: Limits) -> None:
        self._queue = FairQueue(limits)
        self._began: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def turn(
        self, usual: Rank = Rank.CHANGE, *, namespace: str | None = None
    ) -> AsyncGenerator[None]:
        """Wait for a turn, and keep it during the block.

        Args:
            usual: the rank if `urgent` set none.
            namespace: the namespace whose share the work uses; None: the one of `working_for`.
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
        """Give no turns to a namespace for this time, except for strips."""
        self._queue.hold(namespace, clock.now() + seconds)

    def waiting(self) -> int:
        """Return the amount of work that waits for a turn."""
        return self._queue.waiting

    def under_way(self, rank: Rank | None = None) -> int:
        """Return the amount of work that goes on, of one rank or of all ranks."""
        return self._queue.under_way(rank)

    def _admit(self) -> None:
        for ticket in self._queue.admit(clock.now()):
            began = self._began[ticket]
            if not began.done():  # if done, its task was just cancelled and will leave the queue
                began.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        look_at = self._queue.look_at
        if look_at < math.inf:
            pause = max(0.0, look_at - clock.now())
            self._timer = asyncio.get_running_loop().call_later(pause, self._admit)
