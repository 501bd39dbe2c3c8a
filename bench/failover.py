"""How long nobody leads when a member is killed, and when it ends as planned.

Members of client-go's LeaderElector and of our library, in both profiles, all with the same TTL.
Each is a process of its own that campaigns on many keys. The one that leads most is killed with
SIGKILL at a random moment, and for each of its keys the time runs to the moment when another one
has won. For a planned end, the time runs from the call of `stop`.

All of this once on a machine that does nothing else, and once while a process for each core wants
all of it. At no time may two members believe that they lead one key.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.plots import cumulative, curves
from bench.report import SHARES, Measurement, Result, Section, at, patience, say, spread, table
from bench.scene import Scene
from controlplane import build
from controlplane.processes import ControlPlaneError, bound_to_us
from incumbent import clock
from incumbent.campaign.records import Profile
from incumbent.campaign.timing import timing_for
from incumbent.election import Election
from incumbent.nats.connection import NatsConnection
from incumbent.nats.login import NatsAccess

TTL = 15
"""Seconds: the lease duration of client-go's defaults."""
KEYS, ROUNDS, RELEASES = 30, 3, 200
MEMBERS = 3
"""Of each kind. The first leads every key; of two that are left one leads at least half of them."""
LEASE = "client-go"
LONGEST = 5
"""TTLs after which a fail-over is not waited for any longer."""
_BURN = "while True: pass"


def measurements(*, short: bool) -> list[Measurement]:
    """Return the one."""
    if short:  # the other profile is slow, and refuses so short a TTL
        run = partial(_measure, ttl=2, profiles=[Profile.PROMPT], keys=2, rounds=1, releases=3)
    else:
        run = partial(
            _measure, ttl=TTL, profiles=list(Profile), keys=KEYS, rounds=ROUNDS, releases=RELEASES
        )
    return [Measurement("failover", run)]


async def _measure(
    folder: Path, *, ttl: int, profiles: Sequence[Profile], keys: int, rounds: int, releases: int
) -> Result:
    found: Result = {"ttl": ttl, "keys": keys, "rounds": rounds}
    scene = Scene(folder)
    async with scene.running(), NatsConnection(NatsAccess([scene.nats.url])) as nats:
        await nats.wait_connected()
        await nats.create_bucket("LEADER_ELECTION", ttl=ttl, replicas=1)
        found["releases"] = await _releases(releases, scene.nats.url)
        say(f"release    {_ends(found)}")
        found["outages"], twice = await _kills(scene, profiles, ttl=ttl, keys=keys, rounds=rounds)
        async with _all_cores_busy():
            found["busy"], twice_when_busy = await _kills(
                scene, profiles, ttl=ttl, keys=keys, rounds=rounds
            )
    found["twice"] = {name: twice[name] + twice_when_busy[name] for name in twice}
    for name, taken in found["outages"].items():
        say(f"fail-over  {_outage(name, taken)}")
    for name, taken in found["busy"].items():
        say(f"fail-over  {_outage(name, taken)}, with all cores busy")
    say(f"fail-over  {_twice(found)}")
    return found


@contextlib.asynccontextmanager
async def _all_cores_busy() -> AsyncIterator[None]:
    """Run a process for each core that wants all of it."""
    burning = []
    try:
        for _ in range(os.cpu_count() or 1):
            command = bound_to_us([sys.executable, "-c", _BURN])
            burning.append(await asyncio.create_subprocess_exec(*command))
        yield
    finally:
        for process in burning:
            process.kill()
            await process.wait()


