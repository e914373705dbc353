"""A blocking store where more is wanted of it: for asyncio, and a deadline it can't keep by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

from featurechaos.errors import StoreTimeout
from featurechaos.stores import Answer, Ask, Batch, Store, WriteCounts

T = TypeVar("T")


def left_behind(work: Callable[[], T], until: float, source: str) -> T:
    """Do something on a thread of its own and leave it behind at `until` (monotonic seconds)."""
    done: Future[T] = Future()
    threading.Thread(target=_do, args=(work, done), name=f"featurechaos-{source}", daemon=True).start()
    try:
        return done.result(max(0.0, until - time.monotonic()))
    except TimeoutError:
        msg = f"source {source!r} gave no answer in time"
        raise StoreTimeout(msg) from None


def _do(work: Callable[[], T], done: Future[T]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        done.set_exception(error)


class Bounded:
    """A store whose driver keeps no deadline, read on a thread that is left behind at `until`."""

    bounded: ClassVar[bool] = True

    def __init__(self, store: Store, source: str) -> None:
        self._store, self._source = store, source
        self.writable = store.writable

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return left_behind(lambda: self._store.read(asks, until, as_of_us=as_of_us), until, self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Threaded:
    """The async form of a blocking store: its calls on the loop's threads, its errors as they are."""

    bounded: ClassVar[bool] = True

    def __init__(self, store: Store, source: str) -> None:
        self._store, self._source = store, source
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
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await asyncio.to_thread(work)
        except TimeoutError:
            msg = f"source {self._source!r} gave no answer in time"
            raise StoreTimeout(msg) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
