"""What docs/operations.md tells administrators to type does what it says."""

from __future__ import annotations

import pytest

from docpages import blocks
from elections import BUCKET, store_on
from scenarios.conftest import TTL
from scenarios.timeline import settled

pytestmark = pytest.mark.timeout(120)

PAGE = "docs/operations.md"


@pytest.fixture
def follow(election, type_in):
    """Return a coroutine function that types the commands of a section, about this election."""

    async def run(heading):
        commands = [
            command
            for block in blocks()
            if (block.page, block.heading, block.language) == (PAGE, heading, "console")
            for command in block.commands
        ]
        assert commands
        for command in commands:
            ours = command.replace("shop.billing", election.key).replace("billing", election.name)
            await type_in(f"INCUMBENT_BUCKET={BUCKET} {ours}")

    return run


async def test_election_goes_away_without_an_operator(election, private_nats, start, follow):
    """No finalizer, no label, no annotation and no record are left."""
    (replica,) = (await start(election, private_nats.url, "replica-1")).values()
    await election.lead()
    await settled(election)
    replica.kill()
    await election.delete()

    await follow("An election does not go away")

    await election.wait_gone(timeout=2)
    for pod in (await election.kube.get(election.pods_path))["items"]:
        assert not [label for label in pod["metadata"]["labels"] if "incumbent.dev" in label]
        assert not [name for name in pod["metadata"].get("annotations", {}) if "incumbent" in name]
    async with store_on(private_nats) as store:
        latest = await store.latest(election.key)
    assert latest is None or not latest.value


async def test_bucket_is_made_anew(election, private_nats, start, follow):
    """A pod leads again once a person says so, and the guard is up again afterwards."""
    await start(election, private_nats.url, "replica-1")
    await election.lead()
    async with store_on(private_nats) as store:
        config = (await store.jetstream.stream_info(f"KV_{BUCKET}")).config
        await store.jetstream.delete_stream(f"KV_{BUCKET}")
        await election.wait_reason("BucketNotFound", timeout=2 * TTL)
        await store.jetstream.add_stream(config)
    await election.wait_reason("TokenRegressed", timeout=2 * TTL)

    await follow("The bucket was made anew or restored")

    await settled(election)
    found = await election.kube.get(election.path)
    assert found["spec"]["onTokenRegress"] == "Stop"
