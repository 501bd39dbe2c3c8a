"""Writes of a bucket that are not stored."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock

import pytest

from incumbent.campaign.ports import Outcome
from incumbent.errors import (
    BucketInvalid,
    BucketSilent,
    BucketUnreachable,
)
from incumbent.nats.bucket import NatsBucket
from scriptednats import DENIED, Server, refusing, watched

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


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
