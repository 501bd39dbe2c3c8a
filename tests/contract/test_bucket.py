"""What every bucket does: the fake, real ones with and without markers, and one with R3."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import nats
import pytest
import pytest_asyncio
from nats.js.api import KeyValueConfig

from controlplane.natsserver import NatsCluster, NatsServer
from controlplane.proxy import Proxy, Towards
from fakes import FakeBucket
from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Answer, Outcome, Sighting, WatchedBucket
from incumbent.campaign.records import Cause, Entry, Marker, Nothing, Record
from incumbent.errors import BucketUnreachable
from incumbent.nats import watch as nats_watch
from incumbent.nats.connection import NatsAccess, NatsConnection

LONG = 60.0
SHORT = 1.0
"""The TTL where a test waits for it; a real server may be 0.4 s late."""
PATIENCE = 5.0

MINE = Record(
    0,
    "7f3a91c2/shop/billing-6f9-abcde",
    term=0,
    replica="host-1/5d41",
    site="7f3a91c2/7f3a91c2-0000",
    pod_uid="0b7c",
    promoted=False,
)
T = TypeVar("T")
KEYS = (f"shop.billing-{number}" for number in itertools.count())


class Seen:
    """Collects what a watch shows."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self._more = asyncio.Event()

    def __call__(self, sighting: Sighting) -> None:
        """Take in a sighting."""
        self.sightings.append(sighting)
        self._more.set()

    @property
    def entries(self) -> list[Entry]:
        """The entries in the order in which they were shown."""
        return [sighting.entry for sighting in self.sightings]

    async def wait(self, number: int) -> list[Entry]:
        """Return the entries when there are so many."""
        async with asyncio.timeout(PATIENCE):
            while len(self.sightings) < number:
                self._more.clear()
                await self._more.wait()
        return self.entries


class FakeStore:
    """The fake, and what others do to it."""

    def __init__(self, *, markers: bool) -> None:
        self.markers = markers
        self.bucket = FakeBucket(ttl=LONG, markers=markers)
        self.short = FakeBucket(ttl=SHORT, markers=markers)

    async def put(self, key: str, value: str) -> int:
        """Put a record, as `nats kv put` does."""
        return self.bucket.put(key, value)

    async def delete(self, key: str) -> None:
        """Put a delete marker, as `nats kv del` does."""
        self.bucket.delete(key)

    async def purge(self, key: str) -> None:
        """Put a purge marker, as `nats kv purge` does."""
        self.bucket.purge(key)

    async def recreate(self) -> None:
        """Delete the bucket, and make it anew."""
        self.bucket.recreate()

    @asynccontextmanager
    async def losing_answers(self) -> AsyncIterator[None]:
        """Lose whatever the server says."""
        with self.bucket.dropping_answers():
            yield

    @asynccontextmanager
    async def losing_requests(self) -> AsyncIterator[None]:
        """Lose whatever is said to the server."""
        with self.bucket.dropping_requests():
            yield

    @asynccontextmanager
    async def disconnected(self) -> AsyncIterator[None]:
        """Lose the connection."""
        with self.bucket.unreachable():
            yield


