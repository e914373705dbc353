"""Work off the request path: a bounded queue and one daemon thread, started when first needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from featurechaos.clock import Clock, SystemClock

T = TypeVar("T")


class Shadow(Generic[T]):
    """Does `work(job)` for each job in turn, on its own thread.

    Bound: jobs waiting or under way hold at most `most_rows` rows together; `submit` never waits.
    `work` must not raise.
    """

    def __init__(
        self,
        work: Callable[[T], None],
        *,
        most_rows: int,
        is_closed: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._work, self._most_rows, self._clock = work, most_rows, clock or SystemClock()
        self._change = threading.Condition()
        self._jobs: deque[tuple[T, int]] = deque()
        self._rows = 0
        self._thread: threading.Thread | None = None
        self.is_closed = is_closed

    def submit(self, job: T, *, rows: int) -> bool:
        """Put a job in the queue; False, and nothing kept, when it is full or closed."""
        with self._change:
            if self.is_closed or self._rows + rows > self._most_rows:
                return False
            self._jobs.append((job, rows))
            self._rows += rows
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="featurechaos-impact", daemon=True)
                self._thread.start()
            self._change.notify_all()
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until every job is done; whether that happened within `timeout_s`."""
        with self._change:
            return self._change.wait_for(lambda: not self._rows, timeout_s)

    def close(self, timeout_s: float) -> int:
        """Wait as `flush`, stop the thread, and give the number of rows that were left undone."""
        until = self._clock.monotonic() + timeout_s
        self.flush(timeout_s)
        with self._change:
            self.is_closed = True
            left = sum(rows for _job, rows in self._jobs)
            self._jobs.clear()
            self._rows -= left
            self._change.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(max(0.0, until - self._clock.monotonic()))
        return left

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._jobs or self.is_closed)
                if not self._jobs:
                    return
                job, rows = self._jobs.popleft()
            self._work(job)
            with self._change:
                self._rows -= rows
                self._change.notify_all()
            del job  # Else the last response stays in memory for as long as nothing comes.
