"""Who begins next: ranks, shares, and work that takes long."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incumbent.kubernetes.fairness import Bounds, FairQueue, Limits, Rank
from incumbent.kubernetes.turns import CHANGES, QUESTIONS, REQUESTS

FOREVER = math.inf
SMALL = Limits(
    turns=8,
    everything=16,
    patience=1.0,
    ranks={
        Rank.STRIP: Bounds(2, 5),
        Rank.CHANGE: Bounds(1, 4),
        Rank.FINALIZER: Bounds(1, 4),
        Rank.ROUTINE: Bounds(1, 4),
        Rank.REPORT: Bounds(1, 2),
    },
)


class World:
    """Work that comes, takes its time, and ends, in fake time."""

    def __init__(self, limits=REQUESTS):
        self.limits = limits
        self.queue = FairQueue(limits)
        self.now = 0.0
        self.ends = []
        self.takes = {}
        self.came = {}
        self.began = {}
        """When each ticket began."""
        self.going = set()

    def ask(self, namespace, takes, *, rank=Rank.CHANGE, election="", due=None):
        """Let work come now."""
        due = self.now if due is None else due
        ticket = self.queue.enter(rank, namespace, election, due=due)
        self.takes[ticket], self.came[ticket] = takes, self.now
        self.admit()
        return ticket

    def admit(self):
        """Let begin what may."""
        for ticket in self.queue.admit(self.now):
            self.began[ticket] = self.now
            self.going.add(ticket)
            end = self.now + self.takes[ticket]
            heapq.heappush(self.ends, (end, ticket.number, ticket))
        self.check()

    def check(self):
        """See that no limit is broken."""
        going, quick = Counter(), Counter()
        for ticket in self.going:
            going[ticket.rank] += 1
            quick[ticket.rank] += not ticket.slow
        assert going.total() <= self.limits.everything
        assert quick.total() <= self.limits.turns
        for rank, bounds in self.limits.ranks.items():
            assert quick[rank] <= bounds.most
            others = sum(quick[other] for other in Rank if other is not rank)
            assert others <= self.limits.turns - bounds.least
        assert self.queue.under_way() == going.total()

    def go(self, until):
        """Turn the clock forward."""
        while True:
            end = self.ends[0][0] if self.ends else FOREVER
            at = min(end, max(self.queue.look_at, self.now))
            if at > until:
                break
            self.now = at
            while self.ends and self.ends[0][0] <= self.now:
                _, _, ticket = heapq.heappop(self.ends)
                self.going.discard(ticket)
                self.queue.leave(ticket)
            self.admit()
        self.now = until

    def waited(self, ticket):
        """Return how long work waited."""
        return self.began[ticket] - self.came[ticket]


# Shares


def test_one_busy_namespace_takes_half_of_the_turns_and_one_election_a_third():
    """It leaves room that others find at once."""
    world = World(Limits(turns=30, everything=1000, patience=FOREVER))
    for number in range(100):
        world.ask("bad", FOREVER, election=f"e-{number}")
    assert len(world.began) == 15
    world = World(Limits(turns=30, everything=1000, patience=FOREVER))
    for _ in range(100):
        world.ask("bad", FOREVER, election="e")
    assert len(world.began) == 10
    other = world.ask("bad", FOREVER, election="other")
    assert world.waited(other) == 0


def test_of_requests_one_busy_namespace_takes_a_third_and_one_election_a_quarter():
    """As docs/operations.md says."""
    most = REQUESTS.ranks[Rank.STRIP].most
    for election, share in (("e-{}", 3), ("e", 4)):
        world = World(replace(REQUESTS, patience=FOREVER))
        for number in range(100):
            world.ask("bad", FOREVER, rank=Rank.STRIP, election=election.format(number))
        assert round(most / len(world.began)) == share


@pytest.mark.parametrize("rank", Rank)
@pytest.mark.parametrize("bad", (1, 4, 20, 60))
def test_namespaces_that_hang_delay_no_strip_of_another(bad, rank):
    """Whatever hangs there, and however much of it."""
    world = World()
    for number in range(bad):
        for election in range(20):
            world.ask(f"bad-{number}", FOREVER, rank=rank, election=f"e-{election}")
    world.go(10)
    for election in range(5):
        strip = world.ask("good", 0.01, rank=Rank.STRIP, election=f"e-{election}")
        world.go(world.now + 1)
        assert world.waited(strip) == 0


def test_a_busy_namespace_without_slow_work_is_not_slowed_by_those_that_hang():
    """It has several turns at a time, as long as its work is answered."""
    world = World()
    for number in range(20):
        for election in range(20):
            world.ask(f"bad-{number}", FOREVER, rank=Rank.STRIP, election=f"e-{election}")
    world.go(10)
    strips = [world.ask("good", 0.9, rank=Rank.STRIP, election=f"e-{n}") for n in range(10)]
    assert [world.waited(strip) for strip in strips] == [0] * 10


def test_many_quiet_namespaces_find_a_turn_at_the_same_time():
    """What is kept for them is not for those that hang already."""
    world = World()
    for number in range(20):
        for election in range(20):
            world.ask(f"bad-{number}", FOREVER, rank=Rank.STRIP, election=f"e-{election}")
    world.go(10)
    strips = [world.ask(f"good-{number}", FOREVER, rank=Rank.STRIP) for number in range(40)]
    assert [world.waited(strip) for strip in strips] == [0] * 40


@pytest.mark.parametrize("bad", (20, 60))
def test_namespaces_that_hang_anew_at_each_moment_delay_a_strip_less_than_they_hang(bad):
    """Each turn of theirs is given back once their work is slow, and then it is a quiet one's."""
    world = World()
    for number in range(bad):
        for _ in range(30):
            world.ask(f"bad-{number}", 5.0, rank=Rank.STRIP, election="e")
    worst = 0.0
    for _ in range(20):
        strip = world.ask("good", 0.01, rank=Rank.STRIP)
        world.go(world.now + 4)
        worst = max(worst, world.waited(strip))
    assert worst <= REQUESTS.patience * (1 + bad // REQUESTS.ranks[Rank.STRIP].most)


def test_a_namespace_that_hangs_does_not_delay_its_own_strips_by_other_work():
    """Each rank has a share of its own."""
    world = World()
    for number in range(100):
        world.ask("bad", FOREVER, rank=Rank.CHANGE, election=f"e-{number}")
        world.ask("bad", FOREVER, rank=Rank.REPORT, election=f"e-{number}")
    strip = world.ask("bad", 0.1, rank=Rank.STRIP)
    assert world.waited(strip) == 0


@pytest.mark.parametrize("limits", (CHANGES, QUESTIONS), ids=("changes", "questions"))
def test_elections_that_hang_in_one_namespace_keep_no_turn_from_another(limits):
    """Changes of leader and questions are shared as requests are."""
    world = World(limits)
    for number in range(1000):
        world.ask("bad", FOREVER, election=f"e-{number}")
    other = world.ask("good", 1.0)
    assert world.waited(other) == 0


# Order


def test_more_urgent_work_begins_first():
    """Strips, then changes, then the rest."""
    world = World(Limits(turns=1, everything=10, patience=FOREVER))
    world.ask("a", 1.0)
    tickets = [world.ask(f"{rank}", 1.0, rank=rank) for rank in reversed(Rank)]
    world.go(10)
    assert sorted(tickets, key=world.began.get) == [*reversed(tickets)]


def test_of_two_strips_the_one_that_is_due_first_begins_first():
    """Whichever came first."""
    world = World(Limits(turns=1, everything=10, patience=FOREVER))
    world.ask("a", 1.0, rank=Rank.STRIP)
    late = world.ask("b", 1.0, rank=Rank.STRIP, due=30.0)
    soon = world.ask("c", 1.0, rank=Rank.STRIP, due=2.0)
    world.go(10)
    assert world.began[soon] < world.began[late]


def test_a_strip_that_is_due_late_waits_no_longer_than_until_then():
    """Strips that come all the time, and are due at once, do not hold it up for ever."""
    world = World(Limits(turns=1, everything=10, patience=FOREVER))
    world.ask("a", 1.0, rank=Rank.STRIP)
    late = world.ask("b", 1.0, rank=Rank.STRIP, due=10.0)
    for number in range(60):
        world.ask(f"n-{number}", 0.5, rank=Rank.STRIP)
        world.go(world.now + 0.5)
    assert world.waited(late) <= 15


def test_status_writes_go_on_while_strips_and_labels_never_cease():
    """They are only slower."""
    world = World()
    reports = [world.ask(f"r-{n}", 0.1, rank=Rank.REPORT) for n in range(40)]
    for step in range(40):
        for number in range(60):
            world.ask(f"s-{number}", 0.1, rank=Rank.STRIP)
            world.ask(f"c-{number}", 0.1, rank=Rank.CHANGE)
        world.go(0.05 * step)
    assert all(ticket in world.began for ticket in reports)


# Holds and withdrawals


def test_a_namespace_that_is_held_back_begins_nothing_but_strips():
    """The API server asked for a pause, and a strip has a deadline."""
    world = World()
    world.queue.hold("held", 3.0)
    change, strip = world.ask("held", 1.0), world.ask("held", 1.0, rank=Rank.STRIP)
    other = world.ask("other", 1.0)
    world.go(10)
    assert world.waited(change) == 3.0
    assert world.waited(strip) == world.waited(other) == 0


def test_work_that_gives_up_leaves_nothing_behind():
    """Whether it waited or went on, also if nobody begins after it."""
    world = World(Limits(turns=1, everything=10, patience=FOREVER))
    first, second = world.ask("a", FOREVER), world.ask("b", 1.0)
    world.queue.leave(second)
    world.queue.leave(second)
    world.queue.leave(first)
    world.going.clear()
    world.admit()
    assert (world.queue.waiting, world.queue.under_way()) == (0, 0)
    assert second not in world.began
    assert world.queue.look_at == FOREVER


def test_what_is_known_of_namespaces_does_not_grow():
    """A namespace with nothing to do is forgotten, and so is what was outdated about it."""
    world = World(SMALL)
    world.ask("hangs", 1e6)
    for number in range(3000):
        world.ask(f"n-{number}", 0.3, election=f"e-{number}")
        world.go(world.now + 0.1)
    world.go(world.now + 100)
    line = world.queue._lines[Rank.CHANGE]
    assert set(line.namespaces) == {"hangs"}
    assert len(line._heap) < 200
    assert len(world.queue._quick) < 200


# Anything at all

work = st.tuples(
    st.floats(0, 2),
    st.sampled_from(Rank),
    st.sampled_from("abcdef"),
    st.sampled_from("xy"),
    st.sampled_from((0.01, 0.3, 0.9, 3.0, 20.0)),
    st.floats(0, 20),
)


@given(st.lists(work, max_size=60), st.sampled_from((SMALL, REQUESTS, CHANGES)))
def test_no_limit_is_broken_and_everything_begins(works, limits):
    """Whatever comes, `World.check` holds, and what ends makes room for what waits."""
    world = World(limits)
    tickets = []
    for pause, rank, namespace, election, takes, ahead in works:
        world.go(world.now + pause)
        due = world.now + ahead
        tickets.append(world.ask(namespace, takes, rank=rank, election=election, due=due))
    world.go(world.now + 20 * (len(tickets) + 1))
    assert all(ticket in world.began for ticket in tickets)
    assert (world.queue.waiting, world.queue.under_way()) == (0, 0)
    assert not any(line.namespaces for line in world.queue._lines.values())


@given(st.lists(work, max_size=60), st.integers(0, 60))
def test_a_namespace_never_has_more_than_its_share_when_it_begins(works, at):
    """Its work, with that of its election, is less than what was free at that moment."""
    world = World(SMALL)
    free_before = {}

    def free(rank):
        going = [ticket for ticket in world.going if not ticket.slow]
        bounds = SMALL.ranks[rank]
        return min(SMALL.turns - len(going), bounds.most - sum(t.rank is rank for t in going))

    for pause, rank, namespace, election, takes, _ in works:
        world.go(world.now + pause)
        world.admit()  # what has become slow gives its turn back
        before = free(rank)
        mine = [t for t in world.going if not t.slow and (t.rank, t.namespace) == (rank, namespace)]
        load = len(mine) + sum(t.election == election for t in mine)
        ticket = world.ask(namespace, takes, rank=rank, election=election)
        free_before[ticket] = before
        if world.began.get(ticket) == world.now and not world.queue.waiting:
            assert load < before


@given(
    st.integers(1, 30),
    st.lists(st.sampled_from((0.01, 0.4, 0.99, 5.0, 35.0)), min_size=1, max_size=6),
    st.sampled_from((Rank.STRIP, Rank.CHANGE)),
)
def test_a_strip_of_a_quiet_namespace_waits_no_longer_than_the_patience(bad, takes, rank):
    """Also while as many namespaces as there are turns hang, retry, and hang again."""
    world = World()
    pending = {}
    for number in range(bad):
        for index in range(12):
            ask = world.ask(f"bad-{number}", takes[index % len(takes)], rank=rank)
            pending[ask] = number
    for _ in range(5):
        world.go(world.now + 0.37)
        strip = world.ask("good", 0.01, rank=Rank.STRIP, election="e")
        world.go(world.now + 2)
        assert world.waited(strip) <= REQUESTS.patience


def test_the_limits_leave_each_rank_its_least():
    """Else the promise of a rank would be empty."""
    least = sum(bounds.least for bounds in REQUESTS.ranks.values())
    assert least <= REQUESTS.turns <= REQUESTS.everything
    assert set(REQUESTS.ranks) == set(Rank)
    for bounds in REQUESTS.ranks.values():
        assert bounds.most <= REQUESTS.turns - least + bounds.least
    assert replace(REQUESTS, ranks={}).ranks == {}
