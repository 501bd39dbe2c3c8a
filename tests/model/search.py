"""All states that can be reached, and the shortest way to one that must not be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from model import replica, world
from model.replica import Step
from model.rules import Case
from model.state import State

S = TypeVar("S", bound=Hashable)
"""A state, of whatever model."""


@dataclass(frozen=True)
class Result:
    """How a search ended."""

    states: int
    steps: tuple[str, ...] = ()
    """The shortest way to a broken promise; empty if none was found."""
    broken: str = ""
    complete: bool = True
    """Whether there was nothing left to search."""

    def __str__(self) -> str:
        """Return it as a short list of steps."""
        if not self.broken:
            return f"holds in {'all' if self.complete else 'the first'} {self.states} states"
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"     → {self.broken} ({self.states} states)"])


def search(case: Case, *, most: int = 10_000_000) -> Result:
    """Look at all states, the nearest first, until a promise is broken."""
    return explore(
        case.first(),
        lambda state: _steps(state, case),
        lambda before, after: _broken(after, case) or _backwards(before, after, case),
        most=most,
    )


def explore(
    start: S,
    steps: Callable[[S], Iterable[tuple[str, S]]],
    broken: Callable[[S, S], str],
    *,
    most: int,
) -> Result:
    """Look at all states, the nearest first, until a step breaks a promise.

    Args:
        start: the first state.
        steps: what can happen in a state, each in words and with the state after it.
        broken: says which promise does not hold after a step, given the states before and after.
        most: how many states to look at.
    """
    came: dict[S, tuple[S, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for words, after in steps(state):
            here = (state, words)
            if came.setdefault(after, here) is not here:
                continue
            if problem := broken(state, after):
                return Result(len(came), _way(came, after), problem)
            if len(came) >= most:
                return Result(len(came), complete=False)
            queue.append(after)
    return Result(len(came))


def _steps(state: State, case: Case) -> Iterator[Step]:
    yield from world.steps(state, case)
    for me in range(len(state.replicas)):
        for words, after in replica.steps(state, me, case):
            yield f"{case.replica(me)} {words}", after


def _broken(state: State, case: Case) -> str:
    """Say which promise does not hold in a state."""
    lead = [[pod for pod in pods if state.pods[pod].token] for pods in case.pods_of]
    for pods in lead:
        if len(pods) > 1:
            return f"{' and '.join(map(case.pod, pods))} are labelled at once"
    if any(lead) and state.deleted == "done":
        return "a pod is labelled after the election is gone"
    sites = [site for site, pods in enumerate(lead) if pods]
    if len(sites) > 1:
        old = min(sites, key=lambda site: state.pods[lead[site][0]].token)
        staff = [state.replicas[me] for me in case.staff_of[old]]
        if any(replica.up and not replica.excused for replica in staff):
            return "both sites lead, though the first one's operator was alive and connected"
    return ""


def _backwards(before: State, after: State, case: Case) -> str:
    """Say whether a pod of the first site was labelled with a lower token than one before."""
    for pod in case.pods_of[0]:
        token = after.pods[pod].token
        if token != before.pods[pod].token and 0 < token < before.highest:
            return f"{case.pod(pod)} is labelled with token {token} after {before.highest}"
    return ""


def _way(came: Mapping[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    words: list[str] = []
    while (step := came[state]) is not None:
        state = step[0]
        words.append(step[1])
    return tuple(reversed(words))
