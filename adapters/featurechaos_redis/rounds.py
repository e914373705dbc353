"""What is said to a cluster: the same as to one server (`talks`), in commands of one slot each.

A view's rows lie under `...{<id>}`, so the views of one entity share its slot, and their rows come by one MGET.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Sequence
from typing import Any

import numpy as np

from featurechaos.errors import StoreError, StoreTimeout
from featurechaos.model import View
from featurechaos.stores import Answer, Ask, Batch, Partial, WriteCounts
from featurechaos_redis import talks
from featurechaos_redis.chart import SLOTS, At, slot_of
from featurechaos_redis.errors import ERRORS, ErrorReply, ours
from featurechaos_redis.scatter import Job, Round
from featurechaos_redis.scripts import KEEP_NEWEST, RAISE_WATERMARK
from featurechaos_redis.wire import check_rows, command

_THEIRS = tuple(ERRORS)


def read_jobs(asks: Sequence[Ask]) -> tuple[list[Job], int]:
    """An MGET a slot for every row of some asks, and how many rows that is; a job's tag is its rows' places."""
    groups: dict[int, tuple[list[bytes], list[int]]] = {}
    ids: list[bytes] | None = None
    slots: list[int] = []
    are_tags = False
    begin = 0
    for ask in asks:
        head = ask.view.head
        if ask.keys.ids is not ids or not are_tags:  # Views of one entity list share its slots.
            ids = ask.keys.ids
            are_tags = _are_tags(head, ids)
            slots = _slots(head, ids, are_tags=are_tags)
        for at, (id_, slot) in enumerate(zip(ids, slots, strict=True), begin):
            group = groups.get(slot)
            if group is None:
                group = groups[slot] = ([], [])
            group[0].append(head + id_ + b"}")
            group[1].append(at)
        begin += len(ids)
    return [Job(slot, command(b"MGET", *keys), places, keys) for slot, (keys, places) in groups.items()], begin


def _are_tags(head: bytes, ids: list[bytes]) -> bool:
    """Whether each id is its key's hash tag, as almost any is: then it has one slot in every view."""
    return head.find(b"{") == len(head) - 1 and not any(not id_ or b"}" in id_ for id_ in ids)


def _slots(head: bytes, ids: list[bytes], *, are_tags: bool) -> list[int]:
    if are_tags:
        return [crc_hqx(id_, 0) % SLOTS for id_ in ids]
    return [slot_of(head + id_ + b"}") for id_ in ids]


def answers(jobs: Sequence[Job], asks: Sequence[Ask], count: int, source: str) -> list[Answer]:
    """The rows of some jobs that are over, given back to their asks; raises the first error if nobody answered."""
    rows: list[Any] = [None] * count
    lost: dict[StoreError, list[int]] = {}
    for job in jobs:
        if job.error is None:
            try:
                found = check_rows(job.reply, len(job.tag))
            except _THEIRS as error:
                job.error = ours(error, f"source {source!r}")
            else:
                for at, row in zip(job.tag, found, strict=True):
                    rows[at] = row
                continue
        lost.setdefault(job.error, []).extend(job.tag)
    if not lost:
        return _split(rows, asks)
    if sum(map(len, lost.values())) == count:
        raise next(iter(lost))
    return _partial(_split(rows, asks), lost)


def _split(rows: list[Any], asks: Sequence[Ask]) -> list[Answer]:
    made: list[Answer] = []
    begin = 0
    for ask in asks:
        end = begin + len(ask.keys.ids)
        made.append(rows[begin:end])
        begin = end
    return made


def _partial(whole: list[Answer], lost: dict[StoreError, list[int]]) -> list[Answer]:
    """The answers that lack rows, as such; the others as they are."""
    made: list[Answer] = []
    begin = 0
    places = [(error, np.array(sorted(each), np.intp)) for error, each in lost.items()]
    for answer in whole:
        assert isinstance(answer, list)
        end = begin + len(answer)
        mine = [(error, at[(at >= begin) & (at < end)] - begin) for error, at in places]
        mine = [(error, at) for error, at in mine if len(at)]
        made.append(Partial(answer, mine) if mine else answer)
        begin = end
    return made


