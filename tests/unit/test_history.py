"""What becomes an entry of the history, who writes it, and which terms the entries are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest

from fakehistory import FakeHistory
from fakes import FakeBucket
from incumbent import clock, historian, history, wire
from incumbent.errors import BucketNotFound, BucketUnreachable
from incumbent.historian import Historian
from incumbent.history import Began, Ended, Tracker
from incumbent.model import Cause, Marker, Nothing, Record
from incumbent.ports import Sighting
from stage import two_candidates

KEY = "shop.billing"
BUCKET = "2026-01-01T00:00:01Z"
TTL = 10.0
ZERO = 1_800_000_000.0


def record(revision, holder="east/shop/a", *, term=0, site="east/uid", replica="one/1"):
    return Record(revision, holder, term=term or revision, replica=replica, site=site)


def stranger(revision, holder="host-1"):
    return Record(revision, holder, term=revision)


def began(token, holder="a", at=0.0, how="Elected", **fields):
    return Began(token, holder, at, BUCKET, "east", how, **fields)


def ended(revision, cause="released", at=0.0, token=0):
    return Ended(revision, cause, at, BUCKET, token)


class Watch:
    """A tracker that is shown entries a second apart."""

    def __init__(self):
        self.tracker = Tracker()
        self.now = 0.0

    def show(self, entry, *, after=1.0, age=0.0, live=True, bucket=BUCKET):
        """Show an entry, so many seconds later."""
        self.now += after
        sighting = Sighting(entry, age, live)
        return self.tracker.observe(sighting, self.now, bucket=bucket, ttl=TTL)


# What is seen becomes entries


def test_first_record_that_is_seen_began_some_time_before():
    """Who starts to watch does not know how a term began, and not always when."""
    watch = Watch()
    (entry,) = watch.show(record(7, term=5), age=0.5, live=False)
    assert (entry.token, entry.how, entry.at, entry.exact) == (5, "", 0.5, False)

    (entry,) = Watch().show(record(5), live=False)
    assert (entry.how, entry.exact) == ("", True)


def test_renewals_are_no_news():
    """Neither from the steward nor from a replica that relieves it."""
    watch = Watch()
    watch.show(record(5))
    assert watch.show(record(6, term=5)) == []
    assert watch.show(record(7, term=5, replica="two/2")) == []


@pytest.mark.parametrize(
    ("before", "after", "how"),
    (
        (Nothing(), record(5), "Elected"),
        (Marker(4, Cause.RELEASED), record(5), "Elected"),
        (record(4), record(5, "east/shop/b"), "HandedOver"),
        (record(4), record(5, "west/shop/b", site="west/uid"), "Overtaken"),
        (record(4), stranger(5), "Overtaken"),
        (stranger(4), record(5), "Overtaken"),
        (record(4), record(5), "Elected"),
    ),
)
def test_how_a_term_began_is_seen_from_what_was_there(before, after, how):
    """A hand-over is written over a record of the same site, an election is not."""
    watch = Watch()
    watch.show(before)
    entry = watch.show(after)[-1]
    assert (entry.token, entry.holder, entry.how) == (5, after.holder, how)
    assert entry.site == after.site.partition("/")[0]


def test_what_was_left_out_is_not_guessed():
    """After a gap in the watch nobody knows whether the office was handed over."""
    watch = Watch()
    watch.show(record(4))
    (entry,) = watch.show(record(9, "east/shop/b"), live=False)
    assert entry.how == ""


@pytest.mark.parametrize("cause", (*Cause,))
def test_a_marker_ends_a_term(cause):
    """With its cause, and when it was stored; a second marker ends nothing."""
    watch = Watch()
    watch.show(record(4))
    assert watch.show(Marker(5, cause), age=0.25) == [ended(5, cause.value, 1.75)]
    assert watch.show(Marker(6, Cause.EVICTED)) == []
    assert watch.show(Marker(6, Cause.EVICTED), live=False) == []


def test_expiry_without_markers_is_seen_at_the_next_record():
    """A bucket without markers tells nothing when a record expires."""
    watch = Watch()
    watch.show(record(4))
    end, begin = watch.show(record(5, "east/shop/b"), after=15)
    assert (end.cause, end.at, end.revision) == ("expired", 1 + TTL, 5)
    assert begin.how == "Elected"


def test_record_that_is_gone_when_the_watch_is_back_has_expired():
    """The watch shows nothing then, so the time is an estimate."""
    watch = Watch()
    watch.show(record(4))
    (end,) = watch.show(Nothing(), after=60, live=False)
    assert (end.cause, end.at, end.exact) == ("expired", 1 + TTL, False)


def test_of_strangers_only_the_holder_counts():
    """Each of their records is a new revision, and not a new term."""
    watch = Watch()
    (entry,) = watch.show(stranger(4))
    assert entry.stranger
    assert watch.show(stranger(5)) == []
    assert [entry.token for entry in watch.show(stranger(6, "host-2"))] == [6]


def test_in_a_bucket_made_anew_nothing_is_known():
    """The same token is another term there."""
    watch = Watch()
    watch.show(record(4))
    (entry,) = watch.show(record(4), live=False, bucket="later")
    assert (entry.bucket, entry.how) == ("later", "")


# What is missing


def test_a_term_is_written_once():
    """Whatever others know of its beginning."""
    other = began(5, at=3.0, how="", exact=False, writer="two")
    assert history.missing(began(5), []) == began(5)
    assert history.missing(began(5), [other]) is None
    assert history.missing(began(5), [began(9)]) == began(5)
    assert history.missing(replace(began(5), bucket="later"), [began(5)]) is not None


def test_an_end_is_that_of_the_term_before():
    """Not of one that began later, and not twice."""
    known = [began(5), began(9)]
    assert history.missing(ended(8), known) == ended(8, token=5)
    assert history.missing(ended(12), known) == ended(12, token=9)
    assert history.missing(ended(12), [*known, ended(11, token=9)]) is None
    assert history.missing(ended(3), known) is None


def test_later_record_of_a_stranger_is_no_second_term():
    """A replica that starts in the middle of its reign takes a later record for the first."""
    known = [began(5, "host-1", stranger=True)]
    late = began(8, "host-1", stranger=True)
    assert history.missing(late, known) is None
    assert history.missing(late, [*known, ended(7, token=5)]) == late
    assert history.missing(replace(late, holder="host-2"), known) is not None


# What it means


@pytest.mark.parametrize("order", (*itertools.permutations(range(4)),))
def test_terms_follow_each_other_whoever_wrote_late(order):
    """The order of the entries does not matter, their tokens do."""
    entries = [
        began(5, "a", 100),
        began(7, "b", 110, how="HandedOver"),
        ended(8, "released", 120, token=7),
        began(9, "c", 130),
    ]
    found = history.terms(entries[number] for number in order)
    assert [(t.holder, t.began, t.ended, t.cause) for t in found] == [
        ("c", 130, None, ""),
        ("b", 110, 120, "released"),
        ("a", 100, 110, "handed over"),
    ]


@pytest.mark.parametrize(
    ("how", "cause", "to"),
    (
        ("HandedOver", "handed over", 110),
        ("Overtaken", "overtaken", 110),
        ("Elected", "lost", None),
        ("", "lost", None),
    ),
)
def test_end_that_nobody_wrote_is_taken_from_the_next_beginning(how, cause, to):
    """An election over an end that nobody saw leaves its time unknown."""
    _, first = history.terms([began(5, at=100), began(9, at=110, how=how)])
    assert (first.cause, first.ended) == (cause, to)


@pytest.mark.parametrize(
    ("latest", "cause"), ((None, ""), (record(9), ""), (Marker(9, Cause.EXPIRED), "lost"))
)
def test_no_term_lasts_on_a_vacant_key(latest, cause):
    """Also where nobody wrote down the end."""
    (term,) = history.terms([began(5)], latest=latest)
    assert term.cause == cause


def test_end_without_a_beginning_is_left_out():
    """Of a capped list the oldest may be half a term."""
    assert history.terms([ended(4, token=3)]) == []


@pytest.mark.parametrize(
    "entry",
    (
        began(5, at=12.345, writer="one/1"),
        began(5, how="", exact=False, stranger=True, writer="one/1"),
        replace(ended(9, "evicted", at=1.5, token=5), exact=False, writer="one/1"),
    ),
)
def test_entries_survive_being_stored(entry):
    """With the server's time instead of that of the process."""
    again = history.decode(history.encode(entry, writer="one/1", ahead=ZERO))
    assert again == replace(entry, at=pytest.approx(ZERO + entry.at))


