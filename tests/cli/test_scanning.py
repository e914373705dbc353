"""A walk over a store's rows: what is kept, what is left out and counted, and every dtype as it was written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from featurechaos.cli.scanning import Counts, refuse_unscannable, scan
from featurechaos.codec import Layout, encode_tombstones
from featurechaos.errors import RequestError
from featurechaos.model import DType, Feature, JoinKey, View
from featurechaos.stores import chunks
from featurechaos.tables import batch_of
from featurechaos.testing import MemoryStore

EVENT = datetime(2024, 6, 1, tzinfo=UTC)
WALL_US = int(EVENT.timestamp() * 1e6)
VALUES: dict[str, tuple[Any, ...]] = {
    "bool": (True, None),
    "int32": (-(1 << 31), None),
    "int64": ((1 << 63) - 1, None),
    "float32": (0.5, None),
    "float64": (1e300, None),
    "string": ("ü|", None),
    "bytes": (b"\x00\xff", None),
    "timestamp": (EVENT, None),
    "float32[3]": ([1.0, 2.0, 3.0], None),
    "list[int64]": ([1, 2], None),
    "list[string]": (["a", ""], None),
    "list[timestamp]": ([EVENT, EVENT], None),
    "list[bytes]": ([], None),
}


class Walked:
    """What a store in memory holds, two rows a page; and its layouts."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.layouts = store.layouts

    def rows(self, view: View, *, rows_per_s: float | None = None) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
        known = list(self.store.rows)
        for part in chunks(len(known), 2):
            page = known[part]
            # The first key comes twice, as a walk of a table that grows may give it.
            page = [known[0], *page]
            newest = [self.store.rows[one][-1] if self.store.rows[one] else None for one in page]
            yield [one.removeprefix(view.head) for one in page], newest


def view_of(*kinds: str, key: str = "string") -> View:
    features = tuple(Feature(f"f{at}", DType.parse(kind)) for at, kind in enumerate(kinds))
    return View("flights", "plane", "plane", (JoinKey("tailnum", DType.parse(key), "tailnum"),), features)


def walked(view: View, table: dict[str, Any]) -> Walked:
    """A store that was written a table."""
    store = MemoryStore()
    store.write(batch_of(view, Layout.of(view), table, wall_us=WALL_US), 0.0)
    return Walked(store)


def planes(count: int) -> dict[str, Any]:
    return {
        "tailnum": [f"N{at}" for at in range(count)],
        "f0": np.arange(count, dtype=np.int32),
        "event_timestamp": [EVENT] * count,
    }


def scanned(store: Walked, view: View, folder: Path) -> tuple[Counts, dict[str, list[Any]]]:
    counts = scan(store, view, folder / "scan.parquet")
    return counts, pq.read_table(folder / "scan.parquet").to_pydict()


def test_every_dtype_comes_back_with_its_nulls(tmp_path: Path) -> None:
    view = view_of(*VALUES)
    columns = {f"f{at}": list(values) for at, values in enumerate(VALUES.values())}
    store = walked(view, {"tailnum": ["N1", "N2"], **columns, "event_timestamp": [EVENT, EVENT]})

    counts, table = scanned(store, view, tmp_path)

    assert counts.kept == 2
    assert table["event_timestamp"] == [EVENT, EVENT]
    for at, (kind, values) in enumerate(VALUES.items()):
        assert table[f"f{at}"] == list(values), kind


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("string", ["a|b", "ü"]),
        ("int64", [-7, 1 << 40]),
        ("bytes", [b"\xff", b"%"]),
        ("timestamp", [EVENT, EVENT.replace(year=1960)]),
    ],
)
def test_every_kind_of_key_comes_back(kind: str, keys: list[Any], tmp_path: Path) -> None:
    view = view_of("int32", key=kind)
    store = walked(view, {"tailnum": keys, "f0": [1, 2], "event_timestamp": [EVENT, EVENT]})

    _, table = scanned(store, view, tmp_path)

    assert dict(zip(table["tailnum"], table["f0"], strict=True)) == dict(zip(keys, [1, 2], strict=True))


def test_what_is_left_out_is_counted_by_why(tmp_path: Path) -> None:
    view = view_of("int32")
    store = walked(view, planes(7))
    rows = store.store.rows
    own = batch_of(view, Layout.of(view), planes(7), wall_us=WALL_US).ask.keys.own
    rows[view.head + b"N2"] = [encode_tombstones(Layout.of(view), np.array([5]), own[2:3])[0]]
    rows[view.head + b"N3"] = [rows[view.head + b"N3"][0][:-1]]
    rows[view.head + b"N4"] = rows[view.head + b"N5"]
    rows[view.head + b"not%ours"] = rows[view.head + b"N5"]
    rows[view.head + b"N6"] = []  # gone between the walk and the read

    counts, table = scanned(store, view, tmp_path)

    assert sorted(set(table["tailnum"])) == ["N0", "N1", "N5"]
    assert (counts.deleted, counts.corrupt) == (1, 3)
    assert str(Counts(4_999, 1, 2)) == "4,999 rows (left out: 1 deleted, 2 corrupt)"


def test_rows_of_an_older_layout_are_read_by_name(tmp_path: Path) -> None:
    store = walked(view_of("int32"), planes(3))

    counts, table = scanned(store, view_of("int32", "string"), tmp_path)

    assert counts.corrupt == 0
    assert set(zip(table["f0"], table["f1"], strict=True)) == {(0, None), (1, None), (2, None)}


def test_a_store_that_cannot_be_walked_is_refused() -> None:
    with pytest.raises(RequestError, match="--from: source 'standby' cannot be scanned"):
        refuse_unscannable(object(), "standby")
