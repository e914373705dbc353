"""Ask the sources in order; only the rows still open go on to the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featurechaos.effects import Next, Plan, note, together
from featurechaos.errors import StoreError
from featurechaos.model import Cause
from featurechaos.readings import Part, Reading, Request, Walk, cause_of

_NO_CAUSE = int(Cause.NONE)


class Failover:
    """Walk the online sources of each view's order, row by row.

    Rows nobody settled come back open, in `part.walk`, for the fallback to finish. Views whose orders
    differ are walked side by side.
    """

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        first = request.rules[0].online
        for rules in request.rules:
            if rules.online != first:
                return self._side_by_side(request, inner)
        return self._walk(request, inner)

    def _side_by_side(self, request: Request, inner: Next) -> Plan[Reading]:
        groups: dict[tuple[str, ...], list[int]] = {}
        for position, rules in enumerate(request.rules):
            groups.setdefault(rules.online, []).append(position)
        readings = yield from together(
            [
                self._walk(request.of([request.asks[i] for i in members], [request.rules[i] for i in members]), inner)
                for members in groups.values()
            ]
        )
        parts: list[Part | None] = [None] * len(request.asks)
        for members, reading in zip(groups.values(), readings, strict=True):
            for position, part in zip(members, reading.parts, strict=True):
                parts[position] = part
        return Reading([part for part in parts if part is not None])

    def _walk(self, request: Request, inner: Next) -> Plan[Reading]:
        walks: list[Walk | None] | None = None
        settled: list[Part | None] = [None] * len(request.asks)
        for source in request.rules[0].online:
            if walks is None:
                try:
                    reading = yield from inner(request.to(source))
                except StoreError as error:
                    walks = [Walk(ask) for ask in request.asks]
                    yield from _failed(request, walks, source, error)
                    continue
                if reading.is_fresh:
                    return reading
                walks = [
                    None if part.is_fresh else Walk(ask) for part, ask in zip(reading.parts, request.asks, strict=True)
                ]
                settled = [part if part.is_fresh else None for part in reading.parts]
                yield from _heard(request, walks, source, reading.parts)
            else:
                open_ = [i for i, walk in enumerate(walks) if walk is not None and len(walk.index)]
                if not open_:
                    break
                yield from _next(request, walks, open_, source, inner)
        if walks is None:
            walks = [Walk(ask) for ask in request.asks]
        return Reading(
            [
                part if part is not None else walk.part  # type: ignore[union-attr]
                for part, walk in zip(settled, walks, strict=True)
            ]
        )


def _next(request: Request, walks: Sequence[Walk | None], open_: Sequence[int], source: str, inner: Next) -> Plan[None]:
    """Ask one more source for the rows still open."""
    asks = [request.asks[i].only(walks[i].index) for i in open_]  # type: ignore[union-attr]
    narrowed = request.of(asks, [request.rules[i] for i in open_])
    some = [walks[i] for i in open_]
    try:
        reading = yield from inner(narrowed.to(source))
    except StoreError as error:
        yield from _failed(narrowed, some, source, error)
    else:
        yield from _heard(narrowed, some, source, reading.parts)


def _failed(request: Request, walks: Sequence[Walk | None], source: str, error: StoreError) -> Plan[None]:
    cause, injected = cause_of(error), bool(getattr(error, "injected", False))
    rows = {}
    for ask, walk in zip(request.asks, walks, strict=True):
        if walk is not None:
            index = walk.index
            walk.failed(index, cause, injected=injected)
            rows[ask.view.name] = len(index)
    yield from note("source.failed", source, cause=cause, rows=rows, injected=injected, error=str(error))


def _heard(request: Request, walks: Sequence[Walk | None], source: str, parts: Sequence[Part]) -> Plan[None]:
    for ask, rules, walk, part in zip(request.asks, request.rules, walks, parts, strict=True):
        if walk is None:
            continue
        causes = walk.heard(walk.index, part, rules)
        numbers, counts = np.unique(causes[causes != _NO_CAUSE], return_counts=True)
        if len(numbers):
            moved = {Cause(int(number)): int(count) for number, count in zip(numbers, counts, strict=True)}
            yield from note("rows.moved", source, view=ask.view.name, causes=moved, injected=part.injected)
