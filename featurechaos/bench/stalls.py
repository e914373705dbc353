"""When the machine was busy elsewhere, seen from outside the process that is measured.

Bare processes, one a core, only look at the time: they see a machine that stands still (a paused VM, a
throttled container). Another reads what Linux says of how long our threads were ready to run and had no core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

MOST_CORES = 8
"""On a machine with more, some are left unwatched: what they stood still for is then nobody's excuse."""
_END_MOST_S = 5.0

# Without `site` and third parties: nothing of ours, no second thread, no garbage worth collecting.
_PROGRAM = """
import gc, os, sys, time
gc.disable()
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
last = time.monotonic()
while os.getppid() == parent:
    time.sleep(0.002)
    now = time.monotonic()
    if now - last > 0.007:
        print(last, now, flush=True)
    last = now
"""

# Sums field 2 of every thread's schedstat: nanoseconds on the run queue (Linux, Documentation/scheduler/sched-stats).
_WAITS = """
import gc, os, sys, time
gc.disable()
pid, parent = sys.argv[1], os.getppid()
folder = "/proc/" + pid + "/task"

def waited():
    found = {}
    for thread in os.listdir(folder):
        try:
            with open(folder + "/" + thread + "/schedstat", "rb") as file:
                found[thread] = int(file.read().split()[1]) / 1e9
        except (OSError, IndexError):
            pass
    return found

last, before = time.monotonic(), waited()
while os.getppid() == parent:
    time.sleep(0.02)
    after, now = waited(), time.monotonic()
    delay = sum(s - before.get(thread, 0.0) for thread, s in after.items())
    if delay > 0.005:
        print(now - min(delay, now - last), now, flush=True)
    last, before = now, after
"""

Span = tuple[float, float]


class Stalls:
    """Spans of monotonic seconds in which the machine was busy elsewhere for more than 5 ms; a context manager.

    Of a stretch of 20 ms in which our threads waited for a core, as much as they waited is a span: they may wait
    side by side, so it is never more than the stretch.
    """

    def __init__(self) -> None:
        self._ends = ExitStack()
        self._spans: list[Span] = []

    def __enter__(self) -> Self:
        has = hasattr(os, "sched_getaffinity")
        cores = sorted(os.sched_getaffinity(0)) if has else list(range(os.cpu_count() or 1))
        for core in cores[:MOST_CORES]:
            self._watch(_PROGRAM, core)
        if Path("/proc/self/schedstat").exists():
            self._watch(_WAITS, os.getpid())
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def since(self, began: float) -> tuple[Span, ...]:
        """What was seen, in seconds since `began`, by their beginnings."""
        return tuple(sorted((first - began, last - began) for first, last in list(self._spans)))

    def _watch(self, program: str, about: int) -> None:
        process = subprocess.Popen(  # noqa: S603 - our own few lines
            [sys.executable, "-I", "-S", "-c", program, str(about)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is for us, who end it
        )
        reader = threading.Thread(target=self._read, args=(process,), daemon=True)
        reader.start()
        self._ends.callback(process.__exit__, None, None, None)
        self._ends.callback(reader.join, _END_MOST_S)
        self._ends.callback(process.kill)

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            first, last = line.split()
            self._spans.append((float(first), float(last)))


def busy_s(spans: tuple[Span, ...], begin: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each time [begin, end] lies within the spans, float64 (n,)."""
    merged = _merged(spans)
    if not merged:
        return np.zeros(len(begin))
    first, last = (np.array(each) for each in zip(*merged, strict=True))
    covered = np.concatenate(([0.0], np.cumsum(last - first)))

    def until(at: NDArray[np.float64]) -> NDArray[np.float64]:
        k = np.searchsorted(first, at)
        over = np.where(k > 0, np.maximum(last[np.maximum(k - 1, 0)] - at, 0.0), 0.0)
        return np.asarray(covered[k] - over)

    return until(end) - until(begin)


def _merged(spans: tuple[Span, ...]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged
