from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from incumbent.campaign.ports import Outcome
from incumbent.campaign.records import State
from incumbent.kubernetes.objects import ElectionKey
from incumbent.server.metrics import Exposition, MemberCollector, Metrics

ELECTION = {"namespace": "shop", "election": "billing"}
NAMES = {
    "incumbent_campaigns_total": {"namespace", "election", "state"},
    "incumbent_leader": {"namespace", "election"},
    "incumbent_campaign_interval_seconds": {"namespace", "election"},
    "incumbent_transitions_total": {"namespace", "election"},
    "incumbent_token": {"namespace", "election"},
    "incumbent_candidates": {"namespace", "election"},
    "incumbent_lease_remaining_seconds": {"namespace", "election"},
    "incumbent_label_corrections_total": {"namespace", "election"},
    "incumbent_labelled_pods": {"namespace", "election"},
    "incumbent_condition": {"namespace", "election", "type", "status"},
    "incumbent_condition_reason": {"namespace", "election", "type", "reason"},
    "incumbent_bucket_write_seconds": {"outcome"},
    "incumbent_label_write_seconds": set(),
    "incumbent_slice_write_seconds": set(),
    "incumbent_handover_seconds": set(),
    "incumbent_failover_seconds": set(),
    "incumbent_nats_connected": set(),
    "incumbent_tasks": set(),
    "incumbent_history_entries_total": {"outcome"},
    "incumbent_terms_began_total": {"how"},
    "incumbent_terms_ended_total": {"cause"},
    "incumbent_build_info": {"version"},
}
"""What the process promises to serve, with the labels of each."""
HISTOGRAMS = (
    "incumbent_bucket_write_seconds",
    "incumbent_label_write_seconds",
    "incumbent_slice_write_seconds",
    "incumbent_handover_seconds",
    "incumbent_failover_seconds",
)


@dataclass
class Counts:
    """What only grows."""

    campaigns: Counter[State] = field(default_factory=Counter)
    transitions: int = 0
    corrections: int = 0


@dataclass
class Reading:
    """What is the case."""

    leads: bool = True
    interval: float = 10.0
    token: int = 4711
    candidates: int = 3
    remaining: float = 21.5
    labelled: int = 2
    conditions: list[tuple[str, str, str]] = field(
        default_factory=lambda: [("Ready", "True", "Leading"), ("Stalled", "False", "NotStalled")]
    )


class Election:
    """An election as the metrics see it."""

    def __init__(self, name="billing", **reading: Any):
        self.key = ElectionKey("shop", name)
        self.counts = Counts(Counter({State.LEADER: 5, State.CANDIDATE: 2}), 3, 1)
        self._reading = Reading(**reading)

    def reading(self):
        """Look."""
        return self._reading


@pytest.fixture
def elections():
    """The elections that are served."""
    return [Election()]


def test_text_is_made_with_little_more_memory_than_it_takes():
    """Strings for its lines would take four times as much beside it."""
    row = ["shop", "billing", [1, 2, 3], *range(8), [("Ready", "True", "Led")] * 7]
    tracemalloc.start()
    try:
        text = Exposition()
        for _ in range(500):
            text.add(row)
        size = len(text.render("up 1\n"))
        assert tracemalloc.get_traced_memory()[1] < 3 * size
    finally:
        tracemalloc.stop()


@pytest.fixture
def metrics(elections):
    return Metrics(lambda: elections, connected=lambda: True, tasks=lambda: 7, version="1.2.3")


def scrape(metrics):
    """Return all samples as a scraper reads them, in order."""
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain")
    families = text_string_to_metric_families(body.decode())
    return [sample for family in families for sample in family.samples]


def values(metrics, name):
    """Return the values of a metric by its labels, but those of the election, in their order."""
    found = {}
    for sample in scrape(metrics):
        if sample.name == name:
            labels = sorted(sample.labels.keys() - ELECTION.keys())
            found[tuple(sample.labels[label] for label in labels)] = sample.value
    return found


