"""The pictures of a report: latency by origin, shares of origins, and decisions changed beside PSI.

Each is drawn twice, wide and narrow, so that its letters have their true size on a phone too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from featurechaos.drills import svg
from featurechaos.drills.alarms import Alarms, alarms_of
from featurechaos.drills.history import Fault
from featurechaos.drills.probes import shown
from featurechaos.drills.svg import LANE, LETTER, Panel, Point, Scale
from featurechaos.drills.window import Ledger, Window
from featurechaos.impact.counters import psi
from featurechaos.model import Origin

PSI_WARNING, PSI_ALARM = 0.1, 0.2
"""Customary levels of the population stability index; a rule of thumb, not a test."""
TIME = "time since the drill began, s"
LEAST_FOR_LINE = 5
"""Fewer requests than this in a slice are shown as their maximum only."""
LEAST_FOR_PSI = 1000
"""PSI of two samples of n differs from 0 by about 18 / n by chance: fewer pairs would draw noise."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: what it says in words, its key, and its two drawings."""

    name: str
    title: str
    says: str
    key: tuple[tuple[str, str], ...]
    wide: str
    narrow: str


@dataclass(frozen=True, slots=True)
class Size:
    """How large a drawing is, in px: `left` and `right` of the plotting area, its height, all of it."""

    width: float
    left: float
    right: float
    tall: float
    kind: str


WIDE = Size(width=860, left=52, right=848, tall=220, kind="wide")
NARROW = Size(width=340, left=42, right=332, tall=180, kind="narrow")


def plots(ledger: Ledger, *, deadline_s: float | None, flip_budget: float | None, names: Sequence[str]) -> list[Plot]:
    """The pictures asked for that the history holds something for."""
    drawn = []
    if "latency" in names and len(ledger.whole.requests):
        drawn.append(_latency(ledger, deadline_s))
    if "origins" in names and ledger.whole.requests.rows.sum():
        drawn.append(_origins(ledger))
    if "flips" in names and ledger.whole.pairs.rows.sum():
        drawn.append(_flips(ledger, flip_budget))
    return drawn


def _latency(ledger: Ledger, deadline_s: float | None) -> Plot:
    curves = {origin: _Curves.of(ledger, origin) for origin in Origin}
    curves = {origin: one for origin, one in curves.items() if one.most}
    seen = ledger.whole.requests.seen_s * 1e3
    ends = [*seen[seen > 0], *([deadline_s * 1e3 * 1.2] if deadline_s else [])] or [1.0]
    low, high, marks = svg.decades(max(float(np.percentile(ends, 1)), 1e-3), max(ends))
    failed = ledger.whole.requests.where(~ledger.whole.requests.ok)

    def draw(size: Size) -> str:
        top = _top(ledger, size)
        panel = _panel(ledger, size, top, low, high, is_log=True)
        parts = [_faults(ledger, panel), svg.axes(panel, y_ticks=marks, y_name="latency, ms (log scale)", y_text=_plain, x_name=TIME)]
        for origin, one in curves.items():
            hue = f"o-{origin.name}"
            parts.append(svg.dots(_at(panel, one.most), kind=f"dot {hue}"))
            parts.append(svg.path((_at(panel, run) for run in one.median), kind=f"thin {hue}"))
            parts.append(svg.path((_at(panel, run) for run in one.high), kind=f"thick {hue}"))
        if deadline_s:
            parts.append(_level(panel, deadline_s * 1e3, f"deadline {shown(deadline_s, 'seconds')}"))
        crosses = sorted({(panel.x(due), panel.y(ms)) for due, ms in zip(failed.due, failed.seen_s * 1e3, strict=True)})
        parts += [svg.path([[(x - 3, y - 3), (x + 3, y + 3)], [(x - 3, y + 3), (x + 3, y - 3)]], kind="cross") for x, y in crosses[:500]]
        return _figure(parts, size, panel, label)

    before, during = (_p99(ledger.phases.get(name)) for name in ("before", "during"))
    says = "What callers saw, from when a request was due to its answer."
    if before and during:
        says = f"99 of 100 requests took up to {shown(during, 'seconds')} during the fault, {shown(before, 'seconds')} before it."
    label = f"Latency over time by origin. {says}"
    key = [(f"swatch o-{origin.name}", origin.name) for origin in curves]
    key += [("key-thick", "p99"), ("key-thin", "median"), ("key-dot", "slowest")]
    key += [("key-cross", "failed")] if len(failed) else []
    return Plot("latency", "Latency by origin", says, tuple(key), draw(WIDE), draw(NARROW))


