"""Columns -> rows -> stored bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import tails
from featurechaos.codec.cells import Misfit, scalars, wanted
from featurechaos.codec.hashing import MOST_ROW_BYTES, ROW, sums
from featurechaos.codec.inputs import Mask, plain
from featurechaos.codec.layout import (
    HEAD_AT,
    HEADER_BYTES,
    OWN_AT,
    SCHEMA_AT,
    SUM_AT,
    TIME_AT,
    TOMBSTONE,
    Layout,
    Words,
    head,
)
from featurechaos.codec.rows import Rows
from featurechaos.codec.sequences import variable, vectors
from featurechaos.errors import RequestError
from featurechaos.model import DType, Verdict

_FRESH, _BURIED, _CORRUPT = int(Verdict.FRESH), int(Verdict.BURIED), int(Verdict.CORRUPT)
_NO_BYTES: Final = b""

Cells = tuple[NDArray[Any] | list[bytes], Mask]
"""One feature's cells: an array of its dtype or bytes for the tail; and which are null, bool (n,) or None."""


def encode(
    layout: Layout, columns: Mapping[str, Any], event_time: NDArray[np.int64], own: NDArray[np.uint64]
) -> list[bytes]:
    """Pack n rows.

    Args:
        columns: feature -> a list, numpy array, pandas Series or pyarrow array of n values, or (n, dim);
            None, NaN, NaT and masked cells are null. Columns that are no feature are not looked at.
        event_time: int64 us (n,).
        own: uint64 (n,), `Keys.own` of each row.

    Raises:
        RequestError: naming view, feature, row, what was wanted and what came; nothing is returned half done.
    """
    n = len(event_time)
    absent = [feature.name for feature in layout.features if feature.name not in columns]
    if absent:
        raise RequestError(f"view {layout.base!r} wants a column for every feature, got none for {', '.join(absent)}")
    cells = {
        feature.name: _fitted(
            columns[feature.name], feature.dtype, n=n, place=f"view {layout.base!r} feature {feature.name!r}"
        )
        for feature in layout.features
    }
    rows = _assembled(layout, cells, event_time, own)
    _refuse_long(rows)
    return seal(rows, own)


