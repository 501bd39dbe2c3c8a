"""What an election for any program decides, on a bucket in memory and a clock that is turned."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import incumbent
from fakes import FakeBucket
from incumbent import (
    ConfigurationError,
    Election,
    HolderChanged,
    Lost,
    NatsAccess,
    Profile,
    State,
    StoppedError,
    Won,
    clock,
)
from incumbent.campaign.events import Loss
from incumbent.errors import BucketInvalid, BucketUnreachable
from incumbent.nats.connection import NatsConnection

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]

KEY = "jobs"
TTL = 6.0
LEASE = 5.4
"""Seconds for which a stored write counts: TTL less 10 %."""
INTERVAL = 2.0
FOREVER = 1e9
SOURCES = Path(incumbent.__file__).parents[1]


class FakeNats(NatsConnection):
    """A connection that has one bucket, whatever name is asked for."""

    def __init__(self, bucket):
        self.fake = bucket

    def bucket(self, name):  # noqa: D102
        return self.fake


@pytest.fixture(autouse=True)
def logs():
    """What is logged."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def bucket():
    return FakeBucket(ttl=TTL)


@pytest.fixture
def calls():
    """What the callbacks were called with, in order."""
    return []


@pytest.fixture
def member(bucket, calls):
    """Return a function that makes an election whose callbacks say so."""

    def make(identity="a", **options):
        options.setdefault("on_won", lambda: calls.append(f"{identity} won"))
        options.setdefault("on_lost", lambda: calls.append(f"{identity} lost"))
        return Election(FakeNats(bucket), "ELECTIONS", KEY, identity, **options)

    return make


async def settle():
    """Let everything happen that needs no time."""
    await asyncio.sleep(0.05)


def errors(logs):
    return [entry["event"] for entry in logs if entry["log_level"] in {"error", "critical"}]


# Beginning


async def test_it_leads_with_a_token_and_a_deadline_once_it_won(member, calls):
    """`won` returns the token; the deadline is counted from the write."""
    async with member() as election:
        assert await election.won() == election.token == 1
        assert election.is_leader
        assert election.state is State.LEADER
        assert election.leader == "a"
        assert election.remaining == pytest.approx(LEASE, abs=0.01)
        assert election.deadline == pytest.approx(clock.now() + LEASE, abs=0.01)
        assert election.interval == INTERVAL
        await settle()
        assert calls == ["a won"]
    assert not election.is_leader
    assert election.token is election.deadline is None
    assert election.remaining == 0
    assert election.interval is None
    assert election.campaigns == {State.CANDIDATE: 1}  # a release is none


async def test_it_stays_in_office_for_many_terms_of_the_record(member, bucket, calls):
    """Renewals keep the token."""
    async with member() as election:
        token = await election.won()
        await asyncio.sleep(10 * TTL)
        assert election.token == token
        assert calls == ["a won"]
        assert election.campaigns[State.LEADER] == pytest.approx(10 * TTL / INTERVAL, abs=1)


async def test_before_the_bucket_is_seen_nothing_is_known(member):
    """A new election is in state unknown, and says so."""
    election = member()
    assert election.state is State.UNKNOWN
    assert not election.is_leader
    assert election.leader is election.campaign is election.interval is None
    assert not election.campaigns


async def test_starting_twice_is_an_error(member):
    """The error says what to do, also after a stop."""
    async with member() as election:
        with pytest.raises(RuntimeError, match="was started before; make a new one"):
            await election.start()
        await election.won()
    with pytest.raises(RuntimeError, match="was started before; make a new one"):
        await election.start()


async def test_it_waits_for_a_bucket_that_is_away_and_says_why(member, bucket):
    """`start` returns only when the bucket was seen; meanwhile `problem` is set."""
    election = member()
    with bucket.unreachable("NATS is on holiday"):
        starting = asyncio.create_task(election.start())
        await asyncio.sleep(100)
        assert not starting.done()
        assert isinstance(election.problem, BucketUnreachable)
        assert str(election.problem) == "NATS is on holiday"
    await starting
    assert election.problem is None
    await election.won()
    await election.stop()


async def test_stop_while_it_waits_for_the_bucket_returns_at_once(member, bucket):
    """Who waits in `start` is told."""
    election = member()
    with bucket.unreachable():
        starting = asyncio.create_task(election.start())
        await settle()
        before = clock.now()
        await election.stop()
        with pytest.raises(StoppedError, match="was stopped"):
            await starting
        assert clock.now() == before


