"""One join key's values as integers or as percent-encoded text."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.cells import DURATIONS, Misfit, microseconds, scalars
from featurechaos.codec.inputs import Mask, is_null, shown

NEWLINE: Final = b"\n"
_SPECIAL: Final = b"%{}|:"
_SAFE: Final = bytes(byte for byte in range(0x21, 0x7F) if byte not in _SPECIAL)
_UNSAFE: Final = re.compile(rb"[^" + re.escape(_SAFE) + rb"]")
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,20}")
_NUMPY_INTEGERS: Final = frozenset({np.int64, np.int32})
_MOST_VALUE_BYTES: Final = 1024


class Bad(Exception):
    """One key value is of no use: its row, what was wanted and what came."""

    def __init__(self, row: int, wanted: str, got: str) -> None:
        super().__init__(got)
        self.row, self.wanted, self.got = row, wanted, got


def integers(dtype: str, bound: int, values: NDArray[Any] | list[Any], mask: Mask) -> tuple[list[int], Mask]:
    """Values of an int or timestamp key as plain ints (microseconds for a timestamp); 0 where null.

    Args:
        bound: values are within -bound..bound-1.
    """
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu" and dtype != "timestamp":
        return _from_integers(dtype, bound, values, mask)
    if isinstance(values, np.ndarray) and values.dtype.kind == "M" and dtype == "timestamp":
        return _from_dates(values, mask)
    plain = list(values)
    kinds = set(map(type, plain))
    if mask is None and dtype != "timestamp" and kinds == {int}:
        if plain and (min(plain) < -bound or max(plain) >= bound):
            row = next(row for row, value in enumerate(plain) if not -bound <= value < bound)
            raise Bad(row, dtype, shown(plain[row]))
        return plain, None
    if mask is None and dtype != "timestamp" and plain and kinds <= _NUMPY_INTEGERS:
        return _from_integers(dtype, bound, np.array(plain), None)
    return _one_by_one(dtype, bound, plain, mask)


def texts(dtype: str, values: NDArray[Any] | list[Any], mask: Mask) -> tuple[list[bytes], Mask]:
    """Values of a string or bytes key, percent-encoded; empty where null."""
    plain = values if isinstance(values, list) else values.tolist()
    if mask is None and dtype == "string":
        quick = plain_text(plain)
        if quick is not None:
            return quick, None
    kind = str if dtype == "string" else bytes
    missing = np.fromiter(map(is_null, plain), np.bool_, len(plain))
    missing = missing if mask is None else missing | mask
    encoded = []
    for row, (value, gone) in enumerate(zip(plain, missing.tolist(), strict=True)):
        if gone:
            encoded.append(b"")
        elif isinstance(value, kind):
            encoded.append(_escaped(row, dtype, value))
        else:
            raise Bad(row, "a str" if dtype == "string" else "bytes", shown(value))
    return encoded, missing if missing.any() else None


def plain_text(values: list[Any]) -> list[bytes] | None:
    """Strings of safe characters only, the usual case, in a handful of calls; None if any is not."""
    try:
        joined = "\n".join(values)
    except TypeError:
        return None
    if not values or not joined.isascii():
        return None
    raw = joined.encode()
    # With the safe bytes gone, just the newlines between values may be left.
    return raw.split(NEWLINE) if len(raw.translate(None, _SAFE)) == len(values) - 1 else None


def _escaped(row: int, dtype: str, value: Any) -> bytes:
    if len(value) > _MOST_VALUE_BYTES:
        raise Bad(row, f"at most {_MOST_VALUE_BYTES} bytes", f"{len(value)}")
    try:
        raw = value.encode() if dtype == "string" else bytes(value)
    except UnicodeEncodeError:
        raise Bad(row, "a str that UTF-8 can say", shown(value)) from None
    return _UNSAFE.sub(lambda found: b"%%%02X" % ord(found[0]), raw)


def _from_integers(dtype: str, bound: int, values: NDArray[Any], mask: Mask) -> tuple[list[int], Mask]:
    missing = mask if mask is not None and mask.any() else None
    known = values if missing is None else np.where(missing, values.dtype.type(0), values)
    plain: list[int] = known.tolist()
    if len(known) and (int(known.min()) < -bound or int(known.max()) >= bound):
        row = next(row for row, value in enumerate(plain) if not -bound <= value < bound)
        raise Bad(row, dtype, shown(plain[row]))
    return plain, missing


def _from_dates(values: NDArray[Any], mask: Mask) -> tuple[list[int], Mask]:
    try:
        cells, missing = scalars("timestamp", np.dtype("M8[us]"), values, mask)
    except Misfit as misfit:
        raise Bad(misfit.at, "a date within microseconds' range", misfit.got) from None
    if missing is not None:
        cells[missing] = 0
    return cells.view(np.int64).tolist(), missing


def _one_by_one(dtype: str, bound: int, values: list[Any], mask: Mask) -> tuple[list[int], Mask]:
    missing = np.fromiter(map(is_null, values), np.bool_, len(values))
    missing = missing if mask is None else missing | mask
    one = microseconds if dtype == "timestamp" else _integer
    wanted = "a datetime, numpy.datetime64 or pandas.Timestamp" if dtype == "timestamp" else dtype
    made = []
    for row, (value, gone) in enumerate(zip(values, missing.tolist(), strict=True)):
        try:
            number = 0 if gone else one(value)
        except (TypeError, ValueError, OverflowError):
            raise Bad(row, wanted, shown(value)) from None
        if not -bound <= number < bound:
            raise Bad(row, wanted, shown(value))
        made.append(number)
    return made, missing if missing.any() else None


def _integer(value: Any) -> int:
    """An int, an integral float or a decimal string as an int; a bool is none of these."""
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            raise ValueError
        return int(value)
    is_number = isinstance(value, (int, float, np.integer, np.floating, Decimal))
    if not is_number or isinstance(value, (bool, *DURATIONS)):
        raise TypeError
    if int(value) != value:
        raise ValueError
    return int(value)
