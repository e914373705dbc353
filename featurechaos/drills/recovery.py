"""When a service was well again after a fault: the moment from which a probe holds for good."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from featurechaos.drills.probes import Probe
from featurechaos.drills.script import Recovery
from featurechaos.drills.window import Ledger

STEP_S = 0.25
"""The probe is asked of stretches this long; a recovery is known no finer."""
LEAST_REQUESTS = 5
"""A stretch with fewer requests is put together with the next."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """`after_s`: from the end of the last fault to the end of the first stretch from which all hold.

    None: it never held for good, or (`is_unknown`) there was too little to see. `lost_s` is the end
    of the last stretch that did not hold: the truth lies between the two. `flaps` counts how often
    it held and was lost again.
    """

    after_s: float | None
    lost_s: float = 0.0
    flaps: int = 0
    is_unknown: bool = False
    why: str = ""


def recovered(ledger: Ledger, wanted: Recovery) -> Recovered:
    """Look at every stretch from the last fault's end to the end of the drill."""
    ends = [end for _, _, end in ledger.fault_windows]
    if not ends:
        return Recovered(None, is_unknown=True, why="no fault was applied")
    began = max(ends)
    told = _stretches(ledger, wanted.check, began)
    if not told:
        return Recovered(None, is_unknown=True, why="nothing was asked after the fault's end")
    flaps = sum(was and not now for (_, was), (_, now) in pairwise(told))
    lost = max((at for at, (_, holds) in enumerate(told) if not holds), default=-1)
    lost_s = round(told[lost][0] - began, 3) if lost >= 0 else 0.0
    if lost == len(told) - 1:
        is_unknown = ledger.whole.end < began + wanted.within_s
        return Recovered(None, lost_s, flaps, is_unknown, why="not by the end of the drill")
    return Recovered(round(told[lost + 1][0] - began, 3), lost_s, flaps)


def _stretches(ledger: Ledger, probe: Probe, began: float) -> list[tuple[float, bool]]:
    """The end of each stretch with enough requests in it, and whether the probe held there."""
    told, begin, end = [], began, began
    while end < ledger.whole.end:
        end = min(end + STEP_S, ledger.whole.end)
        window = ledger.whole.between(begin, end)
        if len(window.requests) < LEAST_REQUESTS and not probe.live:
            continue
        measure = probe.measure(window)
        begin = end
        if measure.value is not None:
            told.append((end, probe.holds(measure.value)))
    return told
