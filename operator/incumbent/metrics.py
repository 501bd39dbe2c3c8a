"""Metrics: the only module that imports `prometheus_client`.

What belongs to an election is read from its campaigner when a scrape comes, so that a stable
election costs nothing, and the series of a deleted one vanish. Histograms have no label for the
election: a thousand elections would make ten thousand series of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from incumbent.history import BEGINNINGS, CAUSES
from incumbent.model import ElectionKey, State
from incumbent.ports import Outcome

_ELECTION = ("namespace", "election")
_MEMBER = ("bucket", "election", "identity")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Counts(Protocol):
    """What only grows."""

    @property
    def campaigns(self) -> Mapping[State, int]:
        """Attempts at a write of the record, by the state before."""
        ...

    @property
    def transitions(self) -> int:
        """Terms that began with this replica as the steward."""
        ...

    @property
    def corrections(self) -> int:
        """Leader labels taken from pods that did not lead."""
        ...


class Reading(Protocol):
    """What is the case at this moment."""

    @property
    def leads(self) -> bool:
        """Whether a pod leads, and this replica is the steward."""
        ...

    @property
    def interval(self) -> float:
        """Seconds between renewals."""
        ...

    @property
    def token(self) -> int:
        """The token of the present term; 0 if there is none."""
        ...

    @property
    def candidates(self) -> int:
        """How many pods of this site could lead."""
        ...

    @property
    def remaining(self) -> float:
        """Seconds to the deadline; 0 if this replica is not the steward."""
        ...

    @property
    def labelled(self) -> int:
        """How many pods carry the leader label."""
        ...

    @property
    def conditions(self) -> Iterable[tuple[str, str, str]]:
        """Type, status and reason of each condition."""
        ...


class Election(Protocol):
    """An election that this process serves."""

    @property
    def key(self) -> ElectionKey:
        """Its namespace and name."""
        ...

    @property
    def counts(self) -> Counts:
        """What only grows."""
        ...

    def reading(self) -> Reading:
        """Look at what is the case."""
        ...


class Member(Protocol):
    """An `incumbent.Election`, as far as it is measured."""

    bucket: str
    key: str
    identity: str

    @property
    def campaigns(self) -> Mapping[State, int]:
        """Attempts at a write of the record, by the state before."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether it may act as the leader."""
        ...

    @property
    def interval(self) -> float | None:
        """Seconds between renewals; None while it does not campaign."""
        ...


