"""`S3Store`: a source that answers from memory-mapped replicas of the images in a bucket."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import weakref
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featurechaos.codec import Layout, encode_tombstones
from featurechaos.errors import RequestError, StoreRefused
from featurechaos.stores import Answer, Ask, Batch, Block, Columns, Partial, Place, Refreshed, WriteCounts
from featurechaos_s3.bucket import Address, Bucket
from featurechaos_s3.buried import Buried, to_json
from featurechaos_s3.manifest import home, instant
from featurechaos_s3.refresher import Refresher
from featurechaos_s3.replicas import Replicas
from featurechaos_s3.shelf import make_private
from featurechaos_s3.spec import S3Spec

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from featurechaos.model import View
    from featurechaos_s3.library import Checked
    from featurechaos_s3.manifest import Manifest

_US = 1_000_000


class S3Store:
    """Images of views in S3, read from local disk.

    `open` touches neither network nor disk. `start` begins to keep the replicas fresh in the
    background; `refresh` does it now. A read takes what is mapped, whatever the server does: a view
    without a replica has no rows. It never waits, so it holds every deadline.
    """

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = False
    spec: ClassVar[type[S3Spec]] = S3Spec

    def __init__(self, spec: S3Spec, place: Place) -> None:
        self._place = place
        self._address = Address.of(spec, place.source)
        self._replicas = Replicas(spec, place)
        self._refresher = Refresher(self._replicas.keep_fresh, Random())
        self._lock = threading.Lock()
        self._made_bucket: Bucket | None = None
        _STORES.add(self)

    @classmethod
    def open(cls, spec: S3Spec, place: Place) -> S3Store:
        return cls(spec, place)

    @classmethod
    def aopen(cls, spec: S3Spec, place: Place) -> AsyncS3Store:
        return AsyncS3Store(cls(spec, place))

    def start(self) -> None:
        """Keep the replicas fresh in the background, now and every `refresh_s`."""
        self._refresher.start()

    def private_folder(self, name: str) -> Path:
        """A folder beside the replicas, for the caller's use; StoreRefused where it is not ours alone."""
        folder = self._replicas.folder() / name
        make_private(folder)
        return folder

    def close(self) -> None:
        """Stop refreshing and let go of the replicas."""
        self._replicas.close()
        self._refresher.stop()
        with self._lock:
            made, self._made_bucket = self._made_bucket, None
        if made is not None:
            made.close()

    # Reading.

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        """Answer from the replicas mapped now; `until` is never in question.

        `as_of_us` takes the newest image prepared (or current) that is not after it, and raises
        StoreUnavailable when there is none. A deleted row stays deleted then, too.
        """
        if self._refresher.is_orphaned:
            self._refresher.start()
        return [self._answer(ask, as_of_us) for ask in asks]

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        """None are needed: every row here is already in the layout of its view."""
        return {}

    def _answer(self, ask: Ask, as_of_us: int | None) -> Answer:
        base, replicas = ask.view.base, self._replicas
        replica = replicas.current(base) if as_of_us is None else replicas.at(base, as_of_us)
        answer: Answer = [None] * len(ask.keys)
        if replica is not None and ask.layout.hash == replica.layout.hash:
            answer = replica.read(ask.keys)
        buried = replicas.buried(base)
        return _hidden(answer, ask, buried) if buried else answer

    def replica_as_of(self, view: str) -> int | None:
        """The date (int64 us) of the image that answers for a view now; None when there is none."""
        replica = self._replicas.current(self._replicas.base(view))
        return replica.as_of_us if replica else None

    # Keeping the replicas fresh.

    def refresh(self, timeout_s: float, *, views: Sequence[str] | None = None) -> list[Refreshed]:
        """Bring the replicas of some views (default: all) up to date within `timeout_s`.

        Never raises for what the server or the images do: `state` is current, hydrated, absent, refused (an
        image that is damaged, too big or of another shape) or failed (no answer), and what served before
        serves on. RequestError for a view the source doesn't have.
        """
        return self._replicas.refresh(timeout_s, views)

    def prepare(self, view: str, as_of_us: int, timeout_s: float) -> int | None:
        """Hydrate the newest image at or before a date, for `read(..., as_of_us=)`.

        Returns its date, None when there is no image that old. Raises StoreUnavailable when it could not be
        had in time. At most 32 are kept for a view; the one prepared first goes.
        """
        return self._replicas.prepare(view, as_of_us, timeout_s)

    # The images in the bucket. Here boto3 and pyarrow are imported, and calls wait for the server.

    def publish(
        self, view: View, layout: Layout, table: Any, *, as_of_us: int | None, allow_shrink: bool = False
    ) -> Manifest:
        """Publish a complete image of a view and return its manifest; see `publish.publish`."""
        from featurechaos_s3.publish import publish

        if view.base != layout.base:
            msg = f"view {view.name!r} is stored as {view.base!r}, its layout is of {layout.base!r}"
            raise RequestError(msg)
        now_us = int(self._place.clock.wall() * _US)
        return publish(self._bucket, layout, table, as_of_us=as_of_us, allow_shrink=allow_shrink, now_us=now_us)

    def snapshots(self, view: str) -> list[Manifest]:
        """The images of a view, oldest first."""
        from featurechaos_s3.library import snapshots

        return snapshots(self._bucket, self._replicas.base(view))

    def verify(self, view: str, snapshot: str | None = None) -> Checked:
        """Read an image (default: the current one) again from end to end, and say what is wrong with it."""
        from featurechaos_s3.library import verify

        return verify(self._bucket, self._replicas.base(view), snapshot)

    def entities(self, view: str, most: int) -> pa.Table:
        """The join keys of up to `most` rows of the current image, a column each, under their stored names."""
        from featurechaos_s3.library import entities

        base = self._replicas.base(view)
        keys = next(each.join_keys for each in self._place.views if each.name == base)
        return entities(self._bucket, base, [key.name for key in keys], most)

    def gc(self, view: str, keep: int = 24) -> list[str]:
        """Remove all but the newest `keep` images and the current one; the ids removed."""
        from featurechaos_s3.library import gc

        return gc(self._bucket, self._replicas.base(view), keep=keep)

    def bury(self, batch: Batch) -> None:
        """Hide rows here at once, and keep tombstones beside the images.

        Other processes follow at their next refresh. A row comes back by an image with a newer event of it.
        """
        base, keys = batch.ask.view.base, batch.ask.keys
        tombstones = zip(keys.slots.tolist(), batch.event_time.tolist(), strict=True)
        self._replicas.bury(self._replicas.base(base), tombstones)
        content = to_json(self._place.project, base, keys, batch.event_time)
        digest = hashlib.sha256(content).hexdigest()[:8]
        when = instant(int(self._place.clock.wall() * _US)).replace("-", "").replace(":", "")
        self._bucket.put(f"{home(base)}deletions/{when}-{digest}.json", content)

    def write(self, batch: Batch, until: float) -> WriteCounts:
        """Refused: rows get here by `publish`, as a whole image."""
        name = batch.ask.view.name
        msg = f"source {self._place.source!r} takes no single rows of view {name!r}: publish a whole image"
        raise StoreRefused(msg)

    @property
    def _bucket(self) -> Bucket:
        """Made once: a boto3 client costs a tenth of a second. Its connections are not shared over a fork."""
        with self._lock:
            if self._made_bucket is None:
                self._made_bucket = Bucket(self._address)
            return self._made_bucket

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._made_bucket = None
        self._replicas.forked()
        self._refresher.forked()


