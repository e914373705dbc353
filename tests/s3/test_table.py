"""Which columns fit a view, and what comes of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurechaos.errors import RequestError
from featurechaos_s3.table import fitted, has_holes, plain, source_of, times_us
from tests.s3.conftest import dtype

DATE = dt.datetime(2024, 6, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (pa.array([1, 2], pa.int32()), "int64"),
        (pa.array([1, 2], pa.int64()), "int32"),
        (pa.array([1.0, None], pa.float64()), "int32"),
        (pa.array([0.1, 0.2], pa.float64()), "float32"),
        (pa.array([1, 2], pa.int8()), "float32"),
        (pa.array(["a", None], pa.large_string()), "string"),
        (pa.array(["a", "b"]).dictionary_encode(), "string"),
        (pa.array([b"a", b"b"], pa.binary(1)), "bytes"),
        (pa.array([DATE], pa.timestamp("ns", "Europe/Berlin")), "timestamp"),
        (pa.array([DATE], pa.timestamp("s")), "timestamp"),
        (pa.array([None, None]), "float32"),
        (pa.array([[1.0, 2.0], None]), "float32[2]"),
        (pa.array([[1.0, 2.0]], pa.list_(pa.float64(), 2)), "float32[2]"),
        (pa.array([["a"], []], pa.list_(pa.large_string())), "list[string]"),
    ],
)
def test_what_loses_nothing_is_taken(given: Any, name: str) -> None:
    got = fitted(given, dtype(name), "column 'x'")

    want = given.dictionary_decode() if isinstance(given, pa.DictionaryArray) else given
    if name not in {"float32", "float32[2]", "timestamp"}:
        assert got.to_pylist() == want.to_pylist()
    assert len(got) == len(given)
    assert got.null_count == given.null_count


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (pa.array([2**40]), "int32"),
        (pa.array([1.5]), "int64"),
        (pa.array([float("nan")]), "int64"),
        (pa.array([2**60 + 1]), "float64"),
        (pa.array([True]), "int32"),
        (pa.array([1]), "bool"),
        (pa.array(["1"]), "int64"),
        (pa.array([1]), "string"),
        (pa.array(["a"]), "bytes"),
        (pa.array([1]), "timestamp"),
        (pa.array([[1.0, 2.0, 3.0]]), "float32[2]"),
        (pa.array([1.0]), "float32[2]"),
        (pa.array([["a"]]), "list[float32]"),
    ],
)
def test_what_would_lose_or_guess_is_refused_by_name(given: Any, name: str) -> None:
    with pytest.raises(RequestError) as refused:
        fitted(given, dtype(name), "view 'plane', column 'x'")

    assert f"view 'plane', column 'x' wants {name}, got {given.type}" in str(refused.value)


def test_naive_times_are_utc_and_every_zone_is_one_instant() -> None:
    naive = pa.array([dt.datetime(2024, 6, 1)], pa.timestamp("us"))  # noqa: DTZ001 - the case itself
    elsewhere = pa.array([DATE], pa.timestamp("ms", "Asia/Tokyo"))

    assert times_us(naive, "t").tolist() == times_us(elsewhere, "t").tolist() == [1_717_200_000_000_000]


def test_a_row_without_an_event_time_is_named() -> None:
    with pytest.raises(RequestError, match="wants a time in every row, row 1 of its batch"):
        times_us(pa.array([DATE, None]), "t")


def test_null_vectors_stay_null_and_others_keep_their_place() -> None:
    whole = pa.array([[9.0, 9.0], [1.0, 2.0], None, [3.0, None]], pa.list_(pa.float32(), 2))

    got = plain(whole.slice(1), dtype("float32[2]"))

    assert isinstance(got, np.ma.MaskedArray)
    assert np.ma.getmaskarray(got)[:, 0].tolist() == [False, True, False]
    assert got.data[0].tolist() == [1.0, 2.0]
    assert got.data[2][0] == 3.0
    assert np.isnan(got.data[2][1])


def test_an_integer_vector_with_a_hole_is_noticed() -> None:
    assert has_holes(pa.array([[1, None]], pa.list_(pa.int32(), 2)), dtype("int32[2]"))
    assert not has_holes(pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), dtype("int32[2]"))
    assert not has_holes(pa.array([[1.0, None]], pa.list_(pa.float32(), 2)), dtype("float32[2]"))


@pytest.mark.parametrize("kind", ["dict", "arrow", "batch", "pandas", "file", "folder"])
def test_a_table_may_be_held_in_anything_usual(kind: str, tmp_path: Path) -> None:
    columns: dict[str, Any] = {"n": np.arange(5), "v": np.arange(10, dtype=np.float32).reshape(5, 2)}
    table = pa.table({"n": columns["n"], "v": list(columns["v"])})
    pq.write_table(table, tmp_path / "one.parquet")
    given: Any = {
        "dict": columns,
        "arrow": table,
        "batch": table.to_batches()[0],
        "pandas": pd.DataFrame({"n": columns["n"], "v": list(columns["v"])}),
        "file": str(tmp_path / "one.parquet"),
        "folder": tmp_path,
    }[kind]

    source = source_of(given, "view 'plane'")

    batches = list(source.batches(["v", "n"], 2))
    assert source.rows == 5
    assert max(map(len, batches)) <= 2
    assert [one for batch in batches for one in batch["n"].to_pylist()] == [0, 1, 2, 3, 4]
    assert batches[1]["v"].to_pylist()[0] == [4.0, 5.0]


@pytest.mark.parametrize(
    "given", [7, [1, 2], {"a": [1], "b": [1, 2]}, {"a": [1, "x"]}, "nowhere.parquet", Path(__file__)]
)
def test_anything_else_is_refused_in_one_sentence(given: object) -> None:
    with pytest.raises(RequestError, match="view 'plane'") as refused:
        source_of(given, "view 'plane'")

    assert "\n" not in str(refused.value)
