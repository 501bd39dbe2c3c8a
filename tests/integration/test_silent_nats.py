"""NATS answers, and its bucket is of no use: the operator says so, and nobody leads twice."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from controlplane.natsserver import NatsServer
from elections import BUCKET, LEADER, LabelWatch, condition_of, store_on, with_bucket
from incumbent.nats import jetstream
from incumbent.nats.connection import NatsAccess, NatsConnection
from operatorprocess import SOURCES

pytestmark = pytest.mark.timeout(120)

TTL = 10.0
REASON = "incumbent_condition_reason"
ACCOUNTS = """
accounts {
  KV {
    jetstream: enabled, users: [ { user: kv, password: k } ],
    exports: [ { service: "$JS.API.>", response_type: stream }, { service: "$KV.>" } ]
  }
  OPS {
    users: [ { user: ops, password: o } ],
    imports: [
      { service: { account: KV, subject: "$JS.API.>" } }
      { service: { account: KV, subject: "$KV.>" } }
    ]
  }
}
"""
MAPPED = """
accounts {
  A {
    jetstream: enabled, users: [ { user: a, password: a } ]
    mappings: { "$KV.OTHER.>": "nowhere.>" }
  }
}
no_auth_user: a
"""


async def make_bucket(server, user=""):
    """Make the bucket as somebody else does."""
    url = server.url.replace("//", f"//{user}@") if user else server.url
    async with NatsConnection(NatsAccess([url])) as connection:
        await asyncio.wait_for(connection.wait_connected(), timeout=5)
        await connection.create_bucket(BUCKET, ttl=TTL, replicas=1)


async def doctor(election, url):
    """Return what the doctor says."""
    return await said_by(
        *("incumbent.kubectl", "doctor", "--kubeconfig", election.kube.site.kubeconfig),
        *("-n", election.namespace, "--nats-url", url, "--bucket", BUCKET),
    )


async def said_by(module, *arguments):
    """Run a command to its end, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode()


async def unready(operator, text):
    """Wait until /readyz is 503 and says why."""
    deadline = time.monotonic() + 5
    while (answer := await operator.readyz()) and not (answer[0] == 503 and text in answer[1]):
        assert time.monotonic() < deadline, answer
        await asyncio.sleep(0.1)


async def test_a_bucket_of_another_account(election, tmp_path, new_operator):
    """Requests pass between accounts, and what consumers deliver does not."""
    async with NatsServer(tmp_path / "nats", config=ACCOUNTS) as server:
        await make_bucket(server, "kv:k")
        url = server.url.replace("//", "//ops:o@")
        operator = new_operator(url, f"--bucket={BUCKET}")
        await operator.start()
        await election.lead("one", "two")
        condition = await election.wait_reason("BucketSilent", kind="BucketReady")
        assert "delivers nothing" in condition["message"]
        assert "account" in condition["message"]
        assert (await election.wait_reason("BucketSilent", kind="Stalled"))["status"] == "True"
        await unready(operator, "delivers nothing")
        assert "bucket.problem" in operator.log
        series = [name for name in await operator.metrics() if name.startswith(REASON)]
        assert any("BucketReady" in name and "BucketSilent" in name for name in series)
        said = await doctor(election, url)
        assert "the watch of the bucket delivered nothing" in said
        assert "BucketSilent: " in said

        operator.kill()
        async with LabelWatch(election) as watch:
            await operator.start(ready=False)
            await watch.wait(lambda change: not change.leaders, timeout=TTL)
            await election.wait_reason("BucketSilent")
            await asyncio.sleep(TTL)
            assert not [c for c in watch.changes[1:] if c.leaders]
        assert LEADER not in (await election.labels()).values()


