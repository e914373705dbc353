"""The feature pipeline of the flights world, in a process of its own: hourly rows online, images to S3.

    python -m featurechaos.demo.pipeline '{"seed": 7, ...}'

It lives on the same clock as the service. A store that is down misses an hour and gets the next one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from featurechaos.client import FeatureClient
from featurechaos.clock import ShiftedClock
from featurechaos.config import load
from featurechaos.demo.flights import FlightsWorld
from featurechaos.errors import FeatureError

HOUR_S = 3600
IMAGE_EVERY_H = 2
IMAGE_LAG_H = 1
"""An image holds what was known an hour before it is out: so one in use is 1 to 6 hours old."""
_STATIC = ("plane",)


@dataclass(frozen=True, slots=True)
class Job:
    """What a pipeline works on: a world, a clock, and where the stores are."""

    seed: int
    wall_s: float
    started: float
    speed: float
    stores: Mapping[str, str]
    """name -> url of each Redis to write to, all alike."""
    s3: str
    ready: str
    """A file to make once the first hour and the first images are out."""

    @property
    def clock(self) -> ShiftedClock:
        return ShiftedClock(self.wall_s, speed=self.speed, started=self.started)


def work(job: Job) -> None:
    """Write the hour at hand, then each hour as it comes; until killed."""
    world = FlightsWorld.build(job.seed)
    clients = {name: _client(world, job, url) for name, url in job.stores.items()}
    publisher = next(iter(clients.values()))
    hour = int(job.wall_s // HOUR_S)
    for client in clients.values():
        _write(world, client, hour, static=True)
    for lag in (25, IMAGE_LAG_H):
        _publish(world, publisher, hour - lag)
    Path(job.ready).write_text("ready")
    last_image = hour
    while True:
        hour = _wait_for_hour(job, hour)
        for client in clients.values():
            _write(world, client, hour, static=False)
        if hour - last_image >= IMAGE_EVERY_H:
            _publish(world, publisher, hour - IMAGE_LAG_H)
            last_image = hour


def _client(world: FlightsWorld, job: Job, url: str) -> FeatureClient:
    settings = load(
        {
            "project": "flights",
            "sources": {
                "primary": {"type": "redis", "url": url},
                "standby": {"type": "s3", "url": "s3://features/flights", "endpoint_url": job.s3, "region": "us-east-1",
                            "refresh_s": 86_400},
            },
            "views": world.config_views(),
        }
    )  # fmt: skip
    return FeatureClient(settings, job.clock)


def _write(world: FlightsWorld, client: FeatureClient, hour: int, *, static: bool) -> None:
    """One hour of every view; a store that is down is left out."""
    for view in world.tables:
        if static or view not in _STATIC:
            try:
                client.write_to_online_store(view, world.view_table(view, _instant(hour)))
            except FeatureError:
                return


def _publish(world: FlightsWorld, client: FeatureClient, hour: int) -> None:
    for view in world.tables:
        client.publish_snapshot(view, world.view_table(view, _instant(hour)), as_of=_instant(hour))


def _wait_for_hour(job: Job, done: int) -> int:
    """Sleep until an hour later than `done` has begun on the world's clock; which one it is."""
    clock = job.clock
    while (now := int(clock.wall() // HOUR_S)) <= done:
        Event().wait(max(0.001, ((done + 1) * HOUR_S - clock.wall()) / job.speed))
    return now


def _instant(hour: int) -> np.datetime64:
    return np.datetime64(hour * HOUR_S * 1_000_000, "us")


def argument(job: Job) -> str:
    """A job as the command's one argument."""
    return json.dumps(asdict(replace(job, stores=dict(job.stores))))


def main(argv: list[str]) -> None:
    """Read the job and work on it, giving way to the service."""
    given: dict[str, Any] = json.loads(argv[1])
    os.nice(5)
    work(Job(**given))


if __name__ == "__main__":
    main(sys.argv)
