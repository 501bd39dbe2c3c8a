"""The search for elections whose members campaign by themselves, and whose replicas only label.

There is no bucket write of ours that could be a warrant. Each replica that labels a pod reads that
pod, reads which pod was announced last, strips that one, announces its own, and sends the label: in
this order. The members change the record as they like, and requests to the API server arrive when
they like.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from model.search import Result, explore
from model.state import NOBODY

FENCE: Final = "observed: fence"
"""A label carries the resourceVersion with which its pod was read."""
STRIP_LAST: Final = "observed: strip last"
"""The pod that was announced last is stripped, confirmed, before another one is announced."""
READ_FIRST: Final = "observed: read first"
"""The pod is read before it is found out which one was announced last."""
IN_ORDER: Final = "observed: in order"
"""An announcement is refused if there was another one since the last was read."""
EACH_TIME: Final = "observed: each time"
"""A pod is announced again before each label, though it was announced last."""
RULES: Final = (FENCE, STRIP_LAST, READ_FIRST, IN_ORDER, EACH_TIME)

IDLE, READ, ASK, STRIP, ANNOUNCE, SEND = range(6)


class Replica(NamedTuple):
    """One operator process: what it is about to do for the pod that it means to label."""

    step: int = IDLE
    pod: int = 0
    fresh: bool = False
    """Whether that pod was read, and has not changed since."""
    last: int = NOBODY
    """The pod that was announced last, as it was read."""
    current: bool = False
    """Whether nobody has announced a pod since."""


class State(NamedTuple):
    """Everything."""

    record: int
    labelled: tuple[bool, ...]
    """For each pod."""
    announced: int
    """The pod that was announced last."""
    replicas: tuple[Replica, ...]
    patches: frozenset[int] = frozenset()
    """The pods to which a label is on its way; with the fence, only while they do not change."""
    changes: int = 0
    """Of the record, so far."""


@dataclass(frozen=True)
class Case:
    """One search: how many replicas, pods and changes of the record, and what is left out."""

    replicas: int = 2
    pods: int = 2
    changes: int = 2
    crashes: bool = False
    """Whether replicas may start again, with what they sent still on its way."""
    without: frozenset[str] = frozenset()


HOLD: Final[dict[str, Case]] = {
    "observed": Case(changes=3),
    "observed, with restarts": Case(changes=3, crashes=True),
    "observed, a third pod": Case(pods=3, crashes=True),
    "observed, a third replica": Case(replicas=3, crashes=True),
}
"""In all of these nothing is to be found."""


def left_out(rule: str) -> Case:
    """Return the case in which a rule is left out."""
    return Case(changes=3, without=frozenset({rule}))


def search(case: Case, *, most: int = 2_000_000) -> Result:
    """Look at all states, the nearest first, until two pods are labelled at once."""
    start = State(0, (False,) * case.pods, NOBODY, (Replica(),) * case.replicas)
    return explore(start, lambda state: _steps(state, case), _broken, most=most)


def _broken(_: State, state: State) -> str:
    return "two pods are labelled at once" if sum(state.labelled) > 1 else ""


def _steps(state: State, case: Case) -> Iterator[tuple[str, State]]:
    if state.changes < case.changes:
        for pod in range(case.pods):
            if pod != state.record:
                after = state._replace(record=pod, changes=state.changes + 1)
                yield f"the member in P{pod + 1} takes the record", after
    for pod in sorted(state.patches):
        after = state._replace(patches=state.patches - {pod})
        yield f"the API server labels P{pod + 1}", _written(after, pod, case, leads=True)
    for me, replica in enumerate(state.replicas):
        for words, after in _works(state, me, replica, case):
            yield f"R{me + 1} {words}", after
        if case.crashes and replica.step != IDLE:
            yield f"R{me + 1} starts again", _put(state, me, Replica())


def _works(state: State, me: int, replica: Replica, case: Case) -> Iterator[tuple[str, State]]:
    name = f"P{replica.pod + 1}"
    read_first = READ_FIRST not in case.without
    match replica.step:
        case 0:  # IDLE
            yield from _begins(state, me, case)
        case 1:  # READ
            step = ASK if read_first else SEND
            yield f"reads {name}", _put(state, me, replica._replace(step=step, fresh=True))
        case 2:  # ASK
            yield _asks(state, me, replica, case)
        case 3:  # STRIP
            after = _put(state, me, replica._replace(step=ANNOUNCE))
            yield f"strips P{replica.last + 1}", _written(after, replica.last, case, leads=False)
        case 4:  # ANNOUNCE
            if not replica.current and IN_ORDER not in case.without:
                yield f"may not announce {name}", _put(state, me, replica._replace(step=ASK))
                return
            others = tuple(one._replace(current=False) for one in state.replicas)
            after = state._replace(announced=replica.pod, replicas=others)
            step = SEND if read_first else READ
            yield f"announces {name}", _put(after, me, replica._replace(step=step, current=False))
        case _:  # SEND
            after = _put(state, me, Replica())
            if replica.fresh or FENCE in case.without:
                after = after._replace(patches=after.patches | {replica.pod})
            yield f"sends the label of {name}", after


def _begins(state: State, me: int, case: Case) -> Iterator[tuple[str, State]]:
    target = state.record
    if not state.labelled[target]:
        step = ASK if READ_FIRST in case.without else READ
        yield f"reads that the record is P{target + 1}'s", _put(state, me, Replica(step, target))
    for pod in range(case.pods):
        if pod != target and state.labelled[pod]:
            yield f"strips P{pod + 1}", _written(state, pod, case, leads=False)


def _asks(state: State, me: int, replica: Replica, case: Case) -> tuple[str, State]:
    last, known = state.announced, replica._replace(last=state.announced, current=True)
    if last == replica.pod and EACH_TIME in case.without:
        known = known._replace(step=READ if READ_FIRST in case.without else SEND)
    elif last in {NOBODY, replica.pod} or STRIP_LAST in case.without:
        known = known._replace(step=ANNOUNCE)
    else:
        known = known._replace(step=STRIP)
    who = f"P{last + 1}" if last != NOBODY else "nobody"
    return f"reads that {who} was announced last", _put(state, me, known)


def _written(state: State, pod: int, case: Case, *, leads: bool) -> State:
    """Write to a pod: what was read of it is old, and what was decided on that is refused."""
    labelled = (*state.labelled[:pod], leads, *state.labelled[pod + 1 :])
    replicas = tuple(one._replace(fresh=False) if one.pod == pod else one for one in state.replicas)
    patches = state.patches if FENCE in case.without else state.patches - {pod}
    return state._replace(labelled=labelled, replicas=replicas, patches=patches)


def _put(state: State, me: int, replica: Replica) -> State:
    replicas = (*state.replicas[:me], replica, *state.replicas[me + 1 :])
    return state._replace(replicas=replicas)
