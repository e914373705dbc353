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
_AGES_US = np.array(AGES, np.int64) * 1_000_000
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
        if not self._waiting:
            return
        waiting, self._waiting, self._waits = self._waiting, [], 0
        sizes = [len(times) for times, _, _ in waiting]
        event_time = np.concatenate([times for times, _, _ in waiting])
        wall_us = np.repeat([wall_us for _, wall_us, _ in waiting], sizes)
        origin = _spread([one for _, _, one in waiting], sizes)
        known = event_time != NO_TIME_US
        age_us, origin = np.maximum(0, wall_us[known] - event_time[known]), origin[known]
        counts = np.bincount(origin * _BUCKETS + np.searchsorted(_AGES_US, age_us))
        for at in np.flatnonzero(counts).tolist():
            self._counts[at] += int(counts[at])
        for one in np.flatnonzero(np.bincount(origin)).tolist():
            self._totals_us[one] += int(age_us[origin == one].sum())


def _spread(origins: list[int | NDArray[np.uint8]], sizes: list[int]) -> NDArray[np.int64]:
    """The origin of every row, int64 so that it can be counted with."""
    if all(isinstance(one, int) for one in origins):
        return np.repeat(np.array(origins, np.int64), sizes)
    each = [np.full(size, one, np.int64) for one, size in zip(origins, sizes, strict=True)]
    return np.concatenate(each)
