"""A fair order of work that waits for its turn: which may begin next. Pure.

Work has a rank, and belongs to an election of a namespace. Three rules decide:

Rank
    The work of a more urgent rank begins first. Each rank has some turns that no other rank takes,
    so the least urgent work goes on, too, and an urgent one finds a turn at once.

Share
    The *load* of work is what its namespace has under way in this rank, plus what its election has.
    Work may begin if its load is smaller than the number of turns that are free: one busy namespace
    takes half of the turns, one election a third, and the more are busy, the less each may take
    (the "dynamic threshold" of Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2),
    1998). Some turns are kept for namespaces that have nothing under way in this rank, which find
    one at once, and are not free for others. The smallest load begins first, then what is due
    first.

Patience
    Work that takes longer than this is slow, and gives its turn back although it goes on: a webhook
    that hangs keeps turns from others only for so long. Slow work counts against a larger limit
    with the same rules, so a namespace has only a share of that, too.
    Namespaces that have slow work come after those that have none.

Nothing waits for ever if all work ends: an empty namespace comes before a busy one, and within it
the time since which the work waits, or at which it is due, decides.
"""

from __future__ import annotations

import enum
import heapq
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

STALE = 64
"""Outdated entries of a heap that are kept, at most, beside as many as there are valid ones."""


class Rank(enum.IntEnum):
    """How urgent work is; a smaller number comes first."""

    STRIP = 0
    """A pod has to lose the leader label, or a slice its address: there is a deadline."""
    CHANGE = 1
    """What a change of leader needs: it goes on while nobody leads."""
    FINALIZER = 2
    """kopf adds or removes the finalizer of an election, and shows none of its later changes before
    that is answered."""
    ROUTINE = 3
    """Other reads and lists, and the labels of candidates."""
    REPORT = 4
    """Status and events, which people read."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many turns one rank has at a time."""

    least: int
    """So many no other rank takes."""
    most: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How much goes on at a time."""

    turns: int
    """Work that is not slow, at most."""
    everything: int
    """All work, at most, with that which is slow."""
    patience: float
    """Seconds after which work is slow."""
    spare_turns: int = 0
    """Of the turns, those for namespaces that have no work under way that is not slow."""
    spare: int = 0
    """Of everything, what is for namespaces that have no slow work."""
    ranks: Mapping[Rank, Bounds] = field(default_factory=dict)
    """A rank that is not named takes what the others leave."""


@dataclass(slots=True, eq=False)
class Ticket:
    """Work that waits, or goes on."""

    rank: Rank
    namespace: str
    election: str
    due: float
    number: int
    since: float = math.nan
    """When it began; not a number while it waits."""
    slow: bool = False
    over: bool = False

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return not self.over and math.isnan(self.since)

    @property
    def order(self) -> tuple[float, int]:
        """What decides among work of the same load."""
        return self.due, self.number


@dataclass(slots=True)
class _Count:
    """Work that goes on."""

    all: int = 0
    slow: int = 0

    @property
    def quick(self) -> int:
        """That which is not slow."""
        return self.all - self.slow


_Order = tuple[int, int, float, int]
"""The load of slow work, the whole load, and the order of the work that is next."""
_Heap = list[tuple[_Order, str]]
"""Orders and names; some entries are outdated."""


@dataclass(slots=True)
class _Election:
    """The work of an election in one rank."""

    count: _Count = field(default_factory=_Count)
    waiting: list[tuple[float, int, Ticket]] = field(default_factory=list)
    offered: _Order | None = None
    """With which order it is in the heap of its namespace; None: it is not."""

    def first(self) -> Ticket | None:
        """Return what is next; what has given up is dropped."""
        while self.waiting and not self.waiting[0][2].waits:
            heapq.heappop(self.waiting)
        return self.waiting[0][2] if self.waiting else None


class _Namespace:
    """The work of a namespace in one rank."""

    def __init__(self) -> None:
        self.count = _Count()
        self.offered: _Order | None = None
        """With which order it is in the heap of its line; None: it is not."""
        self.elections: dict[str, _Election] = {}
        self._heap: _Heap = []
        """Each election in which something waits."""

    def _order(self, name: str) -> _Order | None:
        election = self.elections.get(name)
        first = election.first() if election is not None else None
        if election is None or first is None:
            return None
        return election.count.slow, election.count.all, *first.order

    def changed(self, name: str) -> None:
        """Note that an election has changed."""
        order = self._order(name)
        if order is not None:
            self._heap = _offer(self._heap, self.elections, name, order)
        elif name in self.elections and not self.elections[name].count.all:
            del self.elections[name]

    def first(self) -> tuple[_Order, Ticket] | None:
        """Return what is next in the namespace, with its load."""
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
        """Each namespace in which something waits."""

    def counts(self, ticket: Ticket) -> Iterator[_Count]:
        """Yield in what a ticket counts."""
        namespace = self.namespaces.setdefault(ticket.namespace, _Namespace())
        yield self.count
        yield namespace.count
        yield namespace.elections.setdefault(ticket.election, _Election()).count

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        namespace = self.namespaces.setdefault(ticket.namespace, _Namespace())
        election = namespace.elections.setdefault(ticket.election, _Election())
        heapq.heappush(election.waiting, (*ticket.order, ticket))
        self.waiting += 1
        self.changed(ticket)

    def changed(self, ticket: Ticket) -> None:
        """Note that something of a ticket's election has changed."""
        namespace = self.namespaces[ticket.namespace]
        namespace.changed(ticket.election)
        self.offer(ticket.namespace)
        if not namespace.elections:
            del self.namespaces[ticket.namespace]

    def offer(self, name: str) -> None:
        """Let a namespace take part in the order."""
        namespace = self.namespaces.get(name)
        first = namespace.first() if namespace is not None else None
        if first is not None:
            self._heap = _offer(self._heap, self.namespaces, name, first[0])

    def first(self, held: Mapping[str, float]) -> Ticket | None:
        """Return what is next, but for namespaces that are held back."""
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
    """Add an entry, unless it is there; return the heap, without old entries if there are many."""
    if known[name].offered == order:
        return heap
    known[name].offered = order
    heapq.heappush(heap, (order, name))
    if len(heap) > 2 * len(known) + STALE:
        heap = [(then, one) for then, one in heap if one in known and known[one].offered == then]
        heapq.heapify(heap)
    return heap


