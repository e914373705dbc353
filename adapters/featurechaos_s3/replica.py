"""One image of one view on local disk, mapped into memory: where every read of ours is answered.

    slots.bin    uint64 (n,), sorted
    dir.bin      uint32 (1 << bits,): where slots with these top bits begin; finding one is a probe or two
    rows.bin     the packed rows, uint64 (n, words) in the order of slots; in any order when rows have tails
    offsets.bin  uint64 (n, 2), only when rows have tails: where in rows.bin a row begins and ends
    meta.json    what it was made from, the sizes of the files and their checksums

Pure numpy. The pages are the page cache's: every process of a machine shares them.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import HEADER_BYTES, MOST_ROW_BYTES, decode, verify
from featurechaos.errors import DecodeError
from featurechaos.model import Verdict
from featurechaos.stores import Block

if TYPE_CHECKING:
    from featurechaos.codec import Keys, Layout

FORMAT = 1
SLOTS, DIRECTORY, ROWS, OFFSETS, META = "slots.bin", "dir.bin", "rows.bin", "offsets.bin", "meta.json"
_FILES = {SLOTS, DIRECTORY, ROWS, OFFSETS}
_MOST_META_BYTES = 1 << 20
_MOST_BLOB_BYTES = MOST_ROW_BYTES + 8
_CHUNK = 4 << 20
_SAMPLE_ROWS = 64
_OWN_WORD = 3
_FEW = 16
"""So many rows are found one by one, with plain ints, before numpy costs less."""


class Replica:
    """Rows of one layout by slot. Holds a shared lock on its folder, so that no one removes it.

    Attributes:
        name: its folder's; snapshot: the image's id; as_of_us, newest_event_us: int64 us; rows: how many.
        is_warm: whether every page has been read and checked.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Map a finished folder and check its shape and a sample of its rows.

        Raises DecodeError when it is not what it says or of another layout, OSError when it isn't there.
        """
        self._hold(folder)
        meta = _meta(folder, layout)
        self.name, self.snapshot = folder.name, str(meta["snapshot"])
        self.as_of_us, self.newest_event_us = int(meta["as_of_us"]), int(meta["newest_event_us"])
        self.rows, self._deepest = int(meta["rows"]), int(meta["deepest"])
        self.layout, self.is_warm = layout, False
        self._files = {name: _Mapped(folder / name, said) for name, said in meta["files"].items()}
        self._shape(int(meta["bits"]))
        self._sample()

    def _hold(self, folder: Path) -> None:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        # Closed, never unlocked: after a fork the lock belongs to parent and child alike.
        weakref.finalize(self, os.close, held).atexit = False
        try:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"{folder.name} is being removed"
            raise FileNotFoundError(msg) from error

    def _shape(self, bits: int) -> None:
        rows, layout = self.rows, self.layout
        wanted = {SLOTS: 8 * rows, DIRECTORY: 4 << bits}
        wanted |= {OFFSETS: 16 * rows} if layout.has_tail else {ROWS: 8 * rows * layout.words}
        for name, size in wanted.items():
            if name not in self._files or self._files[name].size != size:
                has = self._files[name].size if name in self._files else "none"
                msg = f"replica {self.name}: {name} wants {size} bytes, has {has}"
                raise DecodeError(msg)
        self._slots = self._files[SLOTS].array(np.uint64)
        self._directory = self._files[DIRECTORY].array(np.uint32)
        self._shift = np.uint64(64 - bits)
        self._plain_slots, self._plain_directory = (
            self._files[SLOTS].numbers("Q"),
            self._files[DIRECTORY].numbers("I"),
        )
        self._plain_shift, self._row_bytes = 64 - bits, 8 * layout.words
        self._bytes = self._files[ROWS].view
        if layout.has_tail:
            self._offsets = self._files[OFFSETS].array(np.uint64).reshape(rows, 2)
        else:
            self._words = self._files[ROWS].array(np.uint64).reshape(rows, layout.words)

    def warm(self) -> None:
        """Read every page once, so that the first requests don't wait for the disk, and check it by the way.

        Raises DecodeError when a file is not the one that was written.
        """
        for name, file in self._files.items():
            if not file.is_intact():
                msg = f"replica {self.name}: {name} is damaged, its checksum differs"
                raise DecodeError(msg)
        self.is_warm = True

    def find(self, slots: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where some slots are, int64 (n,), and whether they are there at all, bool (n,)."""
        if not self.rows:
            return np.zeros(len(slots), np.int64), np.zeros(len(slots), np.bool_)
        last = self.rows - 1
        at = self._directory[slots >> self._shift].astype(np.int64)
        np.minimum(at, last, out=at)
        here = self._slots[at]
        # The bound is the fullest bucket's size: a damaged directory ends in a miss, not in a long walk.
        for _ in range(self._deepest):
            behind = here < slots
            if not behind.any():
                break
            at += behind
            np.minimum(at, last, out=at)
            here = self._slots[at]
        return at, here == slots

    def read(self, keys: Keys) -> Block | list[bytes | None]:
        """The rows of some keys, copied: nothing of an answer outlives a swap."""
        if self.layout.has_tail:
            return self._blobs(*self.find(keys.slots))
        if len(keys.ids) <= _FEW:
            slots = keys.slots.tolist() if keys.one is None else (keys.one,)
            return [self._blob(slot) for slot in slots]
        at, found = self.find(keys.slots)
        if not self.rows:
            return Block(np.zeros((len(at), self.layout.words), np.uint64), found)
        return Block(self._words.take(at, axis=0), found)

    def _blob(self, slot: int) -> bytes | None:
        """One row of fixed width, found as `find` does."""
        if not self.rows:
            return None
        slots, last = self._plain_slots, self.rows - 1
        at = min(self._plain_directory[slot >> self._plain_shift], last)
        for _ in range(self._deepest):
            if slots[at] >= slot or at == last:
                break
            at += 1
        if slots[at] != slot:
            return None
        begin = at * self._row_bytes
        return bytes(self._bytes[begin : begin + self._row_bytes])

    def _blobs(self, at: NDArray[np.int64], found: NDArray[np.bool_]) -> list[bytes | None]:
        blobs: list[bytes | None] = [None] * len(at)
        hits = np.flatnonzero(found)
        for row, (begin, end) in zip(hits.tolist(), self._offsets[at[hits]].tolist(), strict=True):
            # A damaged offset may say that a row is the whole file; longer than any row it is CORRUPT.
            blobs[row] = bytes(self._bytes[begin : min(end, begin + _MOST_BLOB_BYTES)])
        return blobs

    def _sample(self) -> None:
        """Check rows spread over the whole image the way a read will."""
        if not self.rows:
            return
        at = np.unique(np.linspace(0, self.rows - 1, _SAMPLE_ROWS).astype(np.int64))
        here = np.ones(len(at), np.bool_)
        if self.layout.has_tail:
            blobs = [blob or b"" for blob in self._blobs(at, here)]
            own = np.array([int.from_bytes(blob[24:32], "little") for blob in blobs], np.uint64)
            short = min(len(blob) for blob in blobs) < HEADER_BYTES
            rows, _ = decode(blobs, own, self.layout)
        else:
            words, short = self._words[at], False
            rows = verify(words, words[:, _OWN_WORD].copy(), self.layout, here)
        if short or not np.all(rows.verdict == Verdict.FRESH):
            msg = f"replica {self.name} holds rows that are damaged or of another layout"
            raise DecodeError(msg)


