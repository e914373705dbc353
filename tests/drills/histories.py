"""Drills that never ran, told as a runner would: a kill of the primary, with knobs for what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from featurechaos.drills.history import Calls, End, Fault, History, Note, Pair, Phase, Record, Request, Sample, Start
from featurechaos.drills.reading import script_of
from featurechaos.drills.script import Script

VIEWS = 3


def kill_script(**changes: Any) -> Script:
    """A drill on a killed primary, as a file would say it; keyword arguments replace whole keys."""
    tree: dict[str, Any] = {
        "title": "The primary dies in the evening bank; the snapshot carries the load inside the deadline",
        "description": "SIGKILL of the primary for 30 s; the hour-old snapshot answers. A lost node without a replica.",
        "target": {"kind": "local", "world": "flights"},
        "model": {"predict": "featurechaos.demo.flights:predict", "threshold": 0.3},
        "reference": {"source": "witness"},
        "load": {"requests": "featurechaos.demo.flights:requests", "rate_per_s": 200, "entities": 20},
        "steady_state": {
            "title": "fresh, in time, unchanged",
            "for_s": 15,
            "probes": [
                {"probe": "error_rate", "max": 0},
                {"probe": "latency_s", "quantile": 0.99, "max": 0.02},
                {"probe": "origin_share", "origin": "PRIMARY", "min": 0.99},
                {"probe": "flip_rate", "max": 0.001},
                {"probe": "ready", "full": True},
            ],
        },
        "method": [
            {"at_s": 0, "name": "kill-primary", "inject": {"fault": "process_kill", "source": "primary", "for_s": 30}},
            {"at_s": 10, "name": "mid-outage", "probe": "psi", "max": 0.05},
        ],
        "expect": {
            "during": [
                {"probe": "error_rate", "max": 0},
                {"probe": "latency_s", "quantile": 1.0, "max": 0.06},
                {"probe": "origin_share", "origin": ["SNAPSHOT", "LAST_KNOWN"], "min": 0.98},
                {"probe": "flip_rate", "max": 0.1, "margin": 0.02},
                {"probe": "source_calls_ratio", "source": "primary", "max": 1.1},
            ],
            "after": "steady_state",
        },
        "recovery": {"within_s": 5, "probe": "origin_share", "origin": "PRIMARY", "min": 0.9, "no_flap": 2},
        "coverage": {"min_requests": 2000, "min_applied": 1000, "min_pairs": 500},
        "seed": 7,
    }
    return script_of(tree | changes)


@dataclass(frozen=True)
class Story:
    """What happens in an imagined drill. Times in seconds, rates within 0..1."""

    rate_per_s: float = 200
    before_s: float = 15
    outage_s: float = 30
    recovery_s: float = 2.2
    within_s: float = 5
    after_s: float = 15
    entities: int = 20
    errors: float = 0.0
    flips: float = 0.064
    slow_s: float = 0.004
    has_snapshot: bool = True
    seed: int = 7

    @property
    def struck(self) -> float:
        return self.before_s

    @property
    def healed(self) -> float:
        return self.before_s + self.outage_s

    @property
    def end(self) -> float:
        return self.healed + self.within_s + self.after_s

    def told(self, script: Script | None = None) -> History:
        """The history of it; a seed tells the same story each time."""
        script = script or kill_script()
        rng = np.random.default_rng(self.seed)
        records: list[Record] = [
            Start(
                t=0,
                script=script.as_dict(),
                seed=self.seed,
                deadline_s=0.05,
                flip_budget=0.02,
                began_at="2026-11-23T18:00:00Z",
                versions={"featurechaos": "0.1.0", "python": "3.11.7", "valkey": "9.1.0"},
            ),
            *self._plot(),
        ]
        gaps = rng.exponential(1 / self.rate_per_s, int(self.end * self.rate_per_s * 1.3) + 20)
        for number, due in enumerate(np.cumsum(gaps)):
            if due >= self.end:
                break
            records += self._request(rng, f"r{number:06d}", round(float(due), 6))
        records.append(End(t=self.end, reason="done"))
        return History(tuple(records))

    def _plot(self) -> list[Record]:
        name, kind = "kill-primary", "process_kill"
        bounds = {
            "before": (0.0, self.struck),
            "during": (self.struck, self.healed),
            "after": (self.healed + self.within_s, self.end),
        }
        told: list[Record] = []
        for phase, (begin, end) in bounds.items():
            told += [Phase(t=begin, phase=phase, state="begins"), Phase(t=end, phase=phase, state="ends")]
            told.append(Sample(t=(begin + end) / 2, probe="ready", value=True, params={"full": True}))
        told += [
            Calls(t=at + 1.0, over_s=1.0, requests=200, calls={"primary": self._calls(at)})
            for at in range(int(self.end))
        ]
        return [
            *told,
            Fault(t=self.struck - 0.01, name=name, fault=kind, target="primary", state="armed"),
            Fault(
                t=self.struck, name=name, fault=kind, target="primary", state="applied", detail="SIGKILL to pid 4711"
            ),
            Note(t=self.struck + 0.11, event="breaker.opened", source="primary", detail="20 of 20 calls failed"),
            Fault(
                t=self.healed, name=name, fault=kind, target="primary", state="cleared", detail="restarted, refilled"
            ),
            Note(t=self.healed + 1.0, event="breaker.closed", source="primary"),
            Note(
                t=self.healed + self.recovery_s,
                event="source.restored",
                source="primary",
                detail="all rows on the primary again",
            ),
        ]

    def _calls(self, at: float) -> int:
        return 5 if self.struck <= at < self.healed else 200

    def _request(self, rng: np.random.Generator, request_id: str, due: float) -> list[Record]:
        is_out = self.struck <= due < self.healed + max(self.recovery_s - 1.2, 0)
        ramp = (due - self.healed - self.recovery_s + 1.2) / 1.2 if due >= self.healed else 0.0
        on_primary = not is_out and (due < self.struck or ramp >= 1 or rng.random() < ramp)
        origin = "PRIMARY" if on_primary else "SNAPSHOT" if self.has_snapshot else "DEFAULT"
        took = float(rng.lognormal(np.log(0.0011 if on_primary else 0.0005), 0.35))
        if is_out and due < self.struck + 0.12:
            took += 0.015
        if rng.random() < 0.003:
            took += float(rng.random() * self.slow_s)
        is_ok = rng.random() >= self.errors or not is_out
        took, rows = round(took, 6), self.entities * VIEWS
        request = Request(
            t=due,
            t_done=round(due + took, 6),
            request_id=request_id,
            latency_s=took,
            ok=bool(is_ok),
            error=None if is_ok else "Exhausted",
            rows=rows if is_ok else 0,
            origins={origin: rows} if is_ok else {},
            statuses={"PRESENT": rows} if is_ok else {},
            degraded=0 if on_primary else rows,
            max_age_s=float(rng.uniform(300, 3500)) + (0 if on_primary else 3600),
        )
        return [request, self._pair(rng, request, origin, 0.0 if on_primary else self.flips)] if is_ok else [request]

    def _pair(self, rng: np.random.Generator, request: Request, origin: str, flips: float) -> Pair:
        reference = rng.beta(1.6, 5, self.entities)
        moved = rng.random(self.entities) < 2.3 * flips
        served = np.where(moved, rng.beta(1.6, 5, self.entities), reference)
        if origin == "DEFAULT":
            served = np.full(self.entities, 0.45)
        return Pair(
            t=request.t,
            request_id=request.request_id,
            origin=origin,
            cause="NONE" if origin == "PRIMARY" else "REFUSED",
            rows=self.entities,
            flips=int(((served >= 0.3) != (reference >= 0.3)).sum()),
            sum_abs_delta=round(float(np.abs(served - reference).sum()), 6),
            sum_delta=round(float((served - reference).sum()), 6),
            alerts=int((served >= 0.3).sum()),
            reference_alerts=int((reference >= 0.3).sum()),
            served=_histogram(served),
            reference=_histogram(reference),
        )


def without(history: History, *kinds: type[Record]) -> History:
    """A history without some kinds of record."""
    return replace(history, records=tuple(one for one in history.records if not isinstance(one, kinds)))


def plus(history: History, *records: Record) -> History:
    """A history with more in it."""
    return replace(history, records=history.records + records)


def _histogram(scores: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, int]:
    bins, counts = np.unique(np.minimum((scores * 64).astype(int), 63), return_counts=True)
    return {str(bin_): int(count) for bin_, count in zip(bins, counts, strict=True)}