class RealStore:
    """Buckets of a NATS server behind a proxy, and another client of that server."""

    def __init__(
        self, connection: NatsConnection, proxy: Proxy, stranger: nats.NATS, place: Place
    ) -> None:
        self.markers = place.markers
        self.bucket = connection.bucket(f"LONG_{place.name}")
        self.short = connection.bucket(f"SHORT_{place.name}")
        self._stranger, self._proxy, self._place = stranger.jetstream(), proxy, place

    async def create(self) -> None:
        """Create both buckets, unless a test before did."""
        for bucket, ttl in ((self.bucket, LONG), (self.short, SHORT)):
            if self.markers:
                await bucket.create(ttl=ttl, replicas=self._place.replicas)
            else:
                config = KeyValueConfig(bucket.name, ttl=ttl, history=1)
                await self._stranger.create_key_value(config)

    async def put(self, key: str, value: str) -> int:
        """Put a record, as `nats kv put` does."""
        values = await self._stranger.key_value(self.bucket.name)
        return await values.put(key, value.encode())

    async def delete(self, key: str) -> None:
        """Put a delete marker, as `nats kv del` does."""
        values = await self._stranger.key_value(self.bucket.name)
        await values.delete(key)

    async def purge(self, key: str) -> None:
        """Put a purge marker, as `nats kv purge` does."""
        values = await self._stranger.key_value(self.bucket.name)
        await values.purge(key)

    async def recreate(self) -> None:
        """Delete the bucket, and make it anew."""
        await self._stranger.delete_key_value(self.bucket.name)
        await self.create()

    @asynccontextmanager
    async def losing_answers(self) -> AsyncIterator[None]:
        """Lose whatever the server says."""
        self._proxy.black_hole(Towards.CLIENT)
        yield
        await self._proxy.resume()

    @asynccontextmanager
    async def losing_requests(self) -> AsyncIterator[None]:
        """Lose whatever is said to the server."""
        self._proxy.black_hole(Towards.SERVER)
        yield
        await self._proxy.resume()

    @asynccontextmanager
    async def disconnected(self) -> AsyncIterator[None]:
        """Lose the connection."""
        await self._proxy.refuse()
        yield
        await self._proxy.resume()


Store = FakeStore | RealStore


@dataclass(frozen=True)
class Place:
    """Where a bucket is."""

    name: str
    servers: Sequence[NatsServer]
    markers: bool = True
    replicas: int = 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NatsCluster]:
    """Three servers; a test that stops one starts it again."""
    async with NatsCluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(
    params=(
        pytest.param("fake", marks=pytest.mark.looptime),
        pytest.param("fake without markers", marks=pytest.mark.looptime),
        "markers",
        "no markers",
        "R3",
    )
)
def place(request: pytest.FixtureRequest) -> Place:
    """Where the bucket is; the servers run already."""
    match request.param:
        case "markers":
            return Place("MARKERS", [request.getfixturevalue("nats_server")])
        case "no markers":
            return Place("PLAIN", [request.getfixturevalue("nats_server")], markers=False)
        case "R3":
            return Place("R3", request.getfixturevalue("cluster").servers, replicas=3)
    return Place("FAKE", [], markers=request.param == "fake")


@pytest.fixture
async def store(place: Place) -> AsyncIterator[Store]:
    """A bucket with a long TTL and one with a short one."""
    if not place.servers:
        yield FakeStore(markers=place.markers)
        return
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(place.servers[0].port))
        connection = await stack.enter_async_context(NatsConnection(NatsAccess([proxy.address])))
        stranger = await nats.connect(place.servers[0].url)
        stack.push_async_callback(stranger.close)
        await connection.wait_connected()
        real = RealStore(connection, proxy, stranger, place)
        await real.create()
        if place.replicas > 1:
            # A new stream has a leader, and all servers know of its subjects, a moment later.
            for bucket in (real.bucket, real.short):
                await eventually(functools.partial(answering, bucket))
        yield real


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return next(KEYS)


async def create(bucket: WatchedBucket, key: str, *, expected: int = 0) -> Answer:
    headers = wire.headers_of(MINE)
    return await bucket.write(
        key, MINE.holder, expected=expected, headers=headers, timeout=PATIENCE
    )


async def answering(bucket: WatchedBucket) -> bool | None:
    """Return true if a write to the bucket has an answer, whatever it is."""
    answer = await create(bucket, "probe")
    return True if answer.outcome is not Outcome.UNKNOWN else None


async def created(bucket: WatchedBucket, key: str) -> int:
    """Create the record, and return its revision."""
    answer = await create(bucket, key)
    assert answer.outcome is Outcome.STORED
    return answer.revision


async def release(bucket: WatchedBucket, key: str, expected: int) -> Answer:
    headers = wire.release_headers(MINE.replica)
    return await bucket.remove(key, expected=expected, headers=headers, timeout=PATIENCE)


async def entry_of(bucket: WatchedBucket, key: str) -> Entry:
    return (await bucket.read(key, timeout=PATIENCE)).entry


async def eventually(look: Callable[[], Awaitable[T | None]], *, within: float = PATIENCE) -> T:
    """Return the first thing that is found."""
    async with asyncio.timeout(within):
        while True:
            found = await look()
            if found is not None:
                return found
            await asyncio.sleep(0.05)