@pytest.mark.parametrize(
    "data", (b"", b"\xff", b"[]", b"{}", b'{"kind": "began", "token": 1}', b'{"kind": 1}', b"1")
)
def test_what_others_write_to_the_stream_is_passed_over(data):
    """It is no entry, and no error."""
    assert history.decode(data) is None


# Who writes it


class Observer(Counter):
    """Counts what a historian reports."""

    def history_entry(self, outcome):
        """See `HistoryObserver`."""
        self[outcome] += 1

    def term_began(self, how):
        """See `HistoryObserver`."""
        self[f"began {how}"] += 1

    def term_ended(self, cause):
        """See `HistoryObserver`."""
        self[f"ended {cause}"] += 1


class Scene:
    """A bucket, a history, and replicas that write it."""

    def __init__(self):
        self.bucket = FakeBucket(ttl=TTL)
        self.store = FakeHistory()
        self.running = {}

    def start(self, name):
        """Start a replica."""
        one = Historian(self.store.view(), replica=name, observer=Observer())
        end = one.follow(self.bucket, KEY)
        self.running[one] = asyncio.create_task(one.run()), end
        return one

    async def kill(self, one):
        """End a replica as SIGKILL does."""
        task, _ = self.running.pop(one)
        one._keys[self.bucket.name, KEY].end()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    def write(self, replica, holder="a", *, term=0):
        """Let a replica write a record."""
        written = Record(0, holder, term=term, replica=replica, site="east/uid")
        return self.bucket.put(KEY, holder, wire.headers_of(written))

    @property
    def entries(self):
        """What is kept, as JSON."""
        return [json.loads(data) for data in self.store.messages(KEY)]

    @property
    def tokens(self):
        """The tokens of all beginnings that are kept."""
        return [entry["token"] for entry in self.entries if entry["kind"] == "began"]


