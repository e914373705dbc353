"""Stored bytes -> rows: a straight line for the whole and the good, a sorting of everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import mul
from struct import Struct, unpack
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import tails
from featurechaos.codec.convert import conversion
from featurechaos.codec.hashing import MASK, MOST_ROW_BYTES, ROW, constant, padded, sums
from featurechaos.codec.keys import Keys
from featurechaos.codec.layout import (
    HEADER,
    HEADER_BYTES,
    MAGIC,
    TAIL,
    TIME_AT,
    TOMBSTONE,
    VERSION,
    Layout,
    Words,
    head,
)
from featurechaos.codec.packed import Packed
from featurechaos.codec.rows import Rows
from featurechaos.model import Verdict

_NOTHING: Final[frozenset[int]] = frozenset()
_HALVES: Final = np.dtype(np.uint32)
_TIME: Final = Struct("<q").unpack_from
_FRESH, _MISSING, _BURIED, _CORRUPT = (
    int(verdict) for verdict in (Verdict.FRESH, Verdict.MISSING, Verdict.BURIED, Verdict.CORRUPT)
)


def decode(
    blobs: Sequence[bytes | None],
    own: NDArray[np.uint64],
    layout: Layout,
    known: Mapping[int, Layout] | None = None,
) -> tuple[Rows, frozenset[int]]:
    """Read stored rows, whatever came.

    Args:
        blobs: n values in request order; None where the store has no such key.
        own: uint64 (n,), the hash of each row's key; a row that says another is CORRUPT.
        known: schema hash -> layout, for rows written before or after the view changed; read by feature name.

    Returns:
        rows, and the schema hashes of intact rows of layouts not in `known`: fetch their descriptions
        and decode again, or leave those rows CORRUPT.
    """
    rows = _whole(blobs, own, layout)
    if rows is not None:
        return rows, _NOTHING
    there = [blob for blob in blobs if blob is not None]
    found = np.fromiter((blob is not None for blob in blobs), np.bool_, len(blobs))
    index = np.flatnonzero(found)
    rows = Rows.blank(layout, len(blobs), _MISSING)
    if len(there) == len(blobs):
        unknown = _sorted_out(rows, there, own, index, known or {})
    elif there:
        part = _whole(there, own[index], layout)
        if part is not None:
            rows.put(index, part, np.arange(len(part)))
            return rows, _NOTHING
        unknown = _sorted_out(rows, there, own[index], index, known or {})
    else:
        unknown = _NOTHING
    return rows, unknown


def verify(words: Words, own: NDArray[np.uint64], layout: Layout, found: NDArray[np.bool_]) -> Rows:
    """The same for fixed-width rows already gathered into words (a replica's).

    Args:
        words: uint64 (n, layout.words), C order; kept and written to. Rows not found may hold anything.
        found: bool (n,).
    """
    if layout.has_tail:
        raise ValueError(f"rows of {layout!r} vary in length: decode them")
    total = words.view(np.uint32).dot(layout.multipliers)
    total += own
    n = len(words)
    if total.tobytes() == layout.good * n and words[:, 0].tobytes() == layout.head * n and found.all():
        return Rows(layout, words, _FRESH)
    intact = found & (total == np.uint64(-layout.constant & MASK)) & (words[:, 0] == layout.base_row[0])
    words[~intact] = layout.blank
    verdict = np.where(intact, np.uint8(_FRESH), np.where(found, np.uint8(_CORRUPT), np.uint8(_MISSING)))
    return Rows(layout, words, verdict)


def whole(blobs: Sequence[bytes | None], keys: Keys, layout: Layout, is_alone: bool = False) -> Rows | None:
    """The rows if every one is there, intact and of this layout; else None. The straight way of `decode`.

    `is_alone`: nothing else is decoded now, so that of one short row the plain ints are sooner there than numpy.
    """
    if len(blobs) != 1 or layout.has_tail:
        return _whole(blobs, keys.own, layout)
    # One row, without numpy unless it is long.
    blob = blobs[0]
    if type(blob) is not bytes or len(blob) != layout.least_bytes or not blob.startswith(layout.head):
        return None
    total = (keys.first if keys.one is None else keys.one) + layout.constant
    if is_alone and (in_ints := layout.in_ints) is not None:
        total += sum(map(mul, unpack(in_ints[0], blob), in_ints[1]))
    else:
        total += int(np.frombuffer(blob, _HALVES).dot(layout.multipliers))
    if total & MASK:
        return None
    return Rows(layout, None, _FRESH, blobs, None, _TIME(blob, 8 * TIME_AT)[0])  # type: ignore[arg-type]


def _whole(blobs: Sequence[bytes | None], own: NDArray[np.uint64], layout: Layout) -> Rows | None:
    if layout.has_tail:
        return _whole_with_tails(blobs, own, layout)
    n = len(blobs)
    if type(blobs) is Packed:
        words = blobs.words
        if words.shape[1] != layout.words:
            return None
    else:
        try:
            # A bytearray, so that the words are ours to write. A None is a TypeError.
            flat = bytearray().join(blobs)  # type: ignore[arg-type]
        except TypeError:
            return None
        # Rows of the wrong length that add up to the right one are out of step, and fail the sum.
        if len(flat) != 8 * layout.words * n:
            return None
        words = np.frombuffer(flat, np.uint64).reshape(n, layout.words)
    total = words.view(np.uint32).dot(layout.multipliers)
    # Comparing bytes: two calls fewer than comparing arrays, for each of the two tests.
    if (total + own).tobytes() != layout.good * n or words[:, 0].tobytes() != layout.head * n:
        return None
    return Rows(layout, words, _FRESH, blobs=blobs)  # type: ignore[arg-type]


def _whole_with_tails(blobs: Sequence[bytes | None], own: NDArray[np.uint64], layout: Layout) -> Rows | None:
    if not len(blobs):
        return Rows(layout, np.empty((0, layout.words), np.uint64), _FRESH, blobs=[])
    if set(map(type, blobs)) != {bytes}:
        return None
    lengths = np.fromiter(map(len, blobs), np.int64, len(blobs))  # type: ignore[arg-type]
    if (lengths & 7).any() or lengths.min() < layout.least_bytes or lengths.max() > MOST_ROW_BYTES:
        return None
    words, intact = _with_tails(blobs, own, lengths, layout)  # type: ignore[arg-type]
    return Rows(layout, words, _FRESH, blobs=blobs) if intact.all() else None  # type: ignore[arg-type]


def _with_tails(
    blobs: Sequence[bytes], own: NDArray[np.uint64], lengths: NDArray[np.int64], layout: Layout
) -> tuple[Words, NDArray[np.bool_]]:
    """Fixed parts and what is intact, of at least one row; lengths are multiples of 8 within bounds."""
    if len(blobs) == 1:
        return _one_with_tail(blobs[0], own, layout)
    words = np.empty((len(blobs), layout.words), np.uint64)
    intact = np.empty(len(blobs), np.bool_)
    for which, matrix in padded(blobs, lengths):
        some = blobs if isinstance(which, slice) else [blobs[at] for at in which.tolist()]
        found = matrix @ ROW[: matrix.shape[1]]
        found += own[which]
        good = found == np.uint64(-layout.constant & MASK)
        # In 32-bit words: magic, version and flags, then the length.
        good &= (matrix[:, 0] == layout.base_row.view(np.uint32)[0]) & (matrix[:, 1] == lengths[which])
        good &= tails.sound(layout, some, matrix)
        words[which], intact[which] = matrix[:, : 2 * layout.words].view(np.uint64), good
    return words, intact


def _one_with_tail(blob: bytes, own: NDArray[np.uint64], layout: Layout) -> tuple[Words, NDArray[np.bool_]]:
    """One row with plain ints: a seventh of what the matrix costs."""
    row = np.frombuffer(blob, np.uint32)
    held = int(row @ ROW[: len(row)]) + int(own[0]) + layout.constant & MASK == 0
    is_good = held and blob[:8] == head(layout.flags, len(blob)).to_bytes(8, "little")
    width = 8 * layout.words
    words = np.frombuffer(bytearray(blob[:width]), np.uint64).reshape(1, layout.words)
    return words, np.array([is_good and tails.is_sound(layout, blob[width:])])


def _sorted_out(
    rows: Rows,
    blobs: Sequence[bytes],
    own: NDArray[np.uint64],
    index: NDArray[np.intp],
    known: Mapping[int, Layout],
) -> frozenset[int]:
    """Fill `rows` at `index` with what is good among blobs that aren't all good; tell the unknown schemas."""
    layout, unknown = rows.layout, set()
    verdicts = rows.verdicts.copy()
    verdicts[index] = _CORRUPT
    rows.verdict = verdicts
    for (schema, is_tombstone), members in _by_kind(blobs).items():
        places = np.array(members, np.intp)
        some = [blobs[member] for member in members]
        theirs = layout if schema == layout.hash else known.get(schema)
        if theirs is None:
            if _sums_hold(some, own[places], schema).any():
                unknown.add(schema)
        elif is_tombstone:
            _bury(rows, some, own[places], index[places], schema)
        else:
            _restore(rows, some, own[places], index[places], theirs)
    return frozenset(unknown)


def _by_kind(blobs: Sequence[bytes]) -> dict[tuple[int, bool], list[int]]:
    """Where the well-formed rows are, by (schema hash, whether a tombstone); lengths are legal after this."""
    kinds: dict[tuple[int, bool], list[int]] = {}
    for at, blob in enumerate(blobs):
        size = len(blob) if isinstance(blob, bytes) else 0
        if size < HEADER_BYTES or size & 7 or size > MOST_ROW_BYTES:
            continue
        magic, version, flags, length, schema = HEADER.unpack_from(blob)
        if magic != MAGIC or version != VERSION or length != size or flags not in {0, TAIL, TOMBSTONE}:
            continue
        is_tombstone = flags == TOMBSTONE
        if is_tombstone == (size == HEADER_BYTES):
            kinds.setdefault((schema, is_tombstone), []).append(at)
    return kinds


def _sums_hold(blobs: list[bytes], own: NDArray[np.uint64], schema: int) -> NDArray[np.bool_]:
    """bool (n,): whether rows of any lengths are intact and these keys' under a schema hash."""
    lengths = np.fromiter(map(len, blobs), np.int64, len(blobs))
    held: NDArray[np.bool_] = sums(blobs, lengths) + own == np.uint64(-constant(schema, VERSION) & MASK)
    return held


def _bury(rows: Rows, blobs: list[bytes], own: NDArray[np.uint64], index: NDArray[np.intp], schema: int) -> None:
    held = _sums_hold(blobs, own, schema)
    times = np.frombuffer(b"".join(blobs), np.int64).reshape(-1, HEADER_BYTES // 8)[:, TIME_AT]
    rows.verdicts[index[held]] = _BURIED
    rows.event_time[index[held]] = times[held]


def _restore(rows: Rows, blobs: list[bytes], own: NDArray[np.uint64], index: NDArray[np.intp], theirs: Layout) -> None:
    """Put rows of one schema where they belong, through the conversion if it isn't ours."""
    read = rows.layout if theirs == rows.layout else theirs
    convert = conversion(read, rows.layout)
    fits = [len(blob) >= read.least_bytes if read.has_tail else len(blob) == read.least_bytes for blob in blobs]
    some = [blob for blob, fit in zip(blobs, fits, strict=True) if fit]
    if convert is None or not some:
        return
    chosen = np.flatnonzero(np.array(fits))
    lengths = np.fromiter(map(len, some), np.int64, len(some))
    if read.has_tail:
        words, intact = _with_tails(some, own[chosen], lengths, read)
        good = Rows(read, words, _FRESH, blobs=some).take(intact)
    else:
        words = np.frombuffer(b"".join(some), np.uint64).reshape(len(some), read.words)
        total = words.view(np.uint32).dot(read.multipliers)
        intact = (total + own[chosen] == np.uint64(-read.constant & MASK)) & (words[:, 0] == read.base_row[0])
        good = Rows(read, words, _FRESH).take(intact)
    if len(good):
        rows.put(index[chosen[intact]], convert(good), np.arange(len(good)))
