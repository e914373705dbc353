"""Do not believe a source that has lost its data.

A NOT_FOUND is *contradicted* where last-known or a snapshot replica still has a live row. A source that lacks more
than `share` of the rows known to exist (found, or contradicted) over `window_s`, and not by chance, or more than half
of the last `min_rows`, is without its data: it answers, but what it says of absence is worth nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from featurechaos.clock import Clock
from featurechaos.codec import decode
from featurechaos.effects import Next, Plan, note
from featurechaos.errors import StoreEmpty, StoreError
from featurechaos.locks import Locked
from featurechaos.memory import LastKnown
from featurechaos.model import NO_TIME_US, Verdict
from featurechaos.readings import Flags, Index, Part, Reading, Request, judge

_MOST_CHECKED = 64
"""Missing rows of one view that are looked up; of more, every so many-th is."""
_CALM_ROWS = 16
"""While nothing is contradicted, so many missing rows are let pass before some are looked up."""
_MOST = 0.5
_SURE = 3.0
"""Standard errors past the share: a few hundred rows say little of a share that is nearly reached."""
_BACK = 2
"""It takes so many times `min_rows` good rows to be believed again: one share near the limit is not two verdicts."""
_STEPS = 20
_WHOLE = 0.8
"""Counts that reach back so far into the window are the window's."""

_UNANSWERED, _FRESH = int(Verdict.UNANSWERED), int(Verdict.FRESH)
_MISSING, _EXPIRED = int(Verdict.MISSING), int(Verdict.EXPIRED)


@dataclass(frozen=True, slots=True)
class Emptiness:
    """When a source is without its data; the config's `policy.empty`."""

    share: float = 0.1
    min_rows: int = 200
    window_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _Mark:
    """The counts as they stood at a time."""

    at: float
    known: int
    lacked: int


class Watch(Locked):
    """What one source lacks of the rows known to exist.

    `known` counts these rows. Where nothing is missing a request only adds to it, without the lock: an addition
    that is lost in a race is one request's. At most 30 marks are kept.
    """

    def __init__(self, limits: Emptiness) -> None:
        super().__init__()
        self.limits, self.is_empty = limits, False
        self.known = self._lacked = 0
        self._clear_at = -inf
        self._passed = 0
        self._window: deque[_Mark] = deque(maxlen=_STEPS + 1)
        self._last: deque[_Mark] = deque(maxlen=4 * _BACK + 1)

    def hear(self, now: float, *, found: int, lacked: int) -> bool:
        """Count one answer; whether the judgement has changed."""
        with self._lock:
            self._mark(now)
            self.known += found + lacked
            self._lacked += lacked
            if lacked:
                self._clear_at = now + self.limits.window_s
            if self._is_back(now, found) if self.is_empty else self._is_gone():
                self.is_empty = not self.is_empty
                self._window.clear()
                self._last.clear()
                return True
            return False

    def worth_a_look(self, missing: Sequence[int], now: float) -> list[int]:
        """Which of an answer's views to look up, by how many rows each lacks: all, or if all is well one or none.

        A look costs tens of microseconds a view, and answers may lack a row for good reasons all day.
        """
        if self.is_empty or now < self._clear_at:
            return [place for place, count in enumerate(missing) if count]
        self._passed += sum(missing)
        if self._passed < _CALM_ROWS:
            return []
        self._passed = 0
        return [missing.index(max(missing))]

    def _mark(self, now: float) -> None:
        """Remember the counts before an answer, where the last mark is far enough behind."""
        window_s = self.limits.window_s
        mark = _Mark(now, self.known, self._lacked)
        for marks in (self._window, self._last):
            while marks and now - marks[0].at > window_s:
                marks.popleft()
        if not self._window or now - self._window[-1].at >= window_s / _STEPS:
            self._window.append(mark)
        if not self._last or self.known - self._last[-1].known >= self.limits.min_rows / 4:
            self._last.append(mark)

    def _is_gone(self) -> bool:
        """Whether too much is lacked, of the window's rows or of the last ones."""
        limits, last = self.limits, self._of_last(self.limits.min_rows)
        known, lacked = self._since(self._window[0])
        chance = _SURE * sqrt(limits.share * (1 - limits.share) * known)
        if known >= limits.min_rows and lacked > limits.share * known + chance:
            return True
        return last is not None and last[1] > max(_MOST, limits.share) * last[0]

    def _is_back(self, now: float, found: int) -> bool:
        """Whether it has its data again: it lacks half of `share` at most, of the last rows or of a whole window's."""
        seen = self._of_last(_BACK * self.limits.min_rows)
        if seen is None and now - self._window[0].at >= self.limits.window_s * _WHOLE:
            seen = self._since(self._window[0])
        if seen is None:
            return bool(found) and now >= self._clear_at
        return seen[0] > 0 and seen[1] <= self.limits.share / 2 * seen[0]

    def _of_last(self, rows: int) -> tuple[int, int] | None:
        """Known and lacked of the last `rows` or little more; None if there are fewer in the window."""
        for mark in reversed(self._last):
            known, lacked = self._since(mark)
            if known >= rows:
                return known, lacked
        return None

    def _since(self, mark: _Mark) -> tuple[int, int]:
        return self.known - mark.known, self._lacked - mark.lacked

    def __repr__(self) -> str:
        return f"Watch({'empty' if self.is_empty else 'sound'})"


