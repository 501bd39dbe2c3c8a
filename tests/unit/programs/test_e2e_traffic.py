"""What clients saw, in figures: the part of `make e2e` that needs no nodes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application

from chaos.history import Entry, Message
from e2e import report
from e2e.traffic import Answer, Bucket, Ledger, figures, first_answers, read


def record(at, revision, pod, *, term=0, entry=Entry.RECORD):
    """Return a message of the bucket."""
    return Message(at, "billing", revision, entry, site="east", pod=pod, term=term or revision)


def answer(at, pod, *, kept=False, client="east-1", target="billing-leader"):
    """Return an answer that came at once."""
    return Answer(at, at, client, target, kept, pod, "accepted")


BUCKET = Bucket(
    [
        record(0, 1, "a"),
        record(5, 2, "a", term=1),
        record(10, 3, "b"),
        record(30, 4, "b", term=3, entry=Entry.RELEASED),
    ]
)


@pytest.mark.parametrize(
    ("at", "pod"), ((-1, ""), (0, "a"), (9.9, "a"), (10, "b"), (29, "b"), (31, ""))
)
def test_leader_is_who_the_latest_record_named(at, pod):
    """Nobody before the first one, and nobody once it is released."""
    assert BUCKET.leader(at) == pod


def test_terms_begin_with_the_first_record_that_was_seen():
    """A renewal begins none, unless the record before it was overwritten while nobody looked."""
    assert [(m.pod, m.term) for m in BUCKET.terms(0, 20)] == [("a", 1), ("b", 3)]
    late = record(11, 4, "b", term=3)
    assert Bucket([record(0, 1, "a"), late]).terms(5, 20) == [late]


def test_silence_is_the_longest_time_without_an_answer():
    """Also where it has not ended, or had begun, when the fault came."""
    seen = [answer(at, "a") for at in (9, 9.5)] + [answer(at, "b") for at in (12, 12.5, 15)]
    assert figures(seen, BUCKET, since=10, until=15).silence == 2.5
    assert figures(seen, BUCKET, since=10, until=20).silence == 5
    assert figures([], BUCKET, since=10, until=20).silence == 11


def test_answer_of_a_former_leader_is_late():
    """By what the bucket said when it was asked; that it lost while it answered is no matter."""
    seen = [answer(9.9, "a"), answer(10.2, "a"), answer(10.4, "b"), answer(12, "a")]
    found = figures([*seen, answer(31, "b")], BUCKET, since=9.5, until=40)
    assert (found.answers, found.late) == (5, 3)
    assert found.late_until == 21.5
    assert found.moved == pytest.approx(0.9)


def test_first_answer_of_the_next_leader_is_found_for_each_client():
    """An answer on a connection that is kept, or of another Service, does not count."""
    seen = [
        answer(10.1, "a"),
        answer(10.2, "b", kept=True),
        answer(10.2, "b", target="other"),
        answer(10.5, "b"),
        answer(10.7, "b", client="east-2"),
        answer(20.3, "c"),
    ]
    moments = [(10.0, "a"), (20.0, "b")]
    found = first_answers(seen, "billing-leader", moments)
    assert found == pytest.approx([0.5, 0.3, 0.7])


def test_answer_of_who_came_to_lead_meanwhile_is_not_late():
    """As where nobody was there at first, and a connection was tried again."""
    waited = replace(answer(9.5, "b"), done=10.5)
    assert figures([waited], BUCKET, since=9, until=12).late == 0


async def test_ledger_refuses_smaller_tokens():
    """And tells which tokens two pods came with."""
    ledger, application = Ledger(), Application()
    application.router.add_post("/", ledger.write)
    async with TestClient(TestServer(application)) as client:
        statuses = []
        for pod, token in (("a", 1), ("b", 7), ("a", 1), ("b", 7), ("c", 7)):
            response = await client.post("/", data=json.dumps({"pod": pod, "token": token}))
            statuses.append(response.status)
    assert statuses == [200, 200, 409, 200, 200]
    assert ledger.shared() == [7]


def test_records_are_read_and_a_torn_line_is_left_out(tmp_path):
    """A client that is killed may have written half of one."""
    row = [100.0, 100.5, "billing-leader", False, "a", 7, "accepted"]
    (tmp_path / "east-1.jsonl").write_text(f"{json.dumps(row)}\n[100.9, 10")
    (found,) = read(tmp_path, wall=100)
    expected = Answer(0, 0.5, "east-1", "billing-leader", kept=False, pod="a", write="accepted")
    assert found == expected


def test_routes_are_told_in_milliseconds():
    """Half of all, nine of ten, and the longest."""
    table = report.routes([{"title": "label", "seconds": [0.01 * n for n in range(1, 11)]}])
    assert table.splitlines()[-1] == "| label | 55 ms | 90 ms | 100 ms | 10 |"


def test_marker_begins_no_term():
    """It has the greatest revision, and nobody's term."""
    expired = record(40, 9, "", entry=Entry.EXPIRED)
    assert Bucket([expired]).terms(0, 50) == []