def _origins(ledger: Ledger) -> Plot:
    total = ledger.whole.requests.origins.sum(axis=0)
    present = [origin for origin in (*list(Origin)[1:], Origin.NONE) if total[origin]]
    cuts = [(begin, end, window) for begin, end, window in ledger.slices if window.requests.rows.sum()]

    def draw(size: Size) -> str:
        panel = _panel(ledger, size, _top(ledger, size), 0, 100)
        parts = []
        for run in _runs([(begin, end, window.requests.origins.sum(axis=0)) for begin, end, window in cuts]):
            floor = np.zeros(len(run))
            for origin in present:
                shares = np.array([100 * counts[origin] / counts.sum() for _, _, counts in run])
                edges = [(begin, end, low, low + share) for (begin, end, _), low, share in zip(run, floor, shares, strict=True)]
                if shares.any():
                    upper = [(panel.x(x), panel.y(y)) for begin, end, _, y in edges for x in (begin, end)]
                    lower = [(panel.x(x), panel.y(y)) for begin, end, y, _ in edges for x in (begin, end)]
                    parts.append(svg.area(upper, lower, kind=f"area o-{origin.name}", title=origin.name))
                floor += shares
        frame = svg.axes(panel, y_ticks=[0, 25, 50, 75, 100], y_name="share of rows, %", y_text=_plain, x_name=TIME)
        return _figure([*parts, _faults(ledger, panel, over=True), frame], size, panel, label)

    says = _served(ledger)
    label = f"Share of rows from each origin over time. {says}"
    key = tuple((f"swatch o-{origin.name}", origin.name) for origin in present)
    return Plot("origins", "Where the rows came from", says, key, draw(WIDE), draw(NARROW))


def _flips(ledger: Ledger, budget: float | None) -> Plot:
    flips, drift = _flip_curve(ledger), _psi_curve(ledger)
    alarms = alarms_of(ledger, budget, psi_alarm=PSI_ALARM, drift=[point for run in drift for point in run])
    most_flips = max([y for run in flips for _, y in run] + [100 * (budget or 0.01)]) * 1.25
    most_psi = max([y for run in drift for _, y in run] + [PSI_ALARM]) * 1.25

    def draw(size: Size) -> str:
        top = _top(ledger, size)
        tall = size.tall * 0.75
        upper = _panel(ledger, size, top, 0, most_flips, tall=tall)
        lower = _panel(ledger, size, top + tall + 70, 0, most_psi, tall=tall)
        parts = [
            _faults(ledger, upper),
            _faults(ledger, lower, named=False),
            svg.axes(upper, y_ticks=svg.ticks(0, most_flips, most=5), y_name="decisions changed, % of pairs", y_text=_plain),
            svg.axes(lower, y_ticks=svg.ticks(0, most_psi, most=5), y_name="PSI of the scores, no unit", y_text=_plain, x_name=TIME),
            svg.path((_at(upper, run) for run in flips), kind="thick flips"),
            svg.path((_at(lower, run) for run in drift), kind="thick drift"),
        ]
        if budget:
            parts.append(_level(upper, 100 * budget, f"budget {shown(budget, 'share')}"))
        parts += [_level(lower, PSI_WARNING, "usual warning 0.1"), _level(lower, PSI_ALARM, "usual alarm 0.2")]
        parts += [_mark(upper, alarms.flips_at, "alarm")] if alarms.flips_at is not None else []
        parts += [_mark(lower, alarms.psi_at, "alarm")] if alarms.psi_at is not None else []
        return _figure(parts, size, lower, label)

    says = _changed(ledger, alarms, drift)
    label = f"Share of decisions changed over time, above the PSI of the scores over the same time. {says}"
    key = (("key-thick flips", "decisions changed"), ("key-thick drift", "PSI, served against reference scores"))
    return Plot("flips", "What it did to decisions, and what a drift monitor sees", says, key, draw(WIDE), draw(NARROW))


