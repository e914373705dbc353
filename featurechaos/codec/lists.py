"""Rows as Python values, a run at a time: what a dict of lists wants, with no columns between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from featurechaos.codec.layout import BITMAP_AT, HEADER_BYTES, Layout, Run, Spot, Words
from featurechaos.codec.rows import Rows


class Piece(NamedTuple):
    """What is read of one run: elements `span` of a row seen as `dtype`, all of them or those at `places`.

    `kind` is the run's own dtype's, "V" for a vector; `names` are those it goes out under, in order.
    """

    dtype: np.dtype[Any]
    span: slice
    kind: str
    places: list[int] | None
    names: list[str]


@dataclass(frozen=True, slots=True)
class Selection:
    """Some features of fixed width of one layout, and the names they go out under.

    Attributes:
        pieces: what is read of each run.
        names: bit in the null bitmap -> name.
    """

    pieces: tuple[Piece, ...]
    names: Mapping[int, str]

    @classmethod
    def of(cls, layout: Layout, wanted: Mapping[str, str]) -> Selection:
        """`wanted`: feature -> the name it goes out under; those of the tail are left out."""
        spots = [layout.spots[feature] for feature in wanted if layout.spots[feature].feature.dtype.is_fixed]
        by_run: dict[Run, list[Spot]] = {}
        for spot in sorted(spots, key=lambda spot: spot.at):
            by_run.setdefault(spot.run, []).append(spot)
        pieces = [
            Piece(
                np.dtype(np.uint8) if run.dtype.kind == "b" else run.dtype,
                slice(run.at, run.stop),
                "V" if run.dim else run.dtype.kind,
                None if len(chosen) == run.count else [spot.at for spot in chosen],
                [wanted[spot.feature.name] for spot in chosen],
            )
            for run, chosen in by_run.items()
        ]
        return cls(tuple(pieces), {spot.bit: wanted[spot.feature.name] for spot in spots})


def lists(rows: Rows, selection: Selection) -> dict[str, list[Any]]:
    """name -> n Python values as `tolist` makes them of the column; null is None, a date is UTC."""
    single = rows.single
    words = rows.words if single is None else np.frombuffer(single, np.uint64).reshape(1, -1)
    out: dict[str, list[Any]] = {}
    for dtype, span, kind, places, names in selection.pieces:
        block = words.view(dtype)[:, span]
        if kind == "V":
            out[names[0]] = block.tolist()
            continue
        cells = block.T if places is None else block.T[places]
        if kind == "b":
            cells = cells != 0  # any byte but 0 is True, as in `column`
        values = cells.tolist()
        if kind == "M":
            values = [[dated(value) for value in column] for column in values]
        out.update(zip(names, values, strict=True))
    if has_nulls(words, rows.layout):
        _put_nulls(out, words, rows.layout, selection.names)
    return out


def has_nulls(words: Words, layout: Layout) -> bool:
    """Whether any feature of any row is null."""
    return bool(np.count_nonzero(words[:, BITMAP_AT : BITMAP_AT + layout.bitmap_words]))


def dated(value: Any) -> Any:
    """A date as UTC; one that Python has no datetime for stays the microseconds it is."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def _put_nulls(out: dict[str, list[Any]], words: Words, layout: Layout, names: Mapping[int, str]) -> None:
    packed = words.view(np.uint8)[:, HEADER_BYTES : HEADER_BYTES + 8 * layout.bitmap_words]
    bits = np.unpackbits(packed, axis=1, bitorder="little", count=len(layout.features))
    # Sorted by bit: the rows of each stand together.
    which, places = np.nonzero(bits.T)
    begins = np.searchsorted(which, np.arange(len(layout.features) + 1)).tolist()
    null_rows = places.tolist()
    for bit, name in names.items():
        values = out[name]
        for row in null_rows[begins[bit] : begins[bit + 1]]:
            values[row] = None