class Metrics:
    """All metrics of one operator process; an `incumbent.ports.Observer`.

    Args:
        elections: returns those that are served now.
        connected: whether NATS answers.
        tasks: how many there are.
        version: of the operator.
    """

    def __init__(
        self,
        elections: Callable[[], Iterable[Election]],
        *,
        connected: Callable[[], bool],
        tasks: Callable[[], int],
        version: str,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Elections(elections))
        disable_created_metrics()  # type: ignore[no-untyped-call]  # noise: one gauge per series
        self._writes = self._histogram(
            "incumbent_bucket_write_seconds", "Time to the answer of a write.", ["outcome"]
        )
        for outcome in Outcome:
            self._writes.labels(outcome.value)
        self._labels = self._histogram(
            "incumbent_label_write_seconds", "Time to a confirmed change of a leader label."
        )
        self._slices = self._histogram(
            "incumbent_slice_write_seconds",
            "Time to a confirmed change of an EndpointSlice; only with spec.routing.",
        )
        self._handovers = self._histogram(
            "incumbent_handover_seconds",
            "From the reason for a hand-over within the site to the new leader's label.",
        )
        self._failovers = self._histogram(
            "incumbent_failover_seconds",
            "From the sight of a vacant key to the new leader's label.",
            buckets=_LONG_SECONDS,
        )
        self._history = self._counter(
            "incumbent_history_entries",
            "What became of the entries of the history: stored by this replica, known already,"
            " failed and to be tried again, or dropped.",
            "outcome",
            ("stored", "known", "failed", "dropped"),
        )
        self._began = self._counter(
            "incumbent_terms_began",
            "Terms whose beginning this replica wrote to the history.",
            "how",
            (*BEGINNINGS, "Unknown"),
        )
        self._ended = self._counter(
            "incumbent_terms_ended",
            "Terms whose end this replica wrote to the history.",
            "cause",
            CAUSES,
        )
        self._gauge("incumbent_nats_connected", "Whether NATS answers (1) or not (0).", connected)
        self._gauge(
            "incumbent_tasks",
            "Tasks of the event loop; for each election there is a fixed number.",
            tasks,
        )
        build = Info("incumbent_build", "The version of the operator.", registry=self._registry)
        build.info({"version": version})

    def _histogram(
        self,
        name: str,
        text: str,
        labels: Iterable[str] = (),
        buckets: Iterable[float] = _SECONDS,
    ) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=tuple(buckets))

    def _gauge(self, name: str, text: str, look: Callable[[], float]) -> None:
        Gauge(name, text, registry=self._registry).set_function(look)

    def _counter(self, name: str, text: str, label: str, values: Iterable[str]) -> Counter:
        counter = Counter(name, text, [label], registry=self._registry)
        for value in values:
            counter.labels(value)
        return counter

    def bucket_write(self, outcome: Outcome, seconds: float) -> None:
        """See `incumbent.ports.Observer`."""
        self._writes.labels(outcome.value).observe(seconds)

    def label_write(self, seconds: float) -> None:
        """See `incumbent.ports.Observer`."""
        self._labels.observe(seconds)

    def slice_write(self, seconds: float) -> None:
        """See `incumbent.ports.Observer`."""
        self._slices.observe(seconds)

    def handover(self, seconds: float) -> None:
        """See `incumbent.ports.Observer`."""
        self._handovers.observe(seconds)

    def failover(self, seconds: float) -> None:
        """See `incumbent.ports.Observer`."""
        self._failovers.observe(seconds)

    def history_entry(self, outcome: str) -> None:
        """See `incumbent.ports.HistoryObserver`."""
        self._history.labels(outcome).inc()

    def term_began(self, how: str) -> None:
        """See `incumbent.ports.HistoryObserver`."""
        self._began.labels(how or "Unknown").inc()

    def term_ended(self, cause: str) -> None:
        """See `incumbent.ports.HistoryObserver`."""
        self._ended.labels(cause).inc()

    def render(self) -> tuple[bytes, str]:
        """Return what a scrape gets, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class _Elections(Collector):
    """The series of each election, made when they are asked for."""

    def __init__(self, elections: Callable[[], Iterable[Election]]) -> None:
        self._elections = elections

    def describe(self) -> Iterable[Metric]:
        """Return nothing: asking for the names must not need the elections."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return all series of all elections."""
        campaigns = CounterMetricFamily(
            "incumbent_campaigns",
            "Attempts to create, renew or transfer the record, by the state before.",
            labels=(*_ELECTION, "state"),
        )
        transitions = _counter("transitions", "Terms that began with this replica as the steward.")
        corrections = _counter(
            "label_corrections", "Leader labels taken from pods that did not lead."
        )
        leader = _gauge("leader", "1 at the steward of a pod that leads, else 0.")
        interval = _gauge("campaign_interval_seconds", "Time between renewals.")
        token = _gauge("token", "The fencing token of the present term, whoever leads.")
        candidates = _gauge("candidates", "Pods of this site that could lead.")
        remaining = _gauge(
            "lease_remaining_seconds", "Time to the steward's deadline; 0 at everybody else."
        )
        labelled = _gauge(
            "labelled_pods", "Pods that carry the leader label: 0 or 1 but for faults."
        )
        conditions = GaugeMetricFamily(
            "incumbent_condition",
            "1 for the present status of each condition of the resource.",
            labels=(*_ELECTION, "type", "status"),
        )
        reasons = GaugeMetricFamily(
            "incumbent_condition_reason",
            "1 for the present reason of each condition of the resource.",
            labels=(*_ELECTION, "type", "reason"),
        )
        for election in self._elections():
            key = (election.key.namespace, election.key.name)
            counts, reading = election.counts, election.reading()
            for state in State:
                campaigns.add_metric((*key, str(state)), counts.campaigns.get(state, 0))
            transitions.add_metric(key, counts.transitions)
            corrections.add_metric(key, counts.corrections)
            leader.add_metric(key, reading.leads)
            interval.add_metric(key, reading.interval)
            token.add_metric(key, reading.token)
            candidates.add_metric(key, reading.candidates)
            remaining.add_metric(key, reading.remaining)
            labelled.add_metric(key, reading.labelled)
            for kind, status, reason in reading.conditions:
                conditions.add_metric((*key, kind, status), 1)
                reasons.add_metric((*key, kind, reason), 1)
        yield from (campaigns, transitions, corrections, leader, interval, token)
        yield from (candidates, remaining, labelled, conditions, reasons)


class MemberCollector(Collector):
    """The series of elections that a program takes part in by the library.

    ::

        prometheus_client.REGISTRY.register(MemberCollector(election))

    They are read when a scrape comes. One collector takes several elections, which must differ in
    bucket, key or identity. A registry takes one collector of this kind.
    """

    def __init__(self, *members: Member) -> None:
        self._members = members

    def describe(self) -> Iterable[Metric]:
        """Return the names, by which a registry refuses a second collector of this kind."""
        return self._families()

    def collect(self) -> Iterator[Metric]:
        """Return all series."""
        campaigns, leader, interval = self._families()
        for member in self._members:
            labels = (member.bucket, member.key, member.identity)
            for state in State:
                campaigns.add_metric((*labels, str(state)), member.campaigns.get(state, 0))
            leader.add_metric(labels, member.is_leader)
            interval.add_metric(labels, member.interval or 0)
        yield from (campaigns, leader, interval)

    def _families(self) -> tuple[CounterMetricFamily, GaugeMetricFamily, GaugeMetricFamily]:
        return (
            CounterMetricFamily(
                "incumbent_campaigns",
                "Attempts to create or renew the record, by the state before.",
                labels=(*_MEMBER, "state"),
            ),
            GaugeMetricFamily(
                "incumbent_leader", "1 while this member may act as the leader.", labels=_MEMBER
            ),
            GaugeMetricFamily(
                "incumbent_campaign_interval_seconds",
                "Time between renewals; 0 while it does not campaign.",
                labels=_MEMBER,
            ),
        )


def _counter(name: str, text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"incumbent_{name}", text, labels=_ELECTION)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"incumbent_{name}", text, labels=_ELECTION)
