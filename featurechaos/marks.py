"""Which of many keys have been met: a few calls and one cache line a key, where a set of bytes takes three."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEAST, _MOST = 1 << 12, 1 << 18
_GROWN, _FULL = 32, 8
"""Places a key, after the table has grown and when it grows again."""

Hashes = NDArray[np.uint64]
"""uint64 (n,), as `Keys.own`: one a key."""


class Marks:
    """Hashes of keys, each in the one place it may have; a key is strange again once another has taken its place.

    Bounded at 2 MiB, whatever is marked. `strange` may be asked at any time; the rest wants its holder's lock.
    """

    __slots__ = ("_table",)

    def __init__(self) -> None:
        self._table = _blank(_LEAST)

    def strange(self, own: Hashes) -> list[int]:
        """Where among these those are that are not marked."""
        table, mask = self._table
        found = table.take(own.view(np.int64) & mask)
        if found.tobytes() == own.tobytes():
            return []
        places: list[int] = (found != own).nonzero()[0].tolist()
        return places

    def add(self, own: Hashes, *, keys: int) -> None:
        """Mark these, of `keys` in all: a table too small for so many is begun anew."""
        size = len(self._table[0])
        if _FULL * keys > size and size < _MOST:
            self._table = _blank(min(_MOST, 1 << (_GROWN * keys).bit_length()))
        table, mask = self._table
        table[own.view(np.int64) & mask] = own

    def drop(self, own: Hashes) -> None:
        """Mark these no longer."""
        table, mask = self._table
        places = own.view(np.int64) & mask
        table[places] = ~places.view(np.uint64)


def _blank(size: int) -> tuple[Hashes, np.int64]:
    """A table in which nothing is marked, for each place holds what belongs in another; and its mask."""
    return ~np.arange(size, dtype=np.uint64), np.int64(size - 1)
