"""What every place for the history does: the fake, and a stream on a real nats-server."""

from __future__ import annotations

import re
import secrets
import shlex
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig

from controlplane.natsserver import NatsServer
from fakehistory import FakeHistory
from incumbent.campaign.ports import Outcome
from incumbent.errors import BucketDenied, BucketInvalid, BucketNotFound
from incumbent.history import stream
from incumbent.history.stream import HistoryStream
from incumbent.nats.connection import NatsAccess, NatsConnection

BUCKET, KEY = "LEADER_ELECTION", "shop.billing"
KEPT = 4
DOCS = (Path(__file__).parents[2] / "docs" / "history.md").read_text()


class RealStream:
    """A stream of its own, its makers, and a connection to it."""

    def __init__(self, server, stack):
        self.server = server
        self.stack = stack
        self.name = f"HISTORY-{secrets.token_hex(4)}"

    async def open(self, **config):
        """Connect, and make the stream."""
        self.client = await nats.connect(self.server.url)
        self.stack.push_async_callback(self.client.close)
        self.connection = await self.stack.enter_async_context(
            NatsConnection(NatsAccess((self.server.url,)))
        )
        await self.connection.wait_connected()
        await self.make(**config)
        return HistoryStream(self.connection, self.name)

    async def make(self, **config):
        """Make the stream."""
        settings = {"subjects": [f"{self.name}.>"], "max_msgs_per_subject": KEPT}
        await self.client.jetstream().add_stream(
            StreamConfig(name=self.name, **(settings | config))
        )

    async def make_anew(self):
        """Delete the stream, and make it anew."""
        await self.client.jetstream().delete_stream(self.name)
        await self.make()


@pytest.fixture
def real(nats_server):
    @asynccontextmanager
    async def opened(**config):
        async with AsyncExitStack() as stack:
            place = RealStream(nats_server, stack)
            yield place, await place.open(**config)

    return opened


@pytest.fixture(params=("fake", "real"))
async def place(request, nats_server, monkeypatch):
    """A place, and a view of it that looks at the settings each time."""
    monkeypatch.setattr(stream, "INFO_EVERY", 0.0)
    async with AsyncExitStack() as stack:
        if request.param == "fake":
            fake = FakeHistory(kept=KEPT)
            yield fake, fake.view()
        else:
            one = RealStream(nats_server, stack)
            yield one, await one.open()


async def add(store, data, *, expected):
    answer = await store.append(BUCKET, KEY, data, expected=expected)
    return answer.revision if answer.outcome is Outcome.STORED else answer.outcome


async def read(store, key=KEY):
    found, after = [], 0
    while (stored := await store.next(BUCKET, key, after=after)) is not None:
        found.append(stored.data)
        after = stored.sequence
    return found


async def use(store):
    """Do all that an operator does."""
    await store.look()
    assert await read(store) == []
    await add(store, b"one", expected=0)
    return await read(store)


async def test_a_message_is_added_only_behind_the_last_one(place):
    """Whoever has not seen the last one is refused."""
    _, store = place
    await store.look()
    first = await add(store, b"one", expected=0)
    assert await add(store, b"other", expected=0) is Outcome.REFUSED
    second = await add(store, b"two", expected=first)
    assert await add(store, b"other", expected=first) is Outcome.REFUSED
    assert second > first
    assert await read(store) == [b"one", b"two"]
    assert (await store.last(BUCKET, KEY)).data == b"two"
    assert await store.next(BUCKET, KEY, after=second) is None


async def test_keys_have_nothing_to_do_with_each_other(place):
    """Not even if one begins like the other."""
    _, store = place
    await store.look()
    await add(store, b"one", expected=0)
    assert await read(store, f"{KEY}.more") == []
    assert await store.last(BUCKET, "shop") is None
    answer = await store.append(BUCKET, f"{KEY}-2", b"two", expected=0)
    assert answer.outcome is Outcome.STORED


async def test_the_newest_messages_of_a_key_are_kept(place):
    """As many as the place says."""
    _, store = place
    await store.look()
    last = 0
    for number in range(KEPT + 3):
        last = await add(store, b"%d" % number, expected=last)
    assert store.kept == KEPT
    assert await read(store) == [b"3", b"4", b"5", b"6"]


async def test_a_look_tells_whether_it_is_another_one(place):
    """Then nothing that was read counts."""
    made, store = place
    assert not await store.look()
    assert await store.look()
    await add(store, b"one", expected=0)
    made.make_anew() if isinstance(made, FakeHistory) else await made.make_anew()
    assert not await store.look()
    assert await read(store) == []


