"""A source that answers late. Stands for a noisy neighbour, a long garbage collection, a slow network.

A healthy service cuts the attempt at its timeout and serves the rows from elsewhere; it opens the breaker
on a high share of slow calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf, log
from numbers import Real
from random import Random

from featurechaos.clock import Clock
from featurechaos.effects import Next, Plan, sleep
from featurechaos.errors import StoreTimeout
from featurechaos.readings import Reading, Request


@dataclass(frozen=True, slots=True)
class Delay:
    """An answer of `source` that comes `delay_s` late.

    `spread` is the sigma of a lognormal around it (0: fixed; 1 and more: heavy-tailed), drawn for each
    request from the injection's seed.
    """

    source: str
    delay_s: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not all(isinstance(each, Real) and 0 <= each < inf for each in (self.delay_s, self.spread)):
            msg = f"Delay wants delay_s and spread of 0 or more, got {self.delay_s!r} and {self.spread!r}"
            raise ValueError(msg)

    @property
    def name(self) -> str:
        return f"delay:{self.source}"

    def strike(self, request: Request, inner: Next, clock: Clock, draw: float) -> Plan[Reading]:
        """Wait, then ask; a wait longer than the caller's is the timeout it would be."""
        delay_s = self.delay_s
        if self.spread and delay_s:
            delay_s = exp(log(delay_s) + self.spread * Random(draw).gauss(0, 1))
        left = request.until - clock.monotonic()
        if delay_s >= left:
            yield from sleep(max(0.0, left))
            error = StoreTimeout(f"source {self.source!r} gave no answer in time")
            error.injected = True
            raise error
        yield from sleep(delay_s)
        return (yield from inner(request))
