"""The folder of one view's replicas, shared by all processes of a user.

    ID-LAYOUT/           a finished replica of one image in one layout
    .making-*            one being made, or being removed; never read
    current.LAYOUT.json  which replica answers in this layout; its time of change: when last checked
    deletions.json       the tombstones laid over all of them
    lock                 held by the one process that makes, points and removes

Folders are 0700 and files 0600.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from featurechaos.clock import SystemClock
from featurechaos.errors import StoreRefused
from featurechaos_s3.manifest import is_snapshot_id, safe_name

_ID_LENGTH = 32
_MOST_POINTER_BYTES = 4096
_POINTER_KEPT_S = 7 * 86_400
_YOUNG_S = 600
_PRIVATE = ".making-"


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which replica is current, and the ETag of the CURRENT that said so."""

    replica: str
    etag: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """One view's folder, seen by one layout (its schema hash)."""

    folder: Path
    layout_hash: int

    def name_of(self, snapshot: str) -> str:
        return f"{snapshot}-{self.layout_hash:016x}"

    @property
    def _pointer_path(self) -> Path:
        return self.folder / f"current.{self.layout_hash:016x}.json"

    @property
    def deletions_path(self) -> Path:
        return self.folder / "deletions.json"

    def pointer(self) -> Pointer | None:
        """What is current; None when nothing is, or the file says nothing sensible."""
        pointer = _pointer_in(self._pointer_path)
        if pointer is None or not is_snapshot_id(pointer.replica[:_ID_LENGTH]):
            return None
        is_ours = pointer.replica == self.name_of(pointer.replica[:_ID_LENGTH])
        # An ETag goes into a header of the next request.
        return pointer if is_ours and pointer.etag.isascii() and pointer.etag.isprintable() else None

    def point(self, pointer: Pointer) -> None:
        write_whole(self._pointer_path, json.dumps(asdict(pointer)).encode())

    def was_checked(self) -> None:
        """Remember that the pointer is as true as it was."""
        with suppress(FileNotFoundError):
            os.utime(self._pointer_path)

    def checked_s_ago(self) -> float:
        """Seconds since someone last compared with the bucket; infinite if nobody has."""
        try:
            return SystemClock().wall() - self._pointer_path.stat().st_mtime
        except OSError:
            return float("inf")

    def private(self) -> Path:
        """A new folder no one reads."""
        return Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=self.folder))

    def clear_unfinished(self) -> None:
        """Remove what a killed process left; only under the lock, which says that nobody is at work."""
        for left in self.folder.glob(f"{_PRIVATE}*"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    def shelve(self, made: Path, name: str) -> None:
        """Give a finished private folder its name, for good even if the machine stops now."""
        flush_folder(made)
        self.discard(name)
        made.rename(self.folder / name)
        flush_folder(self.folder)

    def discard(self, name: str) -> None:
        """Take a replica away; who has it mapped keeps it."""
        if (self.folder / name).is_dir():
            gone = self.private()
            (self.folder / name).rename(gone / name)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove replicas that are nobody's current one, mapped by nobody, and not just made."""
        now = SystemClock().wall()
        for path in self.folder.glob("current.*.json"):
            if now - path.stat().st_mtime > _POINTER_KEPT_S:
                path.unlink()
        pointers = map(_pointer_in, self.folder.glob("current.*.json"))
        pointed = {pointer.replica for pointer in pointers if pointer is not None}
        for path in self.folder.iterdir():
            is_replica = path.is_dir() and is_snapshot_id(path.name[:_ID_LENGTH])
            if is_replica and path.name not in pointed and now - path.stat().st_mtime > _YOUNG_S:
                self._discard_unless_mapped(path)

    def _discard_unless_mapped(self, path: Path) -> None:
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.discard(path.name)
        except BlockingIOError:
            pass
        finally:
            os.close(held)


def _pointer_in(path: Path) -> Pointer | None:
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_MOST_POINTER_BYTES))
        return Pointer(str(fields["replica"]), str(fields["etag"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a file's lock inside; yields False when another holds it and we don't wait."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    is_ours = False
    try:
        with suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = True
        yield is_ours
    finally:
        if is_ours:
            # Unlocked by name: a process forked meanwhile has this file open too.
            fcntl.flock(held, fcntl.LOCK_UN)
        os.close(held)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: a reader sees the old content or the new."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{_PRIVATE}file-", delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).rename(path)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def source_folder(cache_dir: str | None, project: str, address: str) -> Path:
    """Where replicas of one source are kept, made if need be.

    `cache_dir` null is $XDG_CACHE_HOME/featurechaos. Two sources never share a folder, whoever names them
    alike. Raises StoreRefused when the folder is another user's or open to others.
    """
    top = Path(cache_dir).expanduser() if cache_dir else _default_cache()
    folder = top / safe_name(project) / hashlib.sha256(address.encode()).hexdigest()[:16]
    make_private(folder)
    return folder


def _default_cache() -> Path:
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "featurechaos"
    try:
        return Path.home() / ".cache" / "featurechaos"
    except RuntimeError:  # no HOME and no such user, as in some containers
        return Path(tempfile.gettempdir()) / f"featurechaos-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make a folder only we can look into. A replica another user may write is not ours to believe."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        is_of = folder.lstat()
    except OSError as error:
        msg = f"the cache folder {folder} can't be made: {error.strerror}"
        raise StoreRefused(msg) from error
    if is_of.st_uid != os.getuid() or stat.S_IMODE(is_of.st_mode) & 0o077 or not stat.S_ISDIR(is_of.st_mode):
        has = f"mode {stat.S_IMODE(is_of.st_mode):o} of user {is_of.st_uid}"
        msg = f"the cache folder {folder} wants to be ours alone (0700), has {has}"
        raise StoreRefused(msg)
