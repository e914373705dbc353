"""A small stage for drills in tests: a real Valkey, a snapshot in memory, ten users, a model of one line.

python tests/drills/playing.py DIRECTORY plays the usual script and exits with its verdict's code.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path
from random import Random
from typing import Any

from featurechaos import FeatureClient
from featurechaos.config import load
from featurechaos.demo.servers import ValkeyServer
from featurechaos.drills import Script, parse_script
from featurechaos.drills.run import run_drill
from featurechaos.drills.stage import Asked, Stage

SCRIPT = """
title: the snapshot carries the users while Redis is dead
load: {{requests: "tests.drills:none", rate_per_s: 60, arrivals: uniform, entities: 3}}
model: {{predict: "tests.drills:none", threshold: 0.5}}
steady_state:
  for_s: 0.8
  probes: [{{probe: origin_share, origin: PRIMARY, min: 0.9}}, {{probe: error_rate, max: 0}}]
method:
  - {{at_s: 0, name: kill-redis, inject: {{fault: {fault}, source: {source}, for_s: {for_s}}}}}
guards: [{guard}]
expect:
  during: [{{probe: error_rate, max: 0}}, {{probe: origin_share, origin: {origin}, min: 0.8}}]
recovery: {{within_s: 2.5, probe: origin_share, origin: PRIMARY, min: 0.9}}
coverage: {{min_requests: {least}, min_applied: 1, min_pairs: 1}}
"""
USERS = list(range(10))
CONFIG: dict[str, Any] = {
    "project": "drill",
    "sources": {"standby": {"type": "memory", "role": "snapshot"}},
    "views": [
        {"name": "user", "join_keys": {"id": "int64"}, "features": {"score": {"dtype": "float32", "default": 0.0}}}
    ],
    "policy": {
        "deadline_s": 0.5,
        "last_known": None,
        "breaker": {"open_s": 0.2, "healthy_s": 0.1, "ramp_s": 0.1, "slow_s": 0.05},
    },
    "chaos": {"enabled": True, "max_share": 1.0},
}


def script(
    *,
    fault: str = "process_kill",
    for_s: float = 1.5,
    origin: str = "SNAPSHOT",
    least: int = 60,
    guard: str = "",
    source: str = "primary",
) -> Script:
    """The usual script, with what a test wants other."""
    return parse_script(SCRIPT.format(fault=fault, for_s=for_s, origin=origin, least=least, guard=guard, source=source))


def stage(server: ValkeyServer, *, standby: bool = True) -> Stage:
    """A client on a started server, with every user's row on both sources; the snapshot's are half as high."""
    sources = {"primary": {"type": "redis", "url": server.url, "timeout_s": 0.1}}
    client = FeatureClient(
        load({**CONFIG, "sources": {**sources, **CONFIG["sources"]}}, environ={"FEATURECHAOS_CHAOS": "armed"})
    )
    now = dt.datetime.fromtimestamp(client.clock.wall(), dt.UTC)
    table = {"id": USERS, "score": [0.1 * user for user in USERS], "event_timestamp": [now] * len(USERS)}
    client.write_to_online_store("user", table)
    if standby:
        batch = client._batch("user", {**table, "score": [0.05 * user for user in USERS]})
        client.store("standby").put(batch.ask, batch.blobs)  # type: ignore[attr-defined]

    def draw(rng: Random, wall_s: float) -> Asked:
        del wall_s
        return Asked({"id": rng.sample(USERS, 3)})

    return Stage(
        client,
        ["user:score"],
        draw,
        processes={"primary": server},
        predict=lambda response: response.columns["score"].astype(float),
        threshold=0.5,
        closers=[server.stop, client.close],
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(directory: str) -> int:
    """Play the usual script, long enough to be interrupted, telling what happens on stdout."""
    server = ValkeyServer(keeps_data=True).start()
    verdict, _ = run_drill(
        script(for_s=20),
        directory=Path(directory),
        progress=_say,
        open_stage=lambda _: stage(server),
    )
    return verdict.exit_code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
