"""Turn the Parquet parts of an image into a replica: the second pass.

Rows are packed a batch at a time and land straight in a file mapped to memory, in the order of their
slots, so that anonymous memory stays bounded by a batch and the sort, whatever the image's size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from featurechaos.codec import Layout, encode
from featurechaos.errors import DecodeError
from featurechaos.model import DType
from featurechaos_s3.manifest import Manifest
from featurechaos_s3.order import Order, arrange
from featurechaos_s3.replica import DIRECTORY, FORMAT, META, OFFSETS, ROWS, SLOTS, checksum
from featurechaos_s3.table import EVENT_TIME, batch_rows, fitted, plain, source_of

_WIDENS = {("int32", "int64"), ("float32", "float64")}
_BLOCK = 1 << 20


def misfit(stored: Layout, wanted: Layout) -> str | None:
    """Why an image of one layout can't be read as another, or None: features go by name, and may widen."""
    theirs = {key.name: key.dtype for key in stored.join_keys}
    own = {key.name: key.dtype for key in wanted.join_keys}
    if theirs.keys() != own.keys() or not all(_reads_as(theirs[name], own[name]) for name in own):
        return f"its join keys are {_listed(theirs)}, the view's are {_listed(own)}"
    kept = {feature.name: feature.dtype for feature in stored.features}
    for feature in wanted.features:
        had = kept.get(feature.name)
        if had is not None and not _reads_as(had, feature.dtype):
            name, ours = feature.name, feature.dtype
            return f"feature {name!r} is {had} in the image and {ours} in the view; that wants another view"
    return None


def _listed(keys: dict[str, DType]) -> str:
    return ", ".join(f"{name} {dtype}" for name, dtype in keys.items())


def _reads_as(had: DType, wanted: DType) -> bool:
    if (had.dim, had.is_list) != (wanted.dim, wanted.is_list):
        return False
    return had.base == wanted.base or (had.base, wanted.base) in _WIDENS


def size_bytes(layout: Layout, rows: int) -> int:
    """What a replica of so many rows takes at least; tails come on top."""
    return rows * (8 * layout.words + 8 + 8 + (16 if layout.has_tail else 0))


def build(
    folder: Path,
    files: list[Path],
    manifest: Manifest,
    layout: Layout,
    *,
    most_bytes: int,
    reached: Callable[[str], None],
) -> None:
    """Write every file of a replica into a folder, flushed; `reached` is told each step.

    Raises DecodeError or RequestError when the parts are not what the manifest says, OSError when the
    disk is full.
    """
    place = f"image {manifest.snapshot}"
    stored = Layout.from_description(manifest.description)
    source = source_of(files[0].parent, place)
    names = [*(key.name for key in layout.join_keys), EVENT_TIME]
    have = [feature.name for feature in stored.features]
    if missing := [name for name in [*names, *have] if name not in source.schema.names]:
        msg = f"{place} has no column {missing[0]!r} in its parts, its manifest says it has"
        raise DecodeError(msg)
    reached("keys")
    rows = batch_rows(layout)
    order = arrange(source.batches(names, rows), layout.join_keys, place, rows=manifest.rows, scratch=files[0].parent)
    reached("encode")
    columns = [feature.name for feature in layout.features if feature.name in have]
    batches = source.batches(columns or names, rows)
    packed = _packed(batches, layout, order, set(columns), place)
    write = _write_tails if layout.has_tail else _write_fixed
    write(folder, packed, layout, order, most_bytes)
    bits, deepest = _index(folder, order)
    reached("seal")
    _describe(folder, manifest, layout, order.kept, bits=bits, deepest=deepest)


def _packed(
    batches: Iterator[pa.RecordBatch], layout: Layout, order: Order, have: set[str], place: str
) -> Iterator[tuple[NDArray[np.int64], list[bytes]]]:
    """Batches of packed rows, each with the rows' places; older duplicates left out."""
    begin = 0
    for batch in batches:
        rows = slice(begin, begin + len(batch))
        begin += len(batch)
        stays = order.place[rows] >= 0
        kept = batch if stays.all() else batch.filter(pa.array(stays))
        columns = {one.name: _column(kept, one.name, one.dtype, have, place) for one in layout.features}
        blobs = encode(layout, columns, np.array(order.times[rows][stays]), np.array(order.own[rows][stays]))
        yield order.place[rows][stays], blobs


