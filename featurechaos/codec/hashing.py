"""The sums a row is checked by and the hashes a key is found by; fixed for ever, since they are stored.

The checksum is multilinear over 32-bit words with 64-bit multipliers, after Lemire and Kaser, "Strongly
universal string hashing is fast", 2014. Over 64-bit words it cannot see two flipped signs, and folded
(`w ^ w >> 32`) it cannot see a row whose floats are all negated; both are tests.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_ROW_BYTES: Final = 1 << 16
MOST_ID_BYTES: Final = 1024
MASK: Final = (1 << 64) - 1
NO_SUMS: Final = np.empty(0, np.uint64)

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SPREAD: Final = (0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD)
_U32: Final = np.uint64(32)
_SPREAD_FIRST, _SPREAD_LAST = np.uint64(_SPREAD[0]), np.uint64(_SPREAD[1])
_SUM_AT: Final = 8
"""Where the checksum's own two 32-bit words stand in a row."""


def multipliers(seed: int, count: int) -> NDArray[np.uint64]:
    """`count` odd 64-bit numbers: splitmix64's outputs 1, 2, ... from `seed`, lowest bit set."""
    mixed = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(_MIX[0])
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_MIX[1])
    return (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)


def mix(value: int) -> int:
    """splitmix64's finish: a bijection of 64-bit numbers."""
    value = ((value ^ (value >> 30)) * _MIX[0]) & MASK
    value = ((value ^ (value >> 27)) * _MIX[1]) & MASK
    return value ^ (value >> 31)


def _row_multipliers() -> NDArray[np.uint64]:
    """One a 32-bit word of the longest legal row; the stored checksum itself is subtracted."""
    table = multipliers(0xFC01, MOST_ROW_BYTES // 4)
    table[_SUM_AT], table[_SUM_AT + 1] = np.uint64(MASK), np.uint64(MASK - (1 << 32) + 1)
    table.flags.writeable = False
    return table


ROW: Final = _row_multipliers()
_OWN: Final = multipliers(0xFC02, MOST_ID_BYTES // 4 + 1)
_SLOT: Final = multipliers(0xFC03, MOST_ID_BYTES // 4 + 1)


def constant(schema_hash: int, version: int) -> int:
    """K: what a version and a schema add to every sum, so that a foreign row fails the same comparison."""
    return mix(schema_hash ^ mix(version))


def ragged_sums(words: NDArray[np.uint32], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The sum of each row over rows laid end to end.

    Args:
        words: all rows' 32-bit words.
        lengths: int64 (n,), words of each row, from 1 to the table's length.
    """
    if not len(lengths):
        return NO_SUMS
    starts = np.cumsum(lengths) - lengths
    places = np.arange(len(words)) - np.repeat(starts, lengths)
    return np.add.reduceat(words * ROW[places], starts)


def spread(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit numbers whose every output bit depends on many input bits; `values` stays."""
    spread = values * _SPREAD_FIRST
    spread ^= spread >> _U32
    spread *= _SPREAD_LAST
    return spread


def spread_one(value: int) -> int:
    """`spread` of one plain integer, negative ones as two's complement."""
    value = (value * _SPREAD[0]) & MASK
    return ((value ^ (value >> 32)) * _SPREAD[1]) & MASK


def hash_ids(ids: list[bytes], *, second: bool = False) -> NDArray[np.uint64]:
    """64-bit hashes of ids: multilinear over their zero-padded 32-bit words and their length, spread.

    Args:
        ids: each at most MOST_ID_BYTES long.
        second: use the other, independent set of multipliers.
    """
    if not ids:
        return NO_SUMS
    table = _SLOT if second else _OWN
    lengths = np.fromiter(map(len, ids), np.uint64, len(ids))
    width = max((int(lengths.max()) + 7) & ~7, 8)
    words = np.array(ids, f"S{width}").view(np.uint32).reshape(len(ids), width // 4)
    sums = words @ table[1 : 1 + width // 4]
    sums += lengths * table[0]
    return spread(sums)
