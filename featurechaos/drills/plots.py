"""The pictures of a report: latency by origin, shares of origins, and decisions changed beside PSI.

Each is drawn twice, wide and narrow, so that its letters have their true size on a phone too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featurechaos.drills import frame, svg
from featurechaos.drills.alarms import Alarms, alarms_of
from featurechaos.drills.curves import Latencies, Run, failures, flip_runs, psi_runs, runs_of
from featurechaos.drills.frame import NARROW, PSI_ALARM, PSI_WARNING, WIDE, Size
from featurechaos.drills.measures import shown
from featurechaos.drills.svg import Panel, Point
from featurechaos.drills.window import Ledger, Window
from featurechaos.model import Origin

TIME = "time since the drill began, s"


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: what it says in words, its key, and its two drawings."""

    name: str
    title: str
    says: str
    key: tuple[tuple[str, str], ...]
    wide: str
    narrow: str


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
    curves = {origin: Latencies.of(ledger, origin) for origin in Origin}
    curves = {origin: one for origin, one in curves.items() if one.most}
    seen = ledger.whole.requests.seen_s * 1e3
    ends = [*seen[seen > 0], *([deadline_s * 1e3 * 1.2] if deadline_s else [])] or [1.0]
    low, high, marks = svg.decades(max(float(np.percentile(ends, 1)), 1e-3), max(ends))
    failed = failures(ledger)

    def draw(size: Size) -> str:
        top = frame.top_of(ledger, size)
        panel = frame.panel_of(ledger, size, top, low, high, is_log=True)
        parts = [
            frame.faults(ledger, panel),
            svg.axes(panel, y_ticks=marks, y_name="latency, ms (log scale)", y_text=_plain, x_name=TIME),
        ]
        for origin, one in curves.items():
            hue = f"o-{origin.name}"
            parts.append(svg.dots(_at(panel, one.most), kind=f"dot {hue}"))
            parts.append(svg.path((_at(panel, run) for run in one.median), kind=f"thin {hue}"))
            parts.append(svg.path((_at(panel, run) for run in one.high), kind=f"thick {hue}"))
        if deadline_s:
            parts.append(frame.level(panel, deadline_s * 1e3, f"deadline {shown(deadline_s, 'seconds')}"))
        parts += [svg.cross(point) for point in _at(panel, failed)]
        return frame.figure(parts, size, panel, label)

    before, during = (_p99(ledger.phases.get(name)) for name in ("before", "during"))
    says = "What callers saw, from when a request was due to its answer."
    if before and during:
        slow, usual = shown(during, "seconds"), shown(before, "seconds")
        says = f"99 of 100 requests took at most {slow} during the fault, {usual} before it."
    label = f"Latency over time by origin. {says}"
    key = [(f"swatch o-{origin.name}", origin.name) for origin in curves]
    key += [("key-thick", "p99"), ("key-thin", "median"), ("key-dot", "slowest")]
    key += [("key-cross", "failed (the slowest)")] if failed else []
    return Plot("latency", "Latency by origin", says, tuple(key), draw(WIDE), draw(NARROW))


def _origins(ledger: Ledger) -> Plot:
    total = ledger.whole.requests.origins.sum(axis=0)
    present = [origin for origin in (*list(Origin)[1:], Origin.NONE) if total[origin]]
    cuts = [(begin, end, window) for begin, end, window in ledger.slices if window.requests.rows.sum()]

    def draw(size: Size) -> str:
        panel = frame.panel_of(ledger, size, frame.top_of(ledger, size), 0, 100)
        parts = []
        for run in runs_of([(begin, end, window.requests.origins.sum(axis=0)) for begin, end, window in cuts]):
            floor = np.zeros(len(run))
            for origin in present:
                shares = np.array([100 * counts[origin] / counts.sum() for _, _, counts in run])
                edges = [
                    (begin, end, low, low + share)
                    for (begin, end, _), low, share in zip(run, floor, shares, strict=True)
                ]
                if shares.any():
                    upper = [(panel.x(x), panel.y(y)) for begin, end, _, y in edges for x in (begin, end)]
                    lower = [(panel.x(x), panel.y(y)) for begin, end, y, _ in edges for x in (begin, end)]
                    parts.append(svg.area(upper, lower, kind=f"area o-{origin.name}", title=origin.name))
                floor += shares
        axes = svg.axes(panel, y_ticks=[0, 25, 50, 75, 100], y_name="share of rows, %", y_text=_plain, x_name=TIME)
        return frame.figure([*parts, frame.faults(ledger, panel, over=True), axes], size, panel, label)

    says = _served(ledger)
    label = f"Share of rows from each origin over time. {says}"
    key = tuple((f"swatch o-{origin.name}", origin.name) for origin in present)
    return Plot("origins", "Where the rows came from", says, key, draw(WIDE), draw(NARROW))


