"""A bucket behind a scripted connection: what a watch makes of what a server delivers."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from incumbent import clock
from incumbent.campaign.ports import Outcome, Sighting
from incumbent.campaign.records import Nothing
from incumbent.controller.process import if_missing
from incumbent.errors import (
    BucketDenied,
    BucketInvalid,
    BucketNotFound,
    BucketSilent,
    BucketUnreachable,
)
from incumbent.nats import bucket as nats_bucket
from incumbent.nats.bucket import NatsBucket, Take
from incumbent.settings import Settings

pytestmark = pytest.mark.looptime

KEYS = ("a", "b", "c")


@pytest.fixture(autouse=True)
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package's clock follow the loop's."""
    monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


class Server:
    """A connection to a server that holds one stream and delivers when it is told to."""

    domain: str | None = None

    def __init__(self) -> None:
        self.created = "2026-01-01T00:00:00Z"
        self.ttl = 30.0
        self.revision = 0
        self.messages: dict[str, int] = {}
        """The latest revision of every key."""
        self.calls: list[str] = []
        self.consumers = 0
        self.beating = self.delivering = True
        self.failure: Exception | None = None
        self.on_call: Callable[[str], None] = lambda _: None
        self.up = asyncio.Event()
        self.up.set()
        self._take: Take | None = None
        self._number = 0
        self._stored: dict[int, float] = {}
        """When each revision was stored."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait_connected(self) -> None:
        """Return when it is up."""
        await self.up.wait()

    async def request(
        self,
        subject: str,
        payload: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Answer what a bucket asks."""
        call = subject.removeprefix("$JS.API.").partition(".KV_")[0]
        self.calls.append(call)
        await asyncio.sleep(0.001)
        if self.failure is not None:
            raise self.failure
        self.on_call(call)
        if call == "CONSUMER.CREATE":
            self.consumers += 1
            pending = len(self.messages)
            self.spawn(self._deliver(dict(self.messages)), name="consumer")
            return {"num_pending": pending}
        if call == "STREAM.MSG.GET":
            revision = self.messages.get(json.loads(payload)["last_by_subj"].removeprefix("$KV.B."))
            if revision is None:
                return {"error": {"code": 404, "err_code": 10037}}
            stored_at = self._written(self._stored.get(revision, 0.0))
            return {"message": {"seq": revision, "time": stored_at}}
        return {
            "config": {"max_age": int(self.ttl * 1e9)},
            "created": self.created,
            "state": {"last_seq": self.revision},
            "ts": self._written(self._now),
        }

    @asynccontextmanager
    async def subscribe(self, take: Take) -> AsyncIterator[str]:
        """Deliver to this one from now on."""
        self._take, self._number = take, 0
        try:
            yield "_INBOX.x"
        finally:
            self._take = None

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run it until the end of the test."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _written(self, seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00") + "Z"

    async def aclose(self) -> None:
        """End all that runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, snapshot: Mapping[str, int]) -> None:
        if not self.delivering:
            return
        for position, (key, revision) in enumerate(sorted(snapshot.items(), key=lambda kv: kv[1])):
            await asyncio.sleep(0.002)
            if self.messages.get(key) == revision:
                self.deliver(key, revision, pending=len(snapshot) - position - 1)
        mine = self.consumers
        while self.consumers == mine:
            await asyncio.sleep(nats_bucket.HEARTBEAT_EVERY)
            if self.beating and self.consumers == mine:
                self.beat()

    def store(self, key: str, *, deliver: bool = True) -> int:
        """Put a record."""
        self.revision += 1
        self.messages[key] = self.revision
        self._stored[self.revision] = self._now
        if deliver:
            self.deliver(key, self.revision)
        return self.revision

    def deliver(self, key: str, revision: int, *, pending: int = 0, lost: bool = False) -> None:
        """Send a message to the watch, or lose it on the way."""
        self._number += 1
        stored_at = int(self._stored.get(revision, self._now) * 1e9)
        reply = f"$JS.ACK.KV_B.c.1.{revision}.{self._number}.{stored_at}.{pending}"
        if self._take is not None and not lost:
            self._take(f"$KV.B.{key}", reply, b"holder", {})

    def beat(self, delivered: int | None = None) -> None:
        """Send a heartbeat."""
        last = self._number if delivered is None else delivered
        if self._take is not None:
            self._take("_INBOX.x", "", b"", {"Status": "100", "Nats-Last-Consumer": str(last)})


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A server; its stream is empty."""
    running = Server()
    yield running
    await running.aclose()


@pytest.fixture
def bucket(server: Server) -> NatsBucket:
    """The bucket B of the server."""
    return NatsBucket(server, "B")