async def test_a_start_that_is_cancelled_leaves_nothing_behind(member, bucket):
    """No watch stays, and no task."""
    election = member()
    with bucket.unreachable(), pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await election.start()
    assert not bucket._listeners
    await settle()
    assert not bucket.operations


async def test_start_after_stop_does_not_connect(member, bucket):
    """An election that was stopped before its start never begins."""
    election = member()
    await election.stop()
    with pytest.raises(StoppedError):
        await election.start()
    await settle()
    assert bucket.operations == []


@pytest.mark.parametrize(
    ("ttl", "options", "sentence"),
    (
        (0.0, {}, "bucket TTL must be at least 1 second, this bucket has none"),
        (0.5, {}, "bucket TTL must be at least 1 second, it is 0.5 s"),
        (3601.0, {}, "bucket TTL must be at most 1 hour, it is 3601 s"),
        (
            6.0,
            {"interval": 0.5},
            "campaign interval must be at least 1 second, it is 0.5 s with a bucket TTL of 6 s",
        ),
        (
            6.0,
            {"interval": 5.5},
            (
                "campaign interval of 5.5 s is too close to the bucket TTL of 6 s: it must end 1 s"
                " before the TTL and 0.5 s before the leader's deadline at 5.4 s, so it may be"
                " 4.9 s at most"
            ),
        ),
        (6.0, {"splay": -1.0}, "campaign splay must be 0 seconds or more, it is -1 s"),
        (
            6.0,
            {"interval": 5.0},
            (
                "campaign interval of 5 s is too close to the bucket TTL of 6 s: it must end 1 s"
                " before the TTL and 0.5 s before the leader's deadline at 5.4 s, so it may be"
                " 4.9 s at most"
            ),
        ),
    ),
)
async def test_durations_that_break_a_limit_are_refused(member, bucket, ttl, options, sentence):
    """Each limit has its sentence, and nothing stays behind."""
    bucket.configure(ttl=ttl)
    with pytest.raises(ConfigurationError) as refusal:
        await member(**options).start()
    assert str(refusal.value) == sentence
    assert not bucket._listeners
    assert bucket.operations == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    (
        (("nats://[", "B", "k", "a"), "is not the URL of a NATS server"),
        (("", "B", "k", "a"), "is not the URL of a NATS server"),
        (("nats://n", "B.C", "k", "a"), "'B.C' is not a valid name"),
        (("nats://n", "B", "k*", "a"), r"'k\*' is not a valid key"),
        (("nats://n", "B", "", "a"), "'' is not a valid key"),
        (("nats://n", "B", "k..k", "a"), "'k..k' is not a valid key"),
        (("nats://n", "B", "k" * 513, "a"), "must consist of at most 512 letters"),
        (("nats://n", "B", "k", ""), "'' is not a valid identity"),
        (("nats://n", "B", "k", "a\nb"), r"'a\\nb' is not a valid identity"),
        (("nats://n", "B", "k", "a "), "'a ' is not a valid identity"),
    ),
)
def test_names_that_nats_cannot_carry_are_refused(arguments, sentence):
    """They are refused before anything is connected."""
    with pytest.raises(ConfigurationError, match=sentence):
        Election(*arguments)


def test_the_url_may_be_one_or_several_or_an_access():
    """A URL without a scheme gets one; without an identity it is the host's name."""
    assert Election("n:4222", "B", "k")._nats.urls == ["nats://n:4222"]
    assert Election(["nats://m", "tls://n"], "B", "k")._nats.urls == ["nats://m", "tls://n"]
    access = NatsAccess(["nats://n"])
    election = Election(access, "B", "k")
    assert election._nats is access
    assert election.identity


# End


async def test_stop_tells_of_the_loss_before_it_releases_the_key(member, bucket):
    """While `on_lost` runs nobody else can lead."""
    held = []

    async def lost():
        await asyncio.sleep(1)
        held.append(bucket._latest(KEY).entry.holder)

    election = member(on_lost=lost)
    async with election:
        await election.won()
        stopping = asyncio.create_task(election.stop())
        await settle()
        assert not election.is_leader
        assert bucket.operations[-1] == "create"
        await stopping
    assert held == ["a"]
    assert bucket.operations == ["create", "release"]


