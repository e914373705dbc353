"""Cells that other people wrote, text or JSON values, a column at a time. Nothing here trusts a byte of them.

A column whose cells are all plain is read in a few calls; one with anything else in it cell by cell. A cell that is
no value of its dtype is `bad`, and nothing is ever raised.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec import MOST_ROW_BYTES
from featurechaos.model import DType
from featurechaos_redis.times import Unit, moment, moments, written

MOST_TEXT_BYTES: Final = 4 * MOST_ROW_BYTES
"""The longest text that is looked at: what a row of the greatest length takes as JSON."""
_MOST_NUMBER_BYTES: Final = 512
_MOST_EXACT: Final = 1 << 53
_INT32: Final = (-(1 << 31), (1 << 31) - 1)
_PLAIN_KINDS: Final[Mapping[str, frozenset[type]]] = {
    "bool": frozenset({bool, int}),
    "int32": frozenset({int}),
    "int64": frozenset({int}),
    "float32": frozenset({int, float}),
    "float64": frozenset({int, float}),
    "timestamp": frozenset({int, float}),
}
"""Of JSON values, those that need no second look."""
_TRUTHS: Final = {b"1": True, b"true": True, b"1.0": True, b"0": False, b"false": False, b"0.0": False}
_INFINITIES: Final = frozenset({b"inf", b"infinity"})
_NO_NUMBERS: Final = frozenset({b"nan", b"nat"})
_EXPECTED: Final = (ValueError, TypeError, OverflowError, LookupError)
"""What a value of the wrong kind raises; UnicodeError and binascii.Error are ValueErrors."""

Flags = NDArray[np.bool_]
One = Callable[[Any], Any]
"""One cell to its value, None for null; raises one of `_EXPECTED`."""


@dataclass(slots=True, eq=False)
class Column:
    """values: (n,) or (n, dim) as `Response.columns`; nulls, bad: bool (n,). A cell is null, bad or a value."""

    values: NDArray[Any]
    nulls: Flags
    bad: Flags


class Cells(Protocol):
    """A kind of cells, texts or JSON values."""

    def column(self, dtype: DType, cells: Sequence[Any], unit: Unit) -> Column:
        """A column of cells; None where there is none."""

    def at_once(self, dtype: DType, cells: Sequence[Any], unit: Unit) -> Column | None:
        """The same for a scalar of fixed width, in a few calls; None if not every cell is plain."""


class Text:
    """Cells that are texts. Empty is null, but for string and bytes."""

    def column(self, dtype: DType, cells: Sequence[bytes | None], unit: Unit) -> Column:
        if dtype.is_list or dtype.dim is not None:
            return _sequences(dtype, cells, lambda cell: _raw_or_json(dtype, cell) if cell else None, unit)
        if not dtype.is_fixed:
            return _objects(cells, _string_of_text if dtype.base == "string" else _plain_bytes)
        quick = self.at_once(dtype, cells, unit)
        return quick or _one_by_one(dtype, cells, lambda cell: _scalar_of_text(dtype.base, cell, unit))

    def at_once(self, dtype: DType, cells: Sequence[bytes | None], unit: Unit) -> Column | None:
        nulls = _missing(cells, None, b"")
        given: Any = cells if nulls is None else [cell or b"0" for cell in cells]
        if max(map(len, given), default=0) > _MOST_NUMBER_BYTES or b"_" in b"".join(given):
            return None  # Python allows underscores in numbers.
        return _at_once(dtype, given, nulls, _TRUTHS.__getitem__, unit)


class Json:
    """Cells that are JSON values. A text may stand for a number, read as `Text` reads it."""

    def column(self, dtype: DType, cells: Sequence[Any], unit: Unit) -> Column:
        if dtype.is_list or dtype.dim is not None:
            return _sequences(dtype, cells, lambda cell: cell, unit)
        if not dtype.is_fixed:
            return _objects(cells, _string if dtype.base == "string" else _base64)
        quick = self.at_once(dtype, cells, unit)
        return quick or _one_by_one(dtype, cells, lambda cell: _scalar(dtype.base, cell, unit))

    def at_once(self, dtype: DType, cells: Sequence[Any], unit: Unit) -> Column | None:
        nulls = _missing(cells, None)
        given = cells if nulls is None else [0 if cell is None else cell for cell in cells]
        if not _PLAIN_KINDS[dtype.base].issuperset(map(type, given)):
            return None
        return _at_once(dtype, given, nulls, _truth, unit)


TEXT: Final = Text()
JSON: Final = Json()


def loads(text: bytes) -> Any:
    """What a JSON text says; ValueError for all that is not JSON, names a thing twice, or is too long or deep."""
    if len(text) > MOST_TEXT_BYTES:
        msg = f"a text of {len(text)} bytes is longer than {MOST_TEXT_BYTES}"
        raise ValueError(msg)
    try:
        return _JSON.decode(text.decode())
    except RecursionError:
        msg = "a text is nested too deeply"
        raise ValueError(msg) from None


# Scalars.


def _missing(cells: Sequence[Any], *nothings: bytes | None) -> Flags | None:
    """bool (n,), where a cell is none; None where all are there."""
    if not any(nothing in cells for nothing in nothings):
        return None
    return np.fromiter((cell in nothings for cell in cells), np.bool_, len(cells))


def _at_once(dtype: DType, cells: Sequence[Any], nulls: Flags | None, truth: One, unit: Unit) -> Column | None:
    """A column of plain cells; None if one is not plain after all. What stands at `nulls` is a filler."""
    n, base = len(cells), dtype.base
    nulls = _none(n) if nulls is None else nulls
    try:
        if base.startswith("float"):
            return _floats(dtype, np.fromiter(map(float, cells), np.float64, n), nulls)
        if base == "bool":
            return Column(np.fromiter(map(truth, cells), np.bool_, n), nulls, _none(n))
        if base == "timestamp":
            return _times(_numbers(cells), nulls, unit)
        numbers = np.fromiter(map(int, cells), np.int64, n)
    except _EXPECTED:
        return None
    least, most = np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max
    return Column(numbers.astype(dtype.numpy), nulls, ((numbers < least) | (numbers > most)) & ~nulls)


def _floats(dtype: DType, numbers: NDArray[np.float64], nulls: Flags) -> Column | None:
    if np.isinf(numbers).any():
        return None  # Perhaps it says so, perhaps it is too large to be a number.
    with np.errstate(over="ignore", under="ignore"):
        values = numbers.astype(dtype.numpy)
    return Column(values, nulls | np.isnan(numbers), np.isinf(values))


def _times(numbers: NDArray[Any], nulls: Flags, unit: Unit) -> Column | None:
    found, bad = moments(numbers, unit)
    if (bad & ~nulls).any():
        return None  # What is no unix number may be a date written in digits.
    return Column(found.view("M8[us]"), nulls, _none(len(nulls)))


def _numbers(cells: Sequence[Any]) -> NDArray[Any]:
    """int64 (n,), or float64 where there are fractions."""
    is_fraction = float in set(map(type, cells)) or (type(cells[0]) is bytes and b"." in cells[0])
    return np.fromiter(map(float if is_fraction else int, cells), np.float64 if is_fraction else np.int64, len(cells))


def _one_by_one(dtype: DType, cells: Sequence[Any], one: One) -> Column:
    n = len(cells)
    values, nulls, bad = np.zeros(n, dtype.numpy), _none(n), _none(n)
    for at, cell in enumerate(cells):
        try:
            value = None if cell is None else one(cell)
            if value is None:
                nulls[at] = True
            else:
                values[at] = _fitting(dtype, value)
        except _EXPECTED:
            bad[at] = True
    return Column(values, nulls, bad)


def _fitting(dtype: DType, value: Any) -> Any:
    """A value that its dtype can hold; OverflowError if it can't."""
    if dtype.base == "timestamp":
        return np.datetime64(value, "us")
    if dtype.base == "int32" and not _INT32[0] <= value <= _INT32[1]:
        msg = f"{value} is no int32"
        raise OverflowError(msg)
    if dtype.base == "float32":
        with np.errstate(over="ignore", under="ignore"):
            rounded = np.float32(value)
        if np.isinf(rounded) and math.isfinite(value):
            msg = f"{value} is no float32"
            raise OverflowError(msg)
        return rounded
    return value


