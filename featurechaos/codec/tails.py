"""The variable part of a row: u32 ends, then values.

A list of fixed-width elements is their bytes. A list of strings or bytes is a u32 count, a u32 end each
(relative to the first byte after the ends), then their bytes; no bytes at all is an empty list.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import pairwise
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


def sound(layout: Layout, blobs: Sequence[bytes], words: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """bool (n,): whether every value of each row's tail can be read without looking again.

    Args:
        words: uint32 (n, ..), the rows padded with zeros to the longest; at least `layout.least_bytes` each.
    """
    count, begin = len(layout.variable), 2 * layout.words
    ends = words[:, begin : begin + count].astype(np.int64)
    ok: NDArray[np.bool_] = (ends[:, -1] + (8 * layout.words + layout.ends_bytes + 7)) >> 3 == words[:, 1] >> 3
    sizes = ends
    if count > 1:
        sizes = ends.copy()
        sizes[:, 1:] -= ends[:, :-1]
        ok &= (sizes >= 0).all(axis=1)
    if layout.whole_elements.any():
        ok &= ((sizes & layout.whole_elements) == 0).all(axis=1)
    if layout.has_text:
        # Plain ASCII needs no second look, unless it is the ends of a list inside a value.
        suspects = ok if layout.has_nested else ok & ((words[:, begin + count :] & _HIGH_BITS) != 0).any(axis=1)
        for at in np.flatnonzero(suspects).tolist():
            ok[at] = is_sound(layout, blobs[at][8 * layout.words :])
    return ok


def is_sound(layout: Layout, tail: bytes) -> bool:
    """The same for one row, in plain Python; the tail is at least as long as its ends."""
    size, begin = layout.ends_bytes, 0
    for feature, end in zip(layout.variable, _ends(tail, size), strict=True):
        remainder = feature.dtype.element.itemsize - 1 if feature.dtype.element.kind != "O" else 0
        if end < begin or end > len(tail) - size or (end - begin) & remainder:
            return False
        try:
            _check(feature.dtype, tail[size + begin : size + end])
        except ValueError:
            return False
        begin = end
    return 0 <= len(tail) - size - begin < 8


def _ends(tail: bytes, size: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{size // 4}I", tail)


def cells(tails: list[bytes], at: int, *, layout: Layout, nulls: NDArray[np.bool_]) -> NDArray[Any]:
    """One variable feature's values, an object array (n,); None where null or the row has no value."""
    size, none = layout.ends_bytes, bytes(layout.ends_bytes)
    ends = np.frombuffer(b"".join([tail[:size] or none for tail in tails]), "<u4").reshape(len(tails), size // 4)
    stops = (ends[:, at] + np.uint32(size)).tolist()
    starts = (ends[:, at - 1] + np.uint32(size)).tolist() if at else [size] * len(tails)
    read = _reader(layout.variable[at].dtype)
    values = [read(tail[begin:end]) for tail, begin, end in zip(tails, starts, stops, strict=True)]
    for null in np.flatnonzero(nulls).tolist():
        values[null] = None
    return np.fromiter(values, np.dtype(object), len(values))


def _check(dtype: DType, cell: bytes) -> None:
    """ValueError when the bytes are no such value, their number aside."""
    if dtype.is_list and dtype.element.kind == "O":
        _checked(cell, is_text=dtype.base == "string")
    elif dtype.base == "string":
        cell.decode()


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
        for begin, end in pairwise(ends):
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
    texts = [cell[body + begin : body + end] for begin, end in pairwise(ends)]
    return [text.decode() for text in texts] if is_text else texts
