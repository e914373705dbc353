"""Values a caller gave as the cells of one dtype, by column where they come as arrays, else one by one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.inputs import Mask, is_null, shown, unwrapped
from featurechaos.codec.layout import null_of
from featurechaos.errors import RequestError
from featurechaos.model import DType

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_INTEGERS: Final = frozenset({int, bool, np.int32, np.int64, np.bool_})
_FLOATS: Final = frozenset({float, np.float64, np.float32})
_PLAIN_FLOATS: Final = _FLOATS | _INTEGERS | {type(None)}
_NUMBERS: Final = (int, float, np.integer, np.floating, np.bool_, Decimal)
_FINER: Final = frozenset({"us", "ns", "ps", "fs", "as", "generic"})
DURATIONS: Final[tuple[type, ...]] = (np.timedelta64,)
"""numpy counts these among its integers; we don't."""
_BOUNDS: Final = {
    np.dtype(kind): (int(np.iinfo(kind).min), int(np.iinfo(kind).max)) for kind in (np.int32, np.int64)
}
_WANTED: Final = {
    "timestamp": "a datetime, numpy.datetime64 or pandas.Timestamp",
    "string": "a str",
    "bytes": "bytes",
}


class Misfit(Exception):
    """One value isn't of its dtype: where it stands in what was looked at, and what it is."""

    def __init__(self, at: int, got: str) -> None:
        super().__init__(got)
        self.at, self.got = int(at), got


def wanted(dtype: DType) -> str:
    """What a cell of a dtype is made from, for a message."""
    return _WANTED.get(dtype.name, dtype.name)


def scalars(
    base: str, dtype: np.dtype[Any], values: NDArray[Any] | list[Any], mask: Mask
) -> tuple[NDArray[Any], Mask]:
    """Values of a fixed-width scalar dtype.

    Returns:
        the values (n,), null ones as `null_of` says, and bool (n,) or None when nothing is null.

    Raises:
        Misfit: the first value that isn't one.
    """
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise Misfit(0, f"an array of shape {values.shape}")
    if isinstance(values, list) or values.dtype.kind not in "biufM":
        values, mask = _from_list(base, _listed(values), mask)
    elif mask is not None and mask.any():
        values = values.copy()
        values[mask] = null_of(values.dtype) if values.dtype.kind != "M" else np.datetime64("NaT")
    else:
        mask = None
    if base == "timestamp":
        cells, missing = _timestamps(values)
    elif base == "bool":
        cells, missing = _bools(values)
    elif dtype.kind == "i":
        cells, missing = _integers(dtype, values)
    else:
        cells, missing = _floats(dtype, values)
    missing = mask if missing is None else missing if mask is None else missing | mask
    if missing is None or not missing.any():
        return cells, None
    cells[missing] = null_of(dtype)
    return cells, missing


