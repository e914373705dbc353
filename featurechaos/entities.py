"""Entity rows as callers write them -> one column a name, all of one length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from featurechaos.errors import RequestError
from featurechaos.model import View

EntityRows = Sequence[Mapping[str, Any]] | Mapping[str, Any]


class Entities:
    """The entity rows of one call by column.

    A list of dicts is read column by column as views ask for it; a dict of columns is taken as it is, its
    scalars broadcast.
    """

    __slots__ = ("_columns", "_rows", "n")

    def __init__(self, entity_rows: EntityRows) -> None:
        self._rows: Sequence[Mapping[str, Any]] | None = None
        self._columns: dict[str, Any] = {}
        if type(entity_rows) is list:  # first: to ask whether it is a Mapping costs as much as all the rest
            self._rows, self.n = entity_rows, len(entity_rows)
        elif isinstance(entity_rows, Mapping):
            self.n, self._columns = _broadcast(entity_rows)
        else:
            if not isinstance(entity_rows, list | tuple):
                msg = f"entity_rows wants a list of dicts or a dict of columns, got {type(entity_rows).__name__}"
                raise RequestError(msg)
            self._rows, self.n = entity_rows, len(entity_rows)

    def column(self, name: str, view: View) -> Any:
        """One value a row, in row order; RequestError if a row has no such key."""
        if (found := self._columns.get(name)) is not None:
            return found
        if self._rows is None:
            msg = f"view {view.name!r} wants the join key {name!r}; entity_rows has no such column"
            raise RequestError(msg)
        try:
            column = [row[name] for row in self._rows]
        except (KeyError, TypeError, IndexError):
            raise RequestError(_missing(self._rows, name, view)) from None
        self._columns[name] = column
        return column

    def only(self, name: str, view: View) -> Any:
        """The value of the one row there is, None where the column knows more; RequestError if it has no such key."""
        if self._rows is not None and type(row := self._rows[0]) is dict and name in row:
            return row[name]
        column = self.column(name, view)
        if type(column) is np.ndarray and column.ndim == 1 and column.dtype.kind in "iu":
            return column.item(0)
        return column[0] if type(column) is list else None  # a pandas Series would be asked for its label 0

    def everything(self) -> dict[str, Any]:
        """Every column any row has; a row without it has None."""
        if self._rows is not None:
            names = dict.fromkeys(name for row in self._rows for name in row)
            for name in names:
                if name not in self._columns:
                    self._columns[name] = [row.get(name) for row in self._rows]
        return self._columns


def _missing(rows: Sequence[Any], name: str, view: View) -> str:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            return f"entity_rows: row {number} wants a dict of join keys, got {type(row).__name__}"
        if name not in row:
            return (
                f"view {view.name!r} wants the join key {name!r}; entity row {number} has only {sorted(map(str, row))}"
            )
    return f"view {view.name!r}: join key {name!r} could not be read"


def _broadcast(columns: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    lengths = {name: len(column) for name, column in columns.items() if not _is_scalar(column)}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        msg = f"entity_rows wants columns of one length, got {told}"
        raise RequestError(msg)
    n = next(iter(lengths.values()), 1 if columns else 0)
    return n, {name: _own(column) if name in lengths else [_scalar(column)] * n for name, column in columns.items()}


def _own(column: Any) -> Any:
    """A column the caller may write over once the call has returned."""
    return column.copy() if isinstance(column, np.ndarray | list) else column


def _scalar(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) else value


def _is_scalar(value: object) -> bool:
    if isinstance(value, str | bytes | Mapping):
        return True
    if isinstance(value, np.ndarray):
        return value.ndim == 0
    return not hasattr(value, "__len__")
