"""The variable part of a row: u32 ends, then values.

A list of fixed-width elements is their bytes. A list of strings or bytes is a u32 count, a u32 end each
(relative to the first byte after the ends), then their bytes; no bytes at all is an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.layout import Layout
from featurechaos.model import DType

_PADS: Final = tuple(bytes(size) for size in range(8))
_HIGH_BITS: Final = np.uint32(0x80808080)


def made(cells: Sequence[list[bytes]], fixed_bytes: int) -> list[bytes]:
    """Tails from the cells of every variable feature, padded so that rows are a multiple of 8 bytes."""
    lengths = np.array([[len(cell) for cell in cells_of] for cells_of in cells], np.int64).T
    ends = np.cumsum(lengths, axis=1)
    size = 4 * len(cells)
    raw = ends.astype("<u4").tobytes()
    pads = (-(fixed_bytes + size + ends[:, -1]) & 7).tolist()
    return [
        b"".join((raw[at * size : (at + 1) * size], *values, _PADS[pad]))
        for at, (values, pad) in enumerate(zip(zip(*cells, strict=True), pads, strict=True))
    ]


def sound(
    layout: Layout, blobs: Sequence[bytes], flat: NDArray[np.uint32], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """bool (n,): whether every value of each tail can be read without looking again.

    Args:
        flat: all rows' 32-bit words, end to end; at least `layout.least_bytes` a row.
        lengths: int64 (n,), bytes of each row.
    """
    count, fixed = len(layout.variable), 2 * layout.words
    stops = np.cumsum(lengths >> 2)
    starts = stops - (lengths >> 2)
    ends = flat[starts[:, None] + np.arange(fixed, fixed + count)].astype(np.int64)
    ok: NDArray[np.bool_] = ((8 * layout.words + layout.ends_bytes + ends[:, -1] + 7) & ~7) == lengths
    sizes = np.diff(ends, axis=1, prepend=0)
    ok &= (sizes >= 0).all(axis=1)
    ok &= ((sizes & _remainders(layout)) == 0).all(axis=1)
    texts = [
        feature.dtype
        for feature in layout.variable
        if feature.dtype.base == "string" or feature.dtype.element.kind == "O"
    ]
    if texts:
        nested = any(dtype.is_list for dtype in texts)
        suspects = ok if nested else ok & _beyond_ascii(flat, starts + fixed + count, stops)
        for at in np.flatnonzero(suspects).tolist():
            ok[at] = _readable(layout, blobs[at][8 * layout.words :], ends[at].tolist())
    return ok


def cells(tails: list[bytes], at: int, *, layout: Layout, nulls: NDArray[np.bool_]) -> NDArray[Any]:
    """One variable feature's values, an object array (n,); None where null or the row has no value."""
    size, none = layout.ends_bytes, bytes(layout.ends_bytes)
    ends = np.frombuffer(b"".join([tail[:size] or none for tail in tails]), "<u4").reshape(len(tails), -1)
    stops = (ends[:, at] + np.uint32(size)).tolist()
    starts = (ends[:, at - 1] + np.uint32(size)).tolist() if at else [size] * len(tails)
    read = _reader(layout.variable[at].dtype)
    values = [read(tail[begin:end]) for tail, begin, end in zip(tails, starts, stops, strict=True)]
    for null in np.flatnonzero(nulls).tolist():
        values[null] = None
    return np.fromiter(values, np.dtype(object), len(values))


def _remainders(layout: Layout) -> NDArray[np.int64]:
    """What must be zero in the size of each feature's values: whole elements only."""
    dtypes = (feature.dtype for feature in layout.variable)
    return np.array(
        [dtype.element.itemsize - 1 if dtype.element.kind != "O" else 0 for dtype in dtypes], np.int64
    )


def _beyond_ascii(
    flat: NDArray[np.uint32], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """bool (n,), True where a row's values hold a byte above 0x7f; sometimes True of a row without values."""
    bounds = np.empty(2 * len(starts), np.int64)
    bounds[0::2], bounds[1::2] = starts, stops
    # The last row may have no values, and nothing after it to point at.
    seen = np.bitwise_or.reduceat(flat, np.minimum(bounds[:-1], len(flat) - 1))[::2]
    return (seen & _HIGH_BITS) != 0


def _readable(layout: Layout, tail: bytes, ends: list[int]) -> bool:
    """Whether every text of one tail, whose ends are in order, can be read."""
    begin = size = layout.ends_bytes
    for feature, end in zip(layout.variable, ends, strict=True):
        try:
            _strict(feature.dtype)(tail[begin : size + end])
        except (ValueError, IndexError):
            return False
        begin = size + end
    return True


def _strict(dtype: DType) -> Callable[[bytes], Any]:
    """A reader that raises ValueError or IndexError for bytes that are no such value."""
    if dtype.is_list and dtype.element.kind == "O":
        return lambda cell: _checked(cell, is_text=dtype.base == "string")
    return bytes.decode if dtype.base == "string" else bytes


def _checked(cell: bytes, *, is_text: bool) -> None:
    if not cell:
        return
    count = int.from_bytes(cell[:4], "little")
    body = 4 + 4 * count
    if len(cell) < body:
        raise ValueError("a list says it has more elements than it has bytes")
    ends = [0, *np.frombuffer(cell, "<u4", count, 4).tolist()]
    if sorted(ends) != ends or body + ends[-1] != len(cell):
        raise ValueError("a list's ends are out of order")
    if is_text:
        for begin, end in zip(ends, ends[1:], strict=False):
            cell[body + begin : body + end].decode()


def _reader(dtype: DType) -> Callable[[bytes], Any]:
    """What turns the bytes of one sound cell into its value."""
    if not dtype.is_list:
        return bytes.decode if dtype.base == "string" else bytes
    if dtype.element.kind == "O":
        return lambda cell: _texts(cell, is_text=dtype.base == "string")
    if dtype.base == "timestamp":
        return lambda cell: list(np.frombuffer(cell, dtype.element))
    if dtype.base == "bool":
        return lambda cell: [byte != 0 for byte in cell]
    return lambda cell: np.frombuffer(cell, dtype.element).tolist()


def _texts(cell: bytes, *, is_text: bool) -> list[Any]:
    if not cell:
        return []
    count = int.from_bytes(cell[:4], "little")
    body = 4 + 4 * count
    ends = [0, *np.frombuffer(cell, "<u4", count, 4).tolist()]
    texts = [cell[body + begin : body + end] for begin, end in zip(ends, ends[1:], strict=False)]
    return [text.decode() for text in texts] if is_text else texts
