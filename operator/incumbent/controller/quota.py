"""How many elections of a namespace are served, and which. Pure.

All replicas come to the same answer, also after a restart, because it follows from the resources:
elections that were served before come first, then the older ones, and of one second those whose
name comes first. So an election that leads does not lose its place to one that was created later.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from incumbent.kubernetes.objects import ElectionKey
from incumbent.kubernetes.resource import Resource

_Rank = tuple[bool, str, bool, str, str]
"""The order of a namespace's elections: those that are served come first, then by age and name."""


class Quota:
    """The elections of each namespace in the order in which they are served.

    Args:
        most: elections of one namespace that are served; 0: all.
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._ranks: dict[ElectionKey, _Rank] = {}
        self._orders: dict[str, list[_Rank]] = {}
        self._begun: set[str] = set()
        """The UIDs of elections that this process serves, though no status says so yet."""

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
            self._begun.discard(before[-1])
        # One election at most crosses the limit because another one comes, goes or moves.
        border = order[self.most - 1 : self.most + 1]
        if not order:
            del self._orders[key.namespace]
        return {ElectionKey(key.namespace, name) for *_, name, _ in border}

    def begin(self, resource: Resource) -> None:
        """Take in that an election is about to be served, unless there are too many before it.

        Until its status says so, it keeps its place from one of the same second whose name comes
        first. Who is served does not change by this.
        """
        if self.most and not (resource.site or self.exceeds(resource)):
            self._begun.add(resource.uid)
            self.enter(resource.key, resource)

    def exceeds(self, resource: Resource) -> bool:
        """Whether the quota is used up by the elections before this one."""
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
        waits = not resource.site
        behind = waits and resource.uid not in self._begun
        return waits, resource.created, behind, resource.key.name, resource.uid
