"""Last-known rows on disk, for the process that starts while every online source is down.

    VIEW.SLOT.rows   one generation: a header, the lengths, the ids, the rows, and a checksum over all of it
    VIEW.deleted     the rows deleted since, one line each; any process appends
    writer           locked by the one process that writes generations, as long as it lives
    deleted          locked while `VIEW.deleted` is changed

A file is written beside, flushed and renamed, so that a process killed meanwhile leaves the one before or none. Before
anything of it is believed: its checksum, its view and schema, its age; and each row when it is read, as in memory.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import numpy as np

from featurechaos.clock import Clock
from featurechaos.locks import Locked
from featurechaos.memory import GENERATIONS, MOST_BYTES, LastKnown, Taken

log = logging.getLogger(__name__)

_MAGIC = b"FCKEEP1\n"
_HEAD = struct.Struct("<I")
_MOST_HEADER = 4096
_LEAST_S, _MOST_S = 5.0, 60.0
_AHEAD_S = 60.0
_MOST_DELETED_BYTES = 8 << 20
_BEGIN_BYTES = 256
_MOST_DIGITS = 20
_MAKING = ".making-"
_AT_ONCE = 1000


class Keepsakes(Locked):
    """The last-known rows of some views in one folder, shared by the processes of a user; one of them writes.

    Bounded by what memory holds. `layouts` is each view's schema hash: rows of another are left alone.
    """

    def __init__(self, folder: Path, memory: LastKnown, clock: Clock, layouts: Mapping[str, int]) -> None:
        super().__init__()
        self._folder, self._memory, self._clock, self._layouts = folder, memory, clock, dict(layouts)
        self._writer: int | None = None
        self._is_loaded = self._is_failing = False
        self._heard: dict[str, tuple[bytes, int]] = {}
        """How the file of deletions that was read last begins, and how far it was read."""
        self._slots: dict[str, dict[int, int]] = {}
        """Which file of a view holds which generation."""

    def forked(self) -> None:
        """In a child: the parent writes."""
        if self._writer is not None:
            os.close(self._writer)
        self._writer = None

    def __del__(self) -> None:
        """Of a client that was dropped unclosed: another may write."""
        if (writer := getattr(self, "_writer", None)) is not None:
            os.close(writer)

    def follow(self, memory: LastKnown, layouts: Mapping[str, int]) -> None:
        """Keep the rows of this memory from now on; the files of views that it has no room for go."""
        self._memory, self._layouts = memory, {**self._layouts, **layouts}

    def load(self) -> None:
        """Take in what an earlier process has left; once. Never raises: what can't be read is not there."""
        with self._lock:
            if self._is_loaded:
                return
            for view in self._layouts:
                with suppress(OSError):
                    self._hear(view)
                    self._take_in(view)
            self._is_loaded = True

    def _take_in(self, view: str) -> None:
        """Give memory what is young enough, the newest first."""
        found = []
        for slot in range(GENERATIONS):
            with suppress(OSError, ValueError):
                found.append(read(self._path(view, slot), view, self._layouts[view]))
        for begun_wall, rows in sorted(found, key=lambda one: -one[0]):
            age_s = self._clock.wall() - begun_wall
            if -_AHEAD_S < age_s < self._memory.keep_s(view):
                self._memory.give(view, self._clock.monotonic() - max(0.0, age_s), rows)

    def step(self) -> float:
        """Load, or write what is new, if it is ours to write; seconds until there is more to do."""
        self.load()
        try:
            is_writer = self._is_writer()
            for view in self._layouts:
                self._hear(view)
                if is_writer:
                    self._save(view)
            self._is_failing = False
        except OSError as error:
            self._memory.renew()
            if not self._is_failing:
                log.warning("last-known rows are not kept in %s: %s", self._folder, error)
            self._is_failing = True
        shortest = min(self._memory.keep_s(view) for view in self._layouts)
        return min(max(shortest / (8 * GENERATIONS), _LEAST_S), _MOST_S)

    def close(self) -> None:
        """Write what is new, and let another process write."""
        self.step()
        with self._lock:
            writer, self._writer = self._writer, None
        if writer is not None:
            os.close(writer)

    def bury(self, view: str, ids: Sequence[bytes], event_time: Sequence[int]) -> None:
        """These rows are deleted, whatever older copy lies here. Raises OSError where that can't be kept."""
        if view not in self._layouts:
            return
        lines = [f"{quote(key)} {at}\n" for key, at in zip(ids, event_time, strict=True)]
        with _locked(self._folder / "deleted"):
            held = _private(self._deleted(view), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(held, "ab") as file:
                # A line that was cut off, by a full disk, must not swallow the first of these.
                file.write("".join(["\n", *lines]).encode())

    def _is_writer(self) -> bool:
        """Whether this process writes; it tries to become the one that does."""
        with self._lock:
            if self._writer is None:
                held = _private(self._folder / "writer", os.O_RDWR | os.O_CREAT)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(held)
                    return False
                self._writer, self._slots = held, {}
                self._memory.renew()
                for left in self._folder.glob(f"{_MAKING}*"):
                    left.unlink(missing_ok=True)
            return True

    def _save(self, view: str) -> None:
        """Write the generations that are new; remove the files of those that are gone."""
        taken, slots = self._memory.take(view), self._slots.setdefault(view, {})
        for gone in slots.keys() - {one.number for one in taken}:
            del slots[gone]
        free = [slot for slot in range(GENERATIONS) if slot not in slots.values()]
        for one in taken:
            if one.number not in slots:
                slots[one.number] = free.pop(0)
            if one.is_new:
                self._write(view, slots[one.number], one)
        for slot in free:
            self._path(view, slot).unlink(missing_ok=True)
        self._tidied(view)

    def _write(self, view: str, slot: int, taken: Taken) -> None:
        begun_wall = self._clock.wall() - (self._clock.monotonic() - taken.begun)
        write(self._path(view, slot), view, self._layouts[view], begun_wall, taken.rows)

    def _hear(self, view: str) -> None:
        """Bury in memory what other processes have deleted since we looked."""
        try:
            with _locked(self._folder / "deleted"), self._deleted(view).open("rb") as file:
                begin = file.read(_BEGIN_BYTES)  # not its number: a new file gets that of the one removed before
                last, far = self._heard.get(view, (b"", 0))
                file.seek(far if begin.startswith(last) and far <= os.fstat(file.fileno()).st_size else 0)
                lines = file.read().decode("ascii", "replace").splitlines()
                self._heard[view] = begin, file.tell()
        except FileNotFoundError:
            return
        told = [line.split(" ") for line in lines]
        known = [(unquote_to_bytes(key), int(at)) for key, at in (one for one in told if len(one) == 2) if _is_int(at)]
        if known:
            self._memory.bury(view, [key for key, _ in known], [at for _, at in known])

    def _tidied(self, view: str) -> None:
        """Too long a list of deletions goes, once no file here holds any of the rows."""
        with suppress(FileNotFoundError), _locked(self._folder / "deleted"):
            path, (begin, far) = self._deleted(view), self._heard.get(view, (b"", 0))
            if path.stat().st_size > _MOST_DELETED_BYTES and path.stat().st_size == far:
                with path.open("rb") as file:
                    is_all_heard = file.read(len(begin)) == begin
                if is_all_heard:
                    path.unlink()

    def _path(self, view: str, slot: int) -> Path:
        return self._folder / f"{quote(view, safe='')}.{slot}.rows"

    def _deleted(self, view: str) -> Path:
        return self._folder / f"{quote(view, safe='')}.deleted"


def write(path: Path, view: str, layout: int, begun_wall: float, rows: Mapping[bytes, bytes]) -> None:
    """Replace a file by these rows at once."""
    header = json.dumps({"view": view, "layout": layout, "begun": begun_wall, "rows": len(rows)}).encode()
    lengths = np.empty((2, len(rows)), "<u4")
    lengths[0] = np.fromiter(map(len, rows), np.uint32, len(rows))
    lengths[1] = np.fromiter(map(len, rows.values()), np.uint32, len(rows))
    parts = chain([_MAGIC, _HEAD.pack(len(header)), header, lengths.tobytes()], _joined(rows), _joined(rows.values()))
    checksum = 0
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_MAKING, delete=False) as file:
        try:
            for part in parts:
                checksum = zlib.crc32(part, checksum)
                file.write(part)
            file.write(_HEAD.pack(checksum))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).rename(path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise


def read(path: Path, view: str, layout: int) -> tuple[float, dict[bytes, bytes]]:
    """When a file's generation began (wall seconds), and its rows; ValueError for one that is not to be believed."""
    if path.stat().st_size > 2 * MOST_BYTES:
        raise ValueError("too long")
    content = path.read_bytes()
    body = len(content) - _HEAD.size
    if body < len(_MAGIC) + _HEAD.size or content[: len(_MAGIC)] != _MAGIC:
        raise ValueError("not one of ours")
    if zlib.crc32(memoryview(content)[:body]) != _HEAD.unpack_from(content, body)[0]:
        raise ValueError("damaged")
    at = len(_MAGIC) + _HEAD.size
    length = _HEAD.unpack_from(content, len(_MAGIC))[0]
    begun, count = _headed(content[at : at + min(length, _MOST_HEADER)], view, layout)
    at += length
    if not 0 <= 8 * count <= body - at:
        raise ValueError("of another length than it says")
    lengths = np.frombuffer(content, "<u4", 2 * count, at).astype(np.int64)
    ends = at + 8 * count + np.cumsum(lengths)
    if (int(ends[-1]) if count else at) != body:
        raise ValueError("of another length than it says")
    begins = (ends - lengths).tolist()
    pieces = [content[begin:end] for begin, end in zip(begins, ends.tolist(), strict=True)]
    return begun, dict(zip(pieces[:count], pieces[count:], strict=True))


def _headed(text: bytes, view: str, layout: int) -> tuple[float, int]:
    """What a header says: when the generation began, and how many rows there are; ValueError if it is not ours."""
    try:
        header = json.loads(text)
        if (header["view"], header["layout"]) != (view, layout):
            raise ValueError("another view's, or of another schema")
        return float(header["begun"]), int(header["rows"])
    except (KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a header of ours: {error}") from error


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces; not in one, which would hold up every other thread."""
    rest = iter(pieces)
    while some := list(islice(rest, _AT_ONCE)):
        yield b"".join(some)


def _is_int(text: str) -> bool:
    """Whether it is a time of ours: 64 bits are no longer than this, and `int` raises for thousands of digits."""
    return len(text) <= _MOST_DIGITS and text.removeprefix("-").isdigit() and text.isascii()


def _private(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    held = _private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        # Unlocked by name: a process forked meanwhile has this file open too.
        fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)