async def test_stop_is_idempotent_and_every_caller_waits_for_its_end(member, bucket):
    """Two at once, and one more: one release."""

    async def lost():
        await asyncio.sleep(1)

    election = member(on_lost=lost)
    await election.start()
    await election.won()
    before = clock.now()
    await asyncio.gather(election.stop(), election.stop())
    assert clock.now() == pytest.approx(before + 1, abs=0.01)
    await election.stop()
    assert bucket.operations == ["create", "release"]
    assert not bucket._listeners
    assert not bucket._watchers[KEY]


async def test_who_stops_waiting_for_the_stop_does_not_stop_the_stop(member, bucket):
    """The key is released although the caller was cancelled."""

    async def lost():
        await asyncio.sleep(1)

    election = member(on_lost=lost)
    await election.start()
    await election.won()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await election.stop()
    await asyncio.sleep(1)
    assert bucket.operations == ["create", "release"]


async def test_a_follower_stops_without_a_write(member, bucket, calls):
    """Somebody else's key is left alone."""
    bucket.put(KEY, "stranger")
    async with member() as election:
        await settle()
        assert election.state is State.CANDIDATE
        assert election.leader == "stranger"
    assert bucket.operations == []
    assert calls == []


async def test_who_waits_for_the_office_is_told_of_the_stop(member, bucket):
    """`won` raises, `lost` returns, and the events end."""
    async with member() as election:
        events = aiter(election)
        bucket.put(KEY, "stranger")
        waiting = asyncio.create_task(election.won())
        await settle()
        await election.stop()
        with pytest.raises(StoppedError):
            await waiting
        with pytest.raises(StoppedError):
            await election.won()
        await election.lost()
        assert [event async for event in events] == [HolderChanged("stranger")]
        assert [event async for event in election] == []


async def test_stop_in_the_middle_of_a_renewal_releases_what_that_stored(member, bucket):
    """The release expects the revision of the renewal, not the one before."""
    async with member() as election:
        await election.won()
        with bucket.delaying(0.5):
            await asyncio.sleep(INTERVAL + 0.2)
            assert bucket.operations == ["create", "renew"]
    assert bucket.operations == ["create", "renew", "release"]
    assert bucket._latest(KEY).entry.revision == 3


async def test_a_renewal_whose_answer_was_lost_does_not_keep_the_key_after_stop(
    member, bucket, monkeypatch
):
    """A release that is refused for our own renewal is tried again with what is there."""
    async with member() as election:
        await election.won()
        await settle()
        # As if a renewal of ours had been stored that we know nothing of, and the watch lagged.
        monkeypatch.setattr(bucket, "_show", lambda *_: None)
        record = election.campaign.lease.record
        headers = {"Incumbent-Replica": record.replica, "Incumbent-Term": str(record.term)}
        bucket.put(KEY, "a", headers | {"Incumbent-Promoted": "true"})
    writes = [operation for operation in bucket.operations if operation != "read"]
    assert writes == ["create", "release", "release"]
    assert bucket._latest(KEY).entry.cause.value == "released"


async def test_a_release_that_is_refused_is_not_called_a_release(member, bucket, monkeypatch, logs):
    """The member gave up by itself, and somebody else holds the key."""
    async with member() as election:
        await election.won()
        await settle()
        monkeypatch.setattr(bucket, "_show", lambda *_: None)  # the watch lags
        bucket.put(KEY, "b")
    assert bucket._latest(KEY).entry.holder == "b"
    assert [line["refused"] for line in logs if line["event"] == "record.not_released"] == [True]


async def test_without_nats_stop_is_bounded(member, bucket, calls):
    """The record lapses by itself."""
    async with member() as election:
        await election.won()
        with bucket.dropping_requests():
            await asyncio.sleep(INTERVAL + 0.1)
            before = clock.now()
            await election.stop()
            assert clock.now() - before < 5
    assert calls == ["a won", "a lost"]


async def test_the_next_member_leads_at_once_after_a_stop(member, calls):
    """A planned change takes no TTL."""
    async with member("a") as first, member("b") as second:
        token = await first.won()
        before = clock.now()
        await first.stop()
        assert await second.won() > token
        assert clock.now() - before < 0.1
        await settle()
        assert calls == ["a won", "a lost", "b won"]


# Callbacks


