"""The cluster's store for asyncio: the same jobs, map and errors over pools of one event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel

from featurechaos.errors import SpecError, StoreError, StoreTimeout, StoreUnavailable, translating
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Batch, Place, WriteCounts
from featurechaos_redis import rounds
from featurechaos_redis.alinks import ALinker
from featurechaos_redis.apool import APool
from featurechaos_redis.astore import exchange, refuse_history
from featurechaos_redis.chart import ASK_SLOTS, At, Chart, Pace, ranges_of
from featurechaos_redis.errors import ERRORS, DialFailure, ours
from featurechaos_redis.gathering import is_unfit, not_asked, of_shard
from featurechaos_redis.scatter import Job, Parcel, Round, Scatter
from featurechaos_redis.spec import RedisSpec

Said = TypeVar("Said")


class AsyncClusterStore:
    """A redis cluster in packed layout, for any number of event loops. No network until the first call."""

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = True
    spec: ClassVar[type[BaseModel]] = RedisSpec

    def __init__(self, spec: RedisSpec, place: Place) -> None:
        self._spec, self._place = spec, place
        self._source, self._clock = place.source, place.clock
        try:
            ALinker(spec)
        except (TypeError, ValueError) as error:
            msg = f"sources.{place.source}.options: redis-py does not take them: {error}"
            raise SpecError(msg) from None
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()
        self._closed = False

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        if as_of_us is not None:
            refuse_history(self._source)
        jobs, count = rounds.read_jobs(asks)
        if not count:
            return [[] for _ in asks]
        return rounds.answers(await self._gather(jobs, until), asks, count, self._source)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return await self._talk(rounds.layouts(project, hashes), until)

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        now_us = round(self._clock.wall() * 1e6)
        return await self._talk(
            rounds.write(batch, expire_s=self._spec.expire_s, now_us=now_us), until, is_patient=True
        )

    async def watermark(self, view: View, until: float) -> tuple[int, int] | None:
        """How far a view is written: (newest event time, written at), int64 us; None if never."""
        return await self._talk(rounds.watermark(view), until)

    async def health(self, until: float) -> float:
        """Seconds a PING of every shard takes, connecting included where nothing is open yet."""
        begun = self._clock.monotonic()
        await self._gather([], until)  # Until there is a map.
        await self._talk(rounds.ping([node.at for node in self._loop().chart.shards()]), until)
        return self._clock.monotonic() - begun

    async def shards_up(self, until: float) -> tuple[int, int]:
        """How many shards answer, and how many there are; raises where nobody tells."""
        await self._gather([], until)
        return await self._talk(rounds.answering([node.at for node in self._loop().chart.shards()]), until)

    def stats(self) -> dict[str, int]:
        """Counts over the pools of all nodes and loops, see `APool.stats`, and how many `shards` there are."""
        total = {"shards": max((len(each.chart.shards()) for each in self._loops.values()), default=0)}
        for each in list(self._loops.values()):
            for node in each.chart.nodes():
                for name, count in node.pool.stats().items():
                    total[name] = total.get(name, 0) + count
        return total

    async def close(self) -> None:
        """Close this loop's connections now, and those of other loops as they come to run."""
        self._closed = True
        running = asyncio.get_running_loop()
        for loop, each in list(self._loops.items()):
            if loop is running:
                await each.close()
            elif not loop.is_closed():
                asyncio.run_coroutine_threadsafe(each.close(), loop)
        self._loops.clear()

    def _loop(self) -> _Loop:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            if self._closed:
                msg = f"source {self._source!r}: the client is closed"
                raise StoreUnavailable(msg)
            found = self._loops[loop] = _Loop.of(self._spec, self._place)
        return found

    async def _gather(self, jobs: list[Job], until: float, *, is_patient: bool = False) -> list[Job]:
        """Do some jobs by `until`; every job is over then. Raises where there is no map to go by."""
        if until <= self._clock.monotonic():
            msg = f"source {self._source!r}: no time left to ask"
            raise StoreTimeout(msg)
        loop = self._loop()
        if not loop.chart.is_known:
            await loop.scout.wait(until)
        return await loop.gather(jobs, until, is_patient=is_patient)

    async def _talk(self, said: Round[Said], until: float, *, is_patient: bool = False) -> Said:
        with translating(ERRORS, source=self._source):
            try:
                jobs = next(said)
                while True:
                    jobs = said.send(await self._gather(jobs, until, is_patient=is_patient))
            except StopIteration as stop:
                value: Said = stop.value
                return value


class AsyncClusterReplica(AsyncClusterStore):
    """A redis cluster that is only read."""

    writable: ClassVar[bool] = False


