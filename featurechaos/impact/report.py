"""What degraded features did to the predictions, as a value to read, print, add up and keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from featurechaos.errors import RequestError
from featurechaos.impact.attribution import CLEAN_VIEW
from featurechaos.impact.counters import Block
from featurechaos.impact.detectors import Alarm, PsiAlarm
from featurechaos.impact.pairs import Pairs
from featurechaos.model import Cause, Origin

_BLIND_SHARE = 0.05
_HEAD = ("", "pairs", "flips", "flip rate", "mean |Δ|", "mean Δ", "alert ratio", "PSI")


@dataclass(frozen=True)
class Report:
    """The counters of one or several monitors, with what follows from them.

    Reports add up with `+` over threads, processes and hosts, exactly; `later - earlier` is what
    happened between two reports of one monitor (its alarm is the later one's).

    Attributes:
        counters: everything counted; see `Pairs`.
        alarm: the sequential alarm on flips over the budget; None when there is no budget.
        models: the names of the models reported on.
    """

    counters: Pairs
    alarm: Alarm | None = None
    models: tuple[str, ...] = ()

    @property
    def total(self) -> Block:
        """All pairs, each once, with every measure a block has."""
        return self.counters.total

    @property
    def predictions(self) -> int:
        """Rows scored, paired or not."""
        return self.counters.predictions

    @property
    def sampled(self) -> int:
        """Rows chosen for pairing."""
        return self.counters.sampled

    @property
    def unpaired(self) -> int:
        """Sampled rows for which no clean features could be had."""
        return self.counters.unpaired

    @property
    def dropped(self) -> int:
        """Sampled rows the queue had no room for."""
        return self.counters.dropped

    @property
    def failed(self) -> int:
        """Sampled rows whose second scoring raised, or whose scores were not of their kind."""
        return self.counters.failed

    @property
    def waiting(self) -> int:
        """Sampled rows still in the queue."""
        return self.sampled - self.pairs - self.unpaired - self.dropped - self.failed

    @property
    def pairs(self) -> int:
        """Rows scored on served and on clean features."""
        return self.total.pairs

    @property
    def flips(self) -> int:
        """Pairs whose two decisions differ."""
        return self.total.flips

    @property
    def flip_rate(self) -> float:
        """Flips for each pair; NaN without pairs, as every rate here."""
        return self.total.flip_rate

    @property
    def mean_abs_delta(self) -> float:
        """Mean of |served - reference| score."""
        return self.total.mean_abs_delta

    @property
    def mean_delta(self) -> float:
        """Mean of served - reference score: the bias."""
        return self.total.mean_delta

    @property
    def alert_rate_ratio(self) -> float:
        """Alerts on served features for each alert on clean ones."""
        return self.total.alert_rate_ratio

    @property
    def psi(self) -> float:
        """Population stability index of the served scores against the clean ones: what a dashboard sees."""
        return self.total.psi

    @property
    def psi_alarm(self) -> bool:
        """Whether an ordinary score-drift alarm would be on; see `PsiAlarm`."""
        return PsiAlarm().is_on(self.total)

    @property
    def by_view(self) -> Mapping[str, Block]:
        """The same measures for each degraded view, and for `(clean)`; see `attribution`."""
        return self.counters.views

    @property
    def by_origin(self) -> Mapping[Origin, Block]:
        """The same measures for each origin of a degraded row; clean pairs under PRIMARY or REPLICA."""
        return self.counters.origins

    @property
    def by_cause(self) -> Mapping[Cause, Block]:
        """The same measures for each cause of a degraded row; clean pairs under NONE."""
        return self.counters.causes

    def __add__(self, other: Report) -> Report:
        if not isinstance(other, Report):
            return NotImplemented
        alarm = self.alarm + other.alarm if self.alarm and other.alarm else self.alarm or other.alarm
        return Report(self.counters + other.counters, alarm, tuple(sorted({*self.models, *other.models})))

    def __sub__(self, earlier: Report) -> Report:
        """What happened since `earlier`; RequestError if that is not an earlier report of the same."""
        if not isinstance(earlier, Report):
            return NotImplemented
        return Report(self.counters - earlier.counters, self.alarm, self.models)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: the measures to read (None where there is none), and the counters to add up."""
        return {
            "models": list(self.models),
            "predictions": self.predictions,
            "sampled": self.sampled,
            "unpaired": self.unpaired,
            "dropped": self.dropped,
            "failed": self.failed,
            **_measures(self.total),
            "by_view": {view: _measures(block) for view, block in self.by_view.items()},
            "by_origin": {origin.name: _measures(block) for origin, block in sorted(self.by_origin.items())},
            "by_cause": {cause.name: _measures(block) for cause, block in sorted(self.by_cause.items())},
            "alarm": None if self.alarm is None else _alarm_told(self.alarm),
            "psi_alarm": self.psi_alarm,
            "counters": self.counters.to_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Report:
        """Read what `to_dict` wrote (counters, alarm and models); RequestError on anything else."""
        try:
            alarm = None if told["alarm"] is None else Alarm(**told["alarm"])
            return cls(Pairs.from_dict(told["counters"]), alarm, tuple(told["models"]))
        except (KeyError, TypeError) as error:
            msg = f"a report wants the mapping its to_dict() gave, got one that fails with {error!r}"
            raise RequestError(msg) from error

    def __str__(self) -> str:
        rows = [_HEAD, _row("all pairs", self.total)]
        rows += [_row(f"  origin {origin.name}", block) for origin, block in sorted(self.by_origin.items())]
        rows += [_row(f"  cause {cause.name}", block) for cause, block in sorted(self.by_cause.items())]
        rows += [_row(f"  view {view}", block) for view, block in self.by_view.items() if view != CLEAN_VIEW]
        return "\n".join([self._headline(), *_aligned(rows), *self._alarm_lines()])

    def _headline(self) -> str:
        return (
            f"impact on {', '.join(self.models) or 'no model'}: {self.predictions:,} predictions, "
            f"{self.sampled:,} sampled, {self.pairs:,} paired, {self.unpaired:,} unpaired, "
            f"{self.dropped:,} dropped, {self.failed:,} failed"
        )

    @property
    def is_blind(self) -> bool:
        """Whether so many predictions have no pair that quiet means nothing, as in an outage without a witness."""
        return self.unpaired + self.failed > _BLIND_SHARE * self.sampled

    def _alarm_lines(self) -> Iterator[str]:
        if self.is_blind:
            yield (
                f"NOT MEASURED: {self.unpaired:,} predictions had no clean features to compare with (after a real "
                f"outage impact.reference_source gives them), {self.failed:,} could not be scored; the rates above are "
                f"of the {self.pairs:,} pairs only"
            )
        if self.alarm is not None:
            since = "" if self.alarm.first_at is None else f", first after {self.alarm.first_at:,} pairs"
            quiet = "unknown" if self.is_blind and not self.alarm.is_on else _on_off(self.alarm.is_on)
            state = f"{quiet}, fired {self.alarm.fired}{since}"
            yield f"flips over {self.alarm.budget:.1%}: {state}"
        yield f"score drift (PSI): {_on_off(self.psi_alarm)}"


def _measures(block: Block) -> dict[str, Any]:
    return {
        "pairs": block.pairs,
        "flips": block.flips,
        "flips_up": block.flips_up,
        "flips_down": block.flips_down,
        "flip_rate": _told(block.flip_rate),
        "mean_abs_delta": _told(block.mean_abs_delta),
        "mean_delta": _told(block.mean_delta),
        "max_abs_delta": _told(block.max_abs_delta),
        "abs_delta_p95": _told(block.abs_delta_quantile(0.95)),
        "alert_rate_ratio": _told(block.alert_rate_ratio),
        "psi": _told(block.psi),
        "ks": _told(block.ks),
    }


def _alarm_told(alarm: Alarm) -> dict[str, Any]:
    return {
        "budget": alarm.budget,
        "level": alarm.level,
        "is_on": alarm.is_on,
        "fired": alarm.fired,
        "first_at": alarm.first_at,
        "log_e": alarm.log_e,
    }


def _told(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _row(name: str, block: Block) -> tuple[str, ...]:
    return (
        name,
        f"{block.pairs:,}",
        f"{block.flips:,}",
        _shown(block.flip_rate, ".2%"),
        _shown(block.mean_abs_delta, ".4f"),
        _shown(block.mean_delta, "+.4f"),
        _shown(block.alert_rate_ratio, ".3f"),
        _shown(block.psi, ".4f"),
    )


def _shown(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _on_off(is_on: bool) -> str:
    return "ALARM" if is_on else "quiet"


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        told = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        yield "  ".join([f"{name:<{widths[0]}}", *told])
