"""Parts, caches and pointers with anything in them: a replica, or one sentence; in bounded time and memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featurechaos.codec import Layout, decode, encode_keys
from featurechaos.errors import DecodeError
from featurechaos.model import View
from featurechaos_s3 import library
from featurechaos_s3.bucket import Absent, Thing
from featurechaos_s3.buried import from_cache, from_json
from featurechaos_s3.hydrate import Work, hydrate
from featurechaos_s3.manifest import Current, Manifest, Part, current_key, snapshot_id
from featurechaos_s3.replica import META, OFFSETS, Replica
from featurechaos_s3.shelf import Pointer, Shelf
from tests.s3.conftest import DAY_US, JUNE_US, view_of
from tests.s3.test_replica import TEXT, built, numbers

NAMES = view_of({"x": "float32", "name": "string"}, {"n": "int64"})
shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


class Shop:
    """A bucket in memory: what hydration asks of one, and no server."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def get(self, key: str, *, most_bytes: int, known: str | None = None) -> tuple[bytes, str]:
        if key not in self.objects:
            raise Absent(key)
        if len(self.objects[key]) > most_bytes:
            raise DecodeError(key)
        return self.objects[key], '"e"'

    def pull(self, key: str, into: BinaryIO, *, etag: str | None, most_bytes: int | None) -> tuple[int, str]:
        into.write(self.objects[key])
        return len(self.objects[key]), hashlib.sha256(self.objects[key]).hexdigest()

    def things(self, prefix: str) -> list[Thing]:
        return [Thing(key, '"e"', len(it), 0.0) for key, it in self.objects.items() if key.startswith(prefix)]

    def offer(self, part: bytes, *, as_of_us: int = JUNE_US, view: View = NAMES, **said: Any) -> Manifest:
        """Announce an image of one part; every digest holds, whatever the part is."""
        layout, rows = Layout.of(view), said.get("rows", 100)
        digest = hashlib.sha256(part).hexdigest()
        manifest = Manifest(
            project="flights",
            view=view.base,
            snapshot=snapshot_id(as_of_us, digest),
            as_of_us=as_of_us,
            newest_event_us=as_of_us,
            created_us=as_of_us,
            rows=rows,
            schema=json.loads(layout.describe()),
            schema_hash=f"{layout.hash:016x}",
            parts=(Part("part-00000.parquet", len(part), '"e"', digest, rows),),
        )
        self.objects[manifest.part_key(manifest.parts[0])] = part
        self.announce(replace(manifest, **said).to_json(), manifest)
        return manifest

    def announce(self, content: bytes, manifest: Manifest) -> None:
        self.objects[manifest.key] = content
        current = Current(manifest.snapshot, manifest.as_of_us, hashlib.sha256(content).hexdigest())
        self.objects[current_key(manifest.view)] = current.to_json()


def parquet(count: int = 100, **how: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table(numbers(count) | {"name": ["name"] * count})
    pq.write_table(table, sink, **({"store_schema": False, "row_group_size": 40} | how))
    return bytes(sink.getvalue())


WHOLE = [parquet(compression=kind) for kind in ("none", "snappy", "zstd")]


def work_in(folder: Path, view: View = NAMES) -> Work:
    layout = Layout.of(view)
    return Work(view.base, layout, Shelf(folder, layout.hash), 1 << 30, frozenset(), None)


def met(shop: Shop, work: Work) -> dict[str, Any]:
    """Hydrate what is announced. Whatever comes of it: a replica that holds, or the one before and one sentence."""
    before = work.shelf.pointer()

    told = hydrate(shop, work)  # type: ignore[arg-type]

    after = work.shelf.pointer()
    if told["state"] == "refused":
        assert after == before
        assert told["detail"]
        assert len(told["detail"]) <= 500
        assert "\n" not in told["detail"]
    else:
        assert told["state"] in {"hydrated", "current"}
    assert after is not None
    Replica(work.shelf.folder / after.replica, work.layout).warm()
    assert not list(work.shelf.folder.glob(".making-*"))
    return told


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shop, Work]:
    """A view with a good replica, a bucket to damage."""
    shop, work = Shop(), work_in(tmp_path_factory.mktemp("serving"))
    shop.offer(WHOLE[0])
    assert met(shop, work)["state"] == "hydrated"
    return shop, work


def flip(data: st.DataObject, part: bytearray) -> None:
    for _ in range(data.draw(st.integers(1, 4))):
        part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))


