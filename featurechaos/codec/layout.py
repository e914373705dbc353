"""Where each feature of a view sits in a row."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurechaos.codec.hashing import MASK, MOST_ROW_BYTES, ROW, constant
from featurechaos.errors import DecodeError, SpecError
from featurechaos.locks import cached_property
from featurechaos.model import NO_TIME_US, DType, Feature, JoinKey, View

MAGIC: Final = 0xFC01
VERSION: Final = 1
TAIL, TOMBSTONE = 1, 2
HEADER_BYTES: Final = 40
HEADER: Final = struct.Struct("<HBBIQ")
"""Magic, version, flags, length, schema hash."""
HEAD_AT, SCHEMA_AT, TIME_AT, OWN_AT, SUM_AT, BITMAP_AT = range(6)
"""Words of 8 bytes in a row."""

Words = NDArray[np.uint64]

_MOST_DESCRIPTION_BYTES: Final = 1 << 20
_SHORT: Final = 48
"""32-bit words of a row that plain ints add up sooner than numpy, which comes to it cold after a round trip."""
_SCALAR_RUNS: Final = (("int64", "float64", "timestamp"), ("int32", "float32"), ("bool",))
_DESCRIPTION: Final = {"project", "base", "keys", "features"}


def head(flags: int, length: int) -> int:
    """The first word of a row."""
    return MAGIC | VERSION << 16 | flags << 24 | length << 32


@dataclass(frozen=True, eq=False)
class Run:
    """Neighbours in a row that are read together.

    `at` is in elements of `dtype`. A run of scalars has a feature each; a vector (`dim`) stands alone, and
    so does a feature of the tail, whose `at` is its place among the ends and whose `dtype` is object.
    """

    dtype: np.dtype[Any]
    at: int
    count: int = 1
    dim: int | None = None

    @property
    def stop(self) -> int:
        return self.at + self.count * (self.dim or 1)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Of one row's cells: a line for each column."""
        return (1, self.dim) if self.dim else (self.count, 1)

    @cached_property
    def span(self) -> slice:
        """The bytes of a row that it takes."""
        return slice(self.at * self.dtype.itemsize, self.stop * self.dtype.itemsize)


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """One feature's place: its bit in the null bitmap, its run, and its place there."""

    feature: Feature
    bit: int
    run: Run
    at: int = 0


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each feature of a view sits in a row. Layouts are equal when their hashes are.

    Attributes:
        project, base, join_keys, features: what it was made from.
        hash: 64-bit schema hash of (project, base, key names and dtypes, feature names and dtypes in order).
        words: uint64 words of the fixed part, header included.
        has_tail: whether rows carry strings, bytes or lists.
        blank: uint64 (words,), a row in which every feature is null and the event time is NO_TIME_US.
    """

    project: str
    base: str
    join_keys: tuple[JoinKey, ...]
    features: tuple[Feature, ...]

    @classmethod
    def of(cls, view: View) -> Layout:
        """The layout of a view; SpecError when its rows could not be kept within MOST_ROW_BYTES."""
        layout = cls(view.project, view.base, view.join_keys, view.features)
        if layout.least_bytes > MOST_ROW_BYTES or len(layout.describe()) > _MOST_DESCRIPTION_BYTES:
            msg = f"view {view.name!r} wants {layout.least_bytes} bytes a row, most is {MOST_ROW_BYTES}"
            raise SpecError(msg)
        return layout

    def describe(self) -> bytes:
        """JSON from which `from_description` makes an equal layout; kept beside the data."""
        said = {
            "project": self.project,
            "base": self.base,
            "keys": [[key.name, str(key.dtype)] for key in self.join_keys],
            "features": [[feature.name, str(feature.dtype)] for feature in self.features],
        }
        return json.dumps(said, separators=(",", ":"), sort_keys=True).encode()

    @classmethod
    def from_description(cls, description: bytes) -> Layout:
        """Read what `describe` wrote; DecodeError on anything else, in bounded time."""
        if len(description) > _MOST_DESCRIPTION_BYTES:
            raise DecodeError(f"a layout's description is at most {_MOST_DESCRIPTION_BYTES} bytes, got more")
        try:
            layout = _described(json.loads(description))
        except (ValueError, TypeError, RecursionError, SpecError) as error:
            raise DecodeError(f"a layout's description wants our JSON, got: {error}") from error
        if layout.least_bytes > MOST_ROW_BYTES:
            raise DecodeError(f"a layout wants at most {MOST_ROW_BYTES} bytes a row, got {layout.least_bytes}")
        return layout

    @cached_property
    def hash(self) -> int:
        digest = hashlib.blake2b(self.describe(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    @cached_property
    def spots(self) -> dict[str, Spot]:
        """Feature name -> its place, in declared order."""
        found = {spot.feature.name: spot for spot in _placed(self.features)}
        return {feature.name: found[feature.name] for feature in self.features}

    @cached_property
    def variable(self) -> tuple[Feature, ...]:
        """The features that live in the tail, in declared order."""
        return tuple(feature for feature in self.features if not feature.dtype.is_fixed)

    @cached_property
    def has_tail(self) -> bool:
        return bool(self.variable)

    @cached_property
    def words(self) -> int:
        ends = [spot.run.stop * spot.run.dtype.itemsize for spot in self.spots.values() if spot.feature.dtype.is_fixed]
        return -(-max(ends, default=8 * _columns_at(self.features)) // 8)

    @cached_property
    def bitmap_words(self) -> int:
        return _columns_at(self.features) - BITMAP_AT

    @cached_property
    def ends_bytes(self) -> int:
        """Bytes of a tail that say where its values end."""
        return 4 * len(self.variable)

    @cached_property
    def whole_elements(self) -> NDArray[np.int64]:
        """int64, one a variable feature: the bits that are zero in the size of its values."""
        kinds = (feature.dtype.element for feature in self.variable)
        return np.array([kind.itemsize - 1 if kind.kind != "O" else 0 for kind in kinds], np.int64)

    @cached_property
    def has_text(self) -> bool:
        """Whether some value wants more of its bytes than their number: UTF-8, or ends of its own."""
        return any(feature.dtype.base == "string" for feature in self.variable) or self.has_nested

    @cached_property
    def has_nested(self) -> bool:
        """Whether some feature is a list of strings or bytes, which have ends of their own."""
        return any(feature.dtype.is_list and feature.dtype.element.kind == "O" for feature in self.variable)

    @cached_property
    def least_bytes(self) -> int:
        """Bytes of the shortest row."""
        return (8 * self.words + self.ends_bytes + 7) & ~7

    @cached_property
    def flags(self) -> int:
        return TAIL if self.has_tail else 0

    @cached_property
    def base_row(self) -> Words:
        """uint64 (words,): the header of a row without time, own key or checksum, and every cell zero."""
        row = np.zeros(self.words, np.uint64)
        row[HEAD_AT], row[SCHEMA_AT] = head(self.flags, self.least_bytes), self.hash
        row.view(np.int64)[TIME_AT] = NO_TIME_US
        return row

    @cached_property
    def blank(self) -> Words:
        row = self.base_row.copy()
        bits = np.ones(len(self.features), np.uint8)
        packed = np.packbits(bits, bitorder="little")
        row.view(np.uint8)[HEADER_BYTES : HEADER_BYTES + len(packed)] = packed
        for spot in self.spots.values():
            if spot.feature.dtype.is_fixed:
                cells = row.view(spot.run.dtype)[spot.run.at + spot.at : spot.run.at + spot.at + (spot.run.dim or 1)]
                cells[...] = null_of(spot.run.dtype)
        row.flags.writeable = False
        return row

    @cached_property
    def multipliers(self) -> Words:
        """uint64 (2 * words,): those of the fixed part's 32-bit words."""
        return ROW[: 2 * self.words].copy()

    @cached_property
    def in_ints(self) -> tuple[str, tuple[int, ...]] | None:
        """A short row as `struct` has its 32-bit words, and their multipliers; None for one that is left to numpy."""
        count = 2 * self.words
        return (f"<{count}I", tuple(self.multipliers.tolist())) if count <= _SHORT else None

    @cached_property
    def constant(self) -> int:
        """K of this schema; see `hashing.constant`."""
        return constant(self.hash, VERSION)

    @cached_property
    def good(self) -> bytes:
        """The 8 bytes of what an intact row's sum and own key come to: minus K."""
        return (-self.constant & MASK).to_bytes(8, "little")

    @cached_property
    def head(self) -> bytes:
        """The first 8 bytes of every row of fixed width."""
        return head(self.flags, self.least_bytes).to_bytes(8, "little")

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Layout) and self.hash == other.hash)

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"<Layout {self.base!r} {self.hash:016x} of {len(self.features)} features>"