@pytest.fixture(autouse=True)
def fake_clock(request, monkeypatch):
    """Let the package's clock follow the loop's."""
    monkeypatch.setattr(clock, "now", lambda: asyncio.get_running_loop().time())


@pytest.fixture
async def scene():
    made = Scene()
    yield made
    for one in list(made.running):
        await made.kill(one)


@pytest.mark.looptime
async def test_steward_writes_at_once_and_the_others_look_a_moment_later(scene):
    """There is one entry, by the replica that began the term."""
    one, two = scene.start("one"), scene.start("two")
    token = scene.write("one")
    await asyncio.sleep(0.1)
    assert [(entry["token"], entry["writer"]) for entry in scene.entries] == [(token, "one")]

    await asyncio.sleep(2 * historian.OTHERS_AFTER + 0.1)
    assert len(scene.entries) == 1
    assert one._observer["stored"] == two._observer["known"] == 1
    assert one._observer["began "] == 1
    assert two._observer["began "] == 0


@pytest.mark.looptime
async def test_term_outlives_the_steward_that_dies_before_it_writes(scene):
    """Any replica that has seen the record writes the entry, with the time of the record."""
    scene.start("two")
    await asyncio.sleep(0.5)
    token = scene.write("one")
    stored_at = asyncio.get_running_loop().time()
    await asyncio.sleep(2 * historian.OTHERS_AFTER + 0.1)

    (entry,) = scene.entries
    assert (entry["token"], entry["writer"], entry["how"]) == (token, "two", "Elected")
    at = history.decode(scene.store.messages(KEY)[0]).at
    assert at == pytest.approx(ZERO + stored_at, abs=0.1)


