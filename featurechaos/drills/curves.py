"""The lines of a report's plots, as runs of (s, value): a line is never drawn across a gap."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from featurechaos.drills.window import Ledger
from featurechaos.impact.counters import BINS, psi
from featurechaos.model import Origin

LEAST_FOR_LINE = 5
"""Fewer requests than this in a slice are shown as their maximum only."""
LEAST_FOR_PSI = 1000
"""PSI of two samples of n differs from 0 by about 18 / n by chance: fewer pairs would draw noise."""

Point = tuple[float, float]
Run = list[Point]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of the requests served mostly by one origin: runs of (s, ms) medians and p99s, and each slice's slowest."""

    median: list[Run]
    high: list[Run]
    most: Run

    @classmethod
    def of(cls, ledger: Ledger, origin: Origin) -> Latencies:
        median, high, most = [], [], []
        for begin, end, window in ledger.slices:
            seen = window.requests.seen_s[window.requests.main_origin == origin] * 1e3
            middle = (begin + end) / 2
            if len(seen) >= LEAST_FOR_LINE:
                median.append((begin, end, (middle, float(np.median(seen)))))
                high.append((begin, end, (middle, float(np.quantile(seen, 0.99, method="inverted_cdf")))))
            if len(seen):
                most.append((middle, float(seen.max())))
        return cls(_points(median), _points(high), most)


def _points(told: list[tuple[float, float, Point]]) -> list[Run]:
    return [[point for _, _, point in run] for run in runs_of(told)]


def failures(ledger: Ledger) -> Run:
    """The slowest failed request of each slice, as (s, ms)."""
    told = []
    for begin, end, window in ledger.slices:
        seen = window.requests.seen_s[~window.requests.ok] * 1e3
        if len(seen):
            told.append(((begin + end) / 2, float(seen.max())))
    return told


def flip_runs(ledger: Ledger) -> list[Run]:
    told = []
    for begin, end, window in ledger.slices:
        if rows := window.pairs.rows.sum():
            told.append((begin, end, float(100 * window.pairs.flips.sum() / rows)))
    return _steps(told)


def psi_runs(ledger: Ledger) -> list[Run]:
    """PSI of all scores so far, once there are `LEAST_FOR_PSI` pairs.

    So far, as monitors look back over a day and not over minutes: the scores of a moment differ from those of the
    next with all features fresh.
    """
    told = []
    reference, served = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    for begin, end, window in ledger.slices:
        reference += window.pairs.histogram("reference")
        served += window.pairs.histogram("served")
        if window.pairs.rows.sum() and reference.sum() >= LEAST_FOR_PSI:
            told.append((begin, end, psi(reference, served)))
    return _steps(told)


def _steps(told: list[tuple[float, float, float]]) -> list[Run]:
    """Runs of points that hold each value over its whole slice: a jump is drawn where it happened."""
    return [[(at, value) for begin, end, value in run for at in (begin, end)] for run in runs_of(told)]


def runs_of(cuts: list[tuple[Any, ...]]) -> list[list[tuple[Any, ...]]]:
    """Neighbouring slices together, so that no line is drawn across a gap. A cut begins with (begin, end)."""
    runs: list[list[tuple[Any, ...]]] = [cuts[:1]] if cuts else []
    for last, cut in pairwise(cuts):
        if cut[0] > last[1] + 1e-6:
            runs.append([])
        runs[-1].append(cut)
    return runs
