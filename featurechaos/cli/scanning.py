"""A walk over every stored row of a view, into a Parquet file: the first snapshot of what is online."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from featurechaos.cli.ids import keys_of
from featurechaos.cli.tables import arrow_type
from featurechaos.clock import SystemClock
from featurechaos.codec import Layout, Rows, column, decode, nulls
from featurechaos.engine import readable
from featurechaos.errors import RequestError
from featurechaos.model import NO_TIME_US, DType, Feature, Verdict, View
from featurechaos.tables import EVENT_TIMESTAMP

RATE = 20_000.0
"""Keys a second that are looked at, of any view, unless said otherwise: what a busy server does not notice."""
_STEP_S = 5.0


@dataclass(slots=True)
class Counts:
    """What a walk met: rows kept, and rows left out by why. `corrupt` includes keys and layouts not ours."""

    kept: int = 0
    deleted: int = 0
    corrupt: int = 0

    def __str__(self) -> str:
        skipped = {"deleted": self.deleted, "corrupt": self.corrupt}
        told = ", ".join(f"{count:,} {why}" for why, count in skipped.items() if count)
        return f"{self.kept:,} rows" + (f" (left out: {told})" if told else "")


def scan(
    store: Any,
    view: View,
    path: Path,
    *,
    rows_per_s: float = RATE,
    tell: Callable[[Counts], None] = lambda counts: None,
) -> Counts:
    """Write every readable row of a view to a Parquet file, page by page.

    Args:
        store: one with `rows(view, rows_per_s=)`, which gives pages of ids and blobs, and `layouts`.
        tell: hears the counts after every page.

    Raises StoreUnavailable when a step gets no answer within 5 s. A row written meanwhile may be in or not.
    """
    reader, counts = _Reader(store, view), Counts()
    # Without Arrow's own schema a vector is a plain list: with it, pyarrow before 25 cannot read a null one.
    with pq.ParquetWriter(path, schema_of(view), compression="zstd", store_schema=False) as file:
        for ids, blobs in store.rows(view, rows_per_s=rows_per_s):
            # The walk may give a key twice in one page; between pages the publish keeps the newest.
            page = dict(zip(ids, blobs, strict=True))
            file.write_batch(reader.batch(list(page), list(page.values()), counts))
            tell(counts)
    return counts


def can_be_scanned(store: Any) -> bool:
    """Whether a store can say which rows it holds."""
    return callable(getattr(store, "rows", None))


def refuse_unscannable(store: Any, source: str) -> None:
    """RequestError for a store that cannot be walked."""
    if not can_be_scanned(store):
        msg = f"--from: source {source!r} cannot be scanned; wanted one of type redis"
        raise RequestError(msg)


def schema_of(view: View) -> pa.Schema:
    """A view's columns as a table of it has them: join keys, event time, features."""
    fields = [pa.field(key.name, arrow_type(key.dtype)) for key in view.join_keys]
    fields.append(pa.field(EVENT_TIMESTAMP, pa.timestamp("us", tz="UTC")))
    return pa.schema([*fields, *(pa.field(one.name, arrow_type(one.dtype)) for one in view.features)])


class _Reader:
    """Pages of stored rows -> batches. Layouts met on the way are asked for once."""

    def __init__(self, store: Any, view: View) -> None:
        self._store, self._view, self._clock = store, view, SystemClock()
        self._layout, self._schema = Layout.of(view), schema_of(view)
        self._known = {self._layout.hash: self._layout}
        self._asked: set[int] = set()

    def batch(self, ids: list[bytes], blobs: list[bytes | None], counts: Counts) -> pa.RecordBatch:
        there = [at for at, blob in enumerate(blobs) if blob is not None]
        columns, keys, kept = keys_of(self._view.join_keys, [ids[at] for at in there])
        rows = self._decoded([blobs[there[at]] for at in kept], keys.own)
        fresh = np.flatnonzero(rows.verdicts == Verdict.FRESH)
        buried = int((rows.verdicts == Verdict.BURIED).sum())
        counts.kept += len(fresh)
        counts.deleted += buried
        counts.corrupt += len(there) - len(fresh) - buried
        good = rows.take(fresh)
        named = {key.name: column for key, column in zip(self._view.join_keys, columns, strict=True)}
        arrays = [_keys(named[key.name], key.dtype, fresh) for key in self._view.join_keys]
        # A row without an event time is dated now, since now it is there.
        times = np.where(good.event_time == NO_TIME_US, round(self._clock.wall() * 1e6), good.event_time)
        arrays.append(pa.array(times).cast(self._schema.field(EVENT_TIMESTAMP).type))
        arrays += [_values(good, one) for one in self._view.features]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _decoded(self, blobs: list[bytes | None], own: NDArray[np.uint64]) -> Rows:
        rows, unknown = decode(blobs, own, self._layout, self._known)
        if new := sorted(unknown - self._asked):
            self._asked.update(new)
            until = self._clock.monotonic() + _STEP_S
            self._known |= readable(self._store.layouts(self._view.project, new, until))
            rows, _ = decode(blobs, own, self._layout, self._known)
        return rows


def _keys(values: list[Any], dtype: DType, index: NDArray[np.intp]) -> Any:
    chosen = [values[at] for at in index.tolist()]
    if dtype.base == "timestamp":
        return pa.array(np.array(chosen, "M8[us]").view(np.int64)).cast(arrow_type(dtype))
    return pa.array(chosen, arrow_type(dtype))


def _values(rows: Rows, feature: Feature) -> Any:
    """One feature as its Arrow type, nulls as nulls."""
    values, absent, dtype = column(rows, feature.name), nulls(rows, feature.name), feature.dtype
    wanted: Any = arrow_type(dtype)
    if dtype.dim:
        flat: Any = pa.array(np.ascontiguousarray(values).ravel(), arrow_type(DType.parse(dtype.base)))
        return pa.FixedSizeListArray.from_arrays(flat, type=wanted, mask=pa.array(absent))
    if dtype.is_fixed and dtype.base == "timestamp":
        times = pa.array(values.astype("M8[us]").view(np.int64), mask=absent)
        return times.cast(wanted)
    if dtype.is_fixed:
        return pa.array(values, wanted, mask=absent)
    cells = [None if gone else value for value, gone in zip(values.tolist(), absent, strict=True)]
    if dtype.base == "timestamp":
        cells = [None if cell is None else [each.item() for each in cell] for cell in cells]
    return pa.array(cells, wanted)
