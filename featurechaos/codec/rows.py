"""Rows of one layout in packed form, and the columns read out of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.layout import BITMAP_AT, HEADER_BYTES, TIME_AT, Layout, Run, Spot, Words
from featurechaos.codec.tails import cells

Index = NDArray[np.intp] | NDArray[np.bool_] | Sequence[int]


class Rows:
    """n rows of one layout in packed form.

    Attributes:
        layout: of every row here.
        words: uint64 (n, layout.words), the fixed parts; C order, ours to write; of one row, given as None, they are
            made from its blob when they are touched. Rows without a value hold
            `layout.blank`; a buried one keeps its event time. Whoever changes words does it on a `copy()`
            or before a column was read, since columns are kept once read.
        verdict: one int while all rows agree, else uint8 (n,): FRESH (intact), MISSING, BURIED, CORRUPT here;
            layers judge ages later.
        blobs: the bytes each row came as, while every row is intact and of this layout; else None.
    """

    __slots__ = ("_event_time", "_tails", "_words", "blobs", "layout", "oldest", "ready", "verdict")

    def __init__(  # noqa: PLR0917 - it is called with every row, and keywords cost
        self,
        layout: Layout,
        words: Words | None,
        verdict: int | NDArray[np.uint8],
        blobs: Sequence[bytes] | None = None,
        tails: list[bytes] | None = None,
        oldest: int | None = None,
    ) -> None:
        self.layout, self._words, self.verdict, self.blobs = layout, words, verdict, blobs
        self._tails = tails
        self._event_time: NDArray[np.int64] | None = None
        self.oldest = oldest
        """The smallest event time of rows as they came, us, where somebody has looked."""
        self.ready: dict[Run | None, list[NDArray[Any]]] = {}
        """Columns read so far, by run; the nulls of every feature under None."""

    @classmethod
    def blank(cls, layout: Layout, n: int, verdict: int) -> Rows:
        """n rows without a value, all of one verdict."""
        words = np.empty((n, layout.words), np.uint64)
        words[...] = layout.blank
        return cls(layout, words, int(verdict), tails=[b""] * n if layout.has_tail else None)

    @property
    def words(self) -> Words:
        if self._words is None:
            assert self.blobs is not None
            self._words = np.frombuffer(bytearray(self.blobs[0]), np.uint64).reshape(1, -1)
        return self._words

    @property
    def single(self) -> bytes | None:
        """The bytes of a row that is still as it came by itself."""
        return self.blobs[0] if self._words is None and self.blobs is not None else None

    def __len__(self) -> int:
        return 1 if self._words is None else len(self._words)

    def __repr__(self) -> str:
        return f"<Rows {len(self)} of {self.layout!r}>"

    @property
    def event_time(self) -> NDArray[np.int64]:
        """int64 us (n,), a view of the rows; NO_TIME_US where there is no value."""
        if self._event_time is None:
            self._event_time = self.words.view(np.int64)[:, TIME_AT]
        return self._event_time

    @property
    def times(self) -> int | bytes:
        """The event times by themselves, us: of a single row as it came, or int64 of all."""
        return self.oldest if self._words is None and self.oldest is not None else self.event_time.tobytes()

    @property
    def verdicts(self) -> NDArray[np.uint8]:
        """uint8 (n,), whether or not all rows agree."""
        if isinstance(self.verdict, int):
            return np.full(len(self.words), self.verdict, np.uint8)
        return self.verdict

    @property
    def tails(self) -> list[bytes] | None:
        """None unless the layout has a tail; then n bytes (ends and values; b"" for rows without a value)."""
        if self._tails is None and self.layout.has_tail and self.blobs is not None:
            at = 8 * self.layout.words
            self._tails = [blob[at:] for blob in self.blobs]
        return self._tails

    @tails.setter
    def tails(self, tails: list[bytes] | None) -> None:
        self._tails = tails

    def take(self, index: Index) -> Rows:
        """Some of the rows, in the order asked, repeats included; a copy."""
        places = _places(index)
        verdict = self.verdict if isinstance(self.verdict, int) else self.verdict[places]
        tails, blobs = self._tails, self.blobs
        return Rows(
            self.layout,
            self.words[places],
            verdict,
            blobs=None if blobs is None else [blobs[place] for place in places.tolist()],
            tails=None if tails is None else [tails[place] for place in places.tolist()],
        )

    def copy(self) -> Rows:
        """The same rows in words of their own, to be changed: without blobs, which would no longer match."""
        verdict = self.verdict if isinstance(self.verdict, int) else self.verdict.copy()
        tails = self.tails
        return Rows(self.layout, self.words.copy(), verdict, tails=None if tails is None else tails.copy())

    def put(self, index: Index, other: Rows, other_index: Index) -> None:
        """Replace rows `index` by `other`'s rows `other_index`, verdicts too; both are of one layout."""
        if self.layout != other.layout:
            raise ValueError(f"rows of {self.layout!r} can't take rows of {other.layout!r}")
        places, others = _places(index), _places(other_index)
        tails, other_tails = self.tails, other.tails
        if tails is not None and other_tails is not None:
            for place, there in zip(places.tolist(), others.tolist(), strict=True):
                tails[place] = other_tails[there]
        self.words[places] = other.words[others]
        if not isinstance(self.verdict, int) or not isinstance(other.verdict, int) or self.verdict != other.verdict:
            verdicts = self.verdicts
            verdicts[places] = other.verdicts[others]
            self.verdict = verdicts
        self.blobs = None
        self.ready = {}

    def clear(self, places: NDArray[np.intp]) -> None:
        """Leave some rows without a value; their verdicts stay."""
        self.words[places] = self.layout.blank
        if (tails := self.tails) is not None:
            for place in places.tolist():
                tails[place] = b""
        self.blobs = None
        self.ready = {}