@pytest.mark.looptime
async def test_replicas_that_write_at_once_write_one_entry(scene):
    """The condition of the write decides, not the time: both are sure to be the first."""
    with_one_name = [scene.start("one") for _ in range(5)]
    for number in range(10):
        scene.write("one", f"pod-{number}")
        await asyncio.sleep(0.01)
    await asyncio.sleep(8)
    assert scene.tokens == sorted(set(scene.tokens))
    assert len(scene.tokens) == 10
    assert sum(one._observer["stored"] for one in with_one_name) == 10


@pytest.mark.looptime
async def test_entry_whose_answer_was_lost_is_not_written_again(scene):
    """It is found before the next attempt."""
    one = scene.start("one")
    scene.store.loses_answers = True
    scene.write("one")
    await asyncio.sleep(1)
    scene.store.loses_answers = False
    await asyncio.sleep(8)
    assert len(scene.entries) == 1
    assert one._observer["failed"] == one._observer["known"] == 1


@pytest.mark.looptime
async def test_ends_are_written_with_their_cause(scene):
    """Released, evicted, and expired, each once."""
    one = scene.start("one")
    scene.start("two")
    await asyncio.sleep(0.1)
    scene.write("one")
    scene.bucket._store(KEY, "", wire.release_headers("one"))
    scene.write("one")
    scene.bucket.delete(KEY)
    scene.write("one")
    await asyncio.sleep(30)
    causes = [entry["cause"] for entry in scene.entries if entry["kind"] == "ended"]
    assert causes == ["released", "evicted", "expired"]
    found = await one.terms(scene.bucket.name, KEY, limit=2)
    assert [term["cause"] for term in found] == ["expired", "evicted"]
    assert one._observer["ended released"] == 1


@pytest.mark.looptime
async def test_end_that_came_while_nobody_watched_is_written_by_who_starts(scene):
    """The marker still tells."""
    one = scene.start("one")
    scene.write("one")
    await asyncio.sleep(0.1)
    await scene.kill(one)
    await asyncio.sleep(TTL + 1)
    two = scene.start("two")
    await asyncio.sleep(10)
    (term,) = await two.terms(scene.bucket.name, KEY, limit=9)
    assert term["cause"] == "expired"


@pytest.mark.looptime
async def test_restart_writes_nothing_and_reads_little(scene):
    """A thousand elections must not read all of their history whenever a replica starts."""
    one = scene.start("one")
    for number in range(50):
        scene.write("one", f"pod-{number}")
    await asyncio.sleep(1)
    await scene.kill(one)
    before = len(scene.entries)
    scene.store.calls.clear()

    two = scene.start("two")
    await asyncio.sleep(5)
    assert len(scene.entries) == before
    assert sum(scene.store.calls.values()) <= 4
    assert len(await two.terms(scene.bucket.name, KEY, limit=100)) == before


@pytest.mark.looptime
async def test_without_a_stream_it_goes_on_and_says_so(scene):
    """What was seen is told all the same, and written when there is a stream."""
    scene.store.problem = BucketNotFound("there is no stream HISTORY: make it")
    one = scene.start("one")
    token = scene.write("one")
    await asyncio.sleep(120)
    token = scene.write("one", term=token)
    assert one.problem == "there is no stream HISTORY: make it"
    assert one._observer["failed"] < 20
    assert [term["holder"] for term in await one.terms(scene.bucket.name, KEY, limit=9)] == ["a"]

    scene.store.problem = None
    await asyncio.sleep(historian.LONGEST_PAUSE + 1)
    assert one.problem == ""
    assert scene.tokens[0] == 1


