"""What was written is what is read: every dtype, every extreme, null where null."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import column, decode, encode, nulls, pack, seal
from featurechaos.model import Verdict

NAIVE = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))  # noqa: DTZ001 -- naive is UTC
FLOATS = st.floats(allow_nan=False)
SINGLES = st.floats(width=32, allow_nan=False)
INT32, INT64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)

CELLS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int32": st.one_of(st.sampled_from([-(2**31), 2**31 - 1, 0]), INT32),
    "int64": st.one_of(st.sampled_from([-(2**63), 2**63 - 1, 0]), INT64),
    "float32": st.one_of(st.sampled_from([math.inf, -math.inf, -0.0, 2.0**-149]), SINGLES),
    "float64": st.one_of(st.sampled_from([math.inf, -math.inf, -0.0, 5e-324]), FLOATS),
    "timestamp": NAIVE,
    "string": st.one_of(st.just(""), TEXT),
    "bytes": st.binary(max_size=12),
    "float32[3]": st.lists(st.one_of(st.just(math.nan), SINGLES), min_size=3, max_size=3),
    "float64[2]": st.lists(FLOATS, min_size=2, max_size=2),
    "int32[2]": st.lists(INT32, min_size=2, max_size=2),
    "int64[1]": st.lists(INT64, min_size=1, max_size=1),
    "list[bool]": st.lists(st.booleans(), max_size=4),
    "list[int32]": st.lists(INT32, max_size=4),
    "list[int64]": st.lists(INT64, max_size=4),
    "list[float32]": st.lists(st.one_of(st.just(math.nan), SINGLES), max_size=4),
    "list[float64]": st.lists(FLOATS, max_size=4),
    "list[timestamp]": st.lists(NAIVE, max_size=3),
    "list[string]": st.lists(TEXT, max_size=4),
    "list[bytes]": st.lists(st.binary(max_size=6), max_size=4),
}
ZERO = {"b": False, "i": 0, "f": math.nan, "M": np.datetime64("NaT", "us"), "O": None}


def same(got: Any, wanted: Any) -> bool:
    """Equal to the bit: NaN equals NaN, and -0.0 isn't 0.0."""
    if isinstance(wanted, (list, tuple)):
        return len(got) == len(wanted) and all(map(same, got, wanted))
    if isinstance(wanted, float):
        return (math.isnan(got) and math.isnan(wanted)) or (
            float(got) == wanted and math.copysign(1, got) == math.copysign(1, wanted)
        )
    if isinstance(wanted, np.datetime64):
        return bool(got == wanted or (np.isnat(got) and np.isnat(wanted)))
    if isinstance(wanted, dt.datetime):
        return bool(got == np.datetime64(wanted, "us"))
    return bool(got == wanted)


@given(data=st.data())
def test_every_dtype_round_trips_with_nulls(layout_of: Any, own_of: Any, data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=12))
    n = data.draw(st.integers(0, 5))
    features = {f"f{k}": dtype for k, dtype in enumerate(dtypes)}
    columns = {
        name: data.draw(st.lists(st.none() | CELLS[dtype], min_size=n, max_size=n), label=dtype)
        for name, dtype in features.items()
    }
    times = np.array(data.draw(st.lists(INT64, min_size=n, max_size=n)), np.int64)
    layout = layout_of(features)

    blobs = encode(layout, columns, times, own_of(n))
    rows, unknown = decode(blobs, own_of(n), layout)

    assert (rows.verdict, unknown, rows.blobs) == (Verdict.FRESH, frozenset(), blobs)
    assert rows.event_time.tolist() == times.tolist()
    assert all(len(blob) % 8 == 0 for blob in blobs)
    for name, wanted in columns.items():
        dtype = layout.spots[name].feature.dtype
        got = column(rows, name)
        assert got.dtype == dtype.numpy
        assert got.shape == ((n,) if dtype.dim is None else (n, dtype.dim))
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert nulls(rows, name).tolist() == [value is None for value in wanted]
        null = [ZERO[dtype.numpy.kind]] * (dtype.dim or 1)
        for cell, value in zip(got, wanted, strict=True):
            if value is not None:
                assert same(cell, value)
            else:
                assert same(cell, null if dtype.dim else null[0])
    assert seal(rows, own_of(n)) == blobs
    repacked = pack(
        layout,
        {name: column(rows, name) for name in features},
        {name: nulls(rows, name) for name in features},
        times,
        own_of(n),
        rows.verdicts,
    )
    assert seal(repacked, own_of(n)) == blobs