def null_of(dtype: np.dtype[Any]) -> Any:
    """What a null cell holds: NaN, NaT, 0 or False."""
    if dtype.kind == "f":
        return np.nan
    return np.datetime64("NaT", "us") if dtype.kind == "M" else dtype.type(0)


def _columns_at(features: Iterable[Feature]) -> int:
    """The word at which columns begin: after the header and a bitmap of at least one word, so that no row
    is as short as a tombstone."""
    return BITMAP_AT + max(1, -(-sum(1 for _ in features) // 64))


def _placed(features: tuple[Feature, ...]) -> Iterator[Spot]:
    """Every feature's place: 8, 4 and 1 byte types, scalars by type and then vectors; then the tail's."""
    bits = {feature.name: bit for bit, feature in enumerate(features)}
    offset = 8 * _columns_at(features)
    for bases in _SCALAR_RUNS:
        fixed = [feature for feature in features if feature.dtype.is_fixed and feature.dtype.base in bases]
        for base in bases:
            scalars = [feature for feature in fixed if feature.dtype.base == base and feature.dtype.dim is None]
            if scalars:
                dtype = scalars[0].dtype.numpy
                run = Run(dtype, offset // dtype.itemsize, len(scalars))
                yield from (Spot(feature, bits[feature.name], run, at) for at, feature in enumerate(scalars))
                offset = run.stop * dtype.itemsize
        for feature in fixed:
            if feature.dtype.dim is not None:
                dtype = feature.dtype.numpy
                run = Run(dtype, offset // dtype.itemsize, dim=feature.dtype.dim)
                yield Spot(feature, bits[feature.name], run)
                offset = run.stop * dtype.itemsize
    variable = [feature for feature in features if not feature.dtype.is_fixed]
    for at, feature in enumerate(variable):
        yield Spot(feature, bits[feature.name], Run(np.dtype(object), at))


def _described(said: Any) -> Layout:
    if not isinstance(said, dict) or set(said) != _DESCRIPTION:
        raise ValueError(f"it wants the parts {', '.join(sorted(_DESCRIPTION))}")
    if not isinstance(said["project"], str) or not isinstance(said["base"], str):
        raise TypeError("project and base want text")
    keys = tuple(JoinKey(name, dtype, column=name) for name, dtype in _named(said["keys"], "keys"))
    features = tuple(Feature(name, dtype) for name, dtype in _named(said["features"], "features"))
    return Layout(said["project"], said["base"], keys, features)


def _named(pairs: Any, part: str) -> list[tuple[str, DType]]:
    if not isinstance(pairs, list):
        raise TypeError(f"{part} wants a list of [name, dtype]")
    found: dict[str, DType] = {}
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair)):
            raise TypeError(f"{part} wants a list of [name, dtype]")
        if pair[0] in found:
            raise ValueError(f"{part} says {pair[0]!r} twice")
        found[pair[0]] = DType.parse(pair[1])
    return list(found.items())
