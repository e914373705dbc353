"""Means over the last hours, of any entity at any hour, without building hourly tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

SECOND_US = 1_000_000
HOUR_S = 3600
_SHIFT = 32
"""A key is the entity above, the second below: seconds since 1970 fit 32 bits until 2106."""

Ints = NDArray[np.int64]


class Rolling:
    """Events of many entities, ready to be summed over any window that ends at any second.

    Events are sorted by (entity, time) with running sums beside them, so that a window is two
    searches and a difference. Sums are of integers, hence exact.

    Args:
        entity: int64 (n,), 0 or more.
        at_us: int64 (n,), when each event happened; it counts from that instant on.
        values: name -> int64 (n,).
    """

    __slots__ = ("_keys", "_sums")

    def __init__(self, entity: Ints, at_us: Ints, values: Mapping[str, Ints]) -> None:
        # Rounded up: an event within a second is not yet known when the second begins.
        keys = _key(entity, -(-at_us // SECOND_US))
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._sums = {name: np.concatenate([[0], np.cumsum(value[order])]) for name, value in values.items()}

    def until(self, entity: Ints, at_us: Ints) -> Ints:
        """Where each entity's events up to an instant end; hand it to `mean` and `count`. (n,)."""
        return np.searchsorted(self._keys, _key(entity, at_us // SECOND_US), side="right")

    def since(self, entity: Ints, at_us: Ints, hours: int) -> Ints:
        """Where each entity's events of the last hours begin. (n,)."""
        return np.searchsorted(self._keys, _key(entity, at_us // SECOND_US - hours * HOUR_S), side="right")

    def mean(self, name: str, begin: Ints, end: Ints) -> NDArray[np.float64]:
        """The mean of a value between two places; NaN where there was no event. (n,)."""
        sums, counts = self._sums[name], end - begin
        total = (sums[end] - sums[begin]).astype(np.float64)
        mean = np.full(len(end), np.nan)
        np.divide(total, counts, out=mean, where=counts > 0)
        return mean

    def first(self, entity: Ints) -> Ints:
        """Where each entity's events begin. (n,)."""
        return np.searchsorted(self._keys, _key(entity, np.zeros_like(entity)), side="left")


def _key(entity: Ints, second: Ints) -> Ints:
    return (entity << _SHIFT) + second
