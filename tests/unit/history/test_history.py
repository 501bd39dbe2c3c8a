"""What becomes an entry of the history, who writes it, and which terms the entries are."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import replace
from datetime import datetime

import pytest

from fakehistory import FakeHistory
from fakes import SERVER_AHEAD, FakeBucket
from incumbent import clock
from incumbent.campaign import wire
from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Cause, Marker, Nothing, Record
from incumbent.errors import BucketNotFound, BucketUnreachable
from incumbent.history import terms as history_terms
from incumbent.history import writer as history_writer
from incumbent.history.terms import (
    Began,
    Ended,
    LabelChange,
    Labelled,
    LabelTracker,
    Tracker,
    decode,
    encode,
)
from incumbent.history.writer import HistoryWriter
from incumbent.kubernetes.objects import Pod
from stage import two_candidates

KEY = "shop.billing"
BUCKET = "2026-01-01T00:00:01Z"
TTL = 10.0
ZERO = SERVER_AHEAD


def record(revision, holder="east/shop/a", *, term=0, site="east/uid", replica="one/1"):
    return Record(revision, holder, term=term or revision, replica=replica, site=site)


def stranger(revision, holder="host-1"):
    return Record(revision, holder, term=revision)


def began(token, holder="a", at=0.0, how="Elected", **fields):
    return Began(token, holder, at, BUCKET, "east", how, **fields)


def ended(revision, cause="released", at=0.0, token=0):
    return Ended(revision, cause, at, BUCKET, token)


def labelled(token, at=0.0, *, on=True, pod="a", site="east", version=0, **fields):
    return Labelled(token, on, at, BUCKET, site, pod, version, **fields)


def pod(name="a", version=1):
    return Pod("shop", name, f"uid-of-{name}", str(version))


class Watch:
    """A tracker that is shown entries a second apart."""

    def __init__(self):
        self.tracker = Tracker()
        self.now = 0.0

    def show(self, entry, *, after=1.0, age=0.0, live=True, bucket=BUCKET):
        """Show an entry, so many seconds later."""
        self.now += after
        sighting = Sighting(entry, age, live)
        return self.tracker.observe(sighting, self.now, ahead=ZERO, bucket=bucket, ttl=TTL)


# What is seen becomes entries


def test_first_record_that_is_seen_began_some_time_before():
    """Who starts to watch does not know how a term began, and not always when."""
    watch = Watch()
    (entry,) = watch.show(record(7, term=5), age=0.5, live=False)
    assert (entry.token, entry.how, entry.at, entry.exact) == (5, "", ZERO + 0.5, False)

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
    assert watch.show(Marker(5, cause), age=0.25) == [ended(5, cause.value, ZERO + 1.75)]
    assert watch.show(Marker(6, Cause.EVICTED)) == []
    assert watch.show(Marker(6, Cause.EVICTED), live=False) == []


def test_expiry_without_markers_is_seen_at_the_next_record():
    """A bucket without markers tells nothing when a record expires."""
    watch = Watch()
    watch.show(record(4))
    end, begin = watch.show(record(5, "east/shop/b"), after=15)
    assert (end.cause, end.at, end.revision) == ("expired", ZERO + 1 + TTL, 5)
    assert begin.how == "Elected"


def test_record_that_is_gone_when_the_watch_is_back_has_expired():
    """The watch shows nothing then, so the time is an estimate."""
    watch = Watch()
    watch.show(record(4))
    (end,) = watch.show(Nothing(), after=60, live=False)
    assert (end.cause, end.at, end.exact) == ("expired", ZERO + 1 + TTL, False)


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


# What is seen of labels


class Labels:
    """A tracker of labels, that is shown pods by name: with a token if they have the label."""

    def __init__(self):
        self.tracker = LabelTracker()
        self.now = 0.0

    def show(self, version=1, **tokens):
        """Show pods, each in this version, a second later."""
        self.now += 1
        pods = [pod(name, version) for name in tokens]
        shown = {f"uid-of-{name}": token for name, token in tokens.items() if token is not None}
        changes = self.tracker.observe(pods, shown, self.now)
        return [(one.pod, one.token, one.on, one.version, one.exact) for one in changes]


def test_label_that_comes_and_goes_is_a_change_each():
    """With the version of the pod that shows it."""
    labels = Labels()
    labels.show(a=None, b=None)
    assert labels.show(2, a=5, b=None) == [("a", 5, True, 2, True)]
    assert labels.show(3, a=5, b=None) == []
    assert labels.show(4, a=None, b=None) == [("a", 5, False, 4, True)]


def test_label_of_a_pod_that_is_gone_is_gone_after_it_was_seen_last():
    """Its end has no version of its own here."""
    labels = Labels()
    labels.show(a=None)
    labels.show(7, a=5)
    assert labels.show(9) == [("a", 5, False, 8, True)]


def test_next_term_of_the_same_pod_is_another_label():
    """With `Hold` a pod keeps its label from one term to the next."""
    labels = Labels()
    labels.show(a=None)
    labels.show(2, a=5)
    assert labels.show(3, a=9) == [("a", 5, False, 3, True), ("a", 9, True, 3, True)]


def test_label_that_is_there_at_the_start_is_older():
    """And if there is none, nobody knows since when."""
    assert Labels().show(2, a=5, b=None) == [("a", 5, True, 2, False)]
    assert Labels().show(2, a=None) == [("", 0, False, 0, False)]


# What is missing


def test_a_term_is_written_once():
    """Whatever others know of its beginning."""
    other = began(5, at=3.0, how="", exact=False, writer="two")
    assert history_terms.missing(began(5), []) == began(5)
    assert history_terms.missing(began(5), [other]) is None
    assert history_terms.missing(began(5), [began(9)]) == began(5)
    assert history_terms.missing(replace(began(5), bucket="later"), [began(5)]) is not None


def test_an_end_is_that_of_the_term_before():
    """Not of one that began later, and not twice."""
    known = [began(5), began(9)]
    assert history_terms.missing(ended(8), known) == ended(8, token=5)
    assert history_terms.missing(ended(12), known) == ended(12, token=9)
    assert history_terms.missing(ended(12), [*known, ended(11, token=9)]) is None
    assert history_terms.missing(ended(3), known) is None


def test_later_record_of_a_stranger_is_no_second_term():
    """A replica that starts in the middle of its reign takes a later record for the first."""
    known = [began(5, "host-1", stranger=True)]
    late = began(8, "host-1", stranger=True)
    assert history_terms.missing(late, known) is None
    assert history_terms.missing(late, [*known, ended(7, token=5)]) == late
    assert history_terms.missing(replace(late, holder="host-2"), known) is not None


def test_label_is_written_once_whichever_replica_saw_it():
    """The version of the pod says who saw more, whatever their clocks say."""
    on, off = labelled(5, 100, version=7), labelled(5, 150, on=False, version=9)
    late = labelled(5, 100.3, version=7, exact=False)
    assert history_terms.missing(on, [began(5)]) == on
    assert history_terms.missing(late, [began(5), on]) is None
    assert history_terms.missing(off, [began(5), on]) == off
    assert history_terms.missing(labelled(5, 151, on=False, version=8), [on, off]) is None
    assert history_terms.missing(late, [on, off]) is None, "what was seen before is no second label"
    again = labelled(5, 160, version=11)
    assert history_terms.missing(again, [on, off]) == again
    assert history_terms.missing(off, [began(5)]) is None, "without a label none is lost"


def test_labels_of_two_sites_have_nothing_to_do_with_each_other():
    """Nor have their pods' versions."""
    west = labelled(9, 100, site="west", pod="w", version=3)
    assert history_terms.missing(west, [labelled(5, 90, version=1000)]) == west


