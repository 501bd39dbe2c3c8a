"""A fair order of work that waits for its turn. Pure.

Work has a rank, and belongs to an election of a namespace. Three rules decide:

Rank
    Work of a more urgent rank begins first. Each rank has some turns that no other rank can take.
    Therefore the least urgent work also goes on, and urgent work finds a turn at once.

Share
    The *load* of work is the number of turns that its namespace has in this rank, plus the number
    that its election has. Work may begin if its load is smaller than the number of free turns. One
    busy namespace takes half of the turns, one busy election takes a third, and the share of each
    shrinks if more are busy (the "dynamic threshold" of Choudhury and Hahne, IEEE/ACM Transactions
    on Networking 6(2), 1998). Some turns are reserved for namespaces without a turn in this rank,
    so that these find one at once. Work with the smallest load begins first. If the loads are
    equal, the work with the earliest due time begins first.

Patience
    Work that takes longer than the patience is slow. It gives its turn back although it goes on, so
    a webhook that hangs occupies a turn only for a limited time. Slow work counts against a larger
    limit with the same rules, so one namespace cannot use up that limit either. Namespaces with
    slow work come after namespaces without slow work.

If all work ends at some time, no work waits forever: a namespace without work under way comes
before a busy one, and within a namespace the work that has waited longest, or is due first, begins
first.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

STALE = 64
"""Outdated entries that a heap may have, beyond as many as it has valid ones."""


class Rank(enum.IntEnum):
    """How urgent work is; a smaller number comes first."""

    STRIP = 0
    """A pod must lose the leader label, or a slice its address, before a deadline."""
    CHANGE = 1
    """Work for a change of leader. Nobody leads until it is done."""
    FINALIZER = 2
    """kopf adds or removes the finalizer of an election. Until the answer comes, kopf does not
    report later changes of the election."""
    ROUTINE = 3
    """Other reads and lists, and the labels of candidates."""
    REPORT = 4
    """Writes of status and events, which are for people."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the turns that one rank has at the same time."""

    least: int
    """Turns that no other rank can take."""
    most: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the work that goes on at the same time."""

    turns: int
    """Greatest amount of work that is not slow."""
    everything: int
    """Greatest amount of all work, slow work included."""
    patience: float
    """Seconds after which work counts as slow."""
    spare_turns: int = 0
    """The part of `turns` reserved for namespaces that have only slow work, or none."""
    spare: int = 0
    """The part of `everything` reserved for namespaces without slow work."""
    ranks: Mapping[Rank, Bounds] = field(default_factory=dict)
    """Bounds by rank. A rank without bounds takes the turns that the other ranks leave."""


@dataclass(slots=True, eq=False)
class Ticket:
    """Work that waits or goes on."""

    rank: Rank
    namespace: str
    election: str
    due: float
    number: int
    since: float = math.nan
    """Time when it began; NaN while it waits."""
    slow: bool = False
    over: bool = False

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return not self.over and math.isnan(self.since)

    @property
    def order(self) -> tuple[float, int]:
        """The sort key among work of equal load."""
        return self.due, self.number


@dataclass(slots=True)
class _Count:
    """The amount of work that goes on."""

    all: int = 0
    slow: int = 0

    @property
    def quick(self) -> int:
        """The amount of work that is not slow."""
        return self.all - self.slow


_Order = tuple[int, int, float, int]
"""Load of slow work, whole load, and the `Ticket.order` of the next work."""
_Heap = list[tuple[_Order, str]]
"""Orders with names of elections or namespaces. Some entries are outdated."""


@dataclass(slots=True)
class _Election:
    """The work of an election in one rank."""

    count: _Count = field(default_factory=_Count)
    waiting: list[tuple[float, int, Ticket]] = field(default_factory=list)
    offered: _Order | None = None
    """Its order in the heap of its namespace; None if it is not in the heap."""

    def first(self) -> Ticket | None:
        """Return the next ticket, and drop tickets that no longer wait."""
        while self.waiting and not self.waiting[0][2].waits:
            heapq.heappop(self.waiting)
        return self.waiting[0][2] if self.waiting else None


class _Namespace:
    """The work of a namespace in one rank."""

    def __init__(self) -> None:
        self.count = _Count()
        self.offered: _Order | None = None
        """Its order in the heap of its line; None if it is not in the heap."""
        self.elections: dict[str, _Election] = {}
        self._heap: _Heap = []
        """The elections with waiting work."""

    def _order(self, name: str) -> _Order | None:
        election = self.elections.get(name)
        first = election.first() if election is not None else None
        if election is None or first is None:
            return None
        return election.count.slow, election.count.all, *first.order

    def changed(self, name: str) -> None:
        """Update the order of an election whose work has changed."""
        order = self._order(name)
        if order is not None:
            self._heap = _offer(self._heap, self.elections, name, order)
        elif name in self.elections and not self.elections[name].count.all:
            del self.elections[name]

    def first(self) -> tuple[_Order, Ticket] | None:
        """Return the next ticket of the namespace, with its order."""
        while self._heap:
            order, name = self._heap[0]
            if order == self._order(name):
                ticket = self.elections[name].first()
                assert ticket is not None  # noqa: S101  # it has an order
                slow, load, due, number = order
                return (self.count.slow + slow, self.count.all + load, due, number), ticket
            _drop(self._heap, self.elections)
        return None


class _Line:
    """The work of one rank."""

    def __init__(self) -> None:
        self.count = _Count()
        self.waiting = 0
        self.namespaces: dict[str, _Namespace] = {}
        self._heap: _Heap = []
        """The namespaces with waiting work."""

    def counts(self, ticket: Ticket) -> Iterator[_Count]:
        """Yield the counts that include a ticket: of its line, namespace and election."""
        namespace = self.namespaces.setdefault(ticket.namespace, _Namespace())
        yield self.count
        yield namespace.count
        yield namespace.elections.setdefault(ticket.election, _Election()).count

    def add(self, ticket: Ticket) -> None:
        """Add a ticket that waits."""
        namespace = self.namespaces.setdefault(ticket.namespace, _Namespace())
        election = namespace.elections.setdefault(ticket.election, _Election())
        heapq.heappush(election.waiting, (*ticket.order, ticket))
        self.waiting += 1
        self.changed(ticket)

    def changed(self, ticket: Ticket) -> None:
        """Update the order after a change in the election of a ticket."""
        namespace = self.namespaces[ticket.namespace]
        namespace.changed(ticket.election)
        self.offer(ticket.namespace)
        if not namespace.elections:
            del self.namespaces[ticket.namespace]

    def offer(self, name: str) -> None:
        """Put a namespace with waiting work into the heap."""
        namespace = self.namespaces.get(name)
        first = namespace.first() if namespace is not None else None
        if first is not None:
            self._heap = _offer(self._heap, self.namespaces, name, first[0])

    def first(self, held: Mapping[str, float]) -> Ticket | None:
        """Return the next ticket of all namespaces that are not held back."""
        while self._heap:
            order, name = self._heap[0]
            namespace = self.namespaces.get(name)
            found = namespace.first() if namespace is not None else None
            if name not in held and found is not None and order == found[0]:
                return found[1]
            _drop(self._heap, self.namespaces)  # it is outdated, or offered again later
        return None


def _offer(
    heap: _Heap, known: Mapping[str, _Namespace | _Election], name: str, order: _Order
) -> _Heap:
    """Add an entry unless it exists; return the heap, without outdated entries if many."""
    if known[name].offered == order:
        return heap
    known[name].offered = order
    heapq.heappush(heap, (order, name))
    if len(heap) > 2 * len(known) + STALE:
        heap = [(then, one) for then, one in heap if one in known and known[one].offered == then]
        heapq.heapify(heap)
    return heap


def _drop(heap: _Heap, known: Mapping[str, _Namespace | _Election]) -> None:
    """Remove the first entry of a heap."""
    order, name = heapq.heappop(heap)
    if name in known and known[name].offered == order:
        known[name].offered = None


class FairQueue:
    """Work that waits for its turn, and work that has one.

    Args:
        limits: the limits of the work that goes on at the same time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lines = {rank: _Line() for rank in Rank}
        self._quick: deque[Ticket] = deque()
        """Work that is not slow yet, the oldest first. Some of it is over."""
        self._held: dict[str, float] = {}
        self._number = 0

    def enter(self, rank: Rank, namespace: str, election: str, *, due: float) -> Ticket:
        """Let work wait for its turn.

        Args:
            rank: the urgency of the work.
            namespace: the namespace whose share the work uses.
            election: the election of that namespace.
            due: the time when it should begin. If loads are equal, the earliest time goes first.
        """
        self._number += 1
        ticket = Ticket(rank, namespace, election, due, self._number)
        self._lines[rank].add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Record that work is over, or no longer waits."""
        if ticket.over:
            return
        line = self._lines[ticket.rank]
        if ticket.waits:
            line.waiting -= 1
        else:
            for count in line.counts(ticket):
                count.all -= 1
                count.slow -= ticket.slow
        ticket.over = True
        line.changed(ticket)

    def hold(self, namespace: str, until: float) -> None:
        """Let no work of a namespace begin before this time, except strips.

        A strip has a deadline. The caller that strips must wait as long as its deadline allows.
        """
        self._held[namespace] = max(until, self._held.get(namespace, -math.inf))

    def admit(self, now: float) -> list[Ticket]:
        """Return the work that may begin now. It counts as begun."""
        self._grow_slow(now)
        for namespace in [one for one, until in self._held.items() if until <= now]:
            del self._held[namespace]
            for line in self._lines.values():
                line.offer(namespace)
        begun = []
        for rank, line in self._lines.items():
            held = {} if rank is Rank.STRIP else self._held
            while (ticket := line.first(held)) is not None and self._may_begin(ticket):
                ticket.since = now
                line.waiting -= 1
                for count in line.counts(ticket):
                    count.all += 1
                line.changed(ticket)
                self._quick.append(ticket)
                begun.append(ticket)
        return begun

    @property
    def look_at(self) -> float:
        """Time when `admit` may return new work if nothing else changes; infinity: never."""
        if not self.waiting:
            return math.inf
        ages = [self._quick[0].since + self.limits.patience] if self._quick else []
        return min([*ages, *self._held.values()], default=math.inf)

    @property
    def waiting(self) -> int:
        """The amount of work that waits."""
        return sum(line.waiting for line in self._lines.values())

    def under_way(self, rank: Rank | None = None) -> int:
        """Return the amount of work that goes on, of one rank or of all ranks."""
        lines = self._lines.values() if rank is None else (self._lines[rank],)
        return sum(line.count.all for line in lines)

    def _grow_slow(self, now: float) -> None:
        while self._quick:
            ticket = self._quick[0]
            if not ticket.over and now < ticket.since + self.limits.patience:
                return
            self._quick.popleft()
            if not ticket.over:
                ticket.slow = True
                line = self._lines[ticket.rank]
                for count in line.counts(ticket):
                    count.slow += 1
                line.changed(ticket)

    def _may_begin(self, ticket: Ticket) -> bool:
        rank, limits = ticket.rank, self.limits
        counts = list(self._lines[rank].counts(ticket))
        free = self._room(limits.turns, rank, {r: x.count.quick for r, x in self._lines.items()})
        bounds = limits.ranks.get(rank)
        if bounds is not None:
            free = min(free, bounds.most - counts[0].quick)
        room = self._room(limits.everything, rank, {r: x.count.all for r, x in self._lines.items()})
        quick = counts[1].quick + counts[2].quick
        slow = counts[1].slow + counts[2].slow
        return quick < free - (limits.spare_turns if quick else 0) and (
            slow < room - (limits.spare if slow else 0)
        )

    def _room(self, limit: int, rank: Rank, counts: Mapping[Rank, int]) -> int:
        """Return how many turns a rank can still take, without those reserved for other ranks."""
        kept = sum(
            max(0, bounds.least - counts[other])
            for other, bounds in self.limits.ranks.items()
            if other is not rank
        )
        return limit - sum(counts.values()) - kept
