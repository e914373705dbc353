"""Vectors, lists and texts a caller gave as the cells of one dtype."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.cells import Misfit, listed, scalars
from featurechaos.codec.inputs import Mask, is_null, shown, unwrapped
from featurechaos.codec.layout import null_of
from featurechaos.errors import RequestError
from featurechaos.model import DType


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
    given = listed(values)
    missing = np.fromiter((value is None or is_null(value) for value in given), np.bool_, len(given))
    missing = missing if mask is None else missing | mask
    if missing.any():
        empty: Any = [] if dtype.is_list else "" if dtype.base == "string" else b""
        given = [empty if gone else value for value, gone in zip(given, missing.tolist(), strict=True)]
    cells = _lists(dtype, given) if dtype.is_list else _texts(dtype.base, given)
    return cells, missing if missing.any() else None


def _stacked(given: list[Any], missing: NDArray[np.bool_], dtype: DType) -> NDArray[Any] | list[Any]:
    """Cells of a vector one under another; a missing one is zeros."""
    dim = dtype.dim or 1
    parts: list[Any] = []
    # Of the others' dtype, so that arrays with a hole among them stay arrays.
    kinds = (value.dtype for value in given if isinstance(value, np.ndarray) and value.dtype.kind in "biuf")
    nothing = np.zeros(dim, next(kinds, dtype.numpy))
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
            part.tolist() if isinstance(part, np.ndarray) and part.dtype.kind != "M" else part for part in parts
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
    spans = list(pairwise([0, *stops.tolist()]))

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
