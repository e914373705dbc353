"""Play a bench: cold starts, then one load before, during and after the fault; every fault undone on every path."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any

import numpy as np

from featurechaos.bench.breaks import Break
from featurechaos.bench.cold import Cold, can_start_cold, started_cold
from featurechaos.bench.pool import Pool
from featurechaos.bench.record import MAY_LOSE, Asked, Broken, Record
from featurechaos.bench.stalls import Stalls
from featurechaos.client import FeatureClient
from featurechaos.clock import SystemClock
from featurechaos.config import Metrics, Settings
from featurechaos.drills.history import HistoryWriter, read_history
from featurechaos.drills.load import workers_of
from featurechaos.drills.probes import OriginShare
from featurechaos.drills.run import Run
from featurechaos.drills.script import Load, Recovery, Script, SteadyState, Step
from featurechaos.drills.stage import Asked as Request
from featurechaos.drills.stage import Stage
from featurechaos.drills.strike import strike
from featurechaos.errors import Exhausted, FeatureError
from featurechaos.response import Response
from featurechaos.version import VERSION

REASON = "featurechaos bench"
SETTLE_S = 3.0
"""Given to a policy beyond its own `open_s + healthy_s + ramp_s` to come back."""
_REFRESH_S = 60.0
_WARM_READS = 5
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What is to be played on a config.

    `views` are those of `features`; `for_s` is the length of each phase, but that the last one lasts as long as the
    policy may take to come back; `is_cold`: start processes cold as well, before and while it is broken.
    """

    settings: Settings
    features: Sequence[str] | str
    views: Sequence[str]
    pool: Pool
    rate_per_s: float
    batch: int
    for_s: float
    seed: int
    breaks: tuple[Break, ...] = ()
    may_lose: float = MAY_LOSE
    is_cold: bool = True

    @property
    def settle_s(self) -> float:
        """How long the policy may take to come back to a source that is well again."""
        breaker = self.settings.policy.breaker
        return SETTLE_S + (breaker.open_s + breaker.healthy_s + breaker.ramp_s if breaker else 0.0)

    @property
    def waits_s(self) -> float:
        """How much longer than `for_s` the last phase is."""
        return max(0.0, self.settle_s + 1.0 - self.for_s) if self.breaks else 0.0

    @property
    def takes_s(self) -> float:
        """About how long it takes, cold starts and what is hydrated left out."""
        return self.for_s * (3 if self.breaks else 1) + self.waits_s


class WholeReads(FeatureClient):
    """A client whose every read ends with all of its columns in hand, as a model wants them: that is what is timed."""

    def get_online_features(self, features: Any, entity_rows: Any, *args: Any, **options: Any) -> Response:
        """As `FeatureClient.get_online_features`, with full names."""
        response = super().get_online_features(features, entity_rows, True, **options)
        for name in response.columns:
            response.columns[name]
        return response


def play(setup: Setup, journal: Path, *, say: Say = lambda line: None) -> Record:
    """Play it, with its history written to `journal`, a file that is not there yet.

    Raises FeatureError where it cannot even begin. Ctrl-C and SIGTERM end it early, with everything undone.
    """
    cold: dict[str, Cold] = {}
    with ExitStack() as ending:
        # Whatever happens, nothing that was named stays stopped.
        for one in setup.breaks:
            if one.process is not None:
                ending.callback(one.process.thaw)
        if setup.is_cold and can_start_cold(setup.settings):
            say("cold: starting a process with an empty cache")
            cold["before"] = _cold(setup)
        stage = ending.enter_context(_stage(setup, say))
        stalls = ending.enter_context(Stalls())
        writer = ending.enter_context(HistoryWriter(journal))
        clock = SystemClock()
        run = Run(_script(setup), stage, writer, say)
        began = clock.monotonic()
        run.play()
        writer.close()
        history = read_history(journal)
        seen = stalls.since(began)
        is_whole = any(one.kind == "end" and getattr(one, "reason", "") == "done" for one in history.records)
        if cold and setup.breaks and is_whole and can_break_again(setup.breaks, stage.client):
            say(f"cold: starting a process while {' and '.join(one.name for one in setup.breaks)}")
            cold["during"] = _cold_while_broken(setup, stage)
        return Record(
            asked=_asked(setup, stage),
            history=history,
            cold=cold,
            stalls=seen,
            image_age_s=_image_ages(setup, stage.client),
            versions={"featurechaos": VERSION, "python": platform.python_version(), "numpy": np.__version__},
        )


