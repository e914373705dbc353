"""Progress where something takes long: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar

from featurechaos.cli.output import say
from featurechaos.clock import SystemClock

_FIRST_BEAT_S, _BEAT_S = 2.0, 10.0


class _Elapsed(BarColumn):
    """A bar that fills with time where it is known how long something takes, else nothing."""

    def render(self, task: Task) -> ProgressBar:
        total = task.total or 1.0
        return ProgressBar(total=total, completed=min(task.elapsed or 0.0, total), width=30)


class Working:
    """Says on stderr that something is under way and how far.

    On a terminal a line that moves and is gone at the end; elsewhere plain lines, the first after two
    seconds and then one each ten in which nothing else was said.
    """

    def __init__(self, text: str, *, takes_s: float | None = None) -> None:
        self._text, self._clock = text, SystemClock()
        self._begun = self._spoke = self._clock.monotonic()
        self._done = threading.Event()
        self._bar: Progress | None = None
        console = Console(file=sys.stderr, stderr=True, markup=False, highlight=False, emoji=False)
        if console.is_terminal:
            bar = [_Elapsed()] if takes_s else []
            columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False), *bar, TimeElapsedColumn()]
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task(text, total=takes_s)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        else:
            threading.Thread(target=self._beat, name="featurechaos-progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._bar is not None:
            self._bar.stop()

    def tell(self, text: str) -> None:
        """What is going on now; shown when it is next looked at."""
        self._text = text
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def say(self, line: str) -> None:
        """A line that stays."""
        self._spoke = self._clock.monotonic()
        if self._bar is not None:
            self._bar.console.print(line, soft_wrap=True)
        else:
            say(line)

    def _beat(self) -> None:
        wait_s = _FIRST_BEAT_S
        while not self._done.wait(wait_s):
            now = self._clock.monotonic()
            wait_s = _BEAT_S
            if now - self._spoke >= _FIRST_BEAT_S:
                say(f"{self._text} ({now - self._begun:.0f} s)")
