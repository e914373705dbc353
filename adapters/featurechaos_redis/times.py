"""Points in time as other people write them: unix numbers of some unit, or ISO 8601."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["auto", "s", "ms", "us", "ns"]

_LEAST_US: Final = -62_135_596_800_000_000
_MOST_US: Final = 253_402_300_799_999_999
"""The years 1 to 9999. What is outside them is a number of another unit, or none."""
_SCALES: Final = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
"""Unit -> what its numbers are multiplied with, then divided by, to be microseconds."""
_DIGITS: Final = {"s": 10, "ms": 13, "us": 16, "ns": 19}
"""Of the years 2001 to 2286 each unit's numbers have a length of their own."""
_MOST_INT64: Final = (1 << 63) - 1
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)

Span = tuple[int, int, int, int]


def _span(unit: str) -> Span:
    """The least and the most whole number that is a time in a unit, and its scale."""
    times, over = _SCALES[unit]
    return -(-_LEAST_US * over // times), min(_MOST_US * over // times, _MOST_INT64), times, over


def _guessed(unit: str) -> Span:
    """The same for numbers that say their unit by their length."""
    times, over = _SCALES[unit]
    size = 10 ** (_DIGITS[unit] - 1)
    return size, min(10 * size - 1, _MOST_INT64), times, over


SPANS: Final[dict[str, tuple[Span, ...]]] = {
    "auto": tuple(map(_guessed, _SCALES)),
    **{unit: (_span(unit),) for unit in _SCALES},
}


def moments(numbers: NDArray[Any], unit: Unit) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Unix numbers, int64 or float64 (n,), as int64 us (n,), 0 where they are none; bool (n,), where that is."""
    found = np.zeros(len(numbers), np.int64)
    bad = np.ones(len(numbers), np.bool_)
    for least, most, times, over in SPANS[unit]:
        if numbers.dtype.kind == "i":
            here = (numbers >= least) & (numbers <= most)
            found[here] = numbers[here] * times // over
        else:
            here = (numbers >= least) & (numbers < most + 1)
            found[here] = np.rint(numbers[here] * times / over)
        bad &= ~here
    return found, bad


def moment(number: float, unit: Unit) -> int:
    """One unix number, with or without a fraction, as microseconds; ValueError if it is no time."""
    for least, most, times, over in SPANS[unit]:
        if least <= number < most + 1:
            return number * times // over if isinstance(number, int) else round(number * times / over)
    msg = "no time of this unit"
    raise ValueError(msg)


def written(text: str) -> int:
    """ISO 8601 as microseconds; without an offset it is UTC. ValueError if it is none."""
    read = dt.datetime.fromisoformat(text)
    return ((read if read.tzinfo else read.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND
