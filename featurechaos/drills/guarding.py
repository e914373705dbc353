"""Guards: what ends a drill early. Shares by an e-process, valid however often one looks; the rest at once.

Ramdas, Gruenwald, Vovk, Shafer, "Game-Theoretic Statistics and Safe Anytime-Valid Inference", 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

from featurechaos.drills.history import GuardState, History, Record, Request
from featurechaos.drills.probes import NoDataS, Probe
from featurechaos.drills.window import Window
from featurechaos.impact.detectors import EProcess

LOOK_EVERY_S = 0.5


class Guards:
    """Looks at what came in since the last look. `tripped` says which guard ended the drill, or nothing."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._probes = tuple(probes)
        # Several guards share the error that one of them may make.
        self._tests = {
            number: EProcess(probe.max, alpha=probe.alpha / len(self._probes))
            for number, probe in enumerate(self._probes)
            if probe.max is not None and 0 < probe.max < 1 and probe.count(_nothing()) is not None
        }
        self._last: float | None = None
        self._answered_at: float | None = None
        self.tripped = ""

    def look(self, now: float, records: Sequence[Record]) -> list[GuardState]:
        """The state of each guard, at most twice a second; none in between."""
        answered = [one.t_done for one in records if isinstance(one, Request) and one.error is None]
        self._answered_at = max([*answered, self._answered_at or 0.0]) if answered else self._answered_at
        if not self._probes:
            return []
        if self._last is None:
            self._last = self._answered_at = now
        window = Window.of(History(tuple(records)))
        states = []
        for number, probe in enumerate(self._probes):
            state = self._state(number, probe, window, now)
            if state is not None:
                states.append(state)
                if state.tripped and not self.tripped:
                    self.tripped = state.detail
        self._last = now
        return states

    def _state(self, number: int, probe: Probe, window: Window, now: float) -> GuardState | None:
        if isinstance(probe, NoDataS):
            value: float | None = now - (self._answered_at or now)
        elif (test := self._tests.get(number)) is not None:
            counted = probe.count(window)
            hits, of, _ = counted or ((), (), "")
            total = int(sum(of))
            if not total:
                return None
            tripped = test.update(int(sum(hits)), total)
            share = int(sum(hits)) / total
            return self._told(probe, share, now, tripped=tripped)
        else:
            value = probe.measure(window).value
        if value is None:
            return None
        return self._told(probe, value, now, tripped=not probe.holds(value))

    @staticmethod
    def _told(probe: Probe, value: float, now: float, *, tripped: bool) -> GuardState:
        bound = probe.max if probe.max is not None else probe.min
        detail = f"{probe.label}: {value:.4g}, past its bound of {bound}" if tripped else ""
        return GuardState(t=now, guard=probe.probe, value=float(value), tripped=tripped, detail=detail)


def _nothing() -> Window:
    return Window.of(History(()))