class _Mapped:
    """One file of a replica, mapped to be read."""

    def __init__(self, path: Path, said: Mapping[str, Any]) -> None:
        self.size, self._crc = int(said["size_bytes"]), int(said["crc32"])
        with path.open("rb") as file:
            has = os.fstat(file.fileno()).st_size
            if has != self.size:
                msg = f"replica {path.parent.name}: {path.name} wants {self.size} bytes, has {has}"
                raise DecodeError(msg)
            # An empty file can't be mapped.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if has else None
        self.view = memoryview(self._map) if self._map is not None else memoryview(b"")

    def array(self, dtype: type[np.generic]) -> NDArray[Any]:
        return np.frombuffer(self.view, dtype)

    def numbers(self, code: str) -> memoryview:
        """The same as plain ints, in a format of `struct`; an empty view can't be cast."""
        return self.view.cast(code) if self.size else self.view  # type: ignore[call-overload]

    def is_intact(self) -> bool:
        if self._map is not None and hasattr(mmap, "MADV_WILLNEED"):
            self._map.madvise(mmap.MADV_WILLNEED)
        return checksum(self.view) == self._crc


def checksum(content: memoryview) -> int:
    """CRC-32 by chunks; the interpreter is free meanwhile."""
    crc = 0
    for begin in range(0, len(content), _CHUNK):
        crc = zlib.crc32(content[begin : begin + _CHUNK], crc)
    return crc


def _meta(folder: Path, layout: Layout) -> dict[str, Any]:
    with (folder / META).open("rb") as file:
        content = file.read(_MOST_META_BYTES)
    try:
        meta = json.loads(content)
        said = (meta["format"], meta["layout_hash"])
        kinds = [type(meta[name]) for name in ("as_of_us", "newest_event_us", "rows", "deepest", "bits")]
        files = {name: (int(f["size_bytes"]), int(f["crc32"])) for name, f in meta["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        msg = f"replica {folder.name}: {META} is damaged: {str(error)[:100]}"
        raise DecodeError(msg) from error
    if said != (FORMAT, f"{layout.hash:016x}") or set(kinds) != {int} or not 0 < meta["bits"] <= 32 or not files:
        wanted = f"format {FORMAT} and layout {layout.hash:016x}"
        msg = f"replica {folder.name} wants {wanted}, has {said[0]} and {said[1]}"
        raise DecodeError(msg)
    if not files.keys() <= _FILES or not 0 < meta["deepest"] <= max(1, meta["rows"]) or not _is_dated(meta):
        msg = f"replica {folder.name}: {META} names a file, a depth or a time that none of ours has"
        raise DecodeError(msg)
    return dict(meta)


def _is_dated(meta: Mapping[str, Any]) -> bool:
    return all(-(1 << 63) <= meta[name] < 1 << 63 for name in ("as_of_us", "newest_event_us"))
