"""The JSON of events."""

from __future__ import annotations

import datetime as dt

import pytest

from incumbent.kubernetes.events import event_about

ELECTION = {
    "apiVersion": "incumbent.dev/v1alpha1",
    "kind": "LeaderElection",
    "metadata": {"name": "billing", "namespace": "shop", "uid": "u", "resourceVersion": "7"},
}


def event(note="A note", replica="r1"):
    return event_about(
        ELECTION,
        kind="Normal",
        reason="LeaderElected",
        action="Elect",
        note=note,
        replica=replica,
        time=dt.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=dt.UTC),
    )


def test_an_event_says_who_reports_what_about_which_election():
    """All fields that the API server wants are there, the time with microseconds."""
    reported = event()
    name = reported["metadata"].pop("name")
    assert name.startswith("billing.")
    assert reported == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "regarding": {
            "apiVersion": "incumbent.dev/v1alpha1",
            "kind": "LeaderElection",
            "name": "billing",
            "namespace": "shop",
            "uid": "u",
            "resourceVersion": "7",
        },
        "type": "Normal",
        "reason": "LeaderElected",
        "action": "Elect",
        "note": "A note",
        "reportingController": "incumbent.dev/operator",
        "reportingInstance": "r1",
        "eventTime": "2026-01-02T03:04:05.000678Z",
    }


def test_two_events_have_two_names():
    """The same event a second time is another object."""
    assert event()["metadata"]["name"] != event()["metadata"]["name"]


@pytest.mark.parametrize("letter", ("x", "ä", "界"))
def test_long_notes_and_replica_names_are_cut_to_bytes(letter):
    """The API server counts bytes; no letter is cut in two."""
    reported = event(note=letter * 2000, replica=letter * 200)
    assert 1021 < len(reported["note"].encode()) <= 1024
    assert 125 < len(reported["reportingInstance"].encode()) <= 128
    assert set(reported["note"] + reported["reportingInstance"]) == {letter}