async def gone(bucket: WatchedBucket, key: str, leaves: type[Entry]) -> Entry:
    """Return the entry as soon as it is what an expired record leaves.

    With several servers a read can find nothing for a moment: a server removes the record first,
    and then proposes the marker to the others.
    """

    async def look() -> Entry | None:
        entry = await entry_of(bucket, key)
        return entry if isinstance(entry, leaves) else None

    return await eventually(look)


async def test_a_record_is_created_where_there_is_none(store: Store, key: str) -> None:
    """A write that expects nothing is stored once, and refused from then on."""
    revision = await created(store.bucket, key)

    assert revision > 0
    again = await create(store.bucket, key)
    assert again.outcome is Outcome.REFUSED
    assert f"wrong last sequence: {revision}" in again.reason
    assert (await entry_of(store.bucket, key)).revision == revision


async def test_value_and_headers_come_back(store: Store, key: str) -> None:
    """What a record says beside its holder is read as it was written."""
    record = replace(MINE, promoted=True, leaving=True, term=3)
    answer = await store.bucket.write(
        key, "ä/b c/✓", expected=0, headers=wire.headers_of(record), timeout=PATIENCE
    )

    written = replace(record, holder="ä/b c/✓", revision=answer.revision)
    expected = replace(written, term=min(3, answer.revision))
    assert await entry_of(store.bucket, key) == expected


async def test_a_renewal_expects_the_last_revision(store: Store, key: str) -> None:
    """A write is stored on top of the revision that it expects, and on no other."""
    first = await created(store.bucket, key)

    second = await create(store.bucket, key, expected=first)
    stale = await create(store.bucket, key, expected=first)
    future = await create(store.bucket, key, expected=second.revision + 1)

    assert second.outcome is Outcome.STORED
    assert second.revision > first
    assert stale.outcome is future.outcome is Outcome.REFUSED
    assert (await entry_of(store.bucket, key)).revision == second.revision


async def test_keys_do_not_disturb_each_other(store: Store, key: str) -> None:
    """What happens on one key changes nothing about the expectation of another."""
    first = await created(store.bucket, key)
    await created(store.bucket, f"{key}.other")

    assert (await create(store.bucket, key, expected=first)).outcome is Outcome.STORED


async def test_a_release_is_read_as_one(store: Store, key: str) -> None:
    """A delete marker with our header says that the holder gave the record up."""
    revision = await created(store.bucket, key)

    refused = await release(store.bucket, key, revision - 1)
    released = await release(store.bucket, key, revision)

    assert refused.outcome is Outcome.REFUSED
    assert released.outcome is Outcome.STORED
    assert await entry_of(store.bucket, key) == Marker(released.revision, Cause.RELEASED)


@pytest.mark.parametrize("how", ("delete", "purge"))
async def test_a_deletion_by_others_is_an_eviction(store: Store, key: str, how: str) -> None:
    """`nats kv del` and `nats kv purge` leave markers without our header."""
    seen = Seen()
    end = store.bucket.watch(key, seen)
    await seen.wait(1)
    await created(store.bucket, key)
    await seen.wait(2)  # a server does not deliver a record that was replaced before that
    await (store.delete if how == "delete" else store.purge)(key)

    entry = await entry_of(store.bucket, key)
    assert entry == Marker(entry.revision, Cause.EVICTED)
    await seen.wait(3)
    assert replace(seen.sightings[2], age=0) == Sighting(entry, live=True)
    end()


@pytest.mark.parametrize("how", ("delete", "purge", "release"))
async def test_a_record_is_created_over_the_marker_that_was_seen(
    store: Store, key: str, how: str
) -> None:
    """Over a marker a creation has to expect the marker, not nothing."""
    revision = await created(store.bucket, key)
    if how == "release":
        await release(store.bucket, key, revision)
    else:
        await (store.delete if how == "delete" else store.purge)(key)
    marker = await entry_of(store.bucket, key)
    assert isinstance(marker, Marker)

    assert (await create(store.bucket, key)).outcome is Outcome.REFUSED
    assert (await create(store.bucket, key, expected=revision)).outcome is Outcome.REFUSED
    over = await create(store.bucket, key, expected=marker.revision)
    assert over.outcome is Outcome.STORED


