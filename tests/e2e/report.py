"""What a run found, as JSON, as tables, and as a picture of who answered when."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from bench.report import table

from e2e.manifests import BY_LABEL, BY_SLICE
from e2e.traffic import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from e2e.stage import Stage, Trial
    from e2e.traffic import Answer

WAYS = {BY_LABEL: "label", BY_SLICE: "EndpointSlice"}
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Distinct to colour-blind people, too (Paul Tol's bright scheme)."""
_WIDTH, _LEFT, _LANE, _TOP = 860, 150, 11, 30
_LONGEST = 60.0
"""Seconds of a trial that are drawn."""
_JOINED = 0.25
"""Seconds between two answers that are drawn as one."""


def result(stage: Stage, seconds: float) -> dict[str, Any]:
    """Return what a scenario found, fit for JSON."""
    entries = stage.ledger.entries
    return {
        "seconds": round(seconds),
        "trials": [asdict(trial) for trial in stage.trials],
        "routes": [
            {"title": route.title, "seconds": [round(each, 4) for each in route.seconds]}
            for route in stage.routes
        ],
        "ledger": {
            "accepted": sum(1 for entry in entries if entry[3]),
            "refused": sum(1 for entry in entries if not entry[3]),
            "tokens": len({entry[2] for entry in entries}),
        },
        "failures": stage.failures,
    }


def tables(found: Mapping[str, Any]) -> str:
    """Return what a scenario found as Markdown."""
    ledger = found["ledger"]
    parts = [
        _trials(found["trials"]),
        (
            f"The ledger took {ledger['accepted']:,} writes with {ledger['tokens']} tokens, none"
            f" of them smaller than one before, and refused {ledger['refused']:,}."
        ),
    ]
    if found["routes"]:
        parts.append(routes(found["routes"]))
    return "\n\n".join(parts) + "\n"


def routes(found: Sequence[Mapping[str, Any]]) -> str:
    """Return how long it takes until the new leader answers, by the way to route."""
    rows = []
    for route in found:
        values = route["seconds"]
        numbers = [statistics.median(values), quantile(values, 0.9), max(values)]
        cells = [f"{1000 * value:.0f} ms" for value in numbers]
        rows.append([route["title"], *cells, len(values)])
    return table(["routing by", "p50", "p90", "longest", "of"], rows)


def _trials(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each trial and for each client that saw something of its own.

    A client on a node that is cut off sees another world than one beside it.
    """
    title = (
        "what is done",
        "client on",
        "new terms",
        "longest time without an answer, by label",
        "by EndpointSlice",
        "answered by a former leader, on new connections, by label",
        "by EndpointSlice",
        "on kept ones, by label",
        "by EndpointSlice",
        "writes refused",
    )
    rows = []
    for trial in trials:
        seen = trial["figures"]
        for number, client in enumerate(_clients(trial)):
            new, kept = (
                [seen.get(f"{client} {way} {kind}") for way in WAYS] for kind in ("new", "kept")
            )
            terms, refused = len(trial["leaders"]), trial["writes"][1]
            first = (trial["sentence"], client, terms) if number == 0 else ("", client, "")
            silences = [f"{each['silence']:.2f} s" if each else "" for each in new]
            late = [_late(each) for each in (*new, *kept)]
            rows.append([*first, *silences, *late, refused if number == 0 else ""])
    return table(title, rows)


def _clients(trial: Mapping[str, Any]) -> list[str]:
    return sorted({key.split()[0] for key in trial["figures"]})


def _late(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    return f"{figures['late']}, to {figures['late_until']:.1f} s" if figures["late"] else "0"


def picture(stage: Stage) -> str:
    """Draw who answered, for each trial: a lane for each client, Service and kind of connection.

    A colour is a pod; a thin line is the fault, a dotted one the beginning of a term.
    """
    answers = [answer for answer in stage.answers() if answer.pod]
    drawn: list[str] = []
    top = 0.0
    for trial in stage.trials:
        height, panel = _panel(trial, answers)
        drawn.append(f'<g transform="translate(0,{top:.0f})">{"".join(panel)}</g>')
        top += height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top:.0f}"'
        f' font-family="sans-serif" font-size="10">'
        f'<rect width="{_WIDTH}" height="{top:.0f}" fill="white"/>{"".join(drawn)}</svg>\n'
    )


def _panel(trial: Trial, answers: Sequence[Answer]) -> tuple[float, list[str]]:
    since, until = trial.since - 2, min(trial.until, trial.since + _LONGEST)
    within = [answer for answer in answers if since <= answer.done <= until]
    lanes = sorted({(a.client, a.target, a.kept) for a in within})
    colours: dict[str, str] = {}
    scale = (_WIDTH - _LEFT - 20) / (until - since)

    def x(at: float) -> float:
        return _LEFT + (at - since) * scale

    drawn = [_text(10, 18, f"{trial.sentence} ({until - since:.0f} s)", size=12)]
    for number, lane in enumerate(lanes):
        client, target, kept = lane
        y = _TOP + number * _LANE
        title = f"{client} {WAYS.get(target, target)} {'kept' if kept else 'new'}"
        drawn.append(_text(10, y + _LANE - 3, title))
        for pod, begin, end in _spans([a for a in within if (a.client, a.target, a.kept) == lane]):
            colour = colours.setdefault(pod, _COLOURS[min(len(colours), len(_COLOURS) - 1)])
            width = max(1.0, (end - begin) * scale)
            drawn.append(
                f'<rect x="{x(begin):.1f}" y="{y}" width="{width:.1f}" height="{_LANE - 2}"'
                f' fill="{colour}"/>'
            )
    bottom = _TOP + len(lanes) * _LANE
    moments = [(0.0, ""), *((at, ' stroke-dasharray="2 2"') for at, _, _ in trial.leaders)]
    for at, dashes in moments:
        if trial.since + at <= until:
            place = f"{x(trial.since + at):.1f}"
            drawn.append(f'<path d="M{place} {_TOP - 4}V{bottom + 2}" stroke="black"{dashes}/>')
    return bottom + 14.0, drawn


def _spans(answers: Sequence[Answer]) -> Iterator[tuple[str, float, float]]:
    """Yield who answered from when to when, without a longer silence or another in between."""
    pod, begin, end = "", 0.0, 0.0
    for answer in answers:
        if answer.pod != pod or answer.done - end > _JOINED:
            if pod:
                yield pod, begin, end
            pod, begin = answer.pod, answer.done
        end = answer.done
    if pod:
        yield pod, begin, end


def _text(x: float, y: float, text: str, *, size: int = 10) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}">{escape(text)}</text>'