@asynccontextmanager
async def watched(bucket: NatsBucket) -> AsyncIterator[dict[str, list[Sighting]]]:
    """What watches of three keys show once they have begun."""
    sightings: dict[str, list[Sighting]] = {key: [] for key in KEYS}
    ends = [bucket.watch(key, sightings[key].append) for key in KEYS]
    await asyncio.sleep(0.5)
    assert all(map(len, sightings.values()))
    for seen in sightings.values():
        seen.clear()
    yield sightings
    for end in ends:
        end()


def facts(sightings: list[Sighting]) -> list[tuple[int, bool]]:
    """Return the revisions and whether they were live."""
    return [(sighting.entry.revision, sighting.live) for sighting in sightings]


# What was left out


async def test_what_follows_without_a_gap_is_live(server: Server, bucket: NatsBucket) -> None:
    """On whatever key."""
    async with watched(bucket) as shown:
        for key in "aabca":
            server.store(key)
        assert facts(shown["a"]) == [(1, True), (2, True), (5, True)]
        assert facts(shown["b"]) == [(3, True)]


async def test_after_a_gap_no_key_is_live_before_it_was_seen_again(
    server: Server, bucket: NatsBucket
) -> None:
    """What was replaced before it was delivered may have been on any key."""
    async with watched(bucket) as shown:
        server.store("a")
        server.store("b", deliver=False)
        server.store("a")
        server.store("a")
        server.store("b")
        server.store("b")
        server.store("c")
        server.store("c")

        assert facts(shown["a"]) == [(1, True), (3, False), (4, True)]
        assert facts(shown["b"]) == [(5, False), (6, True)]
        assert facts(shown["c"]) == [(7, False), (8, True)]


async def test_a_snapshot_has_no_gaps(server: Server, bucket: NatsBucket) -> None:
    """What it leaves out was replaced before the watch began."""
    for key in "ababba":
        server.store(key, deliver=False)
    seen: list[Sighting] = []
    end = bucket.watch("a", seen.append)
    await asyncio.sleep(0.5)
    server.store("a")

    assert facts(seen) == [(6, False), (7, True)]
    end()


async def test_a_gap_on_one_key_concerns_the_others_since_it_began(
    server: Server, bucket: NatsBucket
) -> None:
    """Nothing was left out of what was stored before the last message that came without a gap."""
    async with watched(bucket) as shown:
        server.store("a")
        await asyncio.sleep(6)
        server.store("b")
        await asyncio.sleep(1)
        server.store("c", deliver=False)
        server.store("c")
        await asyncio.sleep(2)
        server.store("a")

        assert not shown["a"][-1].live
        assert shown["a"][-1].unseen_for == pytest.approx(3, abs=0.1)


async def test_a_new_watch_with_no_revision_missing_has_left_out_nothing(
    server: Server, bucket: NatsBucket
) -> None:
    """As after an outage in which nothing happened but what time alone brings."""
    async with watched(bucket) as shown:
        for key in "ab":
            server.store(key)
        bucket.disconnected(BucketUnreachable("gone"))
        for key in "ab":
            server.store(key, deliver=False)
        await asyncio.sleep(60)

        assert facts(shown["a"]) == [(1, True), (3, False)]
        assert [seen.unseen_for for seen in (shown["a"][-1], shown["c"][-1])] == [0, 0]


@pytest.mark.parametrize("when", ("before it begins", "while it begins"))
async def test_a_new_watch_with_a_revision_missing_tells_since_when(
    server: Server, bucket: NatsBucket, when: str
) -> None:
    """It may have been of any key; also if it was delivered, but shown to nobody."""
    async with watched(bucket) as shown:
        for key in "ab":
            server.store(key)
        await asyncio.sleep(6)
        server.store("c")
        bucket.disconnected(BucketUnreachable("gone"))
        if when == "before it begins":
            server.store("b", deliver=False)
            server.store("b", deliver=False)
        else:

            def deliver_twice(call: str) -> None:
                if call == "STREAM.INFO" and server.consumers == 2 and server.revision == 3:
                    server.store("b")
                    server.store("b")

            server.on_call = deliver_twice
        await asyncio.sleep(1)

        assert facts(shown["b"])[-1] == (5, False)
        assert all(1 >= shown[key][-1].unseen_for > 0 for key in "ab")


async def test_what_a_watch_saw_that_ended_before_it_showed_it_is_missing(
    server: Server, bucket: NatsBucket
) -> None:
    """Nobody was told of it."""
    async with watched(bucket) as shown:
        server.store("a")
        bucket.disconnected(BucketUnreachable("gone"))
        server.store("a", deliver=False)

        def lose(call: str) -> None:
            looks.append(call == "STREAM.INFO" and server.consumers == 2)
            if sum(looks) == 2 and server.revision == 2:  # the first one was delivered by now
                server.store("a", deliver=False)
                server.beat(7)

        looks: list[bool] = []

        server.on_call = lose
        await asyncio.sleep(3)

        assert server.consumers > 2
        assert facts(shown["a"])[-1] == (3, False)
        assert shown["a"][-1].unseen_for > 0