Run = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Curves:
    """Of the requests served mostly by one origin: runs of (s, ms) medians and p99s, and each slice's slowest."""

    median: list[Run]
    high: list[Run]
    most: Run

    @classmethod
    def of(cls, ledger: Ledger, origin: Origin) -> _Curves:
        median, high, most = [], [], []
        for begin, end, window in ledger.slices:
            seen = window.requests.seen_s[window.requests.main_origin == origin] * 1e3
            middle = (begin + end) / 2
            if len(seen) >= LEAST_FOR_LINE:
                median.append((begin, end, (middle, float(np.median(seen)))))
                high.append((begin, end, (middle, float(np.quantile(seen, 0.99, method="inverted_cdf")))))
            if len(seen):
                most.append((middle, float(seen.max())))
        return cls(*([[point for _, _, point in run] for run in _runs(curve)] for curve in (median, high)), most)


def _flip_curve(ledger: Ledger) -> list[Run]:
    told = []
    for begin, end, window in ledger.slices:
        if rows := window.pairs.rows.sum():
            told.append((begin, end, ((begin + end) / 2, float(100 * window.pairs.flips.sum() / rows))))
    return [[point for _, _, point in run] for run in _runs(told)]


def _psi_curve(ledger: Ledger) -> list[Run]:
    """PSI over as many slices back as give `LEAST_FOR_PSI` pairs."""
    told, held = [], []
    for begin, end, window in ledger.slices:
        held.append((window.pairs.histogram("reference"), window.pairs.histogram("served")))
        while len(held) > 1 and sum(int(one[0].sum()) for one in held[1:]) >= LEAST_FOR_PSI:
            held.pop(0)
        reference, served = (np.sum(side, axis=0) for side in zip(*held, strict=True))
        if window.pairs.rows.sum() and reference.sum() >= LEAST_FOR_PSI:
            told.append((begin, end, ((begin + end) / 2, psi(reference, served))))
    return [[point for _, _, point in run] for run in _runs(told)]


def _runs(cuts: list[tuple]) -> list[list[tuple]]:  # type: ignore[type-arg]
    """Neighbouring slices together, so that no line is drawn across a gap. A cut begins with (begin, end)."""
    runs: list[list[tuple]] = [cuts[:1]] if cuts else []  # type: ignore[type-arg]
    for last, cut in pairwise(cuts):
        if cut[0] > last[1] + 1e-6:
            runs.append([])
        runs[-1].append(cut)
    return runs


def _panel(
    ledger: Ledger, size: Size, top: float, low: float, high: float, *, is_log: bool = False, tall: float | None = None
) -> Panel:
    tall = tall or size.tall
    x = Scale(ledger.whole.begin, max(ledger.whole.end, ledger.whole.begin + 1e-3), size.left, size.right)
    return Panel(x, Scale(low, high, top + tall, top, is_log=is_log))


def _label(fault: Fault) -> str:
    return f"{fault.name}: {fault.fault}" + (f" of {fault.target}" if fault.target else "")


def _placed(ledger: Ledger, size: Panel | Size) -> list[tuple[int, float]]:
    """Lane and left edge of each fault's label."""
    panel = size if isinstance(size, Panel) else _panel(ledger, size, 0, 0, 1)
    spans = [(panel.x(begin), panel.x(end)) for _, begin, end in ledger.fault_windows]
    widths = [LETTER * len(_label(fault)) for fault, _, _ in ledger.fault_windows]
    return svg.lanes(spans, widths, least=panel.x.start, most=panel.x.stop)


def _top(ledger: Ledger, size: Size) -> float:
    """Where the plotting area begins: below the lanes of fault labels and the y axis' name."""
    return 34 + LANE * len({lane for lane, _ in _placed(ledger, size)})


