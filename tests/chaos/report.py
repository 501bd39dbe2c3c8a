"""A verdict in words."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator

from chaos.checker import Finding, Verdict
from chaos.history import Entry, History
from chaos.plan import Fault
from chaos.rehearsal import Rehearsal

AROUND = 15.0
"""Seconds before and after a violation that its timeline shows."""
MOST_TIMELINES = 5


def counts(history: History, verdict: Verdict, faults: Iterable[Fault], writes: int) -> list[str]:
    """Say what happened, so that nobody need believe that something did."""
    entries = Counter(message.entry.value for message in history.messages)
    overlaps = f"{verdict.overlap:.2f} s between sites, {verdict.overlap_apart:.2f} s where nothing"
    delays = sorted(delay.seconds for delay in history.delays) or [0.0]
    late = f"median {statistics.median(delays):.3f} s, longest {delays[-1]:.3f} s"
    return [
        f"{'faults':16}{_counted(Counter(fault.kind.value for fault in faults))}",
        f"{'terms':16}{verdict.terms}, {verdict.hand_overs} of them by a hand-over",
        f"{'reigns':16}{len(verdict.reigns)}; ended by {_counted(verdict.causes)}",
        f"{'bucket writes':16}{_counted(entries)}",
        f"{'pod writes':16}{writes} by operators",
        f"{'labels by hand':16}{_by_hand(verdict)}",
        "without a leader though there was a candidate, in seconds:",
        *_gaps(history, verdict),
        f"{'longest overlap':16}{overlaps} is promised",
        f"{'late events':16}{late}; so much is allowed for at the time of an overlap",
    ]


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common()) or "none"


def _by_hand(verdict: Verdict) -> str:
    if not verdict.corrections:
        return f"{verdict.by_hand}, none of them while nothing was wrong"
    longest = f"corrected after {max(verdict.corrections):.2f} s at most"
    return f"{verdict.by_hand}, {len(verdict.corrections)} while nothing was wrong, {longest}"


def _gaps(history: History, verdict: Verdict) -> Iterator[str]:
    yield f"  {'after':40}{'times':>7}{'sum':>8}{'median':>8}{'max':>8}"
    for cause, gaps in sorted(verdict.gaps.items()):
        seconds, longest = [gap.seconds for gap in gaps], max(gaps)
        figures = (sum(seconds), statistics.median(seconds), longest.seconds)
        shown = "".join(f"{figure:>8.2f}" for figure in figures)
        where = f"{longest.election} at {longest.at - history.began:.0f} s"
        yield f"  {cause:40}{len(gaps):>7}{shown}  ({where})"


def findings(history: History, found: list[Finding]) -> Iterator[str]:
    """Yield the findings, the first ones with a timeline."""
    for number, finding in enumerate(found):
        yield describe(history, finding)
        if number < MOST_TIMELINES:
            yield from timeline(history, finding)


def rehearsed(words: str, sound: Rehearsal, planted: Rehearsal) -> str:
    """Say in a line or two how a scenario went without a fault, and with it."""
    found = [finding.promise for finding in sound.verdict.violations] + sound.missed
    without = "; ".join(dict.fromkeys(found)) or "nothing found"
    first = next(iter(planted.verdict.violations), None)
    caught = "nothing" if first is None else f"{first.promise} after {planted.seconds:.1f} s"
    if not planted.caught:
        caught = f"NOT CAUGHT but for {caught}; {'; '.join(planted.missed)}"
    return f"{words:45}{without:20}{caught}" + (f"\n    {first.words}" if first else "")


def describe(history: History, finding: Finding) -> str:
    """Say one finding in one line."""
    when = finding.at - history.began
    return f"{when:.2f} s, {finding.promise}: {finding.election or 'all'}: {finding.words}"


def timeline(history: History, finding: Finding) -> list[str]:
    """Tell what happened to that election, and to all, around a finding."""
    lines: list[tuple[float, str]] = [(finding.at, f"*** {finding.promise}: {finding.words}")]
    shown: dict[str, tuple[bool, int, str]] = {}
    for event in history.pods:
        if event.election != finding.election:
            continue
        now = (event.labelled, event.token, event.unfit)
        if shown.get(event.uid) == now:
            continue
        shown[event.uid] = now
        words = f"leader, token {event.token}" if event.labelled else "not leader"
        words += f", {event.unfit}" if event.unfit else ""
        lines.append((event.at, f"{event.site:6} pod {event.pod}: {words}"))
    for message in history.messages:
        if message.election == finding.election:
            words = message.entry.value
            if message.entry is Entry.RECORD:
                words = f"{message.pod}, term {message.term}, by {message.replica}"
            lines.append((message.at, f"{message.site:6} revision {message.revision}: {words}"))
    mine = (deed for deed in history.deeds if deed.election in {"", finding.election})
    lines += [(deed.at, f"FAULT  {deed.words}") for deed in mine]
    for spell in history.spells:
        who = spell.replica or spell.site or "NATS"
        lines.append((spell.since, f"FAULT  {who}: {spell.trouble.value}"))
        lines.append((spell.until, f"FAULT  {who}: no more {spell.trouble.value}"))
    around = [line for line in sorted(lines) if abs(line[0] - finding.at) <= AROUND]
    return [f"    {at - history.began:8.3f}  {words}" for at, words in around]
