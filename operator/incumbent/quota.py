"""How many elections of a namespace are served, and which. Pure.

All replicas come to the same answer, also after a restart, because it follows from the resources:
elections that were served before come first, then the older ones. So an election that leads does
not lose its place to one that was created later, also if both were created in the same second.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from incumbent.model import ElectionKey
from incumbent.resource import Resource

_Rank = tuple[bool, str, int, str, str]
"""What sorts the elections of a namespace: those that were served first, then by age."""


class Quota:
    """The elections of each namespace in the order in which they are served.

    Args:
        most: elections of one namespace that are served; 0: all.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._ranks: dict[ElectionKey, _Rank] = {}
        self._orders: dict[str, list[_Rank]] = {}
        self._arrivals: dict[str, int] = {}
        """When each election that was not served yet was seen first, as a number, by its UID."""
        self._seen = 0

    def enter(self, key: ElectionKey, resource: Resource | None) -> set[ElectionKey]:
        """Put a resource in the place of what is known under its name; None: it is gone.

        Returns the elections that may have become served, or not served, by this.
        """
        if not self.most:
            return set()
        order = self._orders.setdefault(key.namespace, [])
        before = self._ranks.pop(key, None)
        if before is not None:
            del order[bisect_left(order, before)]
        rank = self._rank(resource) if resource is not None else None
        if rank is not None:
            insort(order, rank)
            self._ranks[key] = rank
        if before is not None and (rank is None or rank[-1] != before[-1]):
            self._arrivals.pop(before[-1], None)
        # One election at most crosses the limit because another one comes, goes or moves.
        border = order[self.most - 1 : self.most + 1]
        if not order:
            del self._orders[key.namespace]
        return {ElectionKey(key.namespace, name) for *_, name, _ in border}

    def exceeds(self, resource: Resource) -> bool:
        """Whether there are so many elections before this one that it is not served."""
        rank = self._ranks.get(resource.key)
        if rank is None:
            return False
        return bisect_left(self._orders[resource.key.namespace], rank) >= self.most

    def refusal(self, resource: Resource) -> str:
        """Say why an election is not served, and what to do; empty if it is."""
        if not self.exceeds(resource):
            return ""
        return (
            f"namespace {resource.key.namespace} has more than {self.most} elections, and as many"
            " come before this one. It is served as soon as one of them is deleted. Delete some, or"
            " ask the administrator of the operator for a greater `--max-elections-per-namespace`"
            " (chart: `maxElectionsPerNamespace`)"
        )

    def _rank(self, resource: Resource) -> _Rank:
        served, name = bool(resource.site), resource.key.name
        if served:
            # By name: replicas may have seen two elections of one second in different orders.
            return False, resource.created, 0, name, resource.uid
        self._seen += 1
        arrival = self._arrivals.setdefault(resource.uid, self._seen)
        return True, resource.created, arrival, name, resource.uid
