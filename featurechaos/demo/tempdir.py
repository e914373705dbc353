"""A folder of our own that does not outlive us."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from featurechaos.clock import SystemClock

_PREFIX = "featurechaos-server-"
_SETTLED_S = 60.0
"""A folder younger than this may not have been locked by its maker yet: leave it alone."""


class TempDir:
    """A private folder (0700), removed by `close`, or by the next maker of one if we were killed.

    A killed process removes nothing, so each folder is locked while its maker lives. The kernel
    drops the lock with the process: a folder nobody has locked is rubbish.
    """

    __slots__ = ("_lock", "path")

    def __init__(self) -> None:
        sweep(older_than_s=_SETTLED_S)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove the folder with all that is in it; a second call does nothing."""
        if self._lock < 0:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)
        self._lock = -1


def sweep(*, older_than_s: float) -> list[Path]:
    """Remove the folders whose makers are gone; says which."""
    found = Path(tempfile.gettempdir()).glob(_PREFIX + "*")
    return [path for path in found if _is_abandoned(path, older_than_s) and _removed(path)]


def _is_abandoned(path: Path, older_than_s: float) -> bool:
    try:
        state = path.lstat()
    except OSError:
        return False
    return state.st_uid == os.getuid() and SystemClock().wall() - state.st_mtime >= older_than_s


def _removed(path: Path) -> bool:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        shutil.rmtree(path, ignore_errors=True)
        return True
    finally:
        os.close(lock)