def test_label_that_was_lost_while_no_replica_looked_ends_when_one_looks_again():
    """Not one that another replica wrote at that moment."""
    none = labelled(0, 200, on=False, pod="", exact=False)
    on = labelled(5, 100, version=7)
    found = history_terms.missing(none, [began(5), on])
    assert (found.token, found.pod, found.on, found.at, found.exact) == (5, "a", False, 200, False)
    assert (
        history_terms.missing(none, [began(5), on, labelled(5, 150, on=False, version=9)]) is None
    )
    assert history_terms.missing(none, [began(5), replace(on, at=199)]) is None
    assert history_terms.missing(none, [began(5), replace(on, site="west")]) is None


def test_stranger_has_the_token_of_the_term_that_is_written_down():
    """Its label shows none."""
    known = [began(5, "a", 100, stranger=True), began(12, "b", 200, stranger=True)]
    on = history_terms.missing(labelled(0, 201, pod="b", version=3), known)
    assert on.token == 12
    assert history_terms.missing(labelled(0, 110, pod="a", version=2), known).token == 5
    off = history_terms.missing(labelled(0, 260, on=False, pod="b", version=4), [*known, on])
    assert off.token == 12
    assert history_terms.missing(labelled(0, 1, pod="a"), [began(5)]) is None