async def _kills(
    scene: Scene, profiles: Sequence[Profile], *, ttl: int, keys: int, rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Kill members of each kind side by side.

    Returns the sorted seconds without a leader for each kind, and how often two members led a key.
    """
    kinds = {LEASE: Kind(_lease(scene, ttl=ttl, keys=keys), keys)}
    for profile in profiles:
        kinds[profile.value] = Kind(_library(scene, profile, ttl=ttl, keys=keys), keys)
    outages: dict[str, list[float]] = {name: [] for name in kinds}
    say(f"members    {MEMBERS} each of {', '.join(kinds)}, on {keys} keys each, TTL {ttl} s")
    try:
        for kind in kinds.values():
            await kind.start(1)
        async with patience("the first ones campaign"):
            await asyncio.gather(*(kind.all_led(within=LONGEST * ttl) for kind in kinds.values()))
        for number in range(1, rounds + 1):
            for kind in kinds.values():
                await kind.start(MEMBERS)
            async with patience(f"round {number} of {rounds}"):
                # Longer than from one renewal to the next, so the moment is any between these.
                await asyncio.sleep(ttl * random.uniform(0.7, 1.5))  # noqa: S311
                killed = [kind.kill(within=LONGEST * ttl) for kind in kinds.values()]
                for name, taken in zip(kinds, await asyncio.gather(*killed), strict=True):
                    outages[name] += taken
    finally:
        for kind in kinds.values():
            await kind.kill_all()
    twice = {name: kind.twice for name, kind in kinds.items()}
    return {name: sorted(taken) for name, taken in outages.items()}, twice


def _lease(scene: Scene, *, ttl: int, keys: int) -> list[str]:
    return [
        str(build.lease()),
        f"--kubeconfig={scene.site.kubeconfig_for('node-agent')}",  # not in the audit log
        f"--elections={keys}",
        f"--lease-duration={ttl}s",
        f"--start-every={ttl * 2 / 15 / keys}s",  # spread over its retry period
        "--identity",
    ]


def _library(scene: Scene, profile: Profile, *, ttl: int, keys: int) -> list[str]:
    every = timing_for(ttl, profile=profile).interval / keys
    program = [sys.executable, "-m", "bench.member", scene.nats.url, profile.value]
    return [*program, str(keys), str(every)]


class Kind:
    """Members of one kind that campaign on the same keys.

    Args:
        command: starts one of them; its name is added.
        keys: how many keys there are.
    """

    def __init__(self, command: Sequence[str], keys: int) -> None:
        self._command = command
        self._keys = keys
        self._names = itertools.count()
        self._members: dict[str, Member] = {}
        self._led: dict[str, tuple[str, float]] = {}
        """By key: who leads it, and since when, in seconds since 1970."""
        self._doubled: dict[tuple[str, str], float] = {}
        """By key and member: since when another one leads that key, and this one has not said that
        it lost it."""
        self._twice = 0
        self._news = asyncio.Event()

    @property
    def twice(self) -> int:
        """How often a member has won a key while another one that lives believed that it leads."""
        return self._twice + len(self._doubled)

    async def start(self, count: int) -> None:
        """Start as many as are missing, and return when they campaign."""
        while len(self._members) < count:
            name = f"member-{next(self._names)}"
            self._members[name] = Member([*self._command, name], partial(self._heard, name))
            await self._members[name].start()

    async def all_led(self, *, within: float) -> None:
        """Return when every key is led, and none by a member that was killed.

        Raises:
            ControlPlaneError: they are not after so many seconds.
        """
        try:
            async with asyncio.timeout(within):
                while len(self._led) < self._keys:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            msg = f"after {within} s only {len(self._led)} of {self._keys} keys are led"
            raise ControlPlaneError(msg) from error

    async def kill(self, *, within: float) -> list[float]:
        """Kill the member that leads most; return for how long nobody led each of its keys."""
        ((victim, _),) = Counter(member for member, _ in self._led.values()).most_common(1)
        member, killed_at = self._members.pop(victim), time.time()
        await member.kill()
        self._doubled = {led: at for led, at in self._doubled.items() if led[1] != victim}
        keys = [key for key, (leader, _) in self._led.items() if leader == victim]
        for key in keys:
            del self._led[key]
        await self.all_led(within=within)
        return [self._led[key][1] - killed_at for key in keys]

    async def kill_all(self) -> None:
        """End them all."""
        for member in self._members.values():
            await member.kill()
        self._members.clear()

    def _heard(self, member: str, line: str) -> None:
        match line.split():
            case ["won", key, at]:
                before, _ = self._led.get(key, (member, 0))
                if before != member:
                    self._doubled[key, before] = float(at)
                self._led[key] = member, float(at)
            case ["lost", key, *times]:  # client-go's members tell no time
                lost_at = float(times[0]) if times else time.time()
                self._twice += lost_at > self._doubled.pop((key, member), lost_at)
                if self._led.get(key, ("", 0))[0] == member:
                    del self._led[key]
        self._news.set()


class Member:
    """One member in a process of its own.

    Args:
        command: starts it.
        heard: is called with each line that it prints.
    """

    def __init__(self, command: Sequence[str], heard: Callable[[str], None]) -> None:
        self._command = command
        self._heard = heard

    async def start(self) -> None:
        """Start it, and return when it campaigns."""
        self._process = await asyncio.create_subprocess_exec(
            *bound_to_us(list(self._command)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        ready = asyncio.Event()
        self._reading = asyncio.create_task(self._read(ready))
        async with asyncio.timeout(20):
            await ready.wait()

    async def _read(self, ready: asyncio.Event) -> None:
        output = self._process.stdout
        while output is not None and (line := await output.readline()):
            if line.strip() == b"ready":
                ready.set()
            self._heard(line.decode())

    async def kill(self) -> None:
        """End it without farewell, and return when all that it printed is heard."""
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


def _outage(name: str, taken: Sequence[float]) -> str:
    return f"{name}: {len(taken)} keys, min {taken[0]:.2f}, {spread(taken)}"


def _twice(found: Result) -> str:
    times = ", ".join(f"{name} {count}" for name, count in found["twice"].items())
    return f"keys that two members led at once: {times}"


def _ends(found: Result) -> str:
    taken = [1000 * seconds for seconds in found["releases"]]
    ends = f"{len(taken)} planned ends, from stop to the next won"
    return f"{ends}: {spread(taken, unit='ms', digits=1)}"


def _table(outages: Mapping[str, Sequence[float]]) -> str:
    usual = at(outages[LEASE], 0.5)
    head = ("", "keys", "min", *(name for name, _ in SHARES), "p50, client-go = 1")
    rows = [
        (
            name,
            len(taken),
            f"{taken[0]:.2f} s",
            *(f"{at(taken, share):.2f} s" for _, share in SHARES),
            f"{at(taken, 0.5) / usual:.2f}",
        )
        for name, taken in outages.items()
    ]
    return table(head, rows)


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    found = results["failover"]
    outages = found["outages"]
    text = (
        f"{MEMBERS} members of client-go's `LeaderElector` and of the library in each profile, in"
        f" processes of their own, on {found['keys']} keys each and all with a TTL of"
        f" {found['ttl']} s. {found['rounds']} times the one of each kind that leads most is killed"
        " at a random moment, the kinds side by side. For how long nobody led a key of its:\n\n"
        f"{_table(outages)}\n\n"
    )
    series = {name: cumulative(taken) for name, taken in outages.items()}
    if "busy" in found:
        text += (
            "The same while a process for each core wants all of it:\n\n"
            f"{_table(found['busy'])}\n\n{_twice(found).capitalize()}.\n\n"
        )
        series |= {f"{name}, busy": cumulative(taken) for name, taken in found["busy"].items()}
    text += f"{_ends(found)}, with the library."
    title = f"Fail-overs by how long nobody led, TTL {found['ttl']} s"
    drawing = curves(title, series, x="at most, s", y="% of all")
    return Section("Fail-over of members", text, {"fail-over": drawing})
