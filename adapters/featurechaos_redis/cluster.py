"""Rows in a cluster: the same store over several servers, each of which may fail by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, TypeVar

from pydantic import BaseModel

from featurechaos.errors import SpecError, translating
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Batch, Pending, Place, WriteCounts
from featurechaos_redis import rounds, talks
from featurechaos_redis.astore import refuse_history
from featurechaos_redis.chart import At, Chart
from featurechaos_redis.connections import linker
from featurechaos_redis.errors import ERRORS
from featurechaos_redis.gathering import Cluster, Gathering, PendingGathering, gather
from featurechaos_redis.pending import Nothing
from featurechaos_redis.pool import Pool
from featurechaos_redis.scatter import Round
from featurechaos_redis.scout import Scout
from featurechaos_redis.spec import RedisSpec

_STEP_S = 5.0

Said = TypeVar("Said")


class ClusterStore:
    """A redis cluster in packed layout. Thread-safe; no network until the first call; survives a fork.

    A shard that does not answer costs its own rows only. Its own breaker, where there are breakers, goes by the
    name `source/host:port`.
    """

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    spec: ClassVar[type[BaseModel]] = RedisSpec

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        self._spec, self._source, self._clock = spec, place.source, place.clock
        make, seeds, gates = pools(spec, place), [At(each.host, each.port) for each in spec.addresses], place.gates
        chart = Chart(make, seeds, let_go=Pool.close)
        scout = Scout(
            chart,
            source=place.source,
            most_s=spec.connect_timeout_s,
            now=place.clock.monotonic,
            secrets=spec.secrets,
            learned=lambda: None if gates is None else gates.keep([node.name for node in chart.nodes()]),
        )
        self._cluster = Cluster(place.source, chart, scout, gates, place.clock.monotonic)

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        jobs, count = rounds.read_jobs(asks)
        if not count:
            return [[] for _ in asks]
        return rounds.answers(gather(jobs, self._cluster, until), asks, count, self._source)

    def begin(self, asks: Sequence[Ask], until: float) -> Pending:
        """A read that can be advanced and abandoned, for several on one thread."""
        jobs, count = rounds.read_jobs(asks)
        if not count:
            return Nothing(len(asks))
        gathering = Gathering(jobs, self._cluster, until)
        return PendingGathering(gathering, lambda ended: rounds.answers(ended, asks, count, self._source))

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self._talk(rounds.layouts(project, hashes), until)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        now_us = round(self._clock.wall() * 1e6)
        return self._talk(rounds.write(batch, expire_s=self._spec.expire_s, now_us=now_us), until, is_patient=True)

    def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        """How far a view is written: (newest event time, written at), int64 us; None if never."""
        return self._talk(rounds.watermark(view), until)

    def rows(
        self,
        view: View,
        *,
        rows_per_s: float | None = None,
        page: int = 1000,
        wait: Callable[[float], None] = time.sleep,  # noqa: TID251 - no request waits for a walk
    ) -> Iterator[tuple[list[bytes], list[bytes | None]]]:
        """As `RedisStore.rows`, one shard after another; what changes shards meanwhile may come twice or not at all."""
        gather([], self._cluster, self._clock.monotonic() + _STEP_S)  # Until there is a map.
        for shard in self._cluster.chart.shards():
            cursor = b""
            while cursor != b"0":
                begun = self._clock.monotonic()
                step = self._scan(view, shard.at, cursor or b"0", page)
                cursor, ids, blobs = self._talk(step, begun + _STEP_S)
                if ids:
                    yield ids, blobs
                if rows_per_s is not None and cursor != b"0":
                    wait(max(0.0, begun + page / rows_per_s - self._clock.monotonic()))

    def _scan(self, view: View, node: At, cursor: bytes, page: int) -> Round[talks.Page]:
        return rounds.scan(view, node, cursor, page)

    def health(self, until: float) -> float:
        """Seconds a PING of every shard takes, connecting included where nothing is open yet."""
        begun = self._clock.monotonic()
        gather([], self._cluster, until)  # Until there is a map.
        self._talk(rounds.ping([node.at for node in self._cluster.chart.shards()]), until)
        return self._clock.monotonic() - begun

    def shards_up(self, until: float) -> tuple[int, int]:
        """How many shards answer, and how many there are; raises where nobody tells."""
        gather([], self._cluster, until)
        return self._talk(rounds.answering([node.at for node in self._cluster.chart.shards()]), until)

    def stats(self) -> dict[str, int]:
        """Counts over the pools of all nodes, see `Pool.stats`, and how many `shards` there are."""
        return totals([node.pool.stats() for node in self._cluster.chart.nodes()], len(self._cluster.chart.shards()))

    def close(self) -> None:
        wait_s = self._spec.connect_timeout_s + 1.0
        self._cluster.scout.close()
        self._cluster.chart.close()
        for node in self._cluster.chart.nodes():
            node.pool.close(wait_s=wait_s)
        self._cluster.scout.join(wait_s)

    def _talk(self, said: Round[Said], until: float, *, is_patient: bool = False) -> Said:
        with translating(ERRORS, source=self._source):
            try:
                jobs = next(said)
                while True:
                    jobs = said.send(gather(jobs, self._cluster, until, is_patient=is_patient))
            except StopIteration as stop:
                value: Said = stop.value
                return value


class ClusterReplica(ClusterStore):
    """A redis cluster that is only read."""

    writable: ClassVar[bool] = False


def pools(spec: RedisSpec, place: Place) -> Callable[[At], Pool]:
    """A maker of pools, one a node; SpecError for options redis-py does not know."""
    now = place.clock.monotonic

    def pool(at: At) -> Pool:
        make = linker(spec.at(at.host, at.port), now)
        return Pool(make, source=place.source, most=spec.max_connections, now=now, secrets=spec.secrets)

    try:
        linker(spec, now)()
    except (TypeError, ValueError) as error:
        msg = f"sources.{place.source}.options: redis-py does not take them: {error}"
        raise SpecError(msg) from None
    return pool


def totals(stats: Sequence[dict[str, int]], shards: int) -> dict[str, int]:
    """Counts of several pools, added up."""
    total: dict[str, int] = {"shards": shards}
    for each in stats:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total