async def test_a_callback_that_fails_is_logged_and_nothing_else(member, logs):
    """Both kinds; the election goes on."""

    def fails():
        raise ValueError

    async with member(on_won=fails, on_campaign=fails) as election:
        await election.won()
        await asyncio.sleep(3 * TTL)
        assert election.is_leader
    assert set(errors(logs)) == {"election.callback_failed"}


async def test_a_slow_callback_holds_up_no_renewal(member, calls):
    """And what came later is told afterwards, in order."""

    async def slow():
        await asyncio.sleep(4 * TTL)
        calls.append("slow")

    async with member(on_won=slow) as election:
        await election.won()
        await asyncio.sleep(3 * TTL)
        assert election.is_leader
        assert calls == []
        await asyncio.sleep(2 * TTL)
    assert calls == ["slow", "a lost"]


async def test_a_callback_that_never_ends_does_not_keep_the_key_for_ever(member, bucket, calls):
    """It is cancelled at the deadline, the loss is told, and only then the key released."""

    async def hangs():
        await asyncio.sleep(FOREVER)

    async with member(on_won=hangs) as election:
        await election.won()
        before = clock.now()
        stopping = asyncio.create_task(election.stop())
        await asyncio.sleep(LEASE - 0.1)
        assert bucket.operations == ["create"]
        await stopping
        assert clock.now() - before == pytest.approx(LEASE, abs=0.1)
    assert calls == ["a lost"]
    assert bucket.operations == ["create", "release"]


async def test_a_loss_is_told_although_the_end_follows_at_once(member, bucket, calls):
    """Also one that was found out right before."""
    async with member() as election:
        await election.won()
        bucket.put(KEY, "stranger")
        await election.lost()
    assert calls == ["a won", "a lost"]


@pytest.mark.parametrize("coroutine", (False, True))
async def test_callbacks_may_ask_who_leads(member, coroutine):
    """They see what they were called for."""
    seen = []

    def look(what):
        def see():
            seen.append((what, election.is_leader, election.leader, election.state))

        async def see_later():
            see()

        return see_later if coroutine else see

    election = member(on_won=look("won"), on_lost=look("lost"))
    async with election:
        await election.won()
        await settle()
    assert seen == [
        ("won", True, "a", State.LEADER),
        ("lost", False, "a", State.CANDIDATE),
    ]


async def test_a_callback_may_stop_the_election(member, bucket, calls):
    """The loss is told before the key is released, and everything ends."""

    async def won():
        await election.stop()
        calls.append("won returns")

    election = member(on_won=won, on_lost=lambda: calls.append(bucket.operations[-1]))
    await election.start()
    async with asyncio.timeout(LEASE):
        while bucket.operations != ["create", "release"]:
            await election.changed()
    await election.stop()
    assert calls == ["won returns", "create"]


async def test_a_callback_may_wait_for_the_stop_in_a_task(member, bucket, calls):
    """That cannot be waited for, but ends, and the key is released."""

    async def won():
        await asyncio.create_task(election.stop())

    election = member(on_won=won)
    await election.start()
    with contextlib.suppress(StoppedError):
        await election.won()
    await asyncio.sleep(2 * TTL)
    assert bucket.operations == ["create", "release"]
    assert calls == ["a lost"]


async def test_every_try_is_told_with_the_state(member, calls, bucket):
    """Candidate before the creation, leader before each renewal."""
    async with member(on_campaign=calls.append) as election:
        await election.won()
        await asyncio.sleep(2 * INTERVAL + 0.1)
        assert calls == [State.CANDIDATE, "a won", State.LEADER, State.LEADER]
        assert election.campaigns == {State.CANDIDATE: 1, State.LEADER: 2}


# Loss


async def test_leadership_ends_by_itself_at_the_deadline(member, bucket, calls):
    """Without any answer, before the server could give the key away."""
    async with member() as election:
        await election.won()
        with bucket.dropping_requests():
            before = clock.now()
            await asyncio.sleep(LEASE - 0.1)
            assert election.is_leader
            await election.lost()
            assert clock.now() - before == pytest.approx(LEASE, abs=0.01)
            await settle()
            assert calls == ["a won", "a lost"]
        await election.won()


async def test_a_process_that_stood_still_does_not_lead_whatever_has_run_since(member, monkeypatch):
    """`is_leader` asks the clock, not a flag that a task would have to clear."""
    async with member() as election:
        await election.won()
        await settle()
        now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: now + LEASE)
        assert not election.is_leader
        assert election.token is None
        assert election.remaining == 0
        monkeypatch.undo()
        monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


