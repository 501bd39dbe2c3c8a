"""Which processes are replicas of one site: those that use the same API server. Pure.

A site is all the operator processes that share one API server, because only they see each other's
labels. A name and the UID of a cluster do not prove that: a copied cluster (a cloned virtual
machine, a restored etcd) has both. So a process is a *known* replica only after it has written to
the API server that we read:

* A process that meets a record of an unknown replica introduces itself in the status of the
  election (`newcomer`). The steward answers there (`steward.admitted`). The copy of a status cannot
  contain the answer, because the question holds a number that was drawn when the process started.
* A status that names another steward than it did before was written by that steward.

A status that is read for the first time may be part of a copy. It proves nothing, but it *names*
the steward before us, whose record may be taken over if nobody renews it any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from incumbent.campaign.records import Record
from incumbent.display import shown

MOST_PROCESSES = 1000
"""How many processes to remember of each sort. There are as many alive as there are replicas of all
sites on a bucket, which are a few."""


@dataclass(frozen=True, slots=True)
class Site:
    """All replicas that share one API server."""

    name: str
    uid: str
    """Of the cluster; empty if it may not be read. Tells two sites of one name apart."""
    given: bool = False
    """Whether the administrator chose the name, which then wins over one in a status."""

    @property
    def header(self) -> str:
        """Return how records name it."""
        return f"{self.name}/{self.uid}"

    def for_election(self, *, name: str, uid: str) -> Site:
        """Return the site as one election has it.

        Args:
            name: under which the election was first served; empty for a new one.
            uid: of the election, which replaces that of the cluster if it may not be read: every
                replica that serves the election knows it, whatever namespaces it serves.
        """
        kept = self.name if self.given or not name else name
        return Site(kept, self.uid or uid, given=self.given)


@dataclass(frozen=True, slots=True)
class Replica:
    """This operator process."""

    name: str
    nonce: str

    def __str__(self) -> str:
        """Return how records name it."""
        return f"{self.name}/{self.nonce}"


@dataclass(slots=True)
class Doubt:
    """A question that is open in one election: whether a replica is of this site."""

    replica: str
    since: float
    asked_at: float = math.inf
    """When our question was in the status."""
    revision: int = 0
    """The latest of its records then."""


class Recent(dict[str, float]):
    """The latest replicas, each with a time, `MOST_PROCESSES` at most."""

    def add(self, replica: str, at: float = 0.0) -> None:
        """Add one, and forget the one that was added first if there are too many."""
        self.pop(replica, None)
        self[replica] = at
        if len(self) > MOST_PROCESSES:
            del self[next(iter(self))]

    def discard(self, replica: str) -> None:
        """Forget one."""
        self.pop(replica, None)


class Peers:
    """What this process knows about other processes, from all its elections.

    Each start of an operator is another process, and whoever may write into a bucket can make any
    number of them up. One that was forgotten is asked again if it still writes, so nothing is
    decided by what is missing here.
    """

    def __init__(self) -> None:
        self.known = Recent()
        """Replicas that use our API server for certain."""
        self.named = Recent()
        """Stewards that a status names, which may be a copy."""
        self.foreign = Recent()
        """Processes that claim to be of our site, live, and do not answer."""
        self.asked_at = Recent()
        """When a question was sent last on account of a replica."""
        self._listeners: set[Callable[[str], None]] = set()

    def learn(self, replica: str) -> None:
        """Note that a process is a replica of our site."""
        if replica not in self.known:
            self.known.add(replica)
            self.foreign.discard(replica)
            self._notify(replica)

    def exclude(self, replica: str) -> None:
        """Note that a process is of another cluster, unless we know better."""
        if replica not in self.known and replica not in self.foreign:
            self.foreign.add(replica)
            self.named.discard(replica)
            self._notify(replica)

    def listen(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Call `changed` with each replica that was judged; returns a function that ends that."""
        self._listeners.add(changed)
        return lambda: self._listeners.discard(changed)

    def _notify(self, replica: str) -> None:
        for changed in tuple(self._listeners):
            changed(replica)


