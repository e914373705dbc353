"""The first pass over an image: the keys and event times, and where each row belongs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from featurechaos.codec import encode_keys
from featurechaos.errors import RequestError
from featurechaos.model import JoinKey
from featurechaos_s3.table import EVENT_TIME, fitted, plain, times_us

if TYPE_CHECKING:
    from featurechaos.codec import Keys


_RANGE_ROWS = 4_000_000


@dataclass(slots=True)
class Order:
    """Keys of an image's n rows in the order they came; file-backed, so that memory can be taken back.

    own, slots: uint64 (n,), as in `Keys`; times: int64 us (n,); place: int64 (n,), a row's place in a
    replica sorted by slot, or -1 for an older row of a key that comes again; kept: how many have one.
    """

    own: NDArray[np.uint64]
    slots: NDArray[np.uint64]
    times: NDArray[np.int64]
    place: NDArray[np.int64]
    kept: int = 0


def arrange(
    batches: Iterable[pa.RecordBatch], join_keys: tuple[JoinKey, ...], place: str, *, rows: int, scratch: Path
) -> Order:
    """Order an image's `rows` rows by slot. Raises RequestError for a null or wrong key or event time."""
    order = Order(
        own=_array(scratch / "own.tmp", rows, np.uint64),
        slots=_array(scratch / "slots.tmp", rows, np.uint64),
        times=_array(scratch / "times.tmp", rows, np.int64),
        place=_array(scratch / "place.tmp", rows, np.int64),
    )
    begin = 0
    for batch in batches:
        keys, inverse = batch_keys(batch, join_keys, place, begin=begin)
        part = slice(begin, begin + len(batch))
        order.own[part] = keys.own if inverse is None else keys.own[inverse]
        order.slots[part] = keys.slots if inverse is None else keys.slots[inverse]
        where = f"{place}, column {EVENT_TIME!r}"
        order.times[part] = times_us(batch[EVENT_TIME], where)
        begin += len(batch)
    if begin != rows:
        msg = f"{place} wants {rows} rows, got {begin}"
        raise RequestError(msg)
    _place(order)
    return order


def _array(path: Path, rows: int, dtype: type[np.generic]) -> NDArray[Any]:
    return np.memmap(path, dtype, "w+", shape=(rows,)) if rows else np.empty(0, dtype)


def _place(order: Order) -> None:
    """Sort a range of slots at a time: sorting takes ~24 bytes of memory for each row it sees."""
    count = len(order.slots)
    order.place[:] = -1
    bits = max(0, (count // _RANGE_ROWS).bit_length())
    for number in range(1 << bits):
        rows = np.arange(count)
        if bits:
            rows = np.flatnonzero(order.slots >> np.uint64(64 - bits) == np.uint64(number))
        newest = rows[_newest_first(order.slots[rows], order.times[rows])]
        order.place[newest] = np.arange(order.kept, order.kept + len(newest))
        order.kept += len(newest)


def _newest_first(slots: NDArray[np.uint64], times: NDArray[np.int64]) -> NDArray[np.intp]:
    """The newest row of each slot, by slot."""
    # Sorted backwards, so that of two rows of one time the one that came later wins, as in a write;
    # `~` turns the order of times round without overflowing.
    order = len(slots) - 1 - np.lexsort((~times[::-1], slots[::-1]))
    arranged = slots[order]
    first = np.ones(len(slots), np.bool_)
    np.not_equal(arranged[1:], arranged[:-1], out=first[1:])
    # Two keys of one 64-bit slot (3e-8 likely among a million) count as one: the newer row stays.
    return order[first]


def batch_keys(
    batch: pa.RecordBatch, join_keys: tuple[JoinKey, ...], place: str, *, begin: int
) -> tuple[Keys, NDArray[np.intp] | None]:
    """The distinct keys of a batch and where each row's is; `begin` numbers its first row in messages."""
    columns: list[Any] = []
    for key in join_keys:
        column = batch[key.name]
        if column.null_count:
            row = begin + pc.index(column.is_null(), pa.scalar(value=True)).as_py()
            msg = f"{place}, join key {key.name!r} wants a value in every row, row {row} has none"
            raise RequestError(msg)
        columns.append(plain(fitted(column, key.dtype, f"{place}, join key {key.name!r}"), key.dtype))
    keys, inverse, _ = encode_keys(join_keys, columns)
    return keys, inverse
