"""The driver of a campaign: it carries out on a bucket the steps that the campaign asks for.

Renewals wait only for the bucket, so nothing else can delay them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from incumbent import clock
from incumbent.campaign.events import CampaignEvent
from incumbent.campaign.machine import (
    NEVER,
    Campaign,
    Create,
    Lease,
    Look,
    Member,
    Renew,
    Wait,
    Write,
)
from incumbent.campaign.ports import Answer, Bucket, Observer, Outcome, Sighting
from incumbent.campaign.records import Entry, Nominee, Record, State
from incumbent.campaign.timing import Timing
from incumbent.errors import BucketError
from incumbent.flag import Flag

log = structlog.get_logger(__name__)

REST = 1.0
"""Seconds to wait after an unexpected error."""
RELEASE_TRIES = 3
"""How often to try a release while it is refused. The driver reads the key before each new try."""


class Driver:
    """Drives one campaign for one key.

    Only one write is sent at a time, because each write expects the revision of the write before.

    Args:
        member: the member that campaigns.
        bucket: the bucket of the election.
        key: the key of the election in this bucket.
        happened: is called with the new events (perhaps none) after each input to the campaign.
        vacant: is called when the record should be created. The owner then calls `create`. Without
            this argument the driver creates the record as soon as that is due.
        trying: is called before each write of a record, with the state before the write.
        observer: is told how long each write took.
    """

    def __init__(
        self,
        member: Member,
        bucket: Bucket,
        key: str,
        *,
        happened: Callable[[list[CampaignEvent]], None],
        vacant: Callable[[], None] | None = None,
        trying: Callable[[State], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.campaign: Campaign | None = None
        """None before `begin` and after `end`."""
        self.attempts: Counter[State] = Counter()
        """How many campaigns (writes of a record) were begun, by the state before the write."""
        self._member = member
        self._bucket = bucket
        self._key = key
        self._happened = happened
        self._vacant = vacant
        self._trying = trying
        self._observer = observer
        self._writing = asyncio.Lock()
        self._stirred = Flag()
        self._end_watch: Callable[[], None] | None = None

    # What is known

    @property
    def lease(self) -> Lease | None:
        """The lease for our own record; None if we have none."""
        return self.campaign.lease if self.campaign is not None else None

    @property
    def tenure(self) -> int:
        """Counts our tenures; renewals without a gap belong to one tenure."""
        return self.campaign.tenure if self.campaign is not None else 0

    @property
    def latest(self) -> Entry | None:
        """The latest known entry: a record, a marker or nothing."""
        return self.campaign.latest if self.campaign is not None else None

    @property
    def record(self) -> Record | None:
        """The live record, ours or another member's; None if the key holds none."""
        return self.campaign.record if self.campaign is not None else None

    @property
    def leads(self) -> bool:
        """Whether the holder of our record may act at this moment."""
        return self.campaign is not None and self.campaign.leads(clock.now())

    @property
    def state(self) -> State:
        """The state of this member at this moment."""
        return self.campaign.state(clock.now()) if self.campaign is not None else State.UNKNOWN

    @property
    def create_due(self) -> bool:
        """Whether the record should be created now."""
        return self.campaign is not None and isinstance(self.campaign.poll(clock.now()), Create)

    # From the owner

    def begin(self, timing: Timing) -> None:
        """Begin a campaign."""
        self.campaign = Campaign(self._member, timing, clock.now(), random=random.random)
        self._end_watch = self._bucket.watch(self._key, self._seen)
        self._tell()

    def adjust(self, timing: Timing) -> None:
        """Continue the campaign with other durations."""
        if self.campaign is not None:
            self.campaign.timing = timing
            self._tell()

    def forget(self) -> None:
        """Forget the entries, because the bucket was replaced by another bucket."""
        if self.campaign is not None:
            self.campaign.forget(clock.now())
            self._tell()

    def reconsider(self) -> None:
        """Decide again from what is known, because a replica of our site was recognised."""
        self._tell()

    def end(self) -> None:
        """End the campaign without writing anything, as if the process had ended."""
        if self._end_watch is not None:
            self._end_watch()
        self.campaign = self._end_watch = None
        self._stirred.set()

    def nominate(self, nominee: Nominee | None) -> None:
        """Set the nominee for whom a record would be created; None: create no record."""
        if self.campaign is not None and self.campaign.nominee != nominee:
            self.campaign.nominate(nominee)
            self._stirred.set()

    def urge(self) -> None:
        """As a standby, renew the record at the next chance, even if the steward is not silent."""
        if self.campaign is not None:
            self.campaign.urge()
            self._stirred.set()

    async def look(self) -> bool:
        """Read the record from the stream's leader now; return whether the read succeeded."""
        campaign = self.campaign
        if campaign is None or campaign.latest is None:
            return False
        timeout = campaign.timing.write_timeout
        return await self._look(campaign, Look(campaign.latest.revision, timeout))

    async def run(self) -> None:
        """Renew the record and read the key when that is due, until this task is cancelled."""
        while True:
            try:
                await self._step()
            except Exception:
                # If renewals stopped here, one passing fault would cost the leader.
                log.exception("campaign.broke", key=self._key)
                await asyncio.sleep(REST)

    async def renew(self, *, leaving: bool = False) -> bool:
        """Renew the record, even before that is due; return whether the renewal was stored.

        Args:
            leaving: whether this is our last renewal, so that a standby takes over at once.
        """
        async with self._writing:
            campaign = self.campaign
            if campaign is None:
                return False
            write = campaign.begin_renewal(clock.now(), leaving=leaving)
            return await self._write(campaign, write) is Outcome.STORED

    async def create(
        self, nominee: Nominee | None, *, still: Callable[[], bool] | None = None
    ) -> bool:
        """Create the record, if that is due; return whether it was stored.

        Args:
            nominee: the nominee that the caller prepared for. Nothing is written if the campaign
                has another nominee by now.
            still: returns whether the key is still in the vacancy that the caller prepared for.
        """
        async with self._writing:
            campaign = self.campaign
            if campaign is None or campaign.nominee != nominee or not (still is None or still()):
                return False
            return await self._write(campaign, campaign.begin_create(clock.now())) is Outcome.STORED

    async def transfer(self, nominee: Nominee, *, tenure: int) -> bool:
        """Hand our record to another nominee; return whether the write was stored.

        Nothing is written if another tenure than `tenure` has begun.
        """
        async with self._writing:
            campaign = self.campaign
            if campaign is None:
                return False
            write = campaign.begin_transfer(nominee, clock.now(), tenure=tenure)
            return await self._write(campaign, write) is Outcome.STORED

    async def release(
        self, *, tenure: int | None = None, first: Callable[[], Awaitable[None]] | None = None
    ) -> bool:
        """Give our record up; return whether the release was stored.

        Args:
            tenure: the tenure in which the caller stopped the holder; None if `first` stops it.
            first: is awaited after the end of our lease was reported and before the write.
        """
        outcome: Outcome | None = None
        async with self._writing:
            for _ in range(RELEASE_TRIES):
                campaign = self.campaign
                if campaign is None:
                    break
                write = campaign.begin_release(clock.now(), tenure=tenure)
                if write is None:
                    break
                self._tell()
                if first is not None:
                    await first()
                outcome = await self._write(campaign, write)
                if outcome is not Outcome.REFUSED:
                    break
                # Perhaps a renewal of ours was stored without an answer. Then the look shows it.
                step = campaign.poll(clock.now())
                if isinstance(step, Look):
                    await self._look(campaign, step)
        if outcome not in {None, Outcome.STORED}:
            log.info("record.not_released", key=self._key, refused=outcome is Outcome.REFUSED)
        return outcome is Outcome.STORED

    # Inside

    async def _step(self) -> None:
        """Carry out the next step of the campaign, or wait until there is one."""
        self._stirred.clear()
        campaign = self.campaign
        if campaign is None:
            await self._stirred.wait()
            return
        step = campaign.poll(clock.now())
        if campaign.has_events:
            self._tell()
        match step:
            case Look():
                await self._look(campaign, step)
            case Renew():
                await self.renew()
            case Create() if self._vacant is not None:
                self._vacant()
                await self._stirred.wait()
            case Create():
                await self.create(campaign.nominee)
            case Wait(until):
                seconds = None if until == NEVER else until - clock.now()
                await self._stirred.wait_within(seconds)

    async def _look(self, campaign: Campaign, look: Look) -> bool:
        """Read the record and tell the campaign; return whether the read succeeded."""
        sighting = None
        try:
            sighting = await self._bucket.read(self._key, timeout=look.timeout)
        except BucketError:
            campaign.unreadable(clock.now())
        else:
            campaign.observe(sighting, clock.now(), look=look)
        self._tell()
        return sighting is not None

    async def _write(self, campaign: Campaign, write: Write | None) -> Outcome | None:
        """Send a write that the campaign has begun; return its outcome, or None for no write."""
        if write is None:
            return None
        if write.record is not None:
            state = campaign.state(write.sent_at)
            self.attempts[state] += 1
            if self._trying is not None:
                self._trying(state)
        answer = Answer(Outcome.UNKNOWN)
        try:
            if write.record is None:
                answer = await self._bucket.remove(
                    self._key,
                    expected=write.expected,
                    headers=write.headers,
                    timeout=write.timeout,
                )
            else:
                answer = await self._bucket.write(
                    self._key,
                    write.record.holder,
                    expected=write.expected,
                    headers=write.headers,
                    timeout=write.timeout,
                )
        finally:
            # Report the answer also when this task is cancelled, because the write may be stored.
            now = clock.now()
            campaign.answered(write, answer, now)
            if self._observer is not None:
                self._observer.bucket_write(answer.outcome, now - write.sent_at)
            self._tell()
        return answer.outcome

    def _seen(self, sighting: Sighting) -> None:
        """Observe an entry that the watch of the bucket shows."""
        if self.campaign is not None:
            self.campaign.observe(sighting, clock.now())
            self._tell()

    def _tell(self) -> None:
        """Wake the loop, and pass the new events to the owner."""
        self._stirred.set()
        if self.campaign is not None:
            self._happened(self.campaign.events())
