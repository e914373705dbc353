"""A history as columns, cut by time: what every probe and every plot is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from featurechaos.drills.history import PHASES, Calls, Fault, History, Pair, Phase, Request, Sample
from featurechaos.impact.counters import BINS
from featurechaos.model import Cause, Origin, Status

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

FAR = float("inf")
MOST_SLICES, LEAST_SLICES, LEAST_IN_SLICE = 80, 12, 20
_NICE_S = (0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400)


@dataclass(frozen=True, slots=True)
class Requests:
    """n requests. Times in seconds since the drill began; `origins` is (n, len(Origin)) rows by origin.

    `missing`: rows of which was said that there are none (NOT_FOUND).
    """

    due: Floats
    done: Floats
    latency_s: Floats
    ok: Mask
    late: Mask
    rows: Counts
    degraded: Counts
    injected: Counts
    max_age_s: Floats
    missing: Counts
    origins: Counts

    def __len__(self) -> int:
        return len(self.due)

    @property
    def seen_s(self) -> Floats:
        """What a caller saw: from when the request was due to its answer, (n,)."""
        return np.maximum(self.done - self.due, self.latency_s)

    @property
    def main_origin(self) -> Counts:
        """The origin that most rows of each request came from, (n,); -1 for one that got no rows.

        Of two with as many rows, as where one of two views has lost its source, it is the worse one.
        """
        if not len(self):
            return np.zeros(0, np.int64)
        worst_first = -np.arange(self.origins.shape[1])  # NONE, which is 0, DEFAULT, ... PRIMARY
        most = -self.origins[:, worst_first].argmax(axis=1) % len(worst_first)
        return np.where(self.origins.any(axis=1), most, -1)

    def where(self, mask: Mask) -> Requests:
        return Requests(*(getattr(self, name)[mask] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Pairs:
    """m groups of pairs; a histogram cell is (group, bin, count), of which there are many.

    `due` and `done` are those of the group's request.
    """

    due: Floats
    done: Floats
    rows: Counts
    flips: Counts
    sum_abs_delta: Floats
    sum_delta: Floats
    alerts: Counts
    reference_alerts: Counts
    origin: Counts
    cause: Counts
    served: Counts
    reference: Counts

    def __len__(self) -> int:
        return len(self.due)

    def where(self, mask: Mask) -> Pairs:
        kept = {name: getattr(self, name)[mask] for name in self.__slots__ if name not in {"served", "reference"}}
        served, reference = _cells_where(self.served, mask), _cells_where(self.reference, mask)
        return Pairs(**kept, served=served, reference=reference)

    def histogram(self, which: str) -> Counts:
        """How many `served` or `reference` scores fell in each of the BINS bins."""
        cells = getattr(self, which)
        return np.bincount(cells[:, 1], weights=cells[:, 2], minlength=BINS).astype(np.int64)


@dataclass(frozen=True)
class Window:
    """Everything a history tells of the time from `begin` to `end`, in seconds since the drill began.

    A request belongs to it by when it was due; with `touching`, if any part of it fell inside.
    """

    requests: Requests
    pairs: Pairs
    calls: tuple[Calls, ...]
    samples: tuple[Sample, ...]
    begin: float
    end: float

    @classmethod
    def of(cls, history: History) -> Window:
        """The whole of a history."""
        asked = history.of(Request)
        last = max((record.t for record in history.records), default=0.0)
        return cls(
            requests=_requests(asked),
            pairs=_pairs(history.of(Pair), asked),
            calls=tuple(history.of(Calls)),
            samples=tuple(history.of(Sample)),
            begin=0.0,
            end=max([last, *(one.t_done for one in asked)]),
        )

    def between(self, begin: float, end: float, *, touching: bool = False, until: float = FAR) -> Window:
        """The part from `begin` up to `end`; requests answered at `until` or later are left out."""

        def mask(due: Floats, done: Floats) -> Mask:
            started = (done >= begin) if touching else (due >= begin)
            return started & (due < end) & (done < until)

        return Window(
            requests=self.requests.where(mask(self.requests.due, self.requests.done)),
            pairs=self.pairs.where(mask(self.pairs.due, self.pairs.done)),
            # A count is over a stretch of time: it belongs where its middle lies.
            calls=tuple(one for one in self.calls if begin <= one.t - one.over_s / 2 < end),
            samples=tuple(one for one in self.samples if begin <= one.t <= end),
            begin=begin,
            end=end,
        )

    @property
    def span_s(self) -> float:
        return max(self.end - self.begin, 0.0)


@dataclass(frozen=True)
class Ledger:
    """A history ready to be judged: the whole of it, and its phases."""

    history: History
    whole: Window

    @classmethod
    def of(cls, history: History) -> Ledger:
        return cls(history, Window.of(history))

    @cached_property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Begin and end of each phase that began; one that never ended lasts to the end of the drill."""
        found: dict[str, tuple[float, float]] = {}
        for phase in self.history.of(Phase):
            if phase.state == "begins":
                found[phase.phase] = (phase.t, self.whole.end + 1e-9)
            elif phase.phase in found:
                found[phase.phase] = (found[phase.phase][0], phase.t)
        return found

    @cached_property
    def phases(self) -> dict[str, Window]:
        """Each phase as a window.

        A request belongs to *during* if any part of it fell inside: what a fault touched is the
        fault's, whenever it was due. So *before* keeps only what was answered before the fault.
        """
        struck = self.bounds.get("during", (FAR, FAR))[0]
        return {
            name: self.whole.between(
                *self.bounds[name], touching=name == "during", until=struck if name == "before" else FAR
            )
            for name in PHASES
            if name in self.bounds
        }

    @cached_property
    def slices(self) -> list[tuple[float, float, Window]]:
        """The whole drill in slices of a round length, cut where faults begin and end: (begin, end, what is in it).

        At most about `MOST_SLICES`, and long enough to hold some requests each.
        """
        begin, end = self.whole.begin, self.whole.end
        span = max(end - begin, 1e-3)
        least = max(
            span / MOST_SLICES, min(span / LEAST_SLICES, LEAST_IN_SLICE * span / max(len(self.whole.requests), 1))
        )
        step = next((nice for nice in _NICE_S if nice >= least), least)
        cuts = sorted({begin, end, *(at for _, *ends in self.fault_windows for at in ends if begin < at < end)})
        grid = [float(at) for at in np.arange(begin, end, step)]
        # A sliver beside a cut would hold too little to draw.
        edges = sorted({*cuts, *(at for at in grid if min(abs(at - cut) for cut in cuts) > step / 3)})
        return [(first, last, self.whole.between(first, last)) for first, last in pairwise(edges)]

    @cached_property
    def fault_windows(self) -> list[tuple[Fault, float, float]]:
        """Each fault that was applied, with when it began and ended."""
        open_at: dict[str, Fault] = {}
        windows = []
        for fault in self.history.of(Fault):
            if fault.state == "applied":
                open_at.setdefault(fault.name, fault)
            elif fault.state in ("cleared", "undo_failed") and fault.name in open_at:
                began = open_at.pop(fault.name)
                windows.append((began, began.t, fault.t))
        windows += [(fault, fault.t, self.whole.end) for fault in open_at.values()]
        return sorted(windows, key=lambda one: one[1])


