"""Counters of what requests did: plain numbers under one lock, read by whoever wants them.

Bounded: one cell for each combination of view, source, origin, status, cause and fault, all of which come
from the config or from fixed lists.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurechaos.metrics.distributions import FEW_ROWS, SECONDS, Ages, Distribution
from featurechaos.metrics.names import NAMES, PREFIX, Labels
from featurechaos.model import Cause, Origin, Status

log = logging.getLogger(__name__)

Codes = int | NDArray[np.uint8]
Flags = bool | NDArray[np.bool_]
Pairs = Callable[[], Mapping[Any, tuple[int, int]]]
Shadowed = Callable[[], Mapping[str, dict[Labels, float | Distribution]]]

_ORIGINS, _STATUSES, _CAUSES = len(Origin), max(Status) + 1, len(Cause)
_PRESENT = int(Status.PRESENT)
_MOST_WAITING, _MOST_SINGLE = 32, 128
"""Answers that wait to be counted: of several rows, and of one."""
_FEW = 64
"""So many codes are counted one by one in less time than numpy takes for any number."""


class Seen(NamedTuple):
    """The rows of one view in one answer; facts are one value while all n rows agree, else arrays (n,).

    `event_time` is int64 (n,) in microseconds, NO_TIME_US for rows without an event; None if ages are not
    to be counted.
    """

    view: str
    origin: Codes
    status: Codes
    injected: Flags
    n: int
    event_time: NDArray[np.int64] | None = None


class Gauges:
    """Values that are asked for when someone looks."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, Labels], Callable[[], float | None]] = {}

    def add(self, name: str, labels: Mapping[str, str], fn: Callable[[], float | None]) -> None:
        """Let `fn` say one gauge's value; None is no value. The same name and labels again replace it.

        Raises ValueError for a name or labels that `NAMES` does not have.
        """
        metric = NAMES.get(PREFIX + name)
        if metric is None or metric.kind != "gauge" or set(labels) != set(metric.labels):
            raise ValueError(
                f"a gauge wants a name and labels of NAMES, got {name!r} with {', '.join(labels) or 'none'}"
            )
        self._asked[name, tuple(labels[label] for label in metric.labels)] = fn

    def drop(self, name: str, labels: Mapping[str, str]) -> None:
        """Say this gauge no longer."""
        self._asked.pop((name, tuple(labels[label] for label in NAMES[PREFIX + name].labels)), None)

    def read(self) -> dict[str, dict[Labels, float]]:
        """Every gauge that has a value now, by name and labels."""
        found: dict[str, dict[Labels, float]] = {}
        for (name, labels), fn in list(self._asked.items()):
            try:
                value = fn()
            except Exception:  # One broken gauge must not take the others from whoever looks.
                log.debug("the gauge %s %s could not be read", name, labels, exc_info=True)
                continue
            if value is not None and not math.isnan(value):
                found.setdefault(name, {})[labels] = float(value)
        return found


