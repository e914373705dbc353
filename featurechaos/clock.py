"""Time, given rather than taken: wall time for ages, monotonic time for durations."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings that must never be mixed.

    `wall()` is seconds since the epoch, UTC, and may jump; it dates rows.
    `monotonic()` is seconds from anywhere and never goes back; it measures waits.
    """

    def wall(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks; the only place that reads them."""

    __slots__ = ()
    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    def __repr__(self) -> str:
        return "SystemClock()"


class ShiftedClock:
    """The machine's monotonic clock beside a wall clock that started at another date, perhaps running faster.

    For replays: a world whose events happened in 2013 is read as if it were then. `started` is the
    monotonic time at which it was `wall_s`; processes given the same one read the same time.
    """

    __slots__ = ("speed", "started", "wall_s")

    def __init__(self, wall_s: float, *, speed: float = 1.0, started: float | None = None) -> None:
        self.wall_s, self.speed = wall_s, speed
        self.started = time.monotonic() if started is None else started

    def wall(self) -> float:
        return self.wall_s + (time.monotonic() - self.started) * self.speed

    monotonic = staticmethod(time.monotonic)

    def __repr__(self) -> str:
        return f"ShiftedClock({self.wall_s}, speed={self.speed})"
