"""The flights world: real requests, features as they were known at any hour, and a model.

Each flight of 2013 out of New York asks half an hour before its schedule whether it will arrive late.
Features are rolling means over what had departed and arrived by then, so staleness is real: the same
read, some hours earlier.

    world = FlightsWorld.build()
    requests = world.requests(since="2013-09-10T20:00", until="2013-09-11T02:00")
    fresh = world.features_at(requests)
    stale = world.features_at(requests, age_s=86_400)
    world.model.predict_matrix(stale, requests.inputs) >= world.model.threshold
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurechaos.clock import ShiftedClock
from featurechaos.demo.flightlog import HOUR_US, MINUTE_US, FlightLog
from featurechaos.demo.scoring import Answered, Model
from featurechaos.demo.tables import LATE_MIN, Ints, Known, Table
from featurechaos.demo.views import tables
from featurechaos.errors import RequestError

Instant = np.datetime64 | datetime | str
"""UTC unless it says otherwise; a string as ISO 8601."""
Phase = Literal["train", "test", "unseen"]

SEED = 7
SPLIT = "2013-09-01"
ASK_AHEAD_US = 30 * MINUTE_US
_HELD_OUT_ROWS = 5_000
_LOCAL_US = 5 * HOUR_US
"""New York's winter time. So few flights are scheduled just after midnight that summer time is left out."""
_DAY_US = 24 * HOUR_US
_THURSDAY = 3
"""What 1970-01-01 was, with Monday 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests in order of time.

    entity_rows: airport, dest, carrier, tailnum, object arrays of str (n,); inputs: `scoring.INPUTS`, (n,);
    labels: bool (n,), whether it did arrive late; read_at: datetime64[us] (n,); flight: int64 (n,), its
    place in the log.
    """

    entity_rows: dict[str, NDArray[Any]]
    inputs: dict[str, NDArray[Any]]
    labels: NDArray[np.bool_]
    read_at: NDArray[np.datetime64]
    flight: Ints

    def __len__(self) -> int:
        return len(self.flight)

    def take(self, index: slice | NDArray[Any]) -> Requests:
        """Some of them."""
        return Requests(
            {name: column[index] for name, column in self.entity_rows.items()},
            {name: column[index] for name, column in self.inputs.items()},
            self.labels[index],
            self.read_at[index],
            self.flight[index],
        )


