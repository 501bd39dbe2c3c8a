"""Text of other people, as it is shown."""

import string
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incumbent.display import LONGEST_SHOWN, MOST_MARKS, cell, line, shown
from incumbent.kubernetes.events import NOTE_BYTES, event_about

ANY = st.text(st.characters(), max_size=60) | st.text(
    st.sampled_from(
        "a \x1b\x07\x9b\n\r\t\x7f\u202e\u2066\u200b\u0301\u05d0\u3164\ud800\ufe0f\u2028"
    ),
    max_size=40,
)
"""Any text, lone surrogates included, and more of what does harm than chance would give."""


def harmless(text):
    """Whether a text is one line without anything that a terminal obeys, hides or turns round."""
    marks = MOST_MARKS
    for letter in text:
        marks = marks + 1 if unicodedata.category(letter) in {"Mn", "Me"} else 0
        if (
            not letter.isprintable()
            or marks > MOST_MARKS
            or unicodedata.bidirectional(letter) in {"R", "AL", "AN", "RLO", "LRO", "RLE", "LRE"}
            or letter in "\u2800\u3164\ufe0f\u115f"
        ):
            return False
    return True


@given(ANY)
def test_what_is_shown_does_no_harm(text):
    """It has no control character, no line feed, nothing invisible, nothing from right to left."""
    assert harmless(shown(text))
    assert harmless(line(text))
    assert harmless(cell(text))


@given(ANY)
def test_what_was_escaped_stays_so(text):
    """Nothing is escaped twice, so that a status can be shown on a terminal."""
    assert shown(shown(text)) == shown(text)
    assert line(shown(text)) == shown(text)


@given(st.text(st.characters(), max_size=60), st.integers(12, 70))
def test_nothing_is_endless(text, longest):
    """It has at most as many characters as are asked for, and no half of an escape."""
    found = shown(text * 3, longest)
    assert len(found) <= longest
    if found.endswith("…") and not text.endswith("…"):
        assert line(text * 3).startswith(found[:-1])


@given(ANY)
def test_a_cell_has_no_gap_that_looks_like_a_column(text):
    """Columns are three spaces apart, so a cell neither begins or ends with a space nor has two."""
    found = cell(text)
    assert found.strip() == found
    assert "  " not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("site-a/shop/billing-1", "site-a/shop/billing-1"),
        ("Zürich, 東京, e\u0301te\u0301", "Zürich, 東京, e\u0301te\u0301"),
        ("a\x1b]0;x\x07b", r"a\x1b]0;x\x07b"),
        ("a\x9b2Jb", r"a\x9b2Jb"),
        ("a\r\nb", r"a\r\nb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u200bb", r"a\u200bb"),
        ("a\u05d0b", r"a\u05d0b"),
        ("a\ud800b", r"a\ud800b"),
        ("\u0301a", r"\u0301a"),
        ("a" + "\u0301" * 5, "a" + "\u0301" * 3 + r"\u0301\u0301"),
        ("a\ufe0f\u3164b", r"a\ufe0f\u3164b"),
        ("a" * 2000, "a" * (LONGEST_SHOWN - 1) + "…"),
    ),
)
def test_examples(text, expected):
    """What is plain stays; what is not is named."""
    assert shown(text) == expected


def test_all_that_kubernetes_allows_in_names_stays():
    """No name of an object is changed."""
    name = string.ascii_lowercase + string.digits + "-."
    assert shown(name) == line(name) == cell(name) == name


@given(st.text(st.characters(), max_size=2000))
def test_any_note_of_an_event_is_accepted(text):
    """The API server takes 1024 bytes of UTF-8, so of no lone surrogate."""
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1"}
    election = {"apiVersion": "v1", "kind": "LeaderElection", "metadata": metadata}
    event = event_about(
        election,
        kind="Warning",
        reason="AdmissionDenied",
        action="Campaign",
        note=text * 2,
        replica="r",
        time=datetime.now(UTC),
    )
    assert len(event["note"].encode()) <= NOTE_BYTES
    assert harmless(event["note"])
