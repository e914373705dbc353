"""Histories made by hand: one reader, a few rows, all of it true until a test says otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np

from featurechaos import Cause, Origin, Status
from featurechaos.model import NO_TIME_US
from tests.nemesis.history import (
    ACTOR_BITS,
    ANSWERED,
    PLAIN,
    REQUESTS,
    ROW,
    ROWS,
    WRITES,
    History,
    Sent,
    Struck,
    Told,
)
from tests.nemesis.stored import BASE, default_digest, null_digest, wanted
from tests.nemesis.worlds import DEADLINE_S

START_US = 1_700_000_000_000_000
"""The wall clock when the monotonic one says 0."""


@dataclass
class Story:
    """What happened, told in the order of its making; times are seconds since the start."""

    actor: int = 1
    strikes: list[Struck] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    stalls: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    ends: list[Mapping[str, Any]] = field(default_factory=list)
    unplayed: list[str] = field(default_factory=list)
    notes: list[Mapping[str, Any]] = field(default_factory=lambda: [{"what": "left"}])
    _requests: list[Any] = field(default_factory=list)
    _rows: list[Any] = field(default_factory=list)
    _writes: list[Any] = field(default_factory=list)

    def wrote(self, key: int, at: float, *, view: int = BASE, kind: int = ROW, took: float = 0.001, **how: Any) -> int:
        """A write that began at a time; the event time of its row."""
        write = np.zeros(1, WRITES)
        time_us = START_US + round(at * 1e6)
        write["view"], write["key"], write["event_time"], write["kind"] = view, key, time_us, kind
        write["generation"], write["began"], write["ended"] = 1, at, at + took
        write["primary"], write["replica"] = True, True
        for name, value in how.items():
            write[name] = value
        self._writes.append(write)
        return time_us

    def asked(self, at: float, rows: Sequence[Any], *, took: float = 0.005, **how: Any) -> int:
        """A call that began at a time, and the rows it was answered; its number."""
        request = np.zeros(1, REQUESTS)
        number = (self.actor << ACTOR_BITS) + len(self._requests)
        request["id"], request["began"], request["ended"] = number, at, at + took
        request["wall_before"], request["wall_after"] = START_US / 1e6 + at, START_US / 1e6 + at + took
        request["deadline_s"], request["max_age_s"], request["gave_up"] = DEADLINE_S, nan, nan
        request["kind"], request["outcome"], request["rows"] = PLAIN, ANSWERED, len(rows)
        for name, value in how.items():
            request[name] = value
        self._requests.append(request)
        for place, row in enumerate(rows):
            row["at"] = place
            if np.isnan(row["age_s"])[0] and row["event_time"] != NO_TIME_US:
                row["age_s"] = max(0.0, (START_US + at * 1e6 - row["event_time"][0]) / 1e6)
            self._rows.append(row)
        return number

    def history(self) -> History:
        def whole(tables: list[Any], dtype: Any) -> Any:
            return np.concatenate(tables) if tables else np.empty(0, dtype)

        told = Told("threads", whole(self._requests, REQUESTS), whole(self._rows, ROWS), tuple(self.notes))
        return History(
            seed=7,
            seconds=60.0,
            told=(told,),
            writes=whole(self._writes, WRITES),
            strikes=tuple(self.strikes),
            sent=tuple(self.sent),
            stalls={told.actor: self.stalls},
            ends=tuple(self.ends),
            unplayed=tuple(self.unplayed),
        )


def row(key: int, time_us: int = NO_TIME_US, *, view: int = BASE, **claims: Any) -> Any:
    """A row as a truthful client tells it: the primary's, or NOT_FOUND where it is undated; its age is filled in."""
    made = np.zeros(1, ROWS)
    made["view"], made["key"], made["event_time"], made["age_s"] = view, key, time_us, nan
    made["origin"], made["status"], made["cause"] = Origin.PRIMARY, Status.PRESENT, Cause.NONE
    if time_us == NO_TIME_US:
        made["status"] = Status.NOT_FOUND
        made["digest"] = null_digest(view, 1)
        if claims.get("origin") == Origin.DEFAULT:
            made["digest"] = default_digest(view, 1)
    else:
        made["digest"] = wanted(view, key, time_us, writer=1, reader=1)
    for name, value in claims.items():
        made[name] = value
    return made


def struck(fault: str, began: float, ended: float, target: str = "primary") -> Struck:
    """A fault that was in force at once, and healed at once."""
    return Struck(fault, target, began, began, ended, ended, 1)
