"""What may be written to a feature, in every dress, and what is refused."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from featurechaos.codec import MOST_ROW_BYTES, column, decode, encode, nulls
from featurechaos.errors import RequestError

NAN = float("nan")
DAY = dt.datetime(2020, 5, 17, tzinfo=dt.UTC)
US = int(DAY.timestamp()) * 1_000_000


def written(layout_of: Any, own_of: Any, dtype: str, values: Any) -> tuple[list[Any], list[bool]]:
    """One column written and read again: its values, dates as microseconds, and its nulls."""
    layout, n = layout_of({"x": dtype}), len(values)
    rows, _ = decode(encode(layout, {"x": values}, np.arange(n), own_of(n)), own_of(n), layout)
    cells = column(rows, "x")
    return (cells.view(np.int64) if cells.dtype.kind == "M" else cells).tolist(), nulls(rows, "x").tolist()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int32", [3, None, -1]),
        ("int32", [3.0, NAN, -1.0]),
        ("int32", np.array([3, NAN, -1])),
        ("int64", np.ma.array([3, 7, -1], mask=[False, True, False])),
        ("int64", pd.Series([3, None, -1], dtype="Int64")),
        ("int64", pd.Series([3, None, -1], dtype="int64[pyarrow]")),
        ("int64", pd.Series([3, None, -1])),
        ("int64", pd.array([3, None, -1], dtype="Int16")),
        ("int64", pa.array([3, None, -1])),
        ("int64", pa.chunked_array([pa.array([3, None]), pa.array([-1])])),
        ("int64", [Decimal(3), pd.NA, np.int8(-1)]),
        ("int64", np.array([3, None, -1], object)),
        ("int64", (3, np.ma.masked, -1)),
    ],
)
def test_integers(layout_of: Any, own_of: Any, dtype: str, values: Any) -> None:
    assert written(layout_of, own_of, dtype, values) == ([3, 0, -1], [False, True, False])


def test_large_integers_beside_a_null_stay_exact(layout_of: Any, own_of: Any) -> None:
    large = 2**60 + 1
    for values in ([large, None], pa.array([large, None]), pd.Series([large, None], dtype="Int64"), [large, 2.0]):
        assert written(layout_of, own_of, "int64", values)[0][0] == large


@pytest.mark.parametrize(
    "values",
    [
        [1.5, None, -2],
        [1.5, NAN, -2.0],
        np.array([1.5, NAN, -2], np.float16),
        pd.Series([1.5, None, -2.0]),
        pd.Series([1.5, None, -2.0], dtype="Float64"),
        pa.array([1.5, None, -2.0]),
        [Decimal("1.5"), pd.NA, np.float32(-2)],
        np.ma.array([1.5, 8.0, -2.0], mask=[False, True, False]),
        np.array([1.5, NAN, -2], ">f8"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats(layout_of: Any, own_of: Any, dtype: str, values: Any) -> None:
    cells, missing = written(layout_of, own_of, dtype, values)

    assert [cells[0], cells[2]] == [1.5, -2.0]
    assert np.isnan(cells[1])
    assert missing == [False, True, False]


@pytest.mark.parametrize(
    "values",
    [
        [True, None, 0],
        [np.True_, NAN, 0.0],
        np.array([1, NAN, 0]),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Series([True, None, False]),
        pa.array([True, None, False]),
        np.array([True, None, False], object),
    ],
)
def test_bools(layout_of: Any, own_of: Any, values: Any) -> None:
    assert written(layout_of, own_of, "bool", values) == ([True, False, False], [False, True, False])


@pytest.mark.parametrize(
    "values",
    [
        [DAY, None],
        [DAY.replace(tzinfo=None), pd.NaT],
        [DAY.astimezone(dt.timezone(dt.timedelta(hours=-5))), NAN],
        [np.datetime64("2020-05-17"), np.datetime64("NaT")],
        [pd.Timestamp(DAY), None],
        np.array(["2020-05-17", "NaT"], "M8[D]"),
        np.array(["2020-05-17", "NaT"], "M8[ns]"),
        pd.Series([DAY, None]),
        pd.Series([DAY.replace(tzinfo=None), None]),
        pd.Series([DAY, None]).dt.tz_convert("Asia/Tokyo"),
        pa.array([DAY, None]),
        pa.array([DAY, None], pa.timestamp("s", "UTC")),
    ],
)
def test_timestamps(layout_of: Any, own_of: Any, values: Any) -> None:
    assert written(layout_of, own_of, "timestamp", values) == ([US, np.iinfo(np.int64).min], [False, True])


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, ""],
        np.array(["a", None, ""], object),
        pd.Series(["a", None, ""]),
        pd.Series(["a", None, ""], dtype=object),
        pa.array(["a", None, ""]),
        ["a", NAN, np.str_("")],
    ],
)
def test_strings(layout_of: Any, own_of: Any, values: Any) -> None:
    assert written(layout_of, own_of, "string", values) == (["a", None, ""], [False, True, False])


@pytest.mark.parametrize("values", [[b"\0", None], np.array([b"\0", None], object), pa.array([b"\0", None])])
def test_bytes(layout_of: Any, own_of: Any, values: Any) -> None:
    assert written(layout_of, own_of, "bytes", values) == ([b"\0", None], [False, True])


@pytest.mark.parametrize(
    "values",
    [
        [[1, 2], None, [3.0, 4]],
        [np.array([1.0, 2.0]), NAN, (3, 4)],
        pd.Series([[1, 2], None, [3, 4]]),
        pa.array([[1, 2], None, [3, 4]]),
        pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)),
        np.ma.array([[1, 2], [9, 9], [3, 4]], mask=[[False] * 2, [False, True], [False] * 2]),
    ],
)
@pytest.mark.parametrize("dtype", ["float32[2]", "int64[2]"])
def test_vectors(layout_of: Any, own_of: Any, dtype: str, values: Any) -> None:
    cells, missing = written(layout_of, own_of, dtype, values)

    assert [cells[0], cells[2]] == [[1, 2], [3, 4]]
    assert missing == [False, True, False]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1, 2], [3, 4]]),
        np.array([[1, 2], [3, 4]], object),
        np.array([[1.0, 3.0], [2.0, 4.0]]).T,
        pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
        [pd.Series([1, 2]), pa.array([3, 4])],
    ],
)
def test_matrices(layout_of: Any, own_of: Any, values: Any) -> None:
    assert written(layout_of, own_of, "float32[2]", values) == ([[1, 2], [3, 4]], [False, False])


def test_nan_inside_a_vector_stays(layout_of: Any, own_of: Any) -> None:
    for values in ([[NAN, 1.0]], np.array([[NAN, 1.0]]), [np.array([NAN, 1.0])]):
        cells, missing = written(layout_of, own_of, "float32[2]", values)

        assert np.isnan(cells[0][0])
        assert (cells[0][1], missing) == (1.0, [False])


@pytest.mark.parametrize(
    ("dtype", "values", "read"),
    [
        ("list[int64]", [[1, 2], None, []], [[1, 2], None, []]),
        ("list[int64]", pd.Series([[1, 2], None, []]), [[1, 2], None, []]),
        ("list[int64]", pa.array([[1, 2], None, []]), [[1, 2], None, []]),
        ("list[float32]", [np.array([1, 2]), NAN, ()], [[1.0, 2.0], None, []]),
        ("list[float64]", np.array([[1, 2], [3, 4]]), [[1.0, 2.0], [3.0, 4.0]]),
        ("list[bool]", [[True, 0], [np.False_]], [[True, False], [False]]),
        ("list[string]", [["a", ""], [], None], [["a", ""], [], None]),
        ("list[bytes]", [[b"", b"\0"], None], [[b"", b"\0"], None]),
        ("list[timestamp]", [[DAY], None], [[np.datetime64(US, "us")], None]),
        ("list[timestamp]", [np.array([US], "M8[us]"), []], [[np.datetime64(US, "us")], []]),
    ],
)
def test_lists(layout_of: Any, own_of: Any, dtype: str, values: Any, read: list[Any]) -> None:
    cells, missing = written(layout_of, own_of, dtype, values)

    assert cells == read
    assert missing == [cell is None for cell in read]


@pytest.mark.parametrize(
    ("dtype", "bad", "said"),
    [
        ("int32", 2.5, "wants int32, got 2.5"),
        ("int32", 2**31, "wants int32, got 2147483648"),
        ("int64", 2**63, "wants int64, got 9223372036854775808"),
        ("int64", 2.0**63, "wants int64, got 9.2"),
        ("int64", float("inf"), "wants int64, got inf"),
        ("int64", "5", "wants int64, got '5'"),
        ("int64", np.timedelta64(1, "s"), "wants int64, got"),
        ("int64", [1], "wants int64, got [1] (list)"),
        ("float32", 1e300, "wants float32, got 1e+300"),
        ("float64", "1.5", "wants float64, got '1.5'"),
        ("float64", DAY, "wants float64, got"),
        ("bool", 2, "wants bool, got 2"),
        ("bool", "true", "wants bool, got 'true'"),
        ("bool", 0.5, "wants bool, got 0.5"),
        ("timestamp", 1_600_000_000, "wants a datetime, numpy.datetime64 or pandas.Timestamp, got 1600000000"),
        ("timestamp", "2020-01-01", "wants a datetime"),
        ("timestamp", DAY.date(), "wants a datetime"),
        ("timestamp", np.datetime64("400000-01-01", "s"), "wants a datetime"),
        ("string", 5, "wants a str, got 5"),
        ("string", b"x", "wants a str, got b'x'"),
        ("string", "\ud800", "wants a str, got"),
        ("bytes", "x", "wants bytes, got 'x'"),
        ("bytes", bytearray(b"x"), "wants bytes, got"),
        ("float32[2]", [1.0], "wants float32[2], got 1 values"),
        ("float32[2]", [1.0, None], "wants float32[2], got an element None"),
        ("float32[2]", ["a", "b"], "wants float32[2], got an element 'a'"),
        ("float32[2]", 5.0, "wants float32[2], got 5.0"),
        ("float32[2]", "ab", "wants float32[2], got 'ab'"),
        ("float32[2]", np.ones((2, 2)), "wants float32[2], got an array of shape (2, 2)"),
        ("int64[2]", [1, NAN], "wants int64[2], got an element nan"),
        ("int64[2]", [1, 2.5], "wants int64[2], got an element 2.5"),
        ("list[int64]", [1, None], "wants list[int64], got an element None"),
        ("list[float32]", [1.0, None], "wants list[float32], got an element None"),
        ("list[float32]", [1.0, 1e300], "wants list[float32], got an element 1e+300"),
        ("list[string]", ["a", None], "wants list[string], got an element None"),
        ("list[string]", "abc", "wants list[string], got 'abc'"),
        ("list[timestamp]", [DAY, None], "wants list[timestamp], got an element None"),
        ("list[bytes]", [b"a", "b"], "wants list[bytes], got an element 'b'"),
        ("list[int64]", 5, "wants list[int64], got 5"),
        ("list[int64]", pa.array([1, None]), "wants list[int64], got a null among its elements"),
    ],
)
def test_what_does_not_fit_is_refused_by_view_feature_row_and_value(
    layout_of: Any, own_of: Any, dtype: str, bad: Any, said: str
) -> None:
    with pytest.raises(RequestError) as refused:
        written(layout_of, own_of, dtype, [None, None, bad, None])

    assert str(refused.value).startswith("view 'plane' feature 'x' row 2 wants ")
    assert said in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [
        ("int32", np.array([1, 2**31]), "row 1 wants int32, got 2147483648"),
        ("int32", np.array([1, 2.5]), "row 1 wants int32, got 2.5"),
        ("int64", np.array([1, 2**63], np.uint64), "row 1 wants int64, got 9223372036854775808"),
        ("bool", np.array([1, 2]), "row 1 wants bool, got 2"),
        ("float32", np.array([1, 1e300]), "row 1 wants float32, got 1e+300"),
        ("float32", np.array(["2020", "2021"], "M8[D]"), "wants float32, got dates"),
        ("timestamp", np.array([1, 2]), "wants a datetime, numpy.datetime64 or pandas.Timestamp, got 1"),
        ("int32", np.ones((2, 2)), "wants int32, got an array of shape (2, 2)"),
        ("float32[3]", np.ones((2, 2)), "wants float32[3], got 2 values"),
        ("int32[2]", np.array([[1, 2], [3, NAN]]), "row 1 wants int32[2], got an element nan"),
    ],
)
def test_arrays_are_refused_by_row_too(layout_of: Any, own_of: Any, dtype: str, values: Any, said: str) -> None:
    with pytest.raises(RequestError) as refused:
        written(layout_of, own_of, dtype, values)

    assert said in str(refused.value)


def test_a_masked_cell_may_hold_anything(layout_of: Any, own_of: Any) -> None:
    values = np.ma.array([1.0, 1e300, 2.5], mask=[False, True, True])

    assert written(layout_of, own_of, "int32", values) == ([1, 0, 0], [False, True, True])
    assert values.data.tolist() == [1.0, 1e300, 2.5]


def test_columns_are_complete_and_of_one_length(layout_of: Any, own_of: Any) -> None:
    layout, times = layout_of({"x": "int32", "y": "int32", "z": "int32"}), np.zeros(2, np.int64)

    with pytest.raises(RequestError, match="view 'plane' wants a column for every feature, got none for x, z"):
        encode(layout, {"y": [1, 2]}, times, own_of(2))
    with pytest.raises(RequestError, match="view 'plane' feature 'y' wants 2 values, got 3"):
        encode(layout, {"x": [1, 2], "y": [1, 2, 3], "z": [1, 2]}, times, own_of(2))
    with pytest.raises(RequestError, match="feature 'x' wants a list or an array of values, got 'ab'"):
        encode(layout, {"x": "ab", "y": [1, 2], "z": [1, 2]}, times, own_of(2))
    with pytest.raises(RequestError, match="feature 'x' wants a list or an array of values, got"):
        encode(layout, {"x": np.array(1), "y": [1, 2], "z": [1, 2]}, times, own_of(2))


def test_a_row_too_long_to_keep_is_refused_by_number(layout_of: Any, own_of: Any) -> None:
    layout = layout_of({"raw": "bytes"})
    fits = MOST_ROW_BYTES - 8 * layout.words - 4

    assert len(encode(layout, {"raw": [bytes(fits)]}, np.zeros(1, np.int64), own_of(1))[0]) == MOST_ROW_BYTES
    with pytest.raises(RequestError, match=f"view 'plane' row 1 wants at most {MOST_ROW_BYTES} bytes, got"):
        encode(layout, {"raw": [b"", bytes(fits + 1)]}, np.zeros(2, np.int64), own_of(2))


def test_what_was_given_is_not_written_to(layout_of: Any, own_of: Any) -> None:
    floats, flags, numbers = np.array([1.0, NAN]), np.array([True, False]), [1, None]
    layout = layout_of({"f": "float64", "b": "bool", "i": "int64"})

    encode(layout, {"f": floats, "b": flags, "i": numbers}, np.zeros(2, np.int64), own_of(2))

    assert (floats[0], flags.tolist(), numbers) == (1.0, [True, False], [1, None])
