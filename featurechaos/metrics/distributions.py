"""How long things took and how old rows were: counts by size, as histograms want them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featurechaos.model import NO_TIME_US, Origin

# Fine around the deadlines and timeouts of the docs: 15, 50 and 60 ms are bounds.
SECONDS = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.010, 0.015, 0.020, 0.030, 0.040, 0.050, 0.060, 0.075,
    0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
AGES = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 2592000)

FEW_ROWS = 128
"""An answer of so many rows may wait to be counted."""

_ORIGINS = len(Origin)
_BUCKETS = len(AGES) + 1
_AGES_US = [1_000_000 * bound for bound in AGES]
_NO_AGE_US = -(1 << 62)
"""A row without an event comes out as from a future further away than any event's."""
_MOST_WAITING, _MOST_ARRAYS = 4096, 128


class Distribution:
    """Values by size: `counts[i]` is how many are within `bounds[i]` and above the bound before it."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...], counts: list[int] | None = None, total: float = 0.0) -> None:
        self.bounds, self.total = bounds, total
        self.counts = [0] * (len(bounds) + 1) if counts is None else counts

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Distribution:
        return Distribution(self.bounds, list(self.counts), self.total)


class Ages:
    """Ages of one view's rows by origin.

    Arrays wait until there are 128, or 4096 values, and are then sorted in together: alone, the fixed cost of the
    numpy calls would be most of it. No more than that, since one answer waits for all of them, and others for it.
    A row without an event has no age; one from the future is 0 s old.
    """

    __slots__ = ("_counts", "_totals_us", "_waiting", "_waits")

    def __init__(self) -> None:
        self._counts = [0] * (_ORIGINS * _BUCKETS)
        self._totals_us = [0] * _ORIGINS
        self._waiting: list[tuple[NDArray[np.int64], int, int | NDArray[np.uint8]]] = []
        self._waits = 0

    def add(self, event_time: NDArray[np.int64], wall_us: int, origin: int | NDArray[np.uint8]) -> None:
        """Add rows by their event times, seen at `wall_us`."""
        n = len(event_time)
        if n == 1:
            self._add_one(int(event_time[0]), wall_us, int(origin[0] if isinstance(origin, np.ndarray) else origin))
            return
        # A copy: the rows are the caller's to write.
        self._waiting.append((event_time.copy(), wall_us, origin))
        self._waits += n
        if self._waits >= _MOST_WAITING or len(self._waiting) >= _MOST_ARRAYS:
            self._fold()

    def add_times(self, times: int | bytes, wall_us: int, origin: int) -> None:
        """The same for `Rows.times`."""
        if isinstance(times, int):
            self._add_one(times, wall_us, origin)
            return
        self._waiting.append((np.frombuffer(times, np.int64), wall_us, origin))
        self._waits += len(times) // 8
        if self._waits >= _MOST_WAITING or len(self._waiting) >= _MOST_ARRAYS:
            self._fold()

    def read(self) -> Iterator[tuple[Origin, Distribution]]:
        """What is known of each origin that rows came from."""
        self._fold()
        for origin in Origin:
            counts = self._counts[origin * _BUCKETS : (origin + 1) * _BUCKETS]
            if any(counts):
                yield origin, Distribution(AGES, counts, self._totals_us[origin] / 1e6)

    def _add_one(self, event_time: int, wall_us: int, origin: int) -> None:
        if event_time != NO_TIME_US:
            age_us = max(0, wall_us - event_time)
            self._counts[origin * _BUCKETS + bisect_left(AGES, age_us / 1e6)] += 1
            self._totals_us[origin] += age_us

    def _fold(self) -> None:
        """Sort in what waits."""
        waiting, self._waiting, self._waits = self._waiting, [], 0
        by_origin: dict[int, list[NDArray[np.int64]]] = {}
        for times, wall_us, origin in waiting:
            age_us = wall_us - times
            if isinstance(origin, int):
                by_origin.setdefault(origin, []).append(age_us)
                continue
            for one in np.unique(origin).tolist():
                by_origin.setdefault(one, []).append(age_us[origin == one])
        for one, ages in by_origin.items():
            self._add_many(np.concatenate(ages), one)

    def _add_many(self, age_us: NDArray[np.int64], origin: int) -> None:
        if (least := age_us.min(initial=0)) < _NO_AGE_US:
            age_us = age_us[age_us >= _NO_AGE_US]
        if least < 0:
            age_us = np.maximum(age_us, 0)
        if not len(age_us):
            return
        # A comparison for each bound between the least and the most: `searchsorted` takes longer even for all bounds.
        first, last = (bisect_left(_AGES_US, int(end)) for end in (age_us.min(), age_us.max()))
        within = [0, *(int(np.count_nonzero(age_us <= bound)) for bound in _AGES_US[first:last]), len(age_us)]
        for nth in range(len(within) - 1):
            self._counts[origin * _BUCKETS + first + nth] += within[nth + 1] - within[nth]
        self._totals_us[origin] += int(age_us.sum())
