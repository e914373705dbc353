"""Who is asked about: entities that are stored, drawn by chance for every request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Pool:
    """Entities to ask about. `groups`: columns of equal length that belong together; groups are drawn by themselves.

    A column of times is numpy.datetime64 in microseconds, any other a list. `whence` says in words where they are from.
    """

    groups: tuple[Columns, ...]
    whence: str

    def __len__(self) -> int:
        """How many distinct entity rows there are at the least."""
        return max((_length(group) for group in self.groups), default=0)

    def draw(self, rng: Random, count: int) -> dict[str, Any]:
        """`count` entity rows as columns; each at most once while there are enough."""
        drawn: dict[str, Any] = {}
        for group in self.groups:
            n = _length(group)
            at = rng.sample(range(n), count) if n >= count else rng.choices(range(n), k=count)
            for name, values in group.items():
                drawn[name] = values[at] if isinstance(values, np.ndarray) else [values[k] for k in at]
        return drawn


def packed(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Entity rows as JSON can carry them, times and bytes included."""
    return {name: _packed(values) for name, values in columns.items()}


def unpacked(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `packed`."""
    return dict(_unpacked(columns))


def _unpacked(columns: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, (kind, values) in columns.items():
        if kind == "times":
            yield name, np.array(values, np.int64).view("M8[us]")
        else:
            yield name, [bytes.fromhex(each) for each in values] if kind == "bytes" else values


def _packed(values: Any) -> tuple[str, list[Any]]:
    if isinstance(values, np.ndarray):
        return "times", values.view(np.int64).tolist()
    if values and isinstance(values[0], bytes):
        return "bytes", [each.hex() for each in values]
    return "plain", list(values)


def _length(group: Columns) -> int:
    return len(next(iter(group.values())))