def _requests(asked: list[Request]) -> Requests:
    names = [origin.name for origin in Origin]
    return Requests(
        due=np.array([one.t for one in asked], np.float64),
        done=np.array([one.t_done for one in asked], np.float64),
        latency_s=np.array([one.latency_s for one in asked], np.float64),
        ok=np.array([one.ok for one in asked], np.bool_),
        late=np.array([one.late for one in asked], np.bool_),
        rows=np.array([one.rows for one in asked], np.int64),
        degraded=np.array([one.degraded for one in asked], np.int64),
        injected=np.array([one.injected for one in asked], np.int64),
        max_age_s=np.array([np.nan if one.max_age_s is None else one.max_age_s for one in asked], np.float64),
        missing=np.array([one.statuses.get(Status.NOT_FOUND.name, 0) for one in asked], np.int64),
        origins=np.array([[one.origins.get(name, 0) for name in names] for one in asked], np.int64).reshape(
            -1, len(names)
        ),
    )


def _pairs(told: list[Pair], asked: list[Request]) -> Pairs:
    times = {one.request_id: (one.t, one.t_done) for one in asked}
    when = [times.get(one.request_id, (one.t, one.t)) for one in told]
    return Pairs(
        due=np.array([due for due, _ in when], np.float64),
        done=np.array([done for _, done in when], np.float64),
        rows=np.array([one.rows for one in told], np.int64),
        flips=np.array([one.flips for one in told], np.int64),
        sum_abs_delta=np.array([one.sum_abs_delta for one in told], np.float64),
        sum_delta=np.array([one.sum_delta for one in told], np.float64),
        alerts=np.array([one.alerts for one in told], np.int64),
        reference_alerts=np.array([one.reference_alerts for one in told], np.int64),
        origin=np.array([Origin[one.origin] for one in told], np.int64),
        cause=np.array([Cause[one.cause] for one in told], np.int64),
        served=_cells([one.served for one in told]),
        reference=_cells([one.reference for one in told]),
    )


def _cells(histograms: list[dict[str, int]]) -> Counts:
    """Sparse histograms as rows of (group, bin, count), (k, 3), groups rising."""
    cells = [(at, int(bin_), count) for at, one in enumerate(histograms) for bin_, count in one.items()]
    return np.array(cells, np.int64).reshape(-1, 3)


def _cells_where(cells: Counts, mask: Mask) -> Counts:
    kept = cells[mask[cells[:, 0]]]
    kept[:, 0] = np.cumsum(mask)[kept[:, 0]] - 1
    return kept
