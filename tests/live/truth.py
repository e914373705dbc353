"""What is stored where, and what an answer must say of it: every value tells its key and its version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurechaos import Cause, Origin, Status
from featurechaos.model import NO_TIME_US

ENTITIES = 400
LIVE, IMAGE = 2, 1
"""The version of the rows online, and of those in the snapshot."""
_AGE_S = {LIVE: 60, IMAGE: 7200}
_SPACING_US = 1000
"""Each row has an event time of its own, so that ages of neighbours differ."""
_NOT_ONLINE, _NOT_IN_IMAGE = 49, 48

AWAY = (Cause.TIMEOUT, Cause.REFUSED, Cause.BREAKER_OPEN, Cause.NO_TIME)
"""Why a row is not the primary's while the primary is hurt, or the machine stands still for longer than a deadline."""
DEFAULT_DELAY = -1.0

VIEWS: list[dict[str, Any]] = [
    {
        "name": "plane",
        "join_keys": {"tail": "int64"},
        "features": {
            "number": {"dtype": "int64"},
            "ratio": {"dtype": "float32[4]"},
            "word": {"dtype": "string"},
        },
        "ttl_s": None,
    },
    {
        "name": "airport",
        "join_keys": {"code": "string"},
        "features": {"delay": {"dtype": "float32", "default": DEFAULT_DELAY}, "count": {"dtype": "int32"}},
        "ttl_s": 3600,  # a row of the image is past it, a live one is not
    },
]
FEATURES = ["plane:number", "plane:ratio", "plane:word", "airport:delay", "airport:count"]

Numbers = NDArray[np.int64]


def is_online(keys: Numbers) -> NDArray[np.bool_]:
    return np.asarray(keys % 50 != _NOT_ONLINE)


def is_in_image(keys: Numbers) -> NDArray[np.bool_]:
    return np.asarray(keys % 50 != _NOT_IN_IMAGE)


def event_time_us(keys: Numbers, version: int, base_us: int) -> Numbers:
    return base_us - _AGE_S[version] * 1_000_000 - keys * _SPACING_US


def codes(keys: Numbers) -> list[str]:
    return [f"K{key}" for key in keys.tolist()]


def values(keys: Numbers, version: int) -> dict[str, NDArray[Any]]:
    """feature -> (n,) or (n, 4): what is stored for each key in one version."""
    number = keys * 16 + version
    return {
        "number": number,
        "ratio": (number[:, None] * 4 + np.arange(4)).astype(np.float32),
        "word": np.array([f"{key}/{version}" for key in keys.tolist()], np.str_),
        "delay": (number / 8).astype(np.float32),
        "count": number.astype(np.int32),
    }


def table(view: str, version: int, base_us: int, *, keys: Numbers | None = None) -> dict[str, Any]:
    """One view's rows of a version, as a table to write or publish."""
    if keys is None:
        everyone = np.arange(ENTITIES)
        keys = everyone[is_online(everyone) if version == LIVE else is_in_image(everyone)]
    own = values(keys, version)
    times = event_time_us(keys, version, base_us).view("M8[us]")
    if view == "plane":
        ratio = list(own["ratio"])
        return {
            "tail": keys, "number": own["number"], "ratio": ratio, "word": own["word"].tolist(),
            "event_timestamp": times,
        }  # fmt: skip
    return {"code": codes(keys), "delay": own["delay"], "count": own["count"], "event_timestamp": times}


