"""One call of a cluster: commands to the nodes of their slots, replies and redirections back; no socket in here."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from featurechaos.errors import StoreError, StoreUnavailable
from featurechaos_redis.chart import At, Chart, Node, redirect_of
from featurechaos_redis.errors import ErrorReply, ours
from featurechaos_redis.wire import command

PoolT = TypeVar("PoolT")
Said = TypeVar("Said")

_OF_THE_COMMAND = ("NOSCRIPT", "WRONGTYPE")
"""Errors that say nothing of the node: they are the reply."""
_ASKING = command(b"ASKING")
_MOST_HOPS = 5
"""How often one command follows a redirection; a sound cluster takes one."""


@dataclass(slots=True, eq=False)
class Job:
    """One command for whoever serves a slot, or for the node `to`; afterwards its reply or its error.

    `keys` of an MGET: where a slot is just moving, each is asked for by itself. `tag` is the asker's own.
    """

    slot: int
    data: bytes
    tag: Any = None
    keys: Sequence[bytes] = ()
    to: At | None = None
    is_asking: bool = False
    hops: int = 0
    reply: Any = None
    error: StoreError | None = None

    def split(self) -> list[Job]:
        """The same for one key each; `tag` holds something for each key."""
        return [
            Job(self.slot, command(b"MGET", key), [tag], [key], self.to, self.is_asking, self.hops)
            for key, tag in zip(self.keys, self.tag, strict=True)
        ]


@dataclass(slots=True, eq=False)
class Parcel(Generic[PoolT]):
    """What one node is sent at once."""

    node: Node[PoolT]
    jobs: list[Job]
    permit: Any = None

    @property
    def data(self) -> bytes:
        return b"".join([_ASKING + job.data if job.is_asking else job.data for job in self.jobs])

    @property
    def replies(self) -> int:
        return len(self.jobs) + sum(job.is_asking for job in self.jobs)


@dataclass(slots=True, eq=False)
class Scatter(Generic[PoolT]):
    """Jobs on their way. `parcels` says what to send now; each is then `delivered` or `failed`.

    `ended` holds every job that is over; a split one is in there as its parts. `is_misled` says that the
    map is not what it was.
    """

    jobs: Iterable[Job]
    chart: Chart[PoolT]
    source: str
    ended: list[Job] = field(default_factory=list)
    is_misled: bool = False
    _waiting: list[Job] = field(default_factory=list)
    _under_way: int = 0

    def __post_init__(self) -> None:
        self._waiting = list(self.jobs)

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._under_way

    def parcels(self) -> list[Parcel[PoolT]]:
        """What waits, by node; a slot that nobody serves has failed."""
        made: dict[Node[PoolT], Parcel[PoolT]] = {}
        for job in self._waiting:
            node = self.chart.of(job.slot) if job.to is None else self.chart.node(job.to)
            if node is None:
                self.is_misled = True
                job.error = StoreUnavailable(f"source {self.source!r}: nobody serves slot {job.slot}")
                job.error.shard = f"slot {job.slot}"
                self.ended.append(job)
            elif (parcel := made.get(node)) is None:
                made[node] = Parcel(node, [job])
            else:
                parcel.jobs.append(job)
        self._waiting = []
        self._under_way += len(made)
        return list(made.values())

    def delivered(self, parcel: Parcel[PoolT], replies: Sequence[Any]) -> StoreError | None:
        """Take the replies of a node; the error that all of them are, where that is the node's own trouble."""
        self._under_way -= 1
        following = iter(replies)
        troubles = [self._hear(job, following, parcel.node) for job in parcel.jobs]
        return troubles[0] if all(troubles) else None

    def failed(self, parcel: Parcel[PoolT], error: StoreError) -> None:
        """A node did not answer, or was not asked."""
        self._under_way -= 1
        self.is_misled = True
        for job in parcel.jobs:
            job.error = error
            self.ended.append(job)

    def _hear(self, job: Job, replies: Any, node: Node[PoolT]) -> StoreError | None:
        reply = next(replies)
        if job.is_asking and not isinstance(reply, Exception):
            reply = next(replies)
        elif job.is_asking:
            next(replies)
        if isinstance(reply, ErrorReply) and self._is_sent_on(job, reply, node):
            return None
        if isinstance(reply, ErrorReply) and reply.code not in _OF_THE_COMMAND:
            self.is_misled |= reply.code in ("CLUSTERDOWN", "READONLY")
            job.error = ours(reply, f"source {self.source!r}, shard {node.name}")
            job.error.shard = node.name
        else:
            job.reply = reply
        self.ended.append(job)
        return job.error

    def _is_sent_on(self, job: Job, reply: ErrorReply, node: Node[PoolT]) -> bool:
        """Whether a job goes on its way once more: elsewhere, or key by key."""
        where = redirect_of(reply, node.at)
        if job.hops >= _MOST_HOPS or (where is None and (reply.code != "TRYAGAIN" or len(job.keys) < 2)):
            return False
        job.hops += 1
        if where is not None:
            job.to, job.is_asking = (where.at, True) if where.is_once else (None, False)
            if not where.is_once:
                self.is_misled = True
                self.chart.moved(where.slot, where.at)
        # A slot that is just moving has some of its keys on either side: several at once would be refused.
        is_moving = (where is None or where.is_once) and len(job.keys) > 1
        self._waiting += job.split() if is_moving else [job]
        return True


Round = Generator[list[Job], list[Job], Said]
"""Something said to a cluster, step by step: yields jobs, is sent them once they are over."""
