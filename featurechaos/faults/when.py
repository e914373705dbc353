"""Whom a fault hits: pure functions of (seed, fault, who), the same in every process, replayable.

Row faults draw by entity key, so a user stays hit or spared; call faults draw by request id. The group
of the fault is the first `share` of the draw, its control group the next slice of the same size.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_C1, _C2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def salt_of(seed: int, fault: str) -> int:
    """64 bits from a seed and what the fault is (its kind and its source or view, never a random id)."""
    return int.from_bytes(blake2b(f"{seed}:{fault}".encode(), digest_size=8).digest(), "little")


def draw_rows(own: NDArray[np.uint64], salt: int) -> NDArray[np.float64]:
    """A number within 0..1 for each entity key, from its own hash; vectorised (a digest a key costs 250 us)."""
    x = own ^ np.uint64(salt)
    x = (x ^ (x >> np.uint64(30))) * _C1
    x = (x ^ (x >> np.uint64(27))) * _C2
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_call(request_id: str, salt: int) -> float:
    """A number within 0..1 for one request."""
    digest = blake2b(request_id.encode(), digest_size=8, key=salt.to_bytes(8, "little")).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
