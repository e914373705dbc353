"""Jobs at several nodes at once, on the caller's thread: all is sent before anything is waited for."""

from __future__ import annotations

import os
import select
import selectors
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from featurechaos.errors import BreakerOpen, StoreError, StoreTimeout
from featurechaos.stores import Answer, Gates
from featurechaos_redis.chart import Chart
from featurechaos_redis.connections import Link
from featurechaos_redis.errors import ErrorReply, RefusedReply
from featurechaos_redis.pending import Exchange
from featurechaos_redis.pool import Pool
from featurechaos_redis.scatter import Job, Parcel, Scatter
from featurechaos_redis.scout import Bell, Scout


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A cluster as a store holds it."""

    source: str
    chart: Chart[Pool]
    scout: Scout
    gates: Gates | None
    now: Callable[[], float]


class Gathering:
    """Some jobs under way; over once each has its reply or its error. `abandon` it in any case."""

    def __init__(self, jobs: Iterable[Job], cluster: Cluster, until: float, *, is_patient: bool = False) -> None:
        self._cluster, self._until, self._is_patient = cluster, until, is_patient
        self._scatter = Scatter(jobs, cluster.chart, cluster.source)
        self._running: list[tuple[Exchange[list[Any]], Parcel[Pool]]] = []
        self._bell: Bell | None = None
        if until <= cluster.now():
            msg = f"source {cluster.source!r}: no time left to ask"
            raise StoreTimeout(msg)
        if cluster.chart.is_known:
            self._send()
        else:
            self._bell = Bell(cluster.scout)

    @property
    def is_over(self) -> bool:
        return self._bell is None and self._scatter.is_over

    @property
    def ended(self) -> list[Job]:
        return self._scatter.ended

    def filenos(self) -> list[int]:
        """What to wait on: `advance` is worth calling once one of them is readable."""
        if self._bell is not None:
            return [self._bell.fileno()]
        return [exchange.fileno() for exchange, _ in self._running]

    def advance(self) -> bool:
        """Take what has come without blocking; whether it is over. Raises only where there is no map to go by."""
        if self._bell is not None and not self._met(self._bell):
            return False
        running, self._running = self._running, []
        while running:
            exchange, parcel = running.pop()
            try:
                replies = exchange.advance()
            except StoreError as error:
                self._lose(parcel, error)
            except BaseException:
                self._running += [*running, (exchange, parcel)]
                raise
            else:
                if replies is None:
                    self._running.append((exchange, parcel))
                else:
                    self._settle(parcel, self._scatter.delivered(parcel, replies))
        self._send()
        return self.is_over

    def abandon(self) -> None:
        """Let go of what is still under way, and of its connections; a map found wrong is asked for anew."""
        for exchange, parcel in self._running:
            exchange.abandon()
            if self._cluster.gates is not None:
                self._cluster.gates.settle(parcel.permit, is_left=True)
        self._running = []
        self._hush()
        if self._scatter.is_misled:
            self._scatter.is_misled = False
            self._cluster.scout.order()

    def _met(self, bell: Bell) -> bool:
        """Whether there is a map now; then everything is sent."""
        if not bell.is_rung:
            if self._cluster.now() >= self._until:
                raise self._cluster.scout.late()
            return False
        self._hush()
        if bell.failure is not None:
            bell.failure.tell()
        self._send()
        return True

    def _hush(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None

    def _send(self) -> None:
        for parcel in self._scatter.parcels():
            gates = self._cluster.gates
            if gates is not None:
                parcel.permit = gates.admit(parcel.node.name)
                if parcel.permit is None:
                    self._scatter.failed(parcel, not_asked(self._cluster.source, parcel))
                    continue
            try:
                self._running.append((self._exchange(parcel), parcel))
            except StoreError as error:
                self._lose(parcel, error)

    def _exchange(self, parcel: Parcel[Pool]) -> Exchange[list[Any]]:
        replies = parcel.replies
        return Exchange(
            parcel.node.pool,
            parcel.data,
            source=self._cluster.source,
            until=self._until,
            now=self._cluster.now,
            expect=lambda link: link.expect(replies),
            finish=lambda got: got,
            settle=settle,
            is_patient=self._is_patient,
        )

    def _lose(self, parcel: Parcel[Pool], error: StoreError) -> None:
        told = of_shard(error, parcel)
        self._scatter.failed(parcel, told)
        self._settle(parcel, told)

    def _settle(self, parcel: Parcel[Pool], error: StoreError | None) -> None:
        if self._cluster.gates is not None:
            self._cluster.gates.settle(parcel.permit, error=error)


def gather(jobs: Iterable[Job], cluster: Cluster, until: float, *, is_patient: bool = False) -> list[Job]:
    """Do some jobs by `until`; every job is over then. Raises where there is no map to go by."""
    gathering = Gathering(jobs, cluster, until, is_patient=is_patient)
    try:
        while not gathering.is_over:
            poller = select.poll()
            for fileno in gathering.filenos():
                poller.register(fileno, select.POLLIN)
            poller.poll(max(0.0, until - cluster.now()) * 1000)
            gathering.advance()
    finally:
        gathering.abandon()
    return gathering.ended


class PendingGathering:
    """Jobs under way as a `Pending`: one file descriptor for all that they wait on."""

    def __init__(self, gathering: Gathering, finish: Callable[[list[Job]], list[Answer]]) -> None:
        self._gathering, self._finish = gathering, finish
        self._selector: selectors.BaseSelector | None = None
        self._ready: int | None = None

    def fileno(self) -> int:
        self._close()
        if self._gathering.is_over:
            self._ready, writer = os.pipe()
            os.close(writer)  # A pipe nobody writes to is ready at once.
            return self._ready
        self._selector = selectors.DefaultSelector()
        for fileno in self._gathering.filenos():
            self._selector.register(fileno, selectors.EVENT_READ)
        return self._selector.fileno()

    def advance(self) -> list[Answer] | None:
        try:
            if not self._gathering.is_over and not self._gathering.advance():
                return None
            answers = self._finish(self._gathering.ended)
        except BaseException:
            self.abandon()
            raise
        self.abandon()
        return answers

    def abandon(self) -> None:
        self._close()
        self._gathering.abandon()

    def _close(self) -> None:
        if self._selector is not None:
            self._selector.close()
            self._selector = None
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None


def not_asked(source: str, parcel: Parcel[Any]) -> BreakerOpen:
    """What became of a shard whose gate is shut."""
    error = BreakerOpen(f"source {source!r}, shard {parcel.node.name}, was not asked: it has been failing")
    error.shard = parcel.node.name
    return error


def of_shard(error: StoreError, parcel: Parcel[Any]) -> StoreError:
    """The same error, which says whose it is."""
    told = type(error)(f"{error} (shard {parcel.node.name})")
    told.__cause__, told.shard = error, parcel.node.name
    return told


def is_unfit(replies: list[Any]) -> bool:
    """Whether replies say that their connection serves us no longer; being sent elsewhere does not."""
    return any(
        isinstance(reply, RefusedReply) or (isinstance(reply, ErrorReply) and reply.code == "READONLY")
        for reply in replies
    )


def settle(pool: Pool, link: Link, replies: list[Any]) -> None:
    """As `pool.settle`, for a node of a cluster."""
    if not link.is_proven:
        link.is_proven = True
        pool.recover()
    if is_unfit(replies):
        pool.drop(link)
    else:
        pool.give(link)
