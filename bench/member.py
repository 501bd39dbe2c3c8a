"""One member of an election in a process of its own: ``python -m bench.member URL PROFILE``.

It prints `won` when it leads, and what the clock showed then.
"""

import asyncio
import sys

from incumbent import clock
from incumbent.election import Election
from incumbent.model import Profile


async def main(url: str, profile: str) -> None:
    """Campaign until killed."""
    async with Election(url, "LEADER_ELECTION", "bench", profile=Profile(profile)) as election:
        print("ready", flush=True)  # noqa: T201
        while True:
            await election.won()
            print("won", clock.now(), flush=True)  # noqa: T201
            await election.lost()


asyncio.run(main(*sys.argv[1:]))
