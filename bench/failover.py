"""Measure how long nobody leads: ``python -m bench.failover``.

Members are processes of their own. The one that leads is killed with SIGKILL, and the time runs to
the moment when another one has won. For a planned end, the time runs from the call of `stop`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from controlplane.natsserver import NatsServer
from incumbent import clock
from incumbent.access import NatsAccess
from incumbent.bucket import Nats
from incumbent.election import Election
from incumbent.model import Profile

TTL = 5
MEMBERS = 3


def main() -> int:
    """Run the measurements, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=24, help="default: %(default)s")
    parser.add_argument("--releases", type=int, default=200, help="default: %(default)s")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="incumbent-bench-") as folder:
        asyncio.run(_bench(arguments, Path(folder)))
    return 0


async def _bench(arguments: argparse.Namespace, folder: Path) -> None:
    async with NatsServer(folder / "nats") as server, Nats(NatsAccess([server.url])) as nats:
        await nats.wait_connected()
        await nats.create_bucket("LEADER_ELECTION", ttl=TTL, replicas=1)
        for profile in Profile:
            _say(
                f"{profile.value}: killing the leader of {MEMBERS} members, {arguments.kills} times"
            )
            taken = await _kills(arguments.kills, server.url, profile)
            _say(
                f"fail-over  {profile.value}: min {taken[0]:.2f}, median {_at(taken, 0.5):.2f},"
                f" max {taken[-1]:.2f} of a TTL of {TTL} s"
            )
        taken = await _releases(arguments.releases, server.url)
        shares = ", ".join(f"{n} {1000 * _at(taken, s):.1f} ms" for n, s in _SHARES)
        _say(f"release    {len(taken)} planned ends, from stop to the next won: {shares}")


_SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


async def _kills(count: int, url: str, profile: Profile) -> list[float]:
    won: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    members = {}
    for _ in range(MEMBERS):
        member = Member(url, profile, won)
        members[await member.start()] = member
    taken = []
    try:
        leader, _ = await won.get()
        for number in range(count):
            await asyncio.sleep(TTL * random.uniform(0.5, 1.5))  # noqa: S311
            member = members.pop(leader)
            killed_at = clock.now()
            await member.kill()
            leader, at = await won.get()
            taken.append((at - killed_at) / TTL)
            members[await member.start()] = member
            if sys.stdout.isatty():
                sys.stdout.write(f"\r  {number + 1} of {count}: {taken[-1]:.2f} TTL ")
    finally:
        for member in members.values():
            await member.kill()
    return sorted(taken)


class Member:
    """One member in a process of its own."""

    def __init__(self, url: str, profile: Profile, won: asyncio.Queue[tuple[int, float]]) -> None:
        self._arguments = ("-m", "bench.member", url, profile.value)
        self._won = won

    async def start(self) -> int:
        """Start it; return its process id when it campaigns."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(ready))
        await ready.wait()
        return self._process.pid

    async def _read(self, ready: asyncio.Event) -> None:
        pid, output = self._process.pid, self._process.stdout
        while output is not None and (line := await output.readline()):
            match line.decode().split():
                case ["ready"]:
                    ready.set()
                case ["won", at]:
                    self._won.put_nowait((pid, float(at)))

    async def kill(self) -> None:
        """End it without farewell."""
        self._process.kill()
        await self._process.wait()
        await self._reading


async def _releases(count: int, url: str) -> list[float]:
    taken = []
    leader = Election(url, "LEADER_ELECTION", "releases", "0")
    await leader.start()
    await leader.won()
    for number in range(1, count + 1):
        successor = Election(url, "LEADER_ELECTION", "releases", str(number))
        await successor.start()
        await asyncio.sleep(0.02)
        stopped_at = clock.now()
        stopping = asyncio.create_task(leader.stop())
        await successor.won()
        taken.append(clock.now() - stopped_at)
        await stopping
        leader = successor
    await leader.stop()
    return sorted(taken)


def _at(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
