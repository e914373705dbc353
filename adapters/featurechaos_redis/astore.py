"""The same store for asyncio: the same commands, talks and errors over one pool an event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel

from featurechaos.errors import SpecError, StoreUnavailable, translating
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Batch, Place, WriteCounts
from featurechaos_redis import talks
from featurechaos_redis.alinks import ALink, ALinker
from featurechaos_redis.apool import APool
from featurechaos_redis.bulks import Whole, whole
from featurechaos_redis.errors import ERRORS
from featurechaos_redis.sentinel import WatchedALinker, WatchedAPool
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.wire import Encoder, Replies, answers

_THEIRS = tuple(ERRORS)

Said = TypeVar("Said")


class AsyncRedisStore:
    """A redis source in packed layout, for any number of event loops. No network until the first call."""

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    spec: ClassVar[type[BaseModel]] = RedisSpec

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        self._spec, self._source, self._clock = spec, place.source, place.clock
        self._encoder = Encoder()
        try:
            self._linker = WatchedALinker(spec) if spec.mode == "sentinel" else ALinker(spec)
        except (TypeError, ValueError) as error:
            msg = f"sources.{place.source}.options: redis-py does not take them: {error}"
            raise SpecError(msg) from None
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, APool] = weakref.WeakKeyDictionary()
        self._closed = False

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        command, count = self._encoder.mget(asks)
        if not count:
            return [[] for _ in asks]
        try:
            replies = await self._ask(command, until, rows=count, like=whole(asks, count))
            return answers(replies[0], count, asks)
        except _THEIRS as error:
            with translating(ERRORS, source=self._source):
                raise
            raise error from None

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return await self._talk(talks.layouts(project, hashes), until)

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        now_us = round(self._clock.wall() * 1e6)
        return await self._talk(talks.write(batch, expire_s=self._spec.expire_s, now_us=now_us), until, is_patient=True)

    async def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        """How far a view is written: (newest event time, written at), int64 us; None if never."""
        return await self._talk(talks.watermark(view), until)

    async def health(self, until: float) -> float:
        """Seconds a PING takes, connecting included where nothing is open yet."""
        begun = self._clock.monotonic()
        await self._talk(talks.ping(), until)
        return self._clock.monotonic() - begun

    def stats(self) -> dict[str, int]:
        """Counts over the pools of all loops, see `APool.stats`."""
        total: dict[str, int] = {}
        for pool in list(self._pools.values()):
            for name, count in pool.stats().items():
                total[name] = total.get(name, 0) + count
        return total

    async def close(self) -> None:
        """Close this loop's connections now, and those of other loops as they come to run."""
        self._closed = True
        running = asyncio.get_running_loop()
        for loop, pool in list(self._pools.items()):
            if loop is running:
                await pool.close()
            elif not loop.is_closed():
                asyncio.run_coroutine_threadsafe(pool.close(), loop)
        self._pools.clear()

    def _pool(self, loop: asyncio.AbstractEventLoop) -> APool:
        pool = self._pools.get(loop)
        if pool is None:
            if self._closed:
                msg = f"source {self._source!r}: the client is closed"
                raise StoreUnavailable(msg)
            pool = self._pools[loop] = (WatchedAPool if self._spec.mode == "sentinel" else APool)(
                self._linker,
                source=self._source,
                most=self._spec.max_connections,
                now=self._clock.monotonic,
                secrets=self._spec.secrets,
            )
        return pool

    async def _ask(
        self,
        command: bytes,
        until: float,
        *,
        rows: int = 0,
        replies: int = 1,
        begin: bytes = b"",
        is_patient: bool = False,
        like: Whole | None = None,
    ) -> list[Any]:
        """One pipeline and its replies; a connection found dead is replaced once, by the same deadline."""
        pool = self._pool(asyncio.get_running_loop())
        expect = (lambda link: link.expect_rows(rows, like)) if rows else (lambda link: link.expect(replies, begin))
        return await exchange(pool, command, until, now=self._clock.monotonic, expect=expect, is_patient=is_patient)

    async def _talk(self, talk: talks.Talk[Said], until: float, *, is_patient: bool = False) -> Said:
        with translating(ERRORS, source=self._source):
            try:
                said = next(talk)
                while True:
                    said = talk.send(await self._ask(said.data, until, replies=said.replies, is_patient=is_patient))
            except StopIteration as stop:
                value: Said = stop.value
                return value


class AsyncRedisReplica(AsyncRedisStore):
    """A redis source that only reads."""

    writable: ClassVar[bool] = False


async def exchange(
    pool: APool,
    command: bytes,
    until: float,
    *,
    now: Callable[[], float],
    expect: Callable[[Replies], None],
    is_unfit: Callable[[list[Any]], bool] | None = None,
    is_patient: bool = False,
) -> list[Any]:
    """One pipeline over a pool and its replies; a connection found dead is replaced once, by the same deadline.

    `expect` tells a connection what comes; `is_unfit` judges from its replies whether it serves us no longer, where
    that is not as for one server.
    """
    loop = asyncio.get_running_loop()
    is_replaced = False
    while True:
        link = pool.poll() or await pool.take(until, is_patient=is_patient)
        if link.has_unread:
            await _caught_up(pool, link)
        left = until - now()
        if left <= 0:
            pool.give(link)
            msg = "no time left to ask"
            raise TimeoutError(msg)
        expect(link.replies)
        timer = loop.call_later(left, link.expire)
        try:
            got = await link.ask(command)
        except BaseException as error:
            if not link.is_busy:
                pool.settle(link)  # Cancelled as its reply had wholly come.
                raise
            # Closed without awaiting: a reply still to come would be another read's.
            if not pool.is_stale(link, error) or is_replaced:
                raise
            is_replaced = True
        else:
            if is_unfit is not None:
                link.is_spent = is_unfit(got)
            pool.settle(link)
            return got
        finally:
            timer.cancel()


async def _caught_up(pool: APool, link: ALink) -> None:
    """Let the loop read what came while nothing was asked: a connection of no more use is closed then."""
    try:
        # The loop looks at its sockets after this turn, and reads them after the next began.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    except BaseException:
        pool.give(link)
        raise


def refuse_history(source: str) -> NoReturn:
    msg = f"source {source!r}: redis keeps no history, so nothing as of an earlier time"
    raise StoreUnavailable(msg)
