"""Bugs to plant in a running client, from the outside: what a checker that does its work must find.

Each changes one thing that a release could break, at the seam where it would break.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featurechaos import serving
from featurechaos.config import Settings
from featurechaos.effects import Plan
from featurechaos.layers.breaker import Gate, Permit, State
from featurechaos.layers.fetch import Fetch
from featurechaos.model import View
from featurechaos.readings import Part, Reading, Request, Rules, Started
from featurechaos.response import Response
from featurechaos.shortcut import Groups, Shortcut

_EVERY = 50


def swap_rows() -> None:
    """Two rows of a batch change places after they were decoded."""
    fetched, ended, turn = Fetch.__call__, Shortcut.end, iter(range(1 << 62))

    def swap(parts: Sequence[Part]) -> None:
        for part in parts:
            if len(part) > 1 and next(turn) % _EVERY == 0:
                order = np.arange(len(part))
                order[:2] = 1, 0
                part.rows = part.rows.take(order)

    def swapped(self: Fetch, request: Request) -> Plan[Reading]:
        reading = yield from fetched(self, request)
        swap(reading.parts)
        return reading

    def quickly_swapped(self: Shortcut, request: Request, started: Started, groups: Groups) -> list[Part] | None:
        parts = ended(self, request, started, groups)
        swap(parts or ())
        return parts

    Fetch.__call__ = swapped  # type: ignore[method-assign]
    Shortcut.end = quickly_swapped  # type: ignore[method-assign]


def drop_age() -> None:
    """A row that fell back is told as if it had just happened."""
    told = Response.provenance

    def fresh(self: Response, view: str) -> Any:
        truth = told(self, view)
        return truth._replace(age_s=np.where(truth.origin > 1, 0.0, truth.age_s))

    Response.provenance = fresh  # type: ignore[method-assign]


def keep_cancelled_connection() -> None:
    """A connection that was given up with its reply still to come goes back to the pool."""
    from featurechaos_redis.apool import APool
    from featurechaos_redis.pool import Pool

    dropped, adropped = Pool.drop, APool.drop

    def kept(self: Pool, link: Any) -> None:
        if link in self._links and link.sock is not None and link.sock.fileno() >= 0:
            self.give(link)
        else:
            dropped(self, link)

    def akept(self: APool, link: Any) -> None:
        if link in self._links and link.is_open:
            link._reply = None
            self.give(link)
        else:
            adropped(self, link)

    Pool.drop, APool.drop = kept, akept  # type: ignore[method-assign]


def serve_past_limit() -> None:
    """The hard limit of a view is forgotten."""
    rules_of = serving.rules_of

    def unlimited(settings: Settings, view: View) -> Rules:
        return replace(rules_of(settings, view), hard_us=None)

    serving.rules_of = unlimited


def lose_permit() -> None:
    """The permit of a breaker's probe is never given back."""
    settled = Gate.settle

    def lost(self: Gate, permit: Permit, now: float, *, succeeded: bool | None, seconds: float) -> State | None:
        return None if permit.is_probe else settled(self, permit, now, succeeded=succeeded, seconds=seconds)

    Gate.settle = lost  # type: ignore[method-assign]


PLANTS: dict[str, Callable[[], None]] = {
    one.__name__: one for one in (swap_rows, drop_age, keep_cancelled_connection, serve_past_limit, lose_permit)
}


def plant(name: str) -> None:
    """Plant one of `PLANTS`, before any client is made."""
    PLANTS[name]()
