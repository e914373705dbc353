"""When the alarms would have rung in a drill: the paired one on flips, and the one most people have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from featurechaos.drills.window import Ledger
from featurechaos.impact.detectors import Cusum

_MOST_BATCHES = 4000
_BATCH_S = 0.1


@dataclass(frozen=True, slots=True)
class Alarms:
    """When each alarm first rang, in seconds since the drill began; None: it never did."""

    flips_at: float | None
    psi_at: float | None


def alarms_of(
    ledger: Ledger, budget: float | None, *, psi_alarm: float, drift: Iterable[tuple[float, float]]
) -> Alarms:
    """Replay the flip alarm over the pairs in time order; PSI's is the first point of its curve past the level."""
    return Alarms(
        flips_at=_flip_alarm(ledger, budget) if budget and 0 < budget < 1 else None,
        psi_at=next((at for at, value in drift if value > psi_alarm), None),
    )


def _flip_alarm(ledger: Ledger, budget: float) -> float | None:
    pairs = ledger.whole.pairs
    step = max(_BATCH_S, ledger.whole.end / _MOST_BATCHES)
    batch = (pairs.done / step).astype(np.int64)
    flips = np.bincount(batch, weights=pairs.flips)
    rows = np.bincount(batch, weights=pairs.rows)
    detector = Cusum(budget)
    for at in np.flatnonzero(rows):
        if detector.update(int(flips[at]), int(rows[at])):
            return float((at + 1) * step)
    return None
