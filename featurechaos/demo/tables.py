"""Views of the flights world, each readable as it stood at any hour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featurechaos.demo.flightlog import HOUR_US, WEATHER, FlightLog
from featurechaos.demo.rolling import Rolling

Ints = NDArray[np.int64]
Quantity = Literal["dep_delay", "arr_delay", "late", "departures"]
LATE_MIN = 15
HOURLY_TTL_S = 7200
NEW_YEAR_US = int(np.datetime64("2013-01-01", "us").astype(np.int64))


@dataclass(frozen=True, slots=True)
class Window:
    """One rolling feature: the mean of a quantity over the last hours (a count, for departures)."""

    name: str
    quantity: Quantity
    hours: int


@dataclass(frozen=True, slots=True)
class Known:
    """What a view knew of n entities at n instants.

    values: float32 (n, k), NaN is null; found: bool (n,), False where there was no row yet;
    event_us: int64 (n,), the hour of the batch that wrote the row.
    """

    values: NDArray[np.float32]
    found: NDArray[np.bool_]
    event_us: Ints


class Table(ABC):
    """One view. `keys` maps its join keys to the names of its entities, in the order of their codes.

    `entity` is the code of each flight's entity, int64 (n,), -1 where the flight has none.
    """

    ttl_s: int | None = HOURLY_TTL_S

    def __init__(self, name: str, keys: Mapping[str, NDArray[np.str_]], entity: Ints) -> None:
        self.name, self.entity = name, entity
        self.keys = {key: names.astype(object) for key, names in keys.items()}
        self.size = len(next(iter(keys.values())))

    @property
    @abstractmethod
    def features(self) -> dict[str, str]:
        """Feature name -> dtype, in the order of the values' columns."""

    @abstractmethod
    def _known(self, entity: Ints, hour_us: Ints) -> Known: ...

    def known(self, entity: Ints, at_us: Ints) -> Known:
        """What the newest batch at each instant said of each entity. Batches run on the hour."""
        there = entity >= 0
        known = self._known(np.where(there, entity, 0), at_us // HOUR_US * HOUR_US)
        found = known.found & there
        known.values[~found] = np.nan
        return Known(known.values, found, known.event_us)

    def as_of(self, at_us: int) -> dict[str, NDArray[Any]]:
        """Its rows as known at an instant: join keys (str), features as declared, event_timestamp.

        An integer feature with nulls comes as float64 with NaN.
        """
        everyone = np.arange(self.size)
        known = self.known(everyone, np.full(self.size, at_us))
        rows = np.flatnonzero(known.found)
        columns: dict[str, NDArray[Any]] = {key: names[rows] for key, names in self.keys.items()}
        for place, (feature, dtype) in enumerate(self.features.items()):
            columns[feature] = _as_declared(known.values[rows, place], dtype)
        return columns | {"event_timestamp": known.event_us[rows].astype("M8[us]")}

    def config(self) -> dict[str, Any]:
        """The view as a config file says it."""
        features = {name: {"dtype": dtype} for name, dtype in self.features.items()}
        return {
            "name": self.name,
            "join_keys": dict.fromkeys(self.keys, "string"),
            "features": features,
            "ttl_s": self.ttl_s,
        }


class RollingTable(Table):
    """Rolling means over what departed and arrived; a row for each entity seen so far."""

    def __init__(
        self, name: str, keys: Mapping[str, NDArray[np.str_]], entity: Ints, log: FlightLog, *windows: Window
    ) -> None:
        super().__init__(name, keys, entity)
        self.windows = windows
        out, back = log.departed & (entity >= 0), log.arrived & (entity >= 0)
        late = (log.arr_delay > LATE_MIN).astype(np.int64)
        self._departures = Rolling(entity[out], log.departed_us[out], {"dep_delay": log.dep_delay[out]})
        arrivals = {"arr_delay": log.arr_delay[back], "late": late[back]}
        self._arrivals = Rolling(entity[back], log.arrived_us[back], arrivals)

    @property
    def features(self) -> dict[str, str]:
        return {window.name: "float32" for window in self.windows}

    def _known(self, entity: Ints, hour_us: Ints) -> Known:
        ends = {id(events): events.until(entity, hour_us) for events in (self._departures, self._arrivals)}
        columns = []
        for window in self.windows:
            events = self._arrivals if window.quantity in ("arr_delay", "late") else self._departures
            end, begin = ends[id(events)], events.since(entity, hour_us, window.hours)
            counted = window.quantity == "departures"
            columns.append((end - begin) if counted else events.mean(window.quantity, begin, end))
        found = ends[id(self._departures)] > self._departures.first(entity)
        return Known(np.stack(columns, axis=1).astype(np.float32), found, hour_us)


class WeatherTable(Table):
    """The last report of each airport."""

    def __init__(self, name: str, keys: Mapping[str, NDArray[np.str_]], entity: Ints, log: FlightLog) -> None:
        super().__init__(name, keys, entity)
        order = np.lexsort((log.weather_us, log.weather_airport))
        self._reports = Rolling(log.weather_airport, log.weather_us, {})
        self._values = log.weather[order]

    @property
    def features(self) -> dict[str, str]:
        return dict.fromkeys(WEATHER, "float32")

    def _known(self, entity: Ints, hour_us: Ints) -> Known:
        end = self._reports.until(entity, hour_us)
        found = end > self._reports.first(entity)
        return Known(self._values[np.maximum(end - 1, 0)], found, hour_us)


class PlaneTable(Table):
    """What a plane is; written once, as the year begins."""

    ttl_s = None

    def __init__(self, name: str, log: FlightLog) -> None:
        order = np.argsort(log.planes)
        names = log.planes[order]
        place = np.minimum(np.searchsorted(names, log.tails), len(names) - 1)
        # The last place is for flights without a tail number: -1 finds it.
        of_tail = np.append(np.where(names[place] == log.tails, place, -1), -1)
        super().__init__(name, {"tailnum": names}, of_tail[log.tail])
        self._values = np.stack([log.seats[order], log.built[order]], axis=1).astype(np.float32)

    @property
    def features(self) -> dict[str, str]:
        return {"seats": "int32", "year": "int32"}

    def _known(self, entity: Ints, hour_us: Ints) -> Known:
        return Known(self._values[entity], hour_us >= NEW_YEAR_US, np.full(len(entity), NEW_YEAR_US))


def _as_declared(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == "int32" and np.isnan(values).any():
        return values.astype(np.float64)
    return values.astype(dtype)
