"""Views, asks and rows made in one line, and columns compared to the bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Layout, Packed, Rows, column, encode_keys, encode_tombstones, nulls
from featurechaos.contract.values import NOW_US
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos.stores import Ask, Batch, Block, Columns
from featurechaos.tables import batch_of

PROJECT = "contract"


def view_of(features: Mapping[str, str], keys: Mapping[str, str] | None = None, *, name: str) -> View:
    """A view of the suite's project; the key of one is `k`, an int64."""
    joins = tuple(JoinKey(key, DType.parse(kind), key) for key, kind in (keys or {"k": "int64"}).items())
    return View(PROJECT, name, name, joins, tuple(Feature(one, DType.parse(kind)) for one, kind in features.items()))


def ask_of(view: View, *columns: Any) -> Ask:
    """An ask for distinct keys, one column a join key."""
    keys, inverse, gone = encode_keys(view.join_keys, [each if len(each) != 1 else list(each) for each in columns])
    assert inverse is None, "an ask's keys are distinct"
    assert gone is None, "an ask's keys are not null"
    return Ask(view, Layout.of(view), keys)


def expected(values: Any, dtype: DType) -> tuple[list[bytes | None], NDArray[np.bool_]]:
    """What a column should hold, as bytes to compare by (-0.0 is not 0.0), and which cells are null."""
    absent = np.array([value is None or (isinstance(value, np.datetime64) and np.isnat(value)) for value in values])
    return [None if gone else exact(value, dtype) for value, gone in zip(values, absent, strict=True)], absent


def held(rows: Rows, feature: str) -> tuple[list[bytes | None], NDArray[np.bool_]]:
    """What a column does hold, in the same form."""
    dtype, absent = rows.layout.spots[feature].feature.dtype, nulls(rows, feature)
    values = column(rows, feature)
    return [None if gone else exact(value, dtype) for value, gone in zip(values, absent, strict=True)], absent


def exact(value: Any, dtype: DType) -> bytes:
    if dtype.element.kind == "O":
        return repr(value).encode()
    return np.asarray(value, dtype.element).tobytes()


def blobs(view: View, keys: Sequence[int], *, begin: int = 0) -> list[bytes]:
    return batch(view, keys, NOW_US, begin=begin).blobs


def batch(view: View, keys: Sequence[int], time_us: Any, *, begin: int = 0) -> Batch:
    """Rows to write; feature `f` counts up from `begin`, strings are short."""
    n = len(keys)
    table: dict[str, Any] = {"k": list(keys), "event_timestamp": times(time_us, n).view("M8[us]")}
    for feature in view.features:
        table[feature.name] = ["text"] * n if feature.dtype.base == "string" else list(range(begin, begin + n))
    return batch_of(view, Layout.of(view), table, wall_us=2**62)


def tombstones(view: View, keys: Sequence[int], time_us: int) -> Batch:
    ask = ask_of(view, list(keys))
    event_time = times(time_us, len(keys))
    return Batch(ask, encode_tombstones(ask.layout, event_time, ask.keys.own), event_time)


def times(time_us: Any, n: int) -> NDArray[np.int64]:
    return np.broadcast_to(np.asarray(time_us, np.int64), (n,)).copy()


def damaged(blob: bytes, how: str) -> bytes:
    if how == "flipped":
        return blob[:-9] + bytes([blob[-9] ^ 16]) + blob[-8:]
    made = {
        "foreign": b'{"f": 1}' * 8,
        "empty": b"",
        "short": b"x",
        "long": blob + bytes(8),
        "truncated": blob[:-8],
        "magic": b"\x00" + blob[1:],
    }
    return made[how]


def spoil(answer: Any) -> None:
    """Write over an answer, as its owner may."""
    if isinstance(answer, Packed):
        answer.words[...] = 0
    elif isinstance(answer, Block):
        answer.words[...] = 0
        answer.found[...] = False
    elif isinstance(answer, Columns):
        for values in answer.values.values():
            values[...] = 0
    else:
        answer[:] = [None] * len(answer)
