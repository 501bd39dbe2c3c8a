"""How long nobody leads when a member is killed, and when it ends as planned.

Members are processes of their own. The one that leads is killed with SIGKILL, and the time runs to
the moment when another one has won. For a planned end, the time runs from the call of `stop`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from bench.plots import cumulative, curves
from bench.report import Measurement, Result, Section, at, say
from controlplane.natsserver import NatsServer
from incumbent import clock
from incumbent.access import NatsAccess
from incumbent.bucket import Nats
from incumbent.election import Election
from incumbent.model import Profile

TTL = 5
MEMBERS = 3


def measurements(*, short: bool) -> list[Measurement]:
    """Return the one."""
    if short:  # the other profile is slow, and refuses so short a TTL
        run = partial(_measure, ttl=2, profiles=[Profile.PROMPT], kills=1, releases=3)
    else:
        run = partial(_measure, ttl=TTL, profiles=list(Profile), kills=24, releases=200)
    return [Measurement("failover", run)]


async def _measure(
    folder: Path, *, ttl: int, profiles: Iterable[Profile], kills: int, releases: int
) -> Result:
    found: Result = {"ttl": ttl, "kills": {}}
    async with NatsServer(folder / "nats") as server, Nats(NatsAccess([server.url])) as nats:
        await nats.wait_connected()
        await nats.create_bucket("LEADER_ELECTION", ttl=ttl, replicas=1)
        for profile in profiles:
            say(f"{profile.value}: killing the leader of {MEMBERS} members, {kills} times")
            found["kills"][profile.value] = await _kills(kills, server.url, profile, ttl=ttl)
            say(f"fail-over  {_outage(found, profile.value)}")
        found["releases"] = await _releases(releases, server.url)
        say(f"release    {_ends(found)}")
    return found


def _outage(found: Result, profile: str) -> str:
    taken = found["kills"][profile]
    return (
        f"{profile}: min {taken[0]:.2f}, median {at(taken, 0.5):.2f},"
        f" max {taken[-1]:.2f} of a TTL of {found['ttl']} s"
    )


def _ends(found: Result) -> str:
    taken = found["releases"]
    shares = ", ".join(f"{name} {1000 * at(taken, share):.1f} ms" for name, share in _SHARES)
    return f"{len(taken)} planned ends, from stop to the next won: {shares}"


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = results["failover"]
    outages = "\n".join(f"- fail-over {_outage(found, profile)}" for profile in found["kills"])
    text = (
        f"{MEMBERS} members in processes of their own, with the library; the one that leads is"
        f" killed.\n\n{outages}\n- {_ends(found)}"
    )
    series = {profile: cumulative(taken) for profile, taken in found["kills"].items()}
    title = "Fail-overs by how long nobody led"
    drawing = curves(title, series, x="at most, in TTLs", y="% of all")
    return Section("Fail-over of members", text, {"fail-over": drawing})


_SHARES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))


async def _kills(count: int, url: str, profile: Profile, *, ttl: int) -> list[float]:
    won: asyncio.Queue[tuple[int, float]] = asyncio.Queue()
    members = {}
    for _ in range(MEMBERS):
        member = Member(url, profile, won)
        members[await member.start()] = member
    taken = []
    try:
        leader, _ = await won.get()
        for number in range(count):
            await asyncio.sleep(ttl * random.uniform(0.5, 1.5))  # noqa: S311
            member = members.pop(leader)
            killed_at = clock.now()
            await member.kill()
            leader, won_at = await won.get()
            taken.append((won_at - killed_at) / ttl)
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
        async with asyncio.timeout(20):
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