async def test_a_read_tells_whether_the_watch_has_left_something_out(
    server: Server, bucket: NatsBucket
) -> None:
    """It has not if the revision is the next one."""
    async with watched(bucket):
        server.store("a")
        await asyncio.sleep(2)
        server.store("a", deliver=False)
        assert (await bucket.read("a", timeout=1)).unseen_for == 0
        server.store("a", deliver=False)
        assert (await bucket.read("a", timeout=1)).unseen_for == pytest.approx(2, abs=0.1)


# What was lost


@pytest.mark.parametrize(
    "lose",
    (
        lambda server: (server.deliver("a", 1, lost=True), server.store("b")),
        lambda server: (server.deliver("a", 1, lost=True), server.beat()),
        lambda server: server.beat(5),
    ),
)
async def test_a_loss_begins_the_watch_anew(
    server: Server, bucket: NatsBucket, lose: Callable[[Server], object]
) -> None:
    """A message that should have come before this one, or before a heartbeat."""
    async with watched(bucket) as shown:
        lose(server)
        server.messages["a"] = server.revision = 9
        await asyncio.sleep(0.5)

        assert server.consumers == 2
        assert facts(shown["a"]) == [(9, False)]
        assert shown["c"] == [Sighting(Nothing())]


async def test_what_comes_after_a_loss_is_not_shown(server: Server, bucket: NatsBucket) -> None:
    """It may be the second of two messages."""
    async with watched(bucket) as shown:
        server.deliver("a", 1, lost=True)
        server.deliver("a", 2)
        server.deliver("a", 3)

        assert shown["a"] == []


async def test_heartbeats_keep_a_watch(server: Server, bucket: NatsBucket) -> None:
    """However long nothing happens."""
    async with watched(bucket) as shown:
        await asyncio.sleep(100)
        assert server.consumers == 1
        assert not any(shown.values())


async def test_silence_begins_the_watch_anew(server: Server, bucket: NatsBucket) -> None:
    """After three heartbeats that did not come, not after one."""
    async with watched(bucket):
        await asyncio.sleep(1)
        server.beating = False
        await asyncio.sleep(2)
        assert server.consumers == 1
        await asyncio.sleep(2.5)
        assert server.consumers == 2


# What is complete


async def test_no_key_is_shown_as_empty_while_it_is_renewed(
    server: Server, bucket: NatsBucket
) -> None:
    """A record that is replaced before its delivery is missing until the new one comes."""
    for key in "abc":
        server.store(key, deliver=False)

    def renew(call: str) -> None:
        if call == "STREAM.INFO" and server.consumers and server.revision == 3:
            server.store("c", deliver=False)
            asyncio.get_running_loop().call_later(0.3, server.deliver, "c", 4)

    server.on_call = renew
    seen: list[Sighting] = []
    end = bucket.watch("c", seen.append)
    await asyncio.sleep(1)

    assert facts(seen) == [(4, False)]
    end()


async def test_a_key_that_is_renewed_while_others_are_delivered_is_waited_for(
    server: Server, bucket: NatsBucket
) -> None:
    """All that there was at the first look was delivered or replaced; the second finds the rest."""
    for key in "cab":
        server.store(key, deliver=False)

    def renew(call: str) -> None:
        if call == "STREAM.INFO" and server.consumers == 1 and server.revision == 3:
            asyncio.get_running_loop().call_soon(partial(server.store, "c", deliver=False))
            asyncio.get_running_loop().call_later(0.05, server.deliver, "c", 4)

    server.on_call = renew
    seen: list[Sighting] = []
    end = bucket.watch("c", seen.append)
    await asyncio.sleep(1)

    assert facts(seen) == [(4, False)]
    end()


async def test_a_stream_whose_latest_message_is_gone_is_complete(
    server: Server, bucket: NatsBucket
) -> None:
    """Without markers the last revision may belong to a record that has expired."""
    server.store("a", deliver=False)
    server.store("b", deliver=False)
    del server.messages["b"]
    seen: dict[str, list[Sighting]] = {"a": [], "b": []}
    ends = [bucket.watch(key, seen[key].append) for key in seen]
    await asyncio.sleep(0.5)

    assert facts(seen["a"]) == [(1, False)]
    assert seen["b"] == [Sighting(Nothing())]
    for end in ends:
        end()


async def test_messages_that_stop_to_come_end_the_watch(server: Server, bucket: NatsBucket) -> None:
    """A server that dies while it delivers is not waited for."""
    server.store("a", deliver=False)
    server.beating = server.delivering = False
    seen: list[Sighting] = []
    end = bucket.watch("a", seen.append)
    await asyncio.sleep(2.5)
    assert server.consumers == 1
    server.beating = server.delivering = True
    await asyncio.sleep(2.5)
    assert server.consumers == 2
    assert facts(seen) == [(1, False)]
    end()


# Another bucket