def _scalar_of_text(base: str, cell: bytes, unit: Unit) -> Any:
    if len(cell) > _MOST_NUMBER_BYTES or b"_" in cell:
        msg = "no number"
        raise ValueError(msg)
    text = cell.strip().lower()
    if not text or text in _NO_NUMBERS:
        return None
    if base == "bool":
        return _TRUTHS[text]
    if base.startswith("float"):
        return _float_of_text(text)
    if base != "timestamp":
        return _whole_of_text(text)
    try:
        return moment(_number(text), unit)
    except ValueError:
        return written(cell.decode().strip())


def _float_of_text(text: bytes) -> float | None:
    number = float(text)
    if math.isinf(number) and text.lstrip(b"+-") not in _INFINITIES:
        msg = "too large to be a number"
        raise OverflowError(msg)
    return None if math.isnan(number) else number


def _whole_of_text(text: bytes) -> int | None:
    number = _number(text)
    return number if isinstance(number, int) else _whole(number)


def _number(text: bytes) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _scalar(base: str, value: Any, unit: Unit) -> Any:
    """One JSON value. True and false are 1 and 0 where a number is wanted, as for Python."""
    if isinstance(value, str):
        return _scalar_of_text(base, value.encode(), unit)
    if not isinstance(value, (int, float)):
        msg = "neither text nor number"
        raise TypeError(msg)
    if base == "bool":
        return _truth(value)
    if base.startswith("float"):
        number = float(value)
        if math.isinf(number):
            msg = "too large to be a number"
            raise OverflowError(msg)
        return number
    if base == "timestamp":
        return moment(value, unit)
    return int(value) if isinstance(value, int) else _whole(value)


def _truth(value: float) -> bool:
    if value not in {0, 1}:
        msg = "neither true nor false"
        raise ValueError(msg)
    return value == 1


