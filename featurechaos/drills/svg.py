"""The few shapes that our plots are drawn with, as SVG text. Colours are classes: the page's style holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

LETTER = 6.4
"""About how wide a letter of a 12 px label is, in px."""
LANE = 20.0
LINE = 16.0
"""The least distance between two lines of text, in px."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels, linear or logarithmic; values beyond the ends are held at them."""

    low: float
    high: float
    start: float
    stop: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        if self.is_log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.stop - self.start), 1)


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot's axes. `band` is the span of pixels that its fault labels take above it."""

    x: Scale
    y: Scale

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, width, height of the plotting area."""
        return self.x.start, self.y.stop, self.x.stop - self.x.start, self.y.start - self.y.stop


def text(at: Point, content: str, *, kind: str = "tick", anchor: str = "start") -> str:
    return f'<text x="{at[0]:g}" y="{at[1]:g}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def line(begin: Point, end: Point, *, kind: str) -> str:
    return f'<line x1="{begin[0]:g}" y1="{begin[1]:g}" x2="{end[0]:g}" y2="{end[1]:g}" class="{kind}"/>'


def box(corner: Point, size: Point, *, kind: str, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{corner[0]:g}" y="{corner[1]:g}" width="{max(size[0], 0):g}" height="{max(size[1], 0):g}" '
        f'class="{kind}">{inside}</rect>'
    )


def dots(points: Iterable[Point], *, kind: str, radius: float = 1.8) -> str:
    return "".join(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{kind}"/>' for x, y in points)


def cross(at: Point) -> str:
    x, y = at
    return path([[(x - 3, y - 3), (x + 3, y + 3)], [(x - 3, y + 3), (x + 3, y - 3)]], kind="cross")


def path(runs: Iterable[Sequence[Point]], *, kind: str, title: str = "") -> str:
    """Lines through runs of points; a run of one point is a dot, by its round cap."""
    steps = []
    for run in runs:
        if run:
            first, *rest = run
            steps.append(f"M{first[0]:g} {first[1]:g}" + "".join(f"L{x:g} {y:g}" for x, y in rest or [first]))
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<path d="{"".join(steps)}" class="{kind}">{inside}</path>' if steps else ""


def area(upper: Sequence[Point], lower: Sequence[Point], *, kind: str, title: str) -> str:
    """The filled band between two lines of points."""
    corners = [*upper, *reversed(lower)]
    if not corners:
        return ""
    steps = "L".join(f"{x:g} {y:g}" for x, y in corners)
    return f'<path d="M{steps}Z" class="{kind}"><title>{escape(title)}</title></path>'


def figure(body: str, *, width: float, height: float, label: str, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{body}</svg>"
    )


def axes(
    panel: Panel, *, y_ticks: Sequence[float], y_name: str, y_text: Callable[[float], str], x_name: str = ""
) -> str:
    """Grid, tick labels and both names. The y name stands above the axis, level, so that a phone can show it."""
    left, top, wide, tall = panel.box
    parts = [text((0, top - 14), y_name, kind="name")]
    for value in y_ticks:
        y = panel.y(value)
        parts += [line((left, y), (left + wide, y), kind="grid"), text((left - 8, y + 4), y_text(value), anchor="end")]
    bottom = top + tall
    for value in ticks(panel.x.low, panel.x.high, most=max(int(wide // 60), 2)):
        x = panel.x(value)
        parts += [
            line((x, bottom), (x, bottom + 4), kind="axis"),
            text((x, bottom + 18), f"{value:g}", anchor="middle"),
        ]
    parts.append(line((left, bottom), (left + wide, bottom), kind="axis"))
    if x_name:
        parts.append(text((left + wide / 2, bottom + 36), x_name, kind="name", anchor="middle"))
    return "".join(parts)


def ticks(low: float, high: float, *, most: int) -> list[float]:
    """At most about `most` round values from low to high, steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / max(most, 1)))
    step *= next((by for by in (1, 2, 5) if span / (step * by) <= most), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(at * step, 12) for at in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float) -> tuple[float, float, list[float]]:
    """Round ends and ticks of a logarithmic axis that holds low to high; at least two decades."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    return 10.0**first, 10.0**last, [10.0**at for at in range(first, last + 1)]


def lanes(
    spans: Sequence[tuple[float, float]], widths: Sequence[float], *, least: float, most: float
) -> list[tuple[int, float]]:
    """Where labels go so that none meets another: (lane, left edge) for each span, lanes counted from 0."""
    taken: list[list[tuple[float, float]]] = []
    placed = []
    for (begin, _), width in zip(spans, widths, strict=True):
        left = max(min(begin, most - width), least)
        for lane in range(len(taken) + 1):
            if lane == len(taken):
                taken.append([])
            if all(left + width + 6 <= other or left >= end + 6 for other, end in taken[lane]):
                taken[lane].append((left, left + width))
                placed.append((lane, left))
                break
    return placed
