"""Alarms on flips that may be looked at after every batch, and one on drift to set beside them.

`Cusum` is the default: it notices a change soon, also after a long healthy run, and raises a false
alarm about once in `level` batches at most. `EProcess` is for guards: it looks at one period from
its start and is wrong with probability `alpha` at most, however often it is asked. Both hold
whatever the dependence between rows, as long as the expected share of flips given the past stays
within the budget. After Shin, Ramdas and Rinaldo, "E-detectors", 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import RequestError
from featurechaos.impact.counters import Block

_GRID = 9
_MOST_RATE = 0.9


def _rates_above(budget: float) -> NDArray[np.float64]:
    """Flip rates worth being ready for, float64 (9,): evenly spread in log from 1.5 budgets to 0.9."""
    if not 0 < budget < 1:
        msg = f"a flip budget is a share within 0..1, both excluded, got {budget}"
        raise RequestError(msg)
    most = max(_MOST_RATE, (1 + budget) / 2)
    return np.geomspace(min(1.5 * budget, (budget + most) / 2), most, _GRID)


@dataclass(slots=True)
class _Bet:
    """What one flip, and one pair without, say for each alternative rate against the budget, in log."""

    budget: float
    flip: NDArray[np.float64] = field(init=False)
    rest: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        rates = _rates_above(self.budget)
        self.flip = np.log(rates / self.budget)
        self.rest = np.log((1 - rates) / (1 - self.budget))

    def on(self, flips: int, pairs: int) -> NDArray[np.float64]:
        if not 0 <= flips <= pairs:
            msg = f"flips are within 0..pairs, got {flips} flips of {pairs} pairs"
            raise RequestError(msg)
        return flips * self.flip + (pairs - flips) * self.rest


def _log_mean_exp(logs: NDArray[np.float64]) -> float:
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).mean()))


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a detector says: is it on now, how often did it go on, and after how many pairs first.

    `log_e` is the log of the evidence, to compare with log(level). Alarms of several processes add
    up to "on somewhere": the strongest evidence, the fires summed, the earliest first.
    """

    budget: float
    level: float
    is_on: bool = False
    fired: int = 0
    first_at: int | None = None
    log_e: float = 0.0

    def __add__(self, other: Alarm) -> Alarm:
        if (self.budget, self.level) != (other.budget, other.level):
            msg = (
                "alarms of one budget and level add up, got "
                f"{self.budget} at {self.level:g} and {other.budget} at {other.level:g}"
            )
            raise RequestError(msg)
        firsts = [first for first in (self.first_at, other.first_at) if first is not None]
        return Alarm(
            self.budget,
            self.level,
            self.is_on or other.is_on,
            self.fired + other.fired,
            min(firsts, default=None),
            max(self.log_e, other.log_e),
        )


class Cusum:
    """Alarm when flips begin to come more often than `budget`.

    For each of 9 rates the log-likelihood ratio against the budget is summed, starting over from
    nothing whenever it is below nothing; the alarm is on while the mean of their exponentials is at
    least `level`. At a true rate of `budget` that takes at least about `level` batches. Each sum is
    held below 9 * `level`, enough to raise the alarm alone, so that the alarm goes off again when
    the evidence is gone; holding it only ever delays an alarm.
    """

    __slots__ = ("_bet", "_cap", "_fired", "_first_at", "_is_on", "_pairs", "_sums", "budget", "level")

    def __init__(self, budget: float, *, level: float = 1e4) -> None:
        if not 1 < level < math.inf:
            msg = f"an alarm level is above 1 and finite, got {level}"
            raise RequestError(msg)
        self.budget, self.level = budget, level
        self._bet = _Bet(budget)
        self._cap = math.log(_GRID * level) + 1e-9
        self._sums = np.zeros(_GRID)
        self._is_on, self._fired, self._pairs = False, 0, 0
        self._first_at: int | None = None

    def update(self, flips: int, pairs: int) -> bool:
        """Take one batch in; whether the alarm is on. An empty batch changes nothing."""
        if not pairs:
            return self._is_on
        self._sums = np.minimum(np.maximum(self._sums, 0) + self._bet.on(flips, pairs), self._cap)
        was_on, self._is_on = self._is_on, self.log_e >= math.log(self.level)
        self._pairs += pairs
        if self._is_on and not was_on:
            self._fired += 1
            self._first_at = self._pairs if self._first_at is None else self._first_at
        return self._is_on

    @property
    def log_e(self) -> float:
        return _log_mean_exp(self._sums)

    @property
    def alarm(self) -> Alarm:
        return Alarm(self.budget, self.level, self._is_on, self._fired, self._first_at, self.log_e)


class EProcess:
    """Alarm, once and for good, when flips since the start show a rate above `budget`.

    The chance of ever being wrong is at most `alpha`, looked at after every pair or not (Ville).
    """

    __slots__ = ("_bet", "_fired", "_first_at", "_log_odds", "_pairs", "alpha", "budget")

    def __init__(self, budget: float, *, alpha: float = 0.01) -> None:
        if not 0 < alpha < 1:
            msg = f"alpha is within 0..1, both excluded, got {alpha}"
            raise RequestError(msg)
        self.budget, self.alpha = budget, alpha
        self._bet = _Bet(budget)
        self._log_odds = np.zeros(_GRID)
        self._pairs = 0
        self._first_at: int | None = None

    def update(self, flips: int, pairs: int) -> bool:
        """Take one batch in; whether the alarm has been raised."""
        self._log_odds = self._log_odds + self._bet.on(flips, pairs)
        self._pairs += pairs
        if self._first_at is None and self.log_e >= -math.log(self.alpha):
            self._first_at = self._pairs
        return self._first_at is not None

    @property
    def log_e(self) -> float:
        return _log_mean_exp(self._log_odds)

    @property
    def alarm(self) -> Alarm:
        is_on = self._first_at is not None
        return Alarm(self.budget, 1 / self.alpha, is_on, int(is_on), self._first_at, self.log_e)


@dataclass(frozen=True, slots=True)
class PsiAlarm:
    """The alarm of an ordinary score dashboard: PSI of the scores past a limit.

    It sees defaults and nulls. It does not see staleness, whose scores have the same distribution:
    that is why it stands beside `Cusum` in a report. `limit` is the usual rule of thumb for "shifted".
    """

    limit: float = 0.2
    least_pairs: int = 500

    def is_on(self, block: Block) -> bool:
        """Whether the block's served scores are drifted; False below `least_pairs`."""
        return block.pairs >= self.least_pairs and block.psi > self.limit
