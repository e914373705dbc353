"""The verdict on a run: a pure function of its history.

(a) in time, (b) truly written, (c) within the hard limit, (d) origin, status and age true, (e) no undocumented
exception, (f) retries within their budget, (g) the primary serves again in time, (h) nothing left behind.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.nemesis.conduct import exceptions, leaks, retries
from tests.nemesis.coverage import faults, numbers, uncovered
from tests.nemesis.history import History
from tests.nemesis.ledger import Ledger
from tests.nemesis.times import in_time, recoveries
from tests.nemesis.truths import rows_judged


@dataclass
class Judged:
    """What a run came to. `violations` by the letter of the promise, in words."""

    requests: int
    rows: int
    faults: int
    excused: int
    seed: int
    violations: dict[str, list[str]] = field(default_factory=dict)
    uncovered: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        broken = sum(map(len, self.violations.values()))
        return (
            f"{self.requests} requests, {self.rows} rows, {self.faults} faults, {broken} violations, "
            f"{self.excused} excused, seed {self.seed}"
        )


def judge(history: History) -> Judged:
    """Everything that was not as promised, and whether enough was seen to say so."""
    late, excused_late = in_time(history)
    slow, excused_slow, shares = recoveries(history)
    rows = rows_judged(history, Ledger.of(history))
    violations: defaultdict[str, list[str]] = defaultdict(list)
    for found in (late, rows, exceptions(history), retries(history), slow, leaks(history)):
        for kind, text in found:
            violations[kind].append(text)
    occurred = faults(history)
    recovered = f"{len(shares)} recoveries looked at, the least share of the primary {min(shares, default=0):.3f}"
    return Judged(
        requests=sum(len(told.requests) for told in history.told),
        rows=sum(len(told.rows) for told in history.told),
        faults=sum(occurred.values()),
        excused=excused_late + excused_slow,
        seed=history.seed,
        violations=dict(sorted(violations.items())),
        uncovered=list(uncovered(history, occurred, len(shares))),
        numbers=[*numbers(history, occurred), recovered],
    )
