"""Metrics: the only module that imports `prometheus_client`.

What belongs to an election is read from its campaigner when a scrape comes, so that a stable
election costs nothing, and the series of a deleted one vanish. Histograms have no label for the
election: a thousand elections would make ten thousand series of each.

The process that renews only reads: `Metrics.rows` has one small row for each election. The process
that serves HTTP makes the text of the rows with `exposition`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

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
from prometheus_client.utils import floatToGoString

from incumbent.campaign.ports import Outcome
from incumbent.campaign.records import State
from incumbent.history.terms import BEGINNINGS, CAUSES
from incumbent.kubernetes.objects import ElectionKey

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Of what a scrape gets."""

Row = Sequence[Any]
"""The values of one election as JSON; `row` says which they are."""

_MEMBER = ("bucket", "election", "identity")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Counts(Protocol):
    """The counters."""

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
    """The gauges."""

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
        """The counters."""
        ...

    def reading(self) -> Reading:
        """Look at what is the case."""
        ...


class Member(Protocol):
    """The measured part of an `incumbent.Election`."""

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
    """All metrics of one operator process; an `incumbent.campaign.ports.Observer`.

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
        self._elections = elections
        self._registry = CollectorRegistry()
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
        """See `incumbent.campaign.ports.Observer`."""
        self._writes.labels(outcome.value).observe(seconds)

    def label_write(self, seconds: float) -> None:
        """See `incumbent.campaign.ports.Observer`."""
        self._labels.observe(seconds)

    def slice_write(self, seconds: float) -> None:
        """See `incumbent.campaign.ports.Observer`."""
        self._slices.observe(seconds)

    def handover(self, seconds: float) -> None:
        """See `incumbent.campaign.ports.Observer`."""
        self._handovers.observe(seconds)

    def failover(self, seconds: float) -> None:
        """See `incumbent.campaign.ports.Observer`."""
        self._failovers.observe(seconds)

    def history_entry(self, outcome: str) -> None:
        """See `incumbent.campaign.ports.HistoryObserver`."""
        self._history.labels(outcome).inc()

    def term_began(self, how: str) -> None:
        """See `incumbent.campaign.ports.HistoryObserver`."""
        self._began.labels(how or "Unknown").inc()

    def term_ended(self, cause: str) -> None:
        """See `incumbent.campaign.ports.HistoryObserver`."""
        self._ended.labels(cause).inc()

    def rows(self) -> Iterator[Row]:
        """Yield a row for each election; the elections are those of the first step."""
        return map(row, tuple(self._elections()))

    def of_process(self) -> str:
        """Return the text of the metrics that belong to no election."""
        return generate_latest(self._registry).decode()

    def render(self) -> tuple[bytes, str]:
        """Return what a scrape gets, and its content type, made in one go."""
        text = Exposition()
        for one in self.rows():
            text.add(one)
        return text.render(self.of_process()), CONTENT_TYPE


def row(election: Election) -> Row:
    """Read what is served of an election."""
    counts, reading = election.counts, election.reading()
    return (
        election.key.namespace,
        election.key.name,
        [counts.campaigns.get(state, 0) for state in State],
        counts.transitions,
        counts.corrections,
        reading.leads,
        reading.interval,
        reading.token,
        reading.candidates,
        reading.remaining,
        reading.labelled,
        reading.conditions,
    )


_FAMILIES = (
    (
        "incumbent_campaigns_total",
        "counter",
        "Attempts to create, renew or transfer the record, by the state before.",
    ),
    (
        "incumbent_transitions_total",
        "counter",
        "Terms that began with this replica as the steward.",
    ),
    (
        "incumbent_label_corrections_total",
        "counter",
        "Leader labels taken from pods that did not lead.",
    ),
    ("incumbent_leader", "gauge", "1 at the steward of a pod that leads, else 0."),
    ("incumbent_campaign_interval_seconds", "gauge", "Time between renewals."),
    ("incumbent_token", "gauge", "The fencing token of the present term, whoever leads."),
    ("incumbent_candidates", "gauge", "Pods of this site that could lead."),
    (
        "incumbent_lease_remaining_seconds",
        "gauge",
        "Time to the steward's deadline; 0 at everybody else.",
    ),
    (
        "incumbent_labelled_pods",
        "gauge",
        "Pods that carry the leader label: 0 or 1 but for faults.",
    ),
    (
        "incumbent_condition",
        "gauge",
        "1 for the present status of each condition of the resource.",
    ),
    (
        "incumbent_condition_reason",
        "gauge",
        "1 for the present reason of each condition of the resource.",
    ),
)
"""Name, type and meaning of each metric of an election, in the order in which they are served."""


class Exposition:
    """The text of the elections' metrics, made row by row.

    The text is that of `prometheus_client.generate_latest`, which takes five times as long
    (5,000 elections: 0.7 s); a test compares the two. The text grows as bytes: a string for each
    line would take several times as much memory.
    """

    def __init__(self) -> None:
        self._texts = [
            bytearray(f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n".encode())
            for name, kind, meaning in _FAMILIES
        ]

    def add(self, one: Row) -> None:
        """Add the series of an election."""
        namespace, name, campaigns, *numbers, conditions = one
        labels = f'{{election="{_escaped(name)}",namespace="{_escaped(namespace)}"'
        added: list[list[str]] = [
            [
                f'{labels},state="{state}"}} {_number(count)}'
                for state, count in zip(State, campaigns, strict=True)
            ]
        ]
        added += ([f"{labels}}} {_number(number)}"] for number in numbers)
        statuses: list[str] = []
        reasons: list[str] = []
        for kind, status, reason in conditions:
            kind_label = f'type="{_escaped(kind)}"}} 1.0'
            statuses.append(f'{labels},status="{_escaped(status)}",{kind_label}')
            reasons.append(f'{labels},reason="{_escaped(reason)}",{kind_label}')
        added += (statuses, reasons)
        for text, (name, _, _), lines in zip(self._texts, _FAMILIES, added, strict=True):
            text.extend("".join(f"{name}{line}\n" for line in lines).encode())

    def render(self, of_process: str) -> bytes:
        """Return the whole text, with that of `Metrics.of_process` behind it."""
        return b"".join([*self._texts, of_process.encode()])


def _number(value: float) -> str:
    shown: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return shown


@lru_cache(maxsize=4096)
def _escaped(text: str) -> str:
    """Return the value of a label as the format has it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


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
