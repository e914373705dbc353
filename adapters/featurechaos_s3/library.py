"""The images a bucket holds: list them, check one, remove old ones."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from featurechaos.clock import SystemClock
from featurechaos.errors import DecodeError, RequestError
from featurechaos_s3.bucket import Absent, Bucket, Changed, Thing
from featurechaos_s3.manifest import (
    MOST_CURRENT_BYTES,
    MOST_MANIFEST_BYTES,
    Current,
    Manifest,
    Part,
    current_key,
    home,
    is_snapshot_id,
    manifest_key,
)

if TYPE_CHECKING:
    import pyarrow as pa

_UNFINISHED_S = 86_400
"""A folder without a manifest is left alone for a day: a publish may still be filling it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What reading a whole image again found; `problems` is empty when it is what its manifest says."""

    snapshot: str
    rows: int
    size_bytes: int
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        return not self.problems


def snapshot_ids(bucket: Bucket, view: str) -> list[str]:
    """The ids of a view's images, oldest first; some may lack a manifest."""
    names = (name.removeprefix("v=") for name in bucket.folders(home(view)) if name.startswith("v="))
    return sorted(name for name in names if is_snapshot_id(name))


def manifest_of(bucket: Bucket, view: str, snapshot: str) -> Manifest:
    """Raises Absent, or DecodeError when it is damaged or another image's."""
    key = manifest_key(view, snapshot)
    content, _ = bucket.get(key, most_bytes=MOST_MANIFEST_BYTES)
    return _named(Manifest.from_json(content, place=key), view, snapshot, key)


def announced(bucket: Bucket, view: str, content: bytes) -> Manifest:
    """The manifest that CURRENT's bytes name; DecodeError when it isn't the very one that was announced."""
    current = Current.from_json(content, place=current_key(view))
    key = manifest_key(view, current.snapshot)
    try:
        written, _ = bucket.get(key, most_bytes=MOST_MANIFEST_BYTES)
    except Absent as error:
        msg = f"{current_key(view)} names image {current.snapshot}, which has no manifest"
        raise DecodeError(msg) from error
    digest = hashlib.sha256(written).hexdigest()
    if digest != current.manifest_sha256:
        msg = f"{key} wants SHA-256 {current.manifest_sha256[:12]}, has {digest[:12]}"
        raise DecodeError(msg)
    return _named(Manifest.from_json(written, place=key), view, current.snapshot, key)


def _named(manifest: Manifest, view: str, snapshot: str, key: str) -> Manifest:
    if (manifest.view, manifest.snapshot) != (view, snapshot):
        msg = f"{key} describes image {manifest.snapshot} of view {manifest.view!r}"
        raise DecodeError(msg)
    return manifest


def snapshots(bucket: Bucket, view: str) -> list[Manifest]:
    """Every finished image of a view, oldest first; one whose manifest is damaged is left out."""
    found = []
    for name in snapshot_ids(bucket, view):
        try:
            found.append(manifest_of(bucket, view, name))
        except (Absent, DecodeError):
            continue
    return found


def verify(bucket: Bucket, view: str, snapshot: str | None) -> Checked:
    """Read an image (default: the current one) again from end to end.

    Raises RequestError when there is no such image, DecodeError when its manifest is damaged.
    """
    try:
        if snapshot is None:
            content, _ = bucket.get(current_key(view), most_bytes=MOST_CURRENT_BYTES)
            manifest = announced(bucket, view, content)
        else:
            manifest = manifest_of(bucket, view, snapshot)
    except Absent as error:
        msg = f"view {view!r} has no {'current image' if snapshot is None else f'image {snapshot}'}"
        raise RequestError(msg) from error
    problems = [problem for part in manifest.parts if (problem := _problem(bucket, manifest, part))]
    size = sum(part.size_bytes for part in manifest.parts)
    return Checked(manifest.snapshot, manifest.rows, size, tuple(problems))