class Kinship:
    """Tells for one election which records are of replicas of this site.

    Args:
        site: of the election.
        me: this process, as records name it.
        namespace: of the election. Two operators of one API server may serve different namespaces;
            they are no replicas of each other, because neither reaches the pods of the other.
        peers: of this process.
        status: of the election as first read.
    """

    def __init__(
        self, site: Site, me: str, namespace: str, peers: Peers, status: Mapping[str, Any]
    ) -> None:
        self.peers = peers
        self.unproven = False
        """Whether the API server drops the fields of a proof: its definition of the kind is old.
        Then the header of a record has to be enough, as it was before."""
        self._site = site
        self._me = me
        self._namespace = namespace
        self._first = status
        self._status = status
        self._note_steward(status)

    def hear(self, status: Mapping[str, Any]) -> None:
        """Observe a later status of the election."""
        before, self._status = self._status, status
        newcomer, steward = status.get("newcomer", ""), steward_of(status)
        if newcomer not in {"", self._me, self._first.get("newcomer")}:
            self.peers.learn(newcomer)
        admitted = (status.get("steward") or {}).get("admitted") == self._me
        if steward not in {"", self._me} and (admitted or steward != steward_of(before)):
            self.peers.learn(steward)
        self._note_steward(status)

    def answered_without_proof(self, record: Record, status: Mapping[str, Any]) -> bool:
        """Whether a status, newer than our question, shows a replica of an earlier version.

        It knows nothing of questions and replaces them by what it has to say.
        """
        steward = status.get("steward") or {}
        replaced = "newcomer" not in status and "process" not in steward
        return replaced and steward.get("replica") == record.replica_name

    def ours(self, record: Record) -> bool:
        """Whether another replica of this site wrote a record."""
        if not self._concerns(record):
            return False
        if record.replica in self.peers.known:
            return True
        return self.unproven and self.same_name(record) and self._claims(record)

    def inherited(self, record: Record) -> bool:
        """Whether a status names a record's writer, so that we may go on where it ended.

        That is no proof; and it is not enough to write over what the writer still renews.
        """
        return self.same_name(record) and self._named(record)

    def doubtful(self, record: Record) -> bool:
        """Whether a record may be of a replica of this site that is not known yet."""
        judged = record.replica == self._me or record.replica in self.peers.foreign
        if record.stranger or judged or self.ours(record):
            return False
        return self._concerns(record) and self._claims(record)

    def in_use(self, record: Record) -> bool:
        """Whether a replica of another cluster holds a record under the name of our site."""
        return self.same_name(record) and record.replica in self.peers.foreign

    def same_name(self, record: Record) -> bool:
        """Whether a record's holder has the name of our site, and our namespace."""
        return record.holder.startswith(f"{self._site.name}/{self._namespace}/")

    def _concerns(self, record: Record) -> bool:
        """Whether a record's holder is a pod of our namespace, in whatever site."""
        return record.holder.partition("/")[2].startswith(f"{self._namespace}/")

    def _claims(self, record: Record) -> bool:
        """Whether a record is of this cluster, by its UID or by a status: perhaps of its copy."""
        same_cluster = bool(self._site.uid) and record.site.partition("/")[2] == self._site.uid
        return same_cluster or self._named(record)

    def _named(self, record: Record) -> bool:
        if record.replica in self.peers.foreign:
            return False
        if record.replica in self.peers.named:
            return True
        status = self._first
        steward = status.get("steward") or {}
        # Earlier versions wrote no more than the name of a replica.
        plain = "process" not in steward and steward.get("replica") == record.replica_name
        same = (status.get("token"), status.get("holder")) == (record.term, shown(record.holder))
        return plain and same

    def _note_steward(self, status: Mapping[str, Any]) -> None:
        steward = steward_of(status)
        if steward and steward not in self.peers.foreign:
            self.peers.named.add(steward)


def steward_of(status: Mapping[str, Any]) -> str:
    """Return the steward in a status as records name it; empty if that cannot be told."""
    steward = status.get("steward") or {}
    return f"{steward['replica']}/{steward['process']}" if steward.get("process") else ""
