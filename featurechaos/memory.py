"""The rows an online source last gave us, kept for the day it gives none.

Generations: per stored view at most `GENERATIONS` dicts of id -> row, newest first, swapped whole. A row seen again
within an eighth of the shortest of `keep_s`, ttl and hard limit is not written again: that is what keeps a
healthy read cheap, and how much older than the last one seen the copy may be. A row is kept between 7/8 of
`keep_s` and `keep_s` after it was last read, or until half as many others came as there is room for. Views that are
read together are looked at together: one look at an id, or at its mark, says that the rows of all of them are there.

Tombstones are kept beside: an answer that was on its way when a row was deleted does not bring it back. So are, for
a while, rows that a source said do not exist: if it turns out to have lost its data, they come back.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from featurechaos.clock import Clock
from featurechaos.codec import Packed
from featurechaos.locks import Locked
from featurechaos.marks import Marks

T = TypeVar("T")

GENERATIONS = 8
_MOST_TOGETHER = 64
MOST_BYTES = 256 << 20
"""Of the rows of one view, keys and all; a row counts with what Python needs to hold it."""
_ENTRY_BYTES = 200
_MOST_WAITING, _TOGETHER_S = 64, 0.05
_AT_ONCE = 256
_FEW = 32
"""So few ids are looked up in a set before numpy has been called."""


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much one view is remembered; the config's `last_known`.

    A copy is written anew at the latest `fresh_s` after it was, when the row is read again.
    """

    keep_s: float = 900.0
    max_rows: int = 200_000
    fresh_s: float = 900.0 / GENERATIONS
    row_bytes: int | None = None
    """The length of every row, where they have but one: a hundred lengths need not be added up then."""


@dataclass(slots=True, eq=False)
class _Generation:
    """`size` counts the bytes of all that was written, replaced rows too; `is_new`: changed since it was taken."""

    begun: float
    rows: dict[bytes, bytes]
    size: int = 0
    is_new: bool = True
    number: int = field(default_factory=count().__next__)


@dataclass(slots=True, eq=False)
class _Together:
    """Views that are read together: `seen` are the ids whose rows have been written in each of them.

    They need not be written again before `until`, nor before the generations that the first of them went to, `began`,
    are the older half. Until a generation is opened (`turn` moves on) the newest of each view, in `into`, is the one to
    write to, while it has room for `most`. What has a mark in `marks` is in `seen`.
    """

    most: int
    seen: set[bytes]
    until: float
    turn: int
    into: list[tuple[str, _Generation, Keep, int]] = field(default_factory=list)
    began: list[tuple[str, _Generation]] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)


@dataclass(frozen=True, slots=True)
class Taken:
    """A generation as it was when it was taken: its number, when it began (monotonic seconds), and its rows by id,
    if they are new."""

    number: int
    begun: float
    rows: dict[bytes, bytes]
    is_new: bool


_Waiting = tuple[tuple[str, ...], bytes, Sequence[Sequence[bytes]], float]
"""A row just read of some views: their names, its id, a list of one blob for each of them, when."""


