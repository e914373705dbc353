"""Key values -> the ids under which rows are stored, and the hashes that rows and replicas carry."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import countOf
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from featurechaos.codec.hashing import MOST_ID_BYTES, hash_ids, spread, spread_one
from featurechaos.codec.inputs import unwrapped
from featurechaos.codec.keycells import NEWLINE, Bad, integers, plain_text, texts
from featurechaos.errors import RequestError
from featurechaos.model import JoinKey

_TEXTUAL: Final = ("string", "bytes")
_PLAIN_BOUND: Final = {"int32": 1 << 31, "int64": 1 << 63}
_BOUND: Final = {**_PLAIN_BOUND, "timestamp": 1 << 63}

Encoded = tuple["Keys", NDArray[np.intp] | None, NDArray[np.bool_] | None]


class Keys:
    """Distinct keys of one view, encoded.

    ids: the text between the braces of a stored key, bytes each.
    own: uint64 (n,), the hash stored in each row; for a single integer or timestamp key a bijection
        of its value, else Lemire's multilinear hash of the id.
    slots: uint64 (n,), where a replica looks a row up; equal to `own` where that is a bijection, else a
        second, independent hash. Built when first asked for.
    """

    __slots__ = ("_own", "_slots", "ids", "one")

    def __init__(
        self,
        ids: list[bytes],
        own: NDArray[np.uint64] | None,
        slots: NDArray[np.uint64] | None = None,
        one: int | None = None,
    ) -> None:
        self.ids, self._own, self._slots = ids, own, slots
        self.one = one
        """The hash of a single key where that is a bijection: then numpy is not called for it."""

    @property
    def own(self) -> NDArray[np.uint64]:
        if self._own is None:
            self._own = np.array([self.one], np.uint64)
        return self._own

    @property
    def first(self) -> int:
        """The hash of the first key."""
        return self.one if self.one is not None else self.own.item(0)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"<Keys {len(self)}>"

    def take(self, index: NDArray[np.intp]) -> Keys:
        """Some of the keys, in the order asked."""
        ids = self.ids
        slots = None if self._slots is None and self.one is None else self.slots[index]
        return Keys([ids[place] for place in index.tolist()], self.own[index], slots)

    @property
    def slots(self) -> NDArray[np.uint64]:
        if self._slots is None:
            self._slots = self.own if self.one is not None else hash_ids(self.ids, second=True)
        return self._slots


def encode_keys(join_keys: Sequence[JoinKey], columns: Sequence[Sequence[Any] | NDArray[Any]]) -> Encoded:
    """Turn key values into distinct encoded keys.

    Args:
        join_keys: in the order of their names.
        columns: one a join key, n values each: Python values, numpy scalars, or a numpy array (a pandas
            Series or pyarrow array will do).

    Returns:
        keys: m distinct ones, in order of first appearance, of the rows with no null key;
        inverse: intp (n,), row -> position in keys; None when rows and keys are one to one in order (m == n);
            rows with a null key have position m;
        nulls: bool (n,), rows with a None or NaN/NaT in any key; None when there is none.

    Raises:
        RequestError: naming the key, the row and what came.
    """
    if len(join_keys) > 1:
        return _composite(join_keys, columns)
    if type(columns[0]) is list and len(columns[0]) == 1 and (key := encode_key(join_keys[0], columns[0][0])):
        return key, None, None
    if join_keys[0].dtype.name in _TEXTUAL:
        return _of_texts(join_keys, columns)
    return _of_integers(join_keys[0], columns[0])


def encode_key(key: JoinKey, value: Any) -> Keys | None:
    """`encode_keys` of one plain int or str, where numpy would cost ten times as much; None for anything else."""
    dtype = key.dtype.name
    if type(value) is int:
        bound = _PLAIN_BOUND.get(dtype, 0)
        return Keys([b"%d" % value], None, None, spread_one(value)) if -bound <= value < bound else None
    if type(value) is str and dtype == "string" and len(value) <= MOST_ID_BYTES and (ids := plain_text([value])):
        return Keys(ids, hash_ids(ids))
    return None


def _of_integers(key: JoinKey, column: Any) -> Encoded:
    if (quick := _plain_integers(key, column)) is not None:
        return quick, None, None
    values, missing = _cells(key, column)
    plain = (
        values if missing is None else [value for value, gone in zip(values, missing.tolist(), strict=True) if not gone]
    )
    distinct, inverse = _distinct(plain)
    own = spread(np.array(distinct, np.int64).view(np.uint64))
    return Keys(_decimal(distinct), own, own), _spread_over(inverse, len(distinct), missing), missing


def _plain_integers(key: JoinKey, column: Any) -> Keys | None:
    """Distinct plain ints within bounds, the usual case, with a third of the calls; else None."""
    if type(column) is not list or not column or key.dtype.name not in {"int32", "int64"}:
        return None
    if countOf(map(type, column), int) < len(column):
        return None
    try:
        numbers = struct.pack(f"{len(column)}q", *column)
    except struct.error:
        return None
    values = np.frombuffer(numbers, np.int64)  # with `pack` two thirds of what numpy takes for a list
    if key.dtype.name == "int32" and not (-_BOUND["int32"] <= values.min() and values.max() < _BOUND["int32"]):
        return None
    if len(set(column)) < len(column):
        return None
    own = spread(values.view(np.uint64))
    return Keys(to_json(column)[1:-1].split(b","), own, own)  # a fifth of what `repr` takes


def _of_texts(join_keys: Sequence[JoinKey], columns: Sequence[Any]) -> Encoded:
    """A key of text, or of several parts: known by its id."""
    parts, missing = [], None
    for key, column in zip(join_keys, columns, strict=True):
        part, gone = _part(key, column)
        parts.append(part)
        missing = gone if missing is None else missing if gone is None else missing | gone
    ids = parts[0] if len(parts) == 1 else list(map(b"|".join, zip(*parts, strict=True)))
    if missing is not None:
        ids = [known for known, gone in zip(ids, missing.tolist(), strict=True) if not gone]
    if ids and max(map(len, ids)) > MOST_ID_BYTES:
        _refuse_long(join_keys, ids, missing)
    distinct, inverse = _distinct(ids)
    return Keys(distinct, hash_ids(distinct)), _spread_over(inverse, len(distinct), missing), missing


def _composite(join_keys: Sequence[JoinKey], columns: Sequence[Any]) -> Encoded:
    for key, column in zip(join_keys, columns, strict=True):
        if len(column) != len(columns[0]):
            raise RequestError(f"key {key.column!r} wants {len(columns[0])} values, got {len(column)}")
    return _of_texts(join_keys, columns)


def _part(key: JoinKey, column: Any) -> tuple[list[bytes], NDArray[np.bool_] | None]:
    """One join key's values as they stand in an id."""
    if key.dtype.name in _TEXTUAL:
        given, mask = unwrapped(column, place=f"key {key.column!r}")
        try:
            return texts(key.dtype.name, given, mask)
        except Bad as bad:
            raise _named(key, bad) from None
    values, missing = _cells(key, column)
    return _decimal(values), missing