def vectors(dtype: DType, values: NDArray[Any] | list[Any], mask: Mask) -> tuple[NDArray[Any], Mask]:
    """Values of a vector dtype as (n, dim); a cell missing as a whole is null, NaN inside one stays."""
    n, dim = len(values), dtype.dim or 1
    if isinstance(values, np.ndarray) and values.ndim == 2:
        if values.shape[1] != dim:
            raise Misfit(0, f"{values.shape[1]} values")
        missing = mask
    else:
        given = list(values)
        missing = np.fromiter(map(is_null, given), np.bool_, n)
        missing = missing if mask is None else missing | mask
        values = _stacked(given, missing, dtype)
    flat = np.ascontiguousarray(values).reshape(-1) if isinstance(values, np.ndarray) else values
    flat = flat.tolist() if isinstance(flat, np.ndarray) and flat.dtype.kind == "O" else flat
    cells = _elements(dtype, flat, lambda at: at // dim).reshape(n, dim)
    if missing is None or not missing.any():
        return cells, None
    cells[missing] = null_of(dtype.numpy)
    return cells, missing


def variable(dtype: DType, values: NDArray[Any] | list[Any], mask: Mask) -> tuple[list[bytes], Mask]:
    """Values of string, bytes or a list as the bytes of the tail; null ones are empty."""
    given = _listed(values)
    missing = np.fromiter((value is None or is_null(value) for value in given), np.bool_, len(given))
    missing = missing if mask is None else missing | mask
    if missing.any():
        empty: Any = [] if dtype.is_list else "" if dtype.base == "string" else b""
        given = [empty if gone else value for value, gone in zip(given, missing.tolist(), strict=True)]
    cells = _lists(dtype, given) if dtype.is_list else _texts(dtype.base, given)
    return cells, missing if missing.any() else None


def microseconds(value: Any) -> int:
    """One date as microseconds since the epoch, UTC; a naive datetime is UTC. TypeError if it isn't one."""
    if hasattr(value, "to_datetime64"):
        value = value.to_datetime64()
    if isinstance(value, np.datetime64):
        cells, missing = _timestamps(np.array([value]))
        if missing is not None:
            raise TypeError
        return int(cells.view(np.int64)[0])
    if not isinstance(value, dt.datetime):
        raise TypeError
    return ((value if value.tzinfo else value.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND


def _listed(values: NDArray[Any] | list[Any]) -> list[Any]:
    """The values as Python has them; durations stay what they are, since `tolist` makes numbers of them."""
    if isinstance(values, list):
        return values
    return list(values) if values.ndim > 1 or values.dtype.kind == "m" else list(values.tolist())


def _from_list(base: str, values: list[Any], mask: Mask) -> tuple[NDArray[Any], Mask]:
    """An array of numbers or dates, and which were missing (zero there)."""
    kinds = set(map(type, values))
    is_float = base.startswith("float")
    if mask is None and is_float and kinds <= _PLAIN_FLOATS:
        with suppress(OverflowError):
            return np.array(values, np.float64), None
    if mask is not None or not kinds <= _INTEGERS:
        missing = np.fromiter(map(is_null, values), np.bool_, len(values))
        mask = missing if mask is None else missing | mask
    if mask is not None and mask.any():
        zero: Any = np.datetime64("NaT", "us") if base == "timestamp" else 0
        values = [zero if gone else value for value, gone in zip(values, mask.tolist(), strict=True)]
    else:
        mask = None
    if base == "timestamp":
        return _each(values, _date, np.int64).view("M8[us]"), mask
    if not is_float and set(map(type, values)) <= _INTEGERS:
        with suppress(OverflowError):
            return np.array(values, np.int64), mask
    one = _whole if base.startswith("int") else float if is_float else _truth
    return _each(values, _number(one), np.int64 if base.startswith("int") else np.float64), mask


def _each(values: list[Any], one: Callable[[Any], Any], dtype: type[Any]) -> NDArray[Any]:
    """An array of what `one` makes of each value; what it can't make is a Misfit."""
    made = np.empty(len(values), dtype)
    for at, value in enumerate(values):
        try:
            made[at] = one(value)
        except (TypeError, ValueError, OverflowError):
            raise Misfit(at, shown(value)) from None
    return made


def _date(value: Any) -> int:
    return int(np.iinfo(np.int64).min) if is_null(value) else microseconds(value)


def _number(one: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def made(value: Any) -> Any:
        if not isinstance(value, _NUMBERS) or isinstance(value, DURATIONS):
            raise TypeError
        return one(value)

    return made


def _whole(value: Any) -> int:
    whole = int(value)
    if whole != value:
        raise ValueError
    return whole


def _truth(value: Any) -> float:
    if value not in {0, 1}:
        raise ValueError
    return float(value)


def _timestamps(values: NDArray[Any]) -> tuple[NDArray[Any], Mask]:
    if values.dtype.kind != "M":
        if len(values):
            raise Misfit(0, shown(values[0].item()))
        return np.empty(0, "M8[us]"), None
    cells = values.astype("M8[us]")
    missing = np.isnat(values)
    if np.datetime_data(values.dtype)[0] not in _FINER:
        # numpy wraps round silently past the years that microseconds reach.
        _refuse((cells.astype(values.dtype) != values) & ~missing, values)
    return cells, missing if missing.any() else None


def _bools(values: NDArray[Any]) -> tuple[NDArray[Any], Mask]:
    if values.dtype.kind == "b":
        return values.copy(), None
    if values.dtype.kind == "M":
        raise Misfit(0, "dates")
    missing = np.isnan(values) if values.dtype.kind == "f" else None
    bad = (values != 0) & (values != 1)
    _refuse(bad if missing is None else bad & ~missing, values)
    return values == 1, missing


def _integers(dtype: np.dtype[Any], values: NDArray[Any]) -> tuple[NDArray[Any], Mask]:
    least, most = _BOUNDS[dtype]
    kind = values.dtype.kind
    if kind == "M":
        raise Misfit(0, "dates")
    if kind == "b":
        return values.astype(dtype), None
    if kind == "f":
        missing = np.isnan(values)
        known = np.where(missing, 0, values).astype(np.float64)
        # The largest int64 isn't a float64; one more is.
        _refuse((known != np.trunc(known)) | (known < float(least)) | (known >= float(most + 1)), values)
        return known.astype(dtype), missing if missing.any() else None
    if kind == "u":
        _refuse(values > np.uint64(most), values)
    elif values.dtype.itemsize > dtype.itemsize:
        _refuse((values < least) | (values > most), values)
    return values.astype(dtype), None


def _floats(dtype: np.dtype[Any], values: NDArray[Any]) -> tuple[NDArray[Any], Mask]:
    if values.dtype.kind == "M":
        raise Misfit(0, "dates")
    with np.errstate(over="ignore"):
        cells = values.astype(dtype)
    if values.dtype.kind == "f" and values.dtype.itemsize > dtype.itemsize:
        _refuse(np.isinf(cells) & np.isfinite(values), values)
    missing = np.isnan(cells)
    return cells, missing if missing.any() else None


def _refuse(bad: NDArray[np.bool_], values: NDArray[Any]) -> None:
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        raise Misfit(at, shown(values[at].item() if values.dtype.kind != "M" else values[at]))


def _stacked(given: list[Any], missing: NDArray[np.bool_], dtype: DType) -> NDArray[Any] | list[Any]:
    """Cells of a vector one under another; a missing one is zeros."""
    dim = dtype.dim or 1
    parts: list[Any] = []
    nothing = np.zeros(dim, dtype.numpy)
    for at, (value, gone) in enumerate(zip(given, missing.tolist(), strict=True)):
        part = nothing if gone else _sequence(at, value)
        if len(part) != dim:
            raise Misfit(at, f"{len(part)} values")
        parts.append(part)
    return _joined(parts)


def _sequence(at: int, value: Any) -> NDArray[Any] | list[Any]:
    """The elements of one list or vector; a Misfit when it is none."""
    try:
        elements, mask = unwrapped(value, place="")
    except RequestError:
        raise Misfit(at, shown(value)) from None
    if mask is not None and mask.any():
        raise Misfit(at, "a null among its elements")
    if isinstance(elements, np.ndarray) and (elements.ndim != 1 or elements.dtype.kind not in "biufM"):
        if elements.ndim != 1:
            raise Misfit(at, f"an array of shape {elements.shape}")
        return list(elements.tolist())
    return elements


def _joined(parts: list[Any]) -> NDArray[Any] | list[Any]:
    """Cells' elements end to end: one array if they all are arrays of one dtype, else a list."""
    kinds = {part.dtype if isinstance(part, np.ndarray) else None for part in parts}
    if len(kinds) == 1 and None not in kinds:
        return np.concatenate(parts)
    return list(
        chain.from_iterable(
            part.tolist() if isinstance(part, np.ndarray) and part.dtype.kind != "M" else part
            for part in parts
        )
    )


def _elements(dtype: DType, flat: NDArray[Any] | list[Any], row_of: Callable[[int], int]) -> NDArray[Any]:
    """Elements of vectors and lists: as scalars, but none may be missing; NaN is a float like any other."""
    try:
        cells, missing = scalars(dtype.base, dtype.element, flat, None)
    except Misfit as misfit:
        raise Misfit(row_of(misfit.at), f"an element {misfit.got}") from None
    if missing is not None:
        is_float = dtype.element.kind == "f"
        for at in np.flatnonzero(missing).tolist():
            if not (is_float and isinstance(flat[at], (float, np.floating))):
                raise Misfit(row_of(at), f"an element {shown(flat[at])}")
    return cells


def _texts(base: str, values: list[Any]) -> list[bytes]:
    """Strings as UTF-8, or bytes as they are."""
    kind = str if base == "string" else bytes
    for at, value in enumerate(values):
        if not isinstance(value, kind):
            raise Misfit(at, shown(value))
    if base == "bytes":
        return [bytes(value) for value in values]
    try:
        return [value.encode() for value in values]
    except UnicodeEncodeError as error:
        raise Misfit(
            next(at for at, value in enumerate(values) if value == error.object), shown(error.object)
        ) from None


def _lists(dtype: DType, values: list[Any]) -> list[bytes]:
    parts = [_sequence(at, value) for at, value in enumerate(values)]
    stops = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
    spans = list(zip([0, *stops.tolist()[:-1]], stops.tolist(), strict=True))

    def row_of(at: int) -> int:
        return int(np.searchsorted(stops, at, side="right"))

    if dtype.base in {"string", "bytes"}:
        try:
            texts = _texts(dtype.base, [element for part in parts for element in part])
        except Misfit as misfit:
            raise Misfit(row_of(misfit.at), f"an element {misfit.got}") from None
        return [_nested(texts[begin:end]) for begin, end in spans]
    size = dtype.element.itemsize
    raw = _elements(dtype, _joined(parts), row_of).tobytes()
    return [raw[begin * size : end * size] for begin, end in spans]


def _nested(texts: list[bytes]) -> bytes:
    """A list of texts: u32 count, a u32 end each, then their bytes."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.uint32)
    return len(texts).to_bytes(4, "little") + ends.tobytes() + b"".join(texts)
