"""The eight views of the flights world and their 28 features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurechaos.demo.flightlog import FlightLog
from featurechaos.demo.tables import Ints, PlaneTable, RollingTable, Table, WeatherTable, Window

_AIRPORT = (
    Window("dep_delay_mean_2h", "dep_delay", 2),
    Window("dep_delay_mean_6h", "dep_delay", 6),
    Window("dep_delay_mean_24h", "dep_delay", 24),
    Window("dep_delay_mean_168h", "dep_delay", 168),
    Window("late_share_6h", "late", 6),
    Window("departures_2h", "departures", 2),
)
_CARRIER = (
    Window("carrier_dep_delay_mean_2h", "dep_delay", 2),
    Window("carrier_dep_delay_mean_6h", "dep_delay", 6),
    Window("carrier_dep_delay_mean_24h", "dep_delay", 24),
    Window("carrier_late_share_168h", "late", 168),
)
_PAIR = (
    Window("carrier_airport_dep_delay_mean_2h", "dep_delay", 2),
    Window("carrier_airport_dep_delay_mean_24h", "dep_delay", 24),
    Window("carrier_airport_late_share_168h", "late", 168),
)
_ROUTE = (
    Window("route_arr_delay_mean_6h", "arr_delay", 6),
    Window("route_arr_delay_mean_24h", "arr_delay", 24),
    Window("route_late_share_168h", "late", 168),
)
_DEST = (
    Window("dest_arr_delay_mean_2h", "arr_delay", 2),
    Window("dest_arr_delay_mean_6h", "arr_delay", 6),
    Window("dest_arr_delay_mean_24h", "arr_delay", 24),
)
_PLANE = (
    Window("plane_dep_delay_mean_6h", "dep_delay", 6),
    Window("plane_late_share_168h", "late", 168),
)


def tables(log: FlightLog) -> dict[str, Table]:
    """The views by name; 28 features in all, no two of one name."""
    airport = {"airport": log.airports}
    pair, carriers, airports = _together(log.carrier, log.airport, log.carriers, log.airports)
    route, origins, dests = _together(log.airport, log.dest, log.airports, log.dests)
    rolling = (
        RollingTable("airport_hourly", airport, log.airport, log, *_AIRPORT),
        RollingTable("carrier_hourly", {"carrier": log.carriers}, log.carrier, log, *_CARRIER),
        RollingTable("carrier_airport_hourly", {"airport": airports, "carrier": carriers}, pair, log, *_PAIR),
        RollingTable("route_hourly", {"airport": origins, "dest": dests}, route, log, *_ROUTE),
        RollingTable("dest_hourly", {"dest": log.dests}, log.dest, log, *_DEST),
        RollingTable("plane_hourly", {"tailnum": log.tails}, log.tail, log, *_PLANE),
    )
    others = (WeatherTable("weather", airport, log.airport, log), PlaneTable("plane", log))
    return {table.name: table for table in (*rolling, *others)}


def _together(
    first: Ints, second: Ints, firsts: NDArray[np.str_], seconds: NDArray[np.str_]
) -> tuple[Ints, NDArray[np.str_], NDArray[np.str_]]:
    """Two codes as one, numbered over the pairs that occur; and the names of each pair's halves."""
    pairs, code = np.unique(first * len(seconds) + second, return_inverse=True)
    return code.astype(np.int64), firsts[pairs // len(seconds)], seconds[pairs % len(seconds)]