def _cells(key: JoinKey, column: Any) -> tuple[list[int], NDArray[np.bool_] | None]:
    given, mask = unwrapped(column, place=f"key {key.column!r}")
    try:
        return integers(key.dtype.name, _BOUND[key.dtype.name], given, mask)
    except Bad as bad:
        raise _named(key, bad) from None


def _named(key: JoinKey, bad: Bad) -> RequestError:
    return RequestError(f"key {key.column!r} row {bad.row} wants {bad.wanted}, got {bad.got}")


def _decimal(values: list[int]) -> list[bytes]:
    """Integers in decimal; one formatting of all costs a third less than one each."""
    return (NEWLINE.join([b"%d"] * len(values)) % tuple(values)).split()


def _distinct(values: list[Any]) -> tuple[list[Any], NDArray[np.intp] | None]:
    """Distinct values in order of first appearance, and where each value went; None if nothing repeats."""
    seen = dict.fromkeys(values)
    if len(seen) == len(values):
        return values, None
    place = {value: at for at, value in enumerate(seen)}
    return list(seen), np.fromiter(map(place.__getitem__, values), np.intp, len(values))


def _spread_over(
    inverse: NDArray[np.intp] | None, count: int, missing: NDArray[np.bool_] | None
) -> NDArray[np.intp] | None:
    """The positions of known rows, spread over all rows; those with a null key get `count`."""
    if missing is None:
        return inverse
    places = np.full(len(missing), count, np.intp)
    places[~missing] = np.arange(count) if inverse is None else inverse
    return places


def _refuse_long(join_keys: Sequence[JoinKey], ids: list[bytes], missing: NDArray[np.bool_] | None) -> None:
    at = next(at for at, known in enumerate(ids) if len(known) > MOST_ID_BYTES)
    row = at if missing is None else int(np.flatnonzero(~missing)[at])
    names = ", ".join(repr(key.column) for key in join_keys)
    raise RequestError(f"key {names} row {row} wants at most {MOST_ID_BYTES} bytes encoded, got {len(ids[at])}")
