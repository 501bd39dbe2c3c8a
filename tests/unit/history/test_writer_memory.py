"""Which entries are kept in memory, and how many requests readers cause."""

from __future__ import annotations

import asyncio

import pytest

from incumbent.history import writer as history_writer
from incumbent.history.terms import (
    Began,
    decode,
    encode,
)


def stored(scene, key, count):
    """Keep so many terms of a key."""
    for number in range(count):
        began = Began(number + 1, f"pod-{number}", 100.0 + number, "made", "east", "Elected")
        scene.store.keep(key, encode(began, writer="other"))


@pytest.fixture
async def reader(scene):
    """A replica that follows many keys."""
    one = scene.start("one")
    for number in range(10):
        one.follow(scene.bucket, f"k{number}")
        stored(scene, f"k{number}", 20)
    return one


def in_memory(one):
    """Return how many entries each key has in memory."""
    return {key: len(chronicle.read) for (_, key), chronicle in one._keys.items()}


@pytest.mark.looptime
async def test_entries_that_nobody_uses_are_forgotten(scene, reader):
    """They are read again when somebody asks; whoever asks again and again keeps them."""
    bucket = scene.bucket.name
    assert len(await reader.terms(bucket, "k1", limit=99)) == 20
    await asyncio.sleep(history_writer.FORGOTTEN_AFTER / 2)
    assert len(await reader.terms(bucket, "k2", limit=99)) == 20
    await asyncio.sleep(0.6 * history_writer.FORGOTTEN_AFTER)
    found = in_memory(reader)
    assert (found["k1"], found["k2"], reader._entries) == (0, 20, 20)
    await asyncio.sleep(history_writer.FORGOTTEN_AFTER)
    assert (set(in_memory(reader).values()), reader._entries) == ({0}, 0)
    assert len(await reader.terms(bucket, "k1", limit=99)) == 20


@pytest.mark.looptime
async def test_entries_in_memory_are_limited_over_all_keys(scene, reader, monkeypatch):
    """Those that were not used for longest go first, and every answer is complete."""
    monkeypatch.setattr(history_writer, "MOST_READ", 50)
    for number in (0, 1, 2, 3, 0, 4):
        assert len(await reader.terms(scene.bucket.name, f"k{number}", limit=99)) == 20
    found = in_memory(reader)
    assert {key for key, count in found.items() if count} == {"k0", "k4"}
    assert reader._entries == sum(found.values())


@pytest.mark.looptime
async def test_deleted_election_leaves_no_entry_in_memory(scene, reader):
    """The count is right again, too."""
    end = reader.follow(scene.bucket, "deleted")
    stored(scene, "deleted", 20)
    await reader.terms(scene.bucket.name, "deleted", limit=99)
    assert reader._entries == 20
    end()
    await asyncio.sleep(history_writer.LINGER + 0.1)
    assert reader._entries == 0
    assert not [one for one in reader._in_memory if one.key == "deleted"]


@pytest.mark.looptime
async def test_readers_wait_so_that_nats_has_few_requests(scene, reader, monkeypatch):
    """Whoever asks for many histories at once; what is in memory costs one request."""
    monkeypatch.setattr(history_writer, "READS_PER_SECOND", 10.0)
    monkeypatch.setattr(history_writer, "READS_AT_ONCE", 10)
    loop = asyncio.get_running_loop()
    began = loop.time()
    keys = [f"k{number}" for number in range(10)]
    await asyncio.gather(*(reader.terms(scene.bucket.name, key, limit=1) for key in keys))
    assert 19 <= loop.time() - began < 21
    began = loop.time()
    await reader.terms(scene.bucket.name, "k0", limit=1)
    assert loop.time() - began < 0.2


def test_strings_of_entries_are_shared():
    """Thousands of entries have few different ones."""
    one, two = (
        decode(encode(Began(token, "east/shop/a", 1.0, "made", "east", "Elected"), writer="r"))
        for token in (1, 2)
    )
    for name in ("holder", "bucket", "site", "how", "writer"):
        assert getattr(one, name) is getattr(two, name)