@pytest.mark.parametrize(
    ("evict", "loss"),
    (
        (lambda bucket: bucket.delete(KEY), Loss.EVICTED),
        (lambda bucket: bucket.purge(KEY), Loss.EVICTED),
        (
            lambda bucket: bucket._store(KEY, "", {"Nats-Marker-Reason": "MaxAge"}),
            Loss.EXPIRED,
        ),
        (lambda bucket: bucket.put(KEY, "stranger"), Loss.OVERTAKEN),
        (lambda bucket: bucket.put(KEY, ""), Loss.OVERTAKEN),
        (lambda bucket: bucket.recreate(), Loss.EXPIRED),
    ),
    ids=("delete", "purge", "marker", "foreign put", "empty put", "bucket made anew"),
)
async def test_whoever_takes_the_record_ends_the_leadership_at_once(
    member, bucket, calls, evict, loss
):
    """It is told once, nothing foreign is written over, and later it leads anew."""
    async with member() as election:
        token = await election.won()
        events = aiter(election)
        before = clock.now()
        evict(bucket)
        await settle()
        event = await anext(events)
        assert isinstance(event, Lost)
        assert event.record.term == token
        assert event.loss is loss
        await election.won()
        assert clock.now() - before < 2.2 * TTL
        await settle()
        assert calls == ["a won", "a lost", "a won"]


async def test_a_foreign_record_is_left_alone_while_it_lives(member, bucket):
    """The next write comes when it has expired."""
    async with member() as election:
        await election.won()
        bucket.put(KEY, "stranger")
        await settle()
        writes = len(bucket.operations)
        await asyncio.sleep(TTL - 0.2)
        assert bucket._latest(KEY).entry.holder == "stranger"
        assert bucket.operations[writes:] == []


async def test_an_eviction_keeps_it_out_for_one_interval(member, bucket):
    """Whoever waits gets the chance."""
    async with member("a") as first, member("b") as second:
        await first.won()
        bucket.delete(KEY)
        await asyncio.sleep(INTERVAL - 0.1)
        assert first.leader == "b"
        await second.won()


async def test_an_update_that_was_stored_without_an_answer_is_no_loss(member, bucket, calls):
    """A look at the key tells that it was ours."""
    async with member() as election:
        token = await election.won()
        with bucket.dropping_answers():
            await asyncio.sleep(INTERVAL + 0.5)
        await asyncio.sleep(2 * TTL)
        assert election.token == token
        assert calls == ["a won"]


async def test_a_store_that_breaks_its_word_does_not_end_the_campaign(
    member, bucket, logs, monkeypatch
):
    """An error that must not come is logged, and the next try does better."""
    async with member() as election:
        token = await election.won()

        async def breaks(*args, **kwargs):
            raise ZeroDivisionError

        monkeypatch.setattr(bucket, "write", breaks)
        await asyncio.sleep(INTERVAL + 0.1)
        monkeypatch.undo()
        monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())
        await asyncio.sleep(2 * TTL)
        assert election.token == token
    assert errors(logs) == ["campaign.broke"]


async def test_a_ttl_that_becomes_invalid_ends_the_leadership_until_it_is_mended(
    member, bucket, calls
):
    """The problem says why, the loss is told before the release, and then it leads again."""
    async with member(on_lost=lambda: calls.append(bucket.operations[-1])) as election:
        token = await election.won()
        await settle()
        bucket.configure(ttl=1)
        await asyncio.sleep(TTL)
        assert not election.is_leader
        assert isinstance(election.problem, ConfigurationError)
        assert "is too close to the bucket TTL of 1 s" in str(election.problem)
        assert bucket.operations == ["create", "release"]
        assert calls == ["a won", "create"]
        bucket.configure(ttl=3)
        assert await election.won() > token
        assert election.problem is None
        assert election.interval == 1
        await asyncio.sleep(3 * TTL)
        assert election.is_leader


async def test_a_lower_ttl_shortens_the_lease_at_once(member, bucket):
    """Whoever reads the deadline is not promised what does not hold any more."""
    async with member() as election:
        await election.won()
        bucket.configure(ttl=3)
        assert election.remaining <= 3
        await asyncio.sleep(3 * TTL)
        assert election.is_leader


