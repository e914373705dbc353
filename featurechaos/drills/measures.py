"""What a probe finds, how sure one can be of it, and how a person reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featurechaos.drills.window import Counts, Floats, Mask

Z = 2.576
"""Two-sided 99 %, the doubt a `margin` has to cover."""
LEAST_SHOWN, ALMOST = 0.0001, 0.999


@dataclass(frozen=True, slots=True)
class Measure:
    """What a probe found. `value` None: nothing to go by, for the reason in `why`.

    `samples` is how many `of` it rests on; `low` and `high` bound the true value of a rate at 99 %.
    """

    value: float | None
    samples: int = 0
    of: str = "requests"
    low: float | None = None
    high: float | None = None
    why: str = ""


def share_of(hits: Counts | Mask, totals: Counts, of: str) -> Measure:
    """A share with its 99 % interval: Wilson's, on as many things as they are worth.

    The rows of one request rise and fall together, so that twenty of them are not twenty proofs:
    the count is divided by the design effect, after Kish, "Survey Sampling", 1965.
    """
    total = int(totals.sum())
    if not total:
        return Measure(None, 0, of, why=f"there were no {of}")
    rate = float(hits.sum()) / total
    worth = total / _design_effect(hits, totals, rate)
    centre = (rate + Z * Z / (2 * worth)) / (1 + Z * Z / worth)
    reach = Z / (1 + Z * Z / worth) * math.sqrt(rate * (1 - rate) / worth + Z * Z / (4 * worth * worth))
    return Measure(rate, total, of, max(centre - reach, 0.0), min(centre + reach, 1.0))


def quantile_of(values: Floats, quantile: float) -> Measure:
    """A quantile by its smallest member at or above; unknown with too few values to hold one beyond it."""
    if not len(values):
        return Measure(None, why="there were no requests to time")
    needed = 1 if quantile in (0, 1) else math.ceil(round(1 / min(quantile, 1 - quantile), 6))
    if len(values) < needed:
        return Measure(None, len(values), why=f"p{100 * quantile:g} needs {needed} requests")
    return Measure(float(np.quantile(values, quantile, method="inverted_cdf")), len(values))


def shown(value: float | None, unit: str) -> str:
    """A value as a person reads it: 12.3 ms, 4.2 %, yes."""
    if value is None:
        return "unknown"
    if unit == "claim":
        return "yes" if value else "no"
    if unit == "share":
        nearly_all = ALMOST < value < 1
        # Rounding up would call 99.98 % all of them.
        return f"{math.floor(1e4 * value) / 100:g} %" if nearly_all else f"{_short(100 * value)} %"
    if unit == "seconds":
        return _time(value)
    if 0 < abs(value) < LEAST_SHOWN:
        return f"below {LEAST_SHOWN}" if value > 0 else f"above -{LEAST_SHOWN}"
    return _short(value)


def _design_effect(hits: Counts | Mask, totals: Counts, rate: float) -> float:
    count, spread = len(totals), rate * (1 - rate) * int(totals.sum())
    if count < 2 or not spread:
        return max(float(totals.max(initial=1)), 1.0)
    return max(float(((hits - rate * totals) ** 2).sum()) * count / (count - 1) / spread, 1.0)


def mean_of(sums: Floats, rows: Counts) -> Measure:
    total = int(rows.sum())
    if not total:
        return Measure(None, 0, "pairs", why="there were no pairs")
    return Measure(float(sums.sum()) / total, total, "pairs")


def _short(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def _time(value: float) -> str:
    for least, size, name in ((86400, 86400, "d"), (3600, 3600, "h"), (120, 60, "min")):
        if value >= least:
            return f"{_short(value / size)} {name}"
    return f"{_short(value)} s" if value >= 1 or value == 0 else f"{_short(value * 1e3)} ms"
