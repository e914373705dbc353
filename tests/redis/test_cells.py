"""Cells that other people wrote: what each text and each JSON value becomes, and that nothing in them can hurt."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurechaos.codec import Layout, column, nulls, pack
from featurechaos.model import DType, Feature, JoinKey, Verdict, View
from featurechaos_redis.cells import JSON, MOST_TEXT_BYTES, TEXT, Cells, loads

BAD = object()
NULL = None
DATE_US = 1_717_200_000_000_000  # 2024-06-01T00:00:00Z

TEXTS: list[tuple[str, bytes | None, Any]] = [
    ("float32", b"1.5", 1.5),
    ("float32", b" -1e3 ", -1000.0),
    ("float32", b"+.5", 0.5),
    ("float32", None, NULL),
    ("float32", b"", NULL),
    ("float32", b"nan", NULL),
    ("float32", b"NaN", NULL),
    ("float32", b"inf", math.inf),
    ("float32", b"-Infinity", -math.inf),
    ("float32", b"1e39", BAD),
    ("float32", b"3.4028235677973366e+38", BAD),
    ("float32", b"3.4028235e+38", float(np.finfo(np.float32).max)),
    ("float64", b"1e39", 1e39),
    ("float64", b"1e999", BAD),
    ("float64", b"-1e999", BAD),
    ("float64", b"1_0", BAD),
    ("float64", b"1,5", BAD),
    ("float64", b"1.5\x00", BAD),
    ("float64", b"0x10", BAD),
    ("float64", b"None", BAD),
    ("float64", b"true", BAD),
    ("float64", b"0" * 513, BAD),
    ("int32", b"180", 180),
    ("int32", b"-7", -7),
    ("int32", b"180.0", 180),
    ("int32", b"1.8e2", 180),
    ("int32", b"nan", NULL),
    ("int32", b"1.5", BAD),
    ("int32", b"2147483647", 2**31 - 1),
    ("int32", b"2147483648", BAD),
    ("int32", b"-2147483649", BAD),
    ("int32", b"inf", BAD),
    ("int64", b"9223372036854775807", 2**63 - 1),
    ("int64", b"-9223372036854775808", -(2**63)),
    ("int64", b"9223372036854775808", BAD),
    ("int64", b"9007199254740993", 2**53 + 1),
    ("int64", b"9007199254740994.0", BAD),
    ("int64", b"9" * 5000, BAD),
    ("int64", b"1_0", BAD),
    ("int64", "٣".encode(), BAD),
    ("bool", b"true", True),
    ("bool", b"False", False),
    ("bool", b"1", True),
    ("bool", b"0", False),
    ("bool", b"1.0", True),
    ("bool", b"2", BAD),
    ("bool", b"yes", BAD),
    ("bool", b"", NULL),
    ("string", b"", ""),
    ("string", b"\xc3\xbc", "ü"),
    ("string", b"\xff", BAD),
    ("string", b"\xed\xa0\x80", BAD),
    ("string", b"x" * 65537, BAD),
    ("string", None, NULL),
    ("bytes", b"", b""),
    ("bytes", b"\xff\x00", b"\xff\x00"),
    ("bytes", None, NULL),
    ("timestamp", b"1717200000", DATE_US),
    ("timestamp", b"1717200000.25", DATE_US + 250_000),
    ("timestamp", b"1717200000000", DATE_US),
    ("timestamp", b"1717200000000000", DATE_US),
    ("timestamp", b"1717200000000000000", DATE_US),
    ("timestamp", b"1.7172e9", DATE_US),
    ("timestamp", b"2024-06-01T00:00:00Z", DATE_US),
    ("timestamp", b"2024-06-01 02:00:00+02:00", DATE_US),
    ("timestamp", b"2024-06-01", DATE_US),
    ("timestamp", b"20240601", DATE_US),
    ("timestamp", b"NaT", NULL),
    ("timestamp", b"", NULL),
    ("timestamp", b"0", BAD),
    ("timestamp", b"12", BAD),
    ("timestamp", b"-1717200000", BAD),
    ("timestamp", b"2024-13-01", BAD),
    ("timestamp", b"tomorrow", BAD),
    ("timestamp", b"inf", BAD),
    ("float32[2]", b"[1, 2.5]", [1.0, 2.5]),
    ("float32[2]", np.array([1, 2.5], "<f4").tobytes(), [1.0, 2.5]),
    ("float32[2]", b"[1.0,22]", [1.0, 22.0]),
    ("float32[2]", b"[\x00\x00\x3f\x00\x00\x00]", [0.5000054240226746, 5.764607523034235e17]),
    ("float32[2]", b"[1]", BAD),
    ("float32[2]", b"[1,2,3]", BAD),
    ("float32[2]", b"[1,null]", BAD),
    ("float32[2]", b"[1,[2]]", BAD),
    ("float32[2]", b"[1,NaN]", BAD),
    ("float32[2]", b"[1,1e999]", BAD),
    ("float32[2]", b"[1,1e39]", BAD),
    ("float32[2]", np.array([1, np.nan], "<f4").tobytes(), BAD),
    ("float32[2]", np.array([1, 2], "<f8").tobytes(), BAD),
    ("float32[2]", b"1,2", BAD),
    ("float32[2]", b"", NULL),
    ("float32[2]", b"null", NULL),
    ("float64[1]", np.array([0.1], "<f8").tobytes(), [0.1]),
    ("int32[2]", b"[1,2.0]", [1, 2]),
    ("int32[2]", b"[1,2147483648]", BAD),
    ("list[int64]", b"[]", []),
    ("list[int64]", b"[1,9223372036854775807]", [1, 2**63 - 1]),
    ("list[int64]", b"[1,9223372036854775808]", BAD),
    ("list[int64]", b"[1,null]", BAD),
    ("list[int64]", b"{}", BAD),
    ("list[int64]", b"12", BAD),
    ("list[float32]", b"[0.5]", [0.5]),
    ("list[float32]", b"[1e39]", BAD),
    ("list[bool]", b"[true,false,1]", [True, False, True]),
    ("list[string]", b'["a",""]', ["a", ""]),
    ("list[string]", b'["\\ud800"]', BAD),
    ("list[string]", b'["a",1]', BAD),
    ("list[bytes]", b'["AP8="]', [b"\x00\xff"]),
    ("list[bytes]", b'["*"]', BAD),
    ("list[timestamp]", b'["2024-06-01",1717200000]', [np.datetime64(DATE_US, "us")] * 2),
]

JSONS: list[tuple[str, str, Any]] = [
    ("float32", "1.5", 1.5),
    ("float32", "2", 2.0),
    ("float32", "null", NULL),
    ("float32", "true", 1.0),
    ("float32", '"1.5"', 1.5),
    ("float32", '"nan"', NULL),
    ("float32", '""', NULL),
    ("float32", "1e39", BAD),
    ("float64", "1e999", BAD),
    ("float64", "[1]", BAD),
    ("float64", "{}", BAD),
    ("float64", '"x"', BAD),
    ("float64", '"\\ud800"', BAD),
    ("float64", "1" + "0" * 400, BAD),
    ("int32", "180", 180),
    ("int32", "180.0", 180),
    ("int32", "1.5", BAD),
    ("int32", "2147483648", BAD),
    ("int32", '"180"', 180),
    ("int64", "9223372036854775807", 2**63 - 1),
    ("int64", "9223372036854775808", BAD),
    ("int64", "1e300", BAD),
    ("bool", "true", True),
    ("bool", "0", False),
    ("bool", "2", BAD),
    ("bool", '"False"', False),
    ("string", '"a"', "a"),
    ("string", '""', ""),
    ("string", "12", BAD),
    ("string", '"\\ud800"', BAD),
    ("string", "null", NULL),
    ("bytes", '"AP8="', b"\x00\xff"),
    ("bytes", '"AP8"', BAD),
    ("bytes", '"ü"', BAD),
    ("timestamp", "1717200000", DATE_US),
    ("timestamp", "1717200000.25", DATE_US + 250_000),
    ("timestamp", "1717200000000", DATE_US),
    ("timestamp", '"2024-06-01T00:00:00Z"', DATE_US),
    ("timestamp", '"1717200000"', DATE_US),
    ("timestamp", "1e300", BAD),
    ("timestamp", "[]", BAD),
    ("float32[2]", "[1, 2.5]", [1.0, 2.5]),
    ("float32[2]", '"[1,2]"', BAD),
    ("list[string]", '["a"]', ["a"]),
    ("list[string]", '"a"', BAD),
]


def as_python(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.datetime64):
        return int(value.astype(np.int64))
    return value.item() if isinstance(value, np.generic) else value


def become(kind: Cells, dtype: str, cell: Any) -> Any:
    """What one cell is, alone and with others on both sides of it."""
    parsed = DType.parse(dtype)
    found = kind.column(parsed, [cell], "auto")
    among = kind.column(parsed, [None, cell, None], "auto")
    told = []
    for each, at in ((found, 0), (among, 1)):
        if each.bad[at]:
            assert not each.nulls[at]
            told.append(BAD)
        else:
            told.append(NULL if each.nulls[at] else as_python(each.values[at]))
    assert told[0] == told[1]
    assert among.nulls.tolist()[::2] == [True, True]
    assert not among.bad[::2].any()
    return told[0]


def close(value: Any) -> Any:
    return (
        pytest.approx(value, rel=1e-6, abs=0)
        if isinstance(value, list) and value and type(value[0]) is float
        else value
    )


@pytest.mark.parametrize(("dtype", "cell", "wanted"), TEXTS)
def test_text_becomes(dtype: str, cell: bytes | None, wanted: Any) -> None:
    assert become(TEXT, dtype, cell) == close(wanted)


@pytest.mark.parametrize(("dtype", "text", "wanted"), JSONS)
def test_json_becomes(dtype: str, text: str, wanted: Any) -> None:
    assert become(JSON, dtype, loads(text.encode())) == close(wanted)


@pytest.mark.parametrize(
    ("unit", "cell", "wanted"),
    [
        ("s", b"0", 0),
        ("s", b"-1.5", -1_500_000),
        ("s", b"1717200000000", BAD),
        ("ms", b"1717200000", 1_717_200_000_000),
        ("us", b"-62135596800000000", -62_135_596_800_000_000),
        ("us", b"-62135596800000001", BAD),
        ("us", b"253402300799999999", 253_402_300_799_999_999),
        ("us", b"253402300800000000", BAD),
        ("ns", b"1999", 1),
        ("ns", b"9223372036854775807", 9_223_372_036_854_775),
    ],
)
def test_a_unit_that_is_said_holds_for_every_number(unit: Any, cell: bytes, wanted: Any) -> None:
    for cells in ([cell], [cell, b"1970-01-02"]):  # with a text that is no number they are read one by one
        found = TEXT.column(DType.parse("timestamp"), cells, unit)
        assert (BAD if found.bad[0] else as_python(found.values[0])) == wanted


def test_fractions_among_whole_seconds_are_kept() -> None:
    for cells in ([1717200000, 1717200000.5], [1717200000.0, 1717200000.5]):
        found = JSON.column(DType.parse("timestamp"), cells, "auto")
        assert found.values.view(np.int64).tolist() == [DATE_US, DATE_US + 500_000]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"nope",
        b"NaN",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b"\xff",
        b'{"a": "\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'"' + b"x" * MOST_TEXT_BYTES + b'"',
        b"{} {}",
        b"{'a': 1}",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_json_of_ours_is_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        loads(text)


DTYPES = [
    *["bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp"],
    *["float32[2]", "float64[1]", "int32[2]", "int64[2]"],
    *[f"list[{base}]" for base in ("bool", "int32", "int64", "float32", "float64", "string", "bytes", "timestamp")],
]
NASTY = st.sampled_from(
    [
        *[b"nan", b"inf", b"-inf", b"1e999", b"1e39", b"2147483648", b"9223372036854775808", b"true", b"1717200000"],
        *[b"[", b"[]", b"[1,2]", b"[NaN,1]", b"[1e999,1]", b'["a"]', b"[null,null]", b"[[],[]]", b"{}", b"null"],
        *[b"2024-06-01", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"[9223372036854775808]"],
        *[b'["\\ud800"]', b"\x00" * 8, b"\xff" * 8, b"\xff" * 4, b"[1,1e39]", b'["1_0","x"]', b"1_0", b" ", b"--1"],
    ]
)
CELL = st.one_of(st.none(), NASTY, st.binary(max_size=24), st.text(max_size=8).map(str.encode))
VALUE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=()), max_size=6),
        st.just(math.inf),
        NASTY.map(lambda each: each.decode("latin-1")),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)


def check(kind: Cells, dtype: str, cells: list[Any], unit: Any) -> None:
    """A column is what it says, and can be packed: a value nobody expected may not fail a request."""
    parsed = DType.parse(dtype)
    view = View("p", "v", "v", (JoinKey("k", DType.parse("int64"), "k"),), (Feature("f", parsed),))
    n = len(cells)

    found = kind.column(parsed, cells, unit)

    assert len(found.values) == len(found.nulls) == len(found.bad) == n
    assert not (found.nulls & found.bad).any()
    verdict = np.where(found.bad, Verdict.CORRUPT, Verdict.FRESH).astype(np.uint8)
    rows = pack(
        Layout.of(view), {"f": found.values}, {"f": found.nulls}, np.zeros(n, np.int64), np.zeros(n, np.uint64), verdict
    )
    kept = rows.verdicts == Verdict.FRESH
    assert kept.tolist() == (~found.bad).tolist()
    assert nulls(rows, "f")[kept].tolist() == found.nulls[kept].tolist()
    good = np.flatnonzero(kept & ~found.nulls)
    got = column(rows, "f")
    for at in good.tolist():
        assert repr(as_python(got[at])) == repr(as_python(found.values[at]))
    alone = [kind.column(parsed, [cell], unit) for cell in cells]
    assert found.bad.tolist() == [bool(each.bad[0]) for each in alone], "a cell is judged by itself"
    assert found.nulls.tolist() == [bool(each.nulls[0]) for each in alone]


UNITS = st.sampled_from(["auto", "s", "ms", "us", "ns"])


@example("float32", [b"1_0", b"2"], "s")
@example("float32[2]", [b"[1,1]   ", b"\xff" * 8], "s")
@given(st.sampled_from(DTYPES), st.lists(CELL, max_size=5), UNITS)
def test_any_text_is_a_value_null_or_bad(dtype: str, cells: list[Any], unit: Any) -> None:
    check(TEXT, dtype, cells, unit)


@given(st.sampled_from(DTYPES), st.lists(VALUE, max_size=5), UNITS)
def test_any_json_value_is_a_value_null_or_bad(dtype: str, cells: list[Any], unit: Any) -> None:
    check(JSON, dtype, cells, unit)


@given(st.binary(max_size=60) | VALUE.map(lambda each: json.dumps(each).encode()))
def test_any_bytes_are_json_or_a_value_error(text: bytes) -> None:
    try:
        loads(text)
    except ValueError:
        return