def encode_tombstones(layout: Layout, event_time: NDArray[np.int64], own: NDArray[np.uint64]) -> list[bytes]:
    """A row each that says its entity was deleted at `event_time`, int64 us (n,): the header alone."""
    words = np.zeros((len(event_time), HEADER_BYTES // 8), np.uint64)
    words[:, HEAD_AT], words[:, SCHEMA_AT] = head(TOMBSTONE, HEADER_BYTES), layout.hash
    words[:, OWN_AT] = own
    words.view(np.int64)[:, TIME_AT] = event_time
    return _sealed(words, own, layout)


def pack(  # noqa: PLR0917 -- what one foreign row has, in the order of its parts
    layout: Layout,
    values: Mapping[str, NDArray[Any]],
    nulls: Mapping[str, NDArray[np.bool_]],
    event_time: NDArray[np.int64],
    own: NDArray[np.uint64],
    verdict: NDArray[np.uint8],
) -> Rows:
    """Columns of a foreign layout as packed rows, so that everything after a read knows one form.

    Args:
        values: feature -> as `column` gives it; a feature that is absent is null in every row.
        nulls: feature -> bool (n,); absent where nothing is null.
        verdict: uint8 (n,) of `Verdict`; only FRESH and PARTIAL rows keep their cells, only they and BURIED
            ones their event time. A row too long to be kept becomes CORRUPT.

    Returns:
        rows whose checksums are not made: `seal` does.
    """
    n = len(event_time)
    cells = {
        name: _fitted(
            values[name],
            spot.feature.dtype,
            n=n,
            place=f"view {layout.base!r} feature {name!r}",
            mask=nulls.get(name),
        )
        for name, spot in layout.spots.items()
        if name in values
    }
    rows = _assembled(layout, cells, event_time, own)
    verdicts = np.array(verdict, np.uint8)
    valued = (verdicts == _FRESH) | (verdicts == Verdict.PARTIAL)
    too_long = valued & (_lengths(rows) > MOST_ROW_BYTES)
    if too_long.any():
        verdicts[too_long], valued = _CORRUPT, valued & ~too_long
    if not valued.all():
        rows = _emptied(rows, valued, verdicts == _BURIED)
    same = n > 0 and bool((verdicts == verdicts[0]).all())
    rows.verdict = int(verdicts[0]) if same else verdicts if n else _FRESH
    return rows


def seal(rows: Rows, own: NDArray[np.uint64]) -> list[bytes]:
    """The rows as blobs, headers and checksums made anew: for rows changed on purpose and for packed columns.

    A BURIED row becomes a tombstone. Others are written as they stand, so `take` those with a value first.
    """
    if not len(rows):
        return []
    buried = rows.verdicts == _BURIED
    if buried.any():
        blobs = seal(Rows(rows.layout, rows.words, _FRESH, tails=rows.tails), own)
        for at, blob in zip(
            np.flatnonzero(buried).tolist(),
            encode_tombstones(rows.layout, rows.event_time[buried], own[buried]),
            strict=True,
        ):
            blobs[at] = blob
        return blobs
    layout, words = rows.layout, rows.words.copy()
    words[:, SCHEMA_AT], words[:, OWN_AT] = layout.hash, own
    if not layout.has_tail:
        words[:, HEAD_AT] = layout.base_row[HEAD_AT]
        return _sealed(words, own, layout)
    none = bytes(layout.least_bytes - 8 * layout.words)
    ragged = [tail or none for tail in rows.tails or ()]
    sizes = np.fromiter(map(len, ragged), np.int64, len(words))
    lengths = sizes + 8 * layout.words
    words[:, HEAD_AT] = lengths.astype(np.uint64) << np.uint64(32) | np.uint64(head(layout.flags, 0))
    fixed = _sealed(words, own + sums(ragged, sizes, begin=2 * layout.words), layout)
    return [part + tail for part, tail in zip(fixed, ragged, strict=True)]


def _sealed(words: Words, added: NDArray[np.uint64], layout: Layout) -> list[bytes]:
    """Fixed parts as bytes, with their checksums filled in; `added`: own key and tail's sum."""
    words[:, SUM_AT] = 0
    found = words.view(np.uint32) @ ROW[: 2 * words.shape[1]]
    words[:, SUM_AT] = found + added + np.uint64(layout.constant)
    raw, width = words.tobytes(), 8 * words.shape[1]
    return [raw[begin : begin + width] for begin in range(0, len(raw), width)]


def _fitted(values: Any, dtype: DType, *, n: int, place: str, mask: Mask = None) -> Cells:
    """A column as cells of its dtype; `mask` says more nulls."""
    given, missing = plain(values, n=n, place=place)
    mask = missing if mask is None else mask if missing is None else mask | missing
    try:
        if not dtype.is_fixed:
            return variable(dtype, given, mask)
        if dtype.dim is not None:
            return vectors(dtype, given, mask)
        return scalars(dtype.base, dtype.numpy, given, mask)
    except Misfit as misfit:
        raise RequestError(f"{place} row {misfit.at} wants {wanted(dtype)}, got {misfit.got}") from None


def _assembled(
    layout: Layout, cells: Mapping[str, Cells], event_time: NDArray[np.int64], own: NDArray[np.uint64]
) -> Rows:
    """Cells in their places; features without cells are null."""
    n = len(event_time)
    words = np.empty((n, layout.words), np.uint64)
    words[...] = layout.base_row if len(cells) == len(layout.features) else layout.blank
    words.view(np.int64)[:, TIME_AT] = event_time
    words[:, OWN_AT] = own
    octets = words.view(np.uint8)
    ragged: list[list[bytes]] = []
    for name, spot in layout.spots.items():
        values, missing = cells.get(name, ([_NO_BYTES] * n, None))
        if name in cells:
            _mark(octets, spot.bit, missing)
            if isinstance(values, np.ndarray):
                at = spot.run.at + spot.at
                view = words.view(spot.run.dtype)
                view[:, at : at + (spot.run.dim or 1)] = values if spot.run.dim else values[:, None]
        if not spot.feature.dtype.is_fixed:
            ragged.append(values)  # type: ignore[arg-type]
    return Rows(layout, words, _FRESH, tails=tails.made(ragged, 8 * layout.words) if ragged else None)


def _mark(octets: NDArray[np.uint8], bit: int, missing: Mask) -> None:
    """Write one feature's bit of every null bitmap."""
    byte, mask = HEADER_BYTES + bit // 8, np.uint8(1 << bit % 8)
    octets[:, byte] &= ~mask
    if missing is not None:
        octets[:, byte] |= missing * mask


def _emptied(rows: Rows, valued: NDArray[np.bool_], buried: NDArray[np.bool_]) -> Rows:
    """The rows with those that have no value blank, save the time at which one was buried."""
    layout = rows.layout
    times = rows.event_time[buried]
    rows.words[~valued] = layout.blank
    rows.event_time[buried] = times
    if rows.tails is not None:
        rows.tails = [tail if keep else b"" for tail, keep in zip(rows.tails, valued.tolist(), strict=True)]
    return rows


def _lengths(rows: Rows) -> NDArray[np.int64]:
    """int64 (n,), bytes of each row."""
    width = 8 * rows.layout.words
    if rows.tails is None:
        return np.full(len(rows), width, np.int64)
    return np.fromiter(map(len, rows.tails), np.int64, len(rows)) + width


def _refuse_long(rows: Rows) -> None:
    lengths = _lengths(rows)
    if len(lengths) and lengths.max() > MOST_ROW_BYTES:
        row = int(lengths.argmax())
        raise RequestError(
            f"view {rows.layout.base!r} row {row} wants at most {MOST_ROW_BYTES} bytes, got {lengths[row]}"
        )
