"""Layouts described, and rows of older and newer ones read by feature name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import (
    MOST_ROW_BYTES,
    Layout,
    column,
    decode,
    encode,
    encode_tombstones,
    nulls,
    seal,
)
from featurechaos.errors import DecodeError, SpecError
from featurechaos.model import Verdict

OLD = {
    "gone": "string",
    "small": "int32",
    "single": "float32",
    "vector": "float32[2]",
    "sizes": "list[int32]",
    "same": "bool",
}
NEW = {
    "same": "bool",
    "sizes": "list[int64]",
    "added": "string",
    "vector": "float64[2]",
    "single": "float64",
    "small": "int64",
    "at": "timestamp",
}


def old_columns(n: int) -> dict[str, Any]:
    return {
        "gone": ["x"] * n,
        "small": [None, *range(n - 1)],
        "single": [k / 4 for k in range(n)],
        "vector": [[k, -k] for k in range(n)],
        "sizes": [[k] * (k % 3) for k in range(n - 1)] + [None],
        "same": [k % 2 for k in range(n)],
    }


def test_a_description_makes_an_equal_layout(layout_of: Any) -> None:
    layout = layout_of(OLD, {"day": "timestamp", "id": "string"})

    again = Layout.from_description(layout.describe())

    assert again == layout
    assert again.hash == layout.hash
    assert hash(again) == hash(layout)
    assert [str(feature.dtype) for feature in again.features] == list(OLD.values())
    assert again.describe() == layout.describe()


def test_anything_that_matters_changes_the_hash(layout_of: Any) -> None:
    layouts = [
        layout_of({"a": "int32", "b": "int32"}),
        layout_of({"b": "int32", "a": "int32"}),
        layout_of({"a": "int32", "b": "int64"}),
        layout_of({"a": "int32"}),
        layout_of({"a": "int32", "b": "int32"}, {"id": "string"}),
        layout_of({"a": "int32", "b": "int32"}, {"key": "int64"}),
        layout_of({"a": "int32", "b": "int32"}, base="airport"),
    ]

    assert len({layout.hash for layout in layouts}) == len(layouts)


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b"1" * 5000,
        b" " * (1 << 21),
        json.dumps({"project": 1, "base": "b", "keys": [], "features": []}).encode(),
        json.dumps({"project": "p", "base": "b", "keys": {}, "features": []}).encode(),
        json.dumps({"project": "p", "base": "b", "keys": [], "features": [["x"]]}).encode(),
        json.dumps({"project": "p", "base": "b", "keys": [], "features": [["x", 3]]}).encode(),
        json.dumps({"project": "p", "base": "b", "keys": [], "features": [["x", "int8"]]}).encode(),
        json.dumps({"project": "p", "base": "b", "keys": [["k", "float32"]], "features": []}).encode(),
        json.dumps({"project": "p", "base": "b", "keys": [], "features": [["x", "bool"]] * 2}).encode(),
        json.dumps(
            {"project": "p", "base": "b", "keys": [], "features": [[f"x{k}", "float64[4096]"] for k in range(3)]}
        ).encode(),
        json.dumps({"project": "p", "base": "b", "keys": [], "features": [], "more": 1}).encode(),
    ],
)
def test_what_is_no_description_is_refused(description: bytes) -> None:
    with pytest.raises(DecodeError, match="a layout"):
        Layout.from_description(description)


@given(
    description=st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_bytes_for_a_description_are_refused(description: bytes) -> None:
    with pytest.raises(DecodeError):
        Layout.from_description(description)


def test_a_view_of_too_long_rows_is_refused(layout_of: Any) -> None:
    with pytest.raises(SpecError, match=f"most is {MOST_ROW_BYTES}"):
        layout_of({f"v{k}": "float64[4096]" for k in range(3)})


def test_rows_of_an_older_layout_are_read_by_name(layout_of: Any, own_of: Any) -> None:
    old, new = layout_of(OLD), layout_of(NEW)
    own, times = own_of(4), np.arange(4) + 100
    blobs = encode(old, old_columns(4), times, own)

    rows, unknown = decode(blobs, own, new, {old.hash: old})

    assert (unknown, rows.layout, rows.blobs) == (frozenset(), new, None)
    assert rows.verdicts.tolist() == [Verdict.FRESH] * 4
    assert rows.event_time.tolist() == times.tolist()
    assert column(rows, "small").tolist() == [0, 0, 1, 2]
    assert nulls(rows, "small").tolist() == [True, False, False, False]
    assert column(rows, "single").tolist() == [0, 0.25, 0.5, 0.75]
    assert column(rows, "single").dtype == np.float64
    assert column(rows, "vector").tolist() == [[0, 0], [1, -1], [2, -2], [3, -3]]
    assert column(rows, "sizes").tolist() == [[], [1], [2, 2], None]
    assert column(rows, "same").tolist() == [False, True, False, True]
    assert column(rows, "added").tolist() == [None] * 4
    assert nulls(rows, "at").all()
    assert decode(seal(rows, own), own, new)[0].verdict == Verdict.FRESH


def test_old_new_missing_damaged_and_unknown_rows_in_one_read(layout_of: Any, own_of: Any) -> None:
    old, new, later = layout_of(OLD), layout_of(NEW), layout_of({**NEW, "more": "bool"})
    own, times = own_of(8), np.arange(8)
    columns = old_columns(8)
    newer = {name: columns.get(name, [None] * 8) for name in NEW}
    olds, news = encode(old, columns, times, own), encode(new, newer, times, own)
    laters = encode(later, {**newer, "more": [True] * 8}, times, own)
    blobs: list[bytes | None] = [news[0], olds[1], None, laters[3], olds[4], news[5], olds[6], olds[6]]
    blobs[4] = olds[4][:50] + b"!" + olds[4][51:]
    blobs[6] = encode_tombstones(old, np.array([77]), own[6:7])[0]

    rows, unknown = decode(blobs, own, new, {old.hash: old})

    fresh, missing, buried, corrupt = Verdict.FRESH, Verdict.MISSING, Verdict.BURIED, Verdict.CORRUPT
    assert rows.verdicts.tolist() == [fresh, fresh, missing, corrupt, corrupt, fresh, buried, corrupt]
    assert unknown == {later.hash}
    assert column(rows, "small")[[1, 5]].tolist() == [0, 4]
    assert rows.event_time[6] == 77
    again, unknown = decode(blobs, own, new, {old.hash: old, later.hash: later})
    assert again.verdicts[3] == fresh
    assert column(again, "small")[3] == 2
    assert unknown == frozenset()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("int64", "int32"),
        ("float64", "float32"),
        ("int32", "float64"),
        ("string", "bytes"),
        ("bool", "int32"),
        ("float32[2]", "float32[3]"),
        ("float32[2]", "list[float32]"),
        ("float32", "float32[1]"),
        ("timestamp", "int64"),
    ],
)
def test_any_other_change_of_type_is_corrupt(layout_of: Any, own_of: Any, before: str, now: str) -> None:
    old, new = layout_of({"x": before, "y": "bool"}), layout_of({"x": now, "y": "bool"})
    blobs = encode(old, {"x": [None], "y": [True]}, np.zeros(1, np.int64), own_of(1))

    rows, unknown = decode(blobs, own_of(1), new, {old.hash: old})

    assert rows.verdicts.tolist() == [Verdict.CORRUPT]
    assert unknown == frozenset()


def test_a_row_of_another_key_is_not_read_through_an_old_layout(layout_of: Any, own_of: Any) -> None:
    old, new = layout_of({"x": "int32"}), layout_of({"x": "int64"})
    blobs = encode(old, {"x": [1, 2]}, np.zeros(2, np.int64), own_of(2))

    rows, unknown = decode(blobs[::-1], own_of(2), new, {old.hash: old})

    assert rows.verdicts.tolist() == [Verdict.CORRUPT] * 2
    assert unknown == frozenset()


def test_rolling_back_reads_newer_rows(layout_of: Any, own_of: Any) -> None:
    new, old = layout_of({"x": "int32", "y": "string"}), layout_of({"x": "int32"})
    blobs = encode(new, {"x": [1, None], "y": ["a", "b"]}, np.arange(2), own_of(2))

    rows, _ = decode(blobs, own_of(2), old, {new.hash: new})

    assert column(rows, "x").tolist() == [1, 0]
    assert nulls(rows, "x").tolist() == [False, True]
