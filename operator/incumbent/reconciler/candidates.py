"""The pods of one election: who could lead, who leads, and whom a record names."""

from __future__ import annotations

from dataclasses import replace

from incumbent import clock
from incumbent.campaign.machine import NEVER
from incumbent.campaign.records import Cause, Marker, Nominee, Record
from incumbent.kubernetes.objects import Pod
from incumbent.pods.eligibility import candidates, holder_pod, identity, labelled, shows, why_not
from incumbent.reconciler.adapters import Adapters
from incumbent.reconciler.standing import Standing


class Candidates:
    """The pods of this site, seen from a campaign of this replica.

    Args:
        adapters: of the election.
        standing: which records this site had.
    """

    def __init__(self, adapters: Adapters, standing: Standing) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._labels = adapters.labels
        self._standing = standing
        self._unready_since = NEVER
        """Since when the leader is not ready."""

    @property
    def able(self) -> list[Pod]:
        """The candidates, the best first.

        If a leader failed, its node may be what failed, and the other pods there are next.
        """
        selector, last_held = self._adapters.resource.selector, self._standing.last_held
        last = self.holder(last_held) if last_held is not None else None
        node = last.node if last is not None and why_not(last, selector) else ""
        return candidates(self._labels.known, selector, away_from=node)

    @property
    def eligible(self) -> list[Pod]:
        """The candidates, the best first, without those that the API server lets nobody label."""
        return self._labels.accepting(self.able)

    @property
    def leader(self) -> Pod | None:
        """The pod that carries the leader label by right, if we are the steward."""
        lease = self._driver.lease
        if lease is None or not self._driver.leads:
            return self.kept
        pod, term = self.holder(lease.record), lease.record.term
        return pod if pod is not None and shows(pod, self._adapters.resource, term) else None

    @property
    def kept(self) -> Pod | None:
        """The pod that keeps the label although its lease has run out, if the election holds it.

        None if somebody else holds the record or has deleted it, or if it was released.
        """
        resource, latest, lease = self._adapters.resource, self._driver.latest, self._driver.lease
        if not resource.holds or latest is None:
            return None
        carriers = labelled(self._labels.known, resource)
        if len(carriers) != 1:
            return None
        again = lease is not None and lease.record.pod_uid == carriers[0].uid
        if isinstance(latest, Record) and not (self._standing.lapsed or again):
            return None
        if isinstance(latest, Marker) and latest.cause is not Cause.EXPIRED:
            return None
        return None if why_not(carriers[0], resource.selector) else carriers[0]

    def may_stay(self, pod: Pod) -> bool:
        """Whether a leader may go on: as a candidate, or for a while as one that is not ready."""
        resource = self._adapters.resource
        if not why_not(pod, resource.selector):
            self._unready_since = NEVER
            return True
        if why_not(replace(pod, ready=True), resource.selector):
            return False
        self._unready_since = min(self._unready_since, clock.now())
        return not self._adapters.reached(self._unready_since + resource.unready_grace)

    async def confirm_none(self) -> bool:
        """Read the pods; return whether the API server lets nobody label any candidate."""
        key, selector = self._adapters.resource.key, self._adapters.resource.selector
        pods = await self._adapters.cluster.list_pods(key.namespace, str(selector))
        able = candidates(pods, selector)
        await self._labels.probe(able)
        return not self._labels.accepting(able)

    def nominee(self, pod: Pod) -> Nominee:
        """Return how a record names a pod."""
        return Nominee(identity(self._adapters.site, pod), pod.uid)

    def still(self, pod: Pod) -> Pod | None:
        """Return a candidate as last seen; None if it is not a candidate any more."""
        return next((one for one in self.able if one.uid == pod.uid), None)

    def holder(self, record: Record) -> Pod | None:
        """Return the pod that a record names, as last seen."""
        namespace = self._adapters.resource.key.namespace
        return holder_pod(record, self._adapters.pods.all or {}, namespace)

    def pod_of(self, record: Record) -> Pod:
        """Return the pod that a record names, as last seen, or enough of it to be read."""
        name = record.holder.rpartition("/")[2]
        return self.holder(record) or Pod(
            self._adapters.resource.key.namespace, name, record.pod_uid, resource_version=""
        )

    async def find(self, record: Record) -> Pod | None:
        """Read the pod that a record names, unless it is gone for certain.

        Raises:
            ClusterError: it could not be read.
        """
        if self._adapters.pods.gone(record.pod_uid):
            return None
        named = self.pod_of(record)
        pod = await self._adapters.cluster.get_pod(named.namespace, named.name)
        return pod if pod is not None and pod.uid == named.uid else None