@pytest.mark.looptime
async def test_what_waits_is_bounded(scene):
    """Of too much the oldest is dropped, and counted."""
    scene.store.problem = BucketUnreachable("NATS is away")
    one = scene.start("one")
    for number in range(historian.MOST_WAITING + 5):
        scene.write("one", f"pod-{number}")
        await asyncio.sleep(0.01)
    assert one._observer["dropped"] == 5
    scene.store.problem = None
    await asyncio.sleep(60)
    assert len(scene.tokens) == historian.MOST_WAITING


@pytest.mark.looptime
async def test_stream_made_anew_is_read_anew(scene):
    """Nothing of the old one is told, and writing goes on."""
    one = scene.start("one")
    scene.write("one")
    await asyncio.sleep(1)
    scene.store.make_anew()
    token = scene.write("one", "b")
    await asyncio.sleep(20)
    assert scene.tokens == [token]
    assert [term["holder"] for term in await one.terms(scene.bucket.name, KEY, limit=9)] == ["b"]


@pytest.mark.looptime
async def test_after_a_purge_writing_goes_on_at_once(scene):
    """The refusal says that what was read is not there any more."""
    one = scene.start("one")
    scene.write("one")
    await asyncio.sleep(1)
    scene.store.purge(KEY)
    token = scene.write("one", "b")
    await asyncio.sleep(0.1)
    assert scene.tokens == [token]
    assert one._observer["failed"] == 0
    assert [term["holder"] for term in await one.terms(scene.bucket.name, KEY, limit=9)] == ["b"]


@pytest.mark.looptime
async def test_list_is_capped_by_the_stream(scene):
    """Replica and stream keep the same."""
    scene.store.kept = 10
    one = scene.start("one")
    for number in range(15):
        scene.write("one", f"pod-{number}")
        await asyncio.sleep(0.1)
    found = await one.terms(scene.bucket.name, KEY, limit=100)
    assert [term["holder"] for term in found] == [f"pod-{number}" for number in range(14, 4, -1)]


@pytest.mark.looptime
async def test_deleted_election_is_followed_until_its_release_was_seen(scene):
    """The marker comes after the election has ended, and nobody else may be there to see it."""
    one = scene.start("one")
    scene.write("one")
    await asyncio.sleep(1)
    scene.running[one][1]()
    scene.bucket._store(KEY, "", wire.release_headers("one"))
    await asyncio.sleep(historian.LINGER + 1)
    assert [entry["kind"] for entry in scene.entries] == ["began", "ended"]
    assert one._keys == {}
    one.follow(scene.bucket, KEY)


@pytest.mark.looptime
async def test_last_entries_are_written_at_the_end_of_the_process(scene):
    """Also those that others would write a moment later, but not for ever."""
    one = scene.start("one")
    scene.write("two")
    await asyncio.sleep(0.1)
    assert scene.entries == []
    await one.finish(within=1)
    assert len(scene.entries) == 1

    scene.write("two", "b")
    scene.store.problem = BucketUnreachable("NATS is away")
    await one.finish(within=1)


@pytest.mark.looptime
async def test_every_replica_tells_what_is_left_of_the_lease():
    """Also who is not the steward, by the last renewal that it saw."""
    async with two_candidates() as stage:
        await stage.lead()
        standby = await stage.start("two", nonce="other")
        await stage.until(lambda: standby.view()["remainingSeconds"])
        views = [campaigner.view() for campaigner in (stage.first, standby)]
        for view in views:
            assert 0 < view["remainingSeconds"] <= TTL
            assert (view["site"], view["steward"]) == ("site", "one")
        assert abs(views[0]["remainingSeconds"] - views[1]["remainingSeconds"]) < 0.1
        assert views[0]["candidates"] == {"total": 2, "ready": 2}
        found = await standby.history(limit=9)
        assert (found["problem"], found["terms"]) == (historian.OFF, [])