class LastKnown(Locked):
    """Rows of every stored view by id; bounded in rows, in bytes (`MOST_BYTES`) and in time.

    `aside_s` is how long rows that were said not to exist are kept aside, at most an eighth as many as are held.
    """

    def __init__(self, clock: Clock, keeps: Mapping[str, Keep], *, aside_s: float = 0.0) -> None:
        super().__init__()
        self._clock, self._keeps, self._aside_s = clock, keeps, aside_s
        self._generations: dict[str, tuple[_Generation, ...]] = dict.fromkeys(keeps, ())
        self._together: dict[tuple[str, ...], _Together] = {}
        self._turn = 0
        self._waiting: deque[_Waiting] = deque()
        self._buried: dict[str, dict[bytes, tuple[int, float]]] = {view: {} for view in keeps}
        self._aside: dict[str, dict[bytes, tuple[bytes, float]]] = {view: {} for view in keeps}

    def under(self, keeps: Mapping[str, Keep], *, aside_s: float) -> LastKnown:
        """The same rows under other bounds, for the reads that begin from now on; none of a view that is left out.

        Reads under way go on with this one. What they write, forget or bury in the rows of both is so in both.
        """
        nothing = dict.fromkeys(self._keeps, Keep(0.0, 0, 0.0))
        heir = LastKnown(self._clock, {**nothing, **keeps}, aside_s=aside_s)
        with self._lock:
            self._settle()
            heir._lock = self._lock  # the rows are shared, so is what guards them
            for view in keeps.keys() & self._keeps.keys():
                heir._generations[view] = tuple(_within(self._generations[view], keeps[view].max_rows))
                heir._buried[view], heir._aside[view] = self._buried[view], self._aside[view]
            # What reads under way still bring waits there, and is written as there.
            self._waiting, self._settle = heir._waiting, heir._settle  # type: ignore[method-assign]
        return heir

    def keep(
        self,
        views: tuple[str, ...],
        ids: Sequence[bytes],
        blobs: Sequence[Sequence[bytes] | None],
        now: float | None = None,
        own: NDArray[np.uint64] | None = None,
    ) -> None:
        """Remember rows just read, of the same ids in each of some views; of more than the bound allows, the first.

        `own` are the ids' hashes, as `Keys.own`, by which most ids that have been seen are known.
        """
        if now is None:
            now = self._clock.monotonic()
        if (together := self._open(views, now)) is not None:
            seen = together.seen
            if own is None or len(ids) < _FEW:
                if seen.issuperset(ids):
                    return
                fresh = [at for at, key in enumerate(ids) if key not in seen]
            else:
                strange = together.marks.strange(own)
                fresh = [at for at in strange if ids[at] not in seen]
                if len(strange) - len(fresh) > len(ids) >> 3:
                    self._mark(together, ids, own, strange)
                if not fresh:
                    return
            if len(fresh) < len(ids):
                ids = [ids[at] for at in fresh]
                blobs = [
                    rows.some(fresh) if type(rows) is Packed else rows and [rows[at] for at in fresh] for rows in blobs
                ]
        with self._lock:
            self._settle()
            self._keep(views, ids, blobs, now)

    def _mark(self, together: _Together, ids: Sequence[bytes], own: NDArray[np.uint64], strange: Sequence[int]) -> None:
        """Know those that have been seen by their marks from now on."""
        with self._lock:
            known = [at for at in strange if ids[at] in together.seen]
            together.marks.add(own[known], keys=len(together.seen))

    def keep_soon(self, views: tuple[str, ...], ids: list[bytes], blobs: Sequence[Sequence[bytes]], now: float) -> None:
        """The same for one id; it may wait for others, or until somebody looks: together they cost a fifth."""
        together = self._together.get(views)  # as `_open`, without the call
        if together is not None and now < together.until and together.turn == self._turn and ids[0] in together.seen:
            return
        self._waiting.append((views, ids[0], blobs, now))
        if len(self._waiting) >= _MOST_WAITING:
            with self._lock:
                self._settle()

    def _open(self, views: tuple[str, ...], now: float) -> _Together | None:
        """What is known of views that are read together, while that holds."""
        together = self._together.get(views)
        if together is None or now >= together.until:
            return None
        return together if together.turn == self._turn or self._holds(together) else None

    def _holds(self, together: _Together) -> bool:
        """Whether all that has been seen is in the newer half of the generations still, though some were opened."""
        turn = self._turn
        for view, first in together.began:
            if first not in self._generations[view][: GENERATIONS // 2]:
                return False
        self._look_to_newest(together)
        together.turn = turn  # as of before: one that was opened meanwhile is found next time
        return True

    def _look_to_newest(self, together: _Together) -> None:
        newest = [(view, self._generations[view][0], self._keeps[view]) for view, _ in together.began]
        together.into = [(view, found, keep, self._most(keep)) for view, found, keep in newest]

    def _settle(self) -> None:
        """Write what waits; under the lock, before anything else is done there."""
        some: list[_Waiting] = []
        while self._waiting:
            one = self._waiting.popleft()
            if some and (one[0] != some[0][0] or not 0 <= one[3] - some[0][3] <= _TOGETHER_S):
                self._keep_some(some)
                some = []
            some.append(one)
        if some:
            self._keep_some(some)

    def _keep_some(self, some: Sequence[_Waiting]) -> None:
        """Rows of the same views, read nearly at once: as old as the first of them."""
        views, _, _, now = some[0]
        ids = [key for _, key, _, _ in some]
        self._keep(views, ids, [[blobs[at][0] for _, _, blobs, _ in some] for at in range(len(views))], now)

    def _keep(
        self, views: tuple[str, ...], ids: Sequence[bytes], blobs: Sequence[Sequence[bytes] | None], now: float
    ) -> None:
        together = self._open(views, now)
        if together is None or not self._wrote(together, ids, blobs):
            before = {view: self._generations[view][:1] for view in views}
            for view, rows in zip(views, blobs, strict=True):
                self._write(view, ids, rows or (), now)
            self._look_no_more(views, ids, now, before)

    def _wrote(self, together: _Together, ids: Sequence[bytes], blobs: Sequence[Sequence[bytes] | None]) -> bool:
        """Write where nothing is in the way: no generation to open, no tombstone to look for. Whether it did."""
        n = len(ids)
        if len(together.seen) + n > together.most:
            return False
        for view, newest, _, most in together.into:
            if len(newest.rows) + n > most or newest.size >= MOST_BYTES // GENERATIONS or self._buried[view]:
                return False
        besides = sum(map(len, ids)) + _ENTRY_BYTES * n
        for (_, newest, keep, _), rows in zip(together.into, blobs, strict=True):
            assert rows is not None
            newest.rows.update(zip(ids, rows, strict=True))
            newest.size += besides + (sum(map(len, rows)) if keep.row_bytes is None else keep.row_bytes * n)
            newest.is_new = True
        together.seen.update(ids)
        return True

    def _write(self, view: str, ids: Sequence[bytes], blobs: Sequence[bytes], now: float) -> None:
        keep, pairs = self._keeps[view], zip(ids, blobs, strict=True)
        rows = islice(self._not_buried(view, pairs) if self._buried[view] else pairs, keep.max_rows)
        while row := next(rows, None):  # at most `max_rows` turns: each takes a row
            newest = self._newest(view, keep, now) or self._opened(view, keep, now)
            most = min(self._most(keep) - len(newest.rows), _AT_ONCE)
            taken = dict([row, *islice(rows, most - 1)])
            newest.rows.update(taken)
            newest.size += _size(taken)
            newest.is_new = True

    def _look_no_more(
        self,
        views: tuple[str, ...],
        ids: Sequence[bytes],
        now: float,
        before: Mapping[str, tuple[_Generation, ...]],
    ) -> None:
        """The rows of these ids have been written, those that were not buried; `before` were the newest generations."""
        together = self._together.get(views)
        if together is None:
            if len(self._together) >= _MOST_TOGETHER:
                self._together.clear()
            most = min(self._keeps[view].max_rows for view in views)
            together = self._together[views] = _Together(most, set(), -math.inf, self._turn)
        if now >= together.until or (together.turn != self._turn and not self._holds(together)):
            together.seen, together.marks, together.turn = set(), Marks(), self._turn
            together.until = min(self._due(view, now) for view in views)
            first = {view: before[view] or self._generations[view][-1:] for view in views}
            together.began = [(view, found[0]) for view, found in first.items() if found]
            self._look_to_newest(together)
            if len(together.began) < len(views):  # rows of none were written: there is nowhere to write yet
                together.until = -math.inf
        buried = [self._buried[view] for view in views if self._buried[view]]
        if buried:
            ids = [key for key in ids if not any(key in each for each in buried)]
        if len(together.seen) + len(ids) <= together.most:
            together.seen.update(ids)

    def _due(self, view: str, now: float) -> float:
        """When a row of a view written now is to be written anew."""
        keep, generations = self._keeps[view], self._generations[view]
        begun = generations[0].begun if generations else now
        return min(now + keep.fresh_s, begun + keep.keep_s / GENERATIONS)

    def forget(self, view: str, ids: Sequence[bytes], own: NDArray[np.uint64] | None = None) -> None:
        """Drop rows: they have just been written, or an online source has their tombstones."""
        with self._lock:
            self._settle()
            self._drop(view, ids, own)

    def doubt(self, view: str, ids: Sequence[bytes]) -> None:
        """Drop rows that an online source says do not exist; they are kept aside in case it has lost its data."""
        found, now = self.find(view, ids), self._clock.monotonic()
        rows = [(key, (blob, now)) for key, blob in zip(ids, found, strict=True) if blob is not None]
        if not rows:
            return
        with self._lock:
            self._settle()
            self._drop(view, [key for key, _ in rows])
            aside = self._aside[view]
            if self._aside_s:
                aside.update(rows)
            _shortened(aside, self._most(self._keeps[view]), lambda entry: now - entry[1] >= self._aside_s)

    def restore(self) -> None:
        """Take back what was kept aside: a source that said it does not exist has lost its data."""
        now = self._clock.monotonic()
        with self._lock:
            self._settle()
            taken = {view: dict(aside) for view, aside in self._aside.items()}
            for aside in self._aside.values():
                aside.clear()
        for view, aside in taken.items():
            if rows := {key: blob for key, (blob, at) in aside.items() if now - at < self._aside_s}:
                had = self.find(view, list(rows))
                lost = [key for key, blob in zip(rows, had, strict=True) if blob is None]
                self.keep((view,), lost, ([rows[key] for key in lost],))

    def bury(
        self, view: str, ids: Sequence[bytes], event_time: Sequence[int], own: NDArray[np.uint64] | None = None
    ) -> None:
        """Drop rows that were deleted at `event_time` (us), and whatever older copy of them still arrives."""
        now, keep = self._clock.monotonic(), self._keeps[view]
        with self._lock:
            self._settle()
            self._drop(view, ids, own)
            buried = self._buried[view]
            for key in ids:
                buried.pop(key, None)
            buried.update(zip(ids, ((us, now) for us in event_time), strict=True))
            _shortened(buried, keep.max_rows, lambda entry: now - entry[1] >= keep.keep_s)

    def _drop(self, view: str, ids: Sequence[bytes], own: NDArray[np.uint64] | None = None) -> None:
        for generation in self._generations[view]:
            before = len(generation.rows)
            for key in ids:
                generation.rows.pop(key, None)
            generation.is_new |= len(generation.rows) != before
        for views, together in self._together.items():
            if view in views:
                together.seen.difference_update(ids)
                if own is None:
                    together.marks = Marks()
                else:
                    together.marks.drop(own)
        for key in ids:
            self._aside[view].pop(key, None)

    def _not_buried(self, view: str, pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        """The rows that are newer than their tombstone, if they have one."""
        buried = self._buried[view]
        for key, blob in pairs:
            if key not in buried or event_time_of(blob) > buried[key][0]:
                yield key, blob

    def keeps(self, view: str) -> bool:
        """Whether anything of a stored view is remembered at all."""
        return view in self._keeps

    def find(self, view: str, ids: Sequence[bytes]) -> list[bytes | None]:
        """The newest remembered row for each id, or None."""
        now, keep_s = self._clock.monotonic(), self._keeps[view].keep_s
        if self._waiting:
            with self._lock:
                self._settle()
        live = [g.rows for g in self._generations[view] if now - g.begun < keep_s]
        if not live:
            return [None] * len(ids)
        found: list[bytes | None] = list(map(live[0].get, ids))
        for rows in live[1:]:
            if None not in found:
                break
            found = [blob if blob is not None else rows.get(key) for key, blob in zip(ids, found, strict=True)]
        return found

    def evidence(self, view: str, ids: Sequence[bytes]) -> list[bytes | None]:
        """As `find`, and the rows that are kept aside."""
        found, aside = self.find(view, ids), self._aside[view]
        if not aside:
            return found
        oldest = self._clock.monotonic() - self._aside_s
        for place, key in enumerate(ids):
            if found[place] is None and (kept := aside.get(key)) is not None and kept[1] > oldest:
                found[place] = kept[0]
        return found

    def keep_s(self, view: str) -> float:
        """How long a row of a stored view is kept."""
        return self._keeps[view].keep_s

    def renew(self) -> None:
        """All is new to whoever takes it next."""
        with self._lock:
            self._settle()
            for generations in self._generations.values():
                for generation in generations:
                    generation.is_new = True

    def take(self, view: str) -> list[Taken]:
        """Every live generation, newest first; what is new in them is new no more."""
        now, keep_s = self._clock.monotonic(), self._keeps[view].keep_s
        with self._lock:
            self._settle()
            live = [g for g in self._generations[view] if now - g.begun < keep_s]
            taken = [Taken(g.number, g.begun, dict(g.rows) if g.is_new else {}, g.is_new) for g in live]
            for generation in live:
                generation.is_new = False
        return taken

    def give(self, view: str, begun: float, rows: dict[bytes, bytes]) -> None:
        """Take back a generation that began then (monotonic seconds), as far as there is room for it; not what was
        deleted since. What is here already, or was given before, hides it, whatever their dates."""
        keep = self._keeps[view]
        with self._lock:
            self._settle()
            kept = dict(islice(self._not_buried(view, rows.items()), self._most(keep)))
            size = _size(kept)
            had = self._generations[view]
            fits = sum(len(g.rows) for g in had) + len(kept) <= keep.max_rows
            fits &= sum(g.size for g in had) + size <= MOST_BYTES and len(had) < GENERATIONS
            if kept and fits:
                self._generations[view] = (*had, _Generation(begun, kept, size=size))

    def size(self, view: str) -> int:
        """How many entries are held; a row read over a long time may count in several generations."""
        with self._lock:
            self._settle()
        return sum(len(generation.rows) for generation in self._generations[view])

    def _newest(self, view: str, keep: Keep, now: float) -> _Generation | None:
        """The generation to write to, or None if it is full or over-aged."""
        generations = self._generations[view]
        if not generations:
            return None
        newest = generations[0]
        is_spent = len(newest.rows) >= self._most(keep) or now - newest.begun >= keep.keep_s / GENERATIONS
        is_spent |= newest.size >= MOST_BYTES // GENERATIONS
        return None if is_spent else newest

    def _opened(self, view: str, keep: Keep, now: float) -> _Generation:
        """A new generation to write to; the oldest go, so that it has room."""
        live = [g for g in self._generations[view] if now - g.begun < keep.keep_s][: GENERATIONS - 1]
        most_bytes = MOST_BYTES - MOST_BYTES // GENERATIONS
        while live and (
            sum(len(g.rows) for g in live) > keep.max_rows - self._most(keep) or sum(g.size for g in live) > most_bytes
        ):
            live.pop()
        self._generations[view] = (_Generation(now, {}), *live)
        self._turn += 1
        return self._generations[view][0]

    @staticmethod
    def _most(keep: Keep) -> int:
        """How many rows one generation may hold."""
        return max(1, keep.max_rows // GENERATIONS)


def _within(generations: Iterable[_Generation], most: int) -> Iterator[_Generation]:
    """The newest of these rows, as many as are allowed."""
    for generation in generations:
        if most <= 0:
            return
        if len(generation.rows) > most:
            rows = dict(islice(generation.rows.items(), most))
            generation = _Generation(generation.begun, rows, size=_size(rows))  # noqa: PLW2901 - a shorter one
        most -= len(generation.rows)
        yield generation


def _size(rows: dict[bytes, bytes]) -> int:
    return sum(map(len, rows)) + sum(map(len, rows.values())) + _ENTRY_BYTES * len(rows)


def _shortened(entries: dict[bytes, T], most: int, is_over: Callable[[T], bool]) -> None:
    """Drop the first, which are the oldest, while they are over or there are more than `most`."""
    while entries and (len(entries) > most or is_over(entries[next(iter(entries))])):
        del entries[next(iter(entries))]


def event_time_of(blob: bytes) -> int:
    """The event time in a packed row's header, microseconds."""
    return int(struct.unpack_from("<q", blob, 16)[0])