class AsyncS3Store:
    """The same store for asyncio: a read is local and takes microseconds, so it simply reads.

    What does take time runs on a thread. `sync` is the store itself.
    """

    bounded: ClassVar[bool] = True
    writable: ClassVar[bool] = False

    def __init__(self, sync: S3Store) -> None:
        self.sync = sync

    def start(self) -> None:
        self.sync.start()

    def replica_as_of(self, view: str) -> int | None:
        return self.sync.replica_as_of(view)

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        return self.sync.read(asks, until, as_of_us=as_of_us)

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        return self.sync.layouts(project, hashes, until)

    async def write(self, batch: Batch, until: float) -> WriteCounts:
        return self.sync.write(batch, until)

    async def refresh(self, timeout_s: float, *, views: Sequence[str] | None = None) -> list[Refreshed]:
        return await asyncio.to_thread(self.sync.refresh, timeout_s, views=views)

    async def prepare(self, view: str, as_of_us: int, timeout_s: float) -> int | None:
        return await asyncio.to_thread(self.sync.prepare, view, as_of_us, timeout_s)

    async def publish(
        self, view: View, layout: Layout, table: Any, *, as_of_us: int | None, allow_shrink: bool = False
    ) -> Manifest:
        return await asyncio.to_thread(
            self.sync.publish, view, layout, table, as_of_us=as_of_us, allow_shrink=allow_shrink
        )

    async def bury(self, batch: Batch) -> None:
        await asyncio.to_thread(self.sync.bury, batch)

    async def close(self) -> None:
        await asyncio.to_thread(self.sync.close)


def _hidden(answer: Answer, ask: Ask, buried: Buried) -> Answer:
    """An answer with tombstones in place of the rows that are deleted; as blobs when there is any."""
    hit, times = buried.times(ask.keys.slots)
    if not len(hit):
        return answer
    blobs = _blobs(answer)
    for row, time_us in zip(hit.tolist(), times.tolist(), strict=True):
        blob = blobs[row]
        if blob is None or int.from_bytes(blob[16:24], "little", signed=True) <= time_us:
            own = ask.keys.own[row : row + 1]
            blobs[row] = encode_tombstones(ask.layout, np.array([time_us]), own)[0]
    return blobs


def _blobs(answer: Answer) -> list[bytes | None]:
    assert not isinstance(answer, Columns | Partial), "a replica answers with rows, and with all of them"
    if not isinstance(answer, Block):
        return list(answer)
    pairs = zip(answer.words, answer.found.tolist(), strict=True)
    return [words.tobytes() if found else None for words, found in pairs]


_STORES: weakref.WeakSet[S3Store] = weakref.WeakSet()


def _forked() -> None:
    for store in list(_STORES):
        store._after_fork()  # noqa: SLF001 - its own file


os.register_at_fork(after_in_child=_forked)
