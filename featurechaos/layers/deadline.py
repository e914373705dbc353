"""Time: the request's one deadline, and the share of it that one attempt at one source may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from featurechaos.clock import Clock
from featurechaos.effects import Next, Plan
from featurechaos.errors import NoTime, StoreError, StoreRefused, StoreTimeout
from featurechaos.readings import Reading, Request

LEAST_S = 0.001
"""An attempt with less time than this is not worth its round trip."""

Meter = Callable[[str, str, float], None]
"""Hears each attempt: source, outcome (ok, partial, timeout, refused, error, injected, cancelled), seconds."""


class Deadline:
    """End the online walk early enough that the local tiers, decoding and the way up still fit.

    `reserve_s` is kept back of the request's time, at most half of it.
    """

    def __init__(self, clock: Clock, *, reserve_s: float = 0.005) -> None:
        self._clock, self._reserve_s = clock, reserve_s

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        if request.started is not None:  # when that began, more was left
            until = request.started.walk_until
        else:
            until = held_back(request.until, self._clock.monotonic(), self._reserve_s)
        return inner(request.to(request.source, until))


def held_back(until: float, now: float, reserve_s: float) -> float:
    """The end of the online walk: `reserve_s` before `until`, or half of what is left."""
    left = until - now
    return until - reserve_s if left >= 2 * reserve_s else until - max(left, 0.0) / 2


class Attempt:
    """Give one attempt its source's timeout or what is left, whichever is less; time it and tell."""

    def __init__(self, clock: Clock, timeouts: Mapping[str, float], meter: Meter) -> None:
        self._clock, self._timeouts, self._meter = clock, timeouts, meter

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        if (head := request.head) is not None:
            begun, until = head.begun, head.until
        else:
            begun = self._clock.monotonic()
            until = min(request.until, begun + self._timeouts[request.source])
            if until - begun < LEAST_S:
                msg = f"source {request.source!r} was not asked: {max(0.0, until - begun) * 1000:.1f} ms were left"
                raise NoTime(msg)
        outcome = "cancelled"
        try:
            reading = yield from inner(request.to(request.source, until))
            outcome = "partial" if reading.is_partial else "ok"
            return reading
        except StoreError as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._meter(request.source, outcome, self._clock.monotonic() - begun)


def outcome_of(error: StoreError) -> str:
    """An error as the label that metrics know it by; where a fault stood in, the source was not called."""
    if error.injected:
        return "injected"
    if isinstance(error, StoreTimeout):
        return "timeout"
    if isinstance(error, StoreRefused):
        return "refused"
    return "error"
