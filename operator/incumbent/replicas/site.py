"""Recognises the replicas of a site: the processes that use the same API server. Pure.

A site is all the operator processes that share one API server, because only they see each other's
labels. A name and the UID of a cluster do not prove that two processes share one, because a copied
cluster (a cloned virtual machine, a restored etcd) has both. Therefore a process is a *known*
replica only after it has written to the API server that we read:

* A process that meets a record of an unknown replica introduces itself in the status of the
  election (`newcomer`). The steward answers there (`steward.admitted`). The copy of a status cannot
  contain the answer, because the question holds a number that was drawn when the process started.
* If a status names another steward than before, that steward wrote it.

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
"""How many processes to remember in each of the lists of `Peers`. The live processes are the
replicas of all sites that use a bucket, which are a few."""


@dataclass(frozen=True, slots=True)
class Site:
    """All replicas that share one API server."""

    name: str
    uid: str
    """The UID of the cluster, which tells two sites with one name apart; empty if we may not read
    it."""
    given: bool = False
    """Whether the administrator chose the name. Then it wins over a name in a status."""

    @property
    def header(self) -> str:
        """Return the site as records name it."""
        return f"{self.name}/{self.uid}"

    def for_election(self, *, name: str, uid: str) -> Site:
        """Return the site for one election.

        Args:
            name: the site name under which the election was first served; empty for a new election.
            uid: the UID of the election. It replaces the UID of the cluster if we may not read
                that, because every replica that serves the election knows it.
        """
        kept = self.name if self.given or not name else name
        return Site(kept, self.uid or uid, given=self.given)


@dataclass(frozen=True, slots=True)
class Replica:
    """This operator process."""

    name: str
    nonce: str

    def __str__(self) -> str:
        """Return the replica as records name it."""
        return f"{self.name}/{self.nonce}"


@dataclass(slots=True)
class Doubt:
    """An open question in one election: does a replica belong to this site?"""

    replica: str
    since: float
    asked_at: float = math.inf
    """When our question appeared in the status."""
    revision: int = 0
    """The revision of the replica's latest record at that time."""


class Recent(dict[str, float]):
    """The latest replicas, at most `MOST_PROCESSES`, each with a time."""

    def add(self, replica: str, at: float = 0.0) -> None:
        """Add a replica. If there are too many, forget the replica that was added first."""
        self.pop(replica, None)
        self[replica] = at
        if len(self) > MOST_PROCESSES:
            del self[next(iter(self))]

    def discard(self, replica: str) -> None:
        """Forget a replica."""
        self.pop(replica, None)


class Peers:
    """What this process knows about other processes, from all its elections.

    Each start of an operator is another process, and anybody who may write into a bucket can invent
    any number of them. If a forgotten process still writes, we ask it again. Therefore a missing
    entry here decides nothing.
    """

    def __init__(self) -> None:
        self.known = Recent()
        """Replicas that certainly use our API server."""
        self.named = Recent()
        """Stewards that a status names. The status may be a copy from another cluster."""
        self.foreign = Recent()
        """Processes that claim to belong to our site and live, but do not answer."""
        self.asked_at = Recent()
        """When we last asked whether each replica belongs to our site."""
        self._listeners: set[Callable[[str], None]] = set()

    def learn(self, replica: str) -> None:
        """Note that a process is a replica of our site."""
        if replica not in self.known:
            self.known.add(replica)
            self.foreign.discard(replica)
            self._notify(replica)

    def exclude(self, replica: str) -> None:
        """Note that a process belongs to another cluster, unless it is a known replica."""
        if replica not in self.known and replica not in self.foreign:
            self.foreign.add(replica)
            self.named.discard(replica)
            self._notify(replica)

    def listen(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Call `changed` with each replica that `learn` or `exclude` has judged.

        Returns a function that ends this.
        """
        self._listeners.add(changed)
        return lambda: self._listeners.discard(changed)

    def _notify(self, replica: str) -> None:
        for changed in tuple(self._listeners):
            changed(replica)


class Kinship:
    """Tells for one election which records replicas of this site wrote.

    Args:
        site: the site for this election.
        me: this process, as records name it.
        namespace: the namespace of the election. Two operators of one API server may serve
            different namespaces. They are not replicas of each other then, because neither reaches
            the pods of the other.
        peers: what this process knows about other processes.
        status: the status of the election as first read.
    """

    def __init__(
        self, site: Site, me: str, namespace: str, peers: Peers, status: Mapping[str, Any]
    ) -> None:
        self.peers = peers
        self.unproven = False
        """Whether the API server drops the fields of a proof, because its CRD is old. Then the
        header of a record counts as a proof, as in earlier versions."""
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
        """Whether a replica of an earlier version wrote a status that is newer than our question.

        Such a replica does not know questions and overwrites them with its own status.
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
        """Whether a status names the writer of a record, so we may continue after its end.

        This is not a proof, so we may not overwrite a record that its writer still renews.
        """
        return self.same_name(record) and self._named(record)

    def doubtful(self, record: Record) -> bool:
        """Whether a replica of this site that is not known yet may have written a record."""
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
        """Whether the holder of a record is a pod of our namespace, in any site."""
        return record.holder.partition("/")[2].startswith(f"{self._namespace}/")

    def _claims(self, record: Record) -> bool:
        """Whether a UID or a status says that a record is from this cluster, or from its copy."""
        same_cluster = bool(self._site.uid) and record.site.partition("/")[2] == self._site.uid
        return same_cluster or self._named(record)

    def _named(self, record: Record) -> bool:
        if record.replica in self.peers.foreign:
            return False
        if record.replica in self.peers.named:
            return True
        status = self._first
        steward = status.get("steward") or {}
        # Earlier versions wrote only the name of a replica.
        plain = "process" not in steward and steward.get("replica") == record.replica_name
        same = (status.get("token"), status.get("holder")) == (record.term, shown(record.holder))
        return plain and same

    def _note_steward(self, status: Mapping[str, Any]) -> None:
        steward = steward_of(status)
        if steward and steward not in self.peers.foreign:
            self.peers.named.add(steward)


def steward_of(status: Mapping[str, Any]) -> str:
    """Return the steward in a status, as records name it; empty if the status does not tell."""
    steward = status.get("steward") or {}
    return f"{steward['replica']}/{steward['process']}" if steward.get("process") else ""
