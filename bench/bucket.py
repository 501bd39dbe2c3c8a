"""Conditional writes, expiry, and the loss of a stream leader, with the adapter of the operator.

Rates are bound by this one client, too: its share of a core is given beside each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.plots import cumulative, curves
from bench.report import SHARES, Measurement, Result, Section, at, patience, say, spread, table
from controlplane.natsserver import NatsCluster, NatsServer
from controlplane.processes import ControlPlaneError
from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Outcome, Sighting
from incumbent.campaign.records import Cause, Marker, Record
from incumbent.campaign.timing import timing_for
from incumbent.election import Election
from incumbent.errors import BucketError
from incumbent.nats import jetstream
from incumbent.nats.connection import NatsBucket, NatsConnection
from incumbent.nats.login import NatsAccess

SERVERS = ((1, False), (1, True), (3, False), (3, True))
"""Replicas, which is servers, too; and whether each write is synced to the disk before its answer.
By default a server syncs every two minutes."""
IN_FLIGHT = 256
RATE, LATENCY = 6.0, 4.0
"""Seconds."""
EXPIRY_TTL, EXPIRY_KEYS, EXPIRY_SPAN = 5, 150, 12.0
"""Seconds, keys, and seconds over which the keys are written."""
TTLS = (5, 10, 15, 30)
KEYS, KILLS, MEMBERS = 20, 6, 2
"""For each TTL; of stream leaders; and of each election."""
LONGEST = 90
"""Seconds after which a thing is not waited for any longer."""
_POLL = 0.02
_POINTS = 200
_RECORD = Record(
    0, "0a1b2c3d/shop/billing-6f9d-abcde", 4711, "incumbent-0/0a1b2c3d", pod_uid="u" * 36
)
_HEADERS = wire.headers_of(_RECORD)


def measurements(*, short: bool) -> list[Measurement]:
    """Return one for writes, one for expiry, one for stream leaders."""
    if short:
        writes = partial(_writes, servers=((1, True), (3, False)), flight=8, rate=0.4, latency=0.2)
        expiry = partial(_expiry, sizes=(1,), ttl=1, keys=4, span=0.5)
        leaders = partial(_leaders, ttls=(2,), keys=3, kills=1)
    else:
        writes = partial(_writes, servers=SERVERS, flight=IN_FLIGHT, rate=RATE, latency=LATENCY)
        expiry = partial(_expiry, sizes=(1, 3), ttl=EXPIRY_TTL, keys=EXPIRY_KEYS, span=EXPIRY_SPAN)
        leaders = partial(_leaders, ttls=TTLS, keys=KEYS, kills=KILLS)
    return [
        Measurement("bucket-writes", writes),
        Measurement("bucket-expiry", expiry),
        Measurement("bucket-leaders", leaders),
    ]


@contextlib.asynccontextmanager
async def _running(
    folder: Path, size: int, *, synced: bool = False
) -> AsyncIterator[list[NatsServer]]:
    """Run one server, or a cluster of them."""
    cluster = NatsCluster(folder, size=size) if size > 1 else None
    servers = cluster.servers if cluster is not None else [NatsServer(folder)]
    for server in servers if synced else ():
        always = "jetstream { sync_interval: always,"
        server._text = server._text.replace("jetstream {", always)  # noqa: SLF001 - no option
    async with cluster or servers[0]:
        yield servers


@contextlib.asynccontextmanager
async def _connected(servers: Sequence[NatsServer]) -> AsyncIterator[NatsConnection]:
    async with NatsConnection(NatsAccess([server.url for server in servers])) as nats:
        await nats.wait_connected()
        yield nats


async def _create(nats: NatsConnection, name: str, *, ttl: int, replicas: int) -> NatsBucket:
    """Create a bucket; a cluster that has just begun refuses at first."""
    deadline = clock.now() + LONGEST
    while True:
        try:
            await nats.create_bucket(name, ttl=ttl, replicas=replicas)
        except BucketError:
            if clock.now() > deadline:
                raise
            await asyncio.sleep(_POLL)
        else:
            return nats.bucket(name)


# Writes


async def _writes(
    folder: Path,
    *,
    servers: Sequence[tuple[int, bool]],
    flight: int,
    rate: float,
    latency: float,
) -> Result:
    found: Result = {"flight": flight, "servers": {}}
    for size, synced in servers:
        name = f"R{size}, synced {'always' if synced else 'by default'}"
        async with (
            _running(folder / f"{size}-{synced}", size, synced=synced) as running,
            _connected(running) as nats,
        ):
            bucket = await _create(nats, "BENCH", ttl=600, replicas=size)
            alone, _ = await _renew(bucket, ["alone"], latency)
            many, share = await _renew(bucket, [f"many.{n}" for n in range(flight)], rate)
        found["servers"][name] = {
            "alone": _summary(alone),
            "curve": [at(alone, n / _POINTS) for n in range(_POINTS)],
            "rate": round(len(many) / rate),
            "many": _summary(many),
            "client": round(100 * share),
        }
        say(f"writes     {name}: {_written(found['servers'][name])}")
    return found


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {name: at(values, share) for name, share in SHARES}


def _written(found: Result) -> str:
    alone, many = found["alone"], found["many"]
    return (
        f"one at a time p50 {1000 * alone['p50']:.2f} ms, p99 {1000 * alone['p99']:.2f} ms; at most"
        f" {found['rate']}/s, then p99 {1000 * many['p99']:.0f} ms, client {found['client']} %"
    )


async def _renew(
    bucket: NatsBucket, keys: Sequence[str], seconds: float
) -> tuple[list[float], float]:
    """Renew the records of keys, each as soon as the last write of it was answered.

    Returns:
        How long stored writes took, sorted, and the share of a core that this process used.
    """
    taken: list[float] = []
    end, cpu = clock.now() + seconds, time.process_time()

    async def renew(key: str) -> None:
        revision = 0
        while (began := clock.now()) < end:
            answer = await bucket.write(
                key, _RECORD.holder, expected=revision, headers=_HEADERS, timeout=10
            )
            if answer.outcome is Outcome.STORED:
                revision = answer.revision
                taken.append(clock.now() - began)
            else:
                revision = (await bucket.read(key, timeout=10)).entry.revision

    await asyncio.gather(*map(renew, keys))
    if not taken:
        msg = f"no write of {bucket.name} was stored within {seconds} s; see the servers' logs"
        raise ControlPlaneError(msg)
    return sorted(taken), (time.process_time() - cpu) / seconds


# Expiry


async def _expiry(
    folder: Path, *, sizes: Sequence[int], ttl: int, keys: int, span: float
) -> Result:
    found: Result = {"ttl": ttl, "keys": keys, "delays": {}}
    for size in sizes:
        async with _running(folder / str(size), size) as servers, _connected(servers) as nats:
            marked = await _create(nats, "MARKED", ttl=ttl, replicas=size)
            plain = await _create_without_markers(nats, "PLAIN", ttl=ttl, replicas=size)
            async with patience("waiting for records to expire"):
                read, watched, unmarked = await asyncio.gather(
                    _delays(marked, _until_read, ttl=ttl, keys=keys, span=span),
                    _delays(marked, _until_watched, ttl=ttl, keys=keys, span=span),
                    _delays(plain, _until_read, ttl=ttl, keys=keys, span=span),
                )
        for name, delays in (
            ("markers, watched", watched),
            ("markers, read", read),
            ("no markers, read", unmarked),
        ):
            found["delays"][f"R{size}, {name}"] = delays
            say(f"expiry     R{size}, {name}: {spread(delays, digits=3)} late")
    return found


async def _create_without_markers(
    nats: NatsConnection, name: str, *, ttl: int, replicas: int
) -> NatsBucket:
    """Create a bucket as clients do that know no markers."""
    config = dict(jetstream.stream_request(name, ttl=ttl, replicas=replicas))
    del config["subject_delete_marker_ttl"], config["allow_msg_ttl"]
    subject, payload = f"$JS.API.STREAM.CREATE.KV_{name}", json.dumps(config).encode()
    answer = await nats.request(subject, payload, timeout=10)
    error = jetstream.error_from(answer, name)
    if error is not None:
        raise error
    return nats.bucket(name)


async def _delays(
    bucket: NatsBucket,
    until_gone: Callable[[NatsBucket, str, float], asyncio.Future[float]],
    *,
    ttl: int,
    keys: int,
    span: float,
) -> list[float]:
    """Return how late it showed that records had expired: sorted seconds.

    They are due a TTL after they were sent, so what a write takes is part of it.
    """

    async def one(key: str) -> float:
        await asyncio.sleep(random.uniform(0, span))  # noqa: S311
        due = clock.now() + ttl
        gone = until_gone(bucket, key, due)
        answer = await bucket.write(key, _RECORD.holder, expected=0, headers=_HEADERS, timeout=10)
        if answer.outcome is not Outcome.STORED:
            msg = f"a record of {bucket.name} was not stored: {answer.reason}"
            raise ControlPlaneError(msg)
        async with asyncio.timeout(LONGEST):
            return await gone - due

    prefix = until_gone.__name__.strip("_")
    return sorted(await asyncio.gather(*(one(f"{prefix}.{number}") for number in range(keys))))


def _until_read(bucket: NatsBucket, key: str, due: float) -> asyncio.Future[float]:
    """Return when a read shows no record any more; looks every 20 ms."""

    async def look() -> float:
        await asyncio.sleep(due - clock.now())
        while isinstance((await bucket.read(key, timeout=10)).entry, Record):  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
        return clock.now()

    return asyncio.ensure_future(look())


def _until_watched(bucket: NatsBucket, key: str, _due: float) -> asyncio.Future[float]:
    """Return when the watch shows the marker."""
    gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def seen(sighting: Sighting) -> None:
        expired = isinstance(sighting.entry, Marker) and sighting.entry.cause is Cause.EXPIRED
        if expired and not gone.done():
            gone.set_result(clock.now())

    end = bucket.watch(key, seen)
    gone.add_done_callback(lambda _: end())
    return gone


# Stream leaders


async def _leaders(folder: Path, *, ttls: Sequence[int], keys: int, kills: int) -> Result:
    """Kill the server that leads all the streams, again and again."""
    found: Result = {
        "kills": kills,
        "ttls": {ttl: {"lost": 0, "changed": 0, "taken": []} for ttl in ttls},
    }
    async with contextlib.AsyncExitStack() as stack:
        servers = await stack.enter_async_context(_running(folder, 3))
        watching = await stack.enter_async_context(_connected(servers))
        members = [await stack.enter_async_context(_connected(servers)) for _ in range(MEMBERS)]
        records = {}
        for ttl in ttls:
            bucket = await _create(watching, f"TTL-{ttl}", ttl=ttl, replicas=3)
            records[ttl] = Records(bucket)
            stack.callback(records[ttl].end)
        elections = [
            Election(nats, f"TTL-{ttl}", f"key-{key}", f"member-{number}")
            for ttl in ttls
            for key in range(keys)
            for number, nats in enumerate(members)
        ]
        stack.push_async_callback(_each, [election.stop for election in elections])
        async with patience(f"starting {len(elections)} members"):
            await _each([partial(_begin, election) for election in elections])
            for ttl in ttls:
                await records[ttl].until_all(keys)
        for number in range(kills):
            async with patience(f"kill {number + 1} of {kills}"):
                await _kill(watching, servers, records, found)
    for ttl in ttls:
        found["ttls"][ttl]["taken"].sort()
        say(f"leaders    TTL {ttl} s: {_kept(found['ttls'][ttl])}")
    return found


def _kept(found: Result) -> str:
    count = len(found["taken"])
    return (
        f"of {count} elections {found['changed']} ({_percent(found['changed'], count)}) changed"
        f" holder, {found['lost']} ({_percent(found['lost'], count)}) began a new term; stored"
        f" again after the kill: {spread(found['taken'])}"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


async def _each(calls: Sequence[Callable[[], Awaitable[None]]]) -> None:
    await asyncio.gather(*(call() for call in calls))


async def _begin(election: Election) -> None:
    """Start it at a random moment, or all would renew at once."""
    ttl = int(election.bucket.removeprefix("TTL-"))
    await asyncio.sleep(random.uniform(0, timing_for(ttl).interval))  # noqa: S311
    await election.start()


async def _kill(
    nats: NatsConnection,
    servers: Sequence[NatsServer],
    records: Mapping[int, Records],
    found: Result,
) -> None:
    victim = random.choice(servers)  # noqa: S311
    for one in records.values():
        await _lead(nats, one.bucket, victim.process.name)
    await asyncio.sleep(random.uniform(1, 4))  # noqa: S311
    before = {ttl: dict(one.latest) for ttl, one in records.items()}
    killed_at = clock.now()
    for one in records.values():
        one.begin(killed_at)
    victim.kill()
    for ttl, one in records.items():
        await one.until_all(len(before[ttl]))
        for key, (record, stored_at) in one.first.items():
            found["ttls"][ttl]["lost"] += record.term != before[ttl][key].term
            found["ttls"][ttl]["changed"] += record.holder != before[ttl][key].holder
            found["ttls"][ttl]["taken"].append(stored_at - killed_at)
    await victim.start()
    for one in records.values():
        await _until(partial(_whole, one.bucket), f"{one.bucket.name} has no three replicas")


class Records:
    """The latest record of every key of a bucket, and the first that was sent after a moment."""

    def __init__(self, bucket: NatsBucket) -> None:
        self.bucket = bucket
        self.latest: dict[str, Record] = {}
        self.first: dict[str, tuple[Record, float]] = {}
        """With the time when it was stored."""
        self._since = 0.0
        self.end = bucket.follow(self._seen)

    def begin(self, now: float) -> None:
        """Count from now on."""
        self._since, self.first = now, {}

    async def until_all(self, count: int) -> None:
        """Wait until so many keys had a record since."""

        async def all_have() -> bool:
            return len(self.first) >= count

        await _until(all_have, f"not all keys of {self.bucket.name} were written")

    def _seen(self, key: str, sighting: Sighting) -> None:
        record = sighting.entry
        if not isinstance(record, Record):
            return
        self.latest[key] = record
        if record.sent_at > self._since:
            self.first.setdefault(key, (record, clock.now() - sighting.age))


async def _lead(nats: NatsConnection, bucket: NatsBucket, server: str) -> None:
    """Let this server lead the stream of a bucket."""
    subject = f"$JS.API.STREAM.LEADER.STEPDOWN.KV_{bucket.name}"
    wish = json.dumps({"placement": {"preferred": server}}).encode()

    async def leads() -> bool:
        if any(peer.leader and peer.name == server for peer in await bucket.peers()):
            return True
        await nats.request(subject, wish, timeout=2)
        await asyncio.sleep(0.3)
        return False

    await _until(leads, f"{server} does not lead {bucket.name}")


async def _whole(bucket: NatsBucket) -> bool:
    peers = await bucket.peers()
    followers = [peer for peer in peers if not peer.leader]
    return len(peers) == 3 and all(peer.current and not peer.offline for peer in followers)  # noqa: PLR2004


async def _until(holds: Callable[[], Awaitable[bool]], trouble: str) -> None:
    """Wait until something holds; while no server answers it does not."""
    deadline = clock.now() + LONGEST
    while True:
        with contextlib.suppress(BucketError):
            if await holds():
                return
        if clock.now() > deadline:
            msg = f"{trouble} after {LONGEST} s; see the servers' logs"
            raise ControlPlaneError(msg)
        await asyncio.sleep(_POLL)


# The report


def section(results: Mapping[str, Result]) -> Section:
    """Return what the report says."""
    texts, plots = [], {}
    for name, say_it in (
        ("bucket-writes", _section_writes),
        ("bucket-expiry", _section_expiry),
        ("bucket-leaders", _section_leaders),
    ):
        if name in results:
            text, drawing = say_it(results[name])
            texts.append(text)
            plots[name] = drawing
    return Section("The bucket", "\n\n".join(texts), plots)


def _section_writes(found: Result) -> tuple[str, str]:
    head = ("servers", "one at a time, p50", "p99", "max", "at most", "then p50", "p99", "client")
    rows = [
        (
            name,
            *(f"{1000 * one['alone'][share]:.2f} ms" for share in ("p50", "p99", "max")),
            f"{one['rate']}/s",
            *(f"{1000 * one['many'][share]:.1f} ms" for share in ("p50", "p99")),
            f"{one['client']} %",
        )
        for name, one in found["servers"].items()
    ]
    text = (
        "Conditional writes by one client with the operator's adapter: one at a time, and one for"
        f" each of {found['flight']} keys at a time. The client is one process, whose share of a"
        f" core is in the last column.\n\n{table(head, rows)}"
    )
    series = {
        name: [(1000 * a, b) for a, b in cumulative(one["curve"])]
        for name, one in found["servers"].items()
    }
    title = "Conditional writes one at a time, by how long they took"
    return text, curves(title, series, x="at most, ms", y="% of all")


def _section_expiry(found: Result) -> tuple[str, str]:
    head = ("how it shows", *(name for name, _ in SHARES))
    rows = [
        (name, *(f"{at(delays, share):.3f} s" for _, share in SHARES))
        for name, delays in found["delays"].items()
    ]
    text = (
        f"How late it shows that a record has expired, TTL {found['ttl']} s, {found['keys']} keys"
        f" each: the marker in the watch, or a read every {1000 * _POLL:.0f} ms.\n\n"
        + table(head, rows)
    )
    series = {name: cumulative(delays) for name, delays in found["delays"].items()}
    return text, curves("Expired records by delay", series, x="late by at most, s", y="% of all")


def _section_leaders(found: Result) -> tuple[str, str]:
    head = ("TTL", "elections", "changed holder", "new term", "stored again, p50", "p99", "max")
    rows = [
        (
            f"{ttl} s",
            len(one["taken"]),
            _percent(one["changed"], len(one["taken"])),
            _percent(one["lost"], len(one["taken"])),
            *(f"{at(one['taken'], share):.1f} s" for share in (0.5, 0.99, 1.0)),
        )
        for ttl, one in found["ttls"].items()
    ]
    text = (
        f"Three servers, {found['kills']} times the one that leads all streams is killed with"
        f" SIGKILL. {MEMBERS} members of each election, with the library; the time runs from the"
        f" kill to the next record that is stored on a key. A new term without another holder is"
        f" one that its holder lost and won again.\n\n{table(head, rows)}"
    )
    series = {f"TTL {ttl} s": cumulative(one["taken"]) for ttl, one in found["ttls"].items()}
    title = "Elections by how long after the kill their record is stored again"
    return text, curves(title, series, x="at most, s", y="% of all")
