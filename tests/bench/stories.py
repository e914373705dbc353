"""Benches that never ran, told as one would be: knobs for what users could have felt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from featurechaos.bench.cold import Cold
from featurechaos.bench.record import Asked, Broken, Record
from featurechaos.bench.stalls import Span
from featurechaos.drills.history import End, Fault, History, Note, Phase, Request
from featurechaos.drills.history import Record as Line

FROZEN = Broken("primary", "frozen", "PRIMARY", "process_freeze", "SIGSTOP to process 42 (valkey-server)")
Rows = Mapping[str, int]


@dataclass(frozen=True)
class Story:
    """50 requests a second of 100 rows each: 10 s healthy, 10 s broken, 10 s after it; times in seconds."""

    rate_per_s: int = 50
    healthy_s: float = 0.002
    broken_s: float = 0.012
    healthy: Rows = field(default_factory=lambda: {"PRIMARY": 100})
    broken: Rows = field(default_factory=lambda: {"SNAPSHOT": 99, "DEFAULT": 1})
    denied: Rows = field(default_factory=dict)
    back_s: float | None = 3.0
    lost_again_s: float = 99.0
    late: int = 0
    failed: int = 0
    waited: int = 0
    opened_s: float | None = None
    is_broken: bool = True
    fault: str = "process_freeze"
    states: tuple[str, ...] = ("armed", "applied", "cleared")
    reason: str = "done"
    unasked: int = 0
    stalls: tuple[Span, ...] = ()
    cold: Mapping[str, Cold] = field(default_factory=dict)
    deadline_s: float = 0.05
    ends_s: float = 30.0

    def record(self) -> Record:
        return Record(
            asked=Asked(
                features=["user:clicks"],
                entities="20,000 of user_id",
                rate_per_s=self.rate_per_s,
                batch=100,
                for_s=10.0,
                seed=7,
                deadline_s=self.deadline_s,
                settle_s=7.0,
                broken=(replace(FROZEN, fault=self.fault),) if self.is_broken else (),
            ),
            history=History(tuple(self._lines())),
            cold=self.cold,
            stalls=self.stalls,
            image_age_s={"user": 10_800.0} if self.is_broken else {},
            versions={"featurechaos": "0.1.0"},
        )

    def _lines(self) -> list[Line]:
        bounds = {"before": (0.0, 10.0), "during": (10.0, 20.0), "after": (20.0, 30.0)}
        lines: list[Line] = []
        for phase, (begin, end) in bounds.items():
            lines += [Phase(t=begin, phase=phase, state="begins"), Phase(t=end, phase=phase, state="ends")]
        if self.is_broken:
            at = {"armed": 9.99, "applied": 10.0, "failed": 10.0, "cleared": 20.0, "undo_failed": 20.0}
            lines += [
                Fault(
                    t=at.get(state, 20.0),
                    name="primary frozen",
                    fault=self.fault,
                    target="primary",
                    state=state,
                    detail="as told",
                )
                for state in self.states
            ]
        if self.opened_s is not None:
            lines.append(Note(t=10.0 + self.opened_s, event="breaker.opened", source="primary"))
        if self.unasked:
            lines.append(Note(t=30.0, event="drill.unasked", count=self.unasked))
        lines += [self._request(number) for number in range(int(self.ends_s * self.rate_per_s))]
        if self.reason:
            lines.append(End(t=30.0, reason=self.reason))
        return [line for line in lines if line.t <= self.ends_s or isinstance(line, Request)]

    def _request(self, number: int) -> Request:
        due = (number + 0.5) / self.rate_per_s
        in_fault = self.is_broken and 10.0 <= due < 20.0
        is_back = self.back_s is not None and 20.0 + self.back_s <= due < 20.0 + self.lost_again_s
        on_primary = not self.is_broken or due < 10.0 or is_back
        nth = number - 10 * self.rate_per_s
        took = self.healthy_s if on_primary else self.broken_s
        if self.opened_s is not None and in_fault and due > 10.0 + self.opened_s:
            took = self.healthy_s
        is_late = in_fault and nth < self.late if self.is_broken else number < self.late
        took = 0.2 if is_late else took
        waited = 0.04 if number < self.waited else 0.0
        rows = self.healthy if on_primary else self.broken
        return Request(
            t=due,
            t_done=due + waited + took,
            request_id=f"r{number}",
            latency_s=took,
            ok=not (in_fault and nth < self.failed),
            rows=sum(rows.values()),
            origins=dict(rows),
            statuses={} if on_primary else dict(self.denied),
            max_age_s=11_000.0 if "SNAPSHOT" in rows else 20.0,
        )