class Counters:
    """What requests did, counted. Every method is quick, never raises on any value of its types, and is thread-safe."""

    def __init__(self) -> None:
        self.gauges = Gauges()
        self._lock = threading.Lock()
        self._plain: Counter[tuple[str, Labels]] = Counter()
        self._requests = [0, 0]
        self._seconds = Distribution(SECONDS)
        self._calls: dict[str, Distribution] = {}
        self._outcomes: Counter[Labels] = Counter()
        self._rows: dict[str, list[int]] = {}
        self._ages: dict[str, Ages] = {}
        self._fallbacks: dict[tuple[str, str], list[int]] = {}
        self._exhausted: dict[str, list[int]] = {}
        self._pairs: list[Pairs] = []
        self._shadow: Shadowed = dict
        self._waiting: deque[tuple[float, int, int, Sequence[tuple[str, int, int | bytes]], tuple[str, float]]] = (
            deque()
        )
        self._called: deque[tuple[str, str, float]] = deque()
        _alive.add(self)

    def answered(self, seconds: float, *, degraded: bool, wall_us: int = 0, rows: Iterable[Seen] = ()) -> None:
        """One request was answered: its time, whether any row of it was degraded, and its rows, view by view.

        `wall_us` is the wall clock when the request began, which ages are taken at.
        """
        with self._lock:
            self._requests[degraded] += 1
            self._seconds.add(seconds)
            for seen in rows:
                self._see(seen, wall_us)

    def answered_plainly(
        self,
        seconds: float,
        wall_us: int,
        n: int,
        rows: Sequence[tuple[str, int, int | bytes]],
        read: tuple[str, float],
    ) -> None:
        """The same for n rows of each view that are all PRESENT, of one origin and touched by no fault.

        `rows` are a view, its origin and `Rows.times` each; `read` is the one call it took: its source and how long it
        lasted. They wait until there are some: counted together they cost a third. Many rows do not wait: they are
        memory.
        """
        self._waiting.append((seconds, wall_us, n, rows, read))
        if len(self._waiting) >= (_MOST_SINGLE if n == 1 else _MOST_WAITING) or n > FEW_ROWS:
            with self._lock:
                self._fold()

    def source_call(self, source: str, outcome: str, seconds: float) -> None:
        """One attempt at a source ended."""
        self._called.append((source, outcome, seconds))
        if len(self._called) >= _MOST_WAITING:
            with self._lock:
                self._fold()

    def _fold(self) -> None:
        """Count what waits; under the lock. What comes meanwhile waits for the next time."""
        for _ in range(len(self._called)):
            self._see_call(*self._called.popleft())
        for _ in range(len(self._waiting)):
            seconds, wall_us, n, rows, read = self._waiting.popleft()
            self._see_call(read[0], "ok", read[1])
            self._requests[0] += 1
            self._seconds.add(seconds)
            for view, origin, times in rows:
                self._see_plainly(view, origin, times, n, wall_us)

    def _see_call(self, source: str, outcome: str, seconds: float) -> None:
        self._outcomes[source, outcome] += 1
        times = self._calls.get(source)
        if times is None:
            times = self._calls[source] = Distribution(SECONDS)
        times.add(seconds)

    def _see_plainly(self, view: str, origin: int, times: int | bytes, n: int, wall_us: int) -> None:
        cells = self._rows.get(view)
        if cells is None:
            cells = self._rows[view] = [0] * (_ORIGINS * _STATUSES * 2)
        cells[2 * (_STATUSES * origin + _PRESENT)] += n
        ages = self._ages.get(view)
        if ages is None:
            ages = self._ages[view] = Ages()
        ages.add_times(times, wall_us, origin)

    def fallbacks(self, view: str, source: str, cause: Codes, *, injected: Flags = False, n: int = 1) -> None:
        """A source did not serve n rows of a view; a row of cause NONE is not counted."""
        code = _mixed(cause, 2, injected)
        with self._lock:
            cells = self._fallbacks.get((view, source))
            if cells is None:
                cells = self._fallbacks[view, source] = [0] * (_CAUSES * 2)
            _add(cells, code, n)

    def exhausted(self, view: str, n: int = 1, *, injected: bool = False) -> None:
        """No source could serve n rows of a view."""
        with self._lock:
            self._exhausted.setdefault(view, [0, 0])[injected] += n

    def one_more(self, name: str, source: str) -> None:
        """A call to a source beside the first was made, answered or denied, by the counter's name."""
        self._count(name, (source,), 1)

    def keys_null(self, view: str, n: int = 1) -> None:
        """n rows of a view were not read, since a join key was null."""
        self._count("keys_null_total", (view,), n)

    def corrupt_cells(self, view: str, n: int = 1) -> None:
        """n cells of rows that were served could not be read."""
        self._count("corrupt_cells_total", (view,), n)

    def fault(self, kind: str, *, applied: bool, n: int = 1) -> None:
        """A fault was due for n reads; whether it changed them."""
        self._count("faults_applied_total" if applied else "faults_not_applied_total", (kind,), n)

    def pairs_from(self, fn: Pairs) -> None:
        """Take pairs from here too: (model, view, cause, origin) -> (pairs, flips) since the start, as monitors do."""
        with self._lock:
            self._pairs.append(fn)

    def shadow_from(self, fn: Shadowed) -> None:
        """Take what was read again from degraded tiers from here, by the names of `NAMES`."""
        self._shadow = fn

    def read(self) -> dict[str, dict[Labels, float | Distribution]]:
        """Everything by name (without the prefix) and labels, in the order of `NAMES`; a copy, all of one moment.

        Gauges and pairs are asked for here.
        """
        with self._lock:
            self._fold()
            found = self._copied()
            asked = list(self._pairs)
        found |= {name: dict(values) for name, values in self.gauges.read().items()}
        found |= _pairs(asked)
        found |= self._shadow()
        names = [name.removeprefix(PREFIX) for name in NAMES]
        return {name: found.get(name, {}) for name in names}

    def rows(self) -> dict[str, dict[str, int]]:
        """Rows answered: view -> the name of the origin -> how many. Nothing else is looked at."""
        with self._lock:
            self._fold()
            cells = {view: list(counted) for view, counted in self._rows.items()}
        found: dict[str, dict[str, int]] = {view: {} for view in cells}
        for view, counted in cells.items():
            for at, n in _counted(counted):
                name = Origin(at // 2 // _STATUSES).name
                found[view][name] = found[view].get(name, 0) + n
        return found

    def stats(self) -> dict[str, list[dict[str, Any]]]:
        """Everything as plain values: name -> a list of labels with `value`, or with `count` and `sum`."""
        told: dict[str, list[dict[str, Any]]] = {}
        for name, values in self.read().items():
            labels = NAMES[PREFIX + name].labels
            told[name] = [{**dict(zip(labels, key, strict=True)), **_told(value)} for key, value in values.items()]
        return told

    def _see(self, seen: Seen, wall_us: int) -> None:
        view, origin, status, injected, n, event_time = seen
        cells = self._rows.get(view)
        if cells is None:
            cells = self._rows[view] = [0] * (_ORIGINS * _STATUSES * 2)
        _add(cells, _mixed(_mixed(origin, _STATUSES, status), 2, injected), n)
        if event_time is not None and n:
            ages = self._ages.get(view)
            if ages is None:
                ages = self._ages[view] = Ages()
            ages.add(event_time, wall_us, origin)

    def _count(self, name: str, labels: Labels, n: int) -> None:
        with self._lock:
            self._plain[name, labels] += n

    def _copied(self) -> dict[str, dict[Labels, float | Distribution]]:
        found: dict[str, dict[Labels, float | Distribution]] = {
            "requests_total": {("false",): self._requests[0], ("true",): self._requests[1]},
            "request_seconds": {(): self._seconds.copy()},
            "source_calls_total": dict(self._outcomes),
            "source_call_seconds": {(source,): times.copy() for source, times in self._calls.items()},
            "rows_total": {},
            "row_fallbacks_total": {},
            "row_age_seconds": {
                (view, origin.name): found for view, ages in self._ages.items() for origin, found in ages.read()
            },
            "rows_exhausted_total": {},
        }
        for view, cells in self._rows.items():
            for at, n in _counted(cells):
                rest, injected = divmod(at, 2)
                origin, status = divmod(rest, _STATUSES)
                found["rows_total"][view, Origin(origin).name, Status(status).name, _word(injected)] = n
        for (view, source), cells in self._fallbacks.items():
            for at, n in _counted(cells):
                if at // 2 != Cause.NONE:
                    found["row_fallbacks_total"][view, source, Cause(at // 2).name, _word(at % 2)] = n
        for view, cells in self._exhausted.items():
            found["rows_exhausted_total"] |= {(view, _word(at)): n for at, n in _counted(cells)}
        for (name, labels), n in self._plain.items():
            found.setdefault(name, {})[labels] = n
        return found


_alive: weakref.WeakSet[Counters] = weakref.WeakSet()


def _renew() -> None:
    """A lock held by another thread during a fork would stay held in the child for ever."""
    for counters in _alive:
        counters._lock = threading.Lock()  # noqa: SLF001 - of this file


os.register_at_fork(after_in_child=_renew)


def _mixed(high: Any, size: int, low: Any) -> Any:
    """Two codes as one; an int as long as both are."""
    return high * size + low


def _add(cells: list[int], code: Any, n: int = 1) -> None:
    """Count n rows under one code, or one row under each code of an array."""
    if not isinstance(code, np.ndarray):
        cells[int(code)] += n
        return
    if len(code) <= _FEW:
        for at in code.tolist():
            cells[at] += 1
        return
    found = np.bincount(code)
    for at in np.flatnonzero(found).tolist():
        cells[at] += int(found[at])


def _counted(cells: list[int]) -> list[tuple[int, int]]:
    return [(at, n) for at, n in enumerate(cells) if n]


def _word(flag: int) -> str:
    return "true" if flag else "false"


def _pairs(asked: list[Pairs]) -> dict[str, dict[Labels, float | Distribution]]:
    """The pairs and flips of every monitor, added up."""
    pairs: Counter[Labels] = Counter()
    flips: Counter[Labels] = Counter()
    for fn in asked:
        for (model, view, cause, origin), (paired, flipped) in fn().items():
            labels = (model, view, Cause(cause).name, Origin(origin).name)
            pairs[labels] += paired
            flips[labels] += flipped
    return {"pairs_total": dict(pairs), "flips_total": dict(flips)}


def _told(value: float | Distribution) -> dict[str, float]:
    if isinstance(value, Distribution):
        return {"count": value.count, "sum": value.total}
    return {"value": value}
