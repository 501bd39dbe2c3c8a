"""What there is in the model, as values that can be compared and hashed."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

T = TypeVar("T")

NOBODY = -1
NONE, COUNTS, RAN_OUT = 0, 1, 2
"""A lease: there is none; it counts; its deadline has passed and its replica has not noticed."""

Instruction = tuple[str, int]
"""One await of a pass, and the pod or the choice that it is about."""
Work = tuple[Instruction, ...]
"""What is left of a pass."""


class Entry(NamedTuple):
    """The latest entry of the key; a marker keeps what the last record said."""

    cause: str = ""
    """Why there is no record: `released`, `evicted` or `expired`; empty if there is one."""
    writer: int = NOBODY
    pod: int = NOBODY
    term: int = 0
    promoted: bool = False


class Pod(NamedTuple):
    """A pod, as the API server has it."""

    token: int = 0
    """Of its leader label; 0 without one."""
    condition: str = "ready"
    """Or `terminating`, or `gone`."""


class Patch(NamedTuple):
    """A leader label on its way to the API server; with the fence, only while nothing changes."""

    pod: int
    token: int
    sender: int
    """Who waits for the answer; nobody after a timeout or a crash."""


class Replica(NamedTuple):
    """One operator process."""

    up: bool = True
    current: bool = True
    """Whether it knows the latest entry of the key."""
    missed: bool = False
    """Whether the key was vacant since it last looked."""
    lease: int = NONE
    mine: Entry = Entry()
    """The record of its lease."""
    unanswered: bool = False
    """Whether a write without an answer may be, or may become, the latest entry."""
    held: int = NOBODY
    """The pod of the last record of its site that it saw."""
    answers: bool = False
    """Whether that pod may carry the label because it led, and was not relieved."""
    in_office: bool = False
    """Whether the pod of its lease's term was labelled by it."""
    begun: bool = False
    """Whether it began the term of its lease, has held that since without a gap, and may give way:
    it has not seen that a label without an answer came to its end."""
    doubtful: frozenset[int] = frozenset()
    """The pods to which it sent a label, without an answer."""
    work: Work = ()
    target: int = NOBODY
    """The pod that its pass means to label."""
    fresh: bool = False
    """Whether the target has not changed since it was read."""
    aim: int = 0
    """The term that its pass is about; the one that it begins, once it has."""
    unseeing: bool = False
    """Whether it reaches the API server and not NATS, and is no steward."""
    excused: bool = False
    """Whether it stood still, or was cut off, since it last stored a write."""


class State(NamedTuple):
    """Everything."""

    entry: Entry
    pods: tuple[Pod, ...]
    replicas: tuple[Replica, ...]
    last: tuple[Entry, ...]
    """For each site, its last record."""
    patches: frozenset[Patch] = frozenset()
    late: frozenset[Entry] = frozenset()
    """Writes to the bucket that are still on their way, and expect the latest entry."""
    owed: bool = False
    """Whether less than a TTL has passed since the last renewal before an eviction."""
    terms: int = 0
    """How many there have been."""
    highest: int = 0
    """The highest token that a label of the first site has shown."""
    deleted: str = ""
    """Of the election: `asked for`, then `done` when its finalizer is gone."""


def touched(state: State, pod: int, to: Pod, *, fence: bool) -> State:
    """Write to a pod: what was read of it is old, and what was decided on that is refused."""
    replicas = tuple(
        replica._replace(fresh=False) if replica.fresh and replica.target == pod else replica
        for replica in state.replicas
    )
    patches = state.patches
    if fence or to.condition == "gone":
        for patch in [patch for patch in patches if patch.pod == pod]:
            patches -= {patch}
            if patch.sender != NOBODY:
                starts_over = conflicted(replicas[patch.sender])
                replicas = replaced(replicas, patch.sender, starts_over)
    return state._replace(pods=replaced(state.pods, pod, to), replicas=replicas, patches=patches)


def conflicted(replica: Replica) -> Replica:
    """Let an add start over: look at the pod, list if it is the first of a term, renew, send."""
    first = replica.work[0][1]
    begun = replica.begun and replica.target not in replica.doubtful
    doubtful = replica.doubtful - {replica.target}
    listing: Work = (("list", 0),) if first else ()
    work: Work = (("look", 0), *listing, ("renew", 0), ("send", first))
    return replica._replace(work=work, doubtful=doubtful, begun=begun)


def stored(state: State, entry: Entry, *, site: int, known_to: int = NOBODY) -> State:
    """Make an entry the latest; what else is on its way expects another one, and never will be."""
    vacant = bool(entry.cause)
    replicas = tuple(
        replica
        if index == known_to or not (replica.current or vacant > replica.missed)
        else replica._replace(current=False, missed=vacant or replica.missed)
        for index, replica in enumerate(state.replicas)
    )
    last = state.last if entry.cause else replaced(state.last, site, entry)
    terms = max(state.terms, entry.term)
    owed = state.owed and entry.cause not in {"released", "expired"}
    return state._replace(
        entry=entry, replicas=replicas, last=last, late=frozenset(), terms=terms, owed=owed
    )


def replaced(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """Return the tuple with another value at one place."""
    return (*values[:index], value, *values[index + 1 :])
