"""The healthy way of a read, in a straight line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurechaos.clock import Clock
from featurechaos.codec import Packed, whole
from featurechaos.faults.board import Board
from featurechaos.layers.breaker import Breaker, State
from featurechaos.layers.deadline import LEAST_S, Meter, held_back
from featurechaos.layers.empty import Empty
from featurechaos.layers.retry import Budget
from featurechaos.layers.steer import Steer
from featurechaos.memory import LastKnown
from featurechaos.model import Origin
from featurechaos.readings import Part, Request, Started

_CLOSED, _least = State.CLOSED, np.minimum.reduce

Groups = Sequence[tuple[tuple[str, ...], Sequence[int]]]
"""Views with the same join keys that are remembered: their stored names, and their places among a request's."""


class Shortcut:
    """What the layers do for a source whose gate is closed, with no fault on and every row whole and fresh.

    That is nearly every read, and a plan of nine layers costs as much as the rest of the client. Anything else is
    the layers': the plan is played with what the source has answered (`Request.started`) as its first read, so that
    nothing is asked twice and every judgement is made in one place. tests/serving/test_shortcut.py plays the same
    reads both ways.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        origins: Mapping[str, Origin],
        timeouts: Mapping[str, float],
        reserve_s: float,
        board: Board,
        steer: Steer,
        breaker: Breaker | None,
        empty: Empty | None,
        budget: Budget | None,
        memory: LastKnown,
        meter: Meter,
    ) -> None:
        self._monotonic = clock.monotonic
        self._origins = {source: int(origin) for source, origin in origins.items()}
        self._timeouts, self._reserve_s, self._board, self._steer = timeouts, reserve_s, board, steer
        self._gates = {} if breaker is None else breaker.gates
        self._watches = {} if empty is None else empty.watches
        self._budget, self._memory, self._meter = budget, memory, meter

    def begin(self, request: Request, source: str | None) -> Started | None:
        """The first read of a request, to be made at once; None if that is for the layers to decide."""
        if source is None or self._board.active or source in self._steer.drained:
            return None
        for ask in request.asks:
            if ask.keys.ids:
                break
        else:
            return None
        permit = None
        if (gate := self._gates.get(source)) is not None:
            if gate.state is not _CLOSED:
                return None
            permit = gate.permit
        now = self._monotonic()
        until, walk_until = now + self._timeouts[source], request.until - self._reserve_s
        if walk_until - now < self._reserve_s:
            walk_until = held_back(request.until, now, self._reserve_s)
        if walk_until < until:  # noqa: PLR1730 - `min` costs a call
            until = walk_until
        if until - now < LEAST_S:
            return None
        started = request.started = Started(source, now, until, walk_until, permit)
        return started

    def end(  # noqa: C901 - in a straight line: each call costs
        self, request: Request, started: Started, groups: Groups
    ) -> list[Part] | None:
        """The parts of the reading, if all is well with what came; else None."""
        source, parts = started.source, []
        watch = self._watches.get(source)
        answers, asks, rules = started.answers, request.asks, request.rules
        if answers is None or len(answers) != len(asks) or (watch is not None and watch.is_empty):
            return None
        origin, wall_us, count = self._origins[source], request.wall_us, 0
        for at, ask in enumerate(asks):
            answer = answers[at]
            rows = (
                whole(answer, ask.keys, ask.layout, len(asks) == 1)
                if type(answer) is list or type(answer) is Packed
                else None
            )
            if rows is None:
                return None
            if (limit_us := rules[at].limit_us) is not None:
                if rows.oldest is None:
                    rows.oldest = int(_least(rows.event_time)) if answer else 0
                if rows.oldest < wall_us - limit_us:
                    return None
            count += len(answer)  # type: ignore[arg-type] # a list, or there would be no rows
            parts.append(Part(rows, origin))
        now = self._monotonic()
        seconds = now - started.begun
        gate = self._gates.get(source)
        if gate is not None and (seconds >= gate.limits.slow_s or not gate.passed(started.permit, now)):
            return None
        if watch is not None:
            watch.known += count
        if self._budget is not None:
            self._budget.earn()
        started.seconds = seconds
        for views, places in groups:
            blobs: Any = answers if len(places) == len(answers) else [answers[at] for at in places]
            keys = asks[places[0]].keys
            ids = keys.ids
            if len(ids) == 1:
                self._memory.keep_soon(views, ids, blobs, now)
            else:
                self._memory.keep(views, ids, blobs, now, keys.own)
        return parts

    def left(self, started: Started) -> None:
        """The read was given up by its caller."""
        self._meter(started.source, "cancelled", self._monotonic() - started.begun)
