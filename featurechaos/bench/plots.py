"""The pictures of a bench: every request as a dot, where the rows came from, and how slow the slowest are.

Each is drawn twice, wide and narrow, so that its letters have their true size on a phone too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from featurechaos.bench import words
from featurechaos.bench.figures import Figures, Stretch
from featurechaos.drills import frame, svg
from featurechaos.drills.curves import runs_of
from featurechaos.drills.frame import NARROW, WIDE, Size
from featurechaos.drills.plots import Plot
from featurechaos.drills.svg import Panel, Point, Scale
from featurechaos.model import Origin

TIME = "seconds"
RARER = "so many requests waited longer"
_TALL = {"wide": 300.0, "narrow": 260.0}
_TOP = 64.0
_HEAD = 8.0
"""About how wide a letter above a plot is, in px."""
_CELL = 1.5
"""Dots closer than this many px are one: none is hidden that could be seen."""
_MOST_MARKED = 200
_MOST_MARKS = 9
_DRAWN = (Origin.PRIMARY, Origin.REPLICA, Origin.SNAPSHOT, Origin.LAST_KNOWN, Origin.DEFAULT, Origin.NONE)
_LEVELS = ((0.5, "half"), (0.9, "1 in 10"), (0.99, "1 in 100"), (0.999, "1 in 1,000"))


@dataclass(frozen=True, slots=True)
class Column:
    """One phase on the time axis: its name, its numbers, and where it stands, in px."""

    name: str
    stretch: Stretch
    left: float
    right: float

    @property
    def middle(self) -> float:
        return (self.left + self.right) / 2


def plots(figures: Figures) -> list[Plot]:
    """The pictures there is something for."""
    if not len(figures.ledger.whole.requests):
        return []
    return [_latency(figures), _origins(figures), _quantiles(figures)]


def _latency(figures: Figures) -> Plot:
    requests = figures.ledger.whole.requests
    deadline_ms = figures.record.asked.deadline_s * 1e3
    seen = requests.seen_s * 1e3
    low, high, marks = _scale(float(np.percentile(seen, 0.5)), max(float(seen.max()), deadline_ms * 1.5))

    def draw(size: Size) -> str:
        panel = _panel(figures, size, low, high, is_log=True)
        left, top, wide, _ = panel.box
        edge = panel.y(deadline_ms)
        parts = [
            svg.box((left, top), (wide, edge - top), kind="past", title="later than the deadline"),
            _shade(figures, panel),
            svg.axes(panel, y_ticks=marks, y_name="", y_text=_plain, x_name=TIME),
            *(
                _dots(panel, requests.due[mine], seen[mine], kind=f"many o-{origin.name}", title=origin.name)
                for origin in _DRAWN
                if (mine := (requests.main_origin == origin) & requests.ok).any()
            ),
            *_failed(figures, panel),
            frame.level(panel, deadline_ms, f"deadline {words.time(deadline_ms / 1e3)}"),
            *_heads(figures, panel, size),
            *_recovered(figures, panel),
            *_gave_up(figures, panel),
        ]
        return frame.figure(parts, size, panel, label)

    says = "Each dot is a request: when it was due, and how long its caller waited. The lower, the better."
    label = f"Latency of every request over time. {' '.join(text for _, text in words.said(figures))}"
    key = [(f"swatch o-{one.name}", one.name) for one in _DRAWN if (requests.main_origin == one).any()]
    key += [("key-past", "later than the deadline")]
    key += [("key-cross", "failed")] if not requests.ok.all() else []
    return Plot("latency", "How long users waited", says, tuple(key), draw(WIDE), draw(NARROW))


def _origins(figures: Figures) -> Plot:
    ledger = figures.ledger
    total = ledger.whole.requests.origins.sum(axis=0)
    present = [one for one in (*list(Origin)[1:], Origin.NONE) if total[one]]
    cuts = [
        (begin, end, window.requests.origins.sum(axis=0))
        for begin, end, window in ledger.slices
        if window.requests.rows.sum()
    ]

    def draw(size: Size) -> str:
        panel = _panel(figures, size, 0, 100, tall=size.tall * 0.7)
        parts = [area for run in runs_of(cuts) for area in _areas(panel, run, present)]
        axes = svg.axes(panel, y_ticks=[0, 50, 100], y_name="", y_text=_percent, x_name=TIME)
        return frame.figure(
            [*parts, _shade(figures, panel, over=True), *_heads(figures, panel, size, numbers=False), axes],
            size,
            panel,
            label,
        )

    says = _served(figures)
    label = f"Share of rows from each origin over time. {says}"
    key = tuple((f"swatch o-{one.name}", one.name) for one in present)
    return Plot("origins", "Where the values came from", says, key, draw(WIDE), draw(NARROW))


def _areas(panel: Panel, run: Sequence[tuple[float, float, np.ndarray]], present: Sequence[Origin]) -> Iterator[str]:
    """One run of slices as bands, one an origin, that add up to 100 %."""
    floor = np.zeros(len(run))
    for origin in present:
        shares = np.array([100 * counts[origin] / counts.sum() for _, _, counts in run])
        if shares.any():
            spans = [(begin, end) for begin, end, _ in run]
            upper = _steps(panel, spans, floor + shares)
            yield svg.area(upper, _steps(panel, spans, floor), kind=f"area o-{origin.name}", title=origin.name)
        floor = floor + shares


def _steps(panel: Panel, spans: Sequence[tuple[float, float]], values: np.ndarray) -> list[Point]:
    pairs = zip(spans, values.tolist(), strict=True)
    return [(panel.x(at), panel.y(value)) for span, value in pairs for at in span]


def _quantiles(figures: Figures) -> Plot:
    """Latency by how rare it is, a line for each phase."""
    deadline_ms = figures.record.asked.deadline_s * 1e3
    lines = {name: _curve(window.requests.seen_s * 1e3) for name, window in figures.windows.items()}
    lines = {name: points for name, points in lines.items() if points}
    values = [y for points in lines.values() for _, y in points]
    low, high, marks = _scale(min(values), max([*values, deadline_ms * 1.2]))
    most = max([x for points in lines.values() for x, _ in points] + [_rare(0.99)])

    def draw(size: Size) -> str:
        x = Scale(0, most, size.left, size.right)
        panel = Panel(x, Scale(low, high, 34 + size.tall, 34, is_log=True))
        left, top, wide, tall = panel.box
        parts = [svg.box((left, top), (wide, panel.y(deadline_ms) - top), kind="past", title="later than the deadline")]
        parts += [svg.text((0, 16), "ms", kind="name")]
        for value in marks:
            y = panel.y(value)
            parts += [svg.line((left, y), (left + wide, y), kind="grid")]
            parts += [svg.text((left - 8, y + 4), _plain(value), anchor="end")]
        for at, name in _LEVELS:
            if _rare(at) <= most + 1e-9:
                place = panel.x(_rare(at))
                parts += [svg.line((place, top), (place, top + tall), kind="grid")]
                anchor = "middle" if place < left + wide - 40 else "end"
                parts += [svg.text((place, top + tall + 18), name, anchor=anchor)]
        parts += [svg.line((left, top + tall), (left + wide, top + tall), kind="axis")]
        parts += [svg.text((left + wide / 2, top + tall + 36), RARER, kind="name", anchor="middle")]
        parts += [
            svg.path([[(panel.x(x), panel.y(y)) for x, y in points]], kind=f"thick ph-{name}", title=name)
            for name, points in lines.items()
        ]
        parts += [frame.level(panel, deadline_ms, "")]
        parts += [
            svg.text(
                (left + 4, panel.y(deadline_ms) - 5), f"deadline {words.time(deadline_ms / 1e3)}", kind="level-name"
            )
        ]
        return frame.figure(parts, size, panel, label)

    says = " ".join(_rarely(name, figures.phases[name]) for name in lines)
    label = f"Latency by how rare it is. {says}"
    key = tuple((f"key-thick ph-{name}", words.broken(figures, "") if name == "during" else name) for name in lines)
    return Plot("quantiles", "How slow the slowest are", says, key, draw(WIDE), draw(NARROW))


def _curve(seen_ms: np.ndarray) -> list[Point]:
    """(how rare, ms) of the sorted latencies, thinned where they are many; the slowest is the last."""
    n = len(seen_ms)
    if not n:
        return []
    ordered = np.sort(seen_ms)
    at = np.unique(np.concatenate([np.linspace(0, n - 1, 60), n - np.geomspace(1, n, 80)]).astype(int).clip(0, n - 1))
    return [(_rare(float(k) / n), float(ordered[k])) for k in at.tolist()]


def _rare(quantile: float) -> float:
    return float(-np.log10(1 - quantile)) if quantile < 1 else 6.0


def _rarely(name: str, stretch: Stretch) -> str:
    rare = stretch.spread.p99_s if stretch.spread.p99_s is not None else stretch.spread.max_s
    return f"{name.capitalize()}: half within {words.time(stretch.spread.p50_s)}, 99 of 100 within {words.time(rare)}."


def _panel(
    figures: Figures, size: Size, low: float, high: float, *, is_log: bool = False, tall: float | None = None
) -> Panel:
    return frame.panel_of(figures.ledger, size, _TOP, low, high, is_log=is_log, tall=tall or _TALL[size.kind])


def _columns(figures: Figures, panel: Panel) -> Iterator[Column]:
    for name, stretch in figures.phases.items():
        yield Column(name, stretch, panel.x(stretch.begin_s), panel.x(stretch.end_s))


def _shade(figures: Figures, panel: Panel, *, over: bool = False) -> str:
    """The time something was broken, shaded, or with its edges alone over what is coloured already."""
    during = figures.phases.get("during")
    if during is None:
        return ""
    _, top, _, tall = panel.box
    left, right = panel.x(during.begin_s), panel.x(during.end_s)
    title = words.broken(figures, "")
    edges = "".join(svg.line((at, top), (at, top + tall), kind="edge") for at in (left, right))
    return edges if over else svg.box((left, top), (right - left, tall), kind="fault", title=title) + edges


def _heads(figures: Figures, panel: Panel, size: Size, *, numbers: bool = True) -> Iterator[str]:
    """Above the plot: each phase by name and, under it, what 99 of 100 requests took."""
    yield svg.text((0, 52), "ms" if numbers else "% of rows", kind="name")
    columns = list(_columns(figures, panel))
    for column in columns:
        middle = column.middle
        is_fault = column.name == "during"
        name = _fitting(figures, column, columns) if is_fault else column.name
        kind = "head bad-ink" if is_fault else "head"
        yield svg.text((middle, 18), name, kind=kind, anchor="middle")
        if numbers and column.stretch.spread.max_s is not None:
            high = column.stretch.spread.p99_s
            told = f"p99 {words.time(high)}" if high is not None else f"max {words.time(column.stretch.spread.max_s)}"
            yield svg.text((middle, 36), told, kind="name", anchor="middle")
        if is_fault:
            yield svg.line((column.left, 44), (column.right, 44), kind="span")


def _fitting(figures: Figures, column: Column, columns: Sequence[Column]) -> str:
    """What was broken, in as many words as fit between the names of the phases beside it."""
    others = [abs(one.middle - column.middle) - len(one.name) * _HEAD / 2 for one in columns if one is not column]
    room = 2 * (min(others, default=column.middle) - _HEAD)
    states = " and ".join(one.state for one in figures.record.asked.broken)
    names = (words.broken(figures, ""), states, "broken")
    return next((name for name in names if len(name) * _HEAD <= room), "during")


def _recovered(figures: Figures, panel: Panel) -> Iterator[str]:
    recovery, during = figures.recovery, figures.phases.get("during")
    if recovery is None or during is None or not recovery.after_s or not recovery.lost_s:
        return
    origin = figures.first_origin.name if figures.first_origin else ""
    yield frame.mark(panel, during.end_s + recovery.after_s, f"{origin} again, +{words.time(recovery.after_s)}")


def _gave_up(figures: Figures, panel: Panel) -> Iterator[str]:
    """When the breaker opened: what comes before is felt by every request, what comes after by hardly any."""
    after_s, during = figures.gave_up_s, figures.phases.get("during")
    if after_s is None or during is None:
        return
    left, top, wide, tall = panel.box
    at = panel.x(during.begin_s + after_s)
    told = f"breaker opens, +{words.time(after_s)}"
    is_right = at < left + wide - svg.LETTER * len(told) - 12
    yield svg.line((at, top + tall - 22), (at, top + tall), kind="span")
    place = (at + 5 if is_right else at - 5, top + tall - 9)
    yield svg.text(place, told, kind="level-name", anchor="start" if is_right else "end")


def _failed(figures: Figures, panel: Panel) -> Iterator[str]:
    requests = figures.ledger.whole.requests
    at = np.flatnonzero(~requests.ok)[:_MOST_MARKED]
    points = zip(requests.due[at].tolist(), (requests.seen_s[at] * 1e3).tolist(), strict=True)
    yield from (svg.cross((panel.x(x), panel.y(y))) for x, y in points)


def _dots(panel: Panel, x: np.ndarray, y: np.ndarray, *, kind: str, title: str) -> str:
    """Many dots as one path: a line of no length has a round cap, and costs a tenth of a circle."""
    places: Iterable[Point] = ((panel.x(a), panel.y(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True))
    kept = {(round(a / _CELL), round(b / _CELL)): (a, b) for a, b in places}
    steps = "".join(f"M{a:g} {b:g}h0" for a, b in kept.values())
    return f'<path d="{steps}" class="{kind}"><title>{escape(title)}</title></path>'


def _served(figures: Figures) -> str:
    ages = figures.record.image_age_s
    told = {name: words.served(stretch, ages) for name, stretch in figures.phases.items() if stretch.requests}
    return " ".join(f"{name.capitalize()}: {text}." for name, text in told.items())


def _scale(low: float, high: float) -> tuple[float, float, list[float]]:
    """Ends and round ticks of a logarithmic axis from low to high; no more of it than is needed."""
    low, high = max(low, 1e-3) * 0.85, high * 1.15
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    fine = [step * 10.0**at for at in range(first, last + 1) for step in (1, 2, 5)]
    marks = [round(mark, 6) for mark in fine if low <= mark <= high]
    return (
        low,
        high,
        marks if len(marks) <= _MOST_MARKS else [10.0**at for at in range(first, last + 1) if low <= 10.0**at <= high],
    )


def _plain(value: float) -> str:
    return f"{value:g}"


def _percent(value: float) -> str:
    return f"{value:g}"
