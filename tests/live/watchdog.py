"""Processes that only look at the time, one a core, and say when the machine itself stood still."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Without `site` and third parties: nothing of ours, no second thread, no garbage worth collecting.
_PROGRAM = """
import gc, os, sys, time
gc.disable()
os.sched_setaffinity(0, {int(sys.argv[1])})
turn = int(sys.argv[4])
try:
    os.nice(int(sys.argv[2]))
    if turn:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(turn))
except PermissionError:
    pass
least_s, parent = float(sys.argv[3]), os.getppid()
last = time.monotonic()
while os.getppid() == parent:
    time.sleep(0.001)
    now = time.monotonic()
    if now - last > least_s:
        print(last, now, flush=True)
    last = now
"""
LEAST_S = 0.005

HASTE = -10
"""What is measured goes before the neighbours' work where we may say so: tests share their machine."""

Span = tuple[float, float]


_AHEAD = 1
"""A real-time priority; who watches has one more, so that nobody is excused by what he does himself."""


def command(core: int, least_s: float = LEAST_S, *, ahead: bool = False) -> list[str]:
    """A program that prints, from and to, each time one core stood still for that long; it ends with its parent.

    `ahead`: it watches who goes ahead of all others (`go_ahead`).
    """
    turn = _AHEAD + 1 if ahead else 0
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, str(core), str(HASTE), str(least_s), str(turn)]


def hasten(pid: int = 0) -> None:
    """Let a process (0: this one, before it has threads) go before others, where that is allowed.

    With it the session it belongs to: where Linux shares a machine out by sessions, niceness counts within one only.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, HASTE)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid or 'self'}/autogroup").write_text(f"{HASTE}\n")


def go_ahead() -> None:
    """Let this process (before it has threads) have a core as soon as it wants one, where that is allowed.

    Not what it starts by `subprocess.Popen`; its threads do, from their first moment, since others wait for what they
    hold. Niceness is a share and not a turn: who is running may go on until the kernel's next tick, which is 4 ms at
    250 a second. A call of 2 ms that met two of them took 10 (`make soak`).
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_AHEAD))
        subprocess.Popen = _Behind  # type: ignore[misc]


def put_ahead(pid: int) -> None:
    """The same for a process that is there, with all its threads."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(_AHEAD))


class _Behind(subprocess.Popen[Any]):
    """A child that takes its turn with all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with contextlib.suppress(ProcessLookupError):
            os.sched_setscheduler(self.pid, os.SCHED_OTHER, os.sched_param(0))


def queued_s() -> float:
    """Seconds so far in which somebody was ready to run and had no core, by the kernel's count; 0 where it has none."""
    try:
        some = Path("/proc/pressure/cpu").read_text().split("\n", 1)[0]
    except OSError:
        return 0.0
    return int(some.rpartition("total=")[2]) / 1e6


@dataclass
class Watchdog:
    """Stalls of more than 5 ms seen so far, by core, as spans of monotonic seconds; a context manager."""

    stalls: dict[int, list[Span]] = field(default_factory=dict)

    def __enter__(self) -> Watchdog:
        self._ends = contextlib.ExitStack()
        for core in sorted(os.sched_getaffinity(0)):
            self._watch(core)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def excuses(self, began: float, ended: float, late_s: float) -> bool:
        """Whether cores stood still for at least `late_s` within a request, which may run on any of them."""
        return self._still_s(began, ended) >= late_s

    def still_share(self, began: float, ended: float) -> float:
        """The share of a time in which at least one core stood still."""
        return self._still_s(began, ended) / (ended - began)

    def within(self, began: float, ended: float) -> list[tuple[int, float, float]]:
        """(core, seconds into a request, seconds) of the stalls that overlap it."""
        return [
            (core, round(first - began, 4), round(last - first, 4))
            for core, spans in self.stalls.items()
            for first, last in spans
            if first < ended and last > began
        ]

    def __len__(self) -> int:
        return sum(map(len, self.stalls.values()))

    def _still_s(self, began: float, ended: float) -> float:
        return _overlap_s(sorted(span for spans in self.stalls.values() for span in spans), began, ended)

    def _watch(self, core: int) -> None:
        self.stalls[core] = []
        process = subprocess.Popen(command(core), stdout=subprocess.PIPE, text=True)
        reader = threading.Thread(target=self._read, args=(process, self.stalls[core]), daemon=True)
        reader.start()
        self._ends.callback(process.__exit__, None, None, None)
        self._ends.callback(reader.join, 5)
        self._ends.callback(process.kill)

    @staticmethod
    def _read(process: subprocess.Popen[str], spans: list[Span]) -> None:
        for line in process.stdout or ():
            first, last = line.split()
            spans.append((float(first), float(last)))


def _overlap_s(spans: list[Span], began: float, ended: float) -> float:
    """How much of a time its spans, by their beginnings, cover together."""
    covered, reached = 0.0, began
    for first, last in spans:
        covered += max(0.0, min(last, ended) - max(first, reached))
        reached = max(reached, last)
    return covered
