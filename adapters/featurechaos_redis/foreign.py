"""Stores of rows that other people write: read as they lie, never written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

from featurechaos.codec import Layout, pack, seal
from featurechaos.codec.hashing import hash_ids, spread
from featurechaos.errors import StoreRefused, StoreTimeout, translating
from featurechaos.model import NO_TIME_US, Verdict, View
from featurechaos.stores import Answer, Ask, Batch, Pending, Place, WriteCounts
from featurechaos_redis import talks
from featurechaos_redis.astore import AsyncRedisStore, refuse_history
from featurechaos_redis.documents import Documents
from featurechaos_redis.errors import ERRORS
from featurechaos_redis.hashes import Hashes
from featurechaos_redis.layouts import Foreign, Views
from featurechaos_redis.pending import Exchange, Nothing
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.store import RedisStore

_THEIRS = tuple(ERRORS)
_LAYOUTS: dict[str, type[Foreign]] = {"hash": Hashes, "json": Documents}
_UNREADABLE = b""
"""Stands for a stored row that can't be read, in a walk."""


class Reader:
    """Asks to commands, replies to answers; what both stores share."""

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        self.layout = _LAYOUTS[spec.layout]()
        self.views = Views(spec)
        self._name, self._source, self._now = spec.layout, place.source, place.clock.monotonic

    def commands(self, asks: Sequence[Ask]) -> tuple[bytes, int, bytes]:
        """What reads every row of some asks, how many rows that is, and how the reply to the first begins."""
        parts, count, begin = [], 0, b""
        for ask in asks:
            if ask.keys.ids:
                stored = self.views.of(ask.view, ask.layout)
                parts.append(self.layout.commands(stored, stored.key.keys(ask.keys.ids)))
                begin = begin if count else self.layout.begins(stored)
                count += len(ask.keys.ids)
        return b"".join(parts), count, begin

    def answers(self, asks: Sequence[Ask], replies: Sequence[Any], until: float) -> list[Answer]:
        """What the replies say, by `until` or StoreTimeout: a great many long texts take their time."""

        def look() -> None:
            if self._now() >= until:
                msg = f"source {self._source!r}: what came could not be read in time"
                raise StoreTimeout(msg)

        answers: list[Answer] = []
        begin = 0
        for ask in asks:
            end = begin + len(ask.keys.ids)
            stored = self.views.of(ask.view, ask.layout)
            answers.append(self.layout.columns(stored, replies[begin:end], look) if end > begin else [])
            begin = end
        return answers

    def refuse(self, batch: Batch) -> NoReturn:
        msg = (
            f"source {self._source!r} takes no rows of view {batch.ask.view.name!r}: "
            f"layout {self._name} is only read, and written by whoever else does"
        )
        raise StoreRefused(msg)


class ForeignStore(RedisStore):
    """A redis source whose rows are hashes or JSON. Only read; otherwise as `RedisStore`."""

    writable: ClassVar[bool] = False

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        super().__init__(spec, place)
        self._reader = Reader(spec, place)

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        data, count, begin = self._reader.commands(asks)
        if not count:
            return [[] for _ in asks]
        try:
            replies = self._ask(data, until, replies=count, begin=begin)
            return self._reader.answers(asks, replies, until)
        except _THEIRS as error:
            self._fail(error)

    def begin(self, asks: Sequence[Ask], until: float) -> Pending:
        data, count, begin = self._reader.commands(asks)
        if not count:
            return Nothing(len(asks))
        return Exchange(
            self._pool,
            data,
            source=self._source,
            until=until,
            now=self._clock.monotonic,
            expect=lambda replies: replies.expect(count, begin),
            finish=lambda replies: self._reader.answers(asks, replies, until),
        )

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        """None: these rows say nothing of how they are laid out. Asks whether the server is there."""
        self._talk(talks.ping(), until)
        return {}

    def write(self, batch: Batch, until: float) -> WriteCounts:
        self._reader.refuse(batch)

    def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        """None: nobody notes how far these rows are written."""
        return None

    def _scan(self, view: View, cursor: bytes, page: int) -> talks.Talk[talks.Page]:
        return walk(self._reader, view, cursor, page, now_us=lambda: round(self._clock.wall() * 1e6))


class AsyncForeignStore(AsyncRedisStore):
    """The same store for asyncio."""

    writable: ClassVar[bool] = False

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        super().__init__(spec, place)
        self._reader = Reader(spec, place)

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        data, count, begin = self._reader.commands(asks)
        if not count:
            return [[] for _ in asks]
        with translating(ERRORS, source=self._source):
            replies = await self._ask(data, until, replies=count, begin=begin)
            return self._reader.answers(asks, replies, until)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        await self._talk(talks.ping(), until)
        return {}

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        self._reader.refuse(batch)

    async def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        return None


def walk(reader: Reader, view: View, cursor: bytes, page: int, *, now_us: Callable[[], int]) -> talks.Talk[talks.Page]:
    """One step of a walk over a view's rows: the next cursor, ids, and the rows packed.

    A row without an event time is dated now, since now it is there. A key or a row that can't be read comes
    with no bytes, which no row is.
    """
    layout = Layout.of(view)
    stored = reader.views.of(view, layout)
    (reply,) = yield from talks.say([talks.scan_command(stored.key.pattern, cursor, page)])
    following, keys = talks.scanned(reply)
    ids = stored.key.ids(keys)
    known = [at for at, each in enumerate(ids) if each is not None]
    found: list[bytes | None] = [_UNREADABLE] * len(keys)
    if known:
        own = _own(view, [ids[at] for at in known])
        data = reader.layout.commands(stored, [keys[at] for at in known])
        replies = yield talks.Say(data, len(known))
        columns = reader.layout.columns(stored, replies, _no_hurry)
        undated = columns.event_time == NO_TIME_US
        columns.event_time[undated] = now_us()
        rows = pack(layout, columns.values, columns.nulls, columns.event_time, own, columns.verdict)
        fresh = np.flatnonzero(rows.verdicts == Verdict.FRESH)
        for at, blob in zip(fresh.tolist(), seal(rows.take(fresh), own[fresh]), strict=True):
            found[known[at]] = blob
        for at in np.flatnonzero(rows.verdicts == Verdict.MISSING).tolist():
            found[known[at]] = None
    return following, [key if each is None else each for key, each in zip(keys, ids, strict=True)], found


def _own(view: View, ids: Sequence[Any]) -> Any:
    """`Keys.own` of some ids."""
    if len(view.join_keys) == 1 and view.join_keys[0].dtype.base not in ("string", "bytes"):
        return spread(np.array(list(map(int, ids)), np.int64).view(np.uint64))
    return hash_ids(list(ids))


def _no_hurry() -> None:
    """A walk is bounded step by step."""
