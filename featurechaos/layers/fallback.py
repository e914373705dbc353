"""Outermost: rows no online source settled are served from the local tiers, then by the view's defaults."""

from __future__ import annotations

from collections.abc import Sequence

from featurechaos.codec import decode
from featurechaos.effects import Next, Plan, note
from featurechaos.errors import StoreError
from featurechaos.memory import LastKnown
from featurechaos.model import Origin, Verdict
from featurechaos.readings import Index, Local, Part, Reading, Request, Rules, Walk, finish, judge, settle
from featurechaos.stores import Ask

_MISSING, _BURIED = int(Verdict.MISSING), int(Verdict.BURIED)


class Fallback:
    """Last-known rows and snapshot replicas together, the youngest of each row; then defaults.

    `local` reads one local source (the snapshot replica answers from memory-mapped files: degrading
    costs staleness, not latency).
    """

    def __init__(self, memory: LastKnown, local: Next) -> None:
        self._memory, self._local = memory, local

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        reading = yield from inner(request)
        if reading.is_settled:
            return reading
        open_ = [i for i, part in enumerate(reading.parts) if part.walk is not None and len(part.walk.index)]
        tiers = yield from self._tiers(request, reading.parts, open_)
        for i in open_:
            walk = reading.parts[i].walk
            assert walk is not None
            settle(walk, walk.index, tiers[i], request.rules[i])
        for ask, rules, part in zip(request.asks, request.rules, reading.parts, strict=True):
            if part.walk is not None and rules.remembers:
                self._forget(ask, rules, part.walk)
        return Reading(
            [
                part
                if part.walk is None
                else finish(
                    part.walk,
                    has_default=ask.view.name in request.defaults,
                    raises=rules.on_exhausted == "raise",
                )
                for ask, rules, part in zip(request.asks, request.rules, reading.parts, strict=True)
            ]
        )

    def _forget(self, ask: Ask, rules: Rules, walk: Walk) -> None:
        """Drop the rows that the answer says do not exist: deleted ones, and missing ones where that is accepted.

        Here, and not as each source answers: a later source that lacks a row says nothing of it.
        """
        verdict, true, ids = walk.rows.verdicts, ~walk.injected, ask.keys.ids
        if gone := (true & (verdict == _BURIED)).nonzero()[0].tolist():
            self._memory.forget(ask.view.base, [ids[i] for i in gone], ask.keys.own[gone])
        if rules.on_missing == "accept" and (missing := (true & (verdict == _MISSING)).nonzero()[0].tolist()):
            self._memory.doubt(ask.view.base, [ids[i] for i in missing])

    def _tiers(self, request: Request, parts: Sequence[Part], open_: Sequence[int]) -> Plan[dict[int, list[Local]]]:
        """Every local tier's copy of the open rows, snapshots first: ties go to the lower origin."""
        tiers: dict[int, list[Local]] = {i: [] for i in open_}
        asks = {i: request.asks[i].only(_open(parts[i])) for i in open_}
        sources = dict.fromkeys(source for i in open_ for source in request.rules[i].local)
        for source in sources:
            mine = [i for i in open_ if source in request.rules[i].local]
            narrowed = request.of([asks[i] for i in mine], [request.rules[i] for i in mine])
            try:
                reading = yield from self._local(narrowed.to(source))
            except StoreError as error:
                yield from note("source.failed", source, cause=0, rows={}, injected=error.injected, error=str(error))
                if error.injected:
                    _kept_from([parts[i] for i in mine])
                continue
            for i, part in zip(mine, reading.parts, strict=True):
                tiers[i].append(Local(part.rows, Origin.SNAPSHOT, part.injected))
        for i in open_:
            if request.rules[i].remembers:
                ask = asks[i]
                rows, _ = decode(self._memory.find(ask.view.base, ask.keys.ids), ask.keys.own, ask.layout)
                judge(rows, request.rules[i], request.wall_us)
                tiers[i].append(Local(rows, Origin.LAST_KNOWN))
        return tiers


def _kept_from(parts: Sequence[Part]) -> None:
    """A fault on a local source touched every row it was to be asked for."""
    for part in parts:
        assert part.walk is not None
        part.walk.kept_from(part.walk.index)


def _open(part: Part) -> Index:
    assert part.walk is not None
    return part.walk.index