def _faults(ledger: Ledger, panel: Panel, *, named: bool = True, over: bool = False) -> str:
    """Each fault's time shaded, and its name in a lane above the plot."""
    _, top, _, tall = panel.box
    placed = _placed(ledger, panel)
    parts = []
    for (fault, begin, end), (lane, left) in zip(ledger.fault_windows, placed, strict=True):
        x, wide = panel.x(begin), panel.x(end) - panel.x(begin)
        if not over:
            parts.append(svg.box((x, top), (wide, tall), kind="fault", title=_label(fault)))
        parts += [svg.line((at, top), (at, top + tall), kind="edge") for at in (x, x + wide)]
        if named:
            y = top - 34 - LANE * lane
            parts += [svg.line((x, y + 5), (x + wide, y + 5), kind="span"), svg.text((left, y), _label(fault), kind="fault-name")]
    return "".join(parts)


def _level(panel: Panel, value: float, name: str) -> str:
    """A level to compare with: a dashed line, its name on it at the right."""
    left, _, wide, _ = panel.box
    y = panel.y(value)
    return svg.line((left, y), (left + wide, y), kind="level") + svg.text((left + wide - 2, y - 5), name, kind="level-name", anchor="end")


def _mark(panel: Panel, at_s: float, name: str) -> str:
    """A moment: a triangle on the upper edge with its word beside it."""
    left, top, wide, _ = panel.box
    x = panel.x(at_s)
    is_left = x > left + wide - LETTER * len(name) - 12
    word = svg.text((x - 8 if is_left else x + 8, top + 12), name, kind="alarm-name", anchor="end" if is_left else "start")
    return f'<path d="M{x - 5:g} {top:g}h10l-5 9z" class="alarm"/>' + word


def _figure(parts: list[str], size: Size, panel: Panel, label: str) -> str:
    _, top, _, tall = panel.box
    return svg.figure("".join(parts), width=size.width, height=top + tall + 44, label=label, kind=f"plot {size.kind}")


def _at(panel: Panel, run: Sequence[Point]) -> list[Point]:
    return [(panel.x(x), panel.y(y)) for x, y in run]


def _plain(value: float) -> str:
    return f"{value:g}"


def _p99(window: Window | None) -> float | None:
    if window is None or not len(window.requests):
        return None
    return float(np.quantile(window.requests.seen_s, 0.99, method="inverted_cdf"))


def _served(ledger: Ledger) -> str:
    during = ledger.phases.get("during")
    rows = during.requests.origins.sum(axis=0) if during else np.zeros(len(Origin), np.int64)
    if not rows.sum():
        return "Every row says which kind of source answered for it."
    order = sorted((origin for origin in Origin if rows[origin]), key=lambda origin: -int(rows[origin]))
    parts = [f"{shown(rows[origin] / rows.sum(), 'share')} {origin.name}" for origin in order]
    return f"While the fault was on: {', '.join(parts)}."


def _changed(ledger: Ledger, alarms: Alarms, drift: list[Run]) -> str:
    rates = {name: _flip_rate(ledger.phases.get(name)) for name in ("before", "during")}
    peak = max((y for run in drift for _, y in run), default=None)
    says = f"{shown(rates['during'], 'share')} of decisions changed during the fault, {shown(rates['before'], 'share')} before it."
    struck = min((begin for _, begin, _ in ledger.fault_windows), default=None)
    if alarms.flips_at is not None and struck is not None and alarms.flips_at >= struck:
        says += f" The flip alarm rings {shown(alarms.flips_at - struck, 'seconds')} after it began."
    if peak is not None:
        quiet = "never reaches its usual warning level of 0.1" if peak < PSI_WARNING else f"peaks at {shown(peak, 'number')}"
        says += f" PSI {quiet}" + (f": its highest is {shown(peak, 'number')}." if peak < PSI_WARNING else ".")
    return says


def _flip_rate(window: Window | None) -> float | None:
    rows = int(window.pairs.rows.sum()) if window else 0
    return float(window.pairs.flips.sum()) / rows if window and rows else None


