"""The records of this site as this replica knows them, and the role that follows from them."""

from __future__ import annotations

import asyncio
import enum

from incumbent.campaign.records import Record
from incumbent.errors import ClusterError
from incumbent.kubernetes.fairness import Rank
from incumbent.kubernetes.turns import urgent
from incumbent.reconciler.adapters import Adapters
from incumbent.replicas.site import Kinship

PREDECESSORS = 4
"""How many previous holders of this site to remember. A hand-over involves one."""


class Role(enum.Enum):
    """The task of a replica in one pass over an election."""

    UNINFORMED = enum.auto()
    """It has not seen the key yet."""
    STEWARD = enum.auto()
    """It holds the record, and governs the election."""
    UNDECIDED = enum.auto()
    """The record may be of a replica of this site that is not known yet."""
    STANDBY = enum.auto()
    """Another replica of this site is the steward."""
    VACANCY = enum.auto()
    """No replica of this site holds a record."""


class Standing:
    """Which records this site had, and whether this replica is responsible for their labels.

    Args:
        adapters: of the election.
        kin: tells which records are of replicas of this site.
    """

    def __init__(self, adapters: Adapters, kin: Kinship) -> None:
        self._adapters = adapters
        self._driver = adapters.driver
        self._kin = kin
        self.last_held: Record | None = None
        """The latest record of this site."""
        self.last_doubted: Record | None = None
        """The latest record that a replica of this site or another site may have written."""
        self.held_before: tuple[str, ...] = ()
        """The pods of earlier records, by UID. During a hand-over one of them has the label."""
        self.answers = False
        """Whether a pod may carry the label because we led, and were not relieved."""
        self.relieved = False
        """Whether the status showed a record of our site that is newer than the last one known."""
        self.in_doubt = False
        """Whether it is not known yet if the record is of another replica of this site."""

    @property
    def role(self) -> Role:
        """The role of this replica at this moment."""
        campaign = self._driver.campaign
        if campaign is None or campaign.latest is None:
            return Role.UNINFORMED
        if campaign.lease is not None:
            return Role.STEWARD
        if self.in_doubt:
            return Role.UNDECIDED
        return Role.VACANCY if self.vacant else Role.STANDBY

    @property
    def vacant(self) -> bool:
        """Whether no replica of this site holds a record, as last seen."""
        campaign = self._driver.campaign
        if campaign is None or campaign.lease is not None:
            return False
        return self.lapsed or not campaign.stands_by

    @property
    def rests(self) -> bool:
        """Whether another replica of this site is the steward, so that its work is not ours."""
        campaign = self._driver.campaign
        if self.in_doubt:
            return True
        if campaign is None or not campaign.stands_by:
            return False
        return self.relieved or not self.lapsed

    @property
    def lapsed(self) -> bool:
        """Whether our own record is the latest, and we gave it up at our deadline."""
        record, campaign = self._driver.record, self._driver.campaign
        if campaign is None or record is None:
            return False
        return campaign.lease is None and record.replica == campaign.member.replica

    def hear(self, record: Record | None) -> None:
        """Observe the latest record."""
        campaign = self._driver.campaign
        if campaign is None or record is None:
            return
        if not campaign.ours(record):
            if self._kin.doubtful(record):
                self.last_doubted = record
            return
        last = self.last_held
        if record != last:
            self.relieved = False
        if last is not None and last.pod_uid != record.pod_uid:
            self.held_before = (*self.held_before[1 - PREDECESSORS :], last.pod_uid)
        self.last_held = record
        if campaign.lease is not None:
            self.answers = True
        elif not self.lapsed:
            self.answers = False

    def note_withdrawn(self) -> None:
        """Note that no pod has the label because of us any more, or that another one answers."""
        self.answers = False

    async def find_relief(self) -> bool:
        """Find out whether we were relieved since our lease lapsed; return `relieved`."""
        self.relieved = self.lapsed and await self.relieved_by_status()
        return self.relieved

    async def relieved_by_status(self) -> bool:
        """Whether the status shows that another replica of this site has renewed the record.

        We must strip the pod that we led within the margin, so there is no time to ask and wait.
        The status also proves that the steward it names is a replica of this site.
        """
        campaign, held, key = self._driver.campaign, self.last_held, self._adapters.resource.key
        if campaign is None or held is None:
            return False
        try:
            with urgent(Rank.STRIP):
                async with asyncio.timeout(campaign.timing.margin / 2):
                    election = await self._adapters.cluster.get_election(key.namespace, key.name)
        except (TimeoutError, ClusterError):
            return False
        status = (election or {}).get("status") or {}
        self._kin.hear(status)
        return bool((status.get("steward") or {}).get("revision", 0) > held.revision)
