"""One row, one binary form: the same bytes in Redis, in the last-known cache and in a snapshot replica.

    offset  size  what
    0       2     magic 0xFC01, little-endian like everything here
    2       1     version 1
    3       1     flags: 1 tail, 2 tombstone
    4       4     length of the whole row in bytes, a multiple of 8, at most MOST_ROW_BYTES
    8       8     schema hash of the layout
    16      8     event time, int64 microseconds UTC
    24      8     own: the hash of the row's key values
    32      8     checksum
    40      ..    null bitmap (bit i of byte i//8: feature i in declared order is null), padded to 8
    ..      ..    fixed-width columns, runs of 8, 4 and 1 byte types (scalars, then vectors); padded to 8
    ..      ..    tail, if the layout has any string, bytes or list: one u32 end a variable feature
                  (relative to the first byte after the ends), then the bytes; padded to 8 with zeros

A tombstone is the header alone (40 bytes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.model import JoinKey, View

HEADER_BYTES = 40
MOST_ROW_BYTES = 1 << 16

Words = NDArray[np.uint64]


class Keys:
    """Distinct keys of one view, encoded.

    ids: the text between the braces of a stored key, bytes each.
    own: uint64 (n,), the hash stored in each row; for a single integer or timestamp key a bijection
        of its value, else Lemire's multilinear hash of the id.
    slots: uint64 (n,), where a replica looks a row up; equal to `own` where that is a bijection, else a
        second, independent hash. Built when first asked for.
    """

    ids: list[bytes]
    own: NDArray[np.uint64]

    def __len__(self) -> int: ...
    def take(self, index: NDArray[np.intp]) -> Keys: ...
    @property
    def slots(self) -> NDArray[np.uint64]: ...


def encode_keys(join_keys: Sequence[JoinKey], columns: Sequence[Sequence[Any] | NDArray[Any]]) -> tuple[Keys, NDArray[np.intp] | None, NDArray[np.bool_] | None]:
    """Turn key values into distinct encoded keys.

    Args:
        join_keys: in the order of their names.
        columns: one a join key, n values each: Python values, numpy scalars, or a numpy array.

    Returns:
        keys: m distinct ones, in order of first appearance, of the rows with no null key;
        inverse: intp (n,), row -> position in keys; None when rows and keys are one to one in order (m == n);
            rows with a null key have position m;
        nulls: bool (n,), rows with a None or NaN/NaT in any key; None when there is none.

    Raises:
        RequestError: naming the key, the row and what came.
    """


class Layout:
    """Where each feature of a view sits in a row.

    Attributes:
        project, base, join_keys, features: what it was made from.
        hash: 64-bit schema hash of (project, base, key names and dtypes, feature names and dtypes in order).
        words: uint64 words of the fixed part, header included.
        has_tail: whether rows carry strings, bytes or lists.
        blank: uint64 (words,), a row in which every feature is null and the event time is NO_TIME_US.
    """

    @classmethod
    def of(cls, view: View) -> Layout: ...
    def describe(self) -> bytes:
        """JSON from which `from_description` makes an equal layout; kept beside the data."""
    @classmethod
    def from_description(cls, description: bytes) -> Layout:
        """Raises DecodeError on anything else, in bounded time."""


class Rows:
    """n rows of one layout in packed form.

    Attributes:
        layout
        words: uint64 (n, layout.words), the fixed parts; C order, ours to write. Rows without a value hold `layout.blank`.
        tails: None unless layout.has_tail; then a list of n bytes (ends and bytes; b"" for rows without a value).
        verdict: one int while all rows agree, else uint8 (n,): FRESH (intact), MISSING, BURIED, CORRUPT here;
            layers judge ages later.
        blobs: the bytes each row came as, while every row is intact and of this layout; else None.
    """

    @property
    def event_time(self) -> NDArray[np.int64]: ...
    def __len__(self) -> int: ...


def encode(layout: Layout, columns: Mapping[str, Any], event_time: NDArray[np.int64], own: NDArray[np.uint64]) -> list[bytes]:
    """Pack n rows. Columns: feature -> array or list of n values (None, NaN, NaT are null; a masked cell too).

    Raises RequestError naming view, feature, row, what was wanted and what came; nothing is returned half done.
    """


def encode_tombstones(layout: Layout, event_time: NDArray[np.int64], own: NDArray[np.uint64]) -> list[bytes]: ...


def decode(blobs: Sequence[bytes | None], own: NDArray[np.uint64], layout: Layout, known: Mapping[int, Layout] | None = None) -> tuple[Rows, frozenset[int]]:
    """Read stored rows, whatever came.

    Returns:
        rows, and the schema hashes of well-formed rows of layouts not in `known`: fetch their descriptions
        and decode again, or leave those rows CORRUPT.
    """


def verify(words: Words, own: NDArray[np.uint64], layout: Layout, found: NDArray[np.bool_]) -> Rows:
    """The same for fixed-width rows already gathered into words (a replica's)."""


def pack(layout: Layout, values: Mapping[str, NDArray[Any]], nulls: Mapping[str, NDArray[np.bool_]], event_time: NDArray[np.int64], own: NDArray[np.uint64], verdict: NDArray[np.uint8]) -> Rows:
    """Columns of a foreign layout as packed rows, so that everything after a read knows one form."""


def column(rows: Rows, feature: str) -> NDArray[Any]:
    """One feature's values, (n,) or (n, dim), dtype as declared, C order, ours to write; null is NaN, NaT, 0, False or None."""


def nulls(rows: Rows, feature: str) -> NDArray[np.bool_]:
    """bool (n,), True where the feature is null or the row has no value."""


def seal(rows: Rows, own: NDArray[np.uint64]) -> list[bytes]:
    """The rows as blobs, checksums made anew: for rows changed on purpose, and for packed columns."""
