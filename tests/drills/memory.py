"""The smallest stage for drills in tests: one user in memory, and a second or so from end to end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from featurechaos import FeatureClient
from featurechaos.config import load
from featurechaos.drills.stage import Asked, Stage

SCRIPT = """
title: the model meets a NaN
load: {requests: "tests.drills:none", rate_per_s: 100, arrivals: uniform}
steady_state: {for_s: 0.4, probes: [{probe: error_rate, max: 0}]}
method: [{at_s: 0, name: outage, inject: {fault: outage, source: primary, share: 1, for_s: 0.4}}]
expect: {during: [{probe: error_rate, max: 0}]}
coverage: {min_requests: 20, min_applied: 1}
"""
CONFIG: dict[str, Any] = {
    "project": "drill",
    "sources": {"primary": {"type": "memory"}},
    "views": [{"name": "user", "join_keys": {"id": "int64"}, "features": {"score": {"dtype": "float32"}}}],
    "policy": {"last_known": None, "breaker": None},
    "chaos": {"enabled": True, "max_share": 1.0},
}


ARMED = {"FEATURECHAOS_CHAOS": "armed"}


def stage(
    predict: Any = None,
    draw: Callable[[Random, float], Asked] | None = None,
    made: type[FeatureClient] = FeatureClient,
    *,
    chaos: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = ARMED,
) -> Stage:
    """One user in memory, read by a client of the class `made`; `chaos` and `environ` say whether it may inject."""
    client = made(load(CONFIG | ({} if chaos is None else {"chaos": chaos}), environ=environ))
    now = dt.datetime.fromtimestamp(client.clock.wall(), dt.UTC)
    client.write_to_online_store("user", {"id": [1], "score": [0.5], "event_timestamp": [now]})
    draw = draw or (lambda rng, wall_s: Asked({"id": [1]}))
    return Stage(client, ["user:score"], draw, predict=predict, closers=[client.close])