async def test_a_mirror_is_refused(member, bucket, monkeypatch):
    """It waits, and says why: somebody may replace the bucket."""
    info = bucket._info
    monkeypatch.setattr(bucket, "_info", lambda: replace(info(), mirror=True))
    election = member()
    starting = asyncio.create_task(election.start())
    await asyncio.sleep(10)
    assert isinstance(election.problem, BucketInvalid)
    await election.stop()
    with pytest.raises(StoppedError):
        await starting


# Several members


@pytest.mark.parametrize("markers", (True, False))
async def test_one_vacancy_is_no_stampede(bucket, calls, member, markers):
    """Of candidates of both profiles one leads, and none tries more than ten times."""
    bucket.markers = markers
    bucket.put(KEY, "stranger")
    profiles = [Profile.PROMPT] * 5 + [Profile.CHORIA] * 5
    async with contextlib.AsyncExitStack() as stack:
        members = [
            await stack.enter_async_context(member(str(number), profile=profile))
            for number, profile in enumerate(profiles)
        ]
        await asyncio.sleep(TTL - 0.1)
        before = [dict(election.campaigns) for election in members]
        waiting = [asyncio.create_task(election.won()) for election in members]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for turn in range(50):
            await asyncio.sleep(TTL / 10)
            assert sum(election.is_leader for election in members) == 1
            if turn == 20:
                tries = [
                    election.campaigns[State.CANDIDATE] - known.get(State.CANDIDATE, 0)
                    for election, known in zip(members, before, strict=True)
                ]
                assert max(tries) <= 10
        assert [call for call in calls if call.endswith("won")] == calls[:1]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_choria_member_acts_only_after_its_second_campaign(member):
    """Its record stands at once, its leadership one interval and 200 ms later."""
    async with member(profile=Profile.CHORIA, splay=0) as election:
        await settle()
        assert election.leader == "a"
        assert election.state is State.LEADER
        assert not election.is_leader
        before = clock.now()
        await election.won()
        assert clock.now() - before == pytest.approx(0.75 * TTL + 0.2, abs=0.1)


async def test_a_backoff_of_ones_own_spaces_the_tries(member, bucket):
    """The function is asked with the number of tries that failed."""
    asked = []

    def backoff(tries):
        asked.append(tries)
        return 1.0 * tries

    bucket.put(KEY, "stranger")
    async with member(profile=Profile.CHORIA, splay=0, backoff=backoff) as election:
        await asyncio.sleep(TTL - 0.1)
        assert asked[:3] == [1, 2, 3]
        assert not election.is_leader


# Events


async def test_events_are_told_in_order_from_the_request_on(member, bucket):
    """Also to a reader that begins to read later."""
    async with member() as election:
        events = aiter(election)
        await election.won()
        await election.stop()
        seen = [event async for event in events]
    assert [type(event) for event in seen] == [Won, HolderChanged, Lost, HolderChanged]
    assert seen[1] == HolderChanged("a")
    assert seen[3] == HolderChanged(None)


async def test_a_reader_that_falls_behind_loses_the_oldest(member, bucket):
    """It holds up nobody, and costs a bounded amount."""
    async with member() as election:
        await settle()
        events = aiter(election)
        for number in range(300):
            bucket.put(KEY, f"stranger {number}")
        await settle()
        await election.stop()
        seen = [event async for event in events]
    assert len(seen) == 256
    assert seen[-1] == HolderChanged("stranger 299")


async def test_a_reader_that_is_forgotten_is_not_kept(member):
    """A loop that was left costs nothing more."""
    async with member() as election:
        async for _ in election:
            break
        gc.collect()
        assert len(election._readers) == 0


# The package


def test_importing_the_package_imports_no_library():
    """Only what is asked for is imported; a name that is not there is an error as usual."""
    code = (
        "import sys, incumbent\n"
        "heavy = {'nats', 'structlog', 'click', 'kopf', 'kubernetes'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from incumbent import *\n"
        "assert 'nats' in sys.modules and Election.__name__ == 'Election'\n"
        "assert not {'kopf', 'kubernetes'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(SOURCES)})
    with pytest.raises(AttributeError, match="has no attribute 'Elections'"):
        incumbent.Elections  # noqa: B018


def test_the_deadline_is_of_a_clock_that_runs_on_in_sleep(monkeypatch):
    """The clock is the one that counts a suspend, too, where there is one."""
    monkeypatch.undo()
    name = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    assert abs(clock.now() - time.clock_gettime(name)) < 5
