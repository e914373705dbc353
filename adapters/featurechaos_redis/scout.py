"""Learns a cluster's map where no caller waits on the network."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from random import Random
from typing import Any

from featurechaos.errors import StoreTimeout, StoreUnavailable
from featurechaos.locks import Locked
from featurechaos_redis.chart import ASK_SLOTS, At, Chart, Pace, ranges_of
from featurechaos_redis.errors import DialFailure
from featurechaos_redis.pool import Pool, settle


class Scout(Locked):
    """Asks one node after another for the map, on a thread that ends with the answer; never two at once.

    A caller that has no map yet waits with a `Bell`, no longer than its own deadline.
    """

    def __init__(
        self,
        chart: Chart[Pool],
        *,
        source: str,
        most_s: float,
        now: Callable[[], float],
        secrets: tuple[str, ...],
        learned: Callable[[], None],
    ) -> None:
        super().__init__()
        self._chart, self._source, self._most_s, self._now = chart, source, most_s, now
        self._secrets, self._learned = secrets, learned
        self._rng = Random()
        self._closed = False
        self.forked()

    def forked(self) -> None:
        self._line: list[Bell] = []
        self._thread: threading.Thread | None = None
        self._failure: DialFailure | None = None
        self._pace = Pace(self._rng)

    def order(self) -> None:
        """Have the map asked for anew, unless it is being, or just was."""
        if self._thread is None and self._pace.may(self._now()):
            with self._lock:
                self._begin()

    def queue(self, bell: Bell) -> None:
        """Ring once there is a map, or a reason why there is none."""
        with self._lock:
            if self._chart.is_known:
                bell.ring()
                return
            self._line.append(bell)
            if self._closed:
                self._tell(DialFailure(StoreUnavailable, f"source {self._source!r}: the client is closed"))
            elif self._thread is None and self._failure is not None and not self._pace.may(self._now()):
                self._tell(self._failure)
            else:
                self._begin()

    def leave(self, bell: Bell) -> None:
        """Wait no longer."""
        with self._lock:
            if bell in self._line:
                self._line.remove(bell)

    def close(self) -> None:
        """Ask no more; whoever waits is told."""
        with self._lock:
            self._closed = True
            self._tell(DialFailure(StoreUnavailable, f"source {self._source!r}: the client is closed"))

    def join(self, wait_s: float) -> None:
        """Wait for the thread, once the pools it asks through are closed."""
        thread = self._thread
        if thread is not None:
            thread.join(wait_s)

    def late(self) -> StoreTimeout:
        """What to raise for a caller whose time ran out without a map."""
        return StoreTimeout(f"source {self._source!r}: no node told in time who serves which slots")

    def _begin(self) -> None:
        """Under the lock: start the thread, if there is none."""
        if self._thread is not None or self._closed:
            return
        thread = threading.Thread(target=self._work, name="featurechaos-redis-scout", daemon=True)
        self._thread = thread
        try:
            thread.start()
        except RuntimeError as error:  # No more threads, or the interpreter is ending.
            self._thread = None
            self._tell(DialFailure.of(error, source=self._source, secrets=()))

    def _work(self) -> None:
        failure, is_new = None, False
        for at in self._chart.whom_to_ask(self._rng):
            try:
                is_new = self._chart.learn(ranges_of(self._asked(at), at))
            except Exception as error:  # noqa: BLE001 - told to the callers that wait for the map
                failure = DialFailure.of(
                    error, source=self._source, secrets=self._secrets, what="no node told who serves which slots"
                )
            else:
                failure = None
                self._learned()
                break
        with self._lock:
            self._thread, self._failure = None, failure
            self._pace.ended(self._now(), is_new=is_new or not self._chart.is_known)
            self._tell(failure)

    def _asked(self, at: At) -> Any:
        """One node's answer, within the connect timeout."""
        until, pool = self._now() + self._most_s, self._chart.node(at).pool
        while True:
            link = pool.take(until)
            try:
                link.replies.expect(1)
                (reply,) = got = link.ask(ASK_SLOTS, until)
            except BaseException as error:
                if not pool.is_stale(link, error):  # It had died in the pool, as have all that were idle.
                    raise
            else:
                settle(pool, link, got)
                return reply

    def _tell(self, failure: DialFailure | None) -> None:
        """Under the lock: everyone who waits may go on, or has to give up."""
        for bell in self._line:
            bell.failure = failure
            bell.ring()
        self._line = []


class Bell:
    """A wait for the map that makes a pipe readable when it is over; `failure` says why there is none."""

    def __init__(self, scout: Scout) -> None:
        self.failure: DialFailure | None = None
        self.is_rung = False
        self._scout = scout
        self._reader, self._writer = os.pipe()
        scout.queue(self)

    def fileno(self) -> int:
        return self._reader

    def ring(self) -> None:
        self.is_rung = True
        os.write(self._writer, b"!")  # Once, so it never blocks.

    def close(self) -> None:
        self._scout.leave(self)  # First: it rings under its lock, and not after this.
        os.close(self._reader)
        os.close(self._writer)
