"""Entities to ask about: from a file, or from what the stores hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featurechaos.bench.pool import Pool
from featurechaos.cli.entities import rows_from, typed
from featurechaos.cli.ids import keys_of
from featurechaos.cli.opening import opened_store
from featurechaos.cli.progress import Working
from featurechaos.cli.scanning import can_be_scanned
from featurechaos.clock import SystemClock
from featurechaos.config import Settings
from featurechaos.errors import FeatureError, RequestError
from featurechaos.model import JoinKey, View
from featurechaos.tables import event_times

MOST_KEYS = 50_000
"""Of each view, those that are met first: a store's own order is as good as chance."""
MOST_S = 20.0
RATE = 20_000.0
"""Keys a second that are looked at, of any view: what a busy server does not notice."""


def pool_of(settings: Settings, views: Sequence[str], file: Path | None) -> Pool:
    """Entities with every join key of some views; RequestError says what is wanted where there are none."""
    wanted = {key.column: key for view in views for key in settings.views[view].join_keys}
    if file is not None:
        return _from_file(file, wanted)
    groups: list[dict[str, Any]] = []
    for name in sorted(views, key=lambda view: -len(settings.views[view].join_keys)):
        view = settings.views[name]
        missing = [key for key in view.join_keys if not any(key.column in group for group in groups)]
        if missing:
            columns = _stored(settings, view)
            groups.append({key.column: _usable(columns[key.name], key) for key in missing})
    counts = ", ".join(f"{len(next(iter(group.values()))):,} of {' and '.join(group)}" for group in groups)
    return Pool(tuple(groups), f"{counts}, as they are stored")


def _stored(settings: Settings, view: View) -> dict[str, list[Any]]:
    """The join keys of rows that are stored of a view, a column each, under the names they are stored by."""
    base = settings.views[view.base]
    tried = []
    for source in settings.policies[view.name].order:
        try:
            with opened_store(settings, source) as store, Working(f"looking for entities of {base.name!r} in {source}"):
                columns = _listed(store, base)
        except FeatureError as error:
            tried.append(f"{source}: {error}")
            continue
        if columns is None:
            tried.append(f"{source} cannot be listed")
        elif not len(next(iter(columns.values()))):
            tried.append(f"{source} holds none")
        else:
            return columns
    msg = f"there is no entity of view {base.name!r} to ask about ({'; '.join(tried)}): name some with --entities FILE"
    raise RequestError(msg)


def _listed(store: Any, view: View) -> dict[str, list[Any]] | None:
    """Some entities that a store holds, by the view's join keys; None for one that cannot say."""
    if can_be_scanned(store):
        columns, _, _ = keys_of(view.join_keys, _ids(store, view))
        return {key.name: column for key, column in zip(view.join_keys, columns, strict=True)}
    if hasattr(store, "entities"):
        table = store.entities(view.name, MOST_KEYS)
        return {name: table.column(name).to_pylist() for name in table.column_names}
    return None


def _ids(store: Any, view: View) -> list[bytes]:
    clock = SystemClock()
    found: dict[bytes, None] = {}
    until = clock.monotonic() + MOST_S
    for ids, _ in store.rows(view, rows_per_s=RATE):
        found.update(dict.fromkeys(ids))
        if len(found) >= MOST_KEYS or clock.monotonic() > until:
            break
    return list(found)[:MOST_KEYS]


def _from_file(file: Path, wanted: Mapping[str, JoinKey]) -> Pool:
    columns = dict(_read(file, wanted))
    if lacking := [name for name in wanted if name not in columns]:
        msg = f"--entities: {file} wants the columns {', '.join(wanted)}; it has no {', '.join(lacking)}"
        raise RequestError(msg)
    lengths = {len(columns[name]) for name in wanted}
    if lengths == {0} or len(lengths) > 1:
        msg = f"--entities: {file} wants at least one entity row, and columns of one length"
        raise RequestError(msg)
    group = {name: _usable(columns[name], key) for name, key in wanted.items()}
    return Pool((group,), f"{lengths.pop():,} of {file.name}")


def _read(file: Path, wanted: Mapping[str, JoinKey]) -> Iterator[tuple[str, list[Any]]]:
    suffix = file.suffix.lower()
    if suffix == ".json":
        yield from _columns(typed(rows_from(str(file), "--entities"), wanted), file)
        return
    if suffix not in {".parquet", ".pq", ".csv"}:
        msg = f"--entities: {str(file)!r} wants to end in .parquet, .csv or .json"
        raise RequestError(msg)
    from featurechaos.cli.tables import key_table

    table = key_table(file, wanted.values())
    yield from ((name, table.column(name).to_pylist()) for name in table.column_names)


def _columns(rows: Any, file: Path) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(rows, dict):
        most = max((len(each) for each in rows.values() if isinstance(each, list)), default=1)
        yield from ((name, each if isinstance(each, list) else [each] * most) for name, each in rows.items())
        return
    names = dict.fromkeys(name for row in rows for name in row)
    if any(name not in row for row in rows for name in names):
        msg = f"--entities: {file} wants the same keys in every entity row: {', '.join(names)}"
        raise RequestError(msg)
    yield from ((name, [row[name] for row in rows]) for name in names)


def _usable(values: Sequence[Any], key: JoinKey) -> Any:
    """A column as a pool keeps it."""
    if key.dtype.base != "timestamp":
        return list(values)
    return np.asarray(event_times(values, len(values), f"join key {key.column!r}")).view("M8[us]")
