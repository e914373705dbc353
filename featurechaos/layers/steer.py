"""Obey an operator: a source that is drained is not asked, one that is held keeps what its breaker has decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from featurechaos.clock import Clock
from featurechaos.effects import Next, Plan
from featurechaos.errors import BreakerOpen, RequestError
from featurechaos.locks import Locked
from featurechaos.readings import Reading, Request

Order = Literal["drain", "hold", "auto"]
TOLD: Mapping[Order, str] = {"drain": "source.drained", "hold": "source.held", "auto": "source.released"}
"""What is told of an order."""


class Gate(Protocol):
    """A breaker that can be made to stay as it is."""

    def hold(self, now: float) -> None: ...

    def release(self, now: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """An order that holds: since when (monotonic seconds), and why."""

    order: Order
    since: float
    reason: str


class Steer(Locked):
    """The orders that hold, at most one a source; in front of every attempt, where none costs one look-up.

    They last until another is given or the process ends. In a forked child there are none: who gave them speaks to
    the parent.
    """

    def __init__(self, clock: Clock, sources: Sequence[str], gates: Mapping[str, Gate]) -> None:
        super().__init__()
        self._clock, self._sources, self._gates = clock, tuple(sources), gates
        self.standing: dict[str, Standing] = {}
        self.drained: frozenset[str] = frozenset()

    def __call__(self, request: Request, inner: Next) -> Plan[Reading]:
        if request.source in self.drained:
            raise self.refusal(request.source)
        return inner(request)

    def refusal(self, source: str) -> BreakerOpen:
        """What a drained source fails with."""
        return BreakerOpen(f"source {source!r} was not asked: it is drained")

    def order(self, source: str, order: Order, reason: str) -> None:
        """Give an order; it replaces the one before. RequestError for a source that is not asked online."""
        if source not in self._sources:
            msg = f"source wants one of {', '.join(self._sources)}, got {source!r}"
            raise RequestError(msg)
        with self._lock:
            now, standing = self._clock.monotonic(), dict(self.standing)
            standing.pop(source, None)
            if order != "auto":
                standing[source] = Standing(order, now, reason)
            self.standing = standing
            self.drained = frozenset(name for name, one in standing.items() if one.order == "drain")
            if (gate := self._gates.get(source)) is not None:
                if order == "hold":
                    gate.hold(now)
                else:
                    gate.release(now)

    def guard(self, gates: Mapping[str, Gate]) -> None:
        """Speak to these breakers from now on; what is held stays held."""
        with self._lock:
            self._gates = gates
            for source, one in self.standing.items():
                if one.order == "hold" and source in gates:
                    gates[source].hold(self._clock.monotonic())

    def forked(self) -> None:
        """In a child nobody has ordered anything yet."""
        for source in self.standing:
            if source in self._gates:
                self._gates[source].release(self._clock.monotonic())
        self.standing, self.drained = {}, frozenset()
