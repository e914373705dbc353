"""What sort of number a score is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import RequestError


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of number a score is: one within `low`..`high`. Blocks of different kinds do not add."""

    name: str
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high or not np.isfinite([self.low, self.high]).all():
            msg = f"kind {self.name!r} wants finite low < high, got {self.low} and {self.high}"
            raise RequestError(msg)

    def covers(self, scores: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Which scores are finite and within the range; bool (n,)."""
        covered: NDArray[np.bool_] = (scores >= self.low - self.slack) & (scores <= self.high + self.slack)
        return covered

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def slack(self) -> float:
        """How far outside a score may be and still count as rounding; it lands in the end bin."""
        return 1e-6 * self.width


PROBABILITY = Kind("probability")