@dataclass(frozen=True, eq=False)
class FlightsWorld:
    """A year of flights with a train and a test sample; the model is fitted on first use.

    train, test: places in the log, int64, in order of time. `unseen` requests are all flights from the
    split on, the test sample among them.
    """

    log: FlightLog
    tables: Mapping[str, Table]
    seed: int
    train: Ints
    test: Ints
    unseen: Ints
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _fitted: list[Model] = field(default_factory=list, repr=False)

    @classmethod
    def build(
        cls,
        seed: int = SEED,
        *,
        train_rows: int = 40_000,
        test_rows: int = 20_000,
        split: Instant = SPLIT,
        cache_dir: Path | None = None,
    ) -> Self:
        """Read the year and draw the samples: train before the split, test from it on.

        Cancelled and diverted flights are left out: nobody knows how late they would have been.

        Raises:
            RequestError: a sample is larger than what there is.
        """
        log = FlightLog.load(cache_dir)
        by_time = np.argsort(log.scheduled_us, kind="stable")
        complete = by_time[log.arrived[by_time] & (log.tail[by_time] >= 0)]
        before = log.scheduled_us[complete] < instant_us(split)
        draw = np.random.default_rng(seed)
        train = _drawn(draw, complete[before], train_rows, "train_rows")
        test = _drawn(draw, complete[~before], test_rows, "test_rows")
        return cls(log, tables(log), seed, train, test, complete[~before])

    @property
    def feature_refs(self) -> list[str]:
        """All 28 features as `view:feature`, in the order of `features_at`."""
        return [f"{name}:{feature}" for name, table in self.tables.items() for feature in table.features]

    def config_views(self) -> list[dict[str, Any]]:
        """The views as a config file lists them."""
        return [table.config() for table in self.tables.values()]

    @property
    def model(self) -> Model:
        """Fitted on the train sample as fresh; alerts on the top fifth of flights in neither sample."""
        with self._lock:
            if not self._fitted:
                self._fitted.append(self._fit())
            return self._fitted[0]

    def requests(
        self,
        phase: Phase = "test",
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        n: int | None = None,
        seed: int | None = None,
    ) -> Requests:
        """The requests of a phase that were asked within [since, until), in order of time.

        Args:
            n: draw so many of them, by seed (default: the world's); more than there are repeats some.

        Raises:
            RequestError: no such phase, or nobody asked in that time.
        """
        phases = {"train": self.train, "test": self.test, "unseen": self.unseen}
        if phase not in phases:
            msg = f"a phase is one of {', '.join(phases)}; got {phase!r}"
            raise RequestError(msg)
        flight = phases[phase]
        asked_us = self.log.scheduled_us[flight] - ASK_AHEAD_US
        begin = 0 if since is None else int(np.searchsorted(asked_us, instant_us(since)))
        end = len(flight) if until is None else int(np.searchsorted(asked_us, instant_us(until)))
        flight = flight[begin:end]
        if n is not None and not len(flight):
            msg = f"no {phase} request was asked from {since} until {until}, so {n} cannot be drawn"
            raise RequestError(msg)
        if n is not None:
            draw = np.random.default_rng(self.seed if seed is None else seed)
            flight = flight[np.sort(draw.choice(len(flight), n, replace=n > len(flight)))]
        return self._asked(flight)

    def view_table(self, view: str, at: Instant) -> dict[str, NDArray[Any]]:
        """A view as the newest hourly batch at an instant wrote it: a row for each entity seen so far.

        Columns: join keys (str), features (an int32 one with nulls comes as float64 with NaN), and
        `event_timestamp`, the hour of the batch, so that a fresh row is 0 to 59 minutes old.
        """
        return self._table(view).as_of(instant_us(at))

    def rows_at(self, view: str, requests: Requests, *, age_s: float = 0, at: Instant | None = None) -> Known:
        """What a view says for each request, read `age_s` before it was asked (or before `at`)."""
        table = self._table(view)
        read_us = requests.read_at.astype(np.int64) if at is None else np.full(len(requests), instant_us(at))
        return table.known(table.entity[requests.flight], read_us - round(age_s * 1e6))

    def features_at(self, requests: Requests, *, age_s: float = 0, at: Instant | None = None) -> NDArray[np.float32]:
        """The true features of each request, read straight from the tables: float32 (n, 28), NaN is null.

        Args:
            age_s: read them as they were known so long before the request.
            at: read all at one instant (less `age_s`) rather than when each was asked.
        """
        return np.hstack([self.rows_at(view, requests, age_s=age_s, at=at).values for view in self.tables])

    def _table(self, view: str) -> Table:
        if view not in self.tables:
            msg = f"the flights world has the views {', '.join(self.tables)}; got {view!r}"
            raise RequestError(msg)
        return self.tables[view]

    def _asked(self, flight: Ints) -> Requests:
        log = self.log
        local_us = log.scheduled_us[flight] - _LOCAL_US
        return Requests(
            entity_rows={
                "airport": log.airports.astype(object)[log.airport[flight]],
                "dest": log.dests.astype(object)[log.dest[flight]],
                "carrier": log.carriers.astype(object)[log.carrier[flight]],
                "tailnum": log.tails.astype(object)[log.tail[flight]],
            },
            inputs={
                "hour": log.hour[flight],
                "weekday": (local_us // _DAY_US + _THURSDAY) % 7,
                "distance": log.distance[flight],
                "carrier_code": log.carrier[flight],
                "origin_code": log.airport[flight],
                "dest_code": log.dest[flight],
            },
            labels=log.arr_delay[flight] > LATE_MIN,
            read_at=(log.scheduled_us[flight] - ASK_AHEAD_US).astype("M8[us]"),
            flight=flight,
        )

    def _fit(self) -> Model:
        train = self._asked(self.train)
        model = Model.fit(self.feature_refs, self.features_at(train), train.inputs, train.labels, seed=self.seed)
        held_out = self._held_out()
        return model.alerting(self.features_at(held_out), held_out.inputs)

    def _held_out(self) -> Requests:
        """Flights from the split on that the test sample left over, to set the threshold on.

        From all months: scores have seasons, and a threshold of calm September would alert on two
        fifths of the year's end.
        """
        rest = np.setdiff1d(self.unseen, self.test)
        # A test sample that took them all leaves no others.
        rest = rest if len(rest) else self.unseen
        draw = np.random.default_rng([self.seed, 1])
        return self._asked(draw.choice(rest, min(_HELD_OUT_ROWS, len(rest)), replace=False))


def predict(response: Answered, **inputs: ArrayLike) -> NDArray[np.float64]:
    """Score a response with the default world's model; for a drill: `featurechaos.demo.flights:predict`."""
    return world().model.predict(response, **inputs)


def requests(**where: Any) -> Requests:
    """Requests of the default world, as `FlightsWorld.requests`; for a drill: `...flights:requests`."""
    return world().requests(**where)


def world() -> FlightsWorld:
    """The default world, built once a process."""
    with _lock:
        return _default()


def clock(at: Instant) -> ShiftedClock:
    """A clock that runs from an instant of that year on, for a client that lives in this world."""
    return ShiftedClock(instant_us(at) / 1e6)


def instant_us(instant: Instant) -> int:
    """Microseconds since 1970, UTC; RequestError for what is no time."""
    try:
        when = datetime.fromisoformat(instant) if isinstance(instant, str) else instant
        if isinstance(when, datetime) and when.tzinfo is not None:
            when = when.astimezone(UTC).replace(tzinfo=None)
        found = np.datetime64(cast("Any", when), "us")
    except (ValueError, TypeError) as error:
        raise RequestError(_no_instant(instant)) from error
    if np.isnat(found):
        raise RequestError(_no_instant(instant))
    return int(found.astype(np.int64))


def _no_instant(came: object) -> str:
    return f"an instant wants a datetime64, a datetime or an ISO string, got {came!r}"


_lock = threading.Lock()
_default: Callable[[], FlightsWorld] = cache(FlightsWorld.build)


def _drawn(draw: np.random.Generator, flights: Ints, rows: int, name: str) -> Ints:
    """So many of the flights, without repeats, still in order of time."""
    if not 0 < rows <= len(flights):
        msg = f"{name} wants 1 to {len(flights)} on its side of the split, got {rows}"
        raise RequestError(msg)
    return flights[np.sort(draw.choice(len(flights), rows, replace=False))]
