"""Whatever a caller holds a column in, as a numpy array or a list, and a mask of what is missing.

pandas and pyarrow are known by what they can do, so that neither is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import RequestError

Mask = NDArray[np.bool_] | None
Column = tuple[NDArray[Any] | list[Any], Mask]

_ARROW_NUMBERS: Final = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float", "double"}
)
_NOTHING_BY_NAME: Final = frozenset({"NAType", "NaTType", "MaskedConstant"})
_MAY_BE_NAN: Final = (float, np.floating, np.datetime64, Decimal)


def plain(values: Any, *, n: int, place: str) -> Column:
    """A column as a numpy array or a list of n, and bool (n,) or None for what its holder says is missing.

    Raises:
        RequestError: when it is no column, or not of n values.
    """
    column, mask = unwrapped(values, place=place)
    if len(column) != n:
        raise RequestError(f"{place} wants {n} values, got {len(column)}")
    return column, mask


def unwrapped(values: Any, *, place: str) -> Column:
    """The same for a column of any length."""
    if type(values) is np.ndarray:  # First: the first mention of `np.ma` is 10 ms of imports.
        return _shaped(values, None, place)
    if isinstance(values, (list, tuple)):
        return list(values) if isinstance(values, tuple) else values, None
    if isinstance(values, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(values)
        return _shaped(
            np.asarray(values.data), np.asarray(mask.any(axis=tuple(range(1, values.ndim))), np.bool_), place
        )
    if isinstance(values, np.ndarray):
        return _shaped(values, None, place)
    if hasattr(values, "to_pylist") and hasattr(values, "null_count"):
        return _from_arrow(values)
    if hasattr(values, "to_numpy") and hasattr(values, "isna"):
        return _from_pandas(values)
    if hasattr(values, "to_numpy"):
        return _shaped(np.asarray(values.to_numpy()), None, place)
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes, bytearray, memoryview)):
        return list(values), None
    raise RequestError(f"{place} wants a list or an array of values, got {shown(values)}")


def is_null(value: Any) -> bool:
    """Whether one Python value stands for nothing: None, NaN, NaT, pandas.NA or a masked cell."""
    if value is None:
        return True
    if isinstance(value, _MAY_BE_NAN) and value != value:  # noqa: PLR0124 -- what NaN and NaT have in common
        return True
    return type(value).__name__ in _NOTHING_BY_NAME


def shown(value: Any) -> str:
    """A value as it may stand in a message: its repr, cut short, and its type unless that is plain."""
    said = repr(value.item() if isinstance(value, (np.number, np.bool_)) else value)
    said = said if len(said) <= 60 else said[:57] + "..."
    return said if isinstance(value, (str, bytes, int, float)) else f"{said} ({type(value).__name__})"


def _shaped(array: NDArray[Any], mask: Mask, place: str) -> Column:
    if array.ndim == 0:
        raise RequestError(f"{place} wants a list or an array of values, got {shown(array[()])}")
    return array, mask


def _from_arrow(values: Any) -> Column:
    """An Array or ChunkedArray; filled first, since pyarrow makes floats of ints with nulls."""
    kind = str(values.type)
    if kind in _ARROW_NUMBERS:
        if not values.null_count:
            return np.asarray(values.to_numpy(zero_copy_only=False)), None
        filled = values.fill_null(False if kind == "bool" else 0)
        return np.asarray(filled.to_numpy(zero_copy_only=False)), np.asarray(values.is_null())
    if kind.startswith("timestamp"):
        return np.asarray(values.to_numpy(zero_copy_only=False)), None
    if kind.startswith("fixed_size_list") and not values.null_count and str(values.type.value_type) in _ARROW_NUMBERS:
        whole = values.combine_chunks() if hasattr(values, "combine_chunks") else values
        flat = np.asarray(whole.flatten().to_numpy(zero_copy_only=False))
        return flat.reshape(len(values), values.type.list_size), None
    return list(values.to_pylist()), None


def _from_pandas(values: Any) -> Column:
    """A Series, Index or extension array; nullable numbers keep their type, dates with a zone become UTC."""
    mask = np.asarray(values.isna(), np.bool_)
    kind = getattr(values.dtype, "numpy_dtype", None)
    if isinstance(kind, np.dtype) and kind.kind in "biuf":
        filler = False if kind.kind == "b" else 0
        return np.asarray(values.to_numpy(dtype=kind, na_value=filler)), mask if mask.any() else None
    if not isinstance(values.dtype, np.dtype) and str(values.dtype).startswith(("datetime64", "timestamp")):
        return np.asarray(values.to_numpy(dtype="datetime64[us]")), None
    return np.asarray(values.to_numpy()), mask if mask.any() else None
