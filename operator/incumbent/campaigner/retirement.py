"""The end of one election: it was deleted, or this process ends and nobody goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from incumbent import clock
from incumbent.campaign.machine import NEVER
from incumbent.campaigner.context import ElectionContext
from incumbent.campaigner.permission import Permission
from incumbent.campaigner.schedule import AGAIN, LONGEST_PAUSE
from incumbent.flag import Flag
from incumbent.reconciler.teardown import Remainder

DELETE_WITHIN = 4.0
"""Seconds after which a deleted election no longer waits for NATS: its record will lapse."""


class Retirement:
    """Ends one election, by its passes: `retire` and `resign` wait until a pass has done it.

    Args:
        context: of the election.
        permission: of the election.
    """

    def __init__(self, context: ElectionContext, permission: Permission) -> None:
        self.resigned = False
        """Whether nobody of this site is to lead any more, because this process ends."""
        self._reconciler = context.reconciler
        self._permission = permission
        self._schedule = context.schedule
        self._log = context.log
        self._until = NEVER
        """When a deleted election no longer waits for NATS; NEVER: it is not deleted."""
        self._yields = 0
        """How often another replica has relieved us since the election was deleted."""
        self._ended = Flag()

    @property
    def retires(self) -> bool:
        """Whether the election is gone, and everything is to be taken back."""
        return self._until < NEVER

    async def retire(self) -> None:
        """Take everything back: labels, annotations, the record. Bounded if NATS is away."""
        self._until = clock.now() + DELETE_WITHIN
        self._reconciler.resource = replace(self._reconciler.resource, deleting=True)
        self._schedule.interrupt()
        self._schedule.wake()
        await self._ended.wait()

    async def resign(self) -> None:
        """Strip and release: for a single replica that ends for good. Bounded."""
        self.resigned = True
        self._schedule.wake()
        if not await self._ended.wait_within(DELETE_WITHIN):
            self._log.warning("record.left", reason="it could not be released in time")

    def relieved(self) -> None:
        """Note that another replica has relieved us."""
        self._yields += self.retires

    def released(self) -> None:
        """Note that a pass is done, and no record is ours."""
        if self.resigned:
            self._ended.set()

    async def take_back(self) -> None:
        """Take back everything that this election did, trying again until nothing is left.

        If another election has our name now, what that one uses stays.

        Raises:
            ClusterError: the API server did not do its part; the next pass tries again.
        """
        foreign = not self._permission.owns_label
        if foreign:
            await self._reconciler.vacate()
        if self._yields:
            # Another replica does this as well. If each relieved the other at once, none would end.
            await asyncio.sleep(AGAIN.pause(self._yields))
        tries = 0
        while not foreign:
            if successor := await self._reconciler.successor():
                await self._reconciler.make_way(successor)
                break
            left = await self._reconciler.take_back()
            if left is Remainder.NOTHING:
                break
            time_left = self._until - clock.now()
            if left is Remainder.RECORD and time_left <= 0:
                self._log.warning("record.left", reason="NATS does not answer; it will lapse")
                break
            # Wait in any case: a replica that has not heard of the deletion yet would create the
            # record again at once.
            tries += 1
            longest = time_left if time_left > 0 else LONGEST_PAUSE
            await asyncio.sleep(min(AGAIN.pause(tries), longest))
        self._ended.set()
