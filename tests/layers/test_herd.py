"""A source that comes back to a fleet that waits for it: what it is asked, tenth of a second by tenth of a second."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest

from featurechaos.layers.breaker import Gate, Limits, State

LIMITS = Limits()
PROCESSES, CALLS_A_SLOT, SLOT_S = 100, 20, 0.1
BACK_AT_S = 30.0


class Fleet:
    """Processes of 200 calls a second each, whose source goes at 0 and is back at `BACK_AT_S`."""

    def __init__(self, *, is_kept: bool = True) -> None:
        self.random, self.is_kept = Random(7), is_kept
        self.gates = [Gate(LIMITS, rng=Random(number), now=0.0) for number in range(PROCESSES)]
        self.asked: list[int] = []
        self.probed: list[int] = []

    def run(self, until: float) -> Any:
        """Calls of every tenth of a second until then; (slots,) calls that reached the source."""
        step_s = SLOT_S / CALLS_A_SLOT
        for slot in range(round(until / SLOT_S)):
            self.asked.append(0)
            for step in range(CALLS_A_SLOT):
                now = slot * SLOT_S + step * step_s
                for gate in self.gates:
                    if self.is_kept and gate.keep(now, for_s=1.0) == 0 and self._call(gate, now, is_keeper=True):
                        self.probed.append(slot * CALLS_A_SLOT + step)
                    self._call(gate, now, is_keeper=False)
        return np.array(self.asked)

    def _call(self, gate: Gate, now: float, *, is_keeper: bool) -> bool:
        permit = gate.admit(now, is_keeper=is_keeper)
        if permit is None:
            return False
        self.asked[-1] += 1
        gate.settle(permit, now, succeeded=now >= BACK_AT_S, seconds=0.001)
        return True


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    fleet = Fleet()
    fleet.run(BACK_AT_S + 8.0)
    return fleet


def slot(at_s: float) -> int:
    return round(at_s / SLOT_S)


@pytest.mark.parametrize(("begin_s", "end_s", "each_s"), [(2, 10, 0.25), (20, 30, 0.5)])
def test_while_it_is_away_a_fleet_asks_at_most_so_often_and_not_in_step(
    fleet: Fleet, begin_s: float, end_s: float, each_s: float
) -> None:
    asked = np.array(fleet.asked)[slot(begin_s) : slot(end_s)]

    assert asked.sum() <= PROCESSES * (end_s - begin_s) / each_s
    assert asked.max() <= 0.6 * PROCESSES, "in step, all would ask in one tenth of a second"
    assert asked.max() <= 2 * asked.mean()


def test_it_is_met_by_a_slope_and_not_by_a_wall(fleet: Fleet) -> None:
    healthy = PROCESSES * CALLS_A_SLOT
    back = np.array(fleet.asked)[slot(BACK_AT_S) :] / healthy

    assert back.max() <= 1.02
    assert np.diff(back).max() <= 0.12, "of what it takes in health, in a tenth of a second"
    assert back[: slot(LIMITS.healthy_s)].max() <= 0.06, "probes alone"
    assert back[slot(1.2 + LIMITS.healthy_s + LIMITS.ramp_s + 0.2) :].min() >= 0.98
    assert {gate.state for gate in fleet.gates} == {State.CLOSED}
