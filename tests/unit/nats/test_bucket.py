"""A bucket that is missing: what is said of it, and what its creation changes."""

from __future__ import annotations

import asyncio

import pytest

from incumbent.controller.process import if_missing
from incumbent.errors import (
    BucketDenied,
    BucketNotFound,
)
from incumbent.nats.bucket import NatsBucket
from incumbent.settings import Settings
from scriptednats import DENIED, Server, refusing

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("clock_of_the_loop")]


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
        bucket.lookups.if_missing = "delete the election"
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