# What it means


def led(*entries):
    """Return when the pods of the terms led, the oldest term first."""
    return [[(lead.began, lead.ended, lead.exact) for lead in term.led] for term in terms(entries)]


def terms(entries):
    return history_terms.terms(entries)[::-1]


def test_a_term_says_when_its_pod_had_the_label():
    """An outage of NATS that ends neither the record nor the term takes the label away."""
    assert led(
        began(5, at=100),
        labelled(5, 101),
        labelled(5, 150, on=False),
        labelled(5, 170),
        began(9, at=200, how="HandedOver"),
        labelled(5, 199, on=False),
        labelled(9, 201),
    ) == [[(101, 150, True), (170, 199, True)], [(201, None, True)]]


def test_label_may_outlive_the_record_and_two_may_lead():
    """As where the operator of a cluster is dead: the other cluster cannot know."""
    east, west = terms(
        (
            began(5, at=100),
            labelled(5, 101),
            ended(8, "expired", 150, token=5),
            replace(began(9, "w", at=151), site="west"),
            labelled(9, 152, site="west", pod="w"),
            labelled(5, 300, on=False),
        )
    )
    assert east.led[0].ended > west.led[0].began


def test_end_of_a_label_that_nobody_saw_is_unknown():
    """It is not guessed; what was seen some time later says so."""
    assert led(began(5, at=100), labelled(5, 101), ended(8, "expired", 150, token=5)) == [
        [(101, None, True)]
    ]
    late = labelled(5, 400, on=False, exact=False)
    assert led(began(5, at=100), labelled(5, 101), late) == [[(101, 400, False)]]


def test_history_of_an_earlier_version_says_nothing_of_labels():
    """Nor does a leader that is no pod."""
    (term,) = history_terms.terms([began(5, at=100)])
    assert term.as_json()["led"] is None


def test_no_term_ends_before_it_began_though_the_servers_clock_stepped_back():
    """The order of terms comes from their tokens."""
    (term,) = terms([began(5, at=5000), labelled(5, 5001), ended(8, "released", 1400, token=5)])
    assert (term.began, term.ended) == (5000, 5000)
    (term,) = terms([began(5, at=5000), labelled(5, 5001), labelled(5, 1400, on=False)])
    assert (term.led[0].began, term.led[0].ended) == (5001, 5001)


def test_previous_version_skips_what_it_does_not_know():
    """It reads two kinds of entries, and takes anything else for somebody else's message."""
    kinds = {
        json.loads(history_terms.encode(one, writer="w"))["kind"]
        for one in (labelled(5), labelled(5, on=False))
    }
    assert kinds.isdisjoint({"began", "ended"})


@pytest.mark.parametrize("order", (*itertools.permutations(range(4)),))
def test_terms_follow_each_other_whoever_wrote_late(order):
    """The order of the entries does not matter, their tokens do."""
    entries = [
        began(5, "a", 100),
        began(7, "b", 110, how="HandedOver"),
        ended(8, "released", 120, token=7),
        began(9, "c", 130),
    ]
    found = history_terms.terms(entries[number] for number in order)
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
    _, first = history_terms.terms([began(5, at=100), began(9, at=110, how=how)])
    assert (first.cause, first.ended) == (cause, to)


@pytest.mark.parametrize(
    ("latest", "cause"), ((None, ""), (record(9), ""), (Marker(9, Cause.EXPIRED), "lost"))
)
def test_no_term_lasts_on_a_vacant_key(latest, cause):
    """Also where nobody wrote down the end."""
    (term,) = history_terms.terms([began(5)], latest=latest)
    assert term.cause == cause


def test_end_without_a_beginning_is_left_out():
    """Of a capped list the oldest may be half a term."""
    assert history_terms.terms([ended(4, token=3)]) == []


@pytest.mark.parametrize(
    "entry",
    (
        began(5, at=12.345, writer="one/1"),
        began(5, how="", exact=False, stranger=True, writer="one/1"),
        replace(ended(9, "evicted", at=1.5, token=5), exact=False, writer="one/1"),
        labelled(5, at=2.5, version=77, writer="one/1"),
        labelled(5, at=2.5, on=False, exact=False, writer="one/1"),
    ),
)
def test_entries_survive_being_stored(entry):
    """To the millisecond."""
    again = history_terms.decode(history_terms.encode(entry, writer="one/1"))
    assert again == replace(entry, at=pytest.approx(entry.at))


