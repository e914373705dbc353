"""The words everything else is said in: origins, statuses, causes, dtypes, views."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from featurechaos.errors import SpecError
from featurechaos.locks import cached_property

NO_TIME_US = np.iinfo(np.int64).min
"""The event time of a row that has none."""


class Origin(IntEnum):
    """Which kind of source a row came from. Fixed for ever."""

    NONE = 0
    PRIMARY = 1
    REPLICA = 2
    SNAPSHOT = 3
    LAST_KNOWN = 4
    DEFAULT = 5


class Status(IntEnum):
    """What was found for one row of one view. Feast's numbers; fixed for ever."""

    UNAVAILABLE = 0
    PRESENT = 1
    NOT_FOUND = 3
    EXPIRED = 4
    CORRUPT = 5


class Cause(IntEnum):
    """Why a row is not simply the primary's. Fixed for ever."""

    NONE = 0
    MISSING = 1
    EXPIRED = 2
    CORRUPT = 3
    TIMEOUT = 4
    REFUSED = 5
    BREAKER_OPEN = 6
    NO_TIME = 7
    EMPTY = 8
    KEY_NULL = 9


class Verdict(IntEnum):
    """What one source said of one row; finer than `Status`, and inside only."""

    UNANSWERED = 0
    FRESH = 1
    MISSING = 2
    BURIED = 3
    """A tombstone: deleted on purpose, which hides older copies."""
    EXPIRED = 4
    """Past its ttl, within the hard limit."""
    PAST = 5
    """Past the hard limit: never served."""
    CORRUPT = 6
    PARTIAL = 7
    """Half readable: good cells, bad cells null (layouts that store cell by cell)."""


STATUS_OF = np.array(
    [
        Status.UNAVAILABLE,
        Status.PRESENT,
        Status.NOT_FOUND,
        Status.NOT_FOUND,
        Status.EXPIRED,
        Status.EXPIRED,
        Status.CORRUPT,
        Status.CORRUPT,
    ],
    np.uint8,
)
"""Status of each Verdict, by its number."""

_FIXED = {
    "bool": np.dtype("?"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
    "timestamp": np.dtype("<M8[us]"),
}
_KEY_DTYPES = ("int32", "int64", "string", "bytes", "timestamp")
_MOST_DIM = 4096
_VECTOR = re.compile(r"(float32|float64|int32|int64)\[(\d+)\]")
_LIST = re.compile(r"list\[(\w+)\]")


@dataclass(frozen=True, slots=True)
class DType:
    """The type of one feature: a scalar, a fixed vector (`float32[64]`) or a list (`list[string]`).

    `base` is the scalar's name; `dim` the length of a fixed vector, else None.
    """

    name: str
    base: str
    dim: int | None = None
    is_list: bool = False

    @classmethod
    def parse(cls, name: str) -> DType:
        """Read a dtype as it is written in a config; SpecError says what is allowed."""
        if name in _FIXED or name in ("string", "bytes"):
            return cls(name, name)
        if (match := _VECTOR.fullmatch(name)) and 0 < int(match[2]) <= _MOST_DIM:
            return cls(name, match[1], dim=int(match[2]))
        if (match := _LIST.fullmatch(name)) and (match[1] in _FIXED or match[1] in ("string", "bytes")):
            return cls(name, match[1], is_list=True)
        wanted = (
            "bool, int32, int64, float32, float64, string, bytes, timestamp, "
            f"float32[DIM] with DIM up to {_MOST_DIM}, or list[...] of a scalar"
        )
        msg = f"dtype {name!r} is not one of {wanted}"
        raise SpecError(msg)

    @property
    def is_fixed(self) -> bool:
        """Whether every value takes the same number of bytes."""
        return not self.is_list and self.base in _FIXED

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of a column of it: of the elements for a vector, object where values vary in length."""
        return _FIXED[self.base] if self.is_fixed else np.dtype(object)

    @property
    def element(self) -> np.dtype[Any]:
        """The dtype of one element; object for string and bytes."""
        return _FIXED.get(self.base, np.dtype(object))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Feature:
    """One stored value of a view. `default` fills rows of origin DEFAULT; None means it has none."""

    name: str
    dtype: DType
    default: Any = None


@dataclass(frozen=True, slots=True)
class JoinKey:
    """One part of a view's key: `column` is its name in entity rows, `name` its name in the store."""

    name: str
    dtype: DType
    column: str

    def __post_init__(self) -> None:
        if self.dtype.name not in _KEY_DTYPES:
            msg = f"join key {self.name!r} wants one of {', '.join(_KEY_DTYPES)}, got {self.dtype}"
            raise SpecError(msg)


@dataclass(frozen=True)
class View:
    """Features stored together under join keys; Feast's feature view.

    `name` is what requests call it, `base` what it is stored as (they differ for an alias).
    `ttl_s` is soft (past it, look for a younger row), `max_age_s` hard (never serve past it).
    """

    project: str
    name: str
    base: str
    join_keys: tuple[JoinKey, ...]
    features: tuple[Feature, ...]
    ttl_s: float | None = None
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "join_keys", tuple(sorted(self.join_keys, key=lambda key: key.name)))

    @cached_property
    def feature(self) -> dict[str, Feature]:
        return {feature.name: feature for feature in self.features}

    @cached_property
    def head(self) -> bytes:
        """What every stored key of this view begins with; `}` ends it after the values."""
        return f"fc:{self.project}:{self.base}:{{".encode()
