"""What an operator orders: a drained source is not asked, a held breaker stays as it is, auto goes on from there."""

from __future__ import annotations

from random import Random

import pytest

from featurechaos.errors import BreakerOpen, RequestError
from featurechaos.layers.breaker import Gate, Limits, State
from featurechaos.layers.steer import Steer
from featurechaos.testing import ManualClock, play
from tests.layers.kit import Dice, fetch, request_of, rows_of

LIMITS = Limits(min_calls=4, open_s=1.0, healthy_s=0.0, ramp_s=2.0)


def gate_of(clock: ManualClock, *, draw: float = 0.5) -> Gate:
    return Gate(LIMITS, rng=Dice(draw), now=clock.monotonic())


def call(gate: Gate, clock: ManualClock, *, succeeded: bool = True) -> bool:
    """One call through a gate; whether it was let through."""
    permit = gate.admit(clock.monotonic())
    if permit is not None:
        gate.settle(permit, clock.monotonic(), succeeded=succeeded, seconds=0.001)
    return permit is not None


def steer_of(clock: ManualClock, gates: dict[str, Gate] | None = None) -> Steer:
    return Steer(clock, ("primary", "second"), gates or {})


def test_a_drained_source_is_not_asked_and_the_others_are() -> None:
    clock = ManualClock()
    steer, store = steer_of(clock), rows_of(clock, {1: 1.0})
    steer.order("primary", "drain", "a disk is swapped")

    with pytest.raises(BreakerOpen, match="source 'primary' was not asked: it is drained"):
        steer(request_of(clock), fetch(clock))
    told = play(steer(request_of(clock, source="second"), fetch(clock)), {"second": store}, clock)

    assert told.reads == ["second"]


@pytest.mark.parametrize("order", ["hold", "auto"])
def test_another_order_ends_a_drain(order: str) -> None:
    clock = ManualClock()
    steer = steer_of(clock)
    steer.order("primary", "drain", "x")

    steer.order("primary", order, "y")  # type: ignore[arg-type]

    assert steer.drained == frozenset()
    assert [one.order for one in steer.standing.values()] == (["hold"] if order == "hold" else [])


def test_a_source_that_is_not_there_is_refused() -> None:
    steer = steer_of(ManualClock())

    with pytest.raises(RequestError, match="source wants one of primary, second, got 'standby'"):
        steer.order("standby", "drain", "x")
    assert steer.standing == {}


def test_a_gate_held_closed_stays_closed_and_counts_nothing() -> None:
    clock = ManualClock()
    gate = gate_of(clock)
    steer = steer_of(clock, {"primary": gate})
    steer.order("primary", "hold", "look first")

    assert all(call(gate, clock, succeeded=False) for _ in range(50))
    assert gate.state is State.CLOSED
    steer.order("primary", "auto", "seen")
    assert gate.state is State.CLOSED, "what happened meanwhile is not held against it"
    for _ in range(4):
        call(gate, clock, succeeded=False)
    assert gate.state is State.OPEN  # type: ignore[comparison-overlap]


def test_good_calls_through_a_held_gate_do_not_speak_for_it_later() -> None:
    clock = ManualClock()
    gate = gate_of(clock)
    gate.hold(clock.monotonic())
    for _ in range(50):
        call(gate, clock)
        assert gate.passed(gate.permit, clock.monotonic())
    gate.release(clock.monotonic())

    for _ in range(4):
        call(gate, clock, succeeded=False)

    assert gate.state is State.OPEN


def test_a_gate_held_open_stays_open_without_probes_and_goes_on_where_it_was() -> None:
    clock = ManualClock()
    gate = gate_of(clock)
    steer = steer_of(clock, {"primary": gate})
    for _ in range(4):
        call(gate, clock, succeeded=False)
    clock.advance(0.4)
    steer.order("primary", "hold", "x")

    clock.advance(100)
    assert not any(call(gate, clock) for _ in range(10))
    steer.order("primary", "auto", "x")
    assert not call(gate, clock)
    clock.advance(0.6)
    assert call(gate, clock), "a probe, once it has been open for its second"


@pytest.mark.parametrize(("draw", "passes"), [(0.24, True), (0.26, False)])
def test_a_ramp_that_is_held_stays_where_it_is(draw: float, passes: bool) -> None:
    clock = ManualClock()
    gate = gate_of(clock, draw=draw)
    for _ in range(4):
        call(gate, clock, succeeded=False)
    clock.advance(1.0)
    assert call(gate, clock)
    assert gate.state is State.RAMPING
    clock.advance(0.5)

    gate.hold(clock.monotonic())
    clock.advance(50)
    gate.hold(clock.monotonic())
    assert call(gate, clock) is passes
    gate.release(clock.monotonic())
    assert call(gate, clock) is passes, "it grows on from a quarter"
    assert gate.state is State.RAMPING
    clock.advance(1.5)
    assert call(gate, clock)
    assert gate.state is State.CLOSED  # type: ignore[comparison-overlap]


def test_a_probe_under_way_when_it_is_held_changes_nothing_and_gives_its_place_back() -> None:
    clock = ManualClock()
    gate = Gate(LIMITS, rng=Random(1), now=clock.monotonic())
    for _ in range(4):
        call(gate, clock, succeeded=False)
    clock.advance(1.0)
    probe = gate.admit(clock.monotonic())
    assert probe is not None

    gate.hold(clock.monotonic())
    gate.settle(probe, clock.monotonic(), succeeded=True, seconds=0.001)

    assert gate.state is State.PROBING
    assert gate.admit(clock.monotonic()) is None
    gate.release(clock.monotonic())
    assert gate.admit(clock.monotonic()) is not None


def test_in_a_forked_child_nothing_is_ordered() -> None:
    clock = ManualClock()
    gate = gate_of(clock)
    steer = steer_of(clock, {"primary": gate})
    steer.order("primary", "hold", "x")
    steer.order("second", "drain", "x")

    steer.forked()

    assert (steer.standing, steer.drained, gate.held_at) == ({}, frozenset(), None)
