"""Key values -> ids, own hashes and slots."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from featurechaos.codec import encode_keys
from featurechaos.codec import keys as codec_keys
from featurechaos.errors import RequestError
from featurechaos.model import DType, JoinKey

NOON = dt.datetime(2013, 1, 1, 12, tzinfo=dt.UTC)
NOON_US = 1_357_041_600_000_000
BEYOND = 2**63


def ids_of(keys_of: Any, dtype: str, values: Any) -> list[bytes]:
    keys, inverse, nulls = encode_keys(keys_of(k=dtype), [values])
    assert nulls is None
    return [keys.ids[at] for at in (range(len(keys)) if inverse is None else inverse)]


@pytest.mark.parametrize(
    "values",
    [
        [5, -3],
        [5.0, -3.0],
        ["5", "-3"],
        ["+5", "-03"],
        [np.int32(5), np.int64(-3)],
        [np.float32(5), Decimal(-3)],
        [5, np.int64(-3)],
        (5, -3),
        np.array([5, -3], np.int8),
        np.array([5.0, -3.0]),
        np.array(["5", "-3"]),
        np.array([5, "-3"], object),
        pd.Series([5, -3]),
        pd.Series([5, -3], dtype="Int64"),
        pd.Series(["5", "-3"]),
        pa.array([5, -3]),
    ],
)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integer_keys_in_every_dress(keys_of: Any, dtype: str, values: Any) -> None:
    assert ids_of(keys_of, dtype, values) == [b"5", b"-3"]


@pytest.mark.parametrize(
    "values",
    [
        [NOON],
        [NOON.replace(tzinfo=None)],
        [NOON.astimezone(dt.timezone(dt.timedelta(hours=9)))],
        [np.datetime64("2013-01-01T12", "h")],
        [pd.Timestamp("2013-01-01T12", tz="UTC")],
        [pd.Timestamp("2013-01-01T07", tz="America/New_York")],
        np.array(["2013-01-01T12"], "M8[ns]"),
        pd.Series([NOON]),
        pa.array([NOON]),
    ],
)
def test_timestamp_keys_in_every_dress(keys_of: Any, values: Any) -> None:
    assert ids_of(keys_of, "timestamp", values) == [b"%d" % NOON_US]


@pytest.mark.parametrize("values", [["N14228", "n 1"], np.array(["N14228", "n 1"]), pd.Series(["N14228", "n 1"])])
def test_string_keys_in_every_dress(keys_of: Any, values: Any) -> None:
    assert ids_of(keys_of, "string", values) == [b"N14228", b"n%201"]


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ("", b""),
        ("a", b"a"),
        ("a|b", b"a%7Cb"),
        ("{a}", b"%7Ba%7D"),
        ("50%", b"50%25"),
        ("a:b", b"a%3Ab"),
        ("a b", b"a%20b"),
        ("a\nb", b"a%0Ab"),
        ("\n", b"%0A"),
        ("\0", b"%00"),
        ("\x7f", b"%7F"),
        ("é", b"%C3%A9"),
        ("~!$/", b"~!$/"),
    ],
)
def test_text_is_percent_encoded(keys_of: Any, value: str, known: bytes) -> None:
    assert ids_of(keys_of, "string", [value]) == [known]
    assert ids_of(keys_of, "bytes", [value.encode()]) == [known]
    assert ids_of(keys_of, "string", ["x", value, "y"]) == [b"x", known, b"y"]


@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=6))
def test_no_two_texts_share_an_id(keys_of: Any, values: list[str]) -> None:
    ids = ids_of(keys_of, "string", values)

    assert len(set(ids)) == len(set(values))
    assert all(0x21 <= byte <= 0x7E and byte not in b"{}|:" for known in ids for byte in known)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("int64", [1, None, 2]),
        ("int64", [1, np.nan, 2]),
        ("int64", np.array([1, np.nan, 2])),
        ("int64", pd.Series([1, None, 2], dtype="Int64")),
        ("int64", [1, pd.NA, 2]),
        ("int64", np.ma.array([1, 9, 2], mask=[False, True, False])),
        ("int64", pa.array([1, None, 2])),
        ("int32", [1, None, 2]),
        ("string", ["1", None, "2"]),
        ("string", pd.Series(["1", None, "2"])),
        ("string", ["1", np.nan, "2"]),
        ("bytes", [b"1", None, b"2"]),
        ("timestamp", [np.datetime64(1, "us"), np.datetime64("NaT"), np.datetime64(2, "us")]),
        ("timestamp", [np.datetime64(1, "us"), pd.NaT, np.datetime64(2, "us")]),
        ("timestamp", np.array([1, "NaT", 2], "M8[us]")),
    ],
)
def test_null_keys_are_left_out_and_told(keys_of: Any, dtype: str, values: Any) -> None:
    keys, inverse, nulls = encode_keys(keys_of(k=dtype), [values])

    assert keys.ids == [b"1", b"2"]
    assert inverse is not None
    assert inverse.tolist() == [0, 2, 1]
    assert nulls is not None
    assert nulls.tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", ["int64", "string"])
def test_only_null_keys_and_no_keys(keys_of: Any, dtype: str) -> None:
    keys, inverse, nulls = encode_keys(keys_of(k=dtype), [[None, None]])
    none, no_inverse, no_nulls = encode_keys(keys_of(k=dtype), [[]])

    assert (keys.ids, inverse.tolist() if inverse is not None else None) == ([], [0, 0])
    assert nulls is not None
    assert nulls.all()
    assert (none.ids, no_inverse, no_nulls) == ([], None, None)
    assert len(none.own) == len(none.slots) == len(keys.own) == len(keys.slots) == 0


def test_repeated_keys_are_read_once(keys_of: Any) -> None:
    cases: list[tuple[str, list[Any]]] = [
        ("int64", [7, 5, 7, 5, 9]),
        ("string", ["7", "5", "7", "5", "9"]),
    ]
    for dtype, values in cases:
        keys, inverse, nulls = encode_keys(keys_of(k=dtype), [values])

        assert keys.ids == [b"7", b"5", b"9"]
        assert inverse is not None
        assert inverse.tolist() == [0, 1, 0, 1, 2]
        assert nulls is None


def test_repeats_and_nulls_together(keys_of: Any) -> None:
    _, inverse, nulls = encode_keys(keys_of(k="int64"), [[7, None, 5, 7]])

    assert inverse is not None
    assert inverse.tolist() == [0, 2, 1, 0]
    assert nulls is not None
    assert nulls.tolist() == [False, True, False, False]


def test_a_composite_key_joins_its_parts_by_name(keys_of: Any) -> None:
    join_keys = keys_of(day="timestamp", airport="string", gate="int32")

    keys, inverse, nulls = encode_keys(join_keys, [["J|K", "JFK", "JFK"], [NOON, NOON, None], ["4", 4, 4]])

    assert [key.name for key in join_keys] == ["airport", "day", "gate"]
    assert keys.ids == [b"J%%7CK|%d|4" % NOON_US, b"JFK|%d|4" % NOON_US]
    assert inverse is not None
    assert inverse.tolist() == [0, 1, 2]
    assert nulls is not None
    assert nulls.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("dtype", "bad", "said"),
    [
        ("int64", True, "wants int64, got True"),
        ("int64", np.True_, "wants int64, got"),
        ("int64", 1.5, "wants int64, got 1.5"),
        ("int64", float("inf"), "wants int64, got inf"),
        ("int64", "x", "wants int64, got 'x'"),
        ("int64", "1_0", "wants int64, got '1_0'"),
        ("int64", "\u0661", "wants int64, got '\u0661'"),
        ("int64", "9" * 5000, "wants int64, got '999"),
        ("int64", BEYOND, "wants int64, got 9223372036854775808"),
        ("int64", np.timedelta64(3, "s"), "wants int64"),
        ("int64", b"1", "wants int64, got b'1'"),
        ("int64", [1], "wants int64, got"),
        ("int32", 2**31, "wants int32, got 2147483648"),
        ("int32", -(2**31) - 1, "wants int32, got -2147483649"),
        ("int32", "2147483648", "wants int32, got '2147483648'"),
        ("string", 5, "wants a str, got 5"),
        ("string", b"x", "wants a str, got b'x'"),
        ("string", "\ud800", "wants a str that UTF-8 can say"),
        ("bytes", "x", "wants bytes, got 'x'"),
        ("timestamp", 5, "wants a datetime, numpy.datetime64 or pandas.Timestamp, got 5"),
        ("timestamp", "2020-01-01", "wants a datetime"),
        ("timestamp", np.datetime64("400000-01-01", "s"), "wants a datetime"),
        ("string", "x" * 1025, "row 2 wants at most 1024 bytes"),
        ("string", "é" * 171, "row 2 wants at most 1024 bytes encoded, got 1026"),
    ],
)
def test_a_bad_key_is_refused_by_name_row_and_value(keys_of: Any, dtype: str, bad: Any, said: str) -> None:
    good: Any = {"string": "a", "bytes": b"a", "timestamp": NOON}.get(dtype, 1)

    with pytest.raises(RequestError) as refused:
        encode_keys(keys_of(k=dtype), [[good, None, bad]])
    with pytest.raises(RequestError):
        encode_keys(keys_of(k=dtype), [[bad]])

    assert str(refused.value).startswith("key 'k' row 2 ")
    assert said in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("values", [np.array([1, 2**31]), np.array([1, 2**31], np.uint64), np.array([1.0, 2.5])])
def test_a_bad_key_in_an_array_is_refused_by_row(keys_of: Any, values: Any) -> None:
    with pytest.raises(RequestError, match="key 'k' row 1 wants int32"):
        encode_keys(keys_of(k="int32"), [values])


def test_keys_that_are_no_column_are_refused(keys_of: Any) -> None:
    with pytest.raises(RequestError, match="key 'k' wants a list or an array of values, got 'JFK'"):
        encode_keys(keys_of(k="string"), ["JFK"])
    with pytest.raises(RequestError, match="key 'l' wants 2 values, got 1"):
        encode_keys(keys_of(k="string", l="string"), [["a", "b"], ["a"]])


def test_one_key_and_many_hash_alike(keys_of: Any) -> None:
    integers = [0, 1, -1, 2**31 - 1, -(2**31), 12345]
    words = ["", "a", "abcd", "N14228", "x" * 1000, "é|{}"]
    cases: list[tuple[str, list[Any]]] = [
        ("int32", integers),
        ("int64", [*integers, 2**63 - 1, -(2**63)]),
        ("string", words),
    ]
    for dtype, values in cases:
        together, _, _ = encode_keys(keys_of(k=dtype), [values])
        alone = [encode_keys(keys_of(k=dtype), [[value]])[0] for value in values]

        assert [key.ids[0] for key in alone] == together.ids
        assert [int(key.own[0]) for key in alone] == together.own.tolist()
        assert [int(key.slots[0]) for key in alone] == together.slots.tolist()


class Suit(Enum):
    HEARTS = 1


class Rank(IntEnum):
    ACE = 14


class Numbered(Enum):
    """Has a number, and is none."""

    TWO = 2

    def __int__(self) -> int:
        return 3


class Odd(int):
    """Each is only itself, and another number to whoever asks."""

    __hash__ = object.__hash__

    def __int__(self) -> int:
        return 5

    def __eq__(self, other: object) -> bool:
        return self is other


VALUES = st.one_of(
    st.integers(-5, 5),
    st.integers(-BEYOND - 2, BEYOND + 2),
    st.integers(-(2**31) - 2, 2**31 + 2),
    st.sampled_from([True, None, 1.0, 2.5, float("nan"), float("inf"), 1e22, "7", "x", b"7", "", [3], {}, Suit.HEARTS]),
    st.sampled_from(
        [Rank.ACE, Numbered.TWO, Odd(1), Odd(1), np.int64(4), Decimal(6), NOON, "\ud800", object, -0.0, complex(1)]
    ),
)


@example("int64", [Numbered.TWO])
@example("int64", [Odd(1), Odd(1)])
@given(st.sampled_from(["int32", "int64"]), st.lists(st.integers(-99, 2**31)) | st.lists(VALUES, max_size=6))
def test_integers_are_what_they_are_by_the_short_way_and_the_long(dtype: str, values: list[Any]) -> None:
    key = JoinKey("k", DType.parse(dtype), "k")

    def told(short: bool) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            if not short:
                patch.setattr(codec_keys, "_plain_integers", lambda *_: None)
            try:
                keys, inverse, nulls = encode_keys([key], [list(values)])
            except RequestError as error:
                return str(error)
            rest = [None if each is None else each.tolist() for each in (inverse, nulls)]
            return keys.ids, keys.own.tolist(), keys.slots.tolist(), rest

    assert told(short=True) == told(short=False)


def test_plain_integers_take_the_short_way(keys_of: Any) -> None:
    """Else the test above compares the long one with itself."""
    (key,) = keys_of(k="int64")

    for values in ([1, -2], [2**63 - 1, -(2**63)]):
        assert codec_keys._plain_integers(key, values) is not None
    for others in ([], [1, True], [1, 2.0], [Suit.HEARTS, 2], ["1", 2], [1, None], [1, 1], [[1], 2], [1, 2**63]):
        assert codec_keys._plain_integers(key, others) is None


def test_two_integers_never_share_an_own_hash(keys_of: Any) -> None:
    keys, _, _ = encode_keys(keys_of(k="int64"), [np.arange(-50_000, 50_000)])

    assert len(np.unique(keys.own)) == 100_000
    assert keys.slots is keys.own


def test_slots_of_texts_are_independent_of_own_hashes(keys_of: Any) -> None:
    keys, _, _ = encode_keys(keys_of(k="string"), [[f"user-{k}" for k in range(20_000)]])

    assert len(np.unique(keys.own)) == len(np.unique(keys.slots)) == 20_000
    for hashes in (keys.own, keys.slots, keys.own ^ keys.slots):
        for shift in (0, 20, 52):
            filled = np.bincount((hashes >> np.uint64(shift)).astype(np.int64) & 63, minlength=64)
            assert filled.min() > 200
            assert filled.max() < 430


def test_take_keeps_ids_and_hashes_together(keys_of: Any) -> None:
    keys, _, _ = encode_keys(keys_of(k="string"), [["a", "b", "c"]])
    before = keys.take(np.array([2, 0, 2]))
    slots = keys.slots
    after = keys.take(np.array([2, 0, 2]))

    assert before.ids == after.ids == [b"c", b"a", b"c"]
    assert before.own.tolist() == keys.own[[2, 0, 2]].tolist()
    assert before.slots.tolist() == after.slots.tolist() == slots[[2, 0, 2]].tolist()


@pytest.mark.parametrize("values", [[7], [0], [-1], ["a"], [7, 8], ["a", "b"]])
def test_some_of_the_keys_are_looked_up_where_all_of_them_are(values: list[Any]) -> None:
    key = JoinKey("k", DType.parse("string" if isinstance(values[0], str) else "int64"), column="k")
    keys, _, _ = encode_keys([key], [values])
    many, _, _ = encode_keys([key], [[*values, type(values[0])(5)]])

    taken = keys.take(np.arange(len(values)))

    for each in (keys, taken, many.take(np.arange(len(values)))):
        assert each.ids == keys.ids
        assert each.own.tolist() == many.own[: len(values)].tolist()
        assert each.slots.tolist() == many.slots[: len(values)].tolist()
        assert each.first == many.own[0]