@pytest.mark.parametrize("n", [1, 2, 70])
def test_more_features_than_bits_in_a_word(layout_of: Any, own_of: Any, n: int) -> None:
    features = {f"f{k:03}": ("bool", "int32", "float64")[k % 3] for k in range(130)}
    columns = {
        name: [None if (k * 7 + row) % 5 == 0 else (k + row) % 2 for row in range(n)] for k, name in enumerate(features)
    }
    layout = layout_of(features)

    rows, _ = decode(encode(layout, columns, np.arange(n), own_of(n)), own_of(n), layout)

    for name, wanted in columns.items():
        assert nulls(rows, name).tolist() == [value is None for value in wanted]
        known = [cell for cell, value in zip(column(rows, name), wanted, strict=True) if value is not None]
        assert known == [value for value in wanted if value is not None]


def test_columns_are_apart_from_one_another_and_from_the_rows(layout_of: Any, own_of: Any) -> None:
    features = {"a": "float32", "b": "float32", "v": "float32[2]", "flag": "bool"}
    layout = layout_of(features)
    for n in (1, 3):
        columns = {"a": np.ones(n), "b": np.ones(n), "v": np.ones((n, 2)), "flag": np.ones(n)}
        rows, _ = decode(encode(layout, columns, np.arange(n), own_of(n)), own_of(n), layout)
        before = rows.words.copy()

        for name in ("a", "v", "flag"):
            column(rows, name)[...] = 0
            nulls(rows, name)[...] = True

        assert column(rows, "b").tolist() == [1.0] * n
        assert not nulls(rows, "b").any()
        assert (rows.words == before).all()
        assert column(rows, "a") is column(rows, "a")


def test_a_value_no_one_asked_about_costs_nothing(layout_of: Any, own_of: Any) -> None:
    layout = layout_of({"x": "int32"})
    columns = {"x": [1, 2], "tail_number": object(), "event_timestamp": None}

    rows, _ = decode(encode(layout, columns, np.zeros(2, np.int64), own_of(2)), own_of(2), layout)

    assert column(rows, "x").tolist() == [1, 2]


def test_pack_blanks_what_has_no_value(layout_of: Any, own_of: Any) -> None:
    layout = layout_of({"x": "float64", "name": "string", "extra": "int64"})
    verdict = np.array([Verdict.FRESH, Verdict.MISSING, Verdict.PARTIAL, Verdict.BURIED, Verdict.CORRUPT], np.uint8)
    values = {"x": np.arange(5.0), "name": np.array(["a", "b", "c", "d", "e"], object)}
    gone = {"name": np.array([False, False, True, False, False])}

    rows = pack(layout, values, gone, np.arange(5) + 7, own_of(5), verdict)

    assert rows.verdicts.tolist() == verdict.tolist()
    assert rows.event_time.tolist()[0::2][:2] == [7, 9]
    assert rows.event_time[3] == 10
    assert (rows.event_time[[1, 4]] < 0).all()
    assert nulls(rows, "x").tolist() == [False, True, False, True, True]
    assert nulls(rows, "extra").all()
    assert column(rows, "name").tolist() == ["a", None, None, None, None]
    again, _ = decode(seal(rows.take([0, 2, 3]), own_of(5)[[0, 2, 3]]), own_of(5)[[0, 2, 3]], layout)
    assert again.verdicts.tolist() == [Verdict.FRESH, Verdict.FRESH, Verdict.BURIED]


def test_pack_gives_up_a_row_that_is_too_long(layout_of: Any, own_of: Any) -> None:
    layout = layout_of({"raw": "bytes"})
    values = {"raw": np.array([b"x", bytes(70_000)], object)}

    rows = pack(layout, values, {}, np.arange(2), own_of(2), np.full(2, Verdict.FRESH, np.uint8))

    assert rows.verdicts.tolist() == [Verdict.FRESH, Verdict.CORRUPT]
    assert column(rows, "raw").tolist() == [b"x", None]
