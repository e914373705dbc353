"""The sums a row is checked by and the hashes a key is found by; fixed for ever, since they are stored.

The checksum is multilinear over 32-bit words with 64-bit multipliers, after Lemire and Kaser, "Strongly
universal string hashing is fast", 2014. Over 64-bit words it cannot see two flipped signs, and folded
(`w ^ w >> 32`) it cannot see a row whose floats are all negated; both are tests.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import mul
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_ROW_BYTES: Final = 1 << 16
MOST_ID_BYTES: Final = 1024
MASK: Final = (1 << 64) - 1

Part = slice | NDArray[np.intp]

_GOLDEN: Final = 0x9E3779B97F4A7C15
_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SPREAD: Final = (0xD6E8FEB86659FD93, 0xFF51AFD7ED558CCD)
_U32: Final = np.uint64(32)
_SPREAD_FIRST, _SPREAD_LAST = np.uint64(_SPREAD[0]), np.uint64(_SPREAD[1])
_SMALL_BYTES: Final = 1 << 16
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
_OWN_INTS: Final[tuple[int, ...]] = tuple(_OWN.tolist())
_SLOT: Final = multipliers(0xFC03, MOST_ID_BYTES // 4 + 1)


def constant(schema_hash: int, version: int) -> int:
    """K: what a version and a schema add to every sum, so that a foreign row fails the same comparison."""
    return mix(schema_hash ^ mix(version))


def padded(parts: Sequence[bytes], lengths: NDArray[np.int64]) -> list[tuple[Part, NDArray[np.uint32]]]:
    """Bytes of various lengths as matrices of 32-bit words, padded with zeros, which add nothing.

    Args:
        lengths: int64 (n,), multiples of 4; n is at least one.

    Returns:
        (which parts, their words): usually all in one; by doubling lengths where one long part would
        make the matrix more than four times what came.
    """
    most = int(lengths.max())
    if len(parts) * most <= 4 * int(lengths.sum()) + _SMALL_BYTES:
        return [(slice(None), _matrix(parts, most))]
    classes: dict[int, list[int]] = {}
    for at, length in enumerate(lengths.tolist()):
        classes.setdefault(length.bit_length(), []).append(at)
    return [
        (np.array(members, np.intp), _matrix([parts[at] for at in members], int(lengths[members].max())))
        for members in classes.values()
    ]


def sums(parts: Sequence[bytes], lengths: NDArray[np.int64], *, begin: int = 0) -> NDArray[np.uint64]:
    """uint64 (n,): each part's words times the row multipliers from word `begin` on."""
    found = np.empty(len(parts), np.uint64)
    for which, words in padded(parts, lengths):
        found[which] = words @ ROW[begin : begin + words.shape[1]]
    return found


def _matrix(parts: Sequence[bytes], most: int) -> NDArray[np.uint32]:
    width = max(most, 8)
    # numpy's fixed-width bytes pad with zeros in C: a third of the cost of a gather and a reduceat.
    return np.array(parts, f"S{width}").view(np.uint32).reshape(len(parts), width // 4)


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
        return np.empty(0, np.uint64)
    if len(ids) == 1 and not second:
        return np.array([_hash_one(ids[0])], np.uint64)
    table = _SLOT if second else _OWN
    lengths = np.fromiter(map(len, ids), np.uint64, len(ids))
    words = _matrix(ids, (int(lengths.max()) + 7) & ~7)
    found = words @ table[1 : 1 + words.shape[1]]
    found += lengths * table[0]
    return spread(found)


def _hash_one(known: bytes) -> int:
    """`hash_ids` of one id in plain ints: a quarter of the cost of numpy's calls."""
    count = (len(known) + 3) // 4
    words = struct.unpack(f"<{count}I", known.ljust(4 * count, b"\0"))
    return spread_one(len(known) * _OWN_INTS[0] + sum(map(mul, words, _OWN_INTS[1:])))
