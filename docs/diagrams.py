"""The diagrams of the docs, drawn from tables as SVG; `make docs` writes them."""  # noqa: INP001

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape

from incumbent.campaign.timing import timing_for

WIDTH = 760
INK, FAINT, BLUE, GREEN, RED = "#1f2933", "#9aa5b1", "#2f6fab", "#2e7d4f", "#b3403a"


def text(x: float, y: float, words: str, *, colour: str = INK, anchor: str = "middle") -> str:
    """Return a line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, more: str = "") -> str:
    """Return a line."""
    return f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="{colour}" fill="none"{more}/>'


def bar(x: float, y: float, width: float, height: float, more: str) -> str:
    """Return a filled rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" {more}/>'


def box(x: float, y: float, width: float, height: float, words: str, colour: str = INK) -> str:
    """Return a box with words in it."""
    return bar(x, y, width, height, f'rx="6" fill="#ffffff" stroke="{colour}"') + text(
        x + width / 2, y + height / 2 + 5, words, colour=colour
    )


def drawing(title: str, height: float, parts: Iterable[str]) -> str:
    """Return a drawing, on a ground of its own so that it can be read in the dark."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img"'
        f' font-family="sans-serif" font-size="13">\n<title>{escape(title)}</title>\n'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
        f' markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="#f8fafc"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def timing(ttl: float = 30) -> str:
    """Return what happens when after the last renewal that was stored, to scale."""
    times = timing_for(ttl)
    left, right, axis = 40.0, WIDTH - 40.0, 110.0

    def at(seconds: float) -> float:
        return left + (right - left) * seconds / ttl

    moments = (
        (0.0, "sent", "a renewal that is stored", INK),
        (times.interval, f"{times.interval:g} s", "the next is due", BLUE),
        (times.relay_after, f"{times.relay_after:.3g} s", "a standby renews", GREEN),
        (times.lease, f"{times.lease:g} s", "deadline", RED),
        (ttl, f"{ttl:g} s", "TTL", INK),
    )
    parts = [
        bar(at(0), axis - 8, at(times.lease) - at(0), 16, f'fill="{GREEN}" opacity="0.25"'),
        bar(
            at(times.lease), axis - 8, at(ttl) - at(times.lease), 16, f'fill="{RED}" opacity="0.25"'
        ),
        line(left, axis, right, axis),
        text(at(times.lease / 2), 40, "the pod may carry the leader label", colour=GREEN),
        text(at(ttl), 40, "the margin: nobody leads", colour=RED, anchor="end"),
        text(at(times.lease / 2), 60, f"renewals are tried again until {times.lease:g} s"),
    ]
    for index, (seconds, number, words, colour) in enumerate(moments):
        x, low = at(seconds), axis + 40 + 22 * (index % 2)
        anchor = "start" if index == 0 else "end" if seconds == ttl else "middle"
        parts += [
            line(x, axis - 12, x, low - 14, colour),
            text(x, low, f"{number}: {words}", colour=colour, anchor=anchor),
        ]
    return drawing(f"The times of an election with a TTL of {ttl:g} s", 190, parts)


ACTORS = ("old pod", "API server", "operator", "bucket in NATS", "new pod")
HANDOVER = (
    ("API server", "operator", "the old pod is not ready, or terminates"),
    ("operator", "API server", "1. take the label from the old pod"),
    ("API server", "operator", "confirmed"),
    ("operator", "bucket in NATS", "2. write the new holder, if nobody wrote since"),
    ("bucket in NATS", "operator", "stored; its revision is the token"),
    ("operator", "API server", "3. label the new pod, with the token"),
    ("API server", "new pod", "the Service leads here"),
    ("operator", "API server", "4. status, then event"),
)
"""From, to, and what; in this order."""


def handover() -> str:
    """Return the order of a hand-over."""
    places = {name: 75 + 152 * index for index, name in enumerate(ACTORS)}
    foot = 78 + 34 * len(HANDOVER)
    parts = []
    for name, x in places.items():
        parts += [line(x, 50, x, foot, FAINT), box(x - 66, 18, 132, 32, name)]
    for index, (source, target, words) in enumerate(HANDOVER):
        x1, x2, y = places[source], places[target], 86 + 34 * index
        middle = min(max((x1 + x2) / 2, 170), WIDTH - 170)
        parts += [
            line(x1, y, x2, y, more=' marker-end="url(#tip)"'),
            bar(middle - 3.3 * len(words), y - 19, 6.6 * len(words), 15, 'fill="#f8fafc"'),
            text(middle, y - 7, words),
        ]
    return drawing("The order of a hand-over", foot + 15, parts)


def sites() -> str:
    """Return who contests a key."""
    parts = [box(250, 15, 260, 40, "bucket LEADER_ELECTION in NATS", BLUE)]
    for x, name, leads in ((20, "east", True), (270, "west", False)):
        parts += [
            bar(x, 112, 225, 178, f'rx="8" fill="none" stroke="{FAINT}"'),
            text(x + 12, 279, f"cluster {name}: a site", anchor="start"),
            box(x + 12, 130, 95, 34, "replica"),
            box(x + 118, 130, 95, 34, "replica"),
            box(x + 12, 225, 62, 38, "leader" if leads else "pod", GREEN if leads else INK),
            box(x + 81, 225, 62, 38, "pod"),
            box(x + 150, 225, 62, 38, "pod"),
            line(x + 112, 164, x + 112, 222, more=' marker-end="url(#tip)"'),
            text(x + 118, 198, "labels", anchor="start"),
        ]
        for replica in (59, 165):
            parts.append(line(x + replica, 130, 380, 57, BLUE, ' stroke-dasharray="4 3"'))
    parts += [
        box(530, 130, 205, 34, "machine: incumbent run"),
        box(530, 180, 205, 34, "program with the library"),
        box(530, 230, 205, 34, "Choria member"),
        line(632, 130, 400, 57, BLUE, ' stroke-dasharray="4 3"'),
        text(632, 288, "members without Kubernetes"),
    ]
    return drawing("Sites, replicas, and members outside Kubernetes contest one key", 300, parts)


def overview() -> str:
    """Return what an operator does, on one picture."""
    tip = ' marker-end="url(#tip)"'
    pods = (("billing-a", "leader", GREEN), ("billing-b", "candidate", INK))
    parts = [
        box(20, 30, 170, 44, "LeaderElection billing"),
        line(190, 52, 278, 52, more=tip),
        text(234, 44, "watches"),
        box(280, 30, 150, 44, "Incumbent", BLUE),
        line(355, 74, 355, 148, BLUE, tip),
        text(347, 108, "creates the key, and renews it", colour=BLUE, anchor="end"),
        text(347, 126, "before the bucket's TTL ends", colour=BLUE, anchor="end"),
        box(245, 150, 220, 44, "shop.billing in a NATS bucket", BLUE),
    ]
    for index, (name, label, colour) in enumerate((*pods, ("billing-c", "candidate", INK))):
        y = 14 + 58 * index
        parts += [
            box(570, y, 170, 40, f"{name}: {label}", colour),
            line(430, 52, 568, y + 20, colour, tip),
        ]
    parts += [
        text(490, 28, "labels"),
        box(570, 208, 170, 40, "Service billing-leader"),
        f'<path d="M740 228h12V34h-10" stroke="{GREEN}" fill="none"{tip}/>',
        text(20, 222, "Without a change of leader the operator", anchor="start"),
        text(20, 240, "writes nothing to the Kubernetes API.", anchor="start"),
        text(560, 232, "selects the label", anchor="end"),
    ]
    return drawing("The operator holds a key in NATS and labels the leader pod", 264, parts)


DARK = {
    INK: "#e4e7eb",
    FAINT: "#7b8794",
    BLUE: "#7fb8f0",
    GREEN: "#6fcf97",
    RED: "#f08a80",
    "#ffffff": "#323f4b",
    "#f8fafc": "#1f2933",
}
"""The colour for a dark page, by the colour for a light one."""


def darkened(svg: str) -> str:
    """Return a drawing in the colours for a dark page."""
    return re.sub("|".join(DARK), lambda found: DARK[found.group()], svg)


def drawn() -> Mapping[str, str]:
    """Return each drawing by the name of its file."""
    return {
        "overview.svg": overview(),
        "overview-dark.svg": darkened(overview()),
        "timing.svg": timing(),
        "hand-over.svg": handover(),
        "sites.svg": sites(),
    }
