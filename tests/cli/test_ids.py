"""Ids of stored rows come back as the key values they were made from; ids of others do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.cli.ids import keys_of, values_of
from featurechaos.codec import encode_keys
from featurechaos.model import DType, JoinKey

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "int32": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64": st.integers(-(1 << 63), (1 << 63) - 1),
    "string": TEXT,
    "bytes": st.binary(max_size=40),
    "timestamp": st.integers(-(1 << 62), 1 << 62).map(lambda us: np.datetime64(us, "us")),
}
ODD = ["", "a|b", "%41", "{x}", "100%", "ü\n", "a:b", "|", "%7C", " "]


def key(kind: str, name: str = "k") -> JoinKey:
    return JoinKey(name, DType.parse(kind), name)


@pytest.mark.parametrize("kind", list(VALUES))
@given(data=st.data())
def test_one_key_comes_back(kind: str, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    keys, _, _ = encode_keys([key(kind)], [[value]])

    assert values_of([key(kind)], keys.ids[0]) == (value,)


@given(kinds=st.lists(st.sampled_from(list(VALUES)), min_size=2, max_size=4), data=st.data())
def test_a_composite_key_comes_back(kinds: list[str], data: st.DataObject) -> None:
    join_keys = [key(kind, f"k{at}") for at, kind in enumerate(kinds)]
    values = tuple(data.draw(VALUES[kind]) for kind in kinds)
    keys, _, _ = encode_keys(join_keys, [[value] for value in values])

    assert values_of(join_keys, keys.ids[0]) == values


@pytest.mark.parametrize("value", ODD)
def test_odd_text_comes_back(value: str) -> None:
    keys, _, _ = encode_keys([key("string")], [[value]])

    assert values_of([key("string")], keys.ids[0]) == (value,)


@given(st.binary(max_size=30), st.sampled_from(list(VALUES)))
def test_any_bytes_come_back_as_themselves_or_not_at_all(known: bytes, kind: str) -> None:
    values = values_of([key(kind)], known)

    assert values is None or encode_keys([key(kind)], [list(values)])[0].ids == [known]


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("int64", b"007"),
        ("int64", b"+7"),
        ("int64", b"-0"),
        ("int64", b"9223372036854775808"),
        ("int32", b"2147483648"),
        ("int64", b"7|8"),
        ("string", b"%7c"),
        ("string", b"%41"),
        ("string", b"%FF"),
        ("string", b"a b"),
        ("timestamp", b"-9223372036854775808"),
        ("timestamp", b"2024-06-01"),
    ],
)
def test_an_id_that_no_key_has_is_none_of_ours(kind: str, known: bytes) -> None:
    assert values_of([key(kind)], known) is None


def test_a_page_keeps_what_is_ours_in_order() -> None:
    columns, keys, kept = keys_of([key("int64", "a"), key("string", "b")], [b"1|x", b"1", b"02|y", b"3|%7C"])

    assert columns == [[1, 3], ["x", "|"]]
    assert keys.ids == [b"1|x", b"3|%7C"]
    assert kept == [0, 3]


def test_a_page_without_any_is_empty() -> None:
    columns, keys, kept = keys_of([key("timestamp")], [b"x"])

    assert (columns, len(keys), kept) == ([[]], 0, [])
