"""A table as callers hold it (pandas, pyarrow, a dict of columns) -> rows ready to be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import Keys, Layout, encode, encode_keys
from featurechaos.codec.cells import Misfit, scalars
from featurechaos.codec.inputs import plain
from featurechaos.errors import RequestError
from featurechaos.model import NO_TIME_US, View
from featurechaos.stores import Ask, Batch

EVENT_TIMESTAMP = "event_timestamp"
FUTURE_US = 60_000_000
"""A row whose event is further ahead of the clock than this is refused: a wrong clock somewhere."""


def batch_of(view: View, layout: Layout, table: Any, *, wall_us: int) -> Batch:
    """Check and pack a whole table; nothing is written if any of it is wrong.

    Of rows with one key the latest event time stays (the last one, on a tie).

    Raises:
        RequestError: naming the view, the column, the row where there is one, what was wanted and what came.
    """
    columns = columns_of(table, view)
    keys, inverse = _keys(view, columns)
    n = len(columns[EVENT_TIMESTAMP])
    event_time = event_times(columns[EVENT_TIMESTAMP], n, f"view {view.name!r}, column {EVENT_TIMESTAMP!r}")
    _refuse_future(view, event_time, wall_us)
    chosen = np.arange(n) if inverse is None else newest(inverse, event_time, len(keys))
    values = {
        feature.name: plain(columns[feature.name], n=n, place=f"view {view.name!r}, column {feature.name!r}")
        for feature in view.features
    }
    own = keys.own if inverse is None else keys.own[inverse]
    blobs = encode(layout, {name: _masked(*column) for name, column in values.items()}, event_time, own)
    return Batch(Ask(view, layout, keys), [blobs[i] for i in chosen.tolist()], event_time[chosen])


def columns_of(table: Any, view: View) -> dict[str, Any]:
    """The columns a view is written from; unknown or missing ones are refused before anything is written."""
    if isinstance(table, Mapping):
        columns = dict(table)
    elif hasattr(table, "column_names"):
        _refuse_twice(table.column_names, view)
        columns = {name: table.column(name) for name in table.column_names}
    elif hasattr(table, "columns") and hasattr(table, "__getitem__"):
        columns = {str(name): table[name] for name in table.columns}
        _refuse_twice([str(name) for name in table.columns], view)
    else:
        msg = f"view {view.name!r} wants a pandas or pyarrow table or a dict of columns, got {type(table).__name__}"
        raise RequestError(msg)
    wanted = [*(key.name for key in view.join_keys), *view.feature, EVENT_TIMESTAMP]
    missing = [name for name in wanted if name not in columns]
    unknown = [name for name in columns if name not in wanted]
    if missing or unknown:
        told = [f"lacks {', '.join(map(repr, missing))}"] * bool(missing)
        told += [f"has {', '.join(map(repr, unknown))} which the view has not"] * bool(unknown)
        msg = f"view {view.name!r} wants the columns {', '.join(wanted)}; the table {' and '.join(told)}"
        raise RequestError(msg)
    lengths = {name: _length(column, name, view) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        msg = f"view {view.name!r} wants columns of one length, got {lengths}"
        raise RequestError(msg)
    return columns


def _refuse_twice(names: Sequence[str], view: View) -> None:
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        msg = f"view {view.name!r} wants each column once, the table has {', '.join(map(repr, twice))} more than once"
        raise RequestError(msg)


def _length(column: Any, name: str, view: View) -> int:
    if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
        msg = f"view {view.name!r}, column {name!r}: wanted a list or an array of values, got {column!r}"
        raise RequestError(msg)
    return len(column)


def event_times(column: Any, n: int, place: str) -> NDArray[np.int64]:
    """int64 us UTC (n,); naive datetimes are UTC. RequestError for a null or anything that is no time."""
    values, mask = plain(column, n=n, place=place)
    try:
        times, nulls = scalars("timestamp", np.dtype("<M8[us]"), values, mask)
    except Misfit as misfit:
        msg = f"{place}, row {misfit.at}: wanted a datetime, numpy.datetime64 or pandas.Timestamp, got {misfit.got}"
        raise RequestError(msg) from None
    if nulls is not None and nulls.any():
        msg = f"{place}, row {int(np.flatnonzero(nulls)[0])}: wanted a time, got null"
        raise RequestError(msg)
    return times.view(np.int64)


def newest(inverse: NDArray[np.intp], event_time: NDArray[np.int64], m: int) -> NDArray[np.intp]:
    """For each of m keys the row with its latest event time; the last such row on a tie."""
    order = np.lexsort((np.arange(len(inverse)), event_time, inverse))
    last = np.append(np.flatnonzero(np.diff(inverse[order])), len(order) - 1)
    chosen = np.empty(m, np.intp)
    chosen[inverse[order[last]]] = order[last]
    return chosen


def parts_of(batch: Batch, size: int) -> Sequence[Batch]:
    """A batch cut into batches of at most `size` rows."""
    n = len(batch.blobs)
    if n <= size:
        return [batch]
    cut = []
    for begin in range(0, n, size):
        index = np.arange(begin, min(begin + size, n))
        cut.append(Batch(batch.ask.only(index), batch.blobs[begin : begin + size], batch.event_time[index]))
    return cut


def _keys(view: View, columns: Mapping[str, Any]) -> tuple[Keys, NDArray[np.intp] | None]:
    keys, inverse, nulls = encode_keys(view.join_keys, [columns[key.name] for key in view.join_keys])
    if nulls is not None:
        row = int(np.flatnonzero(nulls)[0])
        msg = f"view {view.name!r} wants a join key in every row to write, row {row} has a null one"
        raise RequestError(msg)
    return keys, inverse


def _refuse_future(view: View, event_time: NDArray[np.int64], wall_us: int) -> None:
    ahead = event_time > wall_us + FUTURE_US
    if ahead.any():
        row = int(np.flatnonzero(ahead)[0])
        seconds = (int(event_time[row]) - wall_us) / 1e6
        msg = (
            f"view {view.name!r}, row {row}: wanted an event time at most 60 s ahead of the clock, "
            f"got one {seconds:.0f} s ahead"
        )
        raise RequestError(msg)
    if (event_time == NO_TIME_US).any():
        msg = f"view {view.name!r}: wanted event times after the year -290307, got the smallest int64"
        raise RequestError(msg)


def _masked(values: Any, mask: NDArray[np.bool_] | None) -> Any:
    """A column with its holder's own mask, in a form that `encode` takes."""
    if mask is None or not mask.any():
        return values
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return np.ma.MaskedArray(values, mask)
    return [None if missing else value for value, missing in zip(values, mask.tolist(), strict=True)]