def flip_footer(data: st.DataObject, part: bytearray) -> None:
    size = int.from_bytes(part[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        part[len(part) - 8 - data.draw(st.integers(1, size))] ^= 1 << data.draw(st.integers(0, 7))


def cut(data: st.DataObject, part: bytearray) -> None:
    del part[data.draw(st.integers(0, len(part) - 1)) :]


def lie_of_length(data: st.DataObject, part: bytearray) -> None:
    part[-8:-4] = data.draw(st.integers(0, 2**32 - 1)).to_bytes(4, "little")


def overwrite(data: st.DataObject, part: bytearray) -> None:
    at = data.draw(st.integers(0, len(part)))
    part[at : at + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))


@settings(shared, max_examples=150)
@given(
    data=st.data(),
    whole=st.sampled_from(WHOLE),
    damage=st.sampled_from([flip, flip_footer, flip_footer, cut, lie_of_length, overwrite]),
)
def test_a_damaged_part_whose_digest_holds_is_refused_in_one_sentence_or_read(
    data: st.DataObject,
    whole: bytes,
    damage: Callable[[st.DataObject, bytearray], None],
    serving: tuple[Shop, Work],
) -> None:
    shop, work = serving
    part = bytearray(whole)
    damage(data, part)

    shop.offer(bytes(part), as_of_us=JUNE_US + DAY_US)

    met(shop, work)


@settings(shared, max_examples=60)
@given(
    name=st.sampled_from(
        ["rows", "as_of_us", "newest_event_us", "created_us", "schema_hash", "schema", "parts", "view"]
    ),
    value=st.one_of(
        st.integers(-(2**70), 2**70),
        st.sampled_from([2**63, -1, 10**9, 10**12, 2**31, None, {}, [], "", 1e308, {"features": []}]),
    ),
)
@example(name="as_of_us", value=2**63)
@example(name="rows", value=-1)
@example(name="rows", value=10**9)
def test_a_manifest_that_says_anything_else_is_refused_or_true(
    name: str, value: Any, serving: tuple[Shop, Work]
) -> None:
    shop, work = serving
    manifest = shop.offer(WHOLE[0], as_of_us=JUNE_US + 2 * DAY_US)
    said = json.loads(manifest.to_json()) | {name: value}
    if name == "rows":
        said["parts"][0]["rows"] = value

    shop.announce(json.dumps(said).encode(), manifest)

    met(shop, work)


@pytest.mark.parametrize(
    ("name", "value"), [("rows", -1), ("rows", 2**63), ("as_of_us", 2**63), ("created_us", -(2**64))]
)
def test_a_number_beyond_its_kind_is_named(name: str, value: int) -> None:
    manifest = Shop().offer(WHOLE[0])
    said = json.loads(manifest.to_json()) | {name: value}

    with pytest.raises(DecodeError, match=f"{name} wants an int from"):
        Manifest.from_json(json.dumps(said).encode(), place="m")


BOMB = """
import sys
from pathlib import Path
from featurechaos_s3.hydrate import bound_memory, hydrate
from tests.s3.test_damage import *
bound_memory(1500 << 20)
shop, work = Shop(), work_in(Path(sys.argv[1]))
shop.offer(WHOLE[0])
first = hydrate(shop, work)
assert first["state"] == "hydrated", first
shop.offer(Path(sys.argv[2]).read_bytes(), as_of_us=JUNE_US + DAY_US, rows=20_000)
print(json.dumps(met(shop, work)))
"""


def test_a_small_part_that_unpacks_to_gigabytes_is_refused_within_the_bound(tmp_path: Path, root: Path) -> None:
    count = 20_000
    texts = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array(["x" * 100_000]))
    bomb = tmp_path / "bomb.parquet"
    pq.write_table(pa.table(numbers(count) | {"name": texts}), bomb, compression="zstd", store_schema=False)
    assert bomb.stat().st_size < 300_000

    child = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path / "cache"), str(bomb)],
        cwd=root,
        capture_output=True,
        timeout=120,
        check=True,
    )

    told = json.loads(child.stdout)
    assert told["state"] == "refused"
    assert "MemoryError" in told["detail"]


@pytest.mark.parametrize("part", [b"PAR1" * 3, b"", WHOLE[1][:-30], WHOLE[1][:40] + bytes(200) + WHOLE[1][240:]])
def test_an_image_that_is_not_parquet_is_a_problem_and_one_error(part: bytes) -> None:
    shop = Shop()
    shop.offer(part)

    checked = library.verify(shop, "plane", None)  # type: ignore[arg-type]

    try:
        table = library.entities(shop, "plane", ["n"], 5)  # type: ignore[arg-type]
        assert len(table) <= 5
    except DecodeError as error:
        assert "part-00000.parquet cannot be read" in str(error)  # noqa: PT017 - both ways are good
    assert len(checked.problems) <= 1


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.sampled_from([float("inf"), float("nan"), 1e308, "9" * 5000, None, True])
)