@pytest.mark.parametrize(
    ("config", "said"),
    (
        ({"max_msgs_per_subject": -1}, "keeps not 2 to 1000 messages per subject"),
        ({"max_msgs_per_subject": 5000}, "keeps not 2 to 1000 messages per subject"),
        ({"subjects": ["exactly.this"]}, "has no subjects like HISTORY"),
        ({"retention": "interest"}, "does not keep what was read"),
    ),
)
async def test_a_stream_that_cannot_keep_a_history_is_refused(real, config, said):
    """With a sentence that says why."""
    async with real(**config) as (_, store):
        with pytest.raises(BucketInvalid, match=said):
            await store.look()


async def test_missing_stream_is_named(nats_server):
    """It is never made here."""
    async with NatsConnection(NatsAccess((nats_server.url,))) as connection:
        await connection.wait_connected()
        with pytest.raises(BucketNotFound, match="there is no stream NONE: make it as docs/hist"):
            await HistoryStream(connection, "NONE").look()


async def test_other_prefix_is_taken_from_the_stream(real):
    """An administrator may have reasons for other subjects."""
    prefix = f"audit.{secrets.token_hex(4)}"
    async with real(subjects=[f"{prefix}.>"]) as (place, store):
        await store.look()
        await add(store, b"one", expected=0)
        message = await place.client.jetstream().get_last_msg(
            place.name, f"{prefix}.{BUCKET}.{KEY}"
        )
        assert message.data == b"one"


async def test_what_a_full_stream_refuses_is_said(real):
    """With `discard new` nothing is added any more."""
    async with real(discard="new", max_msgs=1) as (_, store):
        await store.look()
        first = await add(store, b"one", expected=0)
        with pytest.raises(BucketInvalid, match="does not take an entry of the history"):
            await add(store, b"two", expected=first)


async def test_stream_of_the_docs_can_keep_a_history(real):
    """Made with the flags that the page tells to type, which are all known here."""
    command = re.search(r"\$ (nats stream add .*?[^\\])\n", DOCS, re.DOTALL)[1].replace("\\\n", "")
    _, _, _, name, *words, last = shlex.split(command)
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert (given.pop("--subjects"), last) == (f"{name}.>", "--defaults")
    flags = {
        "--max-msgs-per-subject": lambda n: {"max_msgs_per_subject": int(n)},
        "--storage": lambda kind: {"storage": kind},
        "--retention": lambda kind: {"retention": kind},
        "--discard": lambda kind: {"discard": kind},
        "--replicas": lambda _: {},  # the server of the tests is alone
    }
    config = {}
    for flag, value in given.items():
        config |= flags[flag](value)
    async with real(**config) as (_, store):
        await store.look()
        assert store.kept == 200
        assert await add(store, b"one", expected=0) > 0


SUBJECTS = re.findall(r'^  "([^"]+)"', DOCS.split("```conf")[1].split("```")[0], re.MULTILINE)


@pytest.mark.parametrize("missing", (None, *SUBJECTS))
async def test_rights_of_the_docs_are_enough_and_none_is_too_many(tmp_path, missing):
    """Without each of them the sentence names it."""
    granted = ", ".join(f'"{subject}"' for subject in SUBJECTS if subject != missing)
    config = f"""accounts {{ A {{ jetstream: enabled, users: [
      {{ user: admin, password: admin }}
      {{ user: incumbent, password: secret,
         permissions: {{ publish: [{granted}], subscribe: ["_INBOX.>"] }} }} ] }} }}"""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(NatsServer(tmp_path, config=config))
        client = await nats.connect(server.url, user="admin", password="admin")
        stack.push_async_callback(client.close)
        await client.jetstream().add_stream(
            StreamConfig(
                name="INCUMBENT_HISTORY", subjects=["INCUMBENT_HISTORY.>"], max_msgs_per_subject=9
            )
        )
        url = server.url.replace("//", "//incumbent:secret@")
        connection = await stack.enter_async_context(NatsConnection(NatsAccess((url,))))
        await connection.wait_connected()
        store = HistoryStream(connection, "INCUMBENT_HISTORY")
        if missing is None:
            assert await use(store) == [b"one"]
            return
        with pytest.raises(BucketDenied, match=re.escape(missing.removesuffix(">"))):
            await use(store)
