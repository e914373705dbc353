"""Rows that other people write, in a cluster: a command a row, each to the shard of its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np

from featurechaos.errors import StoreError, translating
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Batch, Partial, Pending, Place, WriteCounts
from featurechaos_redis import talks
from featurechaos_redis.acluster import AsyncClusterStore
from featurechaos_redis.astore import refuse_history
from featurechaos_redis.chart import At, slot_of
from featurechaos_redis.cluster import ClusterStore
from featurechaos_redis.errors import ERRORS
from featurechaos_redis.foreign import Found, Reader, no_hurry, packed
from featurechaos_redis.gathering import Gathering, PendingGathering, gather
from featurechaos_redis.pending import Nothing
from featurechaos_redis.rounds import said
from featurechaos_redis.scatter import Job, Round
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.wire import command


class Shards:
    """Asks to jobs, jobs that are over to answers; what both stores share."""

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        self.reader, self._source = Reader(spec, place), place.source

    def jobs(self, asks: Sequence[Ask]) -> list[Job]:
        """A job for every row of some asks; its tag is the row's place among them."""
        made: list[Job] = []
        for ask in asks:
            stored = self.reader.views.of(ask.view, ask.layout)
            for key in stored.key.keys(ask.keys.ids):
                made.append(Job(slot_of(key), self.reader.layout.commands(stored, [key]), len(made)))
        return made

    def answers(self, asks: Sequence[Ask], ended: Sequence[Job], until: float) -> list[Answer]:
        """The rows of jobs that are over; raises the first error if nobody answered."""
        lost: dict[StoreError, list[int]] = {}
        for job in ended:
            if job.error is not None:
                lost.setdefault(job.error, []).append(job.tag)
        if lost and sum(map(len, lost.values())) == len(ended):
            raise next(iter(lost))
        replies = self._replies(asks, ended)
        with translating(ERRORS, source=self._source):
            if not lost:
                return list(self.reader.answers(asks, replies, until))
            # What a shard is lost for has been waited for till the end: it is late already, by what parsing takes.
            whole = self.reader.told(asks, replies, no_hurry)
        places = [(error, np.array(sorted(each), np.intp)) for error, each in lost.items()]
        made: list[Answer] = []
        begin = 0
        for ask, answer in zip(asks, whole, strict=True):
            end = begin + len(ask.keys)
            mine = [(error, at[(at >= begin) & (at < end)] - begin) for error, at in places]
            mine = [(error, at) for error, at in mine if len(at)]
            # Rows that some are lost of are told packed; all of them are columns while everybody answers.
            if mine and not isinstance(answer, list):
                made.append(Partial(packed(ask.layout, answer, ask.keys.own), mine))
            else:
                made.append(answer)
            begin = end
        return made

    def _replies(self, asks: Sequence[Ask], ended: Sequence[Job]) -> list[Any]:
        """The reply of every row in the asks' order; a lost row is told as one that is not there."""
        replies: list[Any] = []
        for ask in asks:
            stored = self.reader.views.of(ask.view, ask.layout)
            replies += [self.reader.layout.nothing(stored)] * len(ask.keys)
        for job in ended:
            if job.error is None:
                replies[job.tag] = job.reply
        return replies

    def scan(self, view: View, node: At, cursor: bytes, page: int) -> Round[talks.Page]:
        """One step of a walk over one node: as `foreign.walk`."""
        found = Found(self.reader, view)
        (job,) = yield [Job(-1, talks.scan_command(found.pattern, cursor, page), to=node)]
        following, keys = talks.scanned(said(job))
        places = found.take(keys)
        done = yield [Job(slot_of(keys[at]), found.commands([at]), at) for at in places]
        by_place = {job.tag: job for job in done}
        for job in done:
            if job.error is not None:
                raise job.error
        return following, *found.packed(places, [by_place[at].reply for at in places])


def answered(nodes: Sequence[At]) -> Round[None]:
    """Whether any shard answers; raises the first error if none does."""
    done = yield [Job(-1, command(b"PING"), to=at) for at in nodes]
    errors = [job.error for job in done if job.error is not None]
    if errors and len(errors) == len(done):
        raise errors[0]


class ForeignClusterStore(ClusterStore):
    """A redis cluster whose rows are hashes or JSON. Only read; otherwise as `ClusterStore`."""

    writable: ClassVar[bool] = False

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        super().__init__(spec, place)
        self._shards = Shards(spec, place)

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        jobs = self._shards.jobs(asks)
        if not jobs:
            return [[] for _ in asks]
        return self._shards.answers(asks, gather(jobs, self._cluster, until), until)

    def begin(self, asks: Sequence[Ask], until: float) -> Pending:
        jobs = self._shards.jobs(asks)
        if not jobs:
            return Nothing(len(asks))
        gathering = Gathering(jobs, self._cluster, until)
        return PendingGathering(gathering, lambda ended: self._shards.answers(asks, ended, until))

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        """None: these rows say nothing of how they are laid out. Asks whether any shard is there."""
        gather([], self._cluster, until)  # Until there is a map.
        self._talk(answered([node.at for node in self._cluster.chart.shards()]), until)
        return {}

    def write(self, batch: Batch, until: float) -> NoReturn:
        self._shards.reader.refuse(batch)

    def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        """None: nobody notes how far these rows are written."""
        return None

    def key_pattern(self, view: View) -> str:
        """What the stored keys of a view look like."""
        return self._shards.reader.pattern(view)

    def _scan(self, view: View, node: At, cursor: bytes, page: int) -> Round[talks.Page]:
        return self._shards.scan(view, node, cursor, page)


class AsyncForeignClusterStore(AsyncClusterStore):
    """The same store for asyncio."""

    writable: ClassVar[bool] = False

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        super().__init__(spec, place)
        self._shards = Shards(spec, place)

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        jobs = self._shards.jobs(asks)
        if not jobs:
            return [[] for _ in asks]
        return self._shards.answers(asks, await self._gather(jobs, until), until)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        await self._gather([], until)  # Until there is a map.
        await self._talk(answered([node.at for node in self._loop().chart.shards()]), until)
        return {}

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        self._shards.reader.refuse(batch)

    async def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        return None
