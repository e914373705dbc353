"""Flights of the world re-dated to now: each request has entities of its own, so that one pair of images holds all.

A request of 3 October asks for what was known then, and for what was known a day before: both are stored under its
own key, dated a few minutes and a day ago. So requests of four months are read through real stores at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.demo.flights import FlightsWorld, Requests

DAY_S = 86_400
_SINCE_S = 600
"""A fresh row is so old."""


def own_rows(requests: Requests) -> dict[str, list[str]]:
    """The entity rows, each name made its request's own."""
    return {
        name: [f"{one}#{place}" for place, one in enumerate(column)] for name, column in requests.entity_rows.items()
    }


def table_of(world: FlightsWorld, requests: Requests, view: str, *, age_s: int, base_us: int) -> dict[str, Any]:
    """What a view knew for each request `age_s` before it was asked, as rows dated so long before `base_us`."""
    known, keys = world.rows_at(view, requests, age_s=age_s), own_rows(requests)
    there, table = np.flatnonzero(known.found), world.tables[view]
    columns: dict[str, Any] = {name: [keys[name][row] for row in there] for name in table.keys}
    for place, (feature, dtype) in enumerate(table.features.items()):
        values = known.values[there, place]
        columns[feature] = values.astype(np.float64) if dtype == "int32" else values
    return columns | {"event_timestamp": dated(len(there), age_s=age_s, base_us=base_us)}


def joined_view(world: FlightsWorld) -> dict[str, Any]:
    """All 28 features as one view, by the number of the request."""
    features = {reference.partition(":")[2]: {"dtype": "float32"} for reference in world.feature_refs}
    return {"name": "flight", "join_keys": {"number": "int64"}, "features": features, "ttl_s": 7200}


def joined_table(world: FlightsWorld, requests: Requests, *, age_s: int, base_us: int) -> dict[str, Any]:
    matrix = world.features_at(requests, age_s=age_s)
    columns = {name.partition(":")[2]: matrix[:, place] for place, name in enumerate(world.feature_refs)}
    number, when = np.arange(len(requests)), dated(len(requests), age_s=age_s, base_us=base_us)
    return {"number": number, **columns, "event_timestamp": when}


def dated(count: int, *, age_s: int, base_us: int) -> NDArray[np.datetime64]:
    return np.full(count, base_us - (age_s + _SINCE_S) * 1_000_000).astype("M8[us]")
