"""What of a run was not in time: answers, and where they came from before, during and after an outage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos import Cause, Origin
from tests.live.conftest import Answers
from tests.live.watchdog import Span, Watchdog

NOISY_SHARE = 0.02
"""A machine whose cores stand still for more of a run says nothing about time."""
_MOST_EXCUSED = 0.01


@dataclass(frozen=True)
class Limits:
    """What was promised: seconds until an answer, and until 90 % are the primary's again, looked at for `after_s`."""

    answer_s: float
    back_s: float
    after_s: float


@dataclass(frozen=True)
class Run:
    """One outage: when the source was healthy, when it was away, when it was back; and what bare processes saw."""

    healthy: Span
    away: Span
    healed: float
    watchdog: Watchdog
    limits: Limits

    @property
    def is_noisy(self) -> bool:
        end = self.healed + self.limits.back_s + self.limits.after_s
        return self.watchdog.still_share(self.healthy[0], end) > NOISY_SHARE

    def late(self, told: Answers) -> tuple[str, list[str]]:
        """Numbers; and complaints of answers past their time, but for what a bare process met too: at most 1 in 100."""
        began, ended = told.columns["began"], told.columns["ended"]
        took = ended - began
        late = {int(at): float(took[at]) - self.limits.answer_s for at in np.flatnonzero(took > self.limits.answer_s)}
        excused = [at for at, late_s in late.items() if self.watchdog.excuses(began[at], ended[at], late_s)]
        numbers = (
            f"{len(told)} requests, p50 {np.median(took) * 1000:.1f}, p99 {np.quantile(took, 0.99) * 1000:.1f}, most "
            f"{took.max() * 1000:.1f} ms; {len(late)} late, {len(excused)} excused; {len(self.watchdog)} stalls seen"
        )
        complaints = [
            f"late by {late_s * 1000:.1f} ms beside stalls {self.watchdog.within(began[at], ended[at])}"
            for at, late_s in late.items()
            if at not in excused
        ]
        if len(excused) > _MOST_EXCUSED * len(told):
            complaints.append(f"{len(excused)} of {len(told)} excused")
        return numbers, complaints

    def strayed(self, told: Answers) -> tuple[str, list[str]]:
        """Numbers; and complaints where rows weren't the primary's, the snapshot's, and the primary's again in time."""
        began, ended = told.columns["began"], told.columns["ended"]
        origin, cause = told.by_request("plane.truth.origin"), told.by_request("plane.truth.cause")
        since, limits = began - self.healed, self.limits
        before = (began > self.healthy[0]) & (ended < self.healthy[1])
        away = (began > self.away[0]) & (ended < self.away[1])
        after = (since > limits.back_s) & (since < limits.back_s + limits.after_s)
        first, then, last = (
            share(origin[before], Origin.PRIMARY),
            share(origin[away], Origin.SNAPSHOT),
            share(origin[after], Origin.PRIMARY),
        )
        numbers = (
            f"primary before {first:.3f}, snapshot away {then:.3f}, primary after {last:.3f}, 90 % again after "
            f"{back_after_s(since, origin, limits.back_s):.1f} s; causes {counted(cause[away])}"
        )
        held = {
            "enough answers to tell": before.sum() > 20 and away.sum() > 50 and after.sum() > 20,
            "the primary's before": first > 0.9,
            "the snapshot's while it is away": then > 0.95,  # 2 % of the keys are not in the image
            "not asked in vain for long": Cause.BREAKER_OPEN in cause[away],
            "the primary's again in time": last >= 0.9,
        }
        complaints = [f"{claim}: no; {numbers}" for claim, holds in held.items() if not holds]
        return numbers, complaints + (list(timeline(since, origin, cause)) if complaints else [])


def share(origin: NDArray[Any], wanted: Origin) -> float:
    return float(np.mean(origin == wanted)) if origin.size else 0.0


def back_after_s(since: NDArray[Any], origin: NDArray[Any], back_s: float) -> float:
    """Seconds from which on 90 % of each half second's rows are the primary's."""
    back = 0.0
    for begin in np.arange(0.0, back_s, 0.25):
        rows = origin[(since >= begin) & (since < begin + 0.5)]
        if rows.size and share(rows, Origin.PRIMARY) < 0.9:
            back = float(begin) + 0.5
    return back


def timeline(since: NDArray[Any], origin: NDArray[Any], cause: NDArray[Any]) -> Iterator[str]:
    """What became of the rows after the healing, half a second at a time."""
    for begin in np.arange(0.0, float(since.max()), 0.5):
        then = (since >= begin) & (since < begin + 0.5)
        yield f"{begin:.1f} s: primary {share(origin[then], Origin.PRIMARY):.2f}, causes {counted(cause[then])}"


def counted(causes: NDArray[Any]) -> str:
    names, counts = np.unique(causes, return_counts=True)
    return ", ".join(f"{Cause(int(name)).name} {count}" for name, count in zip(names, counts, strict=True))