@pytest.mark.parametrize(
    "data", (b"", b"\xff", b"[]", b"{}", b'{"kind": "began", "token": 1}', b'{"kind": 1}', b"1")
)
def test_what_others_write_to_the_stream_is_passed_over(data):
    """It is no entry, and no error."""
    assert history_terms.decode(data) is None


# Who writes it


class Observer(Counter):
    """Counts what the writer of a history reports."""

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
        one = HistoryWriter(self.store.view(), replica=name, observer=Observer())
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

    await asyncio.sleep(2 * history_writer.OTHERS_AFTER + 0.1)
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
    await asyncio.sleep(2 * history_writer.OTHERS_AFTER + 0.1)

    (entry,) = scene.entries
    assert (entry["token"], entry["writer"], entry["how"]) == (token, "two", "Elected")
    at = history_terms.decode(scene.store.messages(KEY)[0]).at
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
    (term,) = await one.terms(scene.bucket.name, KEY, limit=9)
    began_at = datetime.fromisoformat(term["from"]).timestamp()
    assert term["holder"] == "a"
    assert began_at == pytest.approx(ZERO, abs=5), "by the server's clock, though no stream tells"

    scene.store.problem = None
    await asyncio.sleep(history_writer.BACKOFF.longest + 1)
    assert one.problem == ""
    assert scene.tokens[0] == 1


@pytest.mark.looptime
async def test_what_waits_is_bounded(scene):
    """Of too much the oldest is dropped, and counted."""
    scene.store.problem = BucketUnreachable("NATS is away")
    one = scene.start("one")
    for number in range(history_writer.MOST_WAITING + 5):
        scene.write("one", f"pod-{number}")
        await asyncio.sleep(0.01)
    assert one._observer["dropped"] == 5
    scene.store.problem = None
    await asyncio.sleep(60)
    assert len(scene.tokens) == history_writer.MOST_WAITING


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
    await asyncio.sleep(history_writer.LINGER + 1)
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


def label(name="a", token=1, *, on=True, version=1, exact=True):
    """Return a change of the label of a pod, at this moment."""
    return LabelChange(token, on, clock.now(), name, version, exact)


async def leads(one, scene):
    """Return when the newest terms' pods led, in seconds since the start."""
    seconds = lambda text: text and round(datetime.fromisoformat(text).timestamp() - ZERO)  # noqa: E731
    found = await one.terms(scene.bucket.name, KEY, limit=9)
    return [
        [(seconds(lead["from"]), seconds(lead["to"])) for lead in term["led"] or ()]
        for term in found[::-1]
    ]


@pytest.mark.looptime
async def test_outage_without_a_leader_is_told_though_the_record_outlived_it(scene):
    """NATS keeps the record while it is away, and the label goes at the deadline."""
    one, where = scene.start("one"), (scene.bucket.name, KEY)
    token = scene.write("one")
    one.note_labels(*where, [label(token=token)], site="east")
    await asyncio.sleep(10)
    scene.store.problem = BucketUnreachable("NATS is away")
    one.note_labels(*where, [label(token=token, on=False, version=2)], site="east")
    await asyncio.sleep(60)
    scene.store.problem = None
    later = scene.write("one", "b")
    await asyncio.sleep(20)
    one.note_labels(*where, [label("b", later, version=3)], site="east")
    await asyncio.sleep(40)
    assert await leads(one, scene) == [[(0, 10)], [(90, None)]]
    kinds = [entry["kind"] for entry in scene.entries]
    assert kinds.count("labelled") == 2
    assert kinds.count("unlabelled") == 1


@pytest.mark.looptime
async def test_labels_are_written_once_by_all_replicas_of_a_site(scene):
    """At once by the steward; the others look a moment later, and after a restart, too."""
    replicas = [scene.start("one"), scene.start("two")]
    token = scene.write("one")
    await asyncio.sleep(1)
    for on, version in ((True, 1), (False, 2), (True, 3)):
        for one in replicas:
            change = label(token=token, on=on, version=version)
            one.note_labels(scene.bucket.name, KEY, [change], site="east")
        await asyncio.sleep(0.5)
    third = scene.start("three")
    third.note_labels(scene.bucket.name, KEY, [label(token=token, version=3)], site="east")
    await asyncio.sleep(6)
    shown = [entry["kind"] for entry in scene.entries]
    assert shown == ["began", "labelled", "unlabelled", "labelled"]


