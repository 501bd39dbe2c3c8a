"""A member of many elections in a process of its own.

``python -m bench.member URL PROFILE KEYS EVERY IDENTITY`` campaigns for so many keys, and begins
with one every so many seconds, so that they are not renewed at the same moment. It prints `won` and
the key when it leads, and when that was (in seconds since 1970), and `lost` and the same when it
does not any more.
"""

import asyncio
import sys
import time

from incumbent.campaign.records import Profile
from incumbent.election import Election
from incumbent.nats.connection import NatsConnection
from incumbent.nats.login import NatsAccess


async def main(url: str, profile: str, keys: str, every: str, identity: str) -> None:
    """Campaign until killed."""
    async with NatsConnection(NatsAccess([url])) as nats, asyncio.TaskGroup() as campaigns:
        await nats.wait_connected()
        print("ready", flush=True)  # noqa: T201
        for number in range(int(keys)):
            key = f"{profile}.e{number}"
            election = Election(nats, "LEADER_ELECTION", key, identity, profile=Profile(profile))
            campaigns.create_task(campaign(election, f"e{number}"))
            await asyncio.sleep(float(every))


async def campaign(election: Election, name: str) -> None:
    """Say when the election is won and lost."""
    async with election:
        while True:
            await election.won()
            print("won", name, time.time(), flush=True)  # noqa: T201
            await election.lost()
            print("lost", name, time.time(), flush=True)  # noqa: T201


asyncio.run(main(*sys.argv[1:]))