@dataclass
class Seen:
    """One view of many answers, row by row: what was asked, what was said. Columns are (n,) or (n, 4)."""

    view: str
    key: Numbers
    wall_us: Numbers
    values: dict[str, NDArray[Any]]
    nulls: dict[str, NDArray[np.bool_]]
    truth: Mapping[str, NDArray[Any]]
    away: tuple[Cause, ...] = AWAY
    untrue: list[str] = field(default_factory=list)

    def only(self, rows: NDArray[np.bool_]) -> Seen:
        """Some of the rows."""
        values = {name: column[rows] for name, column in self.values.items()}
        nulls = {name: column[rows] for name, column in self.nulls.items()}
        truth = {name: column[rows] for name, column in self.truth.items()}
        return Seen(self.view, self.key[rows], self.wall_us[rows], values, nulls, truth, self.away)

    def check(self, base_us: int) -> list[str]:
        """What is not true, in words; empty when every value, origin, status, cause and age is."""
        self.untrue = []
        origin, status = self.truth["origin"], self.truth["status"]
        served = status != Status.NOT_FOUND
        self._stored("live", (origin == Origin.PRIMARY) & served, LIVE, base_us)
        self._stored("image", origin == Origin.SNAPSHOT, IMAGE, base_us)
        self._absent("missing", (origin == Origin.PRIMARY) & ~served)
        self._absent("lost", (origin == Origin.NONE) | (origin == Origin.DEFAULT))
        known = np.isin(origin, (Origin.PRIMARY, Origin.SNAPSHOT, Origin.NONE, Origin.DEFAULT))
        self._claim("origin is one there is", known)
        self._claim("injected is never set", ~self.truth["injected"])
        return self.untrue

    def _stored(self, name: str, rows: NDArray[np.bool_], version: int, base_us: int) -> None:
        key = self.key[rows]
        if not len(key):
            return
        stored = is_online(key) if version == LIVE else is_in_image(key)
        self._claim(f"{name}: the row is stored there", stored)
        for feature, wanted in values(key, version).items():
            if feature in self.values:
                same = self.values[feature][rows] == wanted
                self._claim(f"{name}: {feature}", same if same.ndim == 1 else same.all(axis=1))
                self._claim(f"{name}: {feature} is not null", ~self.nulls[feature][rows])
        when = event_time_us(key, version, base_us)
        told = {column: array[rows] for column, array in self.truth.items()}
        self._claim(f"{name}: event_time", told["event_time"] == when)
        self._claim(f"{name}: age", told["age_s"] == (self.wall_us[rows] - when) / 1e6)
        expired = version == IMAGE and self.view == "airport"
        self._claim(f"{name}: status", told["status"] == (Status.EXPIRED if expired else Status.PRESENT))
        causes = (Cause.NONE,) if version == LIVE else self.away
        self._claim(f"{name}: cause", np.isin(told["cause"], causes))

    def _absent(self, name: str, rows: NDArray[np.bool_]) -> None:
        """Rows without a stored value: not there at all, or in neither place that answers."""
        key, told = self.key[rows], {column: array[rows] for column, array in self.truth.items()}
        if not len(key):
            return
        lost = name == "lost"
        has_default = lost and self.view == "airport"
        self._claim(f"{name}: no row is stored there", ~(is_in_image(key) if lost else is_online(key)))
        self._claim(f"{name}: status", told["status"] == (Status.UNAVAILABLE if lost else Status.NOT_FOUND))
        self._claim(f"{name}: cause", np.isin(told["cause"], self.away if lost else (Cause.NONE,)))
        self._claim(f"{name}: event_time", told["event_time"] == NO_TIME_US)
        self._claim(f"{name}: age", np.isnan(told["age_s"]))
        if lost:
            self._claim(f"{name}: origin", told["origin"] == (Origin.DEFAULT if has_default else Origin.NONE))
        for feature, null in self.nulls.items():
            if feature == "delay" and has_default:
                self._claim(f"{name}: default", self.values[feature][rows] == DEFAULT_DELAY)
                self._claim(f"{name}: default is not null", ~null[rows])
            else:
                self._claim(f"{name}: {feature} is null", null[rows])

    def _claim(self, what: str, holds: Any) -> None:
        if not np.all(holds):
            self.untrue.append(f"{self.view}, {what}: {int((~np.asarray(holds)).sum())} of {np.size(holds)} rows not")


def told_of(response: Any, view: str) -> dict[str, NDArray[Any]]:
    """A view's provenance as plain arrays."""
    truth = response.provenance(view)
    names: Sequence[str] = ("origin", "status", "cause", "age_s", "event_time", "injected")
    return {name: getattr(truth, name) for name in names}