@contextlib.contextmanager
def small_disk(folder):
    """A disk of 6 MB, which only root can make."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.asynccontextmanager
async def full_disk(folder):
    """A server whose disk is full for a while: afterwards it stores nothing until a restart."""
    with small_disk(folder):
        async with NatsServer(folder) as server:

            async def stop_storing():
                waste = folder / "waste"
                with contextlib.suppress(OSError), waste.open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * 65536)
                deadline = time.monotonic() + 60
                while "Critical write error" not in server.process.log.read_text():
                    assert time.monotonic() < deadline, "the server goes on"
                    await asyncio.sleep(0.2)
                waste.unlink()

            yield server, stop_storing, server.restart


@contextlib.asynccontextmanager
async def mapped_away(folder):
    """A server whose account leads what is published to the bucket elsewhere."""
    async with NatsServer(folder, config=MAPPED) as server:

        async def lead(what, to):
            file = folder / "nats.conf"
            file.write_text(file.read_text().replace(f"$KV.{what}.>", f"$KV.{to}.>"))
            os.kill(server.process.pid, signal.SIGHUP)

        yield (
            server,
            functools.partial(lead, "OTHER", BUCKET),
            functools.partial(lead, BUCKET, "OTHER"),
        )


async def stores_nothing_is_told(election, operator, url):
    """The leader is stripped, and every place says why."""
    async with LabelWatch(election) as watch:
        await watch.wait(lambda change: not change.leaders, timeout=2 * TTL)
    condition = await election.wait_reason("BucketSilent", timeout=2 * TTL)
    assert "has stored no write of key" in condition["message"]
    for kind in ("BucketReady", "Stalled"):
        await election.wait_reason("BucketSilent", kind=kind)
    await unready(operator, "has stored no write")
    assert "bucket.denied" in operator.log
    assert "BucketSilent: " in await doctor(election, url)
    before = (await election.kube.get(election.path))["metadata"]["resourceVersion"]
    await asyncio.sleep(TTL / 2)
    after = (await election.kube.get(election.path))["metadata"]["resourceVersion"]
    assert after == before  # the sentence holds no time that grows


@pytest.mark.parametrize("fault", (mapped_away, full_disk)[: 1 + (os.geteuid() == 0)])
async def test_writes_that_are_not_stored(election, tmp_path, new_operator, fault):
    """Reads are answered all the time, and with the first write that is stored all is well."""
    async with fault(tmp_path / "nats") as (server, stop_storing, mend):
        operator = new_operator(server.url, *with_bucket(TTL))
        await operator.start()
        await election.lead()
        await stop_storing()
        await stores_nothing_is_told(election, operator, server.url)

        await mend()
        await election.wait_reason("Leading", timeout=3 * TTL)
        await election.wait_reason("BucketFound", kind="BucketReady")
        await operator.wait_ready()


@pytest.mark.parametrize(
    ("change", "why"),
    (
        ({"sealed": True}, "it is sealed, so it takes no record: delete it, and make a new one"),
        ({"discard_new_per_subject": True}, "it refuses every renewal"),
        ({"no_ack": True}, "it acknowledges no write"),
        ({"subjects": [f"$KV.{BUCKET}.other.>"]}, f"add $KV.{BUCKET}.>"),
    ),
    ids=("sealed", "no renewal", "no acknowledgement", "other subjects"),
)
async def test_settings_with_which_no_record_can_be_kept(
    election, private_nats, new_operator, change, why
):
    """They are named with the remedy, within the time between two looks at the settings."""
    operator = new_operator(private_nats.url, *with_bucket(TTL))
    await operator.start()
    await election.lead()
    await update_stream(private_nats, change)
    await election.kube.until(
        election.path, lambda found: why in condition_of(found, "BucketReady")["message"]
    )
    await election.wait_reason("BucketInvalid", kind="BucketReady")
    await election.wait_reason("BucketInvalid", kind="Stalled")
    await election.wait_labels(dict.fromkeys(("one", "two"), "candidate"))
    assert why.partition(":")[0] in await doctor(election, private_nats.url)
    if "subjects" not in change:
        await unready(operator, why)


async def update_stream(server, change):
    """Change the stream of the bucket."""
    config = {**jetstream.stream_request(BUCKET, ttl=TTL, replicas=1), **change}
    async with store_on(server) as store:
        answer = await store.client.request(
            f"$JS.API.STREAM.UPDATE.KV_{BUCKET}", json.dumps(config).encode()
        )
    assert "error" not in json.loads(answer.data)


async def test_a_record_that_never_expires(election, private_nats, new_operator):
    """It is no leader, and the sentence says since when, and how to get rid of it."""
    operator = new_operator(private_nats.url, *with_bucket(TTL))
    await operator.start()
    await election.lead()
    async with store_on(private_nats) as store:
        await store.put(election.key, "me", **{"Nats-TTL": "never"})
    await election.wait_reason("LedElsewhere")
    condition = await election.wait_reason("RecordOutdated", timeout=2 * TTL)
    assert "me holds the record, but has not renewed it since 20" in condition["message"]
    assert (await election.wait_reason("RecordOutdated", kind="Stalled"))["status"] == "True"
    assert "RecordOutdated: " in await doctor(election, private_nats.url)
    command = condition["message"].split("`")[1].split()
    assert command[:2] == ["incumbent", "evict"]
    evict = await said_by(*command, f"--nats-url={private_nats.url}", "--yes")
    assert "me was evicted" in evict
    await election.wait_reason("Leading", timeout=2 * TTL)
