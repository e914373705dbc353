"""Stores of rows that other people write: read as they lie, never written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Layout, pack, seal
from featurechaos.codec.hashing import hash_ids, spread
from featurechaos.errors import StoreRefused, StoreTimeout, translating
from featurechaos.model import Verdict, View
from featurechaos.stores import Answer, Ask, Batch, Columns, Pending, Place, WriteCounts
from featurechaos_redis import talks
from featurechaos_redis.astore import AsyncRedisStore, refuse_history
from featurechaos_redis.documents import Documents
from featurechaos_redis.errors import ERRORS
from featurechaos_redis.hashes import Hashes
from featurechaos_redis.layouts import Foreign, Look, Views
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

    def answers(self, asks: Sequence[Ask], replies: Sequence[Any], until: float) -> list[Columns | list[bytes | None]]:
        """What the replies say, by `until` or StoreTimeout: a great many long texts take their time."""

        def look() -> None:
            if self._now() >= until:
                msg = f"source {self._source!r}: what came could not be read in time"
                raise StoreTimeout(msg)

        return self.told(asks, replies, look)

    def told(self, asks: Sequence[Ask], replies: Sequence[Any], look: Look) -> list[Columns | list[bytes | None]]:
        """The same, as long as `look` says."""
        answers: list[Columns | list[bytes | None]] = []
        begin = 0
        for ask in asks:
            end = begin + len(ask.keys.ids)
            stored = self.views.of(ask.view, ask.layout)
            answers.append(self.layout.columns(stored, replies[begin:end], look) if end > begin else [])
            begin = end
        return answers

    def pattern(self, view: View) -> str:
        """What the stored keys of a view look like, for a message."""
        return self.views.of(view, Layout.of(view)).key.pattern.decode(errors="backslashreplace")

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
            return list(self._reader.answers(asks, replies, until))
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
            finish=lambda replies: list(self._reader.answers(asks, replies, until)),
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

    def key_pattern(self, view: View) -> str:
        """What the stored keys of a view look like."""
        return self._reader.pattern(view)

    def _scan(self, view: View, cursor: bytes, page: int) -> talks.Talk[talks.Page]:
        return walk(self._reader, view, cursor, page)


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
            return list(self._reader.answers(asks, replies, until))

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        await self._talk(talks.ping(), until)
        return {}

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        self._reader.refuse(batch)

    async def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        return None


def walk(reader: Reader, view: View, cursor: bytes, page: int) -> talks.Talk[talks.Page]:
    """One step of a walk over a view's rows: the next cursor, ids, and the rows packed."""
    found = Found(reader, view)
    (reply,) = yield from talks.say([talks.scan_command(found.pattern, cursor, page)])
    following, keys = talks.scanned(reply)
    readable = found.take(keys)
    replies = (yield talks.Say(found.commands(readable), len(readable))) if readable else []
    return following, *found.packed(readable, replies)


class Found:
    """Keys that a walk has met: what reads their rows, and the rows packed.

    A key or a row that can't be read comes with no bytes, which no row is; a key that can't be read is its own id.
    """

    def __init__(self, reader: Reader, view: View) -> None:
        self._reader, self._view, self._layout = reader, view, Layout.of(view)
        self._stored = reader.views.of(view, self._layout)
        self.pattern = self._stored.key.pattern
        self.keys: list[bytes] = []
        self._ids: list[bytes | None] = []

    def take(self, keys: list[bytes]) -> list[int]:
        """Keep the keys met; the places of those to read."""
        self.keys, self._ids = keys, self._stored.key.ids(keys)
        return [at for at, each in enumerate(self._ids) if each is not None]

    def commands(self, places: Sequence[int]) -> bytes:
        return self._reader.layout.commands(self._stored, [self.keys[at] for at in places])

    def packed(self, places: Sequence[int], replies: Sequence[Any]) -> tuple[list[bytes], list[bytes | None]]:
        """Ids and blobs of all keys, from the replies to the commands of some."""
        blobs: list[bytes | None] = [_UNREADABLE] * len(self.keys)
        if places:
            own = _own(self._view, [self._ids[at] for at in places])
            columns = self._reader.layout.columns(self._stored, replies, no_hurry)
            for at, blob in zip(places, packed(self._layout, columns, own), strict=True):
                blobs[at] = blob
        return [key if each is None else each for key, each in zip(self.keys, self._ids, strict=True)], blobs


def packed(layout: Layout, columns: Columns, own: NDArray[np.uint64]) -> list[bytes | None]:
    """Foreign rows as blobs: None for a missing one, no bytes for one that can't be read."""
    rows = pack(layout, columns.values, columns.nulls, columns.event_time, own, columns.verdict)
    verdicts = rows.verdicts
    blobs: list[bytes | None] = [None if each == Verdict.MISSING else _UNREADABLE for each in verdicts.tolist()]
    fresh = np.flatnonzero(verdicts == Verdict.FRESH)
    for at, blob in zip(fresh.tolist(), seal(rows.take(fresh), own[fresh]), strict=True):
        blobs[at] = blob
    return blobs


def _own(view: View, ids: Sequence[Any]) -> NDArray[np.uint64]:
    """`Keys.own` of some ids."""
    if len(view.join_keys) == 1 and view.join_keys[0].dtype.base not in ("string", "bytes"):
        return spread(np.array(list(map(int, ids)), np.int64).view(np.uint64))
    return hash_ids(list(ids))


def no_hurry() -> None:
    """No need to look at the time."""
