"""Values a caller gave as the cells of one dtype, by column where they come as arrays, else one by one."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.inputs import Mask, is_null, shown
from featurechaos.codec.layout import null_of
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
_BOUNDS: Final = {np.dtype(kind): (int(np.iinfo(kind).min), int(np.iinfo(kind).max)) for kind in (np.int32, np.int64)}
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


def scalars(base: str, dtype: np.dtype[Any], values: NDArray[Any] | list[Any], mask: Mask) -> tuple[NDArray[Any], Mask]:
    """Values of a fixed-width scalar dtype.

    Returns:
        the values (n,), null ones as `null_of` says, and bool (n,) or None when nothing is null.

    Raises:
        Misfit: the first value that isn't one.
    """
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise Misfit(0, f"an array of shape {values.shape}")
    if isinstance(values, list) or values.dtype.kind not in "biufM":
        values, mask = _from_list(base, listed(values), mask)
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


def microseconds(value: Any) -> int:
    """One date as microseconds since the epoch, UTC; a naive datetime is UTC.

    TypeError if it isn't one, ValueError if it is out of range.
    """
    if hasattr(value, "to_datetime64"):
        value = value.to_datetime64()
    if isinstance(value, np.datetime64):
        try:
            cells, _ = _timestamps(np.array([value]))
        except Misfit as misfit:
            raise ValueError(misfit.got) from None
        return int(cells.view(np.int64)[0])
    if not isinstance(value, dt.datetime):
        raise TypeError
    return ((value if value.tzinfo else value.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND


def listed(values: NDArray[Any] | list[Any]) -> list[Any]:
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
