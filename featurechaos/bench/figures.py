"""The numbers of a bench: a pure function of its record.

Latencies are what a caller saw: from when a request was due to its answer, so that a stall that holds up the
next requests counts for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from featurechaos.bench.record import Record
from featurechaos.bench.stalls import busy_s
from featurechaos.drills.history import Fault, Note
from featurechaos.drills.load import GRACE_S
from featurechaos.drills.measures import quantile_of
from featurechaos.drills.probes import OriginShare
from featurechaos.drills.recovery import Recovered, recovered
from featurechaos.drills.script import Recovery
from featurechaos.drills.window import Ledger, Mask, Requests, Window
from featurechaos.model import Origin

QUANTILES = {"p50_s": 0.5, "p90_s": 0.9, "p99_s": 0.99, "p999_s": 0.999, "max_s": 1.0}
RECOVERED_SHARE = 0.9
"""Of the rows that the first origin served before, that it must serve again."""
ONSET_S = 1.0
"""Where no breaker opens, the first second of a fault is told by itself: retries and timeouts come first."""
_ONLINE = (Origin.PRIMARY, Origin.REPLICA)
_EMPTY = (Origin.NONE, Origin.DEFAULT)


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of latency in seconds; None where there are too few requests to hold one."""

    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    p999_s: float | None
    max_s: float | None

    @classmethod
    def of(cls, requests: Requests) -> Spread:
        seen = requests.seen_s
        return cls(**{name: quantile_of(seen, at).value for name, at in QUANTILES.items()})


@dataclass(frozen=True, slots=True)
class Share:
    """What one origin served of a stretch. `requests` and `spread` are of those it served the most rows of."""

    rows: int
    share: float
    requests: int
    spread: Spread
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """One stretch of a bench. `late`: answered past the deadline + 10 ms; `excused` of these while the machine
    was busy elsewhere; `waited`: asked later than half the deadline after they were due.

    `lost`: share of rows without a stored value: DEFAULT, NONE, or `missing`, which an online source says it does not
    have.
    """

    begin_s: float
    end_s: float
    requests: int
    failed: int
    late: int
    excused: int
    waited: int
    rows: int
    lost: float
    missing: float
    spread: Spread
    origins: Mapping[str, Share]

    @property
    def told_late(self) -> int:
        """Late answers that nobody else is to blame for."""
        return self.late - self.excused


