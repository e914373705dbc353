"""Processes that only look at the time, one a core, and say when the machine itself stood still."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from typing import Self

import numpy as np
from numpy.typing import NDArray

MOST_CORES = 8
"""On a machine with more, some are left unwatched: what they stood still for is then nobody's excuse."""
LEAST_S = 0.005
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

Span = tuple[float, float]


class Stalls:
    """Spans of monotonic seconds in which a core stood still for more than `LEAST_S`; a context manager."""

    def __init__(self) -> None:
        self._ends = ExitStack()
        self._spans: list[Span] = []

    def __enter__(self) -> Self:
        has = hasattr(os, "sched_getaffinity")
        cores = sorted(os.sched_getaffinity(0)) if has else list(range(os.cpu_count() or 1))
        for core in cores[:MOST_CORES]:
            self._watch(core)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def since(self, began: float) -> tuple[Span, ...]:
        """What was seen, in seconds since `began`, by their beginnings."""
        return tuple(sorted((first - began, last - began) for first, last in list(self._spans)))

    def _watch(self, core: int) -> None:
        process = subprocess.Popen(  # noqa: S603 - our own few lines
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(core)],
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


def still_s(spans: tuple[Span, ...], begin: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of each time [begin, end] some core stood still, float64 (n,)."""
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
