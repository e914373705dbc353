"""A replica on disk: built from Parquet, mapped, searched, damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurechaos.codec import Keys, Layout, column, decode, encode_keys, verify
from featurechaos.errors import DecodeError, RequestError
from featurechaos.model import View
from featurechaos.stores import Block
from featurechaos_s3.build import build, misfit
from featurechaos_s3.manifest import Manifest, Part, snapshot_id
from featurechaos_s3.order import arrange
from featurechaos_s3.replica import DIRECTORY, META, OFFSETS, ROWS, SLOTS, Replica
from tests.s3.conftest import JUNE_US, view_of

NUMBER = view_of({"x": "float32"}, {"n": "int64"})
TEXT = view_of({"x": "float32", "name": "string", "tags": "list[string]"}, {"n": "int64"})


def built(folder: Path, table: dict[str, Any], view: View, *, parts: int = 1, wanted: View | None = None) -> Path:
    """A replica of a table, in a folder of its own."""
    whole = pa.table(table)
    made, raw = folder / "made", folder / "made" / "parts"
    raw.mkdir(parents=True)
    size = -(-whole.num_rows // parts)
    files = []
    for number in range(parts):
        path = raw / f"part-{number:05d}.parquet"
        pq.write_table(whole.slice(number * size, size), path, row_group_size=7, store_schema=False)
        files.append(path)
    layout = Layout.of(view)
    manifest = Manifest(
        project="flights",
        view=view.base,
        snapshot=snapshot_id(JUNE_US, "0" * 8),
        as_of_us=JUNE_US,
        newest_event_us=JUNE_US,
        created_us=JUNE_US,
        rows=whole.num_rows,
        schema=json.loads(layout.describe()),
        schema_hash=f"{layout.hash:016x}",
        parts=tuple(Part(file.name, 1, "", "", 1) for file in files),
    )
    build(made, files, manifest, Layout.of(wanted or view), most_bytes=1 << 30, reached=lambda _: None)
    return made


def numbers(count: int, *, time_us: int = JUNE_US) -> dict[str, Any]:
    return {
        "n": np.arange(count) * 7,
        "x": np.arange(count, dtype=np.float32),
        "event_timestamp": np.full(count, time_us).view("M8[us]"),
    }


def read(replica: Replica, ids: Any) -> tuple[list[float], list[bool]]:
    """The values of some rows and which are there, by however many they are read."""
    keys, _, _ = encode_keys(NUMBER.join_keys, [np.asarray(ids)])
    values, found = _taken(replica, keys)
    for few in (1, 16, 17):
        parts = [_taken(replica, keys.take(np.arange(at, min(at + few, len(keys))))) for at in range(0, len(keys), few)]
        assert [each for part, _ in parts for each in part] == pytest.approx(values, nan_ok=True)
        assert [each for _, part in parts for each in part] == found
    return values, found


def _taken(replica: Replica, keys: Keys) -> tuple[list[float], list[bool]]:
    answer = replica.read(keys)
    if isinstance(answer, Block):
        rows = verify(answer.words, keys.own, replica.layout, answer.found.copy())
        assert len(keys) > 16
        assert (rows.verdicts == np.where(answer.found, 1, 2)).all()
    else:
        rows, _ = decode(answer, keys.own, replica.layout)
        assert rows.verdicts.tolist() == [2 if blob is None else 1 for blob in answer]
    return column(rows, "x").tolist(), (rows.verdicts == 1).tolist()


@pytest.mark.parametrize("count", [1, 2, 3, 100, 5000])
def test_every_row_is_found_and_no_other(count: int, tmp_path: Path) -> None:
    replica = Replica(built(tmp_path, numbers(count), NUMBER, parts=min(count, 3)), Layout.of(NUMBER))

    values, found = read(replica, np.arange(count * 7))

    assert found == [number % 7 == 0 for number in range(count * 7)]
    assert values[::7] == list(map(float, range(count)))
    assert replica.rows == count


@settings(max_examples=40)
@given(
    events=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 5)), min_size=1, max_size=60),
    ask=st.lists(st.integers(0, 10), min_size=1, max_size=11, unique=True),
)
def test_the_newest_of_a_key_wins_and_the_later_of_two_alike(
    events: list[tuple[int, int]], ask: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = {
        "n": np.array([key for key, _ in events]),
        "x": np.arange(len(events), dtype=np.float32),
        "event_timestamp": np.array([JUNE_US + time for _, time in events]).view("M8[us]"),
    }
    want: dict[int, int] = {}
    for row, (key, time) in enumerate(events):
        if key not in want or time >= events[want[key]][1]:
            want[key] = row

    replica = Replica(built(tmp_path_factory.mktemp("r"), table, NUMBER, parts=2), Layout.of(NUMBER))
    values, found = read(replica, ask)

    assert found == [key in want for key in ask]
    assert [value for value, here in zip(values, found, strict=True) if here] == [want[k] for k in ask if k in want]


def test_sorting_by_ranges_of_slots_is_the_same_as_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pa.table(numbers(1000)).to_batches()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    once = arrange(batch, NUMBER.join_keys, "image", rows=1000, scratch=tmp_path / "a")
    monkeypatch.setattr("featurechaos_s3.order._RANGE_ROWS", 50)

    again = arrange(batch, NUMBER.join_keys, "image", rows=1000, scratch=tmp_path / "b")

    assert (again.place == once.place).all()
    assert again.kept == once.kept == 1000


def test_a_row_that_came_is_a_row_that_counts(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="wants 6 rows, got 5"):
        arrange(pa.table(numbers(5)).to_batches(), NUMBER.join_keys, "image", rows=6, scratch=tmp_path)


def test_strings_and_lists_come_back_as_they_went(tmp_path: Path) -> None:
    table = numbers(50) | {
        "name": [None if n % 5 == 0 else f"name-{n}" * (n % 4) for n in range(50)],
        "tags": [None if n % 7 == 0 else [f"t{k}" for k in range(n % 3)] for n in range(50)],
    }
    replica = Replica(built(tmp_path, table, TEXT, parts=3), Layout.of(TEXT))
    keys, _, _ = encode_keys(TEXT.join_keys, [np.arange(50) * 7])

    blobs = replica.read(keys)

    assert isinstance(blobs, list)
    rows, _ = decode(blobs, keys.own, replica.layout)
    assert (rows.verdicts == 1).all()
    assert column(rows, "name").tolist() == table["name"]
    assert column(rows, "tags").tolist() == table["tags"]


def test_every_dtype_with_nulls_survives_the_way_to_disk(tmp_path: Path) -> None:
    scalars = {"b": "bool", "i": "int32", "l": "int64", "f": "float32", "d": "float64", "t": "timestamp"}
    view = view_of(scalars | {"v": "float32[3]", "w": "int64[2]"}, {"n": "int64"})
    table = {
        "n": pa.array([1, 2]),
        "event_timestamp": np.full(2, JUNE_US).view("M8[us]"),
        "b": pa.array([True, None]),
        "i": pa.array([-(2**31), None], pa.int32()),
        "l": pa.array([2**63 - 1, None]),
        "f": pa.array([float("-inf"), None], pa.float32()),
        "d": pa.array([5e-324, float("nan")]),
        "t": pa.array([0, None], pa.timestamp("us", "UTC")),
        "v": pa.array([[1, 2, 3], None], pa.list_(pa.float32(), 3)),
        "w": pa.array([[4, 5], None], pa.list_(pa.int64(), 2)),
    }
    replica = Replica(built(tmp_path, table, view), Layout.of(view))
    keys, _, _ = encode_keys(view.join_keys, [np.array([1, 2])])
    blobs = replica.read(keys)
    assert isinstance(blobs, list)

    rows, _ = decode(blobs, keys.own, replica.layout)

    assert [column(rows, name)[0] for name in scalars][:3] == [True, -(2**31), 2**63 - 1]
    assert column(rows, "d")[0] == 5e-324
    assert column(rows, "w").tolist() == [[4, 5], [0, 0]]
    assert np.isnan(column(rows, "v")[1]).all()
    assert np.isnat(column(rows, "t")).tolist() == [False, True]


def test_an_image_of_another_schema_is_read_by_name(tmp_path: Path) -> None:
    old = view_of({"gone": "float32", "x": "float32"}, {"n": "int32"})
    new = view_of({"x": "float64", "added": "string"}, {"n": "int64"})
    table = numbers(10) | {"gone": np.zeros(10, np.float32)}
    table["n"] = table["n"].astype(np.int32)

    replica = Replica(built(tmp_path, table, old, wanted=new), Layout.of(new))

    keys, _, _ = encode_keys(new.join_keys, [np.array([63])])
    blobs = replica.read(keys)
    assert isinstance(blobs, list)
    rows, _ = decode(blobs, keys.own, replica.layout)
    assert column(rows, "x").tolist() == [9.0]
    assert column(rows, "added").tolist() == [None]


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (view_of({"x": "int64"}, {"n": "int64"}), "feature 'x' is float32 in the image and int64 in the view"),
        (view_of({"x": "float32[2]"}, {"n": "int64"}), "feature 'x'"),
        (view_of({"x": "float32"}, {"n": "string"}), "its join keys are n int64, the view's are n string"),
        (view_of({"x": "float32"}, {"m": "int64"}), "its join keys"),
    ],
)
def test_what_would_have_to_be_guessed_does_not_fit(wanted: View, says: str) -> None:
    assert says in (misfit(Layout.of(NUMBER), Layout.of(wanted)) or "")


def test_a_replica_of_another_layout_is_not_mapped(tmp_path: Path) -> None:
    made = built(tmp_path, numbers(10), NUMBER)

    with pytest.raises(DecodeError, match="layout"):
        Replica(made, Layout.of(TEXT))


@pytest.mark.parametrize("name", [SLOTS, DIRECTORY, ROWS, OFFSETS, META])
@pytest.mark.parametrize("damage", ["cut", "longer", "gone", "zeroed"])
def test_a_damaged_file_is_never_taken_for_whole(name: str, damage: str, tmp_path: Path) -> None:
    table = numbers(300) | {"name": ["x"] * 300, "tags": [["y"]] * 300}
    made = built(tmp_path, table, TEXT)
    path = made / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        new = {"cut": content[:-8], "longer": content + b"\0" * 8, "zeroed": bytes(len(content))}[damage]
        path.write_bytes(new)

    with pytest.raises((DecodeError, FileNotFoundError)):
        Replica(made, Layout.of(TEXT)).warm()


@pytest.mark.parametrize("name", [SLOTS, DIRECTORY, ROWS])
def test_one_flipped_bit_anywhere_is_seen_when_it_is_warmed(name: str, tmp_path: Path) -> None:
    made = built(tmp_path, numbers(3000), NUMBER)
    content = bytearray((made / name).read_bytes())
    content[len(content) // 3] ^= 4
    (made / name).write_bytes(content)
    replica = Replica(made, Layout.of(NUMBER))

    with pytest.raises(DecodeError, match="checksum"):
        replica.warm()

    assert not replica.is_warm


def test_a_directory_gone_wrong_ends_in_misses_and_never_in_wrong_rows(tmp_path: Path) -> None:
    made = built(tmp_path, numbers(3000), NUMBER)
    size = len((made / DIRECTORY).read_bytes())
    (made / DIRECTORY).write_bytes(np.random.default_rng(1).bytes(size))
    replica = Replica(made, Layout.of(NUMBER))

    values, found = read(replica, np.arange(3000) * 7)

    assert sum(found) < 3000
    assert all(value == row for row, (value, here) in enumerate(zip(values, found, strict=True)) if here)


def test_an_answer_is_ours_and_outlives_the_mapping(tmp_path: Path) -> None:
    replica = Replica(built(tmp_path, numbers(100), NUMBER), Layout.of(NUMBER))
    keys, _, _ = encode_keys(NUMBER.join_keys, [np.arange(50) * 7])

    block = replica.read(keys)
    del replica

    assert isinstance(block, Block)
    block.words[:] = 0
    assert block.words.flags.c_contiguous
    assert block.words.flags.owndata
