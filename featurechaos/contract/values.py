"""The values and keys a store must give back unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

NOW_US = 1_700_000_000_000_000
"""The event time of most rows: late in 2023."""

_F = np.finfo
_DATES = np.array(
    ["1970-01-01", "1969-12-31T23:59:59.999999", "0001-01-01", "9999-12-31T23:59:59.999999", "NaT"], "M8[us]"
)
VALUES: Mapping[str, Any] = {
    "bool": [True, False, None],
    "int32": [0, -1, 2**31 - 1, -(2**31), None],
    "int64": [0, 2**53 + 1, 2**63 - 1, -(2**63), None],
    "float32": [0.0, -0.0, np.inf, -np.inf, float(_F(np.float32).max), float(_F(np.float32).tiny), 1e-45, None],
    "float64": [0.0, -0.0, np.inf, -np.inf, float(_F(np.float64).max), float(_F(np.float64).tiny), 5e-324, None],
    "string": ["", "a", "\x00", "\u00fc\u4e16\U0001f600", "x" * 10_000, None],
    "bytes": [b"", b"\x00", b"\xff\xfe", bytes(range(256)) * 20, None],
    "timestamp": list(_DATES),
    "float32[3]": [[0.0, -0.0, np.inf], [1e-45, -np.inf, 1.5], None],
    "float64[1]": [[5e-324], [-0.0], None],
    "int32[2]": [[2**31 - 1, -(2**31)], [0, 0], None],
    "int64[2]": [[2**63 - 1, -(2**63)], [2**53 + 1, 0], None],
    "list[bool]": [[], [True, False, True], None],
    "list[int32]": [[], [2**31 - 1, -(2**31)], None],
    "list[int64]": [[], [2**53 + 1], [2**63 - 1, -(2**63)], None],
    "list[float32]": [[], [-0.0], [1.5] * 1000, None],
    "list[float64]": [[], [5e-324, np.inf], None],
    "list[string]": [[], [""], ["a", "", "\u00fc\U0001f600"], None],
    "list[bytes]": [[], [b""], [b"\x00", b"\xff"], None],
    "list[timestamp]": [[], list(_DATES[:4]), None],
}
"""For each dtype: its extremes, the empty ones, and null."""

KEYS: Mapping[str, Any] = {
    "int32": [0, 1, -1, 2**31 - 1, -(2**31)],
    "int64": [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)],
    "string": ["", " ", "a", "A", "a|b", "{}%:*?[", "line\nbreak", "\u00fc\U0001f600", "x" * 300],
    "bytes": [b"", b"\x00", b"\xff", b"}|{", b"a"],
    "timestamp": np.append(_DATES[:4], np.datetime64(1, "us")),
}


def kind_of(dtype: str) -> str:
    return "lists" if dtype.startswith("list") else "vectors" if "[" in dtype else "scalars"
