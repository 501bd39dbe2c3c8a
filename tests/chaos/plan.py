"""Which faults come when: the same seed, the same plan.

A plan names no process and no pod, for who leads when a fault comes cannot be planned: it says
"the steward", "the leader", and so on, and is carried out on whoever that is then.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


class Kind(enum.Enum):
    """What is done."""

    KILL = "kill"
    """SIGKILL of replicas, and a start later."""
    BLIND = "restart without NATS"
    """SIGKILL of replicas, and a start at once, while they are cut from NATS."""
    PAUSE = "pause"
    """SIGSTOP of replicas, and SIGCONT after more than a TTL."""
    CLOCK = "wall clock steps"
    """Of replicas, by up to an hour, forth or back; and back later."""
    PREVIOUS = "previous version"
    """Replicas are replaced, politely, by those of the previous version, and back later."""
    CUT_NATS = "cut from NATS"
    """All connections are reset, and refused."""
    HOLE_NATS = "black hole to NATS"
    """Everything is swallowed without a sign."""
    HOLD_NATS = "hold to NATS"
    """Everything is held back, and delivered in the end."""
    CUT_API = "cut from API server"
    HOLE_API = "black hole to API server"
    HOLD_API = "hold to API server"
    API = "kill API server"
    """SIGKILL of a site's API server, and a start later, with its store."""
    SLOW = "slow webhook"
    """Each patch of a pod by the operators of a site takes a part of the TTL longer."""
    REFUSING = "refusing webhook"
    """A webhook refuses the operators' patches of some pods of a site, or of all."""
    UNDOING = "webhook that undoes labels"
    """A webhook changes these patches so that the pods stay what they were."""
    NATS = "kill NATS"
    """SIGKILL of the server that leads the stream, and a start later, with its store."""
    DELETE = "delete leader"
    FLAP = "leader not ready"
    LEAVE = "leader not selected"
    """The leader loses the label by which it is selected, and is deleted later."""
    EVICT = "evict"
    """The key is deleted, as `nats kv del` does it."""
    ROLL = "rolling update"
    SCALE = "scale to 0"
    """And back later."""
    LABEL = "label by hand"
    """The leader label is put on a candidate."""
    UNLABEL = "label taken by hand"
    """The leader label is taken from the leader; its token stays."""


OF_REPLICAS = (Kind.KILL, Kind.BLIND, Kind.PAUSE, Kind.CLOCK, Kind.PREVIOUS)
OF_LINKS = (
    *(Kind.CUT_NATS, Kind.HOLE_NATS, Kind.HOLD_NATS),
    *(Kind.CUT_API, Kind.HOLE_API, Kind.HOLD_API),
)
OF_WEBHOOKS = (Kind.SLOW, Kind.REFUSING, Kind.UNDOING)
OF_SERVERS = (*OF_REPLICAS, *OF_LINKS, *OF_WEBHOOKS, Kind.NATS, Kind.API)
BY_HAND = (Kind.LABEL, Kind.UNLABEL)
OF_PODS = (
    *(Kind.DELETE, Kind.FLAP, Kind.LEAVE, Kind.EVICT, Kind.ROLL, Kind.SCALE),
    *BY_HAND,
)
CALM = (2.4, 1.2)
"""Seconds before the next round within which most labels are changed by hand: so late that nothing
is wrong any more, and the correction is bounded."""
CALM_SHARE = 0.7
FORGOTTEN_AFTER = 2.0
"""How many times longer than a webhook its consequences last: who was refused asks again in twice
the time each time."""
PREVIOUS_AT_WORK = 3.0
"""Seconds longer than other faults: it has to start first."""


class Who(enum.Enum):
    """Which replicas of a site."""

    STEWARD = "steward"
    STANDBY = "standby"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned fault."""

    at: float
    """Seconds after the start."""
    kind: Kind
    seconds: float
    """How long it lasts, where it lasts, with its consequences."""
    elections: tuple[int, ...]
    """Of a fault of pods: whom it hits. Otherwise the first says which site and steward it hits."""
    leading: bool = True
    """Whether it hits the site where that election is led, or else the other one."""
    who: Who = Who.STEWARD


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of one run, the earliest first."""

    faults: tuple[Fault, ...]
    end: float
    """Seconds after the start; by then all faults have ended, and there was quiet."""


def make_plan(
    seed: int, *, duration: float, ttl: float, elections: int, without: Collection[Kind] = ()
) -> Plan:
    """Plan rounds of faults with quiet in between.

    In each round one thing happens to servers, replicas or links, and while it lasts two or three
    things happen to pods or records.

    Args:
        seed: decides everything.
        duration: seconds.
        ttl: of the bucket.
        elections: how many there are.
        without: what is not to happen.
    """
    dice = random.Random(seed)
    servers = _deck(dice, [kind for kind in OF_SERVERS if kind not in without])
    pods = _deck(dice, OF_PODS)
    whom = _deck(dice, range(elections))
    quiet = ttl / 2 + 5
    faults: list[Fault] = []
    now = 1.0
    while True:
        main = _server_fault(dice, next(servers), now, ttl, next(whom))
        round_ = [main]
        for _ in range(dice.choice((2, 3))):
            at = now + dice.uniform(0, max(1.0, main.seconds))
            hit = tuple({next(whom) for _ in range(dice.randint(1, 3))})
            kind = next(pods)
            if kind in BY_HAND and dice.random() < CALM_SHARE:
                at = now + main.seconds + quiet - dice.uniform(*CALM)
            round_.append(_pod_fault(dice, kind, at, ttl, hit))
        lasting = (f for f in round_ if f.kind not in BY_HAND)
        end = max(fault.at + fault.seconds for fault in lasting) + quiet
        if end > duration:
            return Plan(tuple(faults), duration)
        faults += sorted(round_, key=lambda fault: fault.at)
        now = end


def _server_fault(dice: random.Random, kind: Kind, at: float, ttl: float, election: int) -> Fault:
    brief, long = dice.uniform(0.2, 0.6) * ttl, dice.uniform(1.1, 1.6) * ttl
    seconds = long if kind in {Kind.PAUSE, Kind.BLIND} or dice.random() < 0.5 else brief
    if kind is Kind.PREVIOUS:
        seconds += PREVIOUS_AT_WORK
    if kind in OF_WEBHOOKS:
        seconds *= FORGOTTEN_AFTER
    who = dice.choices((Who.STEWARD, Who.STANDBY, Who.ALL), (5, 2, 3))[0]
    return Fault(at, kind, seconds, (election,), dice.random() < 0.8, who)


def _pod_fault(
    dice: random.Random, kind: Kind, at: float, ttl: float, hit: tuple[int, ...]
) -> Fault:
    longest = {
        Kind.FLAP: 0.5 * ttl,
        Kind.LEAVE: ttl,
        Kind.SCALE: 0.8 * ttl,
        Kind.ROLL: 3.0,
    }.get(kind, 0.0)
    return Fault(at, kind, dice.uniform(0.2, 1.0) * longest, hit, dice.random() < 0.9)


def _deck(dice: random.Random, cards: Sequence[T]) -> Iterator[T]:
    """Yield all cards in random order, then all in another order, and so on."""
    while True:
        yield from dice.sample(cards, len(cards))
