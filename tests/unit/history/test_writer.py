"""Which replica writes an entry, and when."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import datetime

import pytest

from fakehistory import FakeHistory
from historyscene import KEY, TTL, ZERO, Observer
from incumbent import clock
from incumbent.campaign import wire
from incumbent.errors import BucketNotFound, BucketUnreachable
from incumbent.history import terms as history_terms
from incumbent.history import writer as history_writer
from incumbent.history.terms import (
    LabelChange,
)
from incumbent.history.writer import HistoryWriter
from stage import two_candidates


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
        (term,) = (await one.view.history(limit=9))["terms"]
        assert [(lead["to"], lead["exact"]) for lead in term["led"]] == [(None, True)]
        if spec:
            stage.bucket.put(KEY, "b")
        else:
            stage.cluster.delete("a")
        await stage.until(lambda: stage.leaders == ["b"])
        await asyncio.sleep(6)
        new, old = (await one.view.history(limit=9))["terms"]
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
        await stage.until(lambda: standby.view.row()["remainingSeconds"])
        views = [campaigner.view.row() for campaigner in (stage.first, standby)]
        for view in views:
            assert 0 < view["remainingSeconds"] <= TTL
            assert (view["site"], view["steward"]) == ("site", "one")
        assert abs(views[0]["remainingSeconds"] - views[1]["remainingSeconds"]) < 0.1
        assert views[0]["candidates"] == {"total": 2, "ready": 2}
        found = await standby.view.history(limit=9)
        assert (found["problem"], found["terms"]) == (history_writer.OFF, [])
