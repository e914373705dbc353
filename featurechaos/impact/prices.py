"""What a model would have decided on each degraded tier: the mirror image of a pair, before anything is degraded.

The client reads some healthy answers again from the tiers behind the first source (`policy.shadow`). What was
served is the good side of the pair here, a tier the degraded one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featurechaos.impact.kind import Kind
from featurechaos.impact.scoring import Decider, Inputs, ResponseLike, Scorer, Scores

_log = logging.getLogger(__name__)

_MOST_WAITING = 64


class TierLike(Protocol):
    """A tier by its name."""

    @property
    def name(self) -> str: ...


class PricedLike(Protocol):
    """The same request with one tier's rows; `covered` bool (n,), the rows to be judged by."""

    @property
    def tier(self) -> TierLike: ...
    @property
    def response(self) -> Any: ...
    @property
    def covered(self) -> NDArray[np.bool_]: ...


class _Scored(NamedTuple):
    response: ResponseLike
    served: Scores
    inputs: Inputs


@dataclass(slots=True)
class Price:
    """Pairs of one tier: of `flips` the two decisions differ, `total` sums the absolute differences of scores."""

    pairs: int = 0
    flips: int = 0
    failed: int = 0
    total: float = 0.0

    def told(self) -> dict[str, Any]:
        return {
            "pairs": self.pairs,
            "flips": self.flips,
            "flip_rate": self.flips / self.pairs if self.pairs else None,
            "mean_abs_delta": self.total / self.pairs if self.pairs else None,
            "failed": self.failed,
        }


class Prices:
    """Scores healthy requests again on each tier. At most 64 of them wait for their tiers; the oldest go first."""

    def __init__(self, score: Scorer, decide: Decider, kind: Kind) -> None:
        self._score, self._decide, self._kind = score, decide, kind
        self._lock = threading.Lock()
        self._waiting: dict[str, _Scored] = {}
        self._tiers: dict[str, Price] = {}

    def expect(self, response: ResponseLike, served: Scores, inputs: Inputs) -> None:
        """Keep scores until the tiers of their request are heard."""
        with self._lock:
            self._waiting[response.request_id] = _Scored(response, served, inputs)
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]

    def hear(self, request_id: str, priced: Sequence[PricedLike]) -> None:
        """Score the same request on each tier, if its scores are known. Never raises."""
        with self._lock:
            scored = self._waiting.pop(request_id, None)
        if scored is not None:
            with self._lock:
                for one in priced:  # First: told in the order in which they are tried.
                    self._tiers.setdefault(one.tier.name, Price())
            for one in priced:
                self._count(scored, one)

    def told(self) -> dict[str, Any]:
        """tier -> pairs, flips, flip_rate, mean_abs_delta, failed."""
        with self._lock:
            return {name: price.told() for name, price in self._tiers.items()}

    def _count(self, scored: _Scored, one: PricedLike) -> None:
        name, covered = one.tier.name, one.covered
        if not covered.any():
            return
        price = Price()
        try:
            scores = self._score(one.response, scored.inputs)
            good = covered & self._kind.covers(scored.served) & self._kind.covers(scores)
            flipped = self._decide(scored.served, scored.response, scored.inputs) != self._decide(
                scores, one.response, scored.inputs
            )
            price.pairs, price.flips = int(good.sum()), int((flipped & good).sum())
            price.failed = int((covered & ~good).sum())
            price.total = float(np.abs(scores[good].astype(np.float64) - scored.served[good]).sum())
        except Exception as error:  # noqa: BLE001 - a model's own error, of any type, must not end the thread
            price = Price(failed=int(covered.sum()))
            _log.debug("tier %r could not be scored: %s", name, error)
        with self._lock:
            sums = self._tiers[name]
            sums.pairs += price.pairs
            sums.flips += price.flips
            sums.failed += price.failed
            sums.total += price.total
