"""What is searched, and the rules of the code that can be left out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from model.state import COUNTS, NOBODY, Entry, Pod, Replica, State

FENCE: Final = "fence"
"""A label is sent with the resourceVersion that it was decided on."""
REAL_STRIP: Final = "real strip"
"""A strip is a real write, also of a pod that shows no label."""
WARRANT: Final = "warrant"
"""Pod read, own write stored, label sent: in this order."""
LIST: Final = "list"
"""Before the first label of a term no other pod of the site carries one."""
TRANSFER_FIRST: Final = "transfer first"
"""The new pod is labelled after the record names it."""
CONFIRMED: Final = "confirmed"
"""A pod counts as stripped when the API server said so, not when a watch shows it as deleted."""
LAST_HOLDER: Final = "last holder"
"""Whoever creates the record strips the pod that the last one named."""
UNKNOWN_HOLDER: Final = "unknown holder"
"""Whoever creates the record and does not know who held the last one strips every pod."""
WAIT: Final = "wait"
"""After an eviction of another site, nobody acts before the last renewal + TTL."""
ANSWER: Final = "answer"
"""A write without an answer is not taken for stored."""
SAME_LEASE: Final = "same lease"
"""A record is handed over or released under the lease under which its pod was stripped for that."""
SAME_VACANCY: Final = "same vacancy"
"""A record is created only if no other has come and gone since the last one's pod was stripped."""
RENEW_FIRST: Final = "renew first"
"""The steward renews before it strips a pod that is not terminating."""
STRIP_AT_DEADLINE: Final = "strip at deadline"
"""A steward whose lease ran out strips the pod that it answers for."""
UNCONFIRMED: Final = "unconfirmed"
"""A replica that cannot see the key strips before a record can expire that nobody confirms."""
STRIP_BEFORE_RELEASE: Final = "strip before release"
"""A record is released when no pod carries the label any more."""
SHOWN: Final = "shown"
"""The bucket is written before the strip, for a Service's slice, only while the old pod shows the
label of the term: one that is still on its way is refused by what made it show."""
UNSHOWN: Final = "unshown"
"""Who gives way for want of an API server has begun the term, and no pod of it may be labelled."""

UNSTRIPPED: Final = "unstripped"
"""A refused strip is left out only by the replica that began the term, without a label of it."""
CLEAN: Final = "clean"
"""Whoever creates the record for the pod that held the last one, which was not released, does not
count as having begun the term: an earlier label of that pod may be on its way."""

EXPIRY: Final = "expiry"
EVICTION: Final = "eviction"
RELEASE: Final = "release"
CRASH: Final = "crash"
RESTART: Final = "restart"
LOST_ANSWER: Final = "lost answer"
LATE_WRITE: Final = "late write"
TERMINATION: Final = "termination"
DELETION: Final = "deletion"
CUT_OFF: Final = "cut off"
NO_NATS: Final = "no NATS"
"""A replica that is no steward loses NATS, or starts without it."""
GIVE_WAY: Final = "give way"
REFUSAL: Final = "refusal"
"""Events; handing over, renewing, relaying and labels that are held back are always there."""


@dataclass(frozen=True)
class Case:
    """One search.

    Args:
        replicas: for each site, how many.
        pods: for each site, how many.
        terms: how many there may be, with the one that it starts with.
        events: what may happen.
        without: the rules that are left out.
        start: how it starts: the first pod is `labelled`, or `nominated` by a record that was just
            stored, or its record is `evicted`, which all replicas have seen and stripped for.
        routed: whether the election names a Service: a hand-over writes the bucket first then, and
            strips after it.
    """

    replicas: tuple[int, ...] = (2,)
    pods: tuple[int, ...] = (2,)
    terms: int = 3
    events: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    start: str = "labelled"
    routed: bool = False

    def __post_init__(self) -> None:
        """Number replicas and pods through all sites, and name them."""
        sites = range(len(self.replicas))
        staff = _numbered(self.replicas)
        pods = _numbered(self.pods)
        object.__setattr__(self, "staff_of", staff)
        object.__setattr__(self, "pods_of", pods)
        object.__setattr__(self, "site_of", tuple(s for s in sites for _ in staff[s]))
        object.__setattr__(self, "names", (_names("R", staff), _names("P", pods)))

    site_of: tuple[int, ...] = ()
    """The site of each replica."""
    pods_of: tuple[tuple[int, ...], ...] = ()
    """The pods of each site."""
    staff_of: tuple[tuple[int, ...], ...] = ()
    """The replicas of each site."""
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Of replicas, and of pods."""

    def has(self, rule: str) -> bool:
        """Whether a rule is kept."""
        return rule not in self.without

    def replica(self, index: int) -> str:
        """Name a replica."""
        return self.names[0][index]

    def pod(self, index: int) -> str:
        """Name a pod."""
        return self.names[1][index]

    def first(self) -> State:
        """Return the state in which it starts."""
        site, evicted = self.site_of[0], self.start == "evicted"
        record = Entry("", writer=0, pod=0, term=1, promoted=True)
        replicas = [Replica(held=0 if own == site else NOBODY) for own in self.site_of]
        if not evicted:
            labelled = self.start == "labelled"
            replicas[0] = Replica(
                lease=COUNTS, mine=record, held=0, answers=True, in_office=labelled
            )
        pods = [Pod() for pods in self.pods_of for _ in pods]
        pods[0] = Pod(token=int(self.start == "labelled"))
        return State(
            entry=record._replace(cause="evicted") if evicted else record,
            pods=tuple(pods),
            replicas=tuple(replicas),
            last=tuple(record if number == site else Entry() for number in range(len(self.pods))),
            terms=1,
        )


def _numbered(counts: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Number things through all groups, given how many are in each."""
    starts = [sum(counts[:group]) for group in range(len(counts))]
    return tuple(tuple(range(start, start + n)) for start, n in zip(starts, counts, strict=True))


def _names(letter: str, groups: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    """Name things by their place in their site: P1, or B/P1 if there are several sites."""
    several = len(groups) > 1
    return tuple(
        f"{'AB'[site]}/{letter}{place}" if several else f"{letter}{place}"
        for site, group in enumerate(groups)
        for place, _ in enumerate(group, 1)
    )
