"""What a drill asks of a stretch of time. Each probe reads a `Window` and gives a `Measure`; no clock, no I/O.

`PROBES` names them as YAML does. Those with `live` can only be asked while the drill runs: the
runner writes down a `Sample`, and they are judged from that.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from featurechaos.drills.measures import Measure, mean_of, quantile_of, share_of, shown
from featurechaos.drills.values import (
    CauseName,
    Count,
    Flag,
    Number,
    NumberOrFlag,
    Origins,
    Ratio,
    Seconds,
    Share,
    Spec,
    Text,
)
from featurechaos.drills.window import Counts, Mask, Pairs, Window
from featurechaos.impact.counters import psi
from featurechaos.model import Cause, Origin

Counted = tuple[Counts | Mask, Counts, str]
"""(n,) how many things of each request count, (n,) of how many, and what those are called."""


class Probe(Spec):
    """A question with its bounds: `min`, `max` or `equals`; `margin` asks for evidence as well."""

    unit: ClassVar[str] = "share"
    noun: ClassVar[str] = ""
    live: ClassVar[bool] = False

    probe: Text
    min: Number | None = None
    max: Number | None = None
    equals: NumberOrFlag | None = None
    margin: Ratio | None = None
    alpha: Share = 0.01
    group: Text | None = None
    against: Text | None = None
    max_ratio: Ratio | None = None

    @model_validator(mode="after")
    def _has_bounds(self) -> Probe:
        if self.min is self.max is self.equals is self.max_ratio is None:
            msg = f"probe {self.probe} wants min, max or equals"
            raise ValueError(msg)
        if self.min is not None and self.max is not None and self.min > self.max:
            msg = f"probe {self.probe} wants min <= max, got {self.min} and {self.max}"
            raise ValueError(msg)
        return self

    @property
    def params(self) -> dict[str, Any]:
        """What tells two askings of one probe apart: everything but the bounds."""
        bounds = set(Probe.model_fields)
        return {name: getattr(self, name) for name in type(self).model_fields if name not in bounds}

    @property
    def label(self) -> str:
        """The quantity in words, as a table shows it."""
        return self.noun

    def measure(self, window: Window) -> Measure:
        """The value over a window."""
        counted = self.count(window)
        return share_of(*counted) if counted else Measure(None, why="there is no such number")

    def count(self, window: Window) -> Counted | None:
        """How a share comes about; None for what is not a share."""
        del window
        return None

    def holds(self, value: float) -> bool:
        """Whether a value is within the bounds."""
        return (
            (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
            and (self.equals is None or value == float(self.equals))
        )


class ErrorRate(Probe):
    probe: Literal["error_rate"]

    noun = "share of requests that failed"

    def count(self, window: Window) -> Counted:
        return ~window.requests.ok, np.ones(len(window.requests), np.int64), "requests"


class LateRate(Probe):
    """Requests that the client answered after its deadline and the 10 ms the contract gives it."""

    probe: Literal["late_rate"]

    noun = "share of requests past their deadline"

    def count(self, window: Window) -> Counted:
        return window.requests.late, np.ones(len(window.requests), np.int64), "requests"


class DegradedShare(Probe):
    probe: Literal["degraded_share"]

    noun = "share of rows degraded"

    def count(self, window: Window) -> Counted:
        return window.requests.degraded, window.requests.rows, "rows"


class OriginShare(Probe):
    probe: Literal["origin_share"]
    origin: Origins

    @property
    def label(self) -> str:
        return f"share of rows from {' or '.join(self.origin)}"

    def count(self, window: Window) -> Counted:
        columns = [Origin[name] for name in self.origin]
        return window.requests.origins[:, columns].sum(axis=1), window.requests.rows, "rows"


class _OfPairs(Probe):
    """A question about pairs, all of them or those of some origin or cause."""

    origin: Origins | None = None
    cause: CauseName | None = None

    def chosen(self, pairs: Pairs) -> Pairs:
        mask = np.ones(len(pairs), np.bool_)
        if self.origin is not None:
            mask &= np.isin(pairs.origin, [Origin[name] for name in self.origin])
        if self.cause is not None:
            mask &= pairs.cause == Cause[self.cause]
        return pairs.where(mask)

    @property
    def scope(self) -> str:
        parts = [*(self.origin or ()), *([self.cause] if self.cause else [])]
        return f" ({', '.join(parts)})" if parts else ""


class FlipRate(_OfPairs):
    probe: Literal["flip_rate"]

    @property
    def label(self) -> str:
        return f"share of decisions changed{self.scope}"

    def count(self, window: Window) -> Counted:
        pairs = self.chosen(window.pairs)
        return pairs.flips, pairs.rows, "pairs"


class Psi(_OfPairs):
    unit = "number"
    probe: Literal["psi"]

    @property
    def label(self) -> str:
        return f"PSI of served against reference scores{self.scope}"

    def measure(self, window: Window) -> Measure:
        pairs = self.chosen(window.pairs)
        value = psi(pairs.histogram("reference"), pairs.histogram("served"))
        if math.isnan(value):
            return Measure(None, 0, "pairs", why="there were no pairs")
        return Measure(value, int(pairs.rows.sum()), "pairs")


class MeanAbsDelta(_OfPairs):
    unit = "number"
    probe: Literal["mean_abs_delta"]

    @property
    def label(self) -> str:
        return f"mean change of a score, either way{self.scope}"

    def measure(self, window: Window) -> Measure:
        pairs = self.chosen(window.pairs)
        return mean_of(pairs.sum_abs_delta, pairs.rows)


class MeanDelta(_OfPairs):
    unit = "number"
    probe: Literal["mean_delta"]

    @property
    def label(self) -> str:
        return f"mean change of a score, signed{self.scope}"

    def measure(self, window: Window) -> Measure:
        pairs = self.chosen(window.pairs)
        return mean_of(pairs.sum_delta, pairs.rows)


class AlertRateRatio(_OfPairs):
    unit = "ratio"
    probe: Literal["alert_rate_ratio"]

    @property
    def label(self) -> str:
        return f"alerts served for each alert on reference{self.scope}"

    def measure(self, window: Window) -> Measure:
        pairs = self.chosen(window.pairs)
        alerts, wanted = int(pairs.alerts.sum()), int(pairs.reference_alerts.sum())
        if not wanted:
            return Measure(None, int(pairs.rows.sum()), "pairs", why="the reference raised no alert")
        return Measure(alerts / wanted, int(pairs.rows.sum()), "pairs")


class LatencyS(Probe):
    """A quantile of what callers saw, or the share of requests slower than `over`."""

    probe: Literal["latency_s"]
    quantile: Share | None = None
    over: Seconds | None = None

    @model_validator(mode="after")
    def _one_way(self) -> LatencyS:
        if (self.quantile is None) == (self.over is None):
            msg = "probe latency_s wants either quantile or over"
            raise ValueError(msg)
        return self

    @property
    def unit(self) -> str:  # type: ignore[override]
        return "share" if self.quantile is None else "seconds"

    @property
    def label(self) -> str:
        if self.quantile is None:
            return f"share of requests slower than {shown(self.over, 'seconds')}"
        return "slowest request" if self.quantile == 1 else f"latency, p{100 * self.quantile:g}"

    def measure(self, window: Window) -> Measure:
        return super().measure(window) if self.quantile is None else quantile_of(window.requests.seen_s, self.quantile)

    def count(self, window: Window) -> Counted | None:
        seen = window.requests.seen_s
        return None if self.over is None else (seen > self.over, np.ones(len(seen), np.int64), "requests")


class AgeS(Probe):
    """A quantile, over requests, of the age of the oldest row served."""

    unit = "seconds"
    probe: Literal["age_s"]
    quantile: Share = 1.0

    @property
    def label(self) -> str:
        return "oldest row served" if self.quantile == 1 else f"age of a request's oldest row, p{100 * self.quantile:g}"

    def measure(self, window: Window) -> Measure:
        ages = window.requests.max_age_s
        return quantile_of(ages[~np.isnan(ages)], self.quantile)


class SourceCallsRatio(Probe):
    """Attempts at a source for each request: 1 is no retry, 11 is a retry storm."""

    unit = "ratio"
    probe: Literal["source_calls_ratio"]
    source: Text

    @property
    def label(self) -> str:
        return f"attempts at {self.source} for each request"

    def measure(self, window: Window) -> Measure:
        asked = sum(one.requests for one in window.calls)
        if not asked:
            return Measure(None, why="no calls were counted")
        return Measure(sum(one.calls.get(self.source, 0) for one in window.calls) / asked, asked)


class NoDataS(Probe):
    """The longest stretch in which nothing was answered."""

    unit = "seconds"
    probe: Literal["no_data_s"]

    noun = "longest time without an answer"

    def measure(self, window: Window) -> Measure:
        if not window.span_s:
            return Measure(None, why="the window is empty")
        answered = np.sort(window.requests.done[window.requests.done <= window.end])
        edges = np.concatenate(([window.begin], answered, [window.end]))
        return Measure(float(np.diff(np.maximum(edges, window.begin)).max()), len(answered))


class _Live(Probe):
    """Asked while the drill runs. The worst sample counts: the lowest under a `min`, else the highest."""

    unit = "number"
    live = True

    def measure(self, window: Window) -> Measure:
        told = [one for one in window.samples if one.probe == self.probe and self._is_mine(one.params)]
        values = [float(one.value) for one in told if one.value is not None]
        if len(values) < len(told) or not told:
            return Measure(None, len(told), "samples", why="it could not be asked" if told else "it was not asked")
        lowest = self.min is not None or self.equals is True
        return Measure(min(values) if lowest else max(values), len(values), "samples")

    def _is_mine(self, params: dict[str, Any]) -> bool:
        mine = self.params
        return all(mine.get(name) == params.get(name) for name in mine.keys() | params.keys() if name != "probe")


class Ready(_Live):
    unit = "claim"
    probe: Literal["ready"]
    full: Flag = False
    equals: Flag = True

    @property
    def label(self) -> str:
        return "each source alone could carry all traffic" if self.full else "every view can be answered"


class ActiveFaults(_Live):
    probe: Literal["active_faults"]

    noun = "faults still active"


class WatermarkAgeS(_Live):
    unit = "seconds"
    probe: Literal["watermark_age_s"]
    view: Text
    source: Text | None = None

    @property
    def label(self) -> str:
        return f"age of the newest write of {self.view}"


class _NotBuilt(Probe):
    """Known by name, so that a file naming it is told so rather than asked what it meant."""

    def measure(self, window: Window) -> Measure:
        return Measure(None, len(window.requests), why=f"probe {self.probe} is not built yet")

    noun = "not built yet"


class OverlapAtK(_NotBuilt):
    probe: Literal["overlap_at_k"]
    k: Count = 10


class TimeToAlarmS(_NotBuilt):
    probe: Literal["time_to_alarm_s"]
    detector: Text = "flips"


class ShadowDrops(_NotBuilt):
    probe: Literal["shadow_drops"]


PROBES: dict[str, type[Probe]] = {
    "error_rate": ErrorRate,
    "late_rate": LateRate,
    "latency_s": LatencyS,
    "origin_share": OriginShare,
    "degraded_share": DegradedShare,
    "age_s": AgeS,
    "flip_rate": FlipRate,
    "psi": Psi,
    "mean_abs_delta": MeanAbsDelta,
    "mean_delta": MeanDelta,
    "alert_rate_ratio": AlertRateRatio,
    "source_calls_ratio": SourceCallsRatio,
    "no_data_s": NoDataS,
    "ready": Ready,
    "active_faults": ActiveFaults,
    "watermark_age_s": WatermarkAgeS,
    "overlap_at_k": OverlapAtK,
    "time_to_alarm_s": TimeToAlarmS,
    "shadow_drops": ShadowDrops,
}
