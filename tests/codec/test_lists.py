"""Rows as Python values: what the columns say, cell by cell, whatever the bytes are."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurechaos.codec import Rows, Selection, column, lists, nulls
from featurechaos.model import Verdict

FIXED = ("bool", "int32", "int64", "float32", "float64", "timestamp", "float32[3]", "int64[2]")

schemas = st.lists(st.sampled_from([*FIXED, "string", "list[int32]"]), min_size=1, max_size=70)
# All bits, dates that Python has, bytes of few bits.
masks = st.sampled_from([2**64 - 1, 2**50 - 1, 0x0101_0101_0101_0101])
shares = st.sampled_from([0.0, 0.02, 0.5, 1.0])


def by_columns(rows: Rows, feature: str) -> list[Any]:
    """The cells of a column one after another."""
    pairs = zip(column(rows, feature), nulls(rows, feature), strict=True)
    return [None if is_null else plain(value) for value, is_null in pairs]


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value]
    one = value.item()
    return one.replace(tzinfo=UTC) if isinstance(one, datetime) else one


def rows_of(layout: Any, n: int, *, seed: int, mask: int, share: float) -> Rows:
    """Rows of any bytes, a share of their cells null."""
    rng = np.random.default_rng(seed)
    rows = Rows.blank(layout, n, Verdict.FRESH)
    bits = rng.random((n, len(layout.features))) < share
    words = rng.integers(0, 2**64, (n, layout.words), np.uint64) & np.uint64(mask)
    packed = np.packbits(bits, axis=1, bitorder="little")
    words[:, 5 : 5 + layout.bitmap_words] = 0
    words.view(np.uint8)[:, 40 : 40 + packed.shape[1]] = packed
    rows.words[...] = words
    return rows


@given(schemas, st.integers(0, 5), st.integers(0, 2**32), masks, shares)
def test_lists_say_what_the_columns_say(
    layout_of: Any, dtypes: list[str], n: int, seed: int, mask: int, share: float
) -> None:
    layout = layout_of({f"f{at}": dtype for at, dtype in enumerate(dtypes)})
    rows = rows_of(layout, n, seed=seed, mask=mask, share=share)
    random = np.random.default_rng(seed)
    chosen = random.permutation(list(layout.spots))[: random.integers(len(dtypes) + 1)].tolist()

    got = lists(rows, Selection.of(layout, {name: f"out {name}" for name in chosen}))

    fixed = [name for name in chosen if layout.spots[name].feature.dtype.is_fixed]
    assert rows.ready == {}, "no column was made"
    assert {name: repr(got[f"out {name}"]) for name in fixed} == {name: repr(by_columns(rows, name)) for name in fixed}
    assert len(got) == len(fixed)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_row_by_itself_needs_no_words(layout_of: Any, share: float) -> None:
    layout = layout_of({f"f{at}": dtype for at, dtype in enumerate(FIXED)})
    rows = rows_of(layout, 1, seed=3, mask=2**64 - 1, share=share)
    alone = Rows(layout, None, int(Verdict.FRESH), blobs=[rows.words.tobytes()], oldest=0)

    got = lists(alone, Selection.of(layout, {name: name for name in layout.spots}))

    assert {name: repr(got[name]) for name in got} == {name: repr(by_columns(rows, name)) for name in layout.spots}
    assert alone.single is not None
