"""Rows in redis or valkey, packed: one MGET a read, one script call a write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel

from featurechaos.errors import SpecError, translating
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Batch, Pending, Place, WriteCounts
from featurechaos_redis import talks
from featurechaos_redis.acluster import AsyncClusterReplica, AsyncClusterStore
from featurechaos_redis.astore import AsyncRedisReplica, AsyncRedisStore, refuse_history
from featurechaos_redis.bulks import Whole, whole
from featurechaos_redis.cluster import ClusterReplica, ClusterStore
from featurechaos_redis.connections import linker
from featurechaos_redis.errors import ERRORS, NotAsked
from featurechaos_redis.pending import Nothing, PendingRead
from featurechaos_redis.pool import Pool, settle
from featurechaos_redis.sentinel import WatchedPool
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.wire import Encoder, answers, split

_THEIRS = tuple(ERRORS)
_STEP_S = 5.0

Said = TypeVar("Said")


class RedisStore:
    """A redis source in packed layout. Thread-safe; no network until the first call; survives a fork."""

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    spec: ClassVar[type[BaseModel]] = RedisSpec

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        self._spec, self._source, self._clock = spec, place.source, place.clock
        self._encoder = Encoder()
        try:
            self._pool = pool_of(spec, place)
        except (TypeError, ValueError) as error:
            msg = f"sources.{place.source}.options: redis-py does not take them: {error}"
            raise SpecError(msg) from None

    @classmethod
    def open(cls, spec: Any, place: Place) -> Any:
        """The store of a source: this one, or as its mode, layout and role have it."""
        if spec.layout != "packed":
            from featurechaos_redis.foreign import ForeignStore
            from featurechaos_redis.foreign_cluster import ForeignClusterStore

            return (ForeignClusterStore if spec.mode == "cluster" else ForeignStore)(spec, place)
        if spec.mode == "cluster":
            return (ClusterReplica if spec.role == "replica" else ClusterStore)(spec, place)
        return (RedisReplica if spec.role == "replica" else cls)(spec, place)

    @classmethod
    def aopen(cls, spec: Any, place: Place) -> Any:
        """Its async form."""
        if spec.layout != "packed":
            from featurechaos_redis.foreign import AsyncForeignStore
            from featurechaos_redis.foreign_cluster import AsyncForeignClusterStore

            return (AsyncForeignClusterStore if spec.mode == "cluster" else AsyncForeignStore)(spec, place)
        if spec.mode == "cluster":
            return (AsyncClusterReplica if spec.role == "replica" else AsyncClusterStore)(spec, place)
        return (AsyncRedisReplica if spec.role == "replica" else AsyncRedisStore)(spec, place)

    @classmethod
    def check(cls, spec: Any, views: Sequence[View]) -> None:
        """SpecError if the views that are read from a source do not go with what its config says."""
        if spec.layout != "packed":
            from featurechaos_redis.layouts import check

            check(spec, views)

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        command, count = self._encoder.mget(asks)
        if not count:
            return [[] for _ in asks]
        try:
            return answers(self._ask(command, until, rows=count, like=whole(asks, count))[0], count, asks)
        except _THEIRS as error:
            self._fail(error)

    def begin(self, asks: Sequence[Ask], until: float) -> Pending:
        """A read that can be advanced and abandoned, for several on one thread."""
        command, count = self._encoder.mget(asks)
        if not count:
            return Nothing(len(asks))
        return PendingRead(
            self._pool,
            command,
            count,
            source=self._source,
            until=until,
            now=self._clock.monotonic,
            finish=lambda rows: split(rows, asks),
        )

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self._talk(talks.layouts(project, hashes), until)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        now_us = round(self._clock.wall() * 1e6)
        return self._talk(talks.write(batch, expire_s=self._spec.expire_s, now_us=now_us), until, is_patient=True)

    def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        """How far a view is written: (newest event time, written at), int64 us; None if never."""
        return self._talk(talks.watermark(view), until)

    def rows(
        self,
        view: View,
        *,
        rows_per_s: float | None = None,
        page: int = 1000,
        wait: Callable[[float], None] = time.sleep,  # noqa: TID251 - no request waits for a walk
    ) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
        """Every stored row of a view, in pages of ids and blobs; for a first snapshot of what is online.

        A walk by SCAN: a row that is there throughout comes at least once, and may come twice.
        `rows_per_s` bounds the keys looked at, of any view; each step is bounded by 5 s.
        """
        cursor = b"0"
        while True:
            begun = self._clock.monotonic()
            cursor, ids, blobs = self._talk(self._scan(view, cursor, page), begun + _STEP_S)
            if ids:
                yield ids, blobs
            if cursor == b"0":
                return
            if rows_per_s is not None:
                wait(max(0.0, begun + page / rows_per_s - self._clock.monotonic()))

    def _scan(self, view: View, cursor: bytes, page: int) -> talks.Talk[talks.Page]:
        return talks.scan(view, cursor, page)

    def health(self, until: float) -> float:
        """Seconds a PING takes, connecting included where nothing is open yet."""
        begun = self._clock.monotonic()
        self._talk(talks.ping(), until)
        return self._clock.monotonic() - begun

    def server_time(self, until: float) -> float:
        """The server's wall clock, seconds since the epoch."""
        return self._talk(talks.server_time(), until)

    def stats(self) -> dict[str, int]:
        """Counts of the pool, see `Pool.stats`."""
        return self._pool.stats()

    def close(self) -> None:
        self._pool.close(wait_s=self._spec.connect_timeout_s + 1.0)

    def _ask(
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
        pool, is_replaced = self._pool, False
        while True:
            link = pool.take(until, is_patient=is_patient)
            try:
                if rows:
                    link.replies.expect_rows(rows, like)
                else:
                    link.replies.expect(replies, begin)
                got = link.ask(command, until)
            except NotAsked:
                pool.give(link)
                raise
            except BaseException as error:
                # Whatever it was: a reply still to come would be another read's.
                if not pool.is_stale(link, error) or is_replaced:
                    raise
                is_replaced = True
            else:
                if rows and link.is_proven and type(got[0]) is list:
                    pool.give(link)
                else:
                    settle(pool, link, got)
                return got

    def _talk(self, talk: talks.Talk[Said], until: float, *, is_patient: bool = False) -> Said:
        with translating(ERRORS, source=self._source):
            try:
                said = next(talk)
                while True:
                    said = talk.send(self._ask(said.data, until, replies=said.replies, is_patient=is_patient))
            except StopIteration as stop:
                value: Said = stop.value
                return value

    def _fail(self, error: Exception) -> NoReturn:
        # Entered on failures only: a context manager costs a healthy read of one key 3 %.
        with translating(ERRORS, source=self._source):
            raise error
        raise error


def pool_of(spec: RedisSpec, place: Place) -> Pool:
    """The connections of a source; TypeError or ValueError for options redis-py does not know."""
    now = place.clock.monotonic
    if spec.mode == "sentinel":
        return WatchedPool.checked(spec, source=place.source, now=now)
    make = linker(spec, now)
    make()
    return Pool(make, source=place.source, most=spec.max_connections, now=now, secrets=spec.secrets)


class RedisReplica(RedisStore):
    """A redis source that only reads."""

    writable: ClassVar[bool] = False
