"""How often buckets are asked for that cannot be used."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from incumbent import clock
from incumbent.errors import BucketDenied, BucketError, BucketNotFound
from incumbent.nats.bucket import NatsBucket
from incumbent.nats.lookups import LONGEST_PAUSE, PER_SECOND, SELDOM, Throttle

pytestmark = pytest.mark.looptime


@pytest.fixture(autouse=True)
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package's clock follow the loop's."""
    monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


class Server:
    """A NATS server without any bucket; it notes when each is asked for."""

    domain = None

    def __init__(self) -> None:
        self.asked: list[tuple[float, str]] = []
        self.there: set[str] = set()
        self.refusal: type[BucketError] = BucketNotFound
        self.turns = Throttle()
        self._tasks: list[asyncio.Task[None]] = []

    async def wait_connected(self) -> None:
        """Return."""

    async def request(self, subject: str, payload: bytes, **_: object) -> dict[str, Any]:
        """Say that there is no such bucket."""
        name = subject.rpartition(".KV_")[2]
        self.asked.append((asyncio.get_running_loop().time(), name))
        await asyncio.sleep(0)
        if name in self.there:
            raise Found
        raise self.refusal(name)

    def spawn(self, work: Any, *, name: str) -> asyncio.Task[None]:
        """Run it until the end of the test."""
        self._tasks.append(asyncio.create_task(work, name=name))
        return self._tasks[-1]

    def subscribe(self, take: Any) -> Any:
        """Is never called, because there is no bucket."""
        raise NotImplementedError

    def tenants_bucket(self, name: str) -> NatsBucket:
        """Return a bucket that an election names, which is being looked for."""
        bucket = NatsBucket(self, name, self.turns)
        bucket.lookups.longest_pause = SELDOM
        bucket.listen(lambda: None)
        return bucket

    def times(self, name: str) -> list[float]:
        """Return when a bucket was asked for."""
        return [when for when, which in self.asked if which == name]

    def rate(self, since: float) -> float:
        """Return how often buckets were asked for in a second, since then."""
        now = asyncio.get_running_loop().time()
        return sum(when >= since for when, _ in self.asked) / (now - since)

    async def aclose(self) -> None:
        """End all that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Found(Exception):
    """The bucket is there: nothing else is needed here."""


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server without buckets."""
    running = Server()
    yield running
    await running.aclose()


@pytest.mark.parametrize("refusal", (BucketNotFound, BucketDenied))
async def test_a_bucket_that_cannot_be_used_is_asked_for_less_and_less_often(
    server: Server, refusal: type[BucketError]
) -> None:
    """In the end about once a minute."""
    server.refusal = refusal
    server.tenants_bucket("B")
    await asyncio.sleep(3600)
    times = server.times("B")
    assert 60 <= len(times) <= 150
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert max(pauses) <= SELDOM
    assert min(pauses[-20:]) >= SELDOM / 2


async def test_the_pauses_of_two_buckets_drift_apart(server: Server) -> None:
    """Otherwise all that were created together would be asked for together, for ever."""
    for name in "ABCDE":
        server.tenants_bucket(name)
    await asyncio.sleep(3600)
    assert len({round(server.times(name)[-1]) for name in "ABCDE"}) > 2


@pytest.mark.parametrize("age", (0.5, 2, 10, 60, 1000))
async def test_a_bucket_that_is_created_is_found_within_a_share_of_the_time_it_was_missing(
    server: Server, age: float
) -> None:
    """A person who creates it after a few seconds waits for no minute."""
    server.tenants_bucket("B")
    await asyncio.sleep(age)
    await asyncio.sleep(max(LONGEST_PAUSE, min(SELDOM, age / 3)))
    assert server.times("B")[-1] > age


async def test_hundreds_of_missing_buckets_are_asked_for_at_a_bounded_rate(server: Server) -> None:
    """Also in the first seconds, but for the first look at each."""
    for number in range(500):
        server.tenants_bucket(f"B-{number}")
    await asyncio.sleep(80)
    assert len(server.asked) <= 500 + 80 * PER_SECOND + 1
    assert min(len(server.times(f"B-{number}")) for number in range(500)) >= 3


async def test_hundreds_of_missing_buckets_do_not_delay_the_first_look_at_another_one(
    server: Server,
) -> None:
    """Nor any look at one that is not shared out; and later looks wait for one turn of each."""
    for number in range(500):
        server.tenants_bucket(f"B-{number}")
    own = NatsBucket(server, "OWN", server.turns)
    own.listen(lambda: None)
    await asyncio.sleep(10)
    server.tenants_bucket("LATE")
    await asyncio.sleep(0.1)
    assert len(server.times("LATE")) == 1
    await asyncio.sleep(2 * 500 / PER_SECOND)
    assert len(server.times("LATE")) >= 3
    assert len(server.times("OWN")) >= 50


async def test_elections_that_come_and_go_delay_nobody(server: Server) -> None:
    """A bucket that nobody names any more keeps no turn."""
    for number in range(500):
        bucket = NatsBucket(server, f"B-{number}", server.turns)
        bucket.lookups.longest_pause = SELDOM
        end = bucket.listen(lambda: None)
        await asyncio.sleep(0.1)
        end()
    server.tenants_bucket("LATE")
    await asyncio.sleep(2)
    assert len(server.times("LATE")) >= 4


async def test_what_names_a_missing_bucket_again_has_it_looked_for(server: Server) -> None:
    """Whoever creates bucket and election is not made to wait because others waited before."""
    bucket = server.tenants_bucket("B")
    await asyncio.sleep(3600)
    bucket.listen(lambda: None)
    before = len(server.times("B"))
    await asyncio.sleep(0.1)
    assert len(server.times("B")) == before + 1


async def test_a_new_connection_has_missing_buckets_looked_for(server: Server) -> None:
    """Another server, or another login, may have them."""
    bucket = server.tenants_bucket("B")
    await asyncio.sleep(3600)
    bucket.disconnected(BucketDenied("gone"))
    before = len(server.times("B"))
    await asyncio.sleep(2)
    assert len(server.times("B")) >= before + 3


async def test_turns_are_taken_in_order_and_given_back_by_who_gives_up() -> None:
    """A turn that nobody waits for any more is the next one's."""
    turns, taken = Throttle(per_second=1), list[int]()

    async def take(number: int) -> None:
        await turns.take()
        taken.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(5)]
    await asyncio.sleep(0.5)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.sleep(2)
    assert taken == [0, 3, 4]