def test_the_names_and_labels_are_those_that_were_promised(metrics):
    """Dashboards and alerts rest on them."""
    parts = tuple(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "count", "sum"))
    found = {}
    for sample in scrape(metrics):
        name = sample.name.rpartition("_")[0] if sample.name in parts else sample.name
        found.setdefault(name, set()).update(sample.labels.keys() - {"le"})
    assert found == NAMES


def test_every_metric_is_explained(metrics):
    """A sentence and a type for each."""
    families = list(text_string_to_metric_families(metrics.render()[0].decode()))
    assert all(family.documentation.endswith(".") for family in families)
    kinds = {family.name: family.type for family in families}
    assert all(kinds[name] == "histogram" for name in HISTOGRAMS)
    assert kinds["incumbent_campaigns"] == kinds["incumbent_transitions"] == "counter"
    assert kinds["incumbent_label_corrections"] == "counter"
    assert kinds["incumbent_leader"] == kinds["incumbent_condition"] == "gauge"


@pytest.mark.parametrize(
    ("name", "expected"),
    (
        (
            "incumbent_campaigns_total",
            {("leader",): 5.0, ("candidate",): 2.0, ("unknown",): 0.0},
        ),
        ("incumbent_transitions_total", {(): 3.0}),
        ("incumbent_label_corrections_total", {(): 1.0}),
        ("incumbent_leader", {(): 1.0}),
        ("incumbent_campaign_interval_seconds", {(): 10.0}),
        ("incumbent_token", {(): 4711.0}),
        ("incumbent_candidates", {(): 3.0}),
        ("incumbent_lease_remaining_seconds", {(): 21.5}),
        ("incumbent_labelled_pods", {(): 2.0}),
        ("incumbent_condition", {("True", "Ready"): 1.0, ("False", "Stalled"): 1.0}),
        (
            "incumbent_condition_reason",
            {("Leading", "Ready"): 1.0, ("NotStalled", "Stalled"): 1.0},
        ),
        ("incumbent_nats_connected", {(): 1.0}),
        ("incumbent_build_info", {("1.2.3",): 1.0}),
    ),
)
def test_each_metric_shows_its_own(metrics, name, expected):
    """No value is shown under the name of another."""
    assert values(metrics, name) == expected


def test_an_election_is_named_by_namespace_and_name(metrics):
    """In two labels."""
    for sample in scrape(metrics):
        if sample.name == "incumbent_leader":
            assert sample.labels == ELECTION


def test_a_standby_leads_nothing(elections, metrics):
    """A sum over all replicas is the number of leaders."""
    elections[0] = Election(leads=False, remaining=0.0)
    assert values(metrics, "incumbent_leader") == {(): 0.0}


def test_connected_is_asked_at_each_scrape():
    """The gauge shows what is, not what was."""
    connected = [False, True]
    metrics = Metrics(list, connected=lambda: connected.pop(0), tasks=lambda: 7, version="1")
    assert values(metrics, "incumbent_nats_connected") == {(): 0.0}
    assert values(metrics, "incumbent_nats_connected") == {(): 1.0}


def test_tasks_are_counted_at_each_scrape():
    """A leak of them would show."""
    tasks = [3, 4]
    metrics = Metrics(list, connected=lambda: True, tasks=lambda: tasks.pop(0), version="1")
    assert values(metrics, "incumbent_tasks") == {(): 3.0}
    assert values(metrics, "incumbent_tasks") == {(): 4.0}


def test_the_series_of_an_election_vanish_with_it(elections, metrics):
    """And those of another one stay."""
    elections.append(Election("other"))
    before = {sample.labels.get("election") for sample in scrape(metrics)}
    assert before == {None, "billing", "other"}
    del elections[0]
    assert {sample.labels.get("election") for sample in scrape(metrics)} == {None, "other"}


def test_a_condition_has_one_status(elections, metrics):
    """And one reason: those before are not shown as well."""
    scrape(metrics)
    elections[0] = Election(conditions=[("Ready", "False", "Vacant")])
    assert values(metrics, "incumbent_condition") == {("False", "Ready"): 1.0}
    assert values(metrics, "incumbent_condition_reason") == {("Vacant", "Ready"): 1.0}