async def test_an_expiry_leaves_a_marker_or_nothing(store: Store, key: str) -> None:
    """A record expires after the TTL; the watch shows that if the bucket has markers."""
    seen = Seen()
    end = store.short.watch(key, seen)
    await seen.wait(1)
    started = asyncio.get_running_loop().time()
    revision = await created(store.short, key)
    entry = await gone(store.short, key, Marker if store.markers else Nothing)

    assert asyncio.get_running_loop().time() - started >= SHORT * 0.95
    if store.markers:
        assert entry == Marker(entry.revision, Cause.EXPIRED)
        assert entry.revision > revision
        await seen.wait(3)
        assert replace(seen.sightings[2], age=0) == Sighting(entry, live=True)
        assert (await create(store.short, key)).outcome is Outcome.REFUSED
    else:
        assert entry == Nothing()
        assert [type(shown) for shown in seen.entries] == [Nothing, Record]
    over = await create(store.short, key, expected=entry.revision)
    assert over.outcome is Outcome.STORED
    end()


async def test_a_renewal_begins_the_ttl_anew(store: Store, key: str) -> None:
    """The age of a record counts from its last renewal."""
    revision = await created(store.short, key)
    await asyncio.sleep(0.6 * SHORT)
    renewed = await create(store.short, key, expected=revision)
    await asyncio.sleep(0.6 * SHORT)

    assert (await entry_of(store.short, key)).revision == renewed.revision


async def test_a_marker_expires_too(store: Store, key: str) -> None:
    """In a bucket with markers a release is followed by an expiry, and that by nothing.

    Three servers may tell of the expiry after a read has found nothing. A creation that is refused
    for that is tried again.
    """
    seen = Seen()
    end = store.short.watch(key, seen)
    await seen.wait(1)
    revision = await created(store.short, key)
    assert (await release(store.short, key, revision)).outcome is Outcome.STORED

    async def nothing() -> Entry | None:
        entry = await entry_of(store.short, key)
        return entry if isinstance(entry, Nothing) else None

    async def again() -> Answer | None:
        answer = await create(store.short, key)
        return answer if answer.outcome is Outcome.STORED else None

    async def shown() -> list[Cause] | None:
        causes = [entry.cause for entry in seen.entries if isinstance(entry, Marker)]
        return causes if causes == expected else None

    await eventually(nothing)
    await eventually(again)
    expected = [Cause.RELEASED, *([Cause.EXPIRED] if store.markers else [])]
    await eventually(shown)
    end()


@pytest.mark.parametrize("value", ("choria.example.net", ""))
async def test_what_strangers_put_is_a_record(store: Store, key: str, value: str) -> None:
    """A message without our headers is the record of a stranger, even when it is empty."""
    revision = await created(store.bucket, key)
    put = await store.put(key, value)

    record = await entry_of(store.bucket, key)
    assert record == Record(put, value, term=put)
    assert (await create(store.bucket, key, expected=revision)).outcome is Outcome.REFUSED


async def test_a_key_that_was_never_used_holds_nothing(store: Store, key: str) -> None:
    """Read and watch say so."""
    seen = Seen()
    end = store.bucket.watch(key, seen)

    assert await seen.wait(1) == [Nothing()]
    assert await store.bucket.read(key, timeout=PATIENCE) == Sighting(Nothing())
    end()


async def test_a_watch_shows_the_latest_then_each_change(store: Store, key: str) -> None:
    """The first sighting is of what was there, with its age; the others happen live, in order."""
    revision = await created(store.bucket, key)
    await asyncio.sleep(0.2)
    seen = Seen()
    end = store.bucket.watch(key, seen)
    await seen.wait(1)
    first = seen.sightings[0]
    assert first.entry.revision == revision
    assert 0.1 < first.age < PATIENCE
    assert not first.live

    revisions = [revision]
    for _ in range(5):
        revisions.append((await create(store.bucket, key, expected=revisions[-1])).revision)
        await created(store.bucket, f"{key}.{len(revisions)}")
        await seen.wait(len(revisions))
    revisions.append((await release(store.bucket, key, revisions[-1])).revision)
    await seen.wait(len(revisions))

    assert [entry.revision for entry in seen.entries] == revisions
    assert seen.entries[-1] == Marker(revisions[-1], Cause.RELEASED)
    assert all(sighting.live and 0 <= sighting.age < 1 for sighting in seen.sightings[1:])
    end()


