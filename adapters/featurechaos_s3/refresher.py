"""One daemon thread that keeps the replicas of a source fresh, and comes back after a fork."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from random import Random

_log = logging.getLogger(__name__)
_JITTER = 0.2
_STOP_S = 5.0


class Refresher:
    """Calls `work` at once and then again after the seconds it returns, give or take a fifth.

    The fifth keeps a fleet from asking the bucket in step. `work` is held weakly: a store that nobody
    holds any more ends its thread. State: the thread and its stop, under one lock.
    """

    def __init__(self, work: Callable[[], float], random: Random) -> None:
        self._work = weakref.WeakMethod(work)
        self._random = random
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self.is_orphaned = False

    def start(self) -> None:
        """Start once; again after `stop` has no effect."""
        with self._lock:
            self.is_orphaned = False
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="featurechaos-refresher", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_STOP_S)

    def forked(self) -> None:
        """In the child of a fork there is no thread; the next read starts one."""
        self._lock = threading.Lock()
        self.is_orphaned = self._thread is not None
        self._thread = None
        stopped, self._stop = self._stop.is_set(), threading.Event()
        if stopped:
            self._stop.set()

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            work = self._work()
            if work is None:
                return
            try:
                wait_s = work()
            except Exception:  # noqa: BLE001 - whatever it is, the replicas serve on and we try again
                _log.exception("refreshing failed")
                wait_s = 60.0
            del work
            stop.wait(wait_s * self._random.uniform(1 - _JITTER, 1 + _JITTER))
