"""A wall clock that another process makes jump."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from featurechaos.clock import SystemClock

_machine = SystemClock()
now = _machine.monotonic


class JumpingClock:
    """The machine's clocks, the wall clock off by what a shared file says."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)

    @staticmethod
    def made(path: Path) -> JumpingClock:
        """A new shared file, and the clock that jumps by it."""
        path.write_bytes(struct.pack("<d", 0.0))
        return JumpingClock(path)

    def jump(self, offset_s: float) -> None:
        """From now on, for everyone who shares the file."""
        self._shared[:] = struct.pack("<d", offset_s)

    def wall(self) -> float:
        (offset_s,) = struct.unpack("<d", self._shared[:])
        return _machine.wall() + float(offset_s)

    monotonic = staticmethod(now)