def column(rows: Rows, feature: str) -> NDArray[Any]:
    """One feature's values, (n,) or (n, dim), dtype as declared, C order, ours to write.

    A null cell, and a row without a value, is NaN, NaT, 0, False or None.
    Values of string, bytes and lists come in an object array of str, bytes and Python lists (of Python
    numbers, or of datetime64[us] for timestamps). Asking again gives the same array.
    """
    return columns(rows, feature)[rows.layout.spots[feature].at]


def columns(rows: Rows, feature: str) -> list[NDArray[Any]]:
    """The values of a feature and of those it is read together with, its run, in the run's order; see `column`."""
    spot = rows.layout.spots[feature]
    ready = rows.ready.get(spot.run)
    if ready is None:
        ready = rows.ready[spot.run] = _read(rows, spot)
    return ready


def nulls(rows: Rows, feature: str) -> NDArray[np.bool_]:
    """bool (n,), ours to write: True where the feature is null or the row has no value."""
    bit = rows.layout.spots[feature].bit
    ready = rows.ready.get(None)
    if ready is None:
        ready = rows.ready[None] = _bits(rows)
    return ready[bit] if ready else np.zeros(len(rows.words), np.bool_)


def _read(rows: Rows, spot: Spot) -> list[NDArray[Any]]:
    """Every column of a feature's run: one strided copy for all of its scalars.

    `islice`, since an array that is iterated to its end makes up an IndexError: a tenth of what 20 columns cost.
    """
    run = spot.run
    if (kind := run.dtype.kind) == "O":
        return [_tail_column(rows, spot)]
    if kind == "b":
        # Any byte but 0 is True: an intact row of another writer may hold a byte numpy has no name for.
        return list(np.ascontiguousarray(rows.words.view(np.uint8)[:, run.at : run.stop].T) != 0)
    if rows._words is None and rows.blobs is not None:  # noqa: SLF001 - as `single`, without a call
        # The constructor: after a round trip half of what `frombuffer` and `reshape` cost.
        block = np.ndarray(run.shape, run.dtype, bytearray(rows.blobs[0][run.span]))
        return [block] if run.dim else list(islice(block, run.count))
    block = rows.words.view(run.dtype)[:, run.at : run.stop]
    # `copy` and not `ascontiguousarray`, which would hand out a view of one row's words.
    return [block.copy("C")] if run.dim else list(islice(block.T.copy("C"), run.count))


def _bits(rows: Rows) -> list[NDArray[Any]]:
    """bool (n,) for every feature in declared order; empty when nothing is null."""
    layout = rows.layout
    bitmap = rows.words[:, BITMAP_AT : BITMAP_AT + layout.bitmap_words]
    if not bitmap.any():
        return []
    packed = rows.words.view(np.uint8)[:, HEADER_BYTES : HEADER_BYTES + 8 * layout.bitmap_words]
    bits = np.unpackbits(packed, axis=1, bitorder="little", count=len(layout.features))
    return list(bits.T.copy("C").view(np.bool_))


def _tail_column(rows: Rows, spot: Spot) -> NDArray[Any]:
    tails = rows.tails
    if tails is None:
        raise ValueError(f"rows of {rows.layout!r} have lost their tails")
    return cells(tails, spot.run.at, layout=rows.layout, nulls=nulls(rows, spot.feature.name))


def _places(index: Index) -> NDArray[np.intp]:
    places = np.asarray(index)
    return places.nonzero()[0] if places.dtype == np.bool_ else places.astype(np.intp, copy=False)
