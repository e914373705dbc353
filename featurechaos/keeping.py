"""What is done off the request path for as long as there is something to do: a thread, or a task, that ends with it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

from featurechaos.locks import Locked

log = logging.getLogger(__name__)

_AFTER_ERROR_S = 1.0
_END_S = 5.0

Step = Callable[[], float | None]
"""Does what is due; seconds until more is, or None when there is nothing more to do."""


class Keeper(Locked):
    """One thread at most, begun when there is something to do."""

    def __init__(self, step: Step, *, name: str) -> None:
        super().__init__()
        self._step, self._name = step, name
        self.forked()

    def forked(self) -> None:
        """In a child there is no thread; it begins its own when it has something to do."""
        self._thread: threading.Thread | None = None
        self._is_wanted = False
        self._stop = threading.Event()

    def start(self) -> None:
        """There is something to do."""
        with self._lock:
            self._is_wanted = True
            if self._thread is None and not self._stop.is_set():
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # No more threads, or the interpreter is ending: no caller's matter.
                    log.warning("%s has no thread: %s", self._name, error)
                else:
                    self._thread = thread

    def close(self) -> None:
        """End the thread; idempotent."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_END_S)

    def _work(self) -> None:
        stop = self._stop
        while not stop.is_set():
            self._is_wanted = False
            try:
                wait_s = self._step()
            except Exception:
                log.exception("%s failed; it goes on", self._name)
                wait_s = _AFTER_ERROR_S
            if wait_s is not None:
                stop.wait(wait_s)
                continue
            with self._lock:
                if not self._is_wanted:
                    self._thread = None
                    return


class AsyncKeeper:
    """The same as one task of the loop that has something to do."""

    def __init__(self, step: Callable[[], Awaitable[float | None]], *, name: str) -> None:
        self._step, self._name = step, name
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = self._is_closed = False

    def start(self) -> None:
        """There is something to do."""
        self._is_wanted = True
        if self._is_closed:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # nothing of ours runs here
            return
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._work(), name=self._name)

    async def close(self) -> None:
        """End the task; idempotent."""
        self._is_closed = True
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            self._is_wanted = False
            try:
                wait_s = await self._step()
            except Exception:
                log.exception("%s failed; it goes on", self._name)
                wait_s = _AFTER_ERROR_S
            if wait_s is not None:
                await asyncio.sleep(wait_s)
            elif not self._is_wanted:
                return