async def test_a_second_watch_is_told_at_once(store: Store, key: str) -> None:
    """Who begins to watch a watched bucket learns what is known before `watch` returns."""
    revision = await created(store.bucket, key)
    first, second, unused = Seen(), Seen(), Seen()
    ends = [store.bucket.watch(key, first)]
    await first.wait(1)

    ends += [store.bucket.watch(key, second), store.bucket.watch(f"{key}.unused", unused)]

    assert [entry.revision for entry in second.entries] == [revision]
    assert not second.sightings[0].live
    assert unused.entries == [Nothing()]
    for end in ends:
        end()


async def test_a_watch_that_was_ended_is_told_nothing(store: Store, key: str) -> None:
    """Others of the same key go on; to end it twice does no harm."""
    ended, goes_on = Seen(), Seen()
    end, end_other = store.bucket.watch(key, ended), store.bucket.watch(key, goes_on)
    await goes_on.wait(1)
    end()
    end()

    await created(store.bucket, key)
    await goes_on.wait(2)
    assert ended.entries == [Nothing()]
    end_other()


async def test_the_settings_are_told(store: Store, key: str) -> None:
    """Who listens is told when they are known; a look returns them, too."""
    bucket, told = store.short, asyncio.Event()
    end = bucket.listen(told.set)
    async with asyncio.timeout(PATIENCE):
        await told.wait()

    assert bucket.settings is not None
    assert bucket.settings.ttl == SHORT
    assert bucket.problem is None
    info = await bucket.info()
    assert (info.name, info.ttl, info.history, info.mirror) == (bucket.name, SHORT, 1, False)
    assert info.markers is store.markers
    assert info.created == bucket.settings.created
    # Of the clock of the package nobody knows from when it counts; the server counts from 1970.
    assert 1.7e9 < bucket.server_ahead + clock.now() < 4e9
    end()


async def test_a_lost_answer_leaves_the_outcome_unknown(store: Store, key: str) -> None:
    """The write was stored all the same, as a later read shows."""
    seen = Seen()
    end = store.bucket.watch(key, seen)
    await seen.wait(1)
    async with store.losing_answers():
        answer = await store.bucket.write(
            key, MINE.holder, expected=0, headers=wire.headers_of(MINE), timeout=0.3
        )
        with pytest.raises(BucketUnreachable):
            await store.bucket.read(key, timeout=0.1)

    assert answer.outcome is Outcome.UNKNOWN
    assert answer.reason
    record = (await seen.wait(2))[1]
    assert record == replace(MINE, revision=record.revision, term=record.revision)
    assert await entry_of(store.bucket, key) == record
    end()


async def test_a_lost_request_leaves_the_outcome_unknown(store: Store, key: str) -> None:
    """Nothing was stored, as a later read shows."""
    seen = Seen()
    end = store.bucket.watch(key, seen)
    await seen.wait(1)
    async with store.losing_requests():
        answer = await store.bucket.write(
            key, MINE.holder, expected=0, headers=wire.headers_of(MINE), timeout=0.3
        )

    assert answer.outcome is Outcome.UNKNOWN

    async def second() -> Answer | None:
        answer = await create(store.bucket, key)
        return answer if answer.outcome is Outcome.STORED else None

    await eventually(second)
    end()


async def test_after_an_outage_the_watch_shows_what_there_is(store: Store, key: str) -> None:
    """Writes fail at once meanwhile; what was missed is shown once, and not as live."""
    seen, unused = Seen(), Seen()
    bucket, lost = store.bucket, asyncio.Event()

    def changed() -> None:
        if isinstance(bucket.problem, BucketUnreachable):
            lost.set()

    ends = [
        bucket.watch(key, seen),
        bucket.watch(f"{key}.unused", unused),
        bucket.listen(changed),
    ]
    await seen.wait(1)
    await created(bucket, key)
    await seen.wait(2)
    async with store.disconnected():
        async with asyncio.timeout(PATIENCE):
            await lost.wait()
        answer = await create(bucket, key)
        await store.put(key, "somebody")
        last = await store.put(key, "somebody else")
    await seen.wait(3)

    assert answer.outcome is Outcome.REFUSED, "it was certainly not sent"
    assert seen.sightings[2].entry == Record(last, "somebody else", term=last)
    assert not seen.sightings[2].live
    assert seen.sightings[2].unseen_for > 0, "somebody was replaced, unseen"
    assert await unused.wait(2) == [Nothing(), Nothing()]
    assert bucket.problem is None
    await create(bucket, key, expected=last)
    await seen.wait(4)
    assert seen.sightings[3].live
    for end in ends:
        end()


