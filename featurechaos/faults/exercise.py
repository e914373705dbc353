"""The layer that makes reads meet the faults on the board: innermost, so that every attempt meets them.

Any error while deciding means *no fault*; a fault that is due and cannot apply is counted, never passed over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from featurechaos.clock import Clock
from featurechaos.codec import Layout, Rows
from featurechaos.effects import Next, Plan, note, read
from featurechaos.errors import StoreError
from featurechaos.faults import Delay, Outage, Stale
from featurechaos.faults.board import Board, Lease
from featurechaos.faults.when import draw_call, draw_rows
from featurechaos.model import Verdict
from featurechaos.readings import Part, Reading, Request, judge, rows_of, spread

log = logging.getLogger(__name__)


class Exercise:
    """Meet the faults that are on. With none on, it is one attribute look-up.

    `history` names for each view the source that keeps dated rows; `online` the sources that row faults
    may touch (a snapshot is old by itself).
    """

    def __init__(
        self,
        board: Board,
        clock: Clock,
        *,
        history: Mapping[str, str],
        online: frozenset[str],
        known: Mapping[int, Layout],
    ) -> None:
        self._board, self._clock = board, clock
        self._history, self._online, self._known = history, online, known

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        if not self._board.active:
            return inner(request)
        try:
            calls, rows = self._due(request)
        except Exception:
            log.exception("deciding on faults failed; none is applied")
            return inner(request)
        if not calls and not rows:
            return inner(request)
        return self._exercised(request, inner, calls, rows)

    def _due(self, request: Request) -> tuple[list[tuple[Lease, float]], list[Lease]]:
        """The call faults that hit this call, with their draw; the row faults that may hit its rows."""
        calls, rows = [], []
        for lease in self._board.live():
            fault = lease.fault
            if isinstance(fault, Stale):
                if request.source in self._online and any(ask.view.name == fault.view for ask in request.asks):
                    rows.append(lease)
            elif fault.source == request.source:
                draw = draw_call(request.id, lease.salt)
                if draw < lease.share:
                    calls.append((lease, draw))
                elif draw < lease.exposure and _is_first(lease, request):
                    lease.count(control=1)
        return calls, rows

    def _exercised(
        self, request: Request, inner: Next, calls: list[tuple[Lease, float]], rows: list[Lease]
    ) -> Plan[Reading]:
        step = inner
        if calls:
            request.met.add(request.source)  # whoever gives this call up for a quicker one must know why it was slow
        for lease, draw in calls:
            fault = lease.fault
            if _is_first(lease, request):
                lease.count(applied=1)
                yield from note("fault.applied", fault.name, rows=1)
            if isinstance(fault, Outage):
                return (yield from fault.strike(request, self._clock))
            assert isinstance(fault, Delay)
            step = _delayed(fault, step, self._clock, draw)
        reading = yield from step(request)
        if calls:
            for part in reading.parts:
                part.injected = True
        for lease in rows:
            for position, ask in enumerate(request.asks):
                if ask.view.name == lease.fault.view:  # type: ignore[union-attr]
                    yield from self._age(lease, request, position, reading.parts[position])
        return reading

    def _age(self, lease: Lease, request: Request, position: int, part: Part) -> Plan[None]:
        """Put the old rows of a `Stale` in place of the fresh ones it hits."""
        fault, ask = lease.fault, request.asks[position]
        assert isinstance(fault, Stale)
        draws, fresh = draw_rows(ask.keys.own, lease.salt), part.rows.verdicts == Verdict.FRESH
        hit = (draws < lease.share) & fresh
        lease.count(control=int(((draws >= lease.share) & (draws < lease.exposure) & fresh).sum()))
        if not hit.any():
            return
        old = yield from self._old_rows(fault, request, position)
        if old is None:
            lease.count(not_applied=int(hit.sum()))
            yield from note("fault.not_applied", fault.name, rows=int(hit.sum()), reason="no snapshot of that age")
            return
        struck = fault.changed(part, hit, old)
        applied, missed = int(struck.sum()), int((hit & ~struck).sum())
        lease.count(applied=applied, not_applied=missed)
        if missed:
            yield from note("fault.not_applied", fault.name, rows=missed, reason="not in the snapshot")
        if applied:
            part.injected = np.asarray(spread(part.injected, len(part), bool), bool) | struck
            judge(part.rows, request.rules[position], request.wall_us)
            yield from note("fault.applied", fault.name, rows=applied)

    def _old_rows(self, fault: Stale, request: Request, position: int) -> Plan[Rows | None]:
        source = self._history.get(fault.view)
        if source is None:
            return None
        ask = request.asks[position]
        narrowed = request.of([ask], [request.rules[position]]).to(source)
        try:
            answers = yield from read(narrowed, as_of_us=request.wall_us - int(fault.age_s * 1e6))
        except StoreError:
            return None
        return rows_of(ask, answers[0], self._known)[0]


def _is_first(lease: Lease, request: Request) -> bool:
    """Whether a call meets this lease for the first time: a retry meets the fault again, but is the same call."""
    if lease in request.met:
        return False
    request.met.add(lease)
    return True


def _delayed(fault: Delay, inner: Next, clock: Clock, draw: float) -> Next:
    def plan(request: Request) -> Plan[Reading]:
        return fault.strike(request, inner, clock, draw)

    return plan