@contextmanager
def _stage(setup: Setup, say: Say) -> Iterator[Stage]:
    """An open client with its local copies up to date and its connections open: what a running service has."""

    def draw(rng: Random, wall_s: float) -> Request:
        del wall_s
        return Request(setup.pool.draw(rng, setup.batch))

    with WholeReads(_alone(setup.settings)) as client:
        if any(setup.settings.policies[view].local for view in setup.views):
            say("warm: bringing local copies up to date")
        client.refresh(_REFRESH_S)
        processes: Any = {one.spec.target: one.process for one in setup.breaks if one.process is not None}
        stage = Stage(client, setup.features, draw, processes=processes)
        _warm_up(setup, stage)
        # A full collection of what the bench itself holds would be told as what users feel.
        client.ready(freeze=True)
        try:
            yield stage
        finally:
            gc.unfreeze()


def _alone(settings: Settings) -> Settings:
    """The settings of a client that nobody else uses.

    It opens no port. `max_share` bounds what a fault may do to the users of a serving process; this one has none.
    """
    chaos = settings.chaos.model_copy(update={"listen": None, "max_share": 1.0})
    return replace(settings, metrics=Metrics(), chaos=chaos)


def _warm_up(setup: Setup, stage: Stage) -> None:
    """A few reads from as many threads as the load will have: connections, and code met for the first time."""
    rng = Random(setup.seed)
    drawn = [stage.draw(rng, 0.0).entity_rows for _ in range(_WARM_READS)]

    def read() -> None:
        for rows in drawn:
            with suppress(Exhausted):
                stage.client.get_online_features(stage.features, rows)

    read()  # a wrong call is told here, before there is a thread to lose it
    workers = workers_of(setup.rate_per_s, setup.settings.policy.deadline_s)
    threads = [Thread(target=read, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_REFRESH_S)


def _script(setup: Setup) -> Script:
    """The bench as a drill: its three phases and its faults, and no expectation but our own."""
    # With nothing broken both of its phases are one to us.
    phase_s = setup.for_s if setup.breaks else setup.for_s / 2
    steps = tuple(Step(at_s=0.0, name=one.name, inject=one.spec, for_s=setup.for_s) for one in setup.breaks)
    back = OriginShare(probe="origin_share", origin=("PRIMARY",), min=0.9)
    return Script(
        title=REASON,
        load=Load(requests="featurechaos.bench", rate_per_s=setup.rate_per_s, entities=setup.batch),
        steady_state=SteadyState(title="as it is", for_s=phase_s, probes=()),
        method=steps,
        recovery=Recovery(within_s=setup.waits_s, check=back) if setup.waits_s else None,
        seed=setup.seed,
        reason=REASON,
    )


def can_break_again(breaks: Sequence[Break], client: FeatureClient) -> bool:
    """A killed server is not killed twice: it is dead still, or is back, under another pid, and is not measured."""
    return all(
        one.comes_back or (one.process is not None and not one.process.is_there and not _answers(one, client))
        for one in breaks
    )


def _answers(one: Break, client: FeatureClient) -> bool:
    try:
        client.store(one.spec.target).layouts(client.settings.project, [0], client.clock.monotonic() + 1.0)
    except FeatureError:
        return False
    return True


def _cold(setup: Setup, breaks: Sequence[Break] = ()) -> Cold:
    return started_cold(
        setup.settings,
        setup.features,
        setup.views,
        setup.pool,
        batch=setup.batch,
        seed=setup.seed,
        may_lose=setup.may_lose,
        breaks=breaks,
    )


def _cold_while_broken(setup: Setup, stage: Stage) -> Cold:
    """Break it once more, by itself: a process that starts under the load would be measured with the load."""
    with ExitStack() as ending:
        for one in setup.breaks:
            if one.process is not None and one.comes_back:
                done = strike(one.spec, stage, seed=setup.seed, for_s=setup.for_s, reason=REASON)
                ending.callback(done.undo)
                done.do()
        return _cold(setup, setup.breaks)


def _asked(setup: Setup, stage: Stage) -> Asked:
    settings, features = setup.settings, setup.features
    return Asked(
        features=settings.services[features.removeprefix("service:")] if isinstance(features, str) else features,
        entities=setup.pool.whence,
        rate_per_s=setup.rate_per_s,
        batch=setup.batch,
        for_s=setup.for_s,
        seed=setup.seed,
        deadline_s=stage.client.settings.policy.deadline_s,
        settle_s=setup.settle_s,
        may_lose=setup.may_lose,
        broken=tuple(
            Broken(one.spec.target, one.state, settings.sources[one.spec.target].role.name, one.spec.fault, one.detail)
            for one in setup.breaks
        ),
    )


def _image_ages(setup: Setup, client: FeatureClient) -> dict[str, float]:
    """How old the image behind each view's local copy is."""
    ages: dict[str, float] = {}
    for view in setup.views:
        for source in client.settings.policies[view].local:
            if hasattr(client.settings.sources[source].store_class, "publish"):
                as_of_us = client.snapshot_store(source).replica_as_of(client.settings.views[view].base)
                if as_of_us is not None:
                    ages[view] = max(0.0, client.clock.wall() - as_of_us / 1e6)
    return ages