def _whole(number: float) -> int | None:
    """An integer that somebody's floats have been through, as pandas does where a column has holes."""
    if math.isnan(number):
        return None
    if not number.is_integer() or abs(number) > _MOST_EXACT:
        msg = "no whole number, or one that a float can't tell from its neighbours"
        raise ValueError(msg)
    return int(number)


# Texts.


def _objects(cells: Sequence[Any], one: One) -> Column:
    n = len(cells)
    values: list[Any] = [None] * n
    nulls, bad = _none(n), _none(n)
    for at, cell in enumerate(cells):
        if cell is None:
            nulls[at] = True
            continue
        try:
            values[at] = one(cell)
        except _EXPECTED:
            nulls[at] = bad[at] = True
    return Column(np.fromiter(values, np.dtype(object), n), nulls & ~bad, bad)


def _plain_bytes(cell: bytes) -> bytes:
    if len(cell) > MOST_ROW_BYTES:
        msg = "longer than a row may be"
        raise ValueError(msg)
    return cell


def _string_of_text(cell: bytes) -> str:
    return _plain_bytes(cell).decode()


def _string(value: Any) -> str:
    if not isinstance(value, str):
        msg = "no text"
        raise TypeError(msg)
    value.encode()  # JSON can say half of a surrogate pair, UTF-8 can't.
    return value


def _base64(value: Any) -> bytes:
    return binascii.a2b_base64(_string(value), strict_mode=True)


# Vectors and lists.


def _sequences(dtype: DType, cells: Sequence[Any], one: One, unit: Unit) -> Column:
    """Cells that are arrays; `one` gives a cell's elements, as a list or as an array of their dtype."""
    n = len(cells)
    elements: list[Any] = [None] * n
    nulls, bad = _none(n), _none(n)
    for at, cell in enumerate(cells):
        try:
            elements[at] = None if cell is None else one(cell)
            nulls[at] = elements[at] is None
        except _EXPECTED:
            bad[at] = True
    return (_lists if dtype.is_list else _vectors)(dtype, elements, nulls, bad, unit)


def _raw_or_json(dtype: DType, cell: bytes) -> Any:
    """A cell's elements: an array in JSON, or of a vector the bytes of just as many elements, low byte first."""
    is_raw = dtype.dim is not None and len(cell) == dtype.dim * dtype.element.itemsize
    if not is_raw or (cell[:1] == b"[" and cell[-1:] == b"]"):
        try:
            return loads(cell)
        except ValueError:
            if not is_raw:
                raise
    return np.frombuffer(cell, dtype.element)


def _vectors(dtype: DType, elements: list[Any], nulls: Flags, bad: Flags, unit: Unit) -> Column:
    n, dim = len(elements), dtype.dim or 1
    values = np.zeros((n, dim), dtype.numpy)
    listed = [at for at, each in enumerate(elements) if type(each) is list and len(each) == dim]
    raw = [at for at, each in enumerate(elements) if isinstance(each, np.ndarray)]
    wrong = np.fromiter((each is not None for each in elements), np.bool_, n)
    wrong[listed] = wrong[raw] = False
    bad |= wrong
    if raw:
        values[raw] = np.stack([elements[at] for at in raw])
    if listed:
        scalar = DType.parse(dtype.base)
        whole = _elements(scalar, list(chain.from_iterable(elements[at] for at in listed)), unit)
        if whole is not None:
            values[listed] = whole.reshape(len(listed), dim)
        else:
            for at in listed:
                one = _elements(scalar, elements[at], unit)
                bad[at] = one is None
                values[at] = 0 if one is None else one
    if dtype.element.kind == "f":
        bad |= ~np.isfinite(values).all(axis=1)
    return Column(values, nulls & ~bad, bad)


def _lists(dtype: DType, elements: list[Any], nulls: Flags, bad: Flags, unit: Unit) -> Column:
    n, scalar = len(elements), DType.parse(dtype.base)
    values: list[Any] = [None] * n
    for at, each in enumerate(elements):
        if each is None:
            continue
        found = _elements(scalar, each, unit) if type(each) is list else None
        if found is None or (found.dtype.kind == "f" and not np.isfinite(found).all()):
            bad[at] = True
        else:
            values[at] = list(found) if found.dtype.kind == "M" else found.tolist()
    return Column(np.fromiter(values, np.dtype(object), n), nulls & ~bad, bad)


def _elements(scalar: DType, elements: list[Any], unit: Unit) -> NDArray[Any] | None:
    """Elements of an array, (n,); None if one is null or no value."""
    found = JSON.column(scalar, elements, unit)
    return None if found.nulls.any() or found.bad.any() else found.values


def _none(n: int) -> Flags:
    return np.zeros(n, np.bool_)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: which of two was meant, nobody can say."""
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "a name stands twice"
        raise ValueError(msg)
    return found


def _no_json(constant: str) -> Any:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def _bounded(digits: str) -> int:
    if len(digits) > _MOST_NUMBER_BYTES:
        msg = "too long for a number"
        raise ValueError(msg)
    return int(digits)


_JSON: Final = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_json, parse_int=_bounded)
