"""Bring replicas up to date, in a process of its own; `child.py` starts it, already nice.

boto3, pyarrow and the sort stay out of the serving process: in a thread there they would hold up its
reads by tens of milliseconds. The result is files and a rename, so a process costs nothing in design.

A job comes as JSON on stdin; each view's outcome leaves as one line of JSON on stdout. The process may be
killed at any step: what is not yet renamed is never read, and is removed by the next one.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurechaos.codec import Layout
from featurechaos.errors import DecodeError, FeatureError, StoreUnavailable
from featurechaos_s3 import buried
from featurechaos_s3.bucket import Absent, Address, Bucket, Changed, Unchanged
from featurechaos_s3.library import announced, manifest_of, snapshot_ids
from featurechaos_s3.manifest import MOST_CURRENT_BYTES, Manifest, current_key, home, is_at_or_before
from featurechaos_s3.shelf import Pointer, Shelf, locked, make_private, write_whole

STOP_AT = "FEATURECHAOS_HYDRATE_STOP_AT"
"""For tests: the step at which the process stops itself, as SIGSTOP would."""
STEPS = ("locked", "checked", "download", "keys", "encode", "seal", "rename", "point")

_PR_SET_PDEATHSIG = 1
_MOST_DETAIL = 500
MOST_MEMORY_BYTES = 8 << 30
"""Of the process, beside what it maps from files: a part of 500 kB may unpack to terabytes."""


@dataclass(frozen=True, slots=True)
class Work:
    """One view to bring up to date: to the current image, or to the newest at or before `as_of_us`.

    `bad` names replicas on disk that failed their check.
    """

    view: str
    layout: Layout
    shelf: Shelf
    most_bytes: int | None
    bad: frozenset[str]
    as_of_us: int | None


class Refused(FeatureError):
    """The image may not be taken; the one before serves on."""


def main() -> int:
    os.umask(0o077)
    bound_memory(MOST_MEMORY_BYTES)
    job = json.load(sys.stdin)
    _die_with(job["parent"])
    bucket = Bucket(Address(**job["address"]))
    for one in job["views"]:
        outcome = hydrate(bucket, _work(one, job))
        sys.stdout.write(json.dumps({"view": one["view"], **outcome}) + "\n")
        sys.stdout.flush()
    return 0


def _work(one: Mapping[str, Any], job: Mapping[str, Any]) -> Work:
    layout = Layout.from_description(one["layout"].encode())
    shelf = Shelf(Path(one["folder"]), layout.hash)
    return Work(one["view"], layout, shelf, job["max_bytes"], frozenset(one["bad"]), one["as_of_us"])


def hydrate(bucket: Bucket, work: Work) -> dict[str, Any]:
    """Bring one view up to date: its state, what it now has (a replica's name) and, if not well, why."""
    try:
        make_private(work.shelf.folder)
        with locked(work.shelf.folder / "lock"):
            reached("locked")
            work.shelf.clear_unfinished()
            _note_deletions(bucket, work)
            return _dated(bucket, work) if work.as_of_us is not None else _current(bucket, work)
    except StoreUnavailable as error:
        return _outcome("failed", detail=str(error))
    except (FeatureError, OSError) as error:
        return _outcome("refused", detail=str(error))
    except Exception as error:  # noqa: BLE001 - pyarrow on damaged files raises nearly anything
        return _outcome(
            "refused", detail=f"view {work.view!r}: its image can't be read: {type(error).__name__}: {error}"
        )


def reached(step: str) -> None:
    """Mark a step: the place to stop in tests, and to end if the process that started us is gone."""
    if os.environ.get(STOP_AT) == step:
        os.kill(os.getpid(), signal.SIGSTOP)


def _outcome(state: str, *, replica: str | None = None, detail: str = "") -> dict[str, Any]:
    return {"state": state, "replica": replica, "detail": " ".join(detail.split())[:_MOST_DETAIL]}


def _current(bucket: Bucket, work: Work) -> dict[str, Any]:
    shelf, known = work.shelf, work.shelf.pointer()
    if known is not None and (known.replica in work.bad or not (shelf.folder / known.replica).is_dir()):
        known = None
    try:
        content, etag = bucket.get(
            current_key(work.view), most_bytes=MOST_CURRENT_BYTES, known=known.etag if known else None
        )
    except Unchanged:
        shelf.was_checked()
        return _outcome("current", replica=known.replica if known else None)
    except Absent:
        return _outcome("absent", detail=f"no image of view {work.view!r} has been published")
    reached("checked")
    manifest = announced(bucket, work.view, content)
    is_new = _make(bucket, manifest, work)
    name = shelf.name_of(manifest.snapshot)
    reached("point")
    shelf.point(Pointer(name, etag))
    shelf.sweep()
    return _outcome("hydrated" if is_new else "current", replica=name)


def _dated(bucket: Bucket, work: Work) -> dict[str, Any]:
    """The newest image at or before a date; CURRENT and the pointer stay as they are."""
    for name in reversed(snapshot_ids(bucket, work.view)):
        if not is_at_or_before(name, work.as_of_us or 0):
            continue
        with suppress(Absent):  # a publish on its way has no manifest yet
            manifest = manifest_of(bucket, work.view, name)
            is_new = _make(bucket, manifest, work)
            return _outcome("hydrated" if is_new else "current", replica=work.shelf.name_of(name))
    return _outcome("absent", detail=f"view {work.view!r} has no image that old")


def _make(bucket: Bucket, manifest: Manifest, work: Work) -> bool:
    """Have a replica of an image on the shelf; whether it had to be made."""
    shelf, name = work.shelf, work.shelf.name_of(manifest.snapshot)
    if (shelf.folder / name).is_dir() and name not in work.bad:
        return False
    most_bytes = _may_be_taken(manifest, work)
    made = shelf.private()
    try:
        files = _downloaded(bucket, manifest, made)
        # Only here, so that a check that finds nothing new never pays for importing it.
        from featurechaos_s3.build import build

        build(made, files, manifest, work.layout, most_bytes=most_bytes, reached=reached)
        shutil.rmtree(files[0].parent)
        _proven(made, work.layout)
        reached("rename")
        shelf.shelve(made, name)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return True


def _may_be_taken(manifest: Manifest, work: Work) -> int:
    """Refuse an image of another project or shape, or one too big; how many bytes a replica may take."""
    from featurechaos_s3.build import misfit, size_bytes

    layout = work.layout
    if manifest.project != layout.project:
        msg = f"image {manifest.snapshot} is of project {manifest.project!r}, not {layout.project!r}"
        raise Refused(msg)
    stored = Layout.from_description(manifest.description)
    if f"{stored.hash:016x}" != manifest.schema_hash:
        msg = f"image {manifest.snapshot} says schema {manifest.schema_hash}, its schema is {stored.hash:016x}"
        raise Refused(msg)
    if why := misfit(stored, layout):
        msg = f"image {manifest.snapshot} does not fit view {work.view!r}: {why}"
        raise Refused(msg)
    free = shutil.disk_usage(work.shelf.folder).free
    most, takes = work.most_bytes or free // 2, size_bytes(layout, manifest.rows)
    parts = sum(part.size_bytes for part in manifest.parts)
    # Rows of varying length can't be smaller than their compressed parts by much; counted as they are built.
    if takes > most or takes + parts > free:
        bound = f"max_bytes {most}" if takes > most else f"{free} free beside its {parts} of parts"
        msg = f"image {manifest.snapshot} takes {takes} bytes, more than {bound}"
        raise Refused(msg)
    return most


def _downloaded(bucket: Bucket, manifest: Manifest, made: Path) -> list[Path]:
    folder = made / "parts"
    folder.mkdir()
    files = []
    for part in manifest.parts:
        reached("download")
        path = folder / part.name
        key = manifest.part_key(part)
        with path.open("wb") as file:
            try:
                size, digest = bucket.pull(key, file, etag=part.etag, most_bytes=part.size_bytes)
            except (Absent, Changed) as error:
                msg = f"{key} is not the part its manifest names: {error}"
                raise DecodeError(msg) from error
        if (size, digest) != (part.size_bytes, part.sha256):
            wanted = f"{part.size_bytes} bytes of SHA-256 {part.sha256[:12]}"
            msg = f"{key} wants {wanted}, has {size} of {digest[:12]}"
            raise DecodeError(msg)
        files.append(path)
    if not files:
        msg = f"image {manifest.snapshot} has no parts"
        raise DecodeError(msg)
    return files


def _proven(made: Path, layout: Layout) -> None:
    """Read what was written the way a reader will, before anyone can."""
    from featurechaos_s3.replica import Replica

    Replica(made, layout)


def _note_deletions(bucket: Bucket, work: Work) -> None:
    """Bring the tombstones beside the replicas up to date; only objects not read before are read."""
    path = work.shelf.deletions_path
    try:
        seen, kept = buried.from_cache(path.read_bytes())
    except (FileNotFoundError, DecodeError):
        seen, kept = {}, buried.Buried()
    objects = [(one.key, one.etag) for one in bucket.things(f"{home(work.view)}deletions/")]
    news = [(key, etag) for key, etag in objects if seen.get(key) != etag]
    if not news:
        return
    found: list[buried.Tombstone] = []
    for key, _ in news:
        content, _ = bucket.get(key, most_bytes=buried.MOST_DELETIONS_BYTES)
        found += buried.from_json(content, place=key)
    write_whole(path, buried.to_cache(objects, kept.with_more(found)))


def bound_memory(most_bytes: int) -> None:
    """Fail to allocate, which refuses the image, beyond some bytes or half of what the machine has."""
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = min(each for each in (most_bytes, half, hard) if each != resource.RLIM_INFINITY)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    # Where memory ends all the same, it is this process that goes and not the one that serves.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _die_with(parent: int) -> None:
    """End when the process that started us does, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before we asked.
    if os.getppid() != parent:
        sys.exit(0)
