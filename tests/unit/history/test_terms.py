"""What is seen of a key and of labels becomes entries, and entries become terms."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest

from historyscene import BUCKET, TTL, ZERO, began
from incumbent.campaign.ports import Sighting
from incumbent.campaign.records import Cause, Marker, Nothing, Record
from incumbent.history import terms as history_terms
from incumbent.history.terms import (
    Ended,
    Labelled,
    LabelTracker,
    Tracker,
)
from incumbent.kubernetes.objects import Pod


def record(revision, holder="east/shop/a", *, term=0, site="east/uid", replica="one/1"):
    return Record(revision, holder, term=term or revision, replica=replica, site=site)


def stranger(revision, holder="host-1"):
    return Record(revision, holder, term=revision)


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