def _problem(bucket: Bucket, manifest: Manifest, part: Part) -> str | None:
    import pyarrow as pa

    with tempfile.TemporaryFile() as file:
        try:
            size, digest = bucket.pull(manifest.part_key(part), file, etag=part.etag, most_bytes=part.size_bytes)
        except Absent:
            return f"{part.name} is gone"
        except Changed:
            return f"{part.name} was written again since"
        if size != part.size_bytes:
            return f"{part.name} wants {part.size_bytes} bytes, has {'more' if size > part.size_bytes else size}"
        if digest != part.sha256:
            return f"{part.name} wants SHA-256 {part.sha256[:12]}, has {digest[:12]}"
        try:
            rows = _rows(file)
        except (pa.ArrowException, OSError) as error:
            return f"{part.name} is not Parquet: {str(error)[:100]}"
    return None if rows == part.rows else f"{part.name} wants {part.rows} rows, has {rows}"


def _rows(file: IO[bytes]) -> int:
    import pyarrow.parquet as pq

    file.seek(0)
    return int(pq.ParquetFile(file).metadata.num_rows)


def entities(bucket: Bucket, view: str, columns: Sequence[str], most: int) -> pa.Table:
    """The join keys of the first rows of the current image, at most `most`.

    Raises RequestError when there is none, DecodeError when it is damaged or no longer what its manifest says.
    """
    import pyarrow as pa

    try:
        content, _ = bucket.get(current_key(view), most_bytes=MOST_CURRENT_BYTES)
        manifest = announced(bucket, view, content)
    except Absent as error:
        msg = f"view {view!r} has no current image"
        raise RequestError(msg) from error
    tables: list[pa.Table] = []
    for part in manifest.parts:
        if sum(map(len, tables)) >= most:
            break
        tables.append(_columns(bucket, manifest, part, columns))
    return pa.concat_tables(tables).slice(0, most)


def _columns(bucket: Bucket, manifest: Manifest, part: Part, columns: Sequence[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as file:
        try:
            bucket.pull(manifest.part_key(part), file, etag=part.etag, most_bytes=part.size_bytes)
            file.seek(0)
            return pq.read_table(file, columns=list(columns))
        except (Absent, Changed, pa.ArrowException, OSError, KeyError) as error:
            msg = f"image {manifest.snapshot} of view {manifest.view!r}: {part.name} cannot be read: {error}"
            raise DecodeError(msg) from error


def gc(bucket: Bucket, view: str, *, keep: int) -> list[str]:
    """Remove all but the newest `keep` images (at least one) and the current one; the ids removed.

    What a publish left unfinished goes too, a day after.
    """
    listed = ((name, bucket.things(f"{home(view)}v={name}/")) for name in snapshot_ids(bucket, view))
    # Some servers go on showing a folder whose last object is gone.
    things = {name: inside for name, inside in listed if inside}
    finished = [name for name, inside in things.items() if any(_is_manifest(one) for one in inside)]
    spared = {*finished[-max(1, keep) :], _current_id(bucket, view)}
    spared.update(name for name, inside in things.items() if name not in finished and _is_young(inside))
    removed = [name for name in things if name not in spared]
    for name in removed:
        # The manifest first: an image half removed is then no image.
        for one in sorted(things[name], key=lambda one: not _is_manifest(one)):
            bucket.remove(one.key)
    return removed


def _is_manifest(thing: Thing) -> bool:
    return thing.key.endswith("/manifest.json")


def _is_young(things: list[Thing]) -> bool:
    return SystemClock().wall() - max((one.written_s for one in things), default=0.0) < _UNFINISHED_S


def _current_id(bucket: Bucket, view: str) -> str | None:
    try:
        content, _ = bucket.get(current_key(view), most_bytes=MOST_CURRENT_BYTES)
        return Current.from_json(content, place=current_key(view)).snapshot
    except (Absent, DecodeError):
        return None
