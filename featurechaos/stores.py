"""What a source is asked and what it answers: the one place the world plugs in.

A store is `read`, `layouts`, `write` and `close`. One that owns sockets also has `begin`, which
hands back a read that can be advanced or abandoned. The async form has the same names with
`await`; a store without one gets it from `Threaded`. An entry point of the group
`featurechaos.stores` names a class of this shape; `featurechaos.testing.StoreContract` is its test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Packed

if TYPE_CHECKING:
    from pydantic import BaseModel

    from featurechaos.clock import Clock
    from featurechaos.codec import Keys, Layout
    from featurechaos.errors import StoreError
    from featurechaos.model import View


@dataclass(slots=True, eq=False)
class Ask:
    """Some distinct rows of one view.

    `keys.ids` are the values between the braces of a stored key; `view.head + id + b"}"` is the key.
    """

    view: View
    layout: Layout
    keys: Keys

    def only(self, index: NDArray[np.intp]) -> Ask:
        """The same ask for some of its rows."""
        return Ask(self.view, self.layout, self.keys.take(index))


@dataclass(slots=True, eq=False)
class Block:
    """Rows of fixed width in packed form, as a replica holds them.

    words: uint64 (n, layout.words), C order, ours to write; found: bool (n,).
    Words of rows not found are undefined.
    """

    words: NDArray[np.uint64]
    found: NDArray[np.bool_]


@dataclass(slots=True, eq=False)
class Columns:
    """Rows as columns, as a foreign layout holds them; packed on arrival.

    values: feature -> (n,) or (n, dim) as `Response.columns`; nulls: feature -> bool (n,);
    event_time: int64 us (n,); verdict: uint8 (n,) of `Verdict` FRESH, MISSING, CORRUPT or PARTIAL.
    """

    values: Mapping[str, NDArray[Any]]
    nulls: Mapping[str, NDArray[np.bool_]]
    event_time: NDArray[np.int64]
    verdict: NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class Partial:
    """Packed rows of which some nobody answered for: one shard of a source is down, and the others are not.

    rows: as in the plain form, None for a lost row too; lost: why, and the places of the rows it cost, intp.
    A store raises instead where it has no row at all to give.
    """

    rows: list[bytes | None]
    lost: Sequence[tuple[StoreError, NDArray[np.intp]]]


Answer = list[bytes | None] | Packed | Block | Columns | Partial
"""One ask's rows in its order: packed rows (None where the store has no such key; `Packed` where each is there), or the
other forms."""


@dataclass(slots=True, eq=False)
class Batch:
    """Rows of one view to write: an ask with a blob and an event time (int64 us) for each row.

    `is_burial`: every blob is a tombstone.
    """

    ask: Ask
    blobs: list[bytes]
    event_time: NDArray[np.int64]
    is_burial: bool = False


@dataclass(slots=True)
class WriteCounts:
    """What one source did with a write: rows written, and rows that were older than the stored ones.

    `is_late`: some rows failed for want of an answer in time, so the next batch would wait as long.
    """

    written: int = 0
    older: int = 0
    failed: int = 0
    error: str | None = None
    is_late: bool = False


@dataclass(slots=True)
class WriteReport:
    """What every source did with a write, by its name; `watermark_us` is the newest event time written."""

    view: str
    rows: int
    sources: dict[str, WriteCounts] = field(default_factory=dict)
    watermark_us: int | None = None

    @property
    def is_complete(self) -> bool:
        return not any(counts.failed or counts.error for counts in self.sources.values())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store finds itself: its name in the config, the project, its views, the clock.

    `gates`: for a store of several servers, the breakers of its shards; None where the config has no breaker.
    """

    source: str
    project: str
    views: tuple[View, ...]
    clock: Clock
    gates: Gates | None = None


