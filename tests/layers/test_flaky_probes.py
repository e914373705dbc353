"""A source on its way back that answers late once in a while, as every one does on a busy machine."""

from __future__ import annotations

from random import Random

import pytest

from featurechaos.layers.breaker import Gate, Limits, State

LIMITS = Limits()


def opened() -> Gate:
    """A gate that has just opened, at time 0."""
    gate = Gate(LIMITS, rng=Random(7), now=0.0)
    for _ in range(LIMITS.min_calls):
        permit = gate.admit(0.0)
        assert permit is not None
        gate.settle(permit, 0.0, succeeded=False, seconds=0.015)
    assert gate.state is State.OPEN
    return gate


def probed(gate: Gate, now: float, *, ok: bool) -> None:
    permit = gate.admit(now)
    assert permit is not None
    assert permit.is_probe
    gate.settle(permit, now, succeeded=ok, seconds=0.001 if ok else 0.015)


@pytest.mark.parametrize("one_in", [10, 50])
def test_a_probe_that_fails_now_and_then_does_not_keep_it_away(one_in: int) -> None:
    gate, now = opened(), LIMITS.open_s

    for number in range(1, 2000):
        if gate.state is not State.PROBING and number > 1:
            break
        probed(gate, now, ok=number % one_in != 0)
        now += 0.008

    assert gate.state is State.RAMPING
    assert now <= LIMITS.open_s + LIMITS.healthy_s + 0.02


def test_more_than_half_of_what_opens_it_opens_it_again() -> None:
    gate, now = opened(), LIMITS.open_s

    outcomes = [True, True, False] * 40
    for ok in outcomes:
        if gate.state is State.OPEN and now > LIMITS.open_s:
            break
        probed(gate, now, ok=ok)
        now += 0.008

    assert gate.state is State.OPEN


def test_a_source_that_dies_while_it_is_probed_costs_three_more() -> None:
    gate, now = opened(), LIMITS.open_s
    for _ in range(60):
        probed(gate, now, ok=True)
        now += 0.008

    states = []
    for _ in range(3):
        probed(gate, now, ok=False)
        states.append(gate.state)

    assert states == [State.PROBING, State.PROBING, State.OPEN]


def test_one_that_is_still_away_gets_one_probe_each_open_s() -> None:
    gate, probes = opened(), 0

    for tick in range(5000):
        if (permit := gate.admit(tick * 0.001)) is not None:
            probes += 1
            gate.settle(permit, tick * 0.001, succeeded=False, seconds=0.015)

    assert probes == 4
