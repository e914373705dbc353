"""What the writers say was written, made quick to ask: was it ever, and what must a store have had by then?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.model import NO_TIME_US
from tests.nemesis.history import IMAGE, ROW, TOMBSTONE, History, Struck, Table
from tests.nemesis.stored import KEYS

Times = NDArray[np.float64]
Numbers = NDArray[np.int64]
_TIME_BITS = 44
"""Microseconds of a run, its oldest event included: half a year."""
NOWHERE = -1
_SLACK_US = 1000


@dataclass(frozen=True)
class Written:
    """The rows of one kind, sorted by what they are known by and then by when their write began."""

    code: Numbers
    began: Times
    generation: NDArray[np.uint8]
    base_us: int

    @classmethod
    def of(cls, writes: Table, kind: int) -> Written:
        mine = writes[writes["kind"] == kind]
        base_us = int(mine["event_time"].min()) if len(mine) else 0
        code = _codes(mine["view"], mine["key"], mine["event_time"], base_us)
        order = np.lexsort((mine["began"], code))
        return cls(code[order], mine["began"][order], mine["generation"][order], base_us)

    def find(self, rows: Table) -> NDArray[np.intp]:
        """The first write of the row that each claims to be, NOWHERE where nobody wrote such a row."""
        offset = rows["event_time"].astype(np.float64) - self.base_us
        known = (rows["key"] >= 0) & (rows["key"] < KEYS) & (offset >= 0) & (offset < 1 << _TIME_BITS)
        code = np.full(len(rows), NOWHERE, np.int64)
        code[known] = _codes(rows["view"][known], rows["key"][known], rows["event_time"][known], self.base_us)
        at = np.searchsorted(self.code, code)
        hit = known & (at < len(self.code))
        hit[hit] = self.code[at[hit]] == code[hit]
        return np.where(hit, at, NOWHERE)


def _codes(view: Any, key: Any, time_us: Numbers, base_us: int) -> Numbers:
    code: Numbers = ((view.astype(np.int64) * KEYS + key) << _TIME_BITS) + (time_us - base_us)
    return code


@dataclass(frozen=True)
class _Line:
    """What one store must have of one key: when each sure write ended, in which epoch, the newest event so far."""

    ended: Times
    epoch: NDArray[np.intp]
    newest: Numbers
    is_row: NDArray[np.bool_]


class Held:
    """What one online store must have had of each key by a moment, by the writes that it took for certain.

    An epoch ends where the store lost rows: what was written before counts no more, and what was being written then
    is not sure.
    """

    def __init__(self, writes: Table, source: str, losses: Sequence[tuple[float, float]]) -> None:
        self._losses = np.array(sorted(losses), np.float64).reshape(-1, 2)
        mine = writes[writes[source] & ((writes["kind"] == ROW) | (writes["kind"] == TOMBSTONE))]
        epoch = np.searchsorted(self._losses[:, 1], mine["began"], "right")
        begun = np.searchsorted(self._losses[:, 0], mine["ended"], "right")
        sure = epoch == begun
        self._lines = _lines(mine[sure], epoch[sure])
        self._burials = _burials(writes[writes["kind"] == TOMBSTONE])

    def newest(self, rows: Table, began: Times, ended: Times) -> tuple[Numbers, NDArray[np.bool_]]:
        """Of each row: the newest event time that was stored for certain before a read began, and whether there is
        certainly a row; NO_TIME_US where nothing is certain."""
        newest = np.full(len(rows), NO_TIME_US, np.int64)
        is_row = np.zeros(len(rows), bool)
        code = rows["view"].astype(np.int64) * KEYS + rows["key"]
        epoch = np.searchsorted(self._losses[:, 0], ended, "right")
        order = np.argsort(code, kind="stable")
        for begin, end in _runs(code[order]):
            members = order[begin:end]
            line = self._lines.get(int(code[members[0]]))
            if line is None:
                continue
            at = np.searchsorted(line.ended, began[members], "right") - 1
            sure = at >= 0
            sure[sure] = line.epoch[at[sure]] == epoch[members[sure]]
            newest[members[sure]] = line.newest[at[sure]]
            is_row[members[sure]] = line.is_row[at[sure]]
            for burial_began, latest_us in self._burials.get(int(code[members[0]]), ()):
                # On its way while it was read, or given up and perhaps done: then there may be nothing.
                is_row[members] &= ~((burial_began <= ended[members]) & (latest_us >= newest[members]))
        return newest, is_row


def _burials(tombstones: Table) -> dict[int, list[tuple[float, int]]]:
    """Of each key that was ever deleted: when each deletion began, and the latest event time it can have."""
    burials: dict[int, list[tuple[float, int]]] = {}
    for one in tombstones:
        latest_us = int(one["event_time"]) + int(1e6 * (one["ended"] - one["began"])) + _SLACK_US
        burials.setdefault(int(one["view"]) * KEYS + int(one["key"]), []).append((float(one["began"]), latest_us))
    return burials


def _lines(writes: Table, epoch: NDArray[np.intp]) -> dict[int, _Line]:
    code = writes["view"].astype(np.int64) * KEYS + writes["key"]
    order = np.lexsort((writes["ended"], code))
    writes, epoch, code = writes[order], epoch[order], code[order]
    lines = {}
    for begin, end in _runs(code):
        newest, is_row = _newest_so_far(writes[begin:end], epoch[begin:end])
        lines[int(code[begin])] = _Line(writes["ended"][begin:end], epoch[begin:end], newest, is_row)
    return lines


def _runs(ordered: Numbers) -> Iterator[tuple[int, int]]:
    """Where equal numbers stand together, from and to."""
    edges = np.flatnonzero(np.diff(ordered)) + 1
    return pairwise([0, *edges.tolist(), len(ordered)]) if len(ordered) else iter(())


def _newest_so_far(writes: Table, epoch: NDArray[np.intp]) -> tuple[Numbers, NDArray[np.bool_]]:
    newest, is_row = np.empty(len(writes), np.int64), np.empty(len(writes), bool)
    best, best_is_row, current = NO_TIME_US, False, -1
    for at, (time_us, kind, now) in enumerate(
        zip(writes["event_time"].tolist(), writes["kind"].tolist(), epoch.tolist(), strict=True)
    ):
        if now != current:
            best, best_is_row, current = NO_TIME_US, False, now
        if time_us >= best:
            best, best_is_row = time_us, kind == ROW
        newest[at], is_row[at] = best, best_is_row
    return newest, is_row


def losses(strikes: Sequence[Struck], source: str) -> list[tuple[float, float]]:
    """When a store lost rows, or may have."""
    return [
        (one.began, one.gone if one.fault == "evict" else one.healed)
        for one in strikes
        if one.fault in ("empty", "evict") and one.hits(source)
    ]


@dataclass(frozen=True)
class Ledger:
    """Everything the writers say, for one judgment."""

    online: Written
    images: Written
    held: dict[str, Held]

    @classmethod
    def of(cls, history: History) -> Ledger:
        held = {
            source: Held(history.writes, source, losses(history.strikes, source)) for source in ("primary", "replica")
        }
        return cls(
            online=Written.of(history.writes, ROW),
            images=Written.of(history.writes, IMAGE),
            held=held,
        )
