"""How far two score distributions are apart, from histograms over the same bins: unpaired measures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def psi(reference: NDArray[np.int64], served: NDArray[np.int64], *, groups: int = 10) -> float:
    """Population stability index of two histograms over the same bins; NaN if either is empty.

    The bins are put together into at most `groups` runs of equal reference mass (deciles): a run
    ends with the bin in which the reference's cumulated share reaches the next tenth, so each run
    holds reference mass, and bins with more than a tenth stay whole. Half a count is added to each
    run on both sides, so that a run nobody was served in is large but finite. Two samples of n of
    one distribution differ by about 2 * (groups - 1) / n: read nothing into less.
    """
    total, other = int(reference.sum()), int(served.sum())
    if not total or not other:
        return float("nan")
    tenths = np.cumsum(reference) * groups // total
    ends = np.diff(tenths, prepend=0) > 0
    run = np.minimum(np.cumsum(ends) - ends, int(ends.sum()) - 1)
    wanted = np.bincount(run, weights=reference) + 0.5
    came = np.bincount(run, weights=served) + 0.5
    wanted, came = wanted / wanted.sum(), came / came.sum()
    return float(((came - wanted) * np.log(came / wanted)).sum())


def ks(reference: NDArray[np.int64], served: NDArray[np.int64]) -> float:
    """Largest distance of the two cumulated shares, looked at on the bin edges; NaN if either is empty."""
    total, other = int(reference.sum()), int(served.sum())
    if not total or not other:
        return float("nan")
    return float(np.abs(np.cumsum(served) / other - np.cumsum(reference) / total).max())
