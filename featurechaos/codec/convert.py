"""Rows of an older or newer layout, read by feature name."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Final

import numpy as np

from featurechaos.codec.layout import OWN_AT, Layout
from featurechaos.codec.rows import Rows, column, nulls
from featurechaos.codec.write import pack
from featurechaos.model import DType

_WIDENS: Final = {("int32", "int64"), ("float32", "float64")}


@lru_cache(maxsize=256)
def conversion(theirs: Layout, ours: Layout) -> Callable[[Rows], Rows] | None:
    """What turns rows of one layout into rows of another, or None where that would guess.

    A feature they lack is null, one we lack is ignored; int32 becomes int64 and float32 float64, in scalars,
    vectors of one length and lists. Any other change of type wants a view of another name.
    """
    if theirs == ours:
        return lambda rows: rows
    if not _is_same_view(theirs, ours):
        return None
    shared = [feature.name for feature in ours.features if feature.name in theirs.spots]
    for name in shared:
        if not _widens(theirs.spots[name].feature.dtype, ours.spots[name].feature.dtype):
            return None
    return partial(_converted, layout=ours, shared=tuple(shared))


def _converted(rows: Rows, *, layout: Layout, shared: tuple[str, ...]) -> Rows:
    return pack(
        layout,
        {name: column(rows, name) for name in shared},
        {name: nulls(rows, name) for name in shared},
        rows.event_time.copy(),
        rows.words[:, OWN_AT].copy(),
        rows.verdicts.astype(np.uint8),
    )


def _is_same_view(theirs: Layout, ours: Layout) -> bool:
    if (theirs.project, theirs.base) != (ours.project, ours.base) or len(theirs.join_keys) != len(ours.join_keys):
        return False
    return all(
        there.name == here.name and (there.dtype == here.dtype or (there.dtype.base, here.dtype.base) in _WIDENS)
        for there, here in zip(theirs.join_keys, ours.join_keys, strict=True)
    )


def _widens(theirs: DType, ours: DType) -> bool:
    if (theirs.dim, theirs.is_list) != (ours.dim, ours.is_list):
        return False
    return theirs.base == ours.base or (theirs.base, ours.base) in _WIDENS