async def test_after_an_outage_the_watch_tells_that_nothing_is_missing(
    store: Store, key: str
) -> None:
    """If what it shows was stored next."""
    seen = Seen()
    end = store.bucket.watch(key, seen)
    await seen.wait(1)
    await created(store.bucket, key)
    await seen.wait(2)
    async with store.disconnected():
        await store.put(key, "somebody")
    await seen.wait(3)

    assert seen.sightings[2].unseen_for == 0
    end()


async def test_a_bucket_that_was_made_anew_is_told_before_it_is_shown(
    store: Store, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who listens can forget the old records before the watch shows what is in the new bucket."""
    monkeypatch.setattr(nats_watch, "HEARTBEAT_EVERY", 0.2)
    bucket = store.bucket
    happened: list[str | Entry] = []
    seen = Seen()

    def changed() -> None:
        if bucket.settings is not None and bucket.settings.created not in happened:
            happened.append(bucket.settings.created)

    def shown(sighting: Sighting) -> None:
        happened.append(sighting.entry)
        seen(sighting)

    ends = [bucket.listen(changed), bucket.watch(key, shown)]
    await seen.wait(1)
    revision = await created(bucket, key)
    await seen.wait(2)
    await store.recreate()
    await seen.wait(3)

    first, nothing, record, second, *rest = happened
    assert isinstance(first, str)
    assert nothing == Nothing()
    assert isinstance(record, Record)
    assert record.revision == revision
    assert isinstance(second, str)
    assert rest == [Nothing()]
    assert (await created(bucket, key)) == 1
    for end in ends:
        end()


@pytest.fixture
def restarted(cluster: NatsCluster) -> Iterator[None]:
    """Have all servers of the cluster run again afterwards."""
    yield
    for server in cluster.servers:
        server.spawn()


async def test_writes_go_on_after_the_stream_lost_its_leader(
    cluster: NatsCluster, restarted: None, key: str
) -> None:
    """With three replicas a server that dies with the stream's leader costs a few seconds."""
    async with NatsConnection(NatsAccess(cluster.urls)) as connection:
        await connection.wait_connected()
        bucket = connection.bucket("LEADERLESS")
        await bucket.create(ttl=LONG, replicas=3)
        seen = Seen()
        end = bucket.watch(key, seen)
        await seen.wait(1)
        revision = await created(bucket, key)
        leader = await leader_of(cluster, bucket.name)
        leader.kill()

        async def renewed() -> int | None:
            answer = await create(bucket, key, expected=revision)
            if answer.outcome is Outcome.STORED:
                return answer.revision
            with contextlib.suppress(BucketUnreachable):
                # One before may have been stored, and its answer lost.
                found = await bucket.read(key, timeout=1)
                return found.entry.revision if found.entry.revision > revision else None
            return None

        async def shown() -> list[int] | None:
            revisions = [entry.revision for entry in seen.entries]
            return revisions if revisions[-1] == last else None

        last = await eventually(renewed, within=20)
        assert last > revision
        revisions = await eventually(shown, within=20)
        assert revisions == sorted(revisions)
        end()


async def leader_of(cluster: NatsCluster, bucket: str) -> NatsServer:
    """Return the server with the leader of a bucket's stream."""
    client = await nats.connect(cluster.urls[0])
    try:
        info = await client.jetstream().stream_info(f"KV_{bucket}")
    finally:
        await client.close()
    assert info.cluster is not None
    names = {f"nats-{number}": server for number, server in enumerate(cluster.servers)}
    return names[str(info.cluster.leader)]
