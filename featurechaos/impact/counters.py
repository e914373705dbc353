"""Fixed counters of paired scores, exact under addition.

Everything is a whole number. Scores are held on a grid of 2**-24 of their range (finer than a
float32 probability near 1), so sums over any split of a stream, in any order, are equal to the
last integer, which sums of floats are not. 64 bins bound the error of a quantile by 1/64 of the
range, as good as a sketch and added in one instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.drift import ks, psi
from featurechaos.impact.kind import PROBABILITY, Kind
from featurechaos.locks import cached_property

__all__ = ["BINS", "GRID", "GRID_BITS", "Block", "ks", "psi"]

BINS = 64
GRID_BITS = 24
GRID = 1 << GRID_BITS
_TO_BIN = GRID_BITS - 6

_REFERENCE = slice(0, BINS)
_SERVED = slice(BINS, 2 * BINS)
_DELTA = slice(2 * BINS, 3 * BINS)
_DECIDED = slice(3 * BINS, 3 * BINS + 6)
_BINNED = 3 * BINS + 6
_SUMS = slice(_BINNED, _BINNED + 3)
_SIZE = _BINNED + 3
_OFFSETS = np.array([[0], [BINS], [2 * BINS]], np.int64)
_BY_GRID, _BY_BIN = np.array(GRID_BITS), np.array(_TO_BIN)

# What two decisions say together: 2 * (served alerts) + (reference alerts), then the flips within alerts.
_NEITHER, _DOWN, _UP, _BOTH, _UP_WITHIN, _DOWN_WITHIN = range(6)


@dataclass(frozen=True, eq=False)
class Block:
    """Counters of the pairs of one group: an immutable value that adds, and subtracts an earlier self.

    Attributes:
        counts: int64 (201,), read-only: bins of the reference scores, of the served scores and of
            |delta|, pairs by their two decisions, then the sums of |delta|, delta and delta**2 in
            grid units. delta is served - reference.
        most: the largest |delta| in grid units. After a subtraction an upper bound, off by less
            than a bin: a maximum cannot be taken back.
    """

    kind: Kind
    counts: NDArray[np.int64]
    most: int

    @classmethod
    def empty(cls, kind: Kind = PROBABILITY) -> Block:
        return cls(kind, _frozen(np.zeros(_SIZE, np.int64)), 0)

    @classmethod
    def holding(cls, counts: NDArray[np.int64], *, most: int, kind: Kind) -> Block:
        """A block around an array of counts, which is the block's from now on."""
        return cls(kind, _frozen(counts), most)

    @classmethod
    def of(
        cls,
        served: ArrayLike,
        reference: ArrayLike,
        decided_served: NDArray[Any],
        decided_reference: NDArray[Any],
        *,
        kind: Kind = PROBABILITY,
    ) -> Block:
        """Count n pairs.

        Args:
            served, reference: scores (n,) within the kind's range.
            decided_served, decided_reference: decisions (n,), bool, or int >= 0 where 0 is "no alert".
            kind: what sort of score they are.

        Raises:
            RequestError: on lengths that differ, a score that is not finite or out of range, a
                decision that is neither bool nor int >= 0.
        """
        both = _side_by_side(served, reference)
        total = both.shape[1]
        if not total:
            return cls.empty(kind)
        # A response is some hundred rows: what counts is which calls these are. `argmin` (NaN comes first) costs a
        # third of `min`, a shift by an array half of one by an int, `out` by place less than by name.
        scaled = (both - kind.low if kind.low else both) * (GRID / kind.width)
        flat = scaled.reshape(-1)
        is_inside = flat.item(flat.argmin()) >= 0 and flat.item(flat.argmax()) < GRID
        if not is_inside and not kind.covers(both).all():
            raise _out_of_range(both, kind)
        grid = np.empty((5, total), np.int64)  # Reference, served, |delta|, delta, delta**2.
        grid[:2] = scaled  # Truncates: a bin is a floor.
        size, delta, square = grid[2], grid[3], grid[4]
        np.subtract(grid[1], grid[0], delta)
        np.abs(delta, size)
        np.multiply(size, size, square)
        np.right_shift(square, _BY_GRID, square)  # Back to the grid before it is added: int64 holds 2**39 pairs.
        bins = np.right_shift(grid[:3], _BY_BIN)
        if not is_inside:  # A score of `high`, or so near that it rounds to it, and the slack.
            np.clip(bins, 0, BINS - 1, out=bins)
        np.add(bins, _OFFSETS, bins)
        counts = np.bincount(bins.reshape(-1), None, _SIZE)
        _put_decisions(counts[_DECIDED], decided_served, decided_reference, total)
        np.add.reduce(grid[2:], 1, out=counts[_SUMS])
        return cls(kind, _frozen(counts), size.item(size.argmax()))

    def observe(
        self,
        served: ArrayLike,
        reference: ArrayLike,
        decided_served: NDArray[Any],
        decided_reference: NDArray[Any],
    ) -> Block:
        """This block and n pairs more."""
        return self + Block.of(served, reference, decided_served, decided_reference, kind=self.kind)

    def __add__(self, other: Block) -> Block:
        self._must_match(other)
        return Block(self.kind, _frozen(self.counts + other.counts), max(self.most, other.most))

    def __sub__(self, earlier: Block) -> Block:
        """What was counted since `earlier`, a former state of this block; RequestError if it is none."""
        self._must_match(earlier)
        counts = self.counts - earlier.counts
        if (counts[:_BINNED] < 0).any():
            msg = "a block subtracts an earlier state of itself, got one with pairs this one has not counted"
            raise RequestError(msg)
        filled = np.flatnonzero(counts[_DELTA])
        bound = (int(filled[-1]) + 1 << _TO_BIN) if len(filled) else 0
        if len(filled) and filled[-1] == BINS - 1:
            bound = self.most
        return Block(self.kind, _frozen(counts), min(self.most, bound))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Block):
            return NotImplemented
        return self.kind == other.kind and self.most == other.most and np.array_equal(self.counts, other.counts)

    def __hash__(self) -> int:
        return hash((self.kind, self.most, self.counts.tobytes()))

    def __repr__(self) -> str:
        return f"Block({self.kind.name}, pairs={self.pairs}, flips={self.flips})"

    def _must_match(self, other: Block) -> None:
        if self.kind != other.kind:
            msg = f"blocks of one kind of score add up, got {self.kind} and {other.kind}"
            raise RequestError(msg)

    @cached_property
    def _decided(self) -> list[int]:
        counted: list[int] = self.counts[_DECIDED].tolist()
        return counted

    @property
    def pairs(self) -> int:
        return sum(self._decided)

    @property
    def flips_up(self) -> int:
        """Pairs whose served decision is the higher one: alerts that clean features would not have given."""
        return self._decided[_UP] + self._decided[_UP_WITHIN]

    @property
    def flips_down(self) -> int:
        """Pairs whose served decision is the lower one: alerts that were lost."""
        return self._decided[_DOWN] + self._decided[_DOWN_WITHIN]

    @property
    def flips(self) -> int:
        return self.flips_up + self.flips_down

    @property
    def alerts_served(self) -> int:
        return self.pairs - self._decided[_NEITHER] - self._decided[_DOWN]

    @property
    def alerts_reference(self) -> int:
        return self.pairs - self._decided[_NEITHER] - self._decided[_UP]

    @property
    def reference_bins(self) -> NDArray[np.int64]:
        """int64 (64,): reference scores by bin of 1/64 of the range."""
        return self.counts[_REFERENCE]

    @property
    def served_bins(self) -> NDArray[np.int64]:
        """int64 (64,): served scores by bin of 1/64 of the range."""
        return self.counts[_SERVED]

    @property
    def delta_bins(self) -> NDArray[np.int64]:
        """int64 (64,): |served - reference| by bin of 1/64 of the range."""
        return self.counts[_DELTA]

    @property
    def flip_rate(self) -> float:
        """Share of pairs whose two decisions differ; NaN without pairs, as every rate here."""
        return _ratio(self.flips, self.pairs)

    @property
    def mean_delta(self) -> float:
        """Mean of served - reference, in the score's own units: the bias."""
        return self._mean(1)

    @property
    def mean_abs_delta(self) -> float:
        """Mean of |served - reference|, in the score's own units."""
        return self._mean(0)

    @property
    def rms_delta(self) -> float:
        """Root of the mean of (served - reference)**2, in the score's own units."""
        return float(np.sqrt(self._mean(2) * self.kind.width))

    @property
    def max_abs_delta(self) -> float:
        """Largest |served - reference|, in the score's own units; 0 without pairs."""
        return self.most / GRID * self.kind.width

    @property
    def alert_rate_ratio(self) -> float:
        """Alerts on served features for each alert on clean ones; inf if only the served ones alert."""
        if self.alerts_served and not self.alerts_reference:
            return float("inf")
        return _ratio(self.alerts_served, self.alerts_reference)

    @property
    def psi(self) -> float:
        """Population stability index of the served scores; see `drift.psi`."""
        return psi(self.reference_bins, self.served_bins)

    @property
    def ks(self) -> float:
        """Largest distance of the two score distributions, looked at on the 63 inner bin edges."""
        return ks(self.reference_bins, self.served_bins)

    def abs_delta_quantile(self, share: float) -> float:
        """The |delta| that `share` of the pairs do not pass, off by at most 1/64 of the range."""
        if not 0 <= share <= 1:
            msg = f"a quantile's share is within 0..1, got {share}"
            raise RequestError(msg)
        if not self.pairs:
            return float("nan")
        upto = np.concatenate(([0], np.cumsum(self.delta_bins)))
        edge = float(np.interp(share * self.pairs, upto, np.arange(BINS + 1))) / BINS
        return min(edge * self.kind.width, self.max_abs_delta)

    def _mean(self, index: int) -> float:
        return _ratio(int(self.counts[_SUMS][index]), self.pairs) / GRID * self.kind.width

    def to_dict(self) -> dict[str, Any]:
        """The counters as JSON values; `from_dict` gives an equal block back."""
        size, delta, square = self.counts[_SUMS].tolist()
        return {
            "kind": {"name": self.kind.name, "low": self.kind.low, "high": self.kind.high},
            "decided": list(self._decided),
            "delta": delta,
            "abs_delta": size,
            "square_delta": square,
            "max_abs_delta": self.most,
            "reference_bins": self.reference_bins.tolist(),
            "served_bins": self.served_bins.tolist(),
            "delta_bins": self.delta_bins.tolist(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Block:
        """Read what `to_dict` wrote; RequestError on anything else."""
        try:
            kind = Kind(str(told["kind"]["name"]), float(told["kind"]["low"]), float(told["kind"]["high"]))
            bins = [told["reference_bins"], told["served_bins"], told["delta_bins"]]
            parts = [*bins, told["decided"], [told["abs_delta"], told["delta"], told["square_delta"]]]
            most = int(told["max_abs_delta"])
            counts = np.array([value for part in parts for value in part], dtype=np.int64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            msg = f"a block wants the mapping its to_dict() gave, got one that fails with {error!r}"
            raise RequestError(msg) from error
        if [len(part) for part in parts] != [BINS, BINS, BINS, 6, 3] or (counts[:_BINNED] < 0).any():
            msg = "a block wants 3 x 64 bins and 6 decisions, all >= 0, got others"
            raise RequestError(msg)
        return cls(kind, _frozen(counts), most)


def _side_by_side(served: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Both scores as a fresh float64 (2, n), reference first."""
    try:
        both = np.array((reference, served), dtype=np.float64)
    except (TypeError, ValueError) as error:
        shapes = f"{np.shape(served)} served and {np.shape(reference)} reference"
        msg = f"pairs want two arrays of n numbers, got {shapes}"
        raise RequestError(msg) from error
    if both.ndim != 2:
        msg = f"pairs want scores of one dimension, got shape {both.shape[1:]}"
        raise RequestError(msg)
    return both


def _out_of_range(both: NDArray[np.float64], kind: Kind) -> RequestError:
    side, row = np.argwhere(~kind.covers(both))[0]
    return RequestError(
        f"a score of kind {kind.name!r} is within {kind.low:g}..{kind.high:g}, "
        f"got {both[side, row]} in row {row} of the {('reference', 'served')[side]} scores"
    )


def _put_decisions(into: NDArray[np.int64], served: NDArray[Any], reference: NDArray[Any], total: int) -> None:
    """Count what both decisions of each pair say together."""
    if served.shape != (total,) or reference.shape != (total,):
        shapes = f"{served.shape} served and {reference.shape} reference"
        msg = f"{total} pairs want as many decisions, got {shapes}"
        raise RequestError(msg)
    alerts, wanted = served, reference
    if served.dtype != np.bool_ or reference.dtype != np.bool_:
        _must_be_decisions(served, "served")
        _must_be_decisions(reference, "reference")
        alerts, wanted = served > 0, reference > 0
    count = np.count_nonzero
    within = alerts & wanted
    both, up, down = count(within), count(alerts), count(wanted)
    up_within = down_within = 0
    if alerts is not served:
        up_within = int(count(within & (served > reference)))
        down_within = int(count(within & (served < reference)))
    up, down = up - both, down - both
    into[_NEITHER], into[_DOWN], into[_UP] = total - up - down - both, down, up
    into[_BOTH] = both - up_within - down_within
    into[_UP_WITHIN], into[_DOWN_WITHIN] = up_within, down_within


def _must_be_decisions(decided: NDArray[Any], side: str) -> None:
    if decided.dtype.kind not in "biu":
        msg = f"decisions are bool or int >= 0, got {side} ones of dtype {decided.dtype}"
        raise RequestError(msg)
    if decided.dtype.kind == "i" and decided.min() < 0:
        msg = f"decisions are bool or int >= 0, got {side} ones down to {decided.min()}"
        raise RequestError(msg)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _frozen(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    counts.flags.writeable = False
    return counts