@pytest.mark.looptime
async def test_label_that_was_seen_before_nats_is_dated_when_the_time_is_known(scene):
    """A replica that starts while NATS is away strips, and knows when."""
    with scene.bucket.unreachable():
        one = scene.start("one")
        where = scene.bucket.name, KEY
        one.note_labels(*where, [label(token=1, version=5, exact=False)], site="east")
        await asyncio.sleep(4)
        one.note_labels(*where, [label(token=1, on=False, version=6)], site="east")
        await asyncio.sleep(30)
        assert await one.terms(*where, limit=9) == []
    scene.write("two")
    await asyncio.sleep(20)
    (found,) = await leads(one, scene)
    assert found == [(0, 4)]


@pytest.mark.looptime
async def test_beginning_of_a_term_is_written_before_its_label(scene):
    """So whoever finds the label written down knows that the term is, too."""
    scene.bucket.listen(lambda: None)
    await asyncio.sleep(1)
    scene.write("two")
    with scene.bucket.unreachable():
        one = scene.start("one")
        one.note_labels(scene.bucket.name, KEY, [label(exact=False)], site="east")
        await asyncio.sleep(1)
    await asyncio.sleep(6)
    assert [entry["kind"] for entry in scene.entries] == ["began", "labelled"]


@pytest.mark.looptime
async def test_restart_that_finds_no_label_ends_the_last_one(scene):
    """Its end was not written; how that was is not known, and it is not read for this alone."""
    one, where = scene.start("one"), (scene.bucket.name, KEY)
    token = scene.write("one")
    one.note_labels(*where, [label(token=token)], site="east")
    await asyncio.sleep(1)
    await scene.kill(one)
    await asyncio.sleep(TTL * 3)
    two = scene.start("two")
    two.note_labels(
        *where, [LabelChange(0, on=False, at=clock.now(), pod="", exact=False)], site="east"
    )
    await asyncio.sleep(6)
    (term,) = await two.terms(*where, limit=9)
    (lead,) = term["led"]
    assert (lead["exact"], lead["to"] is None) == (False, False)
    assert "unlabelled" not in {entry["kind"] for entry in scene.entries}
    scene.write("two", "b")
    await asyncio.sleep(1)
    assert "unlabelled" in {entry["kind"] for entry in scene.entries}


@pytest.mark.looptime
async def test_label_belongs_to_the_bucket_of_its_term(scene):
    """In one made anew the same token is another term."""
    one, where = scene.start("one"), (scene.bucket.name, KEY)
    token = scene.write("one")
    one.note_labels(*where, [label(token=token)], site="east")
    await asyncio.sleep(10)
    scene.bucket.recreate()
    await asyncio.sleep(10)
    one.note_labels(*where, [label(token=token, on=False, version=2)], site="east")
    await asyncio.sleep(10)
    assert await leads(one, scene) == [[(0, 20)]]


@pytest.mark.looptime
@pytest.mark.parametrize("spec", ({}, {"mode": "Observed"}))
async def test_history_of_an_operator_has_the_labels_of_its_pods(spec):
    """From the watch and from its own writes, also where the members campaign themselves."""
    async with two_candidates() as stage:
        stage.change(**spec)
        store = FakeHistory()
        keeper = HistoryWriter(store, replica="one/nonce", observer=Observer())
        writing = asyncio.create_task(keeper.run())
        one = await stage.start(history_writer=keeper)
        if spec:
            stage.bucket.put(KEY, "a")  # as Choria does
        await stage.until(lambda: stage.leaders == ["a"])
        await asyncio.sleep(1)
        (term,) = (await one.history(limit=9))["terms"]
        assert [(lead["to"], lead["exact"]) for lead in term["led"]] == [(None, True)]
        if spec:
            stage.bucket.put(KEY, "b")
        else:
            stage.cluster.delete("a")
        await stage.until(lambda: stage.leaders == ["b"])
        await asyncio.sleep(6)
        new, old = (await one.history(limit=9))["terms"]
        assert old["led"][0]["from"] < old["led"][0]["to"] <= new["led"][0]["from"]
        kinds = sorted(json.loads(data)["kind"] for data in store.messages(KEY))
        assert kinds == ["began", "began", "labelled", "labelled", "unlabelled"]
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing


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
        assert (found["problem"], found["terms"]) == (history_writer.OFF, [])


# What is kept in memory, and what a reader may ask for


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