@dataclass(frozen=True)
class Figures:
    """All numbers of one bench."""

    record: Record
    ledger: Ledger = field(repr=False)

    @classmethod
    def of(cls, record: Record) -> Figures:
        return cls(record, Ledger.of(record.history))

    @cached_property
    def windows(self) -> dict[str, Window]:
        """`before`, `during` and `after`; with nothing broken `warm` alone.

        A request belongs to *during* if any part of it fell inside; *after* begins when the fault ends.
        """
        whole, faults = self.ledger.whole, self.ledger.fault_windows
        if not faults:
            return {"warm": whole.between(0, whole.end + 1e-9)}
        begin, end = min(at for _, at, _ in faults), max(at for _, _, at in faults)
        return {
            "before": whole.between(0, begin, until=begin),
            "during": whole.between(begin, end, touching=True),
            "after": whole.between(end, whole.end + 1e-9),
        }

    @cached_property
    def phases(self) -> dict[str, Stretch]:
        return {name: self._stretch(window) for name, window in self.windows.items()}

    @cached_property
    def gave_up_s(self) -> float | None:
        """Seconds from the fault's begin until the client stopped asking a broken source: its breaker opened."""
        window = self.windows.get("during")
        hurt = {one.source for one in self.record.asked.broken}
        opened = [one.t for one in self.record.history.of(Note) if one.event == "breaker.opened" and one.source in hurt]
        times = [at - window.begin for at in opened if window.begin <= at < window.end] if window else []
        return min(times, default=None)

    @cached_property
    def onset(self) -> Stretch | None:
        """The fault until the breaker opened, else its first second."""
        window = self.windows.get("during")
        return self._stretch(window.between(window.begin, self._split(window), touching=True)) if window else None

    @cached_property
    def settled(self) -> Stretch | None:
        """The rest of the fault."""
        window = self.windows.get("during")
        return self._stretch(window.between(self._split(window), window.end)) if window else None

    @property
    def healthy(self) -> Stretch:
        """The stretch with nothing broken."""
        return self.phases["before" if "before" in self.phases else "warm"]

    @property
    def lost(self) -> float:
        """The share of rows that had a stored value before and have none during the fault."""
        during = self.phases.get("during")
        return max(0.0, during.lost - self.healthy.lost) if during else 0.0

    @cached_property
    def first_origin(self) -> Origin | None:
        """The online origin that serves when all is well; None where none does."""
        rows = {one: self.healthy.origins.get(one.name) for one in _ONLINE}
        served = {one: share.rows for one, share in rows.items() if share}
        return max(served, key=lambda one: served[one]) if served else None

    @cached_property
    def recovery(self) -> Recovered | None:
        """When the first origin served for good again; None where nothing was broken or there is no such origin."""
        if self.first_origin is None or not self.ledger.fault_windows:
            return None
        share = self.healthy.origins[self.first_origin.name].share
        probe = OriginShare(probe="origin_share", origin=(self.first_origin.name,), min=RECOVERED_SHARE * share)
        return recovered(self.ledger, Recovery(within_s=self.record.asked.settle_s, check=probe))

    @property
    def applied(self) -> int | None:
        """How many reads the injected faults hit; None where none was injected."""
        counts = [fault.count for fault in self.record.history.of(Fault) if fault.state == "cleared"]
        known = [count for count in counts if count is not None]
        return sum(known) if known else None

    @property
    def unasked(self) -> int:
        """Requests that were due and never asked."""
        return sum(one.count or 0 for one in self.record.history.of(Note) if one.event == "drill.unasked")

    @cached_property
    def busy_share(self) -> float:
        """The share of the bench in which the machine was busy elsewhere."""
        whole = self.ledger.whole
        busy = busy_s(self.record.stalls, np.array([whole.begin]), np.array([whole.end]))
        return float(busy[0]) / max(whole.span_s, 1e-9)

    def is_late(self, requests: Requests) -> Mask:
        """Which answers came past the deadline + 10 ms, bool (n,)."""
        return np.asarray(requests.seen_s > self.record.asked.deadline_s + GRACE_S)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a script."""
        asked = self.record.asked
        recovery = self.recovery
        return {
            "deadline_s": asked.deadline_s,
            "rate_per_s": asked.rate_per_s,
            "batch": asked.batch,
            "seed": asked.seed,
            "features": list(asked.features),
            "entities": asked.entities,
            "broken": [asdict(one) for one in asked.broken],
            "phases": {name: asdict(one) for name, one in self.phases.items()},
            "gave_up_s": self.gave_up_s,
            "onset": asdict(self.onset) if self.onset else None,
            "settled": asdict(self.settled) if self.settled else None,
            "cold": {name: asdict(one) for name, one in self.record.cold.items()},
            "recovery_s": recovery.after_s if recovery else None,
            "lost": self.lost,
            "applied": self.applied,
            "unasked": self.unasked,
            "machine_busy_share": self.busy_share,
            "image_age_s": dict(self.record.image_age_s),
            "timeline": [self._slice(*each) for each in self.ledger.slices],
        }

    def _split(self, window: Window) -> float:
        return window.begin + (ONSET_S if self.gave_up_s is None else self.gave_up_s)

    def _stretch(self, window: Window) -> Stretch:
        requests = window.requests
        late = self.is_late(requests)
        over_s = requests.seen_s - self.record.asked.deadline_s - GRACE_S
        busy = busy_s(self.record.stalls, requests.due, requests.done)
        origins = requests.origins.sum(axis=0)
        empty = requests.origins[:, _EMPTY].sum(axis=1)
        missing = int(np.maximum(requests.missing - empty, 0).sum())  # the others have an origin that says so
        rows = int(requests.rows.sum())
        return Stretch(
            begin_s=window.begin,
            end_s=min(window.end, self.ledger.whole.end),
            requests=len(requests),
            failed=int((~requests.ok).sum()),
            late=int(late.sum()),
            excused=int((late & (busy >= over_s)).sum()),
            waited=int((requests.seen_s - requests.latency_s > self.record.asked.deadline_s / 2).sum()),
            rows=rows,
            lost=(int(empty.sum()) + missing) / max(rows, 1),
            missing=missing / max(rows, 1),
            spread=Spread.of(requests),
            origins={one.name: _share(requests, one, rows) for one in Origin if origins[one]},
        )

    def _slice(self, begin: float, end: float, window: Window) -> dict[str, Any]:
        spread = Spread.of(window.requests)
        rows = window.requests.origins.sum(axis=0)
        return {
            "begin_s": begin,
            "end_s": end,
            "requests": len(window.requests),
            "p50_s": spread.p50_s,
            "p90_s": spread.p90_s,
            "max_s": spread.max_s,
            "rows": {one.name: int(rows[one]) for one in Origin if rows[one]},
        }


def _share(requests: Requests, origin: Origin, rows: int) -> Share:
    mine = requests.where(requests.main_origin == origin)
    ages = mine.max_age_s[~np.isnan(mine.max_age_s)]
    served = int(requests.origins[:, origin].sum())
    return Share(
        rows=served,
        share=served / rows,
        requests=len(mine),
        spread=Spread.of(mine),
        oldest_s=float(ages.max()) if len(ages) else None,
    )
