"""A feature's default, checked against its dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from featurechaos.config.mistakes import plain
from featurechaos.model import DType


def default_of(dtype: DType, written: Any) -> Any:
    """A default as it is kept: a Python scalar, a `datetime64[us]`, or a tuple for vectors and lists.

    One number for a vector fills all of it. ValueError says what was wanted and what came.
    """
    if dtype.dim is None and not dtype.is_list:
        return _scalar(dtype.base, written)
    if dtype.dim is not None and not isinstance(written, list):
        return (_scalar(dtype.base, written),) * dtype.dim
    if not isinstance(written, list):
        raise _wrong("a list", written)
    if dtype.dim is not None and len(written) != dtype.dim:
        msg = f"wanted {dtype.dim} values for {dtype}, got {len(written)}"
        raise ValueError(msg)
    return tuple(_scalar(dtype.base, each) for each in written)


def _scalar(base: str, written: Any) -> Any:
    return _CHECKS[base](base, written)


def _bool(_: str, written: Any) -> bool:
    if not isinstance(written, bool):
        raise _wrong("true or false", written)
    return written


def _integer(base: str, written: Any) -> int:
    is_number = isinstance(written, (int, float)) and not isinstance(written, bool)
    if not is_number or (isinstance(written, float) and not written.is_integer()):
        raise _wrong("a whole number", written)
    limits = np.iinfo(base)
    if not limits.min <= written <= limits.max:
        raise _wrong(f"a whole number that fits {base}", written)
    return int(written)


def _float(base: str, written: Any) -> float:
    if not isinstance(written, (int, float)) or isinstance(written, bool):
        raise _wrong("a number", written)
    if isinstance(written, float) and not math.isfinite(written):
        raise _wrong("a finite number (leave the default out for null)", written)
    if abs(written) > float(np.finfo(base).max):
        raise _wrong(f"a number that fits {base}", written)
    return float(written)


def _timestamp(_: str, written: Any) -> np.datetime64:
    """A point in time; one without a zone is UTC."""
    moment = written
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise _wrong("a date and time such as 2024-01-31T12:00:00Z", written) from None
    if isinstance(moment, datetime):
        naive = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
        return np.datetime64(naive, "us")
    if isinstance(moment, date):
        return np.datetime64(moment, "us")
    raise _wrong("a date and time such as 2024-01-31T12:00:00Z", written)


def _bytes(base: str, written: Any) -> bytes:
    return written if isinstance(written, bytes) else _text(base, written).encode()


def _text(_: str, written: Any) -> str:
    if not isinstance(written, str):
        raise _wrong("text (quote it)", written)
    return written


def _wrong(wanted: str, written: Any) -> ValueError:
    return ValueError(f"wanted {wanted}, got {plain(written)}")


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "bool": _bool,
    "int32": _integer,
    "int64": _integer,
    "float32": _float,
    "float64": _float,
    "string": _text,
    "bytes": _bytes,
    "timestamp": _timestamp,
}
