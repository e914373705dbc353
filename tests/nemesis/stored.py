"""What is stored: six views, and the one true value of each (view, key, event time).

A value is a hash of where and when it was written, so that whoever knows the three knows the value, and any other
value is a lie. Rows are compared by a digest of all their cells, the same for who records and who judges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

KEYS = 240
SPAN_US = 1000
"""Writers take event times that differ from writer to writer; see `writers.py`."""

PRIMARY, REPLICA, IMAGES = "primary", "replica", "images"
ONLINE = (PRIMARY, REPLICA)

Cells = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Kind:
    """One view: what it stores by generation of its schema, and what a reader may make of a row.

    `absent` are the keys (of every 24) that are never written online, `imaged` whether snapshots have it.
    """

    number: int
    name: str
    features: Mapping[int, Mapping[str, Mapping[str, Any]]]
    ttl_s: float | None = None
    hard_s: float | None = None
    imaged: bool = False
    remembered: bool = True
    on_missing: str = "accept"
    lag_s: float = 0.0
    absent: tuple[int, ...] = ()
    default: Mapping[str, Any] | None = None

    @property
    def key(self) -> str:
        return "code" if self.name == "slow" else "q" if self.name == "marker" else "k"

    def of(self, generation: int) -> Mapping[str, Mapping[str, Any]]:
        """The features as a client of that generation declares them."""
        return self.features[generation if generation in self.features else 1]

    def config(self, generation: int) -> dict[str, Any]:
        order = [*ONLINE, IMAGES] if self.imaged else [*ONLINE]
        policy: dict[str, Any] = {"order": order, "on_missing": self.on_missing}
        if not self.remembered:
            policy["last_known"] = None
        return {
            "name": self.name,
            "join_keys": {self.key: "string" if self.key == "code" else "int64"},
            "features": dict(self.of(generation)),
            "ttl_s": self.ttl_s,
            "max_age_s": self.hard_s,
            "policy": policy,
        }


_STAMP = {"stamp": {"dtype": "int64"}}

KINDS = (
    Kind(0, "base", {1: {**_STAMP, "ratio": {"dtype": "float32[4]"}, "word": {"dtype": "string"}}}, imaged=True),
    Kind(
        1,
        "quick",
        {1: {**_STAMP, "level": {"dtype": "float32", "default": -1.0}}},
        ttl_s=4.0,
        hard_s=12.0,
        on_missing="default",
        absent=(5, 13, 21),
        default={"level": -1.0},
    ),
    Kind(
        2,
        "slow",
        {1: {**_STAMP, "count": {"dtype": "int32"}, "note": {"dtype": "string"}}},
        ttl_s=8.0,
        imaged=True,
        remembered=False,
        on_missing="fallback",
        absent=(3, 11, 19),
    ),
    Kind(3, "strict", {1: {**_STAMP, "level": {"dtype": "float32"}}}, ttl_s=3.0, hard_s=8.0, imaged=True, lag_s=12.0),
    Kind(
        4,
        "score",
        {
            1: {**_STAMP, "part": {"dtype": "float32"}, "word": {"dtype": "string"}},
            2: {**_STAMP, "part": {"dtype": "float32"}, "rank": {"dtype": "int32"}},
        },
    ),
    Kind(5, "marker", {1: {"seen": {"dtype": "int64"}}}, remembered=False),
)
KIND = {kind.name: kind for kind in KINDS}
BASE, QUICK, SLOW, STRICT, SCORE, MARKER = range(6)
MORTAL = tuple(range(7, KEYS, 24))
"""Keys of `base` that one writer alone writes and deletes."""


def codes(keys: Sequence[int]) -> list[str]:
    """The string keys of some numbers."""
    return [f"K{key}" for key in keys]


def stamp_of(view: int, key: int, time_us: int) -> int:
    """What a row is known by: a hash of its view, key and event time."""
    told = hashlib.blake2b(b"%d/%d/%d" % (view, key, time_us), digest_size=8).digest()
    return int.from_bytes(told, "little") >> 1


def value(view: int, key: int, time_us: int, generation: int = 1) -> dict[str, Any]:
    """The row as a writer of a generation stores it."""
    stamp = stamp_of(view, key, time_us)
    part = (stamp >> 7) % 8192 / 8
    all_cells = {
        "stamp": stamp,
        "ratio": [float((stamp >> shift) % 4096 / 4) for shift in (3, 13, 23, 33)],
        "word": f"{key}/{stamp:x}" * (1 + stamp % 3),
        "level": part,
        "count": stamp % 2_000_000_000,
        "note": None if stamp % 4 == 0 else f"{stamp % 997}",
        "part": part,
        "rank": stamp % 65_536,
    }
    return {name: all_cells[name] for name in KINDS[view].of(generation)}


_DTYPES = {"int64": "<i8", "int32": "<i4", "float32": "<f4", "float64": "<f8", "float32[4]": "<f4"}


def cell(dtype: str, one: Any) -> bytes | None:
    """One cell as bytes; None where it is null."""
    if one is None:
        return None
    return one.encode() if dtype == "string" else np.asarray(one, _DTYPES[dtype]).tobytes()


def digest(cells: Sequence[bytes | None]) -> int:
    """64 bits of all cells of a row, nulls told from empty ones."""
    parts = [b"0" if one is None else b"1%d:%b" % (len(one), one) for one in cells]
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "little")


def wanted(view: int, key: int, time_us: int, *, writer: int, reader: int) -> int:
    """The digest of a row that a writer of one generation stored, as a reader of another must see it."""
    stored = value(view, key, time_us, writer)
    features = KINDS[view].of(reader)
    return digest([cell(about["dtype"], stored.get(name)) for name, about in features.items()])


@cache
def null_digest(view: int, reader: int) -> int:
    """The digest of a row of nulls."""
    return digest([None] * len(KINDS[view].of(reader)))


@cache
def default_digest(view: int, reader: int) -> int:
    """The digest of a row of defaults; of nulls where the view has none."""
    default = KINDS[view].default or {}
    return digest([cell(about["dtype"], default.get(name)) for name, about in KINDS[view].of(reader).items()])


def written_keys(view: int) -> list[int]:
    """The keys that writers write online, those of the deleter left out."""
    absent = KINDS[view].absent
    mortal = MORTAL if view == BASE else ()
    return [key for key in range(KEYS) if key % 24 not in absent and key not in mortal]
