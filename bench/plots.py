"""Bars and curves as SVG: a few lines, and no library to draw with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 50, 45
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
"""Distinct to colour-blind people, too (Paul Tol's bright scheme)."""

Curve = Sequence[tuple[float, float]]


def bars(title: str, groups: Mapping[str, Mapping[str, float]], *, unit: str) -> str:
    """Draw stacked bars: for each group what its parts add up to."""
    parts = list(dict.fromkeys(name for group in groups.values() for name in group))
    top = _round(max(sum(group.values()) for group in groups.values()))
    drawn, step = [*_frame(title, unit, 0, top), *_legend(parts)], _span() / len(groups)
    for number, (name, group) in enumerate(groups.items()):
        x, base = LEFT + step * (number + 0.2), 0.0
        for colour, part in zip(COLOURS, parts, strict=False):
            value = group.get(part, 0.0)
            y, below = _y(base + value, top), _y(base, top)
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.6:.1f}"'
                f' height="{below - y:.1f}" fill="{colour}"/>'
            )
            base += value
        middle = x + step * 0.3
        drawn.append(_text(middle, _y(base, top) - 5, f"{base:.3g}", anchor="middle"))
        drawn.append(_text(middle, HEIGHT - BOTTOM + 18, name, anchor="middle"))
    return _svg(drawn)


def curves(title: str, series: Mapping[str, Curve], *, x: str, y: str) -> str:
    """Draw curves through points, from 0 on both axes."""
    right = _round(max(point[0] for curve in series.values() for point in curve))
    top = _round(max(point[1] for curve in series.values() for point in curve))
    drawn = [*_frame(title, y, right, top), *_legend(list(series))]
    drawn.append(_text(WIDTH - RIGHT, HEIGHT - 8, x, anchor="end"))
    for colour, curve in zip(COLOURS, series.values(), strict=False):
        points = [(LEFT + _span() * a / right, _y(b, top)) for a, b in curve]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(points) <= 12:  # noqa: PLR2004 - more would be a line of dots
            drawn += [
                f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in points
            ]
    return _svg(drawn)


def cumulative(values: Sequence[float]) -> Curve:
    """Return the curve of a distribution: which share of the values is at most so large."""
    ordered = sorted(values)
    return [(value, 100 * (number + 1) / len(ordered)) for number, value in enumerate(ordered)]


def _frame(title: str, unit: str, right: float, top: float) -> list[str]:
    drawn = [_text(LEFT, 18, title, size=14), _text(LEFT - 60, TOP - 8, unit)]
    for quarter in range(5):
        y = _y(top * quarter / 4, top)
        drawn.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        drawn.append(_text(LEFT - 6, y + 4, f"{top * quarter / 4:g}", anchor="end"))
        if right:
            x = LEFT + _span() * quarter / 4
            text = f"{right * quarter / 4:g}"
            drawn.append(_text(x, HEIGHT - BOTTOM + 18, text, anchor="middle"))
    return drawn


def _legend(names: Sequence[str]) -> list[str]:
    drawn, x = [], float(LEFT)
    for colour, name in zip(COLOURS, names, strict=False):
        drawn.append(f'<rect x="{x:.0f}" y="27" width="10" height="10" fill="{colour}"/>')
        drawn.append(_text(x + 14, 36, name))
        x += 28 + 7 * len(name)
    return drawn


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def _svg(drawn: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join((head, paper, *drawn, "</svg>", ""))


def _span() -> int:
    return WIDTH - LEFT - RIGHT


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _round(value: float) -> float:
    """Return a round number that is not smaller."""
    if value <= 0:
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * unit >= value)