def _drop(heap: _Heap, known: Mapping[str, _Namespace | _Election]) -> None:
    """Remove the first entry."""
    order, name = heapq.heappop(heap)
    if name in known and known[name].offered == order:
        known[name].offered = None


class FairQueue:
    """Work that waits for its turn, and work that has one.

    Args:
        limits: how much goes on at a time.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lines = {rank: _Line() for rank in Rank}
        self._quick: deque[Ticket] = deque()
        """What is not slow yet, the oldest first; some of it is over."""
        self._held: dict[str, float] = {}
        self._number = 0

    def enter(self, rank: Rank, namespace: str, election: str, *, due: float) -> Ticket:
        """Let work wait for its turn.

        Args:
            rank: how urgent it is.
            namespace: whose share it takes.
            election: of the namespace.
            due: when it should begin; of two with the same load the earlier one begins first.
        """
        self._number += 1
        ticket = Ticket(rank, namespace, election, due, self._number)
        self._lines[rank].add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Note that work is over, or does not wait any more."""
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
        """Let no work of a namespace begin before this time, but for strips.

        A strip has a deadline. Whoever strips has to heed the time as far as that allows.
        """
        self._held[namespace] = max(until, self._held.get(namespace, -math.inf))

    def admit(self, now: float) -> list[Ticket]:
        """Return what may begin now; it counts as begun."""
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
        """When `admit` may have something new, if nothing else changes; infinity for never."""
        if not self.waiting:
            return math.inf
        ages = [self._quick[0].since + self.limits.patience] if self._quick else []
        return min([*ages, *self._held.values()], default=math.inf)

    @property
    def waiting(self) -> int:
        """How much waits."""
        return sum(line.waiting for line in self._lines.values())

    def under_way(self, rank: Rank | None = None) -> int:
        """Return how much goes on, of one rank or of all."""
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
        """Return how many turns a rank can still take without those that others have for sure."""
        kept = sum(
            max(0, bounds.least - counts[other])
            for other, bounds in self.limits.ranks.items()
            if other is not rank
        )
        return limit - sum(counts.values()) - kept
