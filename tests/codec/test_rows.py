"""Rows taken, put, copied and blank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import Rows, column, decode, encode, nulls
from featurechaos.model import NO_TIME_US, Verdict

FEATURES = {"x": "int64", "name": "string"}


@pytest.fixture(scope="module")
def rows(layout_of: Any, own_of: Any) -> Rows:
    layout = layout_of(FEATURES)
    columns = {"x": np.arange(6), "name": [f"n{k}" for k in range(6)]}
    return decode(encode(layout, columns, np.arange(6) * 10, own_of(6)), own_of(6), layout)[0]


@given(index=st.lists(st.integers(0, 5), max_size=9))
def test_take_gives_the_rows_asked_for(rows: Rows, index: list[int]) -> None:
    taken = rows.take(np.array(index, np.intp))

    assert len(taken) == len(index)
    assert column(taken, "x").tolist() == index
    assert column(taken, "name").tolist() == [f"n{k}" for k in index]
    assert taken.blobs == [(rows.blobs or [])[k] for k in index]
    assert taken.verdict == Verdict.FRESH


def test_take_by_a_mask_keeps_each_rows_verdict(rows: Rows) -> None:
    mixed = rows.copy()
    mixed.put([1, 2], Rows.blank(rows.layout, 2, Verdict.MISSING), [0, 1])

    taken = mixed.take(np.array([True, True, False, False, False, True]))

    assert taken.verdicts.tolist() == [Verdict.FRESH, Verdict.MISSING, Verdict.FRESH]
    assert column(taken, "name").tolist() == ["n0", None, "n5"]


def test_put_replaces_values_verdicts_and_what_was_read_before(rows: Rows) -> None:
    target = Rows.blank(rows.layout, 4, Verdict.CORRUPT)
    assert column(target, "name").tolist() == [None] * 4

    target.put(np.array([3, 0]), rows, np.array([5, 2]))

    assert column(target, "name").tolist() == ["n2", None, None, "n5"]
    assert nulls(target, "x").tolist() == [False, True, True, False]
    assert target.event_time.tolist() == [20, NO_TIME_US, NO_TIME_US, 50]
    assert target.verdicts.tolist() == [Verdict.FRESH, Verdict.CORRUPT, Verdict.CORRUPT, Verdict.FRESH]
    assert target.blobs is None


def test_put_leaves_the_rows_it_took_from_alone(rows: Rows) -> None:
    target = rows.take([0, 1])
    before = rows.words.copy()

    target.put([0], rows, [4])
    target.words[...] = 0

    assert (rows.words == before).all()
    assert rows.verdict == Verdict.FRESH
    assert rows.blobs is not None


def test_put_of_one_verdict_stays_one_int(rows: Rows) -> None:
    target = rows.copy()

    target.put([0], rows, [4])

    assert target.verdict == Verdict.FRESH
    assert isinstance(target.verdict, int)


def test_put_refuses_rows_of_another_layout(rows: Rows, layout_of: Any) -> None:
    with pytest.raises(ValueError, match="can't take rows"):
        rows.copy().put([0], Rows.blank(layout_of({"x": "int64"}), 1, Verdict.FRESH), [0])


def test_copy_can_be_changed_without_a_trace(rows: Rows) -> None:
    copied = rows.copy()

    copied.words[:, -1] = 0
    (copied.tails or [])[0] = b""

    assert column(rows, "name").tolist() == [f"n{k}" for k in range(6)]
    assert copied.blobs is None


def test_blank_rows_have_no_value(layout_of: Any) -> None:
    layout = layout_of({"x": "float32", "t": "timestamp", "n": "int32", "b": "bool", "v": "int32[2]"})

    blank = Rows.blank(layout, 2, Verdict.MISSING)

    assert all(nulls(blank, name).all() for name in layout.spots)
    assert blank.event_time.tolist() == [NO_TIME_US] * 2
    assert np.isnan(column(blank, "x")).all()
    assert np.isnat(column(blank, "t")).all()
    assert column(blank, "v").tolist() == [[0, 0], [0, 0]]
    assert blank.verdicts.tolist() == [Verdict.MISSING] * 2
    assert blank.tails is None
