"""A blocking store where more is wanted of it: for asyncio, and a deadline it can't keep by itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
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
    """A store whose driver keeps no deadline, asked on a thread that is left behind at `until`."""

    bounded: ClassVar[bool] = True

    def __init__(self, store: Store, source: str) -> None:
        self._store, self._source = store, source
        self.writable = store.writable

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return left_behind(lambda: self._store.read(asks, until, as_of_us=as_of_us), until, self._source)

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return left_behind(lambda: self._store.layouts(project, hashes, until), until, self._source)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        return left_behind(lambda: self._store.write(batch, until), until, self._source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Threaded:
    """The async form of a blocking store: its calls on threads that are left behind, its errors as they are."""

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
        """On a thread of its own: a driver that hangs must not take the loop's few, nor hold the loop's end."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        threading.Thread(target=_do_for, args=(work, done), name=f"featurechaos-{self._source}", daemon=True).start()
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await done
        except TimeoutError:
            msg = f"source {self._source!r} gave no answer in time"
            raise StoreTimeout(msg) from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _do_for(work: Callable[[], T], done: asyncio.Future[T]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - handed to whoever waits
        told = partial(_tell, done, done.set_exception, error)
    else:
        told = partial(_tell, done, done.set_result, result)
    with suppress(RuntimeError):  # the loop has ended meanwhile
        done.get_loop().call_soon_threadsafe(told)


def _tell(done: asyncio.Future[Any], tell: Callable[[Any], None], what: Any) -> None:
    if not done.done():  # else it was left behind
        tell(what)
