"""Whether the record of one election was written by a replica of this site."""

from __future__ import annotations

from collections.abc import Callable

from incumbent import clock
from incumbent.campaign.machine import NEVER
from incumbent.campaign.records import Record
from incumbent.campaigner.configuration import Configuration
from incumbent.campaigner.context import ElectionContext
from incumbent.kubernetes.ports import Cluster
from incumbent.replicas.site import Doubt, Kinship
from incumbent.status.situation import Problem

ACCOUNT_WITHIN = 10.0
"""Seconds in which a steward shows that it uses our API server, or is taken for another cluster's:
its watch and two writes of a status take less than one; its API server may be slow."""
ASK_AGAIN = 2.0
"""Seconds after which a steward that does not answer is asked again."""
QUIET_TTLS = 4
"""TTLs without a record of the other cluster after which we campaign again: the operator there may
only have been restarted."""


class Recognition:
    """Asks the writers of one election's records for a sign of life through our API server.

    A process that claims to be of our site and renews its record, but does not answer through our
    API server, is of another cluster: this one is a copy of it, or it is a copy of this one.

    Args:
        context: of the election.
        configuration: of the campaign.
        kin: judges the election's records.
        cluster: of the site.
    """

    def __init__(
        self,
        context: ElectionContext,
        *,
        configuration: Configuration,
        kin: Kinship,
        cluster: Cluster,
    ) -> None:
        self.in_use: Problem | None = None
        """That another cluster has the name of our site."""
        self._site = context.site
        self._replica = context.replica
        self._context = context
        self._kin = kin
        self._driver = context.driver
        self._configuration = configuration
        self._cluster = cluster
        self._status_writer = context.status_writer
        self._schedule = context.schedule
        self._log = context.log
        self._doubt: Doubt | None = None
        self._in_use_until = NEVER

    def listen(self) -> Callable[[], None]:
        """Look at records again when a replica is judged; returns a function that ends that."""
        return self._kin.peers.listen(self._reconsider)

    @property
    def in_doubt(self) -> bool:
        """Whether the live record may be of a replica of this site that is not known yet."""
        campaign, record = self._driver.campaign, self._driver.record
        return (
            campaign is not None
            and campaign.lease is None
            and record is not None
            and clock.now() < campaign.lapse_at
            and not self._context.resource.observed
            and self._kin.doubtful(record)
        )

    def _reconsider(self, replica: str) -> None:
        """Look again at a record whose writer was recognised, or found to be a stranger."""
        record = self._driver.record
        if record is not None and record.replica == replica:
            self._driver.reconsider()
            self._schedule.wake()

    async def judge(self) -> bool:
        """Judge the live record; return whether it is still open who wrote it.

        Labels are left alone meanwhile.

        Raises:
            ClusterError: the status could not be read.
        """
        now, record = clock.now(), self._driver.record
        self._kin.unproven = self._status_writer.drops_proofs
        still_open = False
        if record is None or not self.in_doubt:
            self._doubt = None
        else:
            still_open = await self._ask(record, now)
        self._note_use(record, now)
        return still_open

    async def _ask(self, record: Record, now: float) -> bool:
        """Ask the steward for a sign of life, and judge; return whether we have to wait for it."""
        peers, status_writer = self._kin.peers, self._status_writer
        if self._doubt is None or self._doubt.replica != record.replica:
            self._doubt = Doubt(record.replica, since=now)
        doubt = self._doubt
        # 1. Note when our question was in the status.
        if doubt.asked_at == NEVER and doubt.since <= status_writer.introduced_at < NEVER:
            doubt.asked_at, doubt.revision = status_writer.introduced_at, record.revision
        # 2. Judge by what came after the question.
        if doubt.asked_at < NEVER:
            if self._kin.answered_without_proof(record, status_writer.status):
                peers.learn(record.replica)
                return False
            renewed = record.revision > doubt.revision
            if renewed and now >= doubt.asked_at + ACCOUNT_WITHIN:
                # Our watch may be late, so that only what was just read counts.
                key = self._context.resource.key
                body = await self._cluster.get_election(key.namespace, key.name)
                self._kin.hear((body or {}).get("status") or {})
                if self._kin.doubtful(record):
                    self._log.warning("replica.foreign", replica=record.replica, site=record.site)
                    peers.exclude(record.replica)
                return False
        # 3. Ask, or ask again.
        if now >= peers.asked_at.get(record.replica, -NEVER) + ASK_AGAIN:
            peers.asked_at.add(record.replica, now)
            status_writer.introduce(str(self._replica))
        self._schedule.wake_in(ASK_AGAIN)
        return True

    def _note_use(self, record: Record | None, now: float) -> None:
        """Note whether another cluster has the name of our site; then we do not campaign."""
        if record is not None and self._kin.in_use(record):
            self._in_use_until = NEVER
            if self.in_use is None:
                message = (
                    f"another cluster uses the name {self._site} of this site: its replica"
                    f" {record.replica_name} keeps the record for {record.holder} and is unknown"
                    " to the API server here. One of the two clusters is a copy of the other. No"
                    " pod of this cluster leads. Start the operator of the copy with another"
                    " `--site` (chart: `site`), or with another bucket"
                )
                self.in_use = Problem("SiteInUse", message, of_bucket=False)
                self._log.warning("site.in_use", problem=message)
        elif self.in_use is not None:
            if self._in_use_until == NEVER:
                self._in_use_until = now + QUIET_TTLS * self._configuration.known_ttl
            settled = record is not None and self._doubt is None
            if settled or now >= self._in_use_until:
                self.in_use = None
                self._log.info("site.free")
            else:
                self._schedule.wake_in(self._in_use_until - now)
