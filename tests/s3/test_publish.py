"""Images go to the bucket whole or not at all."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurechaos.codec import Layout
from featurechaos.errors import RequestError, StoreError, StoreRefused, StoreUnavailable
from featurechaos.model import View
from featurechaos_s3 import publish as publishing
from featurechaos_s3.bucket import Bucket
from featurechaos_s3.manifest import Current, current_key, home, manifest_key
from tests.s3.conftest import DAY_US, JUNE_US, PLANE, World, planes, publish, refresh_here, seats, view_of

pytestmark = pytest.mark.live


def keys_of(world: World, view: View = PLANE) -> list[str]:
    return [one.key for one in world.bucket.things(home(view.base))]


def current(world: World) -> Current:
    content, _ = world.bucket.get(current_key("plane"), most_bytes=10_000)
    return Current.from_json(content, place="CURRENT")


def test_an_image_is_parts_a_manifest_and_a_pointer(each_world: World) -> None:
    manifest = publish(each_world.store(), planes(10, 100))

    folder = f"snapshots/plane/v={manifest.snapshot}"
    assert keys_of(each_world) == [current_key("plane"), f"{folder}/manifest.json", f"{folder}/part-00000.parquet"]
    assert manifest.snapshot.startswith("20240601T000000.000000Z-")
    assert (manifest.rows, manifest.as_of_us, manifest.newest_event_us) == (10, JUNE_US, JUNE_US)
    assert (manifest.project, manifest.schema_hash) == ("flights", f"{Layout.of(PLANE).hash:016x}")
    content, _ = each_world.bucket.get(manifest_key("plane", manifest.snapshot), most_bytes=10_000)
    assert json.loads(content)["parts"][0]["rows"] == 10


def test_other_tools_can_read_the_parts(world: World, tmp_path: Path) -> None:
    view = view_of({"v": "float32[3]", "name": "string"})
    table = planes(5, 1) | {"v": np.ones((5, 3)), "name": list("abcde"), "extra": range(5)}
    manifest = publish(world.store(view), table, view=view)

    path = tmp_path / "part.parquet"
    with path.open("wb") as file:
        world.bucket.pull(manifest.part_key(manifest.parts[0]), file)
    got = pq.read_table(path)

    assert got.schema.names == ["tailnum", "event_timestamp", "v", "name"]
    assert got.schema.field("v").type.value_type == pa.float32()
    assert got["v"].to_pylist() == [[1.0] * 3] * 5
    assert got.schema.field("event_timestamp").type == pa.timestamp("us", tz="UTC")
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_older_rows_of_a_key_are_left_out(world: World) -> None:
    twice = {name: [*planes(3, 1)[name], *planes(2, 2, time_us=JUNE_US + 1)[name]] for name in planes(1, 1)}
    store = world.store()

    manifest = publish(store, twice)

    assert manifest.rows == 3
    refresh_here(store)
    assert seats(store, "N0", "N1", "N2") == [2, 2, 1]


@pytest.mark.parametrize("as_path", [str, Path, "s3"])
def test_parquet_is_taken_by_its_address(as_path: Any, world: World, tmp_path: Path) -> None:
    path = tmp_path / "given.parquet"
    pq.write_table(pa.table(planes(20, 7)), path)
    given = as_path(path) if as_path != "s3" else f"s3://features/{world.prefix}/raw/given.parquet"
    world.bucket.put("raw/given.parquet", path.read_bytes())
    store = world.store()

    assert publish(store, given).rows == 20
    refresh_here(store)
    assert seats(store, "N19") == [7]


def without(name: str) -> dict[str, Any]:
    return {key: values for key, values in planes(10, 1).items() if key != name}


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (without("seats"), {}, "view 'plane' wants columns tailnum, event_timestamp, seats; the table has no seats"),
    (without("tailnum"), {}, "the table has no tailnum"),
    (without("event_timestamp"), {}, "the table has no event_timestamp"),
    (planes(10, 1) | {"tailnum": [None, *"abcdefghi"]}, {}, "join key 'tailnum' wants a value in every row, row 0"),
    (planes(10, 1) | {"tailnum": range(10)}, {}, "join key 'tailnum' wants string, got int64"),
    (planes(10, 1) | {"seats": ["many"] * 10}, {}, "column 'seats' wants int32, got string"),
    (planes(10, 1) | {"seats": [2**40] * 10}, {}, "column 'seats' wants int32, got int64 with a value"),
    (planes(10, 1) | {"event_timestamp": [None] * 10}, {}, "wants a time in every row"),
    (planes(10, 1) | {"event_timestamp": range(10)}, {}, "'event_timestamp' wants timestamp, got int64"),
    (planes(10, 1), {"as_of_us": JUNE_US - 1}, "as_of 2024-05-31T23:59:59.999999Z is before the newest event"),
    (planes(10, 1), {"as_of_us": 10**16}, "more than 60 s after now"),
    (planes(4, 1, time_us=JUNE_US + 5), {}, "the table has 4 rows, fewer than half of the 10 in image"),
    (planes(0, 1), {}, "the table has no rows"),
    ("s3://features/nowhere/at-all.parquet", {}, "there is no s3://features/nowhere/at-all.parquet"),
    ("s3://features/nowhere/", {}, "there is none under s3://features/nowhere/"),
    ("/nowhere.parquet", {}, "wants a Parquet file"),
    (7, {}, "got int"),
]


@pytest.mark.parametrize(("table", "more", "says"), REFUSED)
def test_a_refused_table_leaves_everything_as_it_was(table: Any, more: dict[str, Any], says: str, world: World) -> None:
    store = world.store()
    publish(store, planes(10, 9))
    before = keys_of(world)

    with pytest.raises(RequestError) as refused:
        publish(store, table, **more)

    assert says in str(refused.value)
    assert keys_of(world) == before
    refresh_here(store)
    assert seats(store, "N0") == [9]


def test_a_row_too_long_to_be_stored_is_refused_at_once(world: World) -> None:
    view = view_of({"name": "string"})

    with pytest.raises(RequestError, match="view 'plane'"):
        publish(world.store(view), planes(2, 1) | {"name": ["x", "y" * 70_000]}, view=view)

    assert keys_of(world) == []


def test_shrinking_is_taken_when_it_is_meant(world: World) -> None:
    store = world.store()
    publish(store, planes(10, 1))

    manifest = publish(store, planes(2, 2, time_us=JUNE_US + 1), allow_shrink=True)

    assert current(world).snapshot == manifest.snapshot


def test_a_late_image_never_turns_time_back(world: World) -> None:
    store = world.store()
    newest = publish(store, planes(4, 2, time_us=JUNE_US + DAY_US))

    publish(store, planes(4, 1))

    assert current(world).snapshot == newest.snapshot
    assert [one.as_of_us for one in store.snapshots("plane")] == [JUNE_US, JUNE_US + DAY_US]


def test_publishing_the_same_again_changes_nothing(world: World) -> None:
    store = world.store()
    first = publish(store, planes(4, 2))
    before = world.bucket.things(home("plane"))

    second = publish(store, planes(4, 2))

    assert second == first
    after = world.bucket.things(home("plane"))
    assert [(one.key, one.etag) for one in after] == [(one.key, one.etag) for one in before]


def test_a_damaged_pointer_is_mended_by_the_next_publish(world: World) -> None:
    store = world.store()
    publish(store, planes(4, 1))
    world.bucket.put(current_key("plane"), b"not json")

    manifest = publish(store, planes(4, 2, time_us=JUNE_US + 1))

    assert current(world).snapshot == manifest.snapshot


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_publishes_at_once_one_wins_and_the_other_is_told(
    is_first: bool, each_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = each_world.store()
    if not is_first:
        publish(store, planes(4, 0))
    meet, upload = threading.Barrier(2), publishing._uploaded

    def upload_and_meet(*args: Any) -> Any:
        done = upload(*args)
        meet.wait(30)
        return done

    monkeypatch.setattr(publishing, "_uploaded", upload_and_meet)
    done: list[Any] = []

    def work(number: int) -> None:
        try:
            done.append(publish(store, planes(4, number, time_us=JUNE_US + number)))
        except StoreError as error:
            done.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (lost,) = [one for one in done if isinstance(one, Exception)]
    (won,) = [one for one in done if not isinstance(one, Exception)]
    assert "another publish made" in str(lost)
    assert "publish again" in str(lost)
    assert current(each_world).snapshot == won.snapshot
    # Nothing of the loser's stays behind.
    assert len(store.snapshots("plane")) == (1 if is_first else 2)
    refresh_here(store)
    assert seats(store, "N0") == [won.as_of_us - JUNE_US]


def test_an_upload_that_fails_half_way_takes_its_parts_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store = world.store()
    publish(store, planes(10, 1))
    before = keys_of(world)
    monkeypatch.setattr(publishing, "_PART_ROWS", 4)
    put = Bucket.put

    def failing(self: Any, key: str, content: Any, **given: Any) -> str:
        if key.endswith("part-00001.parquet"):
            raise StoreUnavailable(key)
        return put(self, key, content, **given)

    monkeypatch.setattr(Bucket, "put", failing)
    monkeypatch.setattr(publishing, "batch_rows", lambda _: 4)
    with pytest.raises(StoreUnavailable):
        publish(store, planes(10, 2, time_us=JUNE_US + 1))

    assert keys_of(world) == before


def test_many_parts_are_one_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_PART_ROWS", 4)
    monkeypatch.setattr(publishing, "batch_rows", lambda _: 4)
    store = world.store()

    manifest = publish(store, planes(10, 3))

    assert [part.rows for part in manifest.parts] == [4, 4, 2]
    assert refresh_here(store).rows == 10
    assert seats(store, *(f"N{number}" for number in range(10))) == [3] * 10


def test_wrong_credentials_are_a_refusal(seaweed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")

    with pytest.raises(StoreRefused, match="source 'standby'"):
        publish(World(seaweed, tmp_path).store(), planes(1, 1))


def test_no_server_is_no_answer_and_comes_soon(tmp_path: Path, moto: Any, free_port: int) -> None:
    store = World(moto, tmp_path).store(endpoint_url=f"http://127.0.0.1:{free_port}")

    with pytest.raises(StoreUnavailable, match="source 'standby'"):
        publish(store, planes(1, 1))
