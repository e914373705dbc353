"""Replies of which every row is there and as long as its view's rows are: cut up where one knows the cuts to be.

A parser makes an object of each row, which is most of what a reply of hundreds costs; of one row it is the way there.
Anything else is the parser's: a row that is missing or of another length, an error, a reply that comes in small pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from featurechaos.codec import Packed
from featurechaos.stores import Ask

LEAST = 32
"""Rows a view: of fewer the parser is done sooner than numpy, of 16 by a microsecond or two."""
_END = b"\r\n"


class Whole(Protocol):
    """What an MGET's reply is like if it is whole: `size` bytes."""

    size: int

    def cut(self, data: bytes | bytearray) -> list[Any] | None:
        """The rows in the first `size` bytes, one after another or, packed, ask by ask; None if they aren't whole."""

    def begins(self, data: bytes | bytearray, size: int) -> bool:
        """Whether the first `size` bytes, fewer than all, are a beginning that is worth waiting for the rest of.

        Then the rest is still to come, whatever it is: no reply of so many rows ends there.
        """


class Single:
    """The reply to one key."""

    __slots__ = ("_begin", "_first", "size")

    def __init__(self, width: int) -> None:
        self._begin = b"*1\r\n$%d\r\n" % width
        self._first = len(self._begin)
        self.size = self._first + width + len(_END)

    def cut(self, data: bytes | bytearray) -> list[bytes] | None:
        return [bytes(data[self._first : self.size - 2])] if data.startswith(self._begin) else None

    def begins(self, data: bytes | bytearray, size: int) -> bool:
        return False


class Bulk:
    """How values of one length follow one another: `gap` between two of them, `stride` from one to the next."""

    __slots__ = ("begin", "gap", "gaps", "stride", "width")

    def __init__(self, width: int) -> None:
        self.width, self.begin = width, b"$%d\r\n" % width
        self.gap = _END + self.begin
        self.gaps = np.dtype(f"V{len(self.gap)}")
        self.stride = width + len(self.gap)

    def follow(self, data: bytes | bytearray, at: int, n: int) -> bool:
        """Whether `n` such values stand there, at least one."""
        first = at + len(self.begin)
        if data[at:first] != self.begin:
            return False
        gaps = np.ndarray(n - 1, self.gaps, data, first + self.width, (self.stride,))
        return gaps.tobytes() == self.gap * (n - 1)


class Runs:
    """The reply to many keys, view by view."""

    __slots__ = ("_begin", "_runs", "size")

    def __init__(self, asks: Sequence[Ask], count: int) -> None:
        self._begin = b"*%d\r\n" % count
        self.size, self._runs = len(self._begin), []
        for ask in asks:
            n, bulk = len(ask.keys.ids), _bulk(ask.layout.least_bytes)
            self._runs.append((n, bulk))
            self.size += n * bulk.stride

    def cut(self, data: bytes | bytearray) -> list[Packed] | None:
        if not data.startswith(self._begin):
            return None
        found, at = [], len(self._begin)
        for n, bulk in self._runs:
            if not bulk.follow(data, at, n):
                return None
            words = np.ndarray((n, bulk.width >> 3), np.uint64, data, at + len(bulk.begin), (bulk.stride, 8))
            found.append(Packed(words.copy()))  # the buffer takes the next reply
            at += n * bulk.stride
        return found

    def begins(self, data: bytes | bytearray, size: int) -> bool:
        if not data.startswith(self._begin):
            return False
        at = len(self._begin)
        for n, bulk in self._runs:
            came = min(n, (size - at) // bulk.stride)
            if came and not bulk.follow(data, at, came):
                return False
            at += came * bulk.stride
            if came < n:
                return bulk.begin.startswith(data[at : min(size, at + len(bulk.begin))])
        return False


_single, _bulk = lru_cache(maxsize=1024)(Single), lru_cache(maxsize=1024)(Bulk)


def whole(asks: Sequence[Ask], count: int) -> Whole | None:
    """The whole reply to some asks of `count` rows, where it is known how long each is, and worth knowing."""
    if count == 1 and len(asks) == 1:
        layout = asks[0].layout
        return None if layout.has_tail else _single(layout.least_bytes)
    if count < LEAST * len(asks):
        return None
    for ask in asks:
        if ask.layout.has_tail or not ask.keys.ids:
            return None
    return Runs(asks, count)