@given(slot=NUMBERS, time=NUMBERS, text=st.binary(max_size=40) | st.just(b"[" * 20_000))
@example(slot=1, time=float("inf"), text=b"")
def test_any_deletions_are_tombstones_or_one_error(slot: Any, time: Any, text: bytes) -> None:
    cached = json.dumps({"format": 1, "objects": [["k", "e"]], "rows": [[slot, time]]}).encode()
    stored = json.dumps({"format": 1, "rows": [{"slot": str(slot), "event_us": time}]}).encode()
    for content in (cached, stored, text):
        for read in (from_cache, lambda it: from_json(it, place="deletions/x.json")):
            try:
                read(content)
            except DecodeError as error:
                assert "\n" not in str(error)  # noqa: PT017 - both ways are good


NAME = f"20240601T000000.000000Z-00000000-{Layout.of(NAMES).hash:016x}"


@shared
@example(content=b"[" * 4096)
@example(content=json.dumps({"replica": NAME + "\0", "etag": "e"}).encode())
@example(content=json.dumps({"replica": NAME + "\ud800", "etag": "e"}).encode())
@example(content=json.dumps({"replica": NAME, "etag": "e\r\nX: y"}).encode())
@given(
    content=st.binary(max_size=80)
    | st.builds(lambda name, etag: json.dumps({"replica": NAME + name, "etag": etag}).encode(), st.text(), st.text())
)
def test_a_pointer_is_one_of_ours_or_none(content: bytes, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, Layout.of(NAMES).hash)
    shelf.point(Pointer(NAME, "e"))
    assert shelf.pointer() == Pointer(NAME, "e")
    (path,) = tmp_path.glob("current.*.json")
    path.write_bytes(content)

    pointer = shelf.pointer()
    shelf.sweep()

    assert pointer is None or (pointer.replica == NAME and pointer.etag.isprintable())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = numbers(300) | {"name": ["x" * 40] * 300, "tags": [["y"]] * 300}
    return built(tmp_path_factory.mktemp("made"), table, TEXT)


def opened(folder: Path) -> Replica | None:
    """A replica, or None if one of our errors said why not."""
    try:
        return Replica(folder, Layout.of(TEXT))
    except (DecodeError, FileNotFoundError):
        return None


@settings(shared, max_examples=100)
@given(data=st.data())
def test_a_replica_with_bytes_changed_anywhere_reads_its_rows_corrupt_missing_or_true(
    made: Path, data: st.DataObject
) -> None:
    path = made / data.draw(st.sampled_from(sorted(each.name for each in made.glob("*.*"))))
    content = path.read_bytes()
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        some = data.draw(st.binary(min_size=1, max_size=9))[: len(content) - at]
        changed[at : at + len(some)] = some
    keys, _, _ = encode_keys(TEXT.join_keys, [np.arange(300) * 7])

    path.write_bytes(changed)
    try:
        replica = opened(made)
        blobs = replica.read(keys) if replica is not None else []
    finally:
        path.write_bytes(content)

    if blobs:
        assert isinstance(blobs, list)
        rows, _ = decode(blobs, keys.own, Layout.of(TEXT))
        assert set(rows.verdicts.tolist()) <= {1, 2, 6}


@pytest.mark.parametrize(
    "change",
    [
        {"deepest": 2**60},
        {"deepest": 0},
        {"deepest": -1},
        {"as_of_us": 2**63},
        {"rows": -1},
        {"rows": 2**62},
        {"bits": 64},
        {"files": {}},
        {"files": {"../../x": {"size_bytes": 0, "crc32": 0}}},
        {"files": {OFFSETS: {"size_bytes": float("inf"), "crc32": 0}}},
        {"files": {OFFSETS: {"size_bytes": 4800, "crc32": float("inf")}}},
    ],
)
def test_what_a_replica_says_of_itself_is_not_believed_beyond_its_bounds(made: Path, change: dict[str, Any]) -> None:
    content = (made / META).read_bytes()
    said = json.loads(content)
    files = said["files"] | change.get("files", {}) if change.get("files") else change.get("files", said["files"])

    (made / META).write_text(json.dumps(said | change | {"files": files}))
    try:
        assert opened(made) is None
    finally:
        (made / META).write_bytes(content)


def test_a_damaged_offset_copies_no_more_than_a_row(made: Path, tmp_path: Path) -> None:
    folder = built(tmp_path, numbers(3000) | {"name": ["x" * 100] * 3000, "tags": [["y"]] * 3000}, TEXT)
    offsets = np.fromfile(folder / OFFSETS, np.uint64).reshape(-1, 2)
    replica = Replica(folder, Layout.of(TEXT))
    offsets[:, 0], offsets[:, 1] = 0, 2**64 - 1
    np.copyto(np.memmap(folder / OFFSETS, np.uint64, "r+", shape=offsets.shape), offsets)
    keys, _, _ = encode_keys(TEXT.join_keys, [np.arange(20) * 7])

    blobs = replica.read(keys)

    assert isinstance(blobs, list)
    assert max(len(blob or b"") for blob in blobs) <= 65_544
    assert set(decode(blobs, keys.own, Layout.of(TEXT))[0].verdicts.tolist()) == {6}
