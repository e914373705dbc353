"""Rows in one piece are read as a list of their bytes is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import Keys, Layout, Packed, Rows, column, decode, encode, whole

FEATURES = {"f": "float32", "g": "int64", "v": "float32[3]"}
N = 20


@pytest.fixture(scope="module")
def blobs(layout_of: Any, own_of: Any) -> list[bytes]:
    rng = np.random.default_rng(5)
    columns = {"f": rng.random(N, np.float32), "g": rng.integers(0, 99, N), "v": list(rng.random((N, 3), np.float32))}
    return encode(layout_of(FEATURES), columns, rng.integers(1, 2**50, N), own_of(N))


def packed(blobs: list[bytes]) -> Packed:
    return Packed(np.frombuffer(bytearray().join(blobs), np.uint64).reshape(len(blobs), -1))


def test_it_is_a_list_of_its_rows(blobs: list[bytes]) -> None:
    rows = packed(blobs)

    assert (len(rows), list(rows), rows[3], rows[-1]) == (N, blobs, blobs[3], blobs[-1])
    assert rows == blobs
    assert blobs == rows
    assert rows != blobs[1:]
    assert rows != "rows"
    assert [list(rows[cut]) for cut in (slice(2, 5), slice(None, None, 7))] == [blobs[2:5], blobs[::7]]
    assert list(packed(blobs)[:0]) == []
    assert [rows.some(places) for places in ([3, 1], [])] == [[blobs[3], blobs[1]], []]
    with pytest.raises(IndexError):
        rows[N]


def test_it_is_decoded_as_the_list_is(blobs: list[bytes], layout_of: Any, own_of: Any) -> None:
    (one, unknown), (other, _) = (decode(each, own_of(N), layout_of(FEATURES)) for each in (packed(blobs), blobs))

    assert_same(one, other)
    assert not unknown
    assert one.verdict == other.verdict
    assert one.blobs == blobs


@given(st.integers(0, N - 1), st.integers(0, 8 * 64 - 1))
def test_a_damaged_row_is_found_in_it(blobs: list[bytes], layout_of: Any, own_of: Any, row: int, bit: int) -> None:
    hurt = bytearray(blobs[row])
    hurt[bit // 8] ^= 1 << bit % 8
    some = [*blobs[:row], bytes(hurt), *blobs[row + 1 :]]

    assert whole(packed(some), Keys([b""] * N, own_of(N)), layout_of(FEATURES)) is None
    assert_same(*(decode(each, own_of(N), layout_of(FEATURES))[0] for each in (packed(some), some)))


def test_rows_of_a_layout_of_the_same_length_are_told_apart(blobs: list[bytes], layout_of: Any, own_of: Any) -> None:
    before = layout_of({**FEATURES, "g": "float64"})
    columns = {"f": np.ones(N, np.float32), "g": np.arange(N) + 0.5, "v": [np.ones(3, np.float32)] * N}
    old = encode(before, columns, np.full(N, 9), own_of(N))
    assert len(old[0]) == len(blobs[0])
    mixed = [*blobs[:7], *old[7:]]

    for known in ({}, {before.hash: before}):
        found = [decode(each, own_of(N), layout_of(FEATURES), known) for each in (packed(mixed), mixed)]
        assert_same(*(rows for rows, _ in found))
        assert found[0][1] == found[1][1] == (frozenset() if known else {before.hash})


def test_rows_of_another_width_are_no_rows_of_ours(blobs: list[bytes], layout_of: Any, own_of: Any) -> None:
    narrow: Layout = layout_of({"f": "float32"})

    rows, unknown = decode(packed(blobs), own_of(N), narrow)

    assert (rows.verdicts != 1).all()
    assert unknown == {layout_of(FEATURES).hash}


@pytest.mark.parametrize("floats", [1, 20, 60], ids=["short", "usual", "long"])
def test_any_bit_of_a_single_row_that_is_flipped_is_seen(layout_of: Any, own_of: Any, floats: int) -> None:
    """Short rows by themselves are added up in plain ints, others by numpy."""
    layout: Layout = layout_of({f"f{at}": "float32" for at in range(floats)})
    (blob,) = encode(layout, {f"f{at}": np.full(1, at, np.float32) for at in range(floats)}, np.full(1, 5), own_of(1))
    keys = Keys([b"0"], own_of(1))
    assert (layout.in_ints is None) == (floats == 60)

    for is_alone in (True, False):
        rows = whole([blob], keys, layout, is_alone)
        assert rows is not None
        assert [column(rows, f"f{at}").tolist() for at in range(floats)] == [[at] for at in range(floats)]
        for bit in range(8 * len(blob)):
            hurt = bytearray(blob)
            hurt[bit // 8] ^= 1 << bit % 8
            assert whole([bytes(hurt)], keys, layout, is_alone) is None, bit
        assert whole([blob], Keys([b"1"], own_of(2)[1:]), layout, is_alone) is None


def assert_same(one: Rows, other: Rows) -> None:
    assert one.words.tolist() == other.words.tolist()
    assert one.verdicts.tolist() == other.verdicts.tolist()
    assert one.event_time.tolist() == other.event_time.tolist()
