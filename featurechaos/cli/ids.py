"""The ids of stored rows back to the key values they were made from: the inverse of `codec.encode_keys`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from featurechaos.codec import Keys, encode_keys
from featurechaos.errors import RequestError
from featurechaos.model import JoinKey

_ESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")
_NUMBER: Final = re.compile(rb"-?[0-9]{1,20}")

Values = tuple[Any, ...]


def values_of(join_keys: Sequence[JoinKey], known: bytes) -> Values | None:
    """One id's key values, a timestamp as numpy.datetime64; None for an id that no key of these has."""
    parts = known.split(b"|")
    if len(parts) != len(join_keys):
        return None
    try:
        values = tuple(_value(key.dtype.base, part) for key, part in zip(join_keys, parts, strict=True))
        keys, _, _ = encode_keys(join_keys, [[value] for value in values])
    except (ValueError, OverflowError, RequestError):
        return None
    # What does not come back as itself was written by somebody else.
    return values if keys.ids == [known] else None


def keys_of(join_keys: Sequence[JoinKey], ids: Sequence[bytes]) -> tuple[list[list[Any]], Keys, list[int]]:
    """Distinct ids as columns of key values.

    Returns:
        columns: one a join key, without the ids that are none of ours; keys: the same, encoded again;
        kept: where in `ids` they stood.
    """
    found = [(at, values) for at, known in enumerate(ids) if (values := values_of(join_keys, known)) is not None]
    columns: list[list[Any]] = [[values[k] for _, values in found] for k in range(len(join_keys))]
    keys, _, _ = encode_keys(join_keys, columns)
    return columns, keys, [at for at, _ in found]


def _value(base: str, part: bytes) -> Any:
    if base in {"string", "bytes"}:
        raw = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), part)
        return raw.decode() if base == "string" else raw
    if not _NUMBER.fullmatch(part):
        raise ValueError
    return np.datetime64(int(part), "us") if base == "timestamp" else int(part)
