"""The rows an online source last gave us, kept for the day it gives none.

Generations: per view at most `_GENERATIONS` dicts of id -> row, newest first, swapped whole. A row seen again
while its dict is the newest is not written again: that is what keeps a healthy read cheap. So a row is
kept between 7/8 of `keep_s` and `keep_s` after it was last read, and the value served may be that much
older than the last one seen; its age says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from featurechaos.clock import Clock
from featurechaos.locks import Locked

_GENERATIONS = 8


@dataclass(frozen=True, slots=True)
class Keep:
    """How long and how much one view is remembered; the config's `last_known`."""

    keep_s: float = 900.0
    max_rows: int = 200_000


@dataclass(frozen=True, slots=True)
class _Generation:
    begun: float
    rows: dict[bytes, bytes]


class LastKnown(Locked):
    """Rows of every view by id; bounded in rows and in time, so in bytes (a row has a longest length)."""

    def __init__(self, clock: Clock, keeps: dict[str, Keep]) -> None:
        super().__init__()
        self._clock, self._keeps = clock, keeps
        self._generations: dict[str, tuple[_Generation, ...]] = dict.fromkeys(keeps, ())

    def keep(self, view: str, ids: Sequence[bytes], blobs: Sequence[bytes]) -> None:
        """Remember rows just read; of more than the bound allows, the first."""
        keep, now = self._keeps[view], self._clock.monotonic()
        newest = self._newest(view, keep, now)
        if newest is not None and all(map(newest.__contains__, ids)):
            return
        rows = islice(zip(ids, blobs, strict=True), keep.max_rows)
        with self._lock:
            while row := next(rows, None):  # at most `max_rows` turns: each takes a row
                newest = self._newest(view, keep, now)
                if newest is None:
                    newest = self._opened(view, keep, now)
                newest.update([row])
                newest.update(islice(rows, self._most(keep) - len(newest)))

    def forget(self, view: str, ids: Sequence[bytes]) -> None:
        """Drop rows: an online source says they do not exist, or they have just been written."""
        for generation in self._generations[view]:
            for key in ids:
                generation.rows.pop(key, None)

    def find(self, view: str, ids: Sequence[bytes]) -> list[bytes | None]:
        """The newest remembered row for each id, or None."""
        now, keep_s = self._clock.monotonic(), self._keeps[view].keep_s
        live = [g.rows for g in self._generations[view] if now - g.begun < keep_s]
        if not live:
            return [None] * len(ids)
        found: list[bytes | None] = list(map(live[0].get, ids))
        for rows in live[1:]:
            if None not in found:
                break
            found = [blob if blob is not None else rows.get(key) for key, blob in zip(ids, found, strict=True)]
        return found

    def size(self, view: str) -> int:
        """How many entries are held; a row read over a long time may count in several generations."""
        return sum(len(generation.rows) for generation in self._generations[view])

    def _newest(self, view: str, keep: Keep, now: float) -> dict[bytes, bytes] | None:
        """The dict to write to, or None if it is full or over-aged."""
        generations = self._generations[view]
        if not generations:
            return None
        newest = generations[0]
        is_spent = len(newest.rows) >= self._most(keep) or now - newest.begun >= keep.keep_s / _GENERATIONS
        return None if is_spent else newest.rows

    def _opened(self, view: str, keep: Keep, now: float) -> dict[bytes, bytes]:
        """A new dict to write to; the oldest go, so that it has room."""
        live = [g for g in self._generations[view] if now - g.begun < keep.keep_s][: _GENERATIONS - 1]
        while live and sum(len(g.rows) for g in live) > keep.max_rows - self._most(keep):
            live.pop()
        self._generations[view] = (_Generation(now, {}), *live)
        return self._generations[view][0].rows

    @staticmethod
    def _most(keep: Keep) -> int:
        """How many rows one generation may hold."""
        return max(1, keep.max_rows // _GENERATIONS)