def _flips(ledger: Ledger, budget: float | None) -> Plot:
    flips, drift = flip_runs(ledger), psi_runs(ledger)
    alarms = alarms_of(ledger, budget, psi_alarm=PSI_ALARM, drift=[point for run in drift for point in run])
    most_flips = max([y for run in flips for _, y in run] + [100 * (budget or 0.01)]) * 1.25
    most_psi = max([y for run in drift for _, y in run] + [PSI_ALARM]) * 1.25

    def draw(size: Size) -> str:
        top = frame.top_of(ledger, size)
        tall = size.tall * 0.75
        upper = frame.panel_of(ledger, size, top, 0, most_flips, tall=tall)
        lower = frame.panel_of(ledger, size, top + tall + 70, 0, most_psi, tall=tall)
        parts = [
            frame.faults(ledger, upper),
            frame.faults(ledger, lower, named=False),
            svg.axes(
                upper, y_ticks=svg.ticks(0, most_flips, most=5), y_name="decisions changed, % of pairs", y_text=_plain
            ),
            svg.axes(
                lower,
                y_ticks=svg.ticks(0, most_psi, most=5),
                y_name="PSI of all scores so far, no unit",
                y_text=_plain,
                x_name=TIME,
            ),
            svg.path((_at(upper, run) for run in flips), kind="thick flips"),
            svg.path((_at(lower, run) for run in drift), kind="thick drift"),
        ]
        if budget:
            parts.append(frame.level(upper, 100 * budget, f"budget {shown(budget, 'share')}"))
        parts += frame.psi_levels(lower)
        parts += [frame.mark(upper, alarms.flips_at, "alarm")] if alarms.flips_at is not None else []
        parts += [frame.mark(lower, alarms.psi_at, "alarm")] if alarms.psi_at is not None else []
        return frame.figure(parts, size, lower, label)

    says = _changed(ledger, alarms, drift)
    label = f"Share of decisions changed over time, above the PSI of all scores so far. {says}"
    key = (
        ("key-thick flips", "decisions changed"),
        ("key-thick drift", "PSI of all scores so far, served against reference"),
    )
    return Plot("flips", "What it did to decisions, and what a drift monitor sees", says, key, draw(WIDE), draw(NARROW))


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
    during, before = shown(rates["during"], "share"), shown(rates["before"], "share")
    says = f"{during} of decisions changed during the fault, {before} before it."
    struck = min((begin for _, begin, _ in ledger.fault_windows), default=None)
    if alarms.flips_at is not None and struck is not None and alarms.flips_at >= struck:
        says += f" The flip alarm rings {shown(alarms.flips_at - struck, 'seconds')} after it began."
    if peak is not None:
        quiet = (
            "never reaches its usual warning level of 0.1"
            if peak < PSI_WARNING
            else f"peaks at {shown(peak, 'number')}"
        )
        says += f" PSI of all scores so far {quiet}" + (
            f": its highest is {shown(peak, 'number')}." if peak < PSI_WARNING else "."
        )
    return says


def _flip_rate(window: Window | None) -> float | None:
    rows = int(window.pairs.rows.sum()) if window else 0
    return float(window.pairs.flips.sum()) / rows if window and rows else None
