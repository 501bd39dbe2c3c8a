from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incumbent.campaign.records import Cause, Marker, Record
from incumbent.campaign.wire import entry_from, headers_of, release_headers

words = st.text("aZ09-./", max_size=8)
headers_of_anybody = st.dictionaries(
    st.sampled_from(
        [
            "Incumbent-Term",
            "Incumbent-Replica",
            "Incumbent-Site",
            "Incumbent-Pod-UID",
            "Incumbent-Promoted",
            "Incumbent-Leaving",
            "Incumbent-Sent-At",
            "Incumbent-Release",
            "KV-Operation",
            "Nats-Marker-Reason",
        ]
    ),
    st.text("aé0\N{ARABIC-INDIC DIGIT FIVE} -", max_size=5)
    | st.integers().map(str)
    | st.sampled_from(["DEL", "PURGE", "MaxAge", "true"]),
)


@given(
    record=st.builds(
        Record,
        revision=st.just(7),
        holder=st.text("aé/\N{SNOWMAN}\0"),
        term=st.integers(min_value=1, max_value=7),
        replica=words.filter(bool),
        site=words,
        pod_uid=words,
        promoted=st.booleans(),
        leaving=st.booleans(),
        sent_at=st.floats(allow_nan=False, allow_infinity=False),
        wait=st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    )
)
def test_a_record_survives_the_wire(record):
    """What is read is what was written, with the revision that the server gave."""
    written = replace(record, revision=0, term=record.term % 7)

    seen = entry_from(written.holder.encode(), headers_of(written), 7)

    assert seen == record


def test_the_write_that_begins_a_term_does_not_name_it():
    """The term is the revision of the write that begins it, which nobody knows before."""
    first = Record(0, "pod", term=0, replica="r", promoted=False)

    assert headers_of(first) == {"Incumbent-Replica": "r"}


@pytest.mark.parametrize("value", (b"choria.example.net", b"", "Zoë".encode()))
def test_a_record_without_our_headers_is_a_strangers(value):
    """A stranger's record is its identity, its term is its revision, and its holder acts."""
    seen = entry_from(value, {}, 12)

    assert seen == Record(12, value.decode(), term=12)
    assert seen.stranger


def test_an_identity_that_is_not_utf8_is_shown_as_well_as_possible():
    """Broken bytes make a stranger's record, not an error."""
    assert entry_from(b"\xff!", {}, 1) == Record(1, "\N{REPLACEMENT CHARACTER}!", term=1)


@pytest.mark.parametrize(
    ("headers", "cause"),
    (
        ({"KV-Operation": "DEL"}, Cause.EVICTED),
        ({"KV-Operation": "PURGE"}, Cause.EVICTED),
        ({"KV-Operation": "DEL", "Incumbent-Replica": "r"}, Cause.EVICTED),
        ({"Nats-Marker-Reason": "Remove"}, Cause.EVICTED),
        ({"Nats-Marker-Reason": "Purge"}, Cause.EVICTED),
        ({"Nats-Marker-Reason": "MaxAge"}, Cause.EXPIRED),
        (release_headers("r"), Cause.RELEASED),
        (release_headers("r", promoted=False), Cause.EVICTED),
    ),
)
def test_a_marker_tells_why_there_is_no_record(headers, cause):
    """Only a release of a record whose holder could act counts as one."""
    assert entry_from(b"", headers, 5) == Marker(5, cause)


@pytest.mark.parametrize(
    ("term", "read"),
    (
        ("7", 7),
        ("9", 9),
        ("10", 9),
        ("0", 9),
        ("-1", 9),
        ("", 9),
        ("x", 9),
        ("\N{ARABIC-INDIC DIGIT FIVE}", 9),
        ("1" * 5000, 9),
    ),
)
def test_a_term_that_cannot_be_is_not_believed(term, read):
    """A term is a revision up to the record's own; anything else is read as that."""
    headers = {"Incumbent-Replica": "r", "Incumbent-Term": term}

    assert entry_from(b"pod", headers, 9) == Record(9, "pod", read, replica="r", promoted=False)


@pytest.mark.parametrize("wait", ("", "x", "nan", "inf", "-3", "1e999"))
def test_a_wait_that_cannot_be_is_not_told(wait):
    """Then whoever takes over waits for a whole TTL."""
    headers = {"Incumbent-Replica": "r", "Incumbent-Wait": wait}

    assert entry_from(b"pod", headers, 9).wait == 0


@pytest.mark.parametrize("sent_at", ("", "x", "nan", "inf", "-inf", "1e999"))
def test_a_sending_time_that_cannot_be_is_none(sent_at):
    """Only a number is a time, and anything else is equal to itself when it is read again."""
    headers = {"Incumbent-Replica": "r", "Incumbent-Sent-At": sent_at}

    assert entry_from(b"pod", headers, 9).sent_at == 0


@given(value=st.binary(), headers=headers_of_anybody, revision=st.integers(min_value=1))
def test_no_message_is_an_error(value, headers, revision):
    """Whatever somebody puts into the bucket is an entry of that revision."""
    assert entry_from(value, headers, revision).revision == revision