@dataclass(slots=True, eq=False)
class _Loop:
    """What a store holds for one event loop."""

    place: Place
    chart: Chart[APool]
    scout: _Scout
    tasks: set[asyncio.Future[Any]] = field(default_factory=set)

    @classmethod
    def of(cls, spec: RedisSpec, place: Place) -> _Loop:
        now, source = place.clock.monotonic, place.source

        def pool(at: At) -> APool:
            linker = ALinker(spec.at(at.host, at.port))
            return APool(linker, source=source, most=spec.max_connections, now=now, secrets=spec.secrets)

        tasks: set[asyncio.Future[Any]] = set()

        def let_go(gone: APool) -> None:
            _keep(asyncio.ensure_future(gone.close()), tasks)

        chart = Chart(pool, [At(each.host, each.port) for each in spec.addresses], let_go=let_go)
        return cls(place, chart, _Scout(chart, spec, place), tasks)

    async def gather(self, jobs: list[Job], until: float, *, is_patient: bool) -> list[Job]:
        scatter = Scatter(jobs, self.chart, self.place.source)
        under_way: set[asyncio.Task[None]] = set()
        try:
            while True:
                parcels = scatter.parcels()
                if len(parcels) == 1 and not under_way:  # A task costs more than the rest.
                    await self._send(scatter, parcels[0], until, is_patient=is_patient)
                    continue
                for parcel in parcels:
                    task = asyncio.create_task(self._send(scatter, parcel, until, is_patient=is_patient))
                    _keep(task, self.tasks)
                    under_way.add(task)
                if not under_way:
                    return scatter.ended
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in under_way:
                task.cancel()
            if scatter.is_misled:
                self.scout.order()

    async def _send(self, scatter: Scatter[APool], parcel: Parcel[APool], until: float, *, is_patient: bool) -> None:
        """Ask one node, and tell what came of it."""
        gates = self.place.gates
        if gates is not None:
            parcel.permit = gates.admit(parcel.node.name)
            if parcel.permit is None:
                scatter.failed(parcel, not_asked(self.place.source, parcel))
                return
        error: StoreError | None = None
        is_left = True
        try:
            replies = parcel.replies
            got = await exchange(
                parcel.node.pool,
                parcel.data,
                until,
                now=self.place.clock.monotonic,
                expect=lambda link: link.expect(replies),
                is_unfit=is_unfit,
                is_patient=is_patient,
            )
            is_left = False
            error = scatter.delivered(parcel, got)
        except tuple(ERRORS) as cause:
            is_left, error = False, of_shard(ours(cause, f"source {self.place.source!r}"), parcel)
            scatter.failed(parcel, error)
        except StoreError as cause:
            is_left, error = False, of_shard(cause, parcel)
            scatter.failed(parcel, error)
        finally:
            if gates is not None:
                gates.settle(parcel.permit, error=error, is_left=is_left)

    async def close(self) -> None:
        self.scout.close()
        self.chart.close()
        for node in self.chart.nodes():
            await node.pool.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, self.scout.task or asyncio.sleep(0), return_exceptions=True)


class _Scout:
    """Learns the map in a task of its own; as `Scout`, on one loop and so without a lock."""

    def __init__(self, chart: Chart[APool], spec: RedisSpec, place: Place) -> None:
        self._chart, self._spec, self._place = chart, spec, place
        self._now = place.clock.monotonic
        self._rng = Random()
        self._pace = Pace(self._rng)
        self._line: set[asyncio.Future[None]] = set()
        self.task: asyncio.Task[None] | None = None
        self._failure: DialFailure | None = None
        self._is_closed = False

    def order(self) -> None:
        """Have the map asked for anew, unless it is being, or just was."""
        if self.task is None and self._pace.may(self._now()) and not self._is_closed:
            self._begin()

    async def wait(self, until: float) -> None:
        """Until there is a map; raises the reason why there is none, or StoreTimeout."""
        if self._is_closed:
            self._closed().tell()
        if self.task is None:
            if self._failure is not None and not self._pace.may(self._now()):
                self._failure.tell()
            self._begin()
        loop = asyncio.get_running_loop()
        ticket: asyncio.Future[None] = loop.create_future()
        self._line.add(ticket)
        timer = loop.call_later(max(0.0, until - self._now()), self._expire, ticket)
        try:
            await ticket
        finally:
            timer.cancel()
            self._line.discard(ticket)

    def close(self) -> None:
        self._is_closed = True
        self._tell(self._closed())
        if self.task is not None:
            self.task.cancel()

    def _closed(self) -> DialFailure:
        return DialFailure(StoreUnavailable, f"source {self._place.source!r}: the client is closed")

    def _expire(self, ticket: asyncio.Future[None]) -> None:
        if not ticket.done():
            msg = f"source {self._place.source!r}: no node told in time who serves which slots"
            ticket.set_exception(StoreTimeout(msg))

    def _begin(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self._work(), name="featurechaos-redis-scout")

    async def _work(self) -> None:
        failure, is_new = None, False
        try:
            for at in self._chart.whom_to_ask(self._rng):
                try:
                    is_new = self._chart.learn(ranges_of(await self._asked(at), at))
                except Exception as error:  # noqa: BLE001 - told to the callers that wait for the map
                    what = "no node told who serves which slots"
                    source, secrets = self._place.source, self._spec.secrets
                    failure = DialFailure.of(error, source=source, secrets=secrets, what=what)
                else:
                    failure = None
                    if self._place.gates is not None:
                        self._place.gates.keep([node.name for node in self._chart.nodes()])
                    break
        finally:
            self.task, self._failure = None, failure
            self._pace.ended(self._now(), is_new=is_new or not self._chart.is_known)
            self._tell(failure)

    async def _asked(self, at: At) -> Any:
        """One node's answer, within the connect timeout."""
        until = self._now() + self._spec.connect_timeout_s
        (reply,) = await exchange(
            self._chart.node(at).pool,
            ASK_SLOTS,
            until,
            now=self._now,
            expect=lambda link: link.expect(1),
            is_unfit=is_unfit,
        )
        return reply

    def _tell(self, failure: DialFailure | None) -> None:
        """Everyone who waits may go on, or has to give up."""
        for ticket in list(self._line):
            if ticket.done():
                continue
            if failure is None:
                ticket.set_result(None)
            else:
                ticket.set_exception(failure.error())


def _keep(task: asyncio.Future[Any], tasks: set[asyncio.Future[Any]]) -> None:
    """Hold a task until it is done: the loop itself does not."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