class Gates(Protocol):
    """A breaker for each shard of a source: a store of several servers asks it before it asks one of them."""

    def admit(self, shard: str) -> Any | None:
        """The right to ask a shard once, or None while it is not to be asked; each is settled."""

    def settle(self, permit: Any, *, error: StoreError | None = None, is_left: bool = False) -> None:
        """Tell what came of it: `is_left` is neither good nor bad."""

    def keep(self, shards: Sequence[str]) -> None:
        """Forget every shard but these."""


class Pending(Protocol):
    """A read on its way. `fileno()` is what to wait on; it may change after each `advance`."""

    def fileno(self) -> int: ...

    def advance(self) -> list[Answer] | None:
        """Take what has come without blocking: the answers once whole, else None."""

    def abandon(self) -> None:
        """Give up: close the connection, since a reply left on it would be another read's."""


@runtime_checkable
class Store(Protocol):
    """One source, read in batches.

    `bounded`: reads keep `until` themselves, whatever the server does; a store that can't says
    False and is read on a thread that is left behind at `until`.
    `writable`: takes `write`; an instance may say False where its class says True.
    Errors raised are `StoreError`s only.
    A class may have `check(spec, views)`, called when a config is loaded: SpecError where the source's part of it does
    not go with the views that are read from it.
    """

    bounded: ClassVar[bool]
    writable: ClassVar[bool]
    spec: ClassVar[type[BaseModel]]

    @classmethod
    def open(cls, spec: Any, place: Place) -> Store:
        """Make one from its part of the config, without network I/O."""

    @classmethod
    def aopen(cls, spec: Any, place: Place) -> AsyncStore:
        """Make its async form from the same part of the config."""

    def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]:
        """Answer every ask in one round trip, by `until` (monotonic seconds) or StoreTimeout.

        `as_of_us` asks for the rows as they were known at that instant; a store that keeps no
        history raises StoreUnavailable.
        """

    def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]:
        """The stored descriptions (`Layout.describe`) of some schema hashes; unknown ones are left out."""

    def write(self, batch: Batch, until: float) -> WriteCounts:
        """Keep each row unless a newer one is stored (event time >= wins), atomically for each row.

        The layout's description and the view's watermark are stored first.
        """

    def close(self) -> None: ...


class AsyncStore(Protocol):
    """The same store for asyncio. Every `read` keeps `until`; cancelling one closes its connection without awaiting."""

    async def read(self, asks: Sequence[Ask], until: float, *, as_of_us: int | None = None) -> list[Answer]: ...

    async def layouts(self, project: str, hashes: Sequence[int], until: float) -> dict[int, bytes]: ...

    async def write(self, batch: Batch, until: float) -> WriteCounts: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh found for one view: `state` is current, hydrated, absent, refused or failed."""

    view: str
    state: str
    as_of_us: int | None = None
    rows: int | None = None
    detail: str = ""


class SnapshotStore(Store, Protocol):
    """A source that holds dated, complete images of views and answers from a local replica of the newest."""

    def refresh(self, timeout_s: float, *, views: Sequence[str] | None = None) -> list[Refreshed]:
        """Bring the local replicas up to date; never raises for an absent server."""

    def prepare(self, view: str, as_of_us: int, timeout_s: float) -> int | None:
        """Make `read(..., as_of_us=)` possible: hydrate the newest image at or before then; its date or None."""

    def publish(self, view: View, layout: Layout, table: Any, *, as_of_us: int | None, allow_shrink: bool) -> Any:
        """Publish a complete image (a pyarrow table or Parquet path); returns its manifest."""

    def bury(self, batch: Batch) -> None:
        """Keep tombstones beside the images, applied to every later refresh."""

    def replica_as_of(self, view: str) -> int | None:
        """The date (int64 us) of the image that answers for a view now; None when there is none."""


def chunks(count: int, size: int) -> Iterator[slice]:
    """Cut a run of `count` things into slices of at most `size`."""
    for begin in range(0, count, size):
        yield slice(begin, min(begin + size, count))