async def test_a_bucket_made_anew_while_a_watch_begins_is_told_first(
    server: Server, bucket: NatsBucket
) -> None:
    """The consumer may belong to the old one, so it is not used."""
    server.store("a", deliver=False)
    happened: list[object] = []

    def replace(call: str) -> None:
        if call == "CONSUMER.CREATE" and server.consumers == 0:
            server.created = "2026-02-02T00:00:00Z"

    server.on_call = replace
    ends = [
        bucket.listen(lambda: happened.append(bucket.settings and bucket.settings.created)),
        bucket.watch("a", lambda sighting: happened.append(sighting.entry.revision)),
    ]
    await asyncio.sleep(0.5)

    assert happened == ["2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z", 1]
    assert server.consumers == 2
    for end in ends:
        end()


async def test_who_begins_to_watch_when_told_is_not_shown_the_old_bucket(
    server: Server, bucket: NatsBucket
) -> None:
    """Nothing that is known belongs to the new one."""
    async with watched(bucket):
        server.store("a")
        later: list[Sighting] = []
        ends: list[Callable[[], None]] = []

        def changed() -> None:
            if bucket.settings and bucket.settings.created.startswith("2026-02") and not ends:
                ends.append(bucket.watch("a", later.append))

        ends_listening = bucket.listen(changed)
        server.created = "2026-02-02T00:00:00Z"
        server.messages.clear()
        server.revision = 0
        await asyncio.sleep(nats_bucket.INFO_EVERY + 2)

        assert later == [Sighting(Nothing())]
        for end in (ends_listening, *ends):
            end()


# Problems


async def test_a_problem_is_told_once_and_its_end(server: Server, bucket: NatsBucket) -> None:
    """However often it is met; the attempts go on with growing pauses."""
    told: list[str] = []
    server.failure = BucketInvalid("no")
    end = bucket.listen(lambda: told.append(str(bucket.problem)))
    await asyncio.sleep(10)
    assert told == ["no"]
    assert 10 < len(server.calls) < 30

    server.failure = None
    await asyncio.sleep(2)
    assert told == ["no", "no", "None"]  # the second is for the settings
    end()


async def test_an_error_that_nobody_expected_does_not_end_the_watch(
    server: Server, bucket: NatsBucket
) -> None:
    """It is logged, and the watch tried again."""
    server.failure = KeyError("config")
    seen: list[Sighting] = []
    end = bucket.watch("a", seen.append)
    with capture_logs() as logs:
        await asyncio.sleep(1)
    server.failure = None
    await asyncio.sleep(2)
    assert seen == [Sighting(Nothing())]
    assert {entry["event"] for entry in logs} == {"bucket.watch_failed"}
    end()


async def test_a_look_without_an_answer_does_not_end_a_watch(
    server: Server, bucket: NatsBucket
) -> None:
    """Heartbeats tell better whether it is alive."""
    async with watched(bucket):
        server.failure = BucketUnreachable("no answer")
        await asyncio.sleep(3 * nats_bucket.INFO_EVERY)
        assert server.consumers == 1
        assert bucket.problem is None


async def test_a_lost_connection_is_a_problem_of_the_bucket(
    server: Server, bucket: NatsBucket
) -> None:
    """Until there is one again, and the watch has shown what there is."""
    async with watched(bucket) as shown:
        server.up.clear()
        bucket.disconnected(BucketUnreachable("gone"))
        assert isinstance(bucket.problem, BucketUnreachable)
        late: list[Sighting] = []
        end = bucket.watch("a", late.append)
        await asyncio.sleep(5)
        assert late == []
        assert str(bucket.problem) == "gone"

        server.up.set()
        await asyncio.sleep(1)
        assert bucket.problem is None
        assert late == shown["a"] == [Sighting(Nothing())]
        end()


async def test_a_bucket_that_nobody_watches_has_no_problem(
    server: Server, bucket: NatsBucket
) -> None:
    """It does nothing, and cannot know."""
    bucket.disconnected(BucketUnreachable("gone"))
    assert bucket.problem is None
    end = bucket.watch("a", lambda _: None)
    end()
    await asyncio.sleep(1)
    assert server.calls == []


# Permissions

DENIED = BucketDenied("NATS refuses us the subject")


@contextmanager
def refusing(server: Server, refused: Mapping[str, Exception]) -> Iterator[None]:
    """Answer some calls with an error."""

    def refuse(call: str) -> None:
        if call in refused:
            raise refused[call]

    server.on_call = refuse
    yield
    server.on_call = lambda _: None


async def test_a_write_that_is_not_permitted_is_told_of_its_key(
    server: Server, bucket: NatsBucket
) -> None:
    """Once, until a later write of the key is answered, whatever the answer; others go on."""
    told: list[list[str]] = []
    async with watched(bucket):
        end = bucket.listen(lambda: told.append(list(bucket.denied)))
        with refusing(server, {"$KV.B.a": DENIED}):
            for key in "aab":
                answer = await bucket.write(key, "x", expected=0, headers={}, timeout=1)
                assert answer.outcome is Outcome.UNKNOWN
        assert bucket.denied == {"a": DENIED}
        assert bucket.problem is None
        await bucket.remove("a", expected=0, headers={}, timeout=1)
        assert told == [["a"], []]
        end()


