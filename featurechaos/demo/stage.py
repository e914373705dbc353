"""The flights world as a drill's stage: real servers, a pipeline that feeds them, a service that scores.

An hour of the world passes in two seconds, so that a drill of a minute sees a day of flights: scores of one evening
say little about a distribution.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any, ClassVar

import numpy as np

from featurechaos.client import FeatureClient
from featurechaos.clock import ShiftedClock, SystemClock
from featurechaos.config import load
from featurechaos.demo.flights import FlightsWorld
from featurechaos.demo.pipeline import HOUR_S, Job, argument
from featurechaos.demo.process import Server
from featurechaos.demo.servers import S3Server, ValkeyServer
from featurechaos.drills.script import Script
from featurechaos.drills.stage import Asked, Closers, Draw, Stage, close_all
from featurechaos.errors import SpecError

SPEED = 1800.0
"""Seconds of the world in one of ours."""
CONFIG = Path(__file__).with_name("flights.yaml")
_FIRST_DAY, _LAST_DAY = 73, 112
"""Days after 1 September 2013 on which a drill may begin: November and December, when delays move."""
_BEGINS_H = 8
_AHEAD = 40
"""A request is drawn from so many flights from now on."""


class Pipeline(Server):
    """The feature pipeline as a child process that ends with us."""

    name: ClassVar[str] = "the feature pipeline"
    start_most_s: ClassVar[float] = 90.0

    def __init__(self, make: Callable[[str], Job]) -> None:
        super().__init__()
        self._make = make

    def _argv(self) -> list[str]:
        return [sys.executable, "-m", "featurechaos.demo.pipeline", argument(self._make(str(self.folder / "ready")))]

    def _is_ready(self) -> bool:
        return (self.folder / "ready").exists()


def open_stage(script: Script, config: str | None, say: Callable[[str], None]) -> Stage:
    """Start everything; what was started is stopped again if a later part fails."""
    closers: Closers = []
    try:
        return _opened(closers, script, config, say)
    except BaseException:
        close_all(closers)
        raise


def _opened(closers: Closers, script: Script, config: str | None, say: Callable[[str], None]) -> Stage:
    _must_be_of_here(script)
    say("reading the flights of 2013 and fitting the model")
    world = FlightsWorld.build(script.seed)
    model = world.model
    say("starting Valkey (a primary and a witness) and an S3 server on loopback")
    primary, witness, s3 = ValkeyServer(keeps_data=True), ValkeyServer(), S3Server(buckets=("features",))
    for server in (primary, witness, s3):
        server.start()
        closers.append(server.stop)
    cache = Path(mkdtemp(prefix="featurechaos-demo-"))
    closers.append(lambda: rmtree(cache, ignore_errors=True))
    _let_in(closers, s3)

    say("writing features, publishing snapshots")
    clock = ShiftedClock(_begin_s(script.seed), speed=SPEED, started=SystemClock().monotonic())
    stores = {"primary": primary.url, "witness": witness.url}
    pipeline = Pipeline(
        lambda ready: Job(script.seed, clock.wall_s, clock.started, SPEED, stores, s3.endpoint_url, ready)
    )
    pipeline.start()
    closers.append(pipeline.stop)

    environ = {
        **os.environ,
        "FLIGHTS_PRIMARY": primary.url,
        "FLIGHTS_WITNESS": witness.url,
        "FLIGHTS_S3": s3.endpoint_url,
        "FLIGHTS_CACHE": str(cache),
        "FEATURECHAOS_CHAOS": "armed",  # on servers it started itself
    }
    client = FeatureClient(load(config or script.config or CONFIG, environ=environ), clock)
    closers.append(client.close)
    if lacking := [view for view in world.tables if view not in client.settings.views]:
        raise SpecError(
            f"{client.settings.name}: views: the world flights wants {', '.join(lacking)} too; copy {CONFIG.name}"
        )
    say("hydrating the local replica")
    client.refresh(60)
    client.ready(freeze=True)
    return Stage(
        client,
        world.feature_refs,
        _draw(world, 1 if script.load == "none" else script.load.entities),
        processes={"primary": primary},
        empty=_emptied,
        predict=model.predict,
        threshold=model.threshold,
        closers=closers,
    )


def _must_be_of_here(script: Script) -> None:
    """This world brings its requests and its model: another name would be given in vain."""
    wanted = {
        "load.requests": "featurechaos.demo.flights:requests",
        "model.predict": "featurechaos.demo.flights:predict",
    }
    given = {
        "load.requests": None if script.load == "none" else script.load.requests,
        "model.predict": script.model.predict if script.model else None,
    }
    for place, ours in wanted.items():
        if given[place] not in (None, ours):
            raise SpecError(f"{place}: the world flights brings its own: wanted {ours}, got {given[place]!r}")


def _begin_s(seed: int) -> float:
    """The wall clock at which a drill of this seed begins: eight o'clock, UTC, of some day."""
    day = Random(seed).randint(_FIRST_DAY, _LAST_DAY)
    return float(np.datetime64("2013-09-01", "s").astype(int)) + day * 86_400 + _BEGINS_H * HOUR_S


def _draw(world: FlightsWorld, entities: int) -> Draw:
    """Flights that ask about now, drawn by chance; at night the next ones to ask."""
    everyone = world.requests("unseen")
    asked_at = everyone.read_at.astype(np.int64)

    def draw(rng: Random, wall_s: float) -> Asked:
        begin = min(int(np.searchsorted(asked_at, int(wall_s * 1e6))), len(asked_at) - _AHEAD)
        some = everyone.take(np.array([begin + rng.randrange(_AHEAD) for _ in range(entities)]))
        return Asked(some.entity_rows, some.inputs)

    return draw


def _let_in(closers: Closers, s3: S3Server) -> None:
    """Put the S3 server's credentials in the environment while the stage is open: botocore looks there."""
    before = {name: os.environ.get(name) for name in s3.credentials()}
    os.environ.update(s3.credentials())

    def restore() -> None:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    closers.append(restore)


def _emptied(process: Any) -> None:
    rmtree(process.folder / "appendonlydir", ignore_errors=True)
