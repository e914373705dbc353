"""Publish a complete, dated image of a view: checked first, then uploaded, then announced.

Nothing is uploaded before the whole table has been read, checked and written to a scratch folder, and
`CURRENT` moves last; whatever fails on the way leaves the image that served before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurechaos.codec import Layout, encode
from featurechaos.errors import DecodeError, RequestError, StoreError
from featurechaos_s3.bucket import Absent, Bucket, Changed
from featurechaos_s3.library import manifest_of, snapshot_ids
from featurechaos_s3.manifest import (
    MOST_CURRENT_BYTES,
    Current,
    Manifest,
    Part,
    current_key,
    home,
    instant,
    is_at_or_before,
    snapshot_id,
)
from featurechaos_s3.order import Order, arrange
from featurechaos_s3.table import (
    EVENT_TIME,
    Source,
    arrow_type,
    batch_rows,
    fitted,
    has_holes,
    plain,
    source_of,
)

MOST_AHEAD_S = 60
LEAST_SHARE = 0.5
_PART_ROWS, _PART_BYTES = 1_000_000, 256 << 20
_US = 1_000_000


def publish(
    bucket: Bucket, layout: Layout, table: Any, *, as_of_us: int | None, allow_shrink: bool, now_us: int
) -> Manifest:
    """Publish a table as the image of a view at `as_of_us` (default: its newest event).

    Args:
        table: as `table.source_of` takes it, or an s3:// address of Parquet files the credentials can read.
        allow_shrink: take fewer than half the rows of the image before this one.
        now_us: the wall clock; no image is dated more than 60 s after it.

    Raises:
        RequestError: the table is not a complete image; StoreError: another publish moved CURRENT meanwhile.
    """
    place = f"view {layout.base!r}"
    known = _current(bucket, layout.base)
    with tempfile.TemporaryDirectory(prefix="featurechaos-publish-") as scratch:
        source = _opened(bucket, table, place, Path(scratch))
        _has_columns(source, layout, place)
        order = _arranged(source, layout, Path(scratch), place)
        as_of = _dated(order, place, as_of_us=as_of_us, now_us=now_us)
        if not allow_shrink:
            _is_not_smaller(bucket, layout.base, order.kept, as_of, place)
        files = _written(source, layout, order, Path(scratch), place)
        manifest = _described(files, layout, order, as_of=as_of, now_us=now_us)
        manifest, is_new = _uploaded(bucket, manifest, Path(scratch))
    if winner := _announced(bucket, manifest, known):
        if is_new:
            _forget(bucket, manifest)
        msg = f"{place}: another publish made {winner} current while this one was on its way; publish again"
        raise StoreError(msg)
    return manifest


def _opened(bucket: Bucket, table: Any, place: str, scratch: Path) -> Source:
    if not isinstance(table, str) or not table.startswith("s3://"):
        return source_of(table, place)
    name, _, key = table.removeprefix("s3://").partition("/")
    other = Bucket(replace(bucket.address, bucket=name, prefix=""))
    keys = [key] if key.endswith(".parquet") else [one.key for one in other.things(key) if one.key.endswith(".parquet")]
    folder = scratch / "given"
    folder.mkdir()
    for number, one in enumerate(keys):
        with (folder / f"{number:06d}.parquet").open("wb") as file:
            try:
                other.pull(one, file)
            except Absent as error:
                msg = f"{place} wants Parquet, there is no s3://{name}/{one}"
                raise RequestError(msg) from error
    if not keys:
        msg = f"{place} wants Parquet, there is none under {table}"
        raise RequestError(msg)
    return source_of(folder, place)


def _has_columns(source: Source, layout: Layout, place: str) -> None:
    wanted = [
        *(key.name for key in layout.join_keys),
        EVENT_TIME,
        *(feature.name for feature in layout.features),
    ]
    missing = [name for name in wanted if name not in source.schema.names]
    if missing:
        msg = f"{place} wants columns {', '.join(wanted)}; the table has no {', '.join(missing)}"
        raise RequestError(msg)
    if twice := [name for name in wanted if source.schema.names.count(name) > 1]:
        msg = f"{place}: the table has more than one column {twice[0]!r}"
        raise RequestError(msg)


def _arranged(source: Source, layout: Layout, scratch: Path, place: str) -> Order:
    if not source.rows:
        msg = f"{place} wants a complete image, the table has no rows"
        raise RequestError(msg)
    names = [*(key.name for key in layout.join_keys), EVENT_TIME]
    batches = source.batches(names, batch_rows(layout))
    return arrange(batches, layout.join_keys, place, rows=source.rows, scratch=scratch)


def _dated(order: Order, place: str, *, as_of_us: int | None, now_us: int) -> int:
    newest = int(order.times.max())
    as_of = newest if as_of_us is None else as_of_us
    if as_of < newest:
        msg = f"{place}: as_of {instant(as_of)} is before the newest event in the table, {instant(newest)}"
        raise RequestError(msg)
    if as_of > now_us + MOST_AHEAD_S * _US:
        msg = f"{place}: as_of {instant(as_of)} is more than {MOST_AHEAD_S} s after now, {instant(now_us)}"
        raise RequestError(msg)
    return as_of


def _is_not_smaller(bucket: Bucket, view: str, rows: int, as_of_us: int, place: str) -> None:
    for name in reversed(snapshot_ids(bucket, view)):
        if not is_at_or_before(name, as_of_us):
            continue
        try:
            before = manifest_of(bucket, view, name)
        except (Absent, DecodeError):
            continue
        if rows < LEAST_SHARE * before.rows:
            msg = (
                f"{place}: the table has {rows} rows, fewer than half of the {before.rows} in image {name}; "
                "pass allow_shrink (--allow-shrink) if that is meant"
            )
            raise RequestError(msg)
        return


def _written(source: Source, layout: Layout, order: Order, scratch: Path, place: str) -> list[Part]:
    """The table as Parquet parts in the scratch folder, columns as declared, older duplicates left out."""
    files = _Parts(layout, scratch)
    begin = 0
    with files:
        for batch in source.batches(files.schema.names, batch_rows(layout)):
            rows = slice(begin, begin + len(batch))
            fixed = _fitted(batch, layout, files.schema, place, begin=begin)
            if layout.has_tail:
                # Only packing a row tells how long it gets.
                _pack(fixed, layout, order.times[rows], order.own[rows])
            kept = order.place[rows] >= 0
            files.add(fixed if kept.all() else fixed.filter(pa.array(kept)))
            begin += len(batch)
    return files.parts


def _pack(batch: pa.RecordBatch, layout: Layout, times: NDArray[np.int64], own: NDArray[np.uint64]) -> None:
    encode(layout, {one.name: plain(batch[one.name], one.dtype) for one in layout.features}, times, own)


def _fitted(batch: pa.RecordBatch, layout: Layout, schema: pa.Schema, place: str, *, begin: int) -> pa.RecordBatch:
    columns = [fitted(batch[key.name], key.dtype, f"{place}, join key {key.name!r}") for key in layout.join_keys]
    columns.append(batch[EVENT_TIME].cast(schema.field(EVENT_TIME).type, safe=False))
    for one in layout.features:
        column = fitted(batch[one.name], one.dtype, f"{place}, column {one.name!r}")
        if has_holes(column, one.dtype):
            got = f"a vector with a null inside, after row {begin}"
            msg = f"{place}, column {one.name!r} wants {one.dtype}, got {got}"
            raise RequestError(msg)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class _Parts:
    """A run of Parquet files of bounded size in a folder; `parts` describes them once closed."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        fields = [pa.field(key.name, arrow_type(key.dtype)) for key in layout.join_keys]
        fields += [pa.field(EVENT_TIME, pa.timestamp("us", tz="UTC"))]
        fields += [pa.field(one.name, arrow_type(one.dtype)) for one in layout.features]
        self.schema = pa.schema(fields)
        self.parts: list[Part] = []
        self._folder, self._group = folder, batch_rows(layout)
        self._most = min(_PART_ROWS, max(self._group, _PART_BYTES // (8 * layout.words)))
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._finish()

    def add(self, batch: pa.RecordBatch) -> None:
        if self._writer is None:
            path = self._folder / _part_name(len(self.parts))
            # Without Arrow's own schema a vector is a plain list: with it, pyarrow before 25 cannot read a null one.
            self._writer = pq.ParquetWriter(path, self.schema, compression="zstd", store_schema=False)
        self._writer.write_table(pa.Table.from_batches([batch]), row_group_size=self._group)
        self._rows += len(batch)
        if self._rows >= self._most:
            self._finish()

    def _finish(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        path = self._folder / _part_name(len(self.parts))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.parts.append(Part(path.name, path.stat().st_size, "", digest, self._rows))
        self._rows = 0
        self._writer = None


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _described(files: Sequence[Part], layout: Layout, order: Order, *, as_of: int, now_us: int) -> Manifest:
    schema_hash = f"{layout.hash:016x}"
    content = hashlib.sha256("".join([schema_hash, *(part.sha256 for part in files)]).encode()).hexdigest()
    return Manifest(
        project=layout.project,
        view=layout.base,
        snapshot=snapshot_id(as_of, content),
        as_of_us=as_of,
        newest_event_us=int(order.times.max()),
        created_us=now_us,
        rows=order.kept,
        schema=json.loads(layout.describe()),
        schema_hash=schema_hash,
        parts=tuple(files),
    )


def _uploaded(bucket: Bucket, manifest: Manifest, folder: Path) -> tuple[Manifest, bool]:
    """Upload the parts, then the manifest that makes them an image; and whether it is a new one.

    The same content of the same date is one image, however often it is published. What was uploaded goes
    again if one of the parts can't be.
    """
    with contextlib.suppress(Absent, DecodeError):
        return manifest_of(bucket, manifest.view, manifest.snapshot), False
    try:
        parts = []
        for part in manifest.parts:
            with (folder / part.name).open("rb") as file:
                parts.append(replace(part, etag=bucket.put(manifest.part_key(part), file)))
        whole = replace(manifest, parts=tuple(parts))
        bucket.put(whole.key, whole.to_json())
    except BaseException:
        _forget(bucket, manifest)
        raise
    return whole, True


def _forget(bucket: Bucket, manifest: Manifest) -> None:
    with contextlib.suppress(StoreError):
        for one in bucket.things(f"{home(manifest.view)}v={manifest.snapshot}/"):
            bucket.remove(one.key)


def _current(bucket: Bucket, view: str) -> tuple[Current | None, str | None]:
    """What CURRENT says and its ETag; a damaged one says nothing but is still replaced by its ETag."""
    try:
        content, etag = bucket.get(current_key(view), most_bytes=MOST_CURRENT_BYTES)
    except Absent:
        return None, None
    try:
        return Current.from_json(content, place=current_key(view)), etag
    except DecodeError:
        return None, etag


def _announced(bucket: Bucket, manifest: Manifest, known: tuple[Current | None, str | None]) -> str | None:
    """Move CURRENT, unless the image is older than what it names: a late image never turns time back.

    Returns what another publish made current since it was `known`, else None.
    """
    current, etag = known
    if current is not None and current.as_of_us > manifest.as_of_us:
        return None
    digest = hashlib.sha256(manifest.to_json()).hexdigest()
    moved = Current(manifest.snapshot, manifest.as_of_us, digest)
    try:
        bucket.put(current_key(manifest.view), moved.to_json(), only_if=etag, only_new=etag is None)
    except Changed:
        winner, _ = _current(bucket, manifest.view)
        if winner is not None and winner.snapshot == manifest.snapshot:
            return None
        return winner.snapshot if winner else "another image"
    return None
