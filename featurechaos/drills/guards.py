"""Guards: what ends a drill early. Asked again and again while it runs, and still wrong at most `alpha` of the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from featurechaos.drills.history import GuardState
from featurechaos.drills.measures import shown
from featurechaos.drills.probes import NoDataS, Probe
from featurechaos.drills.script import Script
from featurechaos.drills.window import Counts, Mask, Window
from featurechaos.impact.detectors import EProcess


@dataclass
class Guard:
    """One guard over the time a fault is on.

    A share with a `max` is tested by an e-process against it, so that looking every second stops no
    more drills for nothing than looking once; anything else trips as soon as it is out of bounds.
    Feed each stretch of time once, in order.
    """

    probe: Probe
    alpha: float | None = None
    _process: EProcess | None = field(default=None, init=False)
    _struck: float = field(default=0.0, init=False)
    _answered: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        budget = self.probe.max
        if self.probe.unit == "share" and budget is not None and 0 < budget < 1:
            self._process = EProcess(budget, alpha=self.alpha or self.probe.alpha)

    def look(self, window: Window) -> GuardState | None:
        """Take the next stretch in; None when it holds nothing to go by."""
        if isinstance(self.probe, NoDataS):
            return self._quiet(window)
        counted = self.probe.count(window)
        if self._process is None or counted is None:
            value = self.probe.measure(window).value
            return None if value is None else self._state(window, value, value, tripped=not self.probe.holds(value))
        return self._tested(window, self._process, *counted[:2])

    def _quiet(self, window: Window) -> GuardState:
        """Silence is counted on from one stretch to the next."""
        known = [window.begin if self._answered is None else self._answered]
        self._answered = max(known + [float(at) for at in window.requests.done if at <= window.end])
        value = window.end - self._answered
        return self._state(window, value, value, tripped=not self.probe.holds(value))

    def _tested(self, window: Window, process: EProcess, hits: Counts | Mask, totals: Counts) -> GuardState | None:
        # A request is one draw, by its share: its rows rise and fall together. The test stays valid
        # for shares, since its bet is convex in them; what is left of a whole one waits for the next.
        asked = totals > 0
        draws = int(asked.sum())
        if not draws:
            return None
        shares = float((hits[asked] / totals[asked]).sum())
        before, self._struck = math.floor(self._struck + 1e-9), self._struck + shares
        tripped = process.update(min(math.floor(self._struck + 1e-9) - before, draws), draws)
        return self._state(window, math.exp(min(process.log_e, 700.0)), shares / draws, tripped=tripped)

    def _state(self, window: Window, value: float, seen: float, *, tripped: bool) -> GuardState:
        detail = f"{self.probe.label} is {shown(seen, self.probe.unit)}" if tripped else ""
        return GuardState(t=window.end, guard=self.probe.probe, value=value, tripped=tripped, detail=detail)


def guards_of(script: Script) -> list[Guard]:
    """The guards of a script; they share out their doubt, so that more guards stop no more drills for nothing."""
    return [Guard(probe, alpha=probe.alpha / len(script.guards)) for probe in script.guards]
