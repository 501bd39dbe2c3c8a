"""How an election begins and ends."""

from __future__ import annotations

import asyncio

import pytest

from electionmembers import INTERVAL, KEY, LEASE, TTL, settle
from incumbent import (
    ConfigurationError,
    Election,
    HolderChanged,
    NatsAccess,
    State,
    StoppedError,
    clock,
)
from incumbent.errors import BucketUnreachable

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


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
