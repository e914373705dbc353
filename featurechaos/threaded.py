"""A blocking store where more is wanted of it: for asyncio, and a deadline it can't keep by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

from featurechaos.errors import StoreTimeout
from featurechaos.locks import Locked
from featurechaos.stores import Answer, Ask, Batch, Store, WriteCounts

T = TypeVar("T")

MOST_THREADS = 8


class Lane(Locked):
    """The threads of one source whose driver keeps no deadline: at most `MOST_THREADS`, each ends with the work.

    Work waits for a thread while there is time. Once every thread has been left behind, whoever asks is told at
    once: a source that hangs costs eight threads, however long and however often it is asked.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source
        self.forked()

    def forked(self) -> None:
        """In a child there are no threads yet."""
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._late: set[Future[Any]] = set()
        self._threads = 0

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Do something on a thread; StoreTimeout at once if every one of them is stuck."""
        done: Future[T] = Future()
        with self._lock:
            if len(self._late) >= MOST_THREADS:
                msg = f"source {self._source!r} was not asked: {MOST_THREADS} calls are late and still under way"
                raise StoreTimeout(msg)
            self._waiting.append((work, done))
            if self._threads < MOST_THREADS:
                threading.Thread(target=self._work, name=f"featurechaos-{self._source}", daemon=True).start()
                self._threads += 1
        return done

    def leave(self, done: Future[Any]) -> None:
        """Nobody waits for this any more: it is not begun, or counts as late until it ends."""
        if done.cancel():
            return
        with self._lock:
            if not done.done():
                self._late.add(done)

    def late(self) -> StoreTimeout:
        return StoreTimeout(f"source {self._source!r} gave no answer in time")

    def _work(self) -> None:
        """Take what waits, one after another, until nothing does."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                work, done = self._waiting.popleft()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                done.set_exception(error)
            else:
                done.set_result(result)
            with self._lock:
                self._late.discard(done)


class Bounded:
    """A store whose driver keeps no deadline, asked on a thread that is left behind at `until`."""

    bounded: ClassVar[bool] = True

    def __init__(self, store: Store, source: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._lane, self._monotonic = store, Lane(source), monotonic
        self.writable = store.writable

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return self._bounded(lambda: self._store.read(asks, until, as_of_us=as_of_us), until)

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self._bounded(lambda: self._store.layouts(project, hashes, until), until)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        return self._bounded(lambda: self._store.write(batch, until), until)

    def _bounded(self, work: Callable[[], T], until: float) -> T:
        done = self._lane.begin(work)
        try:
            return done.result(max(0.0, until - self._monotonic()))
        except TimeoutError:
            if done.done():  # the driver's own, not ours
                raise
            raise self._lane.late() from None
        finally:
            self._lane.leave(done)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Threaded:
    """The async form of a blocking store: its calls on threads that are left behind, its errors as they are."""

    bounded: ClassVar[bool] = True

    def __init__(self, store: Store, source: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store, self._lane, self._monotonic = store, Lane(source), monotonic
        self.writable = store.writable

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return await self._bounded(lambda: self._store.read(asks, until, as_of_us=as_of_us), until)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return await self._bounded(lambda: self._store.layouts(project, hashes, until), until)

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        return await self._bounded(lambda: self._store.write(batch, until), until)

    async def close(self) -> None:
        await asyncio.to_thread(self._store.close)

    async def _bounded(self, work: Callable[[], T], until: float) -> T:
        """On a thread of the lane: a driver that hangs must not take the loop's few, nor hold the loop's end."""
        done = self._lane.begin(work)
        limit = asyncio.timeout(max(0.0, until - self._monotonic()))
        try:
            async with limit:
                return await asyncio.wrap_future(done)
        except TimeoutError:
            if not limit.expired():  # the driver's own, not ours
                raise
            raise self._lane.late() from None
        finally:
            self._lane.leave(done)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