def test_without_elections_the_rest_is_served():
    """Histograms have their series from the start, so that a rate begins at 0."""
    metrics = Metrics(list, connected=lambda: False, tasks=lambda: 7, version="1")
    counts = values(metrics, "incumbent_bucket_write_seconds_count")
    assert counts == {("stored",): 0.0, ("refused",): 0.0, ("unknown",): 0.0}
    assert values(metrics, "incumbent_handover_seconds_count") == {(): 0.0}


@pytest.mark.parametrize(
    ("observe", "name", "labels"),
    (
        (
            lambda metrics: metrics.bucket_write(Outcome.REFUSED, 0.2),
            "bucket_write",
            ("refused",),
        ),
        (lambda metrics: metrics.label_write(0.2), "label_write", ()),
        (lambda metrics: metrics.slice_write(0.2), "slice_write", ()),
        (lambda metrics: metrics.handover(0.2), "handover", ()),
        (lambda metrics: metrics.failover(0.2), "failover", ()),
    ),
)
def test_a_duration_is_counted_where_it_belongs(metrics, observe, name, labels):
    """In seconds, and in no other histogram."""
    observe(metrics)
    names = ("bucket_write", "label_write", "slice_write", "handover", "failover")
    sums = {
        (other, key): value
        for other in names
        for key, value in values(metrics, f"incumbent_{other}_seconds_sum").items()
        if value
    }
    assert sums == {(name, labels): 0.2}


def test_a_failover_may_take_minutes(metrics):
    """Its buckets reach as far as the TTLs that are advised."""
    metrics.failover(90.0)
    buckets = {
        sample.labels["le"]: sample.value
        for sample in scrape(metrics)
        if sample.name == "incumbent_failover_seconds_bucket"
    }
    assert (buckets["60.0"], buckets["120.0"]) == (0.0, 1.0)


def test_metrics_of_two_operators_do_not_mix():
    """Nothing is registered globally."""
    first, second = (
        Metrics(list, connected=lambda: True, tasks=lambda: 7, version="1") for _ in range(2)
    )
    first.handover(1.0)
    assert values(second, "incumbent_handover_seconds_count") == {(): 0.0}


# Members that use the library


@dataclass
class Member:
    """A member as the metrics see it."""

    key: str = "jobs"
    is_leader: bool = True
    interval: float | None = 10.0
    bucket: str = "B"
    identity: str = "worker-1"
    campaigns: Counter[State] = field(
        default_factory=lambda: Counter({State.LEADER: 5, State.CANDIDATE: 2})
    )


def members(*found):
    """Return name, labels and value of all samples."""
    registry = CollectorRegistry()
    registry.register(MemberCollector(*found))
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels["election"], sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["bucket"] == "B" and sample.labels["identity"] == "worker-1"
    }


def test_a_member_has_the_three_series_of_the_original():
    """Campaigns by state, whether it leads, and how often it renews."""
    assert members(Member()) == {
        ("incumbent_campaigns_total", "jobs", "unknown"): 0,
        ("incumbent_campaigns_total", "jobs", "candidate"): 2,
        ("incumbent_campaigns_total", "jobs", "leader"): 5,
        ("incumbent_leader", "jobs", None): 1,
        ("incumbent_campaign_interval_seconds", "jobs", None): 10,
    }


def test_a_member_that_stopped_leads_no_more():
    """The gauges are 0, and what was counted stays."""
    found = members(Member(is_leader=False, interval=None))
    assert found["incumbent_leader", "jobs", None] == 0
    assert found["incumbent_campaign_interval_seconds", "jobs", None] == 0
    assert found["incumbent_campaigns_total", "jobs", "leader"] == 5


def test_one_collector_takes_several_members():
    """Each has series of its own."""
    found = members(Member(), Member("mail", is_leader=False))
    assert found["incumbent_leader", "jobs", None] == 1
    assert found["incumbent_leader", "mail", None] == 0


def test_a_registry_takes_one_collector_of_members():
    """Two would show one series twice, which no scrape may."""
    registry = CollectorRegistry()
    registry.register(MemberCollector(Member()))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(MemberCollector(Member()))