def _column(batch: pa.RecordBatch, name: str, dtype: DType, have: set[str], place: str) -> Any:
    if name not in have:
        return [None] * len(batch)
    return plain(fitted(batch[name], dtype, f"{place}, column {name!r}"), dtype)


def _write_fixed(
    folder: Path,
    packed: Iterator[tuple[NDArray[np.int64], list[bytes]]],
    layout: Layout,
    order: Order,
    _most_bytes: int,
) -> None:
    out = _mapped(folder / ROWS, (order.kept, layout.words), np.uint64)
    for places, blobs in packed:
        out[places] = np.frombuffer(b"".join(blobs), np.uint64).reshape(-1, layout.words)


def _write_tails(
    folder: Path,
    packed: Iterator[tuple[NDArray[np.int64], list[bytes]]],
    _layout: Layout,
    order: Order,
    most_bytes: int,
) -> None:
    offsets = _mapped(folder / OFFSETS, (order.kept, 2), np.uint64)
    begin = 0
    with (folder / ROWS).open("wb") as file:
        for places, blobs in packed:
            ends = begin + np.cumsum([len(blob) for blob in blobs])
            offsets[places, 1] = ends
            offsets[places, 0] = np.concatenate(([begin], ends[:-1])) if len(ends) else ends
            file.write(b"".join(blobs))
            begin = int(ends[-1]) if len(ends) else begin
            if begin > most_bytes:
                msg = f"its rows take more than max_bytes {most_bytes}"
                raise DecodeError(msg)


def _mapped(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("wb") as file:
        if size and hasattr(os, "posix_fallocate"):
            # Reserved first: writing to a map on a full disk is a bus error, this is an exception.
            os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(size)
    return np.memmap(path, dtype, "r+", shape=shape) if size else np.empty(shape, dtype)


def _index(folder: Path, order: Order) -> tuple[int, int]:
    """Write the sorted slots and their directory by top bits; the bits, and the fullest bucket's size."""
    slots = _mapped(folder / SLOTS, (order.kept,), np.uint64)
    for begin in range(0, len(order.slots), _BLOCK):
        places = order.place[begin : begin + _BLOCK]
        stays = places >= 0
        slots[places[stays]] = order.slots[begin : begin + _BLOCK][stays]
    bits = max(1, order.kept.bit_length())
    directory = _mapped(folder / DIRECTORY, (1 << bits,), np.uint32)
    deepest, before = 1, 0
    for begin in range(0, 1 << bits, _BLOCK):
        heads = np.arange(begin, min(begin + _BLOCK, 1 << bits), dtype=np.uint64) << np.uint64(64 - bits)
        starts = np.searchsorted(slots, heads)
        directory[begin : begin + _BLOCK] = starts
        deepest = max(deepest, int(np.diff(starts, prepend=before, append=starts[-1]).max()))
        before = int(starts[-1])
    return bits, max(deepest, order.kept - before)


def _describe(folder: Path, manifest: Manifest, layout: Layout, rows: int, *, bits: int, deepest: int) -> None:
    names = [SLOTS, DIRECTORY, ROWS, *([OFFSETS] if layout.has_tail else [])]
    meta = {
        "format": FORMAT,
        "project": manifest.project,
        "view": manifest.view,
        "snapshot": manifest.snapshot,
        "as_of_us": manifest.as_of_us,
        "newest_event_us": manifest.newest_event_us,
        "rows": rows,
        "layout_hash": f"{layout.hash:016x}",
        "layout": layout.describe().decode(),
        "bits": bits,
        "deepest": deepest,
        "files": {name: _sealed(folder / name) for name in names},
    }
    with (folder / META).open("wb") as file:
        file.write(json.dumps(meta).encode())
        file.flush()
        os.fsync(file.fileno())


def _sealed(path: Path) -> dict[str, int]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        size = os.fstat(file.fileno()).st_size
        crc = checksum(np.memmap(path, np.uint8, "r").data) if size else 0
    return {"size_bytes": size, "crc32": crc}