def layouts(project: str, hashes: Sequence[int]) -> Round[dict[int, bytes]]:
    """The stored descriptions of some schema hashes."""
    if not hashes:
        return {}
    keys = [talks.layout_key(project, each) for each in hashes]
    done = yield [Job(slot_of(key), command(b"GET", key), each) for key, each in zip(keys, hashes, strict=True)]
    rows = check_rows([said(job) for job in done], len(done))
    return {job.tag: row for job, row in zip(done, rows, strict=True) if row is not None}


def watermark(view: View) -> Round[tuple[int, int] | None]:
    """As `talks.watermark`."""
    key = talks.watermark_key(view)
    (job,) = yield [Job(slot_of(key), command(b"GET", key))]
    return talks.watermark_of(view, said(job))


def write(batch: Batch, *, expire_s: float | None, now_us: int) -> Round[WriteCounts]:
    """As `talks.write`, a script call a row. Where some shards take theirs, what the others did not is `failed`.

    The watermark says that everything up to it is written, so it is raised only if everything is.
    """
    ask = batch.ask
    if not batch.blobs:
        return WriteCounts()
    key = talks.layout_key(ask.view.project, ask.layout.hash)
    (job,) = yield [Job(slot_of(key), command(b"SET", key, ask.layout.describe(), b"NX"))]
    said(job)
    keep = talks.keep_ms(expire_s)
    head = ask.view.head
    keys = [head + id_ + b"}" for id_ in ask.keys.ids]
    slots = _slots(head, ask.keys.ids, are_tags=_are_tags(head, ask.keys.ids))
    jobs = [
        Job(slot, KEEP_NEWEST.by_hash([key], [keep, blob]), (key, blob))
        for slot, key, blob in zip(slots, keys, batch.blobs, strict=True)
    ]
    done = yield jobs
    unknown = [job for job in done if getattr(job.reply, "code", None) == "NOSCRIPT"]
    if unknown:
        done = [job for job in done if job not in set(unknown)]
        done += yield [Job(job.slot, KEEP_NEWEST.by_text([job.tag[0]], [keep, job.tag[1]]), job.tag) for job in unknown]
    errors = [job.error for job in done if job.error is not None]
    if len(errors) == len(done):
        raise errors[0]
    older = sum(job.reply for job in done if job.error is None)
    counts = WriteCounts(len(done) - len(errors) - older, older, len(errors), str(errors[0]) if errors else None)
    counts.is_late = any(isinstance(error, StoreTimeout) for error in errors)
    if not errors:
        yield from _raise_watermark(ask.view, int(batch.event_time.max()), now_us)
    return counts


def _raise_watermark(view: View, newest_us: int, now_us: int) -> Round[None]:
    key, arguments = talks.watermark_key(view), [b"%d" % newest_us, b"%d" % now_us]
    (job,) = yield [Job(slot_of(key), RAISE_WATERMARK.by_hash([key], arguments))]
    if getattr(job.reply, "code", None) == "NOSCRIPT":
        (job,) = yield [Job(slot_of(key), RAISE_WATERMARK.by_text([key], arguments))]
    said(job)


def ping(nodes: Sequence[At]) -> Round[None]:
    """Whether every shard answers; raises the first error if one does not."""
    for job in (yield [Job(-1, command(b"PING"), to=at) for at in nodes]):
        said(job)


def answering(nodes: Sequence[At]) -> Round[tuple[int, int]]:
    """How many shards answer, and how many there are."""
    done = yield [Job(-1, command(b"PING"), to=at) for at in nodes]
    return sum(job.error is None for job in done), len(nodes)


def scan(view: View, node: At, cursor: bytes, count: int) -> Round[talks.Page]:
    """One step of a walk over one node: as `talks.scan`."""
    (job,) = yield [Job(-1, talks.scan_command(talks.pattern_of(view), cursor, count), to=node)]
    following, keys = talks.scanned(said(job))
    groups: dict[int, list[bytes]] = {}
    for key in keys:
        groups.setdefault(slot_of(key), []).append(key)
    done = yield [Job(slot, command(b"MGET", *each), each, each) for slot, each in groups.items()]
    size = len(view.head)
    ids = [key[size:-1] for job in done for key in job.tag]
    return following, ids, [row for job in done for row in check_rows(said(job), len(job.tag))]


def said(job: Job) -> Any:
    """A job's reply; raises its error."""
    if job.error is not None:
        raise job.error
    if isinstance(job.reply, ErrorReply):
        raise job.reply
    return job.reply
