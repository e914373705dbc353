"""A client over stores in memory, with a feature of every dtype."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import numpy as np

from featurechaos import FeatureClient
from featurechaos.testing import ManualClock, MemoryStore

CLOCK_S = 1_800_000_000.0
NOW = dt.datetime.fromtimestamp(CLOCK_S, dt.UTC)

DTYPES: Mapping[str, tuple[Any, Any, Any]] = {
    "bool": (True, False, True),
    "int32": (2**31 - 1, 0, -5),
    "int64": (2**63 - 1, 0, -5),
    "float32": (1.5, np.nan, 2.5),
    "float64": (1e300, np.nan, 2.5),
    "string": ("ü", None, "default"),
    "bytes": (b"\xff", None, b"default"),
    "timestamp": (np.datetime64("2024-01-01T00:00:00", "us"), np.datetime64("NaT", "us"), np.datetime64(0, "us")),
    "float32[2]": ([1.5, 2.5], [np.nan, np.nan], [9.0, 8.0]),
    "int64[2]": ([2**63 - 1, 1], [0, 0], [9, 8]),
    "list[float32]": ([1.5], None, [9.0]),
    "list[string]": (["a", ""], None, ["d"]),
}
"""dtype -> a value, what a null cell holds, a default."""

NAMES = {dtype: dtype.replace("[", "_").replace("]", "") for dtype in DTYPES}
"""dtype -> the feature of that dtype."""

CONFIG: dict[str, Any] = {
    "project": "t",
    "sources": {
        "primary": {"type": "memory", "role": "primary"},
        "standby": {"type": "memory", "role": "snapshot"},
    },
    "views": [
        {"name": "v", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}, "g": {"dtype": "int32"}}},
        {"name": "w", "join_keys": {"k": "int64"}, "features": {"f": {"dtype": "float32"}}},
        {"name": "text", "join_keys": {"a": "string", "b": "int64"}, "features": {"s": {"dtype": "string"}}},
        {"name": "all", "join_keys": {"k": "int64"}, "features": {n: {"dtype": d} for d, n in NAMES.items()}},
        {"name": "other_v", "from": "v", "join_keys": {"other": "k"}},
    ],
    "services": {"both": ["v:f", "w:f"], "one": ["v:g", "v:f"]},
    "policy": {"retry": None, "last_known": None, "breaker": None},
}


def client_of(clock: ManualClock | None = None, **config: Any) -> FeatureClient:
    return FeatureClient.from_config(CONFIG | config, clock=clock or ManualClock(CLOCK_S))


def store_of(client: FeatureClient, name: str = "primary") -> MemoryStore:
    store = client.store(name)
    assert isinstance(store, MemoryStore)
    return store


def write(client: FeatureClient, view: str = "v", *, at: Any = NOW, **columns: Any) -> Any:
    """Write columns; the event time is the same for all."""
    n = len(next(iter(columns.values())))
    return client.write_to_online_store(view, {**columns, "event_timestamp": [at] * n})


def filled() -> FeatureClient:
    """Rows 1 to 3 of v and w, and a row of every dtype at 1, one of nulls at 2."""
    client = client_of()
    write(client, k=[1, 2, 3], f=[1.5, None, 3.5], g=[10, 20, None])
    write(client, "w", k=[1, 2], f=[-1.5, -2.5])
    write(client, "text", a=["x", "x"], b=[1, 2], s=["x1", "x2"])
    write(client, "all", k=[1, 2], **{NAMES[dtype]: [value, None] for dtype, (value, *_) in DTYPES.items()})
    return client


def same(got: Any, wanted: Any) -> bool:
    """Equality in which NaN is NaN."""
    return repr(np.asarray(got).tolist()) == repr(np.asarray(wanted).tolist())