class Empty:
    """A watch for each source, around every attempt.

    While a source is without its data, rows it lacks are unanswered and go on (cause EMPTY), rows it has are
    served, and an answer most of which is lacking is a failure of the source.

    Args:
        local: reads one local source, past the faults.
        expire_us: for sources that let rows expire, how long after its event a row is surely kept.
        watches: those of the policy before.
    """

    def __init__(
        self,
        clock: Clock,
        limits: Emptiness,
        *,
        sources: Sequence[str],
        memory: LastKnown,
        local: Next,
        expire_us: Mapping[str, int] | None = None,
        watches: Mapping[str, Watch] | None = None,
    ) -> None:
        self._clock, self._memory, self._local = clock, memory, local
        self._expire_us = expire_us or {}
        self.watches = watches or {source: Watch(limits) for source in sources}

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        reading = yield from inner(request)
        watch, known = self.watches[request.source], 0
        for part in reading.parts:
            if watch.is_empty or not part.is_fresh:
                return (yield from self._weighed(request, reading, watch))
            known += len(part)
        watch.known += known
        return reading

    def _weighed(self, request: Request, reading: Reading, watch: Watch) -> Plan[Reading]:
        """The reading, or what is to be believed of it."""
        lacking = [part.rows.verdicts == _MISSING for part in reading.parts]
        missing, lacked = sum(int(each.sum()) for each in lacking), 0
        total = sum(int((part.rows.verdicts != _UNANSWERED).sum()) for part in reading.parts)
        if not self._is_picked(request):
            for position in watch.worth_a_look([int(each.sum()) for each in lacking], self._clock.monotonic()):
                lacked += yield from self._contradicted(request, position, np.flatnonzero(lacking[position]))
            if missing or watch.is_empty:
                yield from self._judged(request.source, watch, found=total - missing, lacked=lacked)
            else:
                watch.known += total
        if not missing or not watch.is_empty:
            return reading
        if lacked > _MOST * total:
            msg = f"source {request.source!r} is without its data: it lacks {lacked} of {total} rows, which exist"
            raise StoreEmpty(msg)
        return _doubted(reading, lacking)

    def _is_picked(self, request: Request) -> bool:
        """Whether another source has already left these rows open: then what this one lacks says little of it."""
        others = [one for one in request.met if isinstance(one, _Heard) and one.source != request.source]
        request.met.add(_Heard(request.source))
        return bool(others)

    def _judged(self, source: str, watch: Watch, *, found: int, lacked: int) -> Plan[None]:
        if not watch.hear(self._clock.monotonic(), found=found, lacked=lacked):
            return
        if watch.is_empty:
            self._memory.restore()
            yield from note("source.emptied", source, reason=f"it lacks {lacked} of {found + lacked} rows that exist")
        else:
            yield from note("source.refilled", source, reason="it has its rows again")

    def _contradicted(self, request: Request, position: int, index: Index) -> Plan[int]:
        """How many of the missing rows `index` are known to exist: counted on a sample if they are many."""
        step = -(-len(index) // _MOST_CHECKED)
        ask, rules = request.asks[position].only(index[::step]), request.rules[position]
        expire_us = self._expire_us.get(request.source)
        oldest_us = NO_TIME_US if expire_us is None else request.wall_us - expire_us
        exists = np.zeros(len(ask.keys), bool)
        if rules.remembers:
            rows, _ = decode(self._memory.evidence(ask.view.base, ask.keys.ids), ask.keys.own, ask.layout)
            judge(rows, rules, request.wall_us)
            exists |= _lives(Part(rows, origin=0), oldest_us)
        for source in rules.local:
            if exists.all():
                break
            open_ = np.flatnonzero(~exists)
            try:
                reading = yield from self._local(request.of([ask.only(open_)], [rules]).to(source))
            except StoreError:
                continue
            exists[open_] |= _lives(reading.parts[0], oldest_us)
        return int(exists.sum()) * len(index) // len(exists)


@dataclass(frozen=True, slots=True)
class _Heard:
    """A source that has left rows of a call open."""

    source: str


def _doubted(reading: Reading, lacking: Sequence[Flags]) -> Reading:
    """The same reading, in which what is lacking is no answer."""
    for part, each in zip(reading.parts, lacking, strict=True):
        if each.any():
            verdict = part.rows.verdicts
            verdict[each] = _UNANSWERED
            part.rows.verdict = verdict
    return reading


def _lives(part: Part, oldest_us: int) -> Flags:
    verdict = part.rows.verdicts
    lives: Flags = (verdict == _FRESH) | (verdict == _EXPIRED)
    return lives & (part.rows.event_time >= oldest_us)
