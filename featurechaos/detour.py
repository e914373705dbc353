"""The way of a read that is answered by local tiers alone, in a straight line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featurechaos.clock import Clock
from featurechaos.codec import Packed, Rows, verify, whole
from featurechaos.effects import Note
from featurechaos.errors import StoreError
from featurechaos.faults.board import Board
from featurechaos.layers.breaker import Breaker
from featurechaos.layers.steer import Steer
from featurechaos.memory import LastKnown
from featurechaos.model import Cause, Origin
from featurechaos.readings import Part, Request, Rules, cause_of
from featurechaos.stores import Answer, Ask, Block

_SNAPSHOT, _LAST_KNOWN, _NO_CAUSE = map(int, (Origin.SNAPSHOT, Origin.LAST_KNOWN, Cause.NONE))

Refusals = Sequence[tuple[str, StoreError]]
"""Sources that are not asked, in their order, and what the layers would say of each."""


@dataclass(frozen=True, slots=True)
class Way:
    """Whom all views of a call ask: online sources in their order, and the one local source, if there is one."""

    online: tuple[str, ...]
    local: str | None

    @classmethod
    def of(cls, rules: Sequence[Rules]) -> Way | None:
        """None where views differ, or have more than one local source: that is for the layers."""
        ways = {(each.online, each.local) for each in rules}
        online, local = ways.pop()
        return None if ways or len(local) > 1 else cls(online, local[0] if local else None)


class Detour:
    """What the layers do where no online source may be asked, and every row is whole and fresh in one local tier.

    There is none to ask, or each is drained or behind a gate that is shut, as all are during an outage. A row that is
    missing, too old or damaged, a view with rows of both tiers, and a fault that is on are the layers': the plan is
    played from its beginning. tests/serving/test_detour.py plays the same reads both ways.
    """

    def __init__(self, clock: Clock, *, board: Board, steer: Steer, breaker: Breaker | None, memory: LastKnown) -> None:
        self._monotonic, self._board, self._steer = clock.monotonic, board, steer
        self._breaker, self._memory = breaker, memory

    def begin(self, request: Request, way: Way | None) -> Refusals | None:
        """The sources that refuse a request which only local tiers are to be asked for; else None."""
        if way is None or self._board.active:
            return None
        for ask in request.asks:
            if not ask.keys.ids:
                return None
        refusals: list[tuple[str, StoreError]] = []
        breaker, now = self._breaker, self._monotonic() if way.online else 0.0
        for source in way.online:
            if source in self._steer.drained:
                refusals.append((source, self._steer.refusal(source)))
            elif breaker is not None and breaker.gates[source].is_shut(now):
                breaker.wanted[source] = request.to(source)
                refusals.append((source, breaker.refusal(source)))
            else:
                return None
        return refusals

    def end(
        self, request: Request, answers: Sequence[Answer] | None, refusals: Refusals, tell: Callable[[Note], None]
    ) -> list[Part] | None:
        """The parts of the reading from what the local source answered (None if there is none); None if not all is
        well with it."""
        parts, cause = [], cause_of(refusals[0][1]) if refusals else _NO_CAUSE
        if answers is not None and len(answers) != len(request.asks):
            return None
        for at, ask in enumerate(request.asks):
            rules = request.rules[at]
            part = self._served(ask, rules, request.wall_us, None if answers is None else answers[at], int(cause))
            if part is None:
                return None
            parts.append(part)
        for source, error in refusals:
            rows = {ask.view.name: len(ask.keys.ids) for ask in request.asks}
            said = {"cause": cause_of(error), "rows": rows, "injected": False, "error": str(error)}
            tell(Note("source.failed", source, said))
        return parts

    def _served(self, ask: Ask, rules: Rules, wall_us: int, answer: Answer | None, cause: int) -> Part | None:
        """One view's rows, all of the tier that has the younger of each; on a tie the snapshot's."""
        kept = self._memory.find(ask.view.base, ask.keys.ids) if rules.remembers else ()
        last = None
        if any(kept):
            last = _fresh(kept, ask, rules, wall_us)
            if last is None:
                return None
        if answer is None:
            return None if last is None else Part(last, origin=_LAST_KNOWN, cause=cause)
        rows = _fresh(answer, ask, rules, wall_us)
        if rows is None:
            return None
        if last is not None:
            younger = last.event_time > rows.event_time
            if younger.all():
                return Part(last, origin=_LAST_KNOWN, cause=cause)
            if younger.any():
                return None
        return Part(rows, origin=_SNAPSHOT, cause=cause)


def _fresh(answer: Answer | Sequence[bytes | None], ask: Ask, rules: Rules, wall_us: int) -> Rows | None:
    """The rows of an answer, if every one is whole and within its view's limits."""
    rows: Rows | None
    if isinstance(answer, list | Packed):
        rows = whole(answer, ask.keys, ask.layout)
    elif type(answer) is Block:
        rows = verify(answer.words, ask.keys.own, ask.layout, answer.found)
        if type(rows.verdict) is not int:
            return None
    else:
        return None
    if rows is not None and (limit_us := rules.limit_us) is not None:
        if rows.oldest is None:
            rows.oldest = int(rows.event_time.min())
        if rows.oldest < wall_us - limit_us:
            return None
    return rows