async def test_a_write_of_a_key_that_nobody_watches_is_told_of_until_the_next(
    server: Server, bucket: NatsBucket
) -> None:
    """`kubectl incumbent doctor` tries writes without a watch. Nothing else would forget them."""
    refused = {f"$KV.B.key-{number}": DENIED for number in range(100)}
    with refusing(server, refused):
        for number in range(100):
            await bucket.write(f"key-{number}", "x", expected=0, headers={}, timeout=1)
            assert bucket.denied == {f"key-{number}": DENIED}
    await bucket.write("key-99", "x", expected=0, headers={}, timeout=1)
    assert not bucket.denied


async def test_a_bucket_without_room_is_told_of_its_key(
    server: Server, bucket: NatsBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that is too long, or a bucket that is full, would otherwise look like silence."""
    error = {"code": 400, "err_code": 10054, "description": "message size exceeds maximum allowed"}
    async with watched(bucket):
        with monkeypatch.context() as patched:
            patched.setattr(server, "request", AsyncMock(return_value={"error": error}))
            answer = await bucket.write("a", "x", expected=0, headers={}, timeout=1)
        assert answer.outcome is Outcome.UNKNOWN
        assert isinstance(bucket.denied["a"], BucketInvalid)
        assert "bucket B does not take a record: message size exceeds" in str(bucket.denied["a"])
        await bucket.remove("a", expected=0, headers={}, timeout=1)
        assert not bucket.denied


@pytest.mark.parametrize("how", ("the connection is lost", "nobody watches the key"))
async def test_a_denied_write_is_forgotten(server: Server, bucket: NatsBucket, how: str) -> None:
    """On the next connection there may be other rights, and another election on the key."""
    end = bucket.watch("a", lambda _: None)
    with refusing(server, {"$KV.B.a": DENIED}):
        await bucket.write("a", "x", expected=0, headers={}, timeout=1)
    assert bucket.denied == {"a": DENIED}
    if how == "the connection is lost":
        bucket.disconnected(BucketUnreachable("gone"))
        assert bucket.denied == {}
    end()
    assert bucket.denied == {}


async def test_a_bucket_whose_keys_may_not_be_read_is_not_usable(
    server: Server, bucket: NatsBucket
) -> None:
    """That is found out at the beginning, or with the first read, and heals by itself."""
    with refusing(server, {"STREAM.MSG.GET": DENIED}):
        end = bucket.watch("a", lambda _: None)
        await asyncio.sleep(1)
        assert bucket.problem is DENIED
    await asyncio.sleep(2)
    assert bucket.problem is None

    with refusing(server, {"STREAM.MSG.GET": DENIED}):
        with pytest.raises(BucketDenied):
            await bucket.read("a", timeout=1)
        await asyncio.sleep(1)
        assert bucket.problem is DENIED
    await asyncio.sleep(2)
    assert bucket.problem is None
    end()


async def test_who_follows_all_keys_needs_no_right_to_read_one(
    server: Server, bucket: NatsBucket
) -> None:
    """The list of who holds what comes from the watch alone."""
    seen: list[str] = []
    with refusing(server, {"STREAM.MSG.GET": DENIED}):
        end = bucket.follow(lambda key, _: seen.append(key))
        await asyncio.sleep(1)
    assert seen == [""]
    assert bucket.problem is None
    end()


async def test_a_missing_bucket_that_cannot_be_created_tells_why(
    server: Server, bucket: NatsBucket
) -> None:
    """Who has asked for its creation is not told to ask for it."""
    missing = BucketNotFound("create it")
    refused = {"STREAM.INFO": missing}
    with refusing(server, refused):
        end = bucket.listen(lambda: None)
        await asyncio.sleep(1)
        assert str(bucket.problem) == "create it"

        refused["STREAM.CREATE"] = DENIED
        with pytest.raises(BucketDenied):
            await bucket.create(ttl=30, replicas=1)
        await asyncio.sleep(2)
        assert isinstance(bucket.problem, BucketNotFound)
        assert str(bucket.problem) == f"there is no bucket B, and it cannot be created: {DENIED}"

        del refused["STREAM.CREATE"]
        await bucket.create(ttl=30, replicas=1)
        await asyncio.sleep(2)
        assert str(bucket.problem) == "create it"
    end()


async def test_a_missing_bucket_tells_what_the_operator_would_do(
    server: Server, bucket: NatsBucket
) -> None:
    """Advice that everybody gets would be wrong for one of them. A held watch says nothing yet."""
    with refusing(server, {"STREAM.INFO": BucketNotFound("create it")}):
        begin = bucket.hold()
        bucket.if_missing = "delete the election"
        end = bucket.listen(lambda: None)
        await asyncio.sleep(2)
        assert bucket.problem is None
        begin()
        await asyncio.sleep(1)
        assert str(bucket.problem) == "there is no bucket B: delete the election"
        end()


@pytest.mark.parametrize(
    ("bucket", "create", "words"),
    (
        ("OTHER", True, "default bucket, MAIN, is meant, delete the election and create it again"),
        ("OTHER", False, "otherwise create this one"),
        ("MAIN", True, "restart the operator, which creates it"),
        ("MAIN", False, "start the operator with --create-bucket"),
    ),
)
def test_what_to_do_about_a_missing_bucket(bucket: str, create: bool, words: str) -> None:  # noqa: FBT001
    """`--create-bucket` helps only with the default bucket, and only if it is not set."""
    said = if_missing(bucket, Settings(bucket="MAIN", create_bucket=create))
    assert words in said
    assert ("start the operator with" in said) == (bucket == "MAIN" and not create)


# Ages


async def test_an_age_is_never_said_too_great(server: Server, bucket: NatsBucket) -> None:
    """A slow answer makes a record seem younger: who waits for its end waits long enough."""
    server.store("a", deliver=False)  # at 0 by the server's clock, which the answer says it is
    feed: list[Sighting] = []
    end = bucket.watch("a", feed.append)
    await asyncio.sleep(0.5)
    assert 0 <= feed[0].age < 0.1
    late: list[Sighting] = []
    await asyncio.sleep(5)
    end_late = bucket.watch("a", late.append)
    assert 5 <= late[0].age < 5.6
    end()
    end_late()


# All keys


async def test_who_follows_is_shown_every_key_and_then_each_change(
    server: Server, bucket: NatsBucket
) -> None:
    """An empty key tells that all were shown; that comes again after a loss of the watch."""
    for key in "ba":
        server.store(key, deliver=False)
    shown: list[tuple[str, int]] = []

    def seen(key: str, sighting: Sighting) -> None:
        shown.append((key, sighting.entry.revision))

    ends = [bucket.follow(seen)]
    await asyncio.sleep(0.5)
    server.store("c")
    assert shown == [("b", 1), ("a", 2), ("", 0), ("c", 3)]

    shown.clear()
    ends.append(bucket.follow(seen))
    assert shown == [("b", 1), ("a", 2), ("c", 3), ("", 0)]
    ends.pop()()

    shown.clear()
    server.beat(9)
    await asyncio.sleep(0.5)
    assert shown == [("b", 1), ("a", 2), ("c", 3), ("", 0)]
    ends.pop()()
    shown.clear()
    server.store("a")
    assert shown == []


# What others keep in the bucket


def kept(bucket: NatsBucket) -> int:
    """Return of how many keys anything is remembered."""
    feeds = {id(feed): feed for feed in (bucket._feed, bucket._shown) if feed is not None}
    rooms = [
        *(room for feed in feeds.values() for room in (feed.entries, feed.spare)),
        *(room for feed in feeds.values() for room in (feed._certain, feed._unshown)),
        *(feed.continuity._gaps for feed in feeds.values()),
        *(bucket._watchers, bucket._answered_at, bucket.denied, bucket._reading),
    ]
    return sum(map(len, rooms))


@pytest.fixture
def few_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember only ten keys that nobody watches."""
    monkeypatch.setattr(nats_bucket, "MOST_SPARE", 10)


def crowd_out(server: Server) -> None:
    """Store so many other keys that the bucket forgets most of them, with `few_spare`."""
    for number in range(50):
        server.store(f"foreign-{number}")


@pytest.mark.usefixtures("few_spare")
async def test_of_the_keys_of_others_few_are_remembered(server: Server, bucket: NatsBucket) -> None:
    """However many there are, at the start and later."""
    for number in range(100):
        server.store(f"foreign-{number}", deliver=False)
    async with watched(bucket) as shown:
        assert kept(bucket) < 40
        for number in range(1000):
            server.store(f"later-{number}")
        assert kept(bucket) < 40
        server.store("a")
        assert facts(shown["a"]) == [(1101, True)]


@pytest.mark.usefixtures("few_spare")
async def test_a_key_that_was_forgotten_is_read_for_who_begins_to_watch_it(
    server: Server, bucket: NatsBucket
) -> None:
    """Nothing is known of what was on it before, as for every watch that begins."""
    async with watched(bucket):
        crowd_out(server)
        shown: list[Sighting] = []
        end = bucket.watch("foreign-7", shown.append)
        assert not shown
        await asyncio.sleep(0.1)
        assert facts(shown) == [(8, False)]
        assert shown[0].unseen_for == math.inf
        server.store("foreign-7")
        assert facts(shown) == [(8, False), (51, True)]
        again: list[Sighting] = []
        end_again = bucket.watch("foreign-7", again.append)
        assert facts(again) == [(51, False)]
        end()
        end_again()


@pytest.mark.usefixtures("few_spare")
async def test_that_a_key_holds_nothing_is_read_where_some_were_forgotten(
    server: Server, bucket: NatsBucket
) -> None:
    """It may be one of them. A key that was watched all the time is none of them."""
    async with watched(bucket):
        crowd_out(server)
        before = server.calls.count("STREAM.MSG.GET")
        shown: list[Sighting] = []
        end = bucket.watch("new", shown.append)
        assert not shown
        await asyncio.sleep(0.1)
        assert shown == [Sighting(Nothing())]
        again: list[Sighting] = []
        end_again = bucket.watch("a", again.append)
        assert again == [Sighting(Nothing())]
        assert server.calls.count("STREAM.MSG.GET") == before + 1
        end()
        end_again()


@pytest.mark.usefixtures("few_spare")
async def test_a_key_that_was_watched_from_the_beginning_can_be_forgotten_once_it_is_not(
    server: Server, bucket: NatsBucket
) -> None:
    """It would look as if it held nothing, and as if nobody had ever led."""
    end = bucket.watch("a", lambda _: None)
    end_other = bucket.watch("b", lambda _: None)
    await asyncio.sleep(0.5)
    server.store("a")
    end()
    crowd_out(server)
    shown: list[Sighting] = []
    end = bucket.watch("a", shown.append)
    await asyncio.sleep(0.1)
    assert facts(shown) == [(1, False)]
    end()
    end_other()


@pytest.mark.usefixtures("few_spare")
async def test_what_comes_while_a_key_is_read_first_is_not_live(
    server: Server, bucket: NatsBucket
) -> None:
    """Nobody was shown what was there before. What is read then is old, and not shown any more."""
    async with watched(bucket):
        crowd_out(server)
        shown: list[Sighting] = []
        end = bucket.watch("foreign-7", shown.append)
        server.store("foreign-7")
        await asyncio.sleep(0.1)
        assert facts(shown) == [(51, False)]
        assert shown[0].unseen_for == math.inf
        server.store("foreign-7")
        assert facts(shown)[1:] == [(52, True)]
        end()


@pytest.mark.usefixtures("few_spare")
async def test_a_first_read_that_fails_is_tried_again_also_after_the_watch_was_lost(
    server: Server, bucket: NatsBucket
) -> None:
    """Otherwise the election would never begin."""
    async with watched(bucket):
        crowd_out(server)
        shown: list[Sighting] = []
        with refusing(server, {"STREAM.MSG.GET": BucketUnreachable("no answer")}):
            end = bucket.watch("foreign-7", shown.append)
            await asyncio.sleep(1)
            assert not shown
        await asyncio.sleep(2)
        assert facts(shown) == [(8, False)]
        end()
        shown.clear()
        for number in range(50):
            server.store(f"more-{number}")
        end = bucket.watch("gone", shown.append)
        bucket.disconnected(BucketUnreachable("gone"))
        await asyncio.sleep(5)
        assert shown
        assert shown[-1].entry == Nothing()
        end()


async def test_the_few_keys_of_others_are_known_without_a_request(
    server: Server, bucket: NatsBucket
) -> None:
    """After a start thousands of elections begin while the bucket is watched already."""
    for number in range(100):
        server.store(f"foreign-{number}", deliver=False)
    async with watched(bucket):
        before = list(server.calls)
        for number in range(100):
            shown: list[Sighting] = []
            end = bucket.watch(f"foreign-{number}", shown.append)
            assert facts(shown) == [(number + 1, False)]
            end()
        assert server.calls == before


async def test_a_long_value_of_somebody_else_is_not_kept(
    server: Server, bucket: NatsBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket may hold other things than elections."""
    monkeypatch.setattr(nats_bucket, "LONGEST_SPARE", 3)
    async with watched(bucket):
        before = kept(bucket)
        for number in range(100):
            server.store(f"foreign-{number}")
        assert kept(bucket) == before


async def test_ten_thousand_keys_that_were_watched_and_released_leave_nothing(
    server: Server, bucket: NatsBucket
) -> None:
    """Elections come and go, with writes that were answered, denied, or not answered."""
    async with watched(bucket):
        before = kept(bucket)
        for number in range(10_000):
            key = f"key-{number}"
            end = bucket.watch(key, lambda _: None)
            server.store(key)
            with refusing(server, {f"$KV.B.{key}": DENIED} if number % 100 == 0 else {}):
                if number % 50 == 0:
                    await bucket.write(key, "x", expected=0, headers={}, timeout=1)
            end()
            server.store(key)  # the marker
            if number % 50 == 0:
                await bucket.write(key, "x", expected=0, headers={}, timeout=1)  # too late
        assert kept(bucket) <= before + nats_bucket.MOST_SPARE
        await asyncio.sleep(nats_bucket.SPARE_FOR + 2 * nats_bucket.INFO_EVERY)
        assert kept(bucket) <= before + 1


async def test_a_bucket_that_no_election_can_use_is_not_watched(
    server: Server, bucket: NatsBucket
) -> None:
    """It may hold anything. Its settings are looked at, for they may be mended."""
    server.ttl = 0
    told: list[float] = []
    end = bucket.listen(lambda: told.append(bucket.settings.ttl if bucket.settings else -1))
    await asyncio.sleep(5)
    assert server.consumers == 0
    assert bucket.problem is None
    server.ttl = 30
    await asyncio.sleep(nats_bucket.INFO_EVERY + 1)
    assert told == [0, 30]
    shown: list[Sighting] = []
    end_watch = bucket.watch("a", shown.append)
    await asyncio.sleep(0.5)
    assert server.consumers == 1
    assert shown
    end_watch()
    end()


@pytest.mark.usefixtures("few_spare")
async def test_who_follows_late_is_shown_also_what_was_forgotten(
    server: Server, bucket: NatsBucket
) -> None:
    """The watch begins anew for that."""
    async with watched(bucket):
        crowd_out(server)
        followed: set[str] = set()
        end = bucket.follow(lambda key, _: followed.add(key))
        await asyncio.sleep(2)
        assert len(followed) == 51
        end()
        assert kept(bucket) < 40


# What answers, and does nothing


async def test_a_watch_that_delivers_nothing_is_a_problem(
    server: Server, bucket: NatsBucket
) -> None:
    """So it is with a bucket of another account. It heals by itself."""
    server.store("a")
    server.delivering = False
    end = bucket.watch("a", lambda _: None)
    await asyncio.sleep(15)
    assert isinstance(bucket.problem, BucketSilent)
    assert "account" in str(bucket.problem)
    server.delivering = True
    await asyncio.sleep(5)
    assert bucket.problem is None
    assert bucket.delivers
    end()


async def test_the_watch_of_an_empty_bucket_has_to_prove_itself_only_after_a_silent_one(
    server: Server, bucket: NatsBucket
) -> None:
    """The first begins at once. Those after a silent one show nothing before they were heard."""
    server.delivering = False
    shown: list[Sighting] = []
    end = bucket.watch("a", shown.append)
    await asyncio.sleep(0.5)
    assert len(shown) == 1
    await asyncio.sleep(30)
    assert isinstance(bucket.problem, BucketSilent)
    assert len(shown) == 1
    end()


async def test_a_lost_connection_is_no_silence(server: Server, bucket: NatsBucket) -> None:
    """However often it is lost before anything was delivered."""
    server.store("a")
    server.delivering = False
    end = bucket.watch("a", lambda _: None)
    for _ in range(5):
        await asyncio.sleep(2)
        bucket.disconnected(BucketUnreachable("gone"))
    await asyncio.sleep(2)
    assert isinstance(bucket.problem, BucketUnreachable)
    end()


@pytest.mark.parametrize("how", ("no answer", "an error"))
async def test_writes_that_are_not_stored_for_a_ttl_are_a_problem_of_their_key(
    server: Server, bucket: NatsBucket, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It is told once, in one wording, and is over with the next write that is stored."""
    told: list[str] = []
    error = {"error": {"code": 500, "err_code": 10999, "description": "it cannot"}}
    request = AsyncMock(
        side_effect=BucketUnreachable("no answer within 2 s") if how == "no answer" else None,
        return_value=error,
    )
    async with watched(bucket):
        end = bucket.listen(lambda: told.extend(map(str, bucket.denied.values())))
        with monkeypatch.context() as patched:
            patched.setattr(server, "request", request)
            for _ in range(14):
                await bucket.write("a", "x", expected=0, headers={}, timeout=1)
                await asyncio.sleep(server.ttl / 15)
            assert not bucket.denied
            for _ in range(5):
                await bucket.write("a", "x", expected=0, headers={}, timeout=1)
                await asyncio.sleep(server.ttl / 15)
        assert isinstance(bucket.denied["a"], BucketSilent)
        assert len(told) == 1
        assert ("no answer within 2 s" if how == "no answer" else "it cannot") in told[0]
        answer = {"seq": 1}
        monkeypatch.setattr(server, "request", AsyncMock(return_value=answer))
        await bucket.write("a", "x", expected=0, headers={}, timeout=1)
        assert not bucket.denied
        end()


async def test_a_refusal_for_another_revision_is_an_answer(
    server: Server, bucket: NatsBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does its work."""
    error = {"error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 7"}}
    async with watched(bucket):
        monkeypatch.setattr(server, "request", AsyncMock(return_value=error))
        for _ in range(5):
            await bucket.write("a", "x", expected=0, headers={}, timeout=1)
            await asyncio.sleep(server.ttl)
        assert not bucket.denied
